"""Saved models and batches of strangers: what is read, and what is refused before it happens."""
