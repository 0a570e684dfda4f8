"""Mask files of other tools."""
