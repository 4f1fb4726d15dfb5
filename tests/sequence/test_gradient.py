"""The gradient that ``learn`` hands to its optimizer is backpropagation through time over whole episodes, literally.

The reference knows the steps from a recorder around each environment and the drawn actions from a hook, and goes
through an episode step by step in double precision: an LSTM by its equations, a Transformer by attention over lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from torch.nn import functional as F

from sb3_pg import REINFORCE
from tests.helpers import literal
from tests.helpers.environments import RandomEnv
from tests.helpers.gradients import Piece, drawn_action, pieces_of_learn
from tests.helpers.recording import Tape, record

OBSERVED = spaces.Box(-2, 2, (3,))
ACTIONS: dict[str, spaces.Space[Any]] = {"Discrete": spaces.Discrete(3), "Box": spaces.Box(-50, 50, (2,))}


class LstmSteps:
    """An LSTM's steps, one after the other: Hochreiter & Schmidhuber 1997, with the gates of PyTorch's layer."""

    def __init__(self) -> None:
        self.hidden = self.cell = th.zeros(3, dtype=th.float64)

    def __call__(self, policy: Any, features: th.Tensor) -> th.Tensor:
        lstm = policy.lstm_actor
        gates = lstm.weight_ih_l0 @ features + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ self.hidden + lstm.bias_hh_l0
        enter, forget, new, out = gates.chunk(4)
        self.cell = forget.sigmoid() * self.cell + enter.sigmoid() * new.tanh()
        self.hidden = out.sigmoid() * self.cell.tanh()
        return self.hidden


class AttentionSteps:
    """A Transformer's steps: keys and values in lists, of which each step sees the last ``context_length``."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[th.Tensor, th.Tensor]]] = [[], []]

    def __call__(self, policy: Any, features: th.Tensor) -> th.Tensor:
        transformer = policy.mlp_extractor.transformers["actor_keys"]
        hidden = transformer.embedding(features)
        for block, seen in zip(transformer.blocks, self.seen, strict=True):
            query, key, value = block.query_key_value(block.attention_norm(hidden)).chunk(3)
            seen.append((key, value))
            said = []
            for head, part in enumerate(th.arange(len(query)).chunk(block.n_heads)):
                near = list(enumerate(seen[: -block.context_length - 1 : -1]))
                scores = [
                    query[part] @ one[part] / math.sqrt(len(part)) + block.distance_bias[head, distance]
                    for distance, (one, _) in near
                ]
                weights = th.stack(scores).softmax(0)
                said.append(sum(weight * one[part] for weight, (_, (_, one)) in zip(weights, near, strict=True)))
            hidden = hidden + block.out(th.cat(said))
            hidden = hidden + block.feedforward(block.norm(hidden))
        out: th.Tensor = transformer.norm(hidden)
        return out


KINDS: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
    "LSTM": ("MlpLstmPolicy", {"lstm_hidden_size": 3}, LstmSteps),
    "attention": ("MlpAttentionPolicy", {"context_length": 4, "d_model": 6, "n_heads": 2}, AttentionSteps),
}


def log_probs(tape: Tape, piece: Piece, steps: Any, policy_of: Callable[[Any], Any]) -> list[th.Tensor]:
    """Of the actions of an episode, each step by the policy that ``policy_of`` gives for it."""
    said = []
    for step in piece.steps:
        policy = policy_of(step)
        latent = steps(policy, th.as_tensor(step.observation, dtype=th.float64))
        outputs, action = policy.action_net(latent), th.as_tensor(drawn_action(tape, piece, step))
        if isinstance(policy.action_space, spaces.Discrete):
            said.append(F.log_softmax(outputs, dim=0)[action])
        else:
            said.append(th.distributions.Normal(outputs, policy.log_std.exp()).log_prob(action.double()).sum())
    return said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action_space", ACTIONS.values(), ids=ACTIONS.keys())
@pytest.mark.parametrize("micro_batch_size", [None, 6])
def test_backpropagation_through_time(kind: str, action_space: spaces.Space[Any], micro_batch_size: int | None) -> None:
    """-1/N sum_i sum_t rho[i,t] G[i,t] grad log pi(a[i,t] | s[i,0..t]), carried episodes from their beginning."""
    policy, sizes, steps = KINDS[kind]
    model, tape = record(
        lambda: RandomEnv(action_space, OBSERVED, 9, 0.1),
        n_envs=3,
        n_iterations=4,
        algorithm=REINFORCE,
        policy=policy,
        policy_kwargs={"optimizer_class": th.optim.SGD, "net_arch": [], **sizes},
        learning_rate=0.05,
        baseline="none",
        loss_reduction="episode",
        n_steps=7,
        micro_batch_size=micro_batch_size,
    )
    used = pieces_of_learn(model, tape)
    assert len(used) >= 3
    carried = 0
    for iteration, pieces in used.items():
        now, loss = tape.policies[iteration], th.zeros((), dtype=th.float64)
        for piece in pieces:
            log_prob = log_probs(tape, piece, steps(), lambda step: now)  # noqa: B023
            with th.no_grad():
                behaviour = log_probs(tape, piece, steps(), lambda step: tape.policies[step.iteration])
            returns = literal.reward_to_go([[step.reward for step in piece.steps]], model.gamma, [0.0])[0]
            for step, now_said, then_said, earned in zip(piece.steps, log_prob, behaviour, returns, strict=True):
                ratio = 1.0 if step.iteration == iteration else min(math.exp(now_said.item() - then_said.item()), 10.0)
                carried += ratio != 1.0
                loss = loss - ratio * earned * now_said / len(pieces)
        parameters = list(now.parameters())
        expected = th.cat([g.flatten() for g in th.autograd.grad(loss, parameters, materialize_grads=True)])
        error = (tape.gradients[iteration] - expected).norm() / expected.norm()
        assert error < 2e-5, f"iteration {iteration}: relative error {error:.1e}"
    assert carried > 5
