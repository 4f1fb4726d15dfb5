"""The gradient laboratory."""
