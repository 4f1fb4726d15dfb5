"""Gradients of one batch for many estimators, sums of the same scores with weights of their own; and what an optimizer
makes of a gradient before the parameters see it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.minibatches import CACHE_ROWS, whole_batch
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.policies.contexts import distribution_left_alone, evaluation_mode
from sb3_pg.policies.divergence import frozen_copy
from sb3_pg.policies.evaluation import evaluate_actions, pieces_for, wants_whole_episodes
from sb3_pg.update.natural_gradient import FisherMatrix


def working_copy(policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """A copy that may be moved, of which the same parameters learn; in evaluation mode."""
    copied = frozen_copy(policy)
    for mine, its in zip(copied.parameters(), policy.parameters(), strict=True):
        mine.requires_grad_(its.requires_grad)
    return copied


def acting_parameters(policy: ActorCriticPolicy, batch: EpisodeBatch) -> dict[str, nn.Parameter]:
    """The parameters that learn and that log pi depends on, by their names.

    :raises ValueError: if there are none
    """
    learning = {name: one for name, one in policy.named_parameters() if one.requires_grad}
    first = next(batch.each_episode())
    with distribution_left_alone(policy), evaluation_mode(policy):
        log_prob = evaluate_actions(policy, batch.at(first))[1].sum()
    slopes: tuple[th.Tensor | None, ...] = (None,) * len(learning)
    if log_prob.requires_grad:
        slopes = th.autograd.grad(log_prob, list(learning.values()), allow_unused=True)
    acting = {name: one for (name, one), slope in zip(learning.items(), slopes, strict=True) if slope is not None}
    if not acting:
        raise ValueError("no parameter of this policy's actor learns (requires_grad), so it has no gradient to measure")
    return acting


def layers_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, slice]:
    """Where the parameters of each layer are in the flat gradient, weight and bias together; ``log_std`` is one."""
    layers: dict[str, slice] = {}
    end = 0
    for name, parameter in parameters.items():
        layer = name.rpartition(".")[0] or name
        begin, end = end, end + parameter.numel()
        before = layers.get(layer)
        layers[layer] = slice(begin if before is None else before.start, end)
    return layers


def weighted_scores(
    policy: ActorCriticPolicy, parameters: Mapping[str, nn.Parameter], batch: EpisodeBatch, weights: th.Tensor
) -> th.Tensor:
    """sum_t weight[k,t] grad log pi(a[t] | s[t]) for several weights: one pass forwards, one backwards for each.

    Summed in double precision over pieces of the rows.

    :param weights: ``(n_weights, n_rows)``
    :return: ``(n_weights, n_parameters)``
    """
    wanted = list(parameters.values())
    total = th.zeros(len(weights), sum(one.numel() for one in wanted), dtype=th.float64)
    with distribution_left_alone(policy), evaluation_mode(policy):
        for where, rows in pieces_for(policy, whole_batch(batch), CACHE_ROWS):
            log_prob = evaluate_actions(policy, batch.at(rows))[1]
            for number, weight in enumerate(weights[:, where].to(log_prob)):
                parts = th.autograd.grad(log_prob, wanted, weight, retain_graph=True)
                total[number] += th.cat([part.flatten() for part in parts]).cpu()
    return total


def shifted(policy: ActorCriticPolicy, names: Mapping[str, nn.Parameter], step: th.Tensor) -> ActorCriticPolicy:
    """A copy of the policy with a step added to its parameters.

    :param names: the parameters that move, by their names
    :param step: ``(n_parameters,)``
    """
    moved = working_copy(policy)
    parameters = dict(moved.named_parameters())
    lengths = [one.numel() for one in names.values()]
    with th.no_grad():
        for name, part in zip(names, step.split(lengths), strict=True):
            parameters[name].add_(part.view_as(parameters[name]).to(parameters[name]))
    return moved


def natural_gradients(
    policy: ActorCriticPolicy,
    batch: EpisodeBatch,
    gradients: th.Tensor,
    damping: float,
    iterations: int,
    max_rows: int | None,
) -> th.Tensor:
    """(F + damping I)^-1 g of each, by conjugate gradients on the batch's own states.

    :param gradients: ``(n, n_parameters)``
    :param max_rows: the Fisher matrix of at most so many of its states, evenly spaced, as in sb3-contrib's TRPO; None
        for all, as in this package's training
    :return: ``(n, n_parameters)``
    """
    fisher = FisherMatrix(policy, _thinned(policy, batch, max_rows), damping, CACHE_ROWS)
    like = fisher.parameters[0]
    return th.stack([fisher.solve(one.to(like), iterations).double().cpu() for one in gradients])


def _thinned(policy: ActorCriticPolicy, batch: EpisodeBatch, max_rows: int | None) -> EpisodeBatch:
    """Some of the states: each a batch row of its own, so only for what looks at nothing but states."""
    if max_rows is None or batch.n_rows <= max_rows or wants_whole_episodes(policy):
        return batch
    rows = th.linspace(0, batch.n_rows - 1, max_rows).round().long()
    steps = batch.at(rows.to(batch.rewards.device))
    fields = {name: getattr(batch, name)[rows] for name in ("rewards", "behaviour_log_prob", "values", "carried")}
    ones = th.ones(len(rows), dtype=th.long)
    nothing = th.zeros(len(rows), dtype=th.bool)
    return EpisodeBatch(
        episodes=EpisodeIndex.from_lengths(ones.to(batch.rewards.device)),
        observations=steps.observations,
        actions=steps.actions,
        env=ones,
        terminated=nothing,
        truncated=nothing,
        last_values=fields["rewards"],
        extras=steps.extras,
        **fields,
    )


def optimizer_steps(
    optimizer: th.optim.Optimizer, parameters: Mapping[str, nn.Parameter], gradients: th.Tensor, fresh: bool = False
) -> th.Tensor:
    """What one step of an optimizer, from the state that it is in, adds to the parameters, for several gradients.

    Computed by the optimizer's own code in double precision, on a copy of it.

    :param parameters: its parameters, of which the gradients are
    :param gradients: ``(n, n_parameters)``, of what is to rise
    :param fresh: forget its state, as if this was its first step
    :return: ``(n, n_parameters)``
    """
    owned = {id(one) for group in optimizer.param_groups for one in group["params"]}
    if missing := [name for name, one in parameters.items() if id(one) not in owned]:
        raise ValueError(f"the policy's optimizer does not step for {', '.join(missing)}: measure without 'optimizer'")
    return th.stack([_step(optimizer, parameters, one, fresh) for one in gradients])


def _step(
    optimizer: th.optim.Optimizer, parameters: Mapping[str, nn.Parameter], gradient: th.Tensor, fresh: bool
) -> th.Tensor:
    moved = [one.detach().cpu().double().clone().requires_grad_() for one in parameters.values()]
    known: dict[int, Any] = {id(one): mine for one, mine in zip(parameters.values(), moved, strict=True)}
    others = [one for group in optimizer.param_groups for one in group["params"] if id(one) not in known]
    # Those of the critic are left where they are, and have no gradient
    copied = copy.deepcopy(optimizer, known | {id(one): nn.Parameter(one.detach().cpu()) for one in others})
    if fresh:
        copied.state.clear()
    for state in copied.state.values():
        state.update({k: v.double().cpu() for k, v in state.items() if th.is_tensor(v) and v.is_floating_point()})
    for group in copied.param_groups:
        group.update({name: False for name in ("fused", "foreach") if name in group})
    before = [one.detach().clone() for one in moved]
    for mine, part in zip(moved, gradient.double().split([one.numel() for one in moved]), strict=True):
        mine.grad = -part.view_as(mine).clone()
    copied.step()
    return th.cat([(mine.detach() - was).flatten() for mine, was in zip(moved, before, strict=True)])


def has_state(optimizer: th.optim.Optimizer) -> bool:
    """Whether it has stepped before."""
    return len(optimizer.state) > 0
