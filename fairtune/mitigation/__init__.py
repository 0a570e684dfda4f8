"""Bias-mitigation methods: one file per method, each builds Hooks."""
