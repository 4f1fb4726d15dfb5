"""From a batch to a step of the optimizer: weights, gradients, the critic's fit, trust regions, statistics."""
