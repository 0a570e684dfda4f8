"""Input edits of other tools."""
