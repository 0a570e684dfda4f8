"""Figures and the page: stored studies in, one self-contained HTML file out."""
