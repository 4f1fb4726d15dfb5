"""Policies that remember."""
