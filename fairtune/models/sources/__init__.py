"""Weights sources, one per file."""
