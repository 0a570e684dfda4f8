"""Networks that usages put round a backbone; they import torch."""
