"""MANY recipes: what a study proposes, runs, compares and picks."""
