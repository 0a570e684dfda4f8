"""Foreign artefacts, read and written in their own shape."""
