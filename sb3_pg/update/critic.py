"""The critic: its loss, and the optimizer and the steps of its own that it may have."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.nn import functional as F

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.distributed import all_count, all_sum, any_worker, mean_and_std, sum_gradients
from sb3_pg.data.minibatches import minibatches, whole_batch
from sb3_pg.policies.contexts import evaluation_mode
from sb3_pg.policies.evaluation import pieces_for, predict_values, wants_whole_episodes
from sb3_pg.policies.parameters import own_parameters_of_critic
from sb3_pg.policies.passes import Passes
from sb3_pg.update.guard import guarded_clip

#: Optimizers that PyTorch has in one piece too, for all parameters at once.
FUSED = (th.optim.Adam, th.optim.AdamW)
#: Rows on which a change of the head is tried.
N_TRIED = 64


@dataclass(frozen=True)
class Units:
    """What values are measured in: (V - shift) / scale."""

    shift: float = 0.0
    scale: float = 1.0


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

    def measured_in(self, units: Units) -> ValueLoss:
        """The same errors in other units."""
        shift, scale = units.shift, units.scale
        clip_range = None if self.clip_range is None else self.clip_range / scale
        return replace(
            self,
            targets=(self.targets - shift) / scale,
            before=(self.before - shift) / scale,
            clip_range=clip_range,
        )


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
    normalize: bool = False,
) -> float:
    """Passes of the critic's own optimizer over the batch; frozen parameters stay as they are.

    :param n_updates: how many passes
    :param batch_size: rows of a step, drawn anew in each pass; None: a pass is one step on all of them
    :param normalize: see :func:`units_of_targets`
    :return: the mean loss of a row in the last pass, each before the step that it was part of
    """
    mean_loss = th.zeros((), device=batch.rewards.device)
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    passes, total_rows = Passes(policy, batch.n_rows, micro_batch_size, known_to_sb3=False), all_count(batch.n_rows)
    change = units_of_targets(policy, parameters, batch, value_loss.targets) if normalize else nullcontext(Units())
    with change as units:
        value_loss = value_loss.measured_in(units)
        for _ in range(n_updates):
            mean_loss = th.zeros_like(mean_loss)
            for step in minibatches(batch, batch_size, wants_whole_episodes(policy)):
                optimizer.zero_grad()
                loss, n_rows = th.zeros_like(mean_loss), all_count(step.n_rows)
                for _, rows in pieces_for(policy, step, micro_batch_size):
                    piece = value_loss(passes.values(batch.at(rows)), rows) / n_rows
                    if parameters and piece.requires_grad:
                        piece.backward(inputs=parameters)  # not into features that are the actor's to learn
                    loss += piece.detach()
                loss = all_sum(loss)
                sum_gradients(optimizer)
                guarded_clip(optimizer, loss, max_grad_norm)
                optimizer.step()
                mean_loss += loss * n_rows / total_rows
    return units.scale**2 * mean_loss.item()


@contextmanager
def units_of_targets(
    policy: ActorCriticPolicy, learned: Collection[th.nn.Parameter], batch: EpisodeBatch, targets: th.Tensor
) -> Iterator[Units]:
    """Have the critic say (V - m) / s, with the mean m and about the deviation s of its targets, for the context.

    A step of Adam is about as long whatever the loss: towards values in the thousands it is a long way, at a rate that
    suits values near 1. In units of the targets the way is the same for every task and every scale of rewards. The
    head's weights and bias take the change, so that the critic says the same as before in its own units, and outside of
    the context nobody sees another (van Hasselt et al. 2016, "Learning values across many orders of magnitude").

    :param learned: the critic's own parameters that are not frozen
    :param targets: ``(n_rows,)``
    :return: Units(0, 1) where the targets do not differ, and for values that do not follow a linear ``value_net``
    """
    head: object = getattr(policy, "value_net", None)
    units = _units_of(targets)
    if (
        type(head) is not th.nn.Linear
        or not {id(head.weight), id(head.bias)} <= set(map(id, learned))
        or not _follows(head, units, policy, batch)
    ):
        yield Units()
        return
    with _measuring_in(head, units):
        yield units


def _units_of(targets: th.Tensor) -> Units:
    mean, deviation = (part.item() for part in mean_and_std(targets))
    if not 1e-6 * abs(mean) < deviation < math.inf:  # nan is neither, and the guard's to refuse
        return Units()
    # By a power of 2 weights are scaled, and scaled back, without rounding
    return Units(mean, 2.0 ** round(math.log2(deviation)))


@contextmanager
def _measuring_in(head: th.nn.Linear, units: Units) -> Iterator[None]:
    with th.no_grad():
        head.weight.div_(units.scale)
        head.bias.sub_(units.shift).div_(units.scale)
    try:
        yield
    finally:  # Ctrl-C too
        with th.no_grad():
            head.weight.mul_(units.scale)
            head.bias.mul_(units.scale).add_(units.shift)


def _follows(head: th.nn.Linear, units: Units, policy: ActorCriticPolicy, batch: EpisodeBatch) -> bool:
    """Whether the values are what the head says, and nothing comes after it; tried on some rows."""
    _, rows = next(pieces_for(policy, whole_batch(batch), N_TRIED))
    bias = head.bias.detach().clone()
    with th.no_grad(), evaluation_mode(policy):
        before = predict_values(policy, batch.at(rows)) if batch.n_rows else bias.new_zeros(0)
        with _measuring_in(head, units):
            after = predict_values(policy, batch.at(rows)) if batch.n_rows else bias.new_zeros(0)
        head.bias.copy_(bias)
    expected = (before - units.shift) / units.scale
    return not any_worker(not th.allclose(after, expected, rtol=1e-3, atol=1e-3))
