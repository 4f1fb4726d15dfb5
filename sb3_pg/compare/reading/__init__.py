"""Runs that are there already: what is known of each, as a record."""

from sb3_pg.compare.reading.find import Found, read_runs

__all__ = ["Found", "read_runs"]
