"""The base of the algorithms, and the check of their arguments."""
