"""Runs that are interrupted, and go on."""
