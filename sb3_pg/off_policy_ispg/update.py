"""What stays the same during an update of OffPolicyISPG, and what came of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch as th

from sb3_pg.common.minibatches import Minibatch
from sb3_pg.common.trust_region import TrustRegion
from sb3_pg.common.updates import Losses, logged_losses
from sb3_pg.common.weighting import WeightedSample, Weighting


@dataclass(frozen=True)
class Update:
    """What stays the same during an update.

    :param divisor: of the loss, for the whole sample
    """

    sample: WeightedSample
    weighting: Weighting
    region: TrustRegion
    divisor: th.Tensor

    def weights(self, part: Minibatch, log_prob: th.Tensor) -> th.Tensor:
        """``(n_rows,)`` the importance weight of each row of a part, given its log-probs."""
        return self.weighting.normalized(self.weighting.bounded(self.sample, part, log_prob), part)

    def credit(self, part: Minibatch, log_prob: th.Tensor) -> th.Tensor:
        """``(n_rows,)`` what the score of each row of a part is multiplied by, given its log-probs."""
        return self.weighting.credit(self.sample, part, self.weights(part, log_prob))


@dataclass(frozen=True)
class Step:
    """What came of a gradient step.

    :param grad_norm: before it was clipped
    """

    losses: Losses
    grad_norm: float


def mean_of(steps: Sequence[Step]) -> dict[str, float]:
    """What is logged of an update's steps: the mean over them."""
    return logged_losses([step.losses for step in steps]) | {"grad_norm": mean(step.grad_norm for step in steps)}
