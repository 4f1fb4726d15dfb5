"""How fast collecting and learning is, against Stable-Baselines3 on the same machine: ``make bench``."""
