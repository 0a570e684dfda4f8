"""Search how to adapt a pretrained medical-imaging model, scored by validation fairness."""

__version__ = "0.1.0"
