"""What a policy that remembers says of whole episodes is what it says step by step, whatever stands beside them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from sb3_pg.data.batch import EpisodeBatch, Steps, concatenate
from sb3_pg.data.minibatches import minibatches, whole_batch
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.policies.divergence import Divergence, policy_kl
from sb3_pg.policies.evaluation import action_distribution, evaluate_actions, predict_values
from sb3_pg.policies.passes import all_last_values, all_log_probs, all_values
from sb3_pg.policies.sequence.attention import AttentionActorPolicy, AttentionCriticPolicy
from sb3_pg.policies.sequence.recurrent import LstmActorPolicy, LstmCriticPolicy
from sb3_pg.policies.sequence.sequences import over_sequences

OBSERVED = spaces.Box(-1, 1, (4,))
SMALL_LSTM = {"lstm_hidden_size": 5, "net_arch": [6]}
SMALL_ATTENTION = {"context_length": 4, "d_model": 8, "n_heads": 2, "net_arch": [6]}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "LSTM": (LstmCriticPolicy, SMALL_LSTM),
    "two layers": (LstmCriticPolicy, SMALL_LSTM | {"n_lstm_layers": 2}),
    "shared LSTM": (LstmCriticPolicy, SMALL_LSTM | {"shared_lstm": True, "enable_critic_lstm": False}),
    "critic without": (LstmCriticPolicy, SMALL_LSTM | {"enable_critic_lstm": False}),
    "no critic": (LstmActorPolicy, SMALL_LSTM),
    "apart": (LstmCriticPolicy, SMALL_LSTM | {"share_features_extractor": False}),
    "attention": (AttentionCriticPolicy, SMALL_ATTENTION),
    "one block, one head": (AttentionCriticPolicy, SMALL_ATTENTION | {"n_layers": 1, "n_heads": 1}),
    "long context": (AttentionCriticPolicy, SMALL_ATTENTION | {"context_length": 64}),
    "context of one": (AttentionCriticPolicy, SMALL_ATTENTION | {"context_length": 1}),
    "attention, no critic": (AttentionActorPolicy, SMALL_ATTENTION),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
SPACES: dict[str, Any] = {"Discrete": spaces.Discrete(3), "Box": spaces.Box(-1, 1, (2,))}


def policy_of(kind: str, action_space: spaces.Space[Any] = SPACES["Discrete"]) -> Any:
    """A random policy, all of whose parameters matter."""
    th.manual_seed(0)
    cls, kwargs = KINDS[kind]
    policy = cls(OBSERVED, action_space, lambda _: 0.0, **kwargs)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    policy.set_training_mode(False)
    return policy


def memory_of(policy: Any, n: int) -> dict[str, th.Tensor]:
    """Of episodes that have begun: what the policy knows after four random steps."""
    memory = policy.empty_memory(n)
    with th.no_grad():
        for _ in range(4):
            *_, memory = policy.step(th.rand(n, 4), memory)
    return {name: part.clone() for name, part in memory.items()}


def batch_of(policy: Any, lengths: list[int], begun: bool = False) -> EpisodeBatch:
    """Episodes with random observations and actions.

    :param begun: their beginning is not in the batch
    """
    th.manual_seed(len(lengths) + sum(lengths))
    n_rows, n_episodes = sum(lengths), len(lengths)
    is_box = isinstance(policy.action_space, spaces.Box)
    actions = th.randn(n_rows, 2) if is_box else th.randint(3, (n_rows,))
    zeros, flags = th.zeros(n_rows), th.zeros(n_episodes, dtype=th.bool)
    index = EpisodeIndex.from_lengths(th.tensor(lengths))
    facts = (index, th.rand(n_rows, 4), actions, zeros, zeros, zeros, zeros > 0, th.arange(n_episodes), flags, flags)
    return EpisodeBatch(
        *facts,
        last_values=th.zeros(n_episodes),
        last_observations=th.rand(n_episodes, 4),
        is_followed=~flags,
        memory=memory_of(policy, n_episodes) if begun else {},
    )


def step_by_step(policy: Any, batch: EpisodeBatch) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Log-probs and values ``(n_rows,)``, and the values of the last observations ``(n_episodes,)``, by ``step``.

    The actions that ``step`` draws are not those of the batch: its distribution is asked about these.
    """
    log_probs, values, last_values = [], [], []
    for number, rows in enumerate(batch.each_episode()):
        memory = policy.empty_memory(1) | {name: part[[number]] for name, part in batch.memory.items()}
        steps = batch.at(rows)
        for observation, action in zip(steps.observations, steps.actions, strict=True):
            asked = Steps(observation[None], action[None], episode=th.zeros(1, dtype=th.long), memory=memory)
            with th.no_grad():
                log_probs.append(action_distribution(policy, asked).log_prob(action[None]))
                _, value, _, memory = policy.step(observation[None], memory)
            values.append(value[0])
        last: Any = batch.last_observations
        asked = Steps(last[[number]], steps.actions[:1], episode=th.zeros(1, dtype=th.long), memory=memory)
        with th.no_grad():
            last_values.append(predict_values(policy, asked)[0])
    return th.cat(log_probs), th.cat(values), th.cat(last_values)


@every_kind
@pytest.mark.parametrize("action_space", SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize("begun", [False, True], ids=["from the beginning", "from a memory"])
def test_of_whole_episodes_as_step_by_step(kind: str, action_space: spaces.Space[Any], begun: bool) -> None:
    """Log-probs, values and what follows the last row, of short and long episodes in one batch."""
    policy = policy_of(kind, action_space)
    batch = batch_of(policy, [1, 7, 2, 30, 3, 5, 1], begun)
    log_probs, values, last_values = step_by_step(policy, batch)
    assert th.allclose(all_log_probs(policy, batch, whole_batch(batch), None), log_probs, atol=1e-5)
    assert th.allclose(all_values(policy, batch, None), values, atol=1e-5)
    assert th.allclose(all_last_values(policy, batch), last_values, atol=1e-5)


@every_kind
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8), data=st.data())
@settings(max_examples=15, deadline=None)
def test_an_episode_knows_nothing_of_the_others(kind: str, lengths: list[int], data: st.DataObject) -> None:
    """Order, pieces and neighbours change nothing, in the log-probs and in their gradient."""
    policy = policy_of(kind)
    batch = batch_of(policy, lengths, begun=data.draw(st.booleans()))
    expected = all_log_probs(policy, batch, whole_batch(batch), None)
    order = th.tensor(data.draw(st.permutations(range(len(lengths)))))
    index = EpisodeIndex.from_lengths(batch.episodes.lengths[order])
    rows = batch.episodes.first_row[order][index.episode] + index.step
    log_prob = evaluate_actions(policy, batch.at(rows))[1]
    assert th.allclose(log_prob, expected[rows], atol=1e-5)
    in_pieces = all_log_probs(policy, batch, whole_batch(batch), data.draw(st.integers(1, 20)))
    assert th.allclose(in_pieces, expected, atol=1e-5)
    weights = th.rand(batch.n_rows)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    together = th.autograd.grad((weights[rows] * log_prob).sum(), parameters, materialize_grads=True)
    alone = [th.zeros_like(p) for p in parameters]
    for one in batch.each_episode():
        said = (weights[one] * evaluate_actions(policy, batch.at(one))[1]).sum()
        alone = [a + g for a, g in zip(alone, th.autograd.grad(said, parameters, materialize_grads=True), strict=True)]
    for name, got, wanted in zip(dict(policy.named_parameters()), together, alone, strict=True):
        assert th.allclose(got, wanted, atol=1e-4), name


@every_kind
def test_minibatches_and_concatenated_batches(kind: str) -> None:
    """Each row has its log-prob, in whatever part of which batch it is asked for."""
    policy = policy_of(kind)
    one, other = batch_of(policy, [3, 9, 1], begun=True), batch_of(policy, [4, 4, 20])
    both = concatenate([one, other])
    expected = th.cat([all_log_probs(policy, batch, whole_batch(batch), None) for batch in (one, other)])
    seen = th.zeros(both.n_rows)
    for part in minibatches(both, 10, whole_episodes=True):
        got = all_log_probs(policy, both, part, None)
        assert th.allclose(got, expected[part.rows], atol=1e-5)
        seen[part.rows] += 1
    assert th.equal(seen, th.ones(both.n_rows))


@pytest.mark.parametrize("kind", [name for name, (cls, _) in KINDS.items() if cls is LstmCriticPolicy])
def test_as_sb3_contrib_says_of_sequences_of_one_length(kind: str) -> None:
    """Values, log-probs and entropies of its own ``evaluate_actions``, states and all."""
    policy = policy_of(kind)
    batch = batch_of(policy, [6, 6, 6], begun=True)
    states = batch.memory["lstm_states"].permute(1, 2, 0, 3).contiguous()
    asked = RNNStates((states[0], states[1]), (states[-2], states[-1]))
    of_contrib: Any = RecurrentActorCriticPolicy.evaluate_actions
    expected = of_contrib(policy, batch.observations, batch.actions, asked, th.zeros(18))
    got: Any = evaluate_actions(policy, batch.at(slice(0, 18)))
    for one, wanted in zip(got, expected, strict=True):
        assert th.allclose(one, wanted, atol=1e-6)


@every_kind
def test_divergence_and_its_curvature(kind: str) -> None:
    """0 from itself; and its second derivative along a direction is that of the KL of a shifted policy."""
    policy = policy_of(kind)
    batch = batch_of(policy, [3, 8, 2], begun=True)
    divergence = Divergence(policy, batch)
    assert divergence.mean() == pytest.approx(0.0, abs=1e-7)
    policy.double()
    batch = dataclasses.replace(batch, observations=batch.observations.double())  # type: ignore[union-attr]
    batch = dataclasses.replace(batch, memory={name: part.double() for name, part in batch.memory.items()})
    policy.features_extractor.register_forward_hook(lambda module, arguments, output: output.double())
    steps, parameters = batch.at(slice(0, batch.n_rows)), list(policy.parameters())
    direction = [th.randn_like(p) for p in parameters]

    def along(gradients: Any) -> th.Tensor:
        pairs = zip(gradients, direction, strict=True)
        return sum(((g * d).sum() for g, d in pairs if g is not None), start=th.zeros(()))

    with th.no_grad():
        here = action_distribution(policy, steps)
    kl = policy_kl(here, action_distribution(policy, steps), steps.actions).mean()
    slope = along(th.autograd.grad(kl, parameters, create_graph=True, allow_unused=True))
    curvature = along(th.autograd.grad(slope, parameters, allow_unused=True))
    size = 1e-3
    with th.no_grad():
        for p, d in zip(parameters, direction, strict=True):
            p.add_(size * d)
        shifted = policy_kl(here, action_distribution(policy, steps), steps.actions).mean()
    assert float(shifted) == pytest.approx(0.5 * size**2 * float(curvature), rel=0.05)


@pytest.mark.parametrize("more", [{}, {"n_lstm_layers": 2}], ids=str)
def test_a_bias_of_the_forget_gates_is_theirs_alone(more: dict[str, Any]) -> None:
    """Of the actor's LSTM and of the critic's, in each layer: with nothing to see, sigmoid(3) of a cell is kept."""
    policies = []
    for forget_bias in (0.0, 3.0):
        th.manual_seed(0)
        kwargs: dict[str, Any] = {**SMALL_LSTM, **more, "forget_bias": forget_bias}
        policies.append(LstmCriticPolicy(OBSERVED, SPACES["Discrete"], lambda _: 0.0, **kwargs))
    before, after = (dict(one.named_parameters()) for one in policies)
    moved = {name for name, parameter in after.items() if not th.equal(parameter, before[name])}
    assert moved == {name for name in before if name.startswith("lstm_") and "bias_ih" in name}
    assert len(moved) == 2 * more.get("n_lstm_layers", 1)
    lstm = policies[1].lstm_critic
    assert lstm is not None
    with th.no_grad():
        for name, parameter in lstm.named_parameters():
            # What was drawn is taken away, as is all that comes in
            parameter.sub_(before[f"lstm_critic.{name}"])
        zeros = th.zeros(1, 1, lstm.input_size)
        hidden = th.zeros(lstm.num_layers, 1, lstm.hidden_size)
        cell = th.ones_like(hidden)
        kept = lstm(zeros, (hidden, cell))[1][1]
    assert th.allclose(kept, th.sigmoid(th.tensor(3.0)) * cell, atol=1e-6)


def test_padding_is_seen_by_nobody() -> None:
    """Rows that fill up sequences are rows of the sequences themselves, and what is said of them is dropped."""
    rows, lengths = th.arange(1.0, 12.0)[:, None], th.tensor([1, 3, 7])
    given_rows = []

    def cumulated(some: th.Tensor, which: th.Tensor) -> th.Tensor:
        given_rows.append((some, which))
        return some.cumsum(dim=1)

    said = over_sequences(cumulated, rows, lengths)
    expected = th.cat([part.cumsum(0) for part in rows.split(lengths.tolist())])
    assert th.equal(said, expected)
    assert sum(some.shape[0] * some.shape[1] for some, _ in given_rows) < 2 * len(rows)
    assert sorted(th.cat([which for _, which in given_rows]).tolist()) == [0, 1, 2]
