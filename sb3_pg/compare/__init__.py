"""Comparisons of algorithms: runs, scores, statistics, one report."""
