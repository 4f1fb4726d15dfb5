"""The gradient laboratory: bias and variance of the estimators, on the policy that one trains."""

from sb3_pg.variance.instruments.credits import Estimator
from sb3_pg.variance.measure import measure_checkpoints, measure_gradients
from sb3_pg.variance.results import Measurement
from sb3_pg.variance.settings import Settings

__all__ = ["Estimator", "Measurement", "Settings", "measure_checkpoints", "measure_gradients"]
