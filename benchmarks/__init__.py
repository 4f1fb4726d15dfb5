"""Measurements that a person starts, and the pages of results that they make."""
