"""The episode buffers against a ledger that remembers every step, and inside stock PPO and A2C.

A :class:`World` holds what some environments will play, tick by tick. It is played into a buffer, rollout after
rollout, and into a :class:`Ledger` that keeps whole episodes as plain lists and knows the rules in words only.
Whatever the buffer makes of it is compared with O(T^2) sums over the ledger's lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import ActorPolicy, EpisodeDictRolloutBuffer, EpisodeRolloutBuffer
from sb3_pg.data.batch import Credit, EpisodeBatch
from sb3_pg.rollout.buffers import BUFFER_BASELINES
from sb3_pg.rollout.credit import credit_of
from tests.helpers import literal
from tests.helpers.gradients import callable_baseline
from tests.helpers.literal import Rows
from tests.helpers.recording import Recorder, Tape
from tests.helpers.tabular import TabularEnv, long_episodes_pay

NUMBER = spaces.Box(0, np.inf, (1,))
OBSERVATION_SPACES = {
    EpisodeRolloutBuffer: NUMBER,
    EpisodeDictRolloutBuffer: spaces.Dict({"number": NUMBER, "image": spaces.Box(0, 255, (2, 3), np.uint8)}),
}
ESTIMATORS: list[tuple[str, Any]] = [
    (returns, baseline) for returns in ("reward_to_go", "total") for baseline in BUFFER_BASELINES
]
ESTIMATORS += [("gae", "value"), ("reward_to_go", callable_baseline)]

# --- a world and its ledger ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rollout:
    """One rollout of a plan.

    :param n_steps: steps added to the buffer
    :param reset_before: whether every environment is reset first, from outside
    :param broken_off: whether a callback ends it: one more step is played, none is added, nothing is computed
    """

    n_steps: int
    reset_before: bool = False
    broken_off: bool = False


@dataclass(frozen=True)
class World:
    """What happens at each tick in each environment: arrays ``(n_ticks, n_envs)``."""

    number: np.ndarray
    reward: np.ndarray
    value: np.ndarray
    log_prob: np.ndarray
    done: np.ndarray
    truncated: np.ndarray
    terminal_value: np.ndarray
    edge_value: np.ndarray

    @classmethod
    def draw(cls, seed: int, n_ticks: int, n_envs: int, end_probability: float) -> World:
        rng = np.random.default_rng(seed)
        shape = (n_ticks, n_envs)
        done = rng.random(shape) < end_probability
        truncated = done & (rng.random(shape) < 0.5)
        reals = {
            name: rng.normal(size=shape).astype(np.float32) for name in ("reward", "value", "log_prob", "edge_value")
        }
        return cls(
            number=np.arange(n_ticks * n_envs, dtype=np.float32).reshape(shape),
            done=done,
            truncated=truncated,
            terminal_value=np.where(truncated, rng.normal(size=shape), 0.0).astype(np.float32),
            **reals,
        )

    def permuted(self, order: list[int]) -> World:
        """The same games, played by other environments."""
        return World(**{name: array[:, order] for name, array in vars(self).items()})


@dataclass
class Played:
    """An episode, as the ledger remembers it.

    :param ticks: of its steps
    :param rollouts: the rollout of each step
    :param known: whether all of its steps are, from the first one
    :param spent: whether it has been used, or cannot be any more
    """

    env: int
    known: bool
    ticks: list[int] = field(default_factory=list)
    rollouts: list[int] = field(default_factory=list)
    ended: bool = False
    truncated: bool = False
    last_value: float = 0.0
    spent: bool = False


@dataclass(frozen=True)
class Piece:
    """What an update uses of an episode: the ticks, and the t of the first of them."""

    played: Played
    ticks: list[int]
    carried: list[bool]
    first: int
    last_value: float

    @property
    def ended(self) -> bool:
        return self.played.ended and self.ticks[-1] == self.played.ticks[-1]


class Ledger:
    """Knows what each rollout's update has to use, from lists of whole episodes."""

    def __init__(self, world: World, rule: str, quota: int | None, cut_length: int) -> None:
        # Whole episodes asked for are waited for, whatever the rule for cut ones
        self.rule = "carry" if quota is not None else rule
        self.world, self.quota, self.cut_length = world, quota, cut_length
        self.n_envs = world.done.shape[1]
        self.episodes: list[Played] = []
        self.running: list[Played | None] = [None] * self.n_envs

    def add(self, tick: int, rollout: int, starts: np.ndarray) -> None:
        for env in range(self.n_envs):
            running = self.running[env]
            if starts[env] or running is None:
                running = self._begin(env, known=True)
            running.ticks.append(tick)
            running.rollouts.append(rollout)
            if self.world.done[tick, env]:
                running.ended, running.truncated = True, bool(self.world.truncated[tick, env])
                running.last_value = float(self.world.terminal_value[tick, env])
                self.running[env] = None

    def _begin(self, env: int, known: bool) -> Played:
        self.running[env] = Played(env, known)
        self.episodes.append(self.running[env])  # type: ignore[arg-type]
        return self.running[env]  # type: ignore[return-value]

    def join_in_the_middle(self, env: int) -> None:
        """The first step that will be seen of an environment is not the first of its episode."""
        self._begin(env, known=False)

    def forget(self, running_on: np.ndarray) -> None:
        """A rollout was broken off: nothing begun so far can be put together any more."""
        for episode in self.episodes:
            episode.spent = True
        for env in range(self.n_envs):
            self.running[env] = None
            if running_on[env]:
                self._begin(env, known=False)

    def quota_filled(self) -> bool:
        return self.quota is not None and all(len(self._whole(env)) >= self.quota for env in range(self.n_envs))

    def _whole(self, env: int) -> list[Played]:
        return [one for one in self.episodes if one.env == env and one.known and one.ended and not one.spent]

    def n_waiting(self) -> int:
        """Steps that a later update may use: of episodes still going on, and of those that wait for a quota."""
        if self.rule != "carry":
            return 0
        kept: list[Played] = []
        for env in range(self.n_envs):
            begun = [one for one in self.episodes if one.env == env and one.known and not one.spent]
            kept += [one for one in begun if one.ended or one is self.running[env]][: self.quota]
        return sum(len(one.ticks) for one in kept)

    def finish(self, rollout: int, last_tick: int) -> list[Piece]:
        """What the update after this rollout uses."""
        edge = self.world.edge_value[last_tick]
        if self.rule != "carry":
            return self._cut_at_edges(rollout, edge)
        pieces = self._carry(rollout, edge)
        by_env = [[one for one in pieces if one.played.env == env][: self.quota] for env in range(self.n_envs)]
        return [piece for one in by_env for piece in one]

    def _carry(self, rollout: int, edge: np.ndarray) -> list[Piece]:
        for env, running in enumerate(self.running):
            if running is not None and running.known and not running.spent and len(running.ticks) >= self.cut_length:
                running.ended = running.truncated = True
                running.last_value = float(edge[env])
                self.running[env] = None
        if self.quota is not None and not self.quota_filled():
            return []
        whole = [one for env in range(self.n_envs) for one in self._whole(env)]
        for one in self.episodes if self.quota is not None else whole:
            one.spent = True
        return [Piece(one, one.ticks, [r != rollout for r in one.rollouts], 0, one.last_value) for one in whole]

    def _cut_at_edges(self, rollout: int, edge: np.ndarray) -> list[Piece]:
        pieces = []
        for one in self.episodes:
            here = [k for k, r in enumerate(one.rollouts) if r == rollout]
            if not here:
                continue
            is_here = one.ended and here[-1] == len(one.ticks) - 1
            if self.rule == "drop" and not (is_here and one.known and here[0] == 0):
                continue
            after = one.last_value if is_here else float(edge[one.env]) if self.rule == "bootstrap" else 0.0
            pieces.append(Piece(one, [one.ticks[k] for k in here], [False] * len(here), here[0], after))
        return sorted(pieces, key=lambda piece: (piece.played.env, piece.ticks))


def make_buffer(
    buffer_class: type[EpisodeRolloutBuffer], buffer_size: int, n_envs: int, **arguments: Any
) -> EpisodeRolloutBuffer:
    space = OBSERVATION_SPACES[buffer_class]
    return buffer_class(buffer_size, space, spaces.Box(-9, 9, (2,)), device="cpu", n_envs=n_envs, **arguments)


def observation(buffer: EpisodeRolloutBuffer, world: World, tick: int) -> Any:
    number = world.number[tick][:, None]
    if not isinstance(buffer, EpisodeDictRolloutBuffer):
        return number
    return {"number": number, "image": (np.arange(6).reshape(2, 3) + number[:, None] % 200).astype(np.uint8)}


def action(number: np.ndarray) -> np.ndarray:
    """``(n, 2)`` an action that says which step it belongs to."""
    return np.stack([number % 7, -number % 5], axis=-1).astype(np.float32)


def play(
    buffer: EpisodeRolloutBuffer, world: World, plan: list[Rollout], joins: list[bool] | None = None
) -> Iterator[tuple[list[int], list[Piece]]]:
    """Play a plan into a buffer.

    :param joins: per environment, whether the first rollout finds it in the middle of an episode
    :return: after each rollout that was computed the ticks in it, and the pieces that its update has to use
    """
    ledger = Ledger(world, buffer.incomplete_episodes, buffer.episodes_per_env, buffer.cut_length)
    starts = np.ones(buffer.n_envs, dtype=bool) if joins is None else ~np.array(joins)
    for env in np.flatnonzero(~starts):
        ledger.join_in_the_middle(int(env))
    tick = 0
    for index, rollout in enumerate(plan):
        buffer.reset()
        starts = starts | rollout.reset_before
        ticks: list[int] = []
        while len(ticks) < rollout.n_steps and not buffer.quota_filled:
            number = world.number[tick]
            tensors = th.as_tensor(world.value[tick]), th.as_tensor(world.log_prob[tick])
            buffer.add(observation(buffer, world, tick), action(number), world.reward[tick], starts, *tensors)
            ledger.add(tick, index, starts)
            ended = np.flatnonzero(world.done[tick])
            if len(ended) > 0:
                buffer.add_episode_ends(ended, world.truncated[tick, ended], world.terminal_value[tick, ended])
            assert buffer.quota_filled == ledger.quota_filled()
            starts = world.done[tick]
            ticks.append(tick)
            tick += 1
        if rollout.broken_off:
            starts = world.done[tick]
            ledger.forget(~starts)
            tick += 1
            continue
        buffer.compute_returns_and_advantage(th.as_tensor(world.edge_value[ticks[-1]]), starts)
        pieces = ledger.finish(index, ticks[-1])
        assert buffer.carried_steps == ledger.n_waiting()
        yield ticks, pieces


# --- what a buffer has to make of it ---------------------------------------------------------------------------------


def close(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-4, atol=1e-4)


def literal_estimates(buffer: EpisodeRolloutBuffer, world: World, pieces: list[Piece]) -> tuple[Rows, Rows]:
    """Advantages and the critic's targets of the pieces."""

    def of(array: np.ndarray) -> Rows:
        return [[float(array[tick, piece.played.env]) for tick in piece.ticks] for piece in pieces]

    rewards, values, last = of(world.reward), of(world.value), [piece.last_value for piece in pieces]
    if buffer.returns_name == "gae":
        gae = literal.generalized_advantage(rewards, values, buffer.gamma, buffer.gae_lambda, last)
        return gae, [[a + v for a, v in zip(*rows, strict=True)] for rows in zip(gae, values, strict=True)]
    returns = literal.returns_of(buffer.returns_name, rewards, buffer.gamma, last)
    first = [piece.first for piece in pieces]
    if callable(buffer.baseline):
        baseline = [[0.5 - 0.25 * (begin + k) for k in range(len(g))] for begin, g in zip(first, returns, strict=True)]
    else:
        assert isinstance(buffer.baseline, str)
        began = [world.number[piece.ticks[0], piece.played.env].tobytes() for piece in pieces]
        baseline = literal.baseline(buffer.baseline, returns, first, values, began)
    advantages = [[g - b for g, b in zip(*rows, strict=True)] for rows in zip(returns, baseline, strict=True)]
    return advantages, literal.reward_to_go(rewards, buffer.gamma, last)


def credit_in(buffer: EpisodeRolloutBuffer, batch: EpisodeBatch) -> Credit:
    """What the steps of a batch are credited with by the buffer's arguments."""
    return credit_of(batch, buffer.returns_name, buffer.baseline, buffer.gamma, buffer.gae_lambda)


def check_batch(buffer: EpisodeRolloutBuffer, world: World, pieces: list[Piece], targets: tuple[Rows, Rows]) -> None:
    """The batch holds the pieces, no more and no fewer, with every fact and every estimate."""
    batch = buffer.batch
    if not pieces:
        assert batch is None
        return
    assert batch is not None and batch.episodes.n_episodes == len(pieces)
    numbers = batch.observations["number"] if isinstance(batch.observations, dict) else batch.observations
    credit = credit_in(buffer, batch)
    by_place = {world.number[piece.ticks[0], piece.played.env]: k for k, piece in enumerate(pieces)}
    assert len(by_place) == len(pieces)
    for i, rows in enumerate(batch.each_episode()):
        k = by_place.pop(float(numbers[rows][0, 0]))
        piece, env = pieces[k], pieces[k].played.env
        here = world.number[piece.ticks, env]
        np.testing.assert_array_equal(numbers[rows][:, 0], here)
        if isinstance(batch.observations, dict):
            images = np.arange(6).reshape(2, 3) + here[:, None, None] % 200
            np.testing.assert_array_equal(batch.observations["image"][rows], images)
        np.testing.assert_array_equal(batch.actions[rows], action(here))
        np.testing.assert_array_equal(batch.rewards[rows], world.reward[piece.ticks, env])
        np.testing.assert_array_equal(batch.values[rows], world.value[piece.ticks, env])
        np.testing.assert_array_equal(batch.behaviour_log_prob[rows], world.log_prob[piece.ticks, env])
        np.testing.assert_array_equal(batch.carried[rows], piece.carried)
        np.testing.assert_array_equal(batch.episodes.step[rows], piece.first + np.arange(len(here)))
        assert bool(batch.truncated[i]) == (piece.ended and piece.played.truncated)
        assert bool(batch.terminated[i]) == (piece.ended and not piece.played.truncated)
        assert int(batch.env[i]) == env
        close(credit.advantages[rows], targets[0][k])
        close(credit.value_targets[rows], targets[1][k])


def check_layout(
    buffer: EpisodeRolloutBuffer, world: World, ticks: list[int], pieces: list[Piece], targets: tuple[Rows, Rows]
) -> None:
    """SB3's arrays, ``(n_steps, n_envs)``: advantages where a step is used, 0 elsewhere; rewards as they were."""
    advantages, returns = np.zeros((2, len(ticks), buffer.n_envs))
    returns[:] = world.value[ticks]
    for piece, *estimates in zip(pieces, *targets, strict=True):
        for tick, is_carried, advantage, target in zip(piece.ticks, piece.carried, *estimates, strict=True):
            if not is_carried:
                advantages[tick - ticks[0], piece.played.env] = advantage
                returns[tick - ticks[0], piece.played.env] = target
    n = len(ticks)
    close(buffer.advantages[:n], advantages)
    close(buffer.returns[:n], returns)
    np.testing.assert_array_equal(buffer.rewards[:n], world.reward[ticks])


def check(buffer: EpisodeRolloutBuffer, world: World, plan: list[Rollout], joins: list[bool] | None = None) -> int:
    """Compare after every rollout.

    :return: the number of pieces used
    """
    n_used = 0
    used: set[tuple[int, int]] = set()
    for ticks, pieces in play(buffer, world, plan, joins):
        targets = literal_estimates(buffer, world, pieces)
        check_batch(buffer, world, pieces, targets)
        check_layout(buffer, world, ticks, pieces, targets)
        steps = [(tick, piece.played.env) for piece in pieces for tick in piece.ticks]
        assert len(set(steps)) == len(steps) and not used & set(steps)
        used.update(steps)
        n_used += len(pieces)
    return n_used


# --- properties -------------------------------------------------------------------------------------------------------

RULES = ("carry", "bootstrap", "truncate", "drop")
WORLDS = st.builds(
    World.draw,
    seed=st.integers(0, 2**32 - 1),
    n_ticks=st.just(60),
    n_envs=st.integers(1, 4),
    end_probability=st.sampled_from([0.02, 0.1, 0.3, 0.7, 1.0]),
)
PLANS = st.lists(st.builds(Rollout, n_steps=st.integers(1, 8)), min_size=1, max_size=6)
WILD_PLANS = st.lists(
    st.builds(
        Rollout,
        n_steps=st.integers(1, 8),
        reset_before=st.sampled_from([False, False, True]),
        broken_off=st.sampled_from([False, False, True]),
    ),
    min_size=2,
    max_size=6,
)
GAMMAS = st.sampled_from([0.0, 0.5, 0.99, 1.0]) | st.floats(0, 1)


@pytest.mark.parametrize("buffer_class", OBSERVATION_SPACES)
@pytest.mark.parametrize("rule", RULES)
@given(world=WORLDS, plan=PLANS, estimator=st.sampled_from(ESTIMATORS), gamma=GAMMAS, gae_lambda=GAMMAS, data=st.data())
def test_every_step_is_used_once_and_for_what_it_is_worth(
    buffer_class: type[EpisodeRolloutBuffer],
    rule: str,
    world: World,
    plan: list[Rollout],
    estimator: tuple[str, Any],
    gamma: float,
    gae_lambda: float,
    data: st.DataObject,
) -> None:
    """Whole episodes in the order of time, across several rollouts; facts, advantages and targets of each step.

    Some environments may be in the middle of an episode when they are first seen; episodes are cut, with ``"carry"``,
    when they have lasted a few steps, or not at all.
    """
    n_envs = world.done.shape[1]
    joins = data.draw(st.lists(st.booleans(), min_size=n_envs, max_size=n_envs))
    cut_length = data.draw(st.sampled_from([None, 1, 4, 9]))
    returns, baseline = estimator
    buffer = make_buffer(
        buffer_class,
        8,
        n_envs,
        returns=returns,
        baseline=baseline,
        incomplete_episodes=rule,
        gamma=gamma,
        gae_lambda=gae_lambda,
        cut_length=cut_length,
    )
    check(buffer, world, plan, joins)


@pytest.mark.parametrize("rule", RULES)
@given(
    world=WORLDS, plan=PLANS, per_env=st.integers(1, 3), with_resets=st.booleans(), cut_length=st.sampled_from([3, 50])
)
def test_a_quota_of_whole_episodes(
    rule: str, world: World, plan: list[Rollout], per_env: int, with_resets: bool, cut_length: int
) -> None:
    """The first ``episodes_per_env`` episodes of each environment, and with ``"carry"`` nothing before all have them.

    Every other rule starts anew with each rollout; so does the algorithm, by a reset.
    """
    plan = [
        Rollout(r.n_steps, reset_before=rule != "carry" or (with_resets and k % 2 == 1)) for k, r in enumerate(plan)
    ]
    buffer = make_buffer(
        EpisodeRolloutBuffer,
        8,
        world.done.shape[1],
        incomplete_episodes=rule,
        episodes_per_env=per_env,
        baseline="time_mean",
        cut_length=cut_length,
    )
    check(buffer, world, plan)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("per_env", [None, 2])
@given(world=WORLDS, plan=WILD_PLANS)
@settings(max_examples=100)
def test_nothing_is_spliced(rule: str, per_env: int | None, world: World, plan: list[Rollout]) -> None:
    """After a broken-off rollout (of which a step is lost) and after a reset from outside no two episodes are mixed.

    What is known of an episode that lost a step begins anew, with t = 0, where only pieces are needed, and is not used
    where it would have to be whole.
    """
    if per_env is not None and rule != "carry":
        plan = [Rollout(r.n_steps, reset_before=True, broken_off=r.broken_off) for r in plan]
    buffer = make_buffer(
        EpisodeRolloutBuffer,
        8,
        world.done.shape[1],
        incomplete_episodes=rule,
        episodes_per_env=per_env,
        baseline="none",
        cut_length=12,
    )
    check(buffer, world, plan)


@pytest.mark.parametrize("rule", RULES)
@given(
    world=WORLDS, plan=PLANS, estimator=st.sampled_from(ESTIMATORS), per_env=st.sampled_from([None, 1]), data=st.data()
)
def test_the_order_of_environments_does_not_matter(
    rule: str, world: World, plan: list[Rollout], estimator: tuple[str, Any], per_env: int | None, data: st.DataObject
) -> None:
    """The same games on other environments give the same set of pairs of an episode and its advantages."""
    n_envs = world.done.shape[1]
    order = data.draw(st.permutations(range(n_envs)))
    returns, baseline = estimator

    def pairs(world: World) -> list[dict[tuple[float, ...], list[float]]]:
        buffer = make_buffer(
            EpisodeRolloutBuffer,
            8,
            n_envs,
            returns=returns,
            baseline=baseline,
            incomplete_episodes=rule,
            episodes_per_env=per_env,
        )
        found: list[dict[tuple[float, ...], list[float]]] = []
        for _ in play(buffer, world, plan):
            batch = buffer.batch
            if batch is None:
                found.append({})
                continue
            assert isinstance(batch.observations, th.Tensor)
            advantages = credit_in(buffer, batch).advantages
            rows = batch.each_episode()
            found.append({tuple(batch.observations[r, 0].tolist()): advantages[r].tolist() for r in rows})
        return found

    for one, other in zip(pairs(world), pairs(world.permuted(order)), strict=True):
        assert one.keys() == other.keys()
        for episode in one:
            close(one[episode], other[episode])


def test_the_ledger_is_not_empty() -> None:
    """What the properties are about does happen: whole episodes, carried over several rollouts, cut, and dropped."""
    world = World.draw(seed=0, n_ticks=60, n_envs=3, end_probability=0.15)
    plan = [Rollout(4)] * 12
    n_used = {}
    for rule in RULES:
        n_used[rule] = check(make_buffer(EpisodeRolloutBuffer, 4, 3, incomplete_episodes=rule), world, plan)
    assert n_used["carry"] == world.done[:48].sum()
    assert 0 < n_used["drop"] < n_used["carry"] < n_used["truncate"] == n_used["bootstrap"]
    buffer = make_buffer(EpisodeRolloutBuffer, 4, 3, incomplete_episodes="carry")
    longest = [max((len(set(p.played.rollouts)) for p in pieces), default=0) for _, pieces in play(buffer, world, plan)]
    assert max(longest) >= 3


@given(world=WORLDS, n_rollouts=st.integers(1, 4), gamma=GAMMAS, gae_lambda=GAMMAS)
def test_gae_is_that_of_stable_baselines3(world: World, n_rollouts: int, gamma: float, gae_lambda: float) -> None:
    """``returns="gae", baseline="value"`` fills advantages and returns as SB3's RolloutBuffer does, to 1e-5.

    (Where SB3's collection, and not the buffer, bootstraps time limits.)
    """
    n_envs, size = world.done.shape[1], 6
    world = replace(world, terminal_value=np.zeros_like(world.terminal_value))
    arguments: dict[str, Any] = {"gamma": gamma, "gae_lambda": gae_lambda}
    ours = make_buffer(
        EpisodeRolloutBuffer,
        size,
        n_envs,
        returns="gae",
        baseline="value",
        incomplete_episodes="bootstrap",
        **arguments,
    )
    theirs = RolloutBuffer(size, NUMBER, spaces.Box(-9, 9, (2,)), device="cpu", n_envs=n_envs, **arguments)
    for ticks, _ in play(ours, world, [Rollout(size)] * n_rollouts):
        for name in ("rewards", "values", "episode_starts"):
            setattr(theirs, name, getattr(ours, name))
        theirs.compute_returns_and_advantage(th.as_tensor(world.edge_value[ticks[-1]]), world.done[ticks[-1]])
        np.testing.assert_allclose(ours.advantages, theirs.advantages, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-5, atol=1e-5)


# --- in stock PPO and A2C ---------------------------------------------------------------------------------------------

STOCK: dict[str, tuple[type[OnPolicyAlgorithm], dict[str, Any]]] = {
    "PPO": (PPO, {"n_epochs": 2, "batch_size": 8}),
    "A2C": (A2C, {}),
}
stock = pytest.mark.parametrize("algorithm", STOCK)


def recorded_env(tape: Tape, n_envs: int) -> DummyVecEnv:
    """Short tabular episodes, some of which a time limit ends."""
    mdp = long_episodes_pay(horizon=4)
    return DummyVecEnv([lambda i=i: Recorder(TabularEnv(mdp, "truncated"), tape, i) for i in range(n_envs)])  # type: ignore[misc]


def stock_model(
    algorithm: str, policy: Any, tape: Tape, buffer_class: Any = EpisodeRolloutBuffer, **buffer: Any
) -> Any:
    model_class, arguments = STOCK[algorithm]
    return model_class(
        policy,
        recorded_env(tape, 3),
        n_steps=8,
        gamma=0.9,
        gae_lambda=0.8,
        seed=0,
        device="cpu",
        rollout_buffer_class=buffer_class,
        rollout_buffer_kwargs=buffer,
        **arguments,
    )


class AfterRollout(BaseCallback):
    """Looks at the buffer after each rollout, before SB3 trains on it."""

    def __init__(self, look: Callable[[Any, dict[str, Any]], None]) -> None:
        super().__init__()
        self.look, self.n_rollouts = look, 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.look(self.locals["rollout_buffer"], self.locals)
        self.n_rollouts += 1


@stock
@pytest.mark.parametrize("policy", ["MlpPolicy", ActorPolicy], ids=["critic", "actor"])
@pytest.mark.parametrize("rule", ["bootstrap", "truncate", "drop"])
@pytest.mark.parametrize(("returns", "baseline"), ESTIMATORS, ids=lambda it: it if isinstance(it, str) else "callable")
def test_stock_algorithms_learn_from_the_literal_advantages(
    algorithm: str, policy: Any, rule: str, returns: str, baseline: Any
) -> None:
    """Advantages and returns are the O(T^2) formula on the rewards, values and starts that SB3 collected."""
    collected: list[dict[str, np.ndarray]] = []
    ledgers: list[Ledger] = []

    def look(buffer: EpisodeRolloutBuffer, collection: dict[str, Any]) -> None:
        starts = buffer.episode_starts.astype(bool)
        zeros = np.zeros((8, 3), dtype=np.float32)
        collected.append(
            {
                "number": buffer.observations[:, :, 0].copy(),  # of which its groups are made
                "reward": buffer.rewards,
                "value": buffer.values,
                "log_prob": buffer.log_probs,
                "done": np.concatenate([starts[1:], collection["dones"][None]]),
                "truncated": zeros.astype(bool),
                "terminal_value": zeros,
                "edge_value": np.tile(collection["values"].numpy().reshape(1, 3), (8, 1)),
            }
        )
        world = World(**{name: np.concatenate([one[name] for one in collected]) for name in collected[0]})
        if not ledgers:
            ledgers.append(Ledger(world, rule, None, 10**9))
        (ledger,) = ledgers
        ledger.world = world
        first = 8 * (len(collected) - 1)
        for tick in range(first, first + 8):
            ledger.add(tick, len(collected), starts[tick - first])
        pieces = ledger.finish(len(collected), first + 7)
        check_layout(buffer, world, list(range(first, first + 8)), pieces, literal_estimates(buffer, world, pieces))

    callback = AfterRollout(look)
    model = stock_model(algorithm, policy, Tape(), returns=returns, baseline=baseline, incomplete_episodes=rule)
    before = th.nn.utils.parameters_to_vector(model.policy.parameters()).clone()
    model.learn(4 * 8 * 3, callback=callback)
    assert callback.n_rollouts == 4
    assert not th.equal(before, th.nn.utils.parameters_to_vector(model.policy.parameters()))


@stock
def test_stock_training_is_the_same_with_our_gae(algorithm: str) -> None:
    """The same seed with SB3's buffer and with ours: the same parameters after four updates, to 1e-5."""
    buffers: list[dict[str, Any]] = [
        {"returns": "gae", "baseline": "value", "incomplete_episodes": "bootstrap"},
        {"buffer_class": RolloutBuffer},
    ]
    trained = []
    for buffer in buffers:
        model = stock_model(algorithm, "MlpPolicy", Tape(), **buffer)  # sets the seed: one model after the other
        before = th.nn.utils.parameters_to_vector(model.policy.parameters()).clone()
        trained.append(th.nn.utils.parameters_to_vector(model.learn(4 * 8 * 3).policy.parameters()))
        assert (trained[-1] - before).norm() > 0.01
    th.testing.assert_close(*trained, rtol=0, atol=1e-5)


@stock
@pytest.mark.parametrize("policy", ["MlpPolicy", ActorPolicy], ids=["critic", "actor"])
def test_an_actor_policy_adds_nothing_to_rewards_at_time_limits(algorithm: str, policy: Any) -> None:
    """SB3 adds gamma * V(terminal observation) to them: 0 for a policy without a critic, and not 0 for one with."""
    tape, rewards = Tape(), []
    callback = AfterRollout(lambda buffer, _: rewards.append(buffer.rewards.copy()))
    stock_model(algorithm, policy, tape).learn(4 * 8 * 3, callback=callback)
    stored = np.concatenate(rewards)
    difference = np.zeros_like(stored)
    is_time_limit = np.zeros_like(stored, dtype=bool)
    for episode, step in tape.steps():
        difference[step.tick, episode.env] = stored[step.tick, episode.env] - np.float32(step.reward)
        is_time_limit[step.tick, episode.env] = episode.truncated and step is episode.steps[-1]
    assert is_time_limit.sum() > 5
    if policy is ActorPolicy:
        is_time_limit[:] = False
    np.testing.assert_array_equal(difference != 0, is_time_limit)


@stock
@pytest.mark.parametrize(
    "arguments", [{"incomplete_episodes": "carry"}, {"episodes_per_env": 1}], ids=["carry", "quota"]
)
def test_stock_algorithms_refuse_what_they_cannot_read(algorithm: str, arguments: dict[str, Any]) -> None:
    """Their training reads the rows of one rollout: episodes from several, or a number of them, are a ValueError."""
    model = stock_model(algorithm, ActorPolicy, Tape(), **arguments)
    with pytest.raises(ValueError, match="whole episodes, which SB3's own algorithms cannot read"):
        model.learn(8 * 3)
