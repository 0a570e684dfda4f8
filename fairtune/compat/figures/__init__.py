"""Figures as other tools report them, computed from recalls."""
