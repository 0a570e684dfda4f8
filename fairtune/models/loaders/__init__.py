"""Model loaders, one per file."""
