"""What travels through the package: batches of episodes, parts of them, sums over workers, checks."""
