"""Runs that a person starts: the demo, and comparisons on one machine."""
