"""What a step carries beside its observation goes where the step goes; who wants whole episodes gets them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg import REINFORCE, EpisodeRolloutBuffer, OffPolicyISPG, VanillaPG
from sb3_pg.data.batch import EpisodeBatch, concatenate
from sb3_pg.data.minibatches import Minibatch, minibatches, whole_batch
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.policies.divergence import Divergence
from sb3_pg.policies.evaluation import evaluate_actions, extras_of, predict_values
from sb3_pg.policies.passes import Passes, all_log_probs
from tests.helpers.environments import diary
from tests.helpers.models import OWN_CRITIC, every_algorithm, make, policy_and_batch
from tests.helpers.recording import Batches

# Extras


class Shifted(ActorCriticPolicy):
    """Its logits are shifted by an extra, its values by another."""

    takes_extras = ("shift",)
    values_take_extras = ("worth",)

    def get_distribution(self, obs: Any, shift: th.Tensor | None = None) -> Distribution:
        distribution: Any = super().get_distribution(obs)
        if shift is None:
            raise AssertionError("no shift")
        return distribution.proba_distribution(distribution.distribution.logits + shift)

    def evaluate_actions(
        self, obs: Any, actions: th.Tensor, shift: th.Tensor | None = None
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        distribution = self.get_distribution(obs, shift)
        return super().predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def predict_values(self, obs: Any, worth: th.Tensor | None = None) -> th.Tensor:
        values = super().predict_values(obs)
        return values if worth is None else values + worth


def shifted_and_batch(n_rows: int = 6) -> tuple[Any, EpisodeBatch]:
    """Two episodes, with two extras and one that nobody takes."""
    th.manual_seed(0)
    policy: Any = Shifted(spaces.Box(-1, 1, (4,)), spaces.Discrete(3), lambda _: 0.0, net_arch=[4])
    index = EpisodeIndex.from_lengths(th.tensor([2, n_rows - 2]))
    zeros, flags, env = th.zeros(n_rows), th.zeros(2, dtype=th.bool), th.zeros(2, dtype=th.long)
    extras = {"shift": th.randn(n_rows, 3), "worth": th.randn(n_rows, 1), "other": th.arange(n_rows)}
    facts = (index, th.rand(n_rows, 4), th.randint(3, (n_rows,)), zeros, zeros, zeros, zeros > 0, env, flags, flags)
    return policy, EpisodeBatch(*facts, last_values=th.zeros(2), extras=extras)


def test_every_evaluation_is_told_what_the_policy_takes() -> None:
    """In one piece, in pieces, for rows in any order, in a divergence, and nothing else."""
    policy, batch = shifted_and_batch()
    assert extras_of(policy) == extras_of(Shifted) == ("shift",) and extras_of(ActorCriticPolicy) == ()
    unshifted: Any = ActorCriticPolicy.get_distribution(policy, batch.observations).distribution
    log_probs = (
        (unshifted.logits + batch.extras["shift"]).log_softmax(-1).gather(1, batch.actions[:, None])[:, 0].detach()
    )
    passes = Passes(policy, 6, 4, known_to_sb3=True)
    th.testing.assert_close(passes.evaluate(batch.at(slice(None)))[1].detach(), log_probs)
    rows = th.tensor([4, 0, 3])
    th.testing.assert_close(evaluate_actions(policy, batch.at(rows))[1].detach(), log_probs[rows])
    th.testing.assert_close(all_log_probs(policy, batch, whole_batch(batch), 4), log_probs)
    plain = ActorCriticPolicy.predict_values(policy, batch.observations)
    th.testing.assert_close(predict_values(policy, batch.at(slice(None))), plain + batch.extras["worth"])
    divergence = Divergence(policy, batch, 4)
    assert divergence.mean() == pytest.approx(0.0, abs=1e-7)
    other = dataclasses.replace(batch, extras=batch.extras | {"shift": batch.extras["shift"].flip(0)})  # type: ignore[operator]
    divergence._batch = other
    assert divergence.mean() > 0.01


def test_a_policy_that_says_nothing_is_told_nothing() -> None:
    policy, batch = policy_and_batch(spaces.Discrete(3))
    told = dataclasses.replace(batch, actions=th.zeros(6), extras={"shift": th.ones(6)})
    one, other = (
        evaluate_actions(policy, each.at(slice(None)))[1] for each in (told, dataclasses.replace(told, extras={}))
    )
    assert th.equal(one, other)


def test_extras_are_joined_with_their_rows() -> None:
    (_, one), (_, other) = shifted_and_batch(5), shifted_and_batch(7)
    joined = concatenate([one, other])
    for name in ("shift", "worth", "other"):
        assert th.equal(joined.extras[name], th.cat([one.extras[name], other.extras[name]]))
    lacking = dataclasses.replace(other, extras={"action_masks": th.zeros(7, 2, dtype=th.bool)})
    joined = concatenate([one, lacking])
    assert th.equal(joined.extras["shift"], th.cat([one.extras["shift"], th.zeros(7, 3)]))
    masks = joined.extras["action_masks"]
    assert bool(masks[:5].all()) and not bool(masks[5:].any())


@pytest.mark.parametrize("incomplete_episodes", ["carry", "truncate"])
def test_the_buffer_keeps_extras_with_their_rows(incomplete_episodes: Any) -> None:
    """Of any shape and type; those of carried rows too."""
    space = spaces.Box(0.0, 1e6, (1,))
    buffer = EpisodeRolloutBuffer(
        4, space, spaces.Discrete(2), "cpu", n_envs=2, incomplete_episodes=incomplete_episodes
    )
    step, seen_carried = 0, False
    start = np.ones(2, dtype=bool)
    for _ in range(4):
        buffer.reset()
        for _ in range(4):
            number = np.array([step, 100 + step])
            buffer.begin_step(number[:, None].astype(np.float32))
            buffer.add_extras(
                {"flag": number % 2 == 0, "version": number, "state": np.stack([number, -number], 1) * 0.5}
            )
            done = np.array([step % 3 == 2, step % 5 == 4])
            buffer.end_step(np.zeros(2, int), np.zeros(2), start, None, None)
            if done.any():
                buffer.add_episode_ends(np.flatnonzero(done), np.zeros(done.sum(), bool), np.zeros(done.sum()))
            start, step = done, step + 1
        buffer.add_evaluation(th.zeros(8), th.zeros(8))
        buffer.compute_returns_and_advantage(th.zeros(2), start)
        batch = buffer.batch
        assert batch is not None
        seen_carried |= bool(batch.carried.any())
        assert isinstance(batch.observations, th.Tensor)
        number_of_row = batch.observations[:, 0].long()
        assert th.equal(batch.extras["flag"], number_of_row % 2 == 0)
        assert th.equal(batch.extras["version"], number_of_row)
        assert th.equal(
            batch.extras["state"], th.stack([number_of_row, -number_of_row], 1) * th.tensor(0.5, dtype=th.float64)
        )
    assert seen_carried == (incomplete_episodes == "carry")
    buffer.forget()
    buffer.reset()
    assert buffer._extras == {}


# Whole episodes


class Historian(ActorCriticPolicy):
    """Wants to see every episode of a :class:`DiaryEnv` from its first step to its last, in order, and raises else."""

    whole_episodes = True
    n_evaluated = 0

    def check(self, obs: Any) -> None:
        """Rows are ``(index, episode, step)``, of episodes of 5 steps; two rows of no diary are a probe."""
        rows = obs.detach().numpy()
        if not np.array_equal(rows, rows.round()):
            return
        assert len(rows) % 5 == 0, f"{len(rows)} rows"
        episodes = rows.reshape(-1, 5, 3)
        assert (episodes[:, :, 2] == np.arange(5)).all(), f"steps {rows[:, 2]}"
        assert (episodes[:, :, :2] == episodes[:, :1, :2]).all(), f"episodes {rows[:, :2]}"
        self.n_evaluated += 1

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        self.check(obs)
        return super().evaluate_actions(obs, actions)

    def get_distribution(self, obs: Any) -> Distribution:
        self.check(obs)
        return super().get_distribution(obs)

    def predict_values(self, obs: Any) -> th.Tensor:
        if self.training:  # and not of what follows a rollout
            self.check(obs)
        return super().predict_values(obs)


class CarriedSeen(Batches):
    """Whether an update had rows that waited."""

    @property
    def carried(self) -> bool:
        return any(bool(batch.carried.any()) for batch in self.updates)


WHOLE: list[tuple[Any, dict[str, Any]]] = [
    (REINFORCE, {"baseline": "optimal", "log_gradient_variance": True}),
    (REINFORCE, {"micro_batch_size": 7} | OWN_CRITIC),
    (VanillaPG, {"micro_batch_size": 1, "natural_gradient": True}),
    (OffPolicyISPG, {"batch_size": 6, "micro_batch_size": 3, "n_epochs": 3, "baseline": "value"}),
    (OffPolicyISPG, {"batch_size": 12, "n_reused_batches": 2, "micro_batch_size": 8, "min_ess": 0.1}),
    (OffPolicyISPG, {"target_kl": 1e-3, "kl_constraint": "penalty", "micro_batch_size": 6}),
    (OffPolicyISPG, {"target_kl": 1e-3, "kl_constraint": "backtrack", "batch_size": 11, "clip_range": 0.2}),
    (OffPolicyISPG, {"importance": "trajectory", "micro_batch_size": 4, "batch_size": 20}),
]


@pytest.mark.parametrize(("algorithm", "kwargs"), WHOLE, ids=str)
def test_a_policy_that_wants_whole_episodes_sees_no_others(algorithm: Any, kwargs: dict[str, Any]) -> None:
    """Wherever it is asked about rows of a batch; carried rows among them."""
    model = make(algorithm, diary(3, lengths=[5]), policy=Historian, n_steps=7, **kwargs)
    seen = CarriedSeen()
    model.learn(5 * 21, callback=seen)
    assert seen.carried
    policy: Any = model.policy
    assert policy.n_evaluated >= 5


@every_algorithm
def test_another_policy_is_given_pieces_of_any_rows(algorithm: Any) -> None:
    """The toy above would notice: without the attribute it raises."""
    cls = type("Careless", (Historian,), {"whole_episodes": False})
    model = make(algorithm, diary(3, lengths=[5]), policy=cls, n_steps=7, micro_batch_size=7)
    with pytest.raises(AssertionError, match="rows"):
        model.learn(3 * 21)


def test_pieces_of_whole_episodes() -> None:
    """As many as fit into the size, and a long one by itself; all rows, in order."""
    index = EpisodeIndex.from_lengths(th.tensor([3, 3, 9, 1, 1, 5]))
    part = Minibatch(slice(0, 22), 22, index, 1.0)

    def cuts(size: int | None) -> list[int]:
        return [where.stop - where.start for where, _ in part.pieces(size, whole_episodes=True)]

    assert cuts(None) == [22] and cuts(22) == [22] and cuts(100) == [22]
    assert cuts(6) == [6, 9, 2, 5] and cuts(7) == [6, 9, 7] and cuts(1) == [3, 3, 9, 1, 1, 5]
    shuffled = Minibatch(th.arange(22).flip(0), 22, index, 1.0)
    pieces = list(shuffled.pieces(6, whole_episodes=True))
    assert th.equal(th.cat([th.as_tensor(rows) for _, rows in pieces]), shuffled.rows)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole_episodes=True"):
        list(part.part(slice(0, 3)).pieces(2, whole_episodes=True))


def test_minibatches_of_whole_episodes_can_be_cut_again() -> None:
    policy, batch = policy_and_batch(spaces.Discrete(2))
    del policy
    batch = dataclasses.replace(batch, episodes=EpisodeIndex.from_lengths(th.tensor([2, 1, 3])))
    rows = [
        row
        for part in minibatches(batch, 3, True)
        for _, piece in part.pieces(2, True)
        for row in th.as_tensor(piece).tolist()
    ]
    assert sorted(rows) == list(range(6))
