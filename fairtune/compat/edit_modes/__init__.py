"""Ways of searching an edit as other projects' code has them, to show why their numbers differ."""
