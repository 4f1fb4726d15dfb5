"""What the steps of a batch are credited with: returns, less a baseline, from the facts of the batch alone."""

from __future__ import annotations

import dataclasses

import torch as th

from sb3_pg.data.batch import Baseline, Credit, EpisodeBatch, Returns, ReturnsBatch, edited
from sb3_pg.data.checks import is_number
from sb3_pg.data.distributed import ragged_sum
from sb3_pg.estimators import BATCH_BASELINES, generalized_advantage, reward_to_go, total_return
from sb3_pg.estimators.baselines import GROUP_BASELINE, AllSum, alone, group_leave_one_out
from sb3_pg.estimators.episodes import check_rows


def returns_of(batch: EpisodeBatch, returns: Returns, gamma: float, gae_lambda: float) -> th.Tensor:
    """What each step earned, see :mod:`sb3_pg.estimators.returns`; for ``"gae"`` the advantage plus V.

    :return: ``(n_rows,)``
    """
    if returns == "gae":
        last_values = batch.last_values
        advantages = generalized_advantage(batch.rewards, batch.values, batch.episodes, gamma, gae_lambda, last_values)
        return advantages + batch.values
    estimator = total_return if returns == "total" else reward_to_go
    return estimator(batch.rewards, batch.episodes, gamma, batch.last_values)


def value_targets_of(batch: EpisodeBatch, earned: th.Tensor, returns: Returns, gamma: float) -> th.Tensor:
    """What a critic should have said: what the step earned, or of a total return the part that was still to come.

    :param earned: ``(n_rows,)`` as :func:`returns_of` gives it
    :return: ``(n_rows,)``, as a callback edited them in the buffer
    """
    targets = reward_to_go(batch.rewards, batch.episodes, gamma, batch.last_values) if returns == "total" else earned
    return edited(targets, batch.return_edit)


def baseline_of(
    batch: EpisodeBatch, earned: th.Tensor, baseline: str | float | Baseline, all_sum: AllSum = ragged_sum
) -> th.Tensor:
    """What is subtracted, see :mod:`sb3_pg.estimators.baselines`; without other episodes, leave-one-out is 0.

    A callable is asked about the episodes of its own worker, if there are any.

    :param earned: ``(n_rows,)`` as :func:`returns_of` gives it
    :return: ``(n_rows,)``
    :raises ValueError: for values of a callable that are neither one a row nor one for all
    """
    if is_number(baseline):
        return th.full_like(earned, float(baseline))
    if callable(baseline):
        return _values_of(baseline, batch, earned) if batch.n_rows > 0 else th.zeros_like(earned)
    if baseline == "value":
        return batch.values
    is_alone = int(all_sum(th.as_tensor(batch.episodes.n_episodes))) == 1
    if baseline == "none" or (is_alone and baseline == "leave_one_out"):
        return th.zeros_like(earned)
    if baseline == GROUP_BASELINE:
        return group_leave_one_out(earned, batch.episodes, groups_of(batch), all_sum)
    return BATCH_BASELINES[str(baseline)](earned, batch.episodes, all_sum)


def groups_of(batch: EpisodeBatch) -> th.Tensor:
    """``(n_episodes,)`` numbers from 0: episodes whose first observations are equal are a group."""
    first = batch.episodes.first_row
    parts = batch.observations.values() if isinstance(batch.observations, dict) else [batch.observations]
    rows = th.cat([part[first].reshape(len(first), -1).double() for part in parts], dim=1)
    group: th.Tensor = rows.unique(dim=0, return_inverse=True)[1] if len(rows) else first
    return group


def _values_of(baseline: Baseline, batch: EpisodeBatch, earned: th.Tensor) -> th.Tensor:
    facts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(EpisodeBatch)}
    try:
        given = baseline(ReturnsBatch(**facts, returns=earned))
    except Exception as error:
        raise ValueError(f"The callable baseline fails on a batch: {type(error).__name__}: {error}") from error
    try:
        values = th.as_tensor(given).detach().to(earned)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"The callable baseline must return one number a row, or one for all, got {given!r}"
        ) from error
    if values.ndim > 0:
        check_rows("the values of the callable baseline", values, batch.n_rows)
    if not bool(values.isfinite().all()):
        raise ValueError(f"The callable baseline must return numbers, and some are not finite: {given!r}")
    return values.expand_as(earned)


def advantages_of(batch: EpisodeBatch, earned: th.Tensor, baseline: th.Tensor) -> th.Tensor:
    """What each step earned less its baseline, ``(n_rows,)``, as a callback edited it in the buffer."""
    return edited(earned - baseline, batch.advantage_edit)


def credit_of(
    batch: EpisodeBatch, returns: Returns, baseline: str | float | Baseline, gamma: float, gae_lambda: float
) -> Credit:
    """Everything that the steps of a batch are credited with, by the episodes of this worker alone.

    For a buffer to show: whoever looks into one need not do so on every worker.
    """
    earned = returns_of(batch, returns, gamma, gae_lambda)
    return Credit(
        returns=earned,
        advantages=advantages_of(batch, earned, baseline_of(batch, earned, baseline, alone)),
        value_targets=value_targets_of(batch, earned, returns, gamma),
    )
