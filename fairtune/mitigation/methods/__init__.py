"""The mitigations, one file each."""
