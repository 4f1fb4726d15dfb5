"""Policies that remember: what they do at a step depends on the steps of the episode before it."""
