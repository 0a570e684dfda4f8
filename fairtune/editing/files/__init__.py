"""Formats that edits are read from, one file each."""
