"""The gradient laboratory: bias and variance of the estimators, on the policy that one trains."""
