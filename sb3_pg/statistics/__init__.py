"""Statistics of scores: pure functions on arrays of shape ``(runs, tasks)`` that know nothing of how they came about."""
