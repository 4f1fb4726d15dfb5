"""From a loss to a gradient in the parameters, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.minibatches import Minibatch
from sb3_pg.policies.contexts import distribution_left_alone
from sb3_pg.policies.evaluation import pieces_for
from sb3_pg.policies.passes import Passes
from sb3_pg.update.critic import ValueLoss

#: From the log-probs of some rows, and where they are in the minibatch, to their share of the policy's loss.
PolicyLoss = Callable[[th.Tensor, slice], th.Tensor]
#: From rows of the batch to the sum over them of one more loss, whose mean over the minibatch is added.
Penalty = Callable[["slice | th.Tensor"], th.Tensor]


@dataclass(frozen=True)
class Losses:
    """The parts of a loss, scalars without a gradient; tensors, so that an accelerator need not be waited for.

    :param total: what the gradient is of
    :param entropy: minus the mean entropy of a row
    :param value: the critic's mean squared error, 0 if it is not part of the loss
    :param penalties: the mean of each, by its name
    """

    total: th.Tensor
    policy: th.Tensor
    entropy: th.Tensor
    value: th.Tensor
    penalties: Mapping[str, th.Tensor] = field(default_factory=dict)


def logged_losses(steps: Sequence[Losses]) -> dict[str, float]:
    """What is logged of the losses of an update's steps: the mean over them."""
    rows = th.stack([th.stack([one.policy, one.entropy, one.value, *one.penalties.values()]) for one in steps])
    names = ("policy_loss", "entropy_loss", "value_loss", *steps[0].penalties)
    return dict(zip(names, rows.mean(dim=0).tolist(), strict=True))


@dataclass(frozen=True)
class Objective:
    """What a gradient step minimises: policy_loss - ent_coef * entropy + vf_coef * value_loss + the penalties.

    :param divisor: of the sum of the entropies, that of the policy's loss
    :param value_loss: of a critic that is part of the loss, None where it is not
    :param vf_coef: its weight
    :param penalties: more losses, by the name under which each is logged
    """

    policy_loss: PolicyLoss
    divisor: th.Tensor
    ent_coef: float
    vf_coef: float = 0.0
    value_loss: ValueLoss | None = None
    penalties: Mapping[str, Penalty] = field(default_factory=dict)


def accumulate_gradient(
    policy: ActorCriticPolicy,
    batch: EpisodeBatch,
    part: Minibatch,
    objective: Objective,
    micro_batch_size: int | None,
) -> Losses:
    """Gradient of the objective on a part of the batch, into the parameters' ``.grad``; frozen ones get none.

    Under ``no_grad`` the losses alone.
    """
    parts = th.zeros(4 + len(objective.penalties), device=batch.rewards.device)
    passes = Passes(policy, part.n_rows, micro_batch_size, known_to_sb3=True)
    with distribution_left_alone(policy):
        for where, rows in pieces_for(policy, part, micro_batch_size):
            values, log_prob, entropy = passes.evaluate(
                batch.at(rows),
                values=objective.value_loss is not None,
                entropy_gradient=objective.ent_coef != 0.0,
            )
            policy_part = objective.policy_loss(log_prob, where)
            # Without a closed form, -log_prob estimates the entropy
            entropy_sum = -(-log_prob if entropy is None else entropy).sum()
            if objective.ent_coef == 0.0:
                entropy_sum = entropy_sum.detach()  # it is logged, but a backward pass through it would be for nothing
            loss = policy_part + objective.ent_coef * entropy_sum / objective.divisor
            value_part = th.zeros_like(loss)
            if objective.value_loss is not None and values is not None:
                value_part = objective.value_loss(values, rows) / part.n_rows
                loss = loss + objective.vf_coef * value_part
            penalties = [penalty(rows) / part.n_rows for penalty in objective.penalties.values()]
            loss = sum(penalties, start=loss)
            if loss.requires_grad:  # not where everything is frozen, or nobody asks for a gradient
                loss.backward()
            parts += th.stack([loss, policy_part, entropy_sum / part.n_rows, value_part, *penalties]).detach()
    total, policy_loss, entropy_loss, value_loss, *means = parts.unbind()
    return Losses(total, policy_loss, entropy_loss, value_loss, dict(zip(objective.penalties, means, strict=True)))
