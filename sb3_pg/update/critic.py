"""The critic: its loss, and the optimizer and the steps of its own that it may have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.nn import functional as F

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.minibatches import minibatches
from sb3_pg.policies.evaluation import pieces_for, wants_whole_episodes
from sb3_pg.policies.parameters import own_parameters_of_critic
from sb3_pg.policies.passes import Passes
from sb3_pg.update.guard import guarded_clip

#: Optimizers that PyTorch has in one piece too, for all parameters at once.
FUSED = (th.optim.Adam, th.optim.AdamW)


@dataclass(frozen=True)
class ValueLoss:
    """The sum of the critic's squared errors on some rows.

    :param targets: ``(n_rows,)`` what the critic should say
    :param before: ``(n_rows,)`` what it said at collection
    :param clip_range: most that a value counts as having moved from there, as in SB3's PPO; None for any
    :param weights: ``(n_rows,)`` of each row's error; None: 1
    """

    targets: th.Tensor
    before: th.Tensor
    clip_range: float | None = None
    weights: th.Tensor | None = None

    def __call__(self, values: th.Tensor, rows: slice | th.Tensor) -> th.Tensor:
        """:param values: ``(n,)`` or ``(n, 1)`` the critic's values of those rows"""
        values = values.flatten()
        if self.clip_range is not None:
            before = self.before[rows]
            values = before + (values - before).clamp(-self.clip_range, self.clip_range)
        if self.weights is not None:
            return (self.weights[rows] * (values - self.targets[rows]).square()).sum()
        return F.mse_loss(values, self.targets[rows], reduction="sum")


#: From parameters and a learning rate to an optimizer.
MakeOptimizer = Callable[[list[th.nn.Parameter], float], th.optim.Optimizer]


def separate_critic(
    policy: ActorCriticPolicy,
    value_learning_rate: float,
    make: MakeOptimizer,
    before: th.optim.Optimizer | None = None,
) -> th.optim.Optimizer:
    """Give the critic's own parameters an optimizer of their own; what the actor uses stays with the policy's.

    The policy's optimizer stays the object that it is, whoever made it. Adam and AdamW step for all parameters at once,
    unless it was said how they are to.

    :param make: makes the critic's optimizer
    :param before: the critic's optimizer until now, which stays if it has these very parameters
    :return: the critic's optimizer
    :raises ValueError: if there are no parameters that the critic alone uses
    """
    own = own_parameters_of_critic(policy)
    if not own:
        raise ValueError(
            "value_learning_rate gives the critic an optimizer of its own, and this policy has no parameters that the "
            "critic alone uses: write value_learning_rate=None (and n_value_updates=1) for one joint loss"
        )
    _take_away(policy.optimizer, set(own))
    _fuse(policy.optimizer, policy.device)
    if before is not None and {parameter for group in before.param_groups for parameter in group["params"]} == set(own):
        return before
    optimizer = make(own, value_learning_rate)
    _fuse(optimizer, policy.device)
    return optimizer


def _take_away(optimizer: th.optim.Optimizer, parameters: set[th.nn.Parameter]) -> None:
    """Have an optimizer step for these no longer, and know nothing of them."""
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in parameters]
    for parameter in parameters:
        optimizer.state.pop(parameter, None)


def _fuse(optimizer: th.optim.Optimizer, device: th.device) -> None:
    """The same numbers but for rounding, without a loop in Python; a state there is fits only the loop."""
    if type(optimizer) not in FUSED or device.type not in ("cpu", "cuda") or optimizer.state:
        return
    for settings in (*optimizer.param_groups, optimizer.defaults):
        if settings["fused"] is None and settings["foreach"] is None and not settings["differentiable"]:
            settings["fused"] = True


def fit_critic(
    policy: ActorCriticPolicy,
    optimizer: th.optim.Optimizer,
    batch: EpisodeBatch,
    value_loss: ValueLoss,
    n_updates: int,
    batch_size: int | None,
    micro_batch_size: int | None,
    max_grad_norm: float | None,
) -> float:
    """Passes of the critic's own optimizer over the batch; frozen parameters stay as they are.

    :param n_updates: how many passes
    :param batch_size: rows of a step, drawn anew in each pass; None: a pass is one step on all of them
    :return: the mean loss of a row in the last pass, each before the step that it was part of
    """
    mean_loss = th.zeros((), device=batch.rewards.device)
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    passes = Passes(policy, batch.n_rows, micro_batch_size, known_to_sb3=False)
    for _ in range(n_updates):
        mean_loss = th.zeros_like(mean_loss)
        for step in minibatches(batch, batch_size, wants_whole_episodes(policy)):
            optimizer.zero_grad()
            loss = th.zeros_like(mean_loss)
            for _, rows in pieces_for(policy, step, micro_batch_size):
                piece = value_loss(passes.values(batch.at(rows)), rows) / step.n_rows
                if parameters and piece.requires_grad:
                    piece.backward(inputs=parameters)  # not into features that are the actor's to learn
                loss += piece.detach()
            guarded_clip(optimizer, loss, max_grad_norm)
            optimizer.step()
            mean_loss += loss * step.n_rows / batch.n_rows
    return mean_loss.item()
