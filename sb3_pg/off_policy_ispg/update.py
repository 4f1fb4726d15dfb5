"""What stays the same during an update of OffPolicyISPG, and what came of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import cast

import torch as th

from sb3_pg.data.minibatches import Minibatch
from sb3_pg.update.gradient import Losses, logged_losses
from sb3_pg.update.trust_region import TrustRegion
from sb3_pg.update.weighting import WeightedSample, Weighting


@dataclass
class Update:
    """An update: what stays the same in it, and how far it has come.

    :param divisor: of the loss, for the whole sample
    :param n_epochs: passes over the sample that have begun
    :param is_over: the policy has gone far enough
    """

    sample: WeightedSample
    weighting: Weighting
    region: TrustRegion
    divisor: th.Tensor
    n_epochs: int = 0
    is_over: bool = False

    def ratios(self, part: Minibatch, log_prob: th.Tensor) -> th.Tensor:
        """``(n_rows,)`` the importance weight of each row of a part, given its log-probs."""
        return self.weighting.normalized(self.weighting.bounded(self.sample, part, log_prob), part)

    def weights(self, part: Minibatch, log_prob: th.Tensor) -> th.Tensor:
        """``(n_rows,)`` what the score of each row of a part is multiplied by, given its log-probs."""
        return self.weighting.weighted(self.sample, part, self.ratios(part, log_prob))


class ScoreWeights:
    """What the scores of a part's rows are multiplied by, piece by piece.

    :param log_probs: ``(n_rows,)`` the log-probs of the whole part, where weights depend on rows of other pieces
    """

    def __init__(self, update: Update, part: Minibatch, log_probs: th.Tensor | None):
        self._update, self._part, self._log_probs = update, part, log_probs
        #: of the part's sum
        self.divisor = update.divisor * part.share
        #: ``(n_rows,)`` log-probs when the update began
        self.first_log_prob = update.sample.log_prob[part.rows]

    def at(self, where: slice, log_prob: th.Tensor) -> th.Tensor:
        """``(n,)`` of some rows of the part, whose log-probs are given."""
        log_prob = log_prob.detach()
        if not self._update.weighting.mixes_rows:
            return self._unweighted[where] * self._update.ratios(self._part.part(where), log_prob)
        return self._update.weights(self._part, log_prob) if self._log_probs is None else self._of_all[where]

    @cached_property
    def at_first(self) -> th.Tensor:
        """``(n_rows,)`` what they were when the update began: the ratios of PPO's objective come on top of these."""
        return self._update.weights(self._part, self.first_log_prob)

    @cached_property
    def _unweighted(self) -> th.Tensor:
        return self._update.weighting.unweighted(self._update.sample, self._part)

    @cached_property
    def _of_all(self) -> th.Tensor:
        return self._update.weights(self._part, cast(th.Tensor, self._log_probs))


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
