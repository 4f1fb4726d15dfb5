"""Every VecEnv that SB3's A2C steps is stepped, with the numbers that it gave; what is no number is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from tests.helpers.environments import Fault, diary, faulty
from tests.helpers.models import TINY, Algorithm, every_algorithm, make, n_updates
from tests.helpers.recording import Batches

Observation = Any
Stepped = tuple[Observation, Any, Any, Any]


class Odd(VecEnvWrapper):
    """A VecEnv whose answers are of another kind than those of SB3's own."""

    def __init__(
        self,
        venv: VecEnv,
        observation: Callable[[np.ndarray], Any] = lambda obs: obs,
        rewards: Callable[[np.ndarray], Any] = lambda rewards: rewards,
        dones: Callable[[np.ndarray], Any] = lambda dones: dones,
        infos: Callable[[list[dict[str, Any]]], Any] = lambda infos: infos,
    ) -> None:
        super().__init__(venv)
        self._observation, self._rewards, self._dones, self._infos = observation, rewards, dones, infos

    def _observe(self, obs: Observation) -> Observation:
        if isinstance(obs, dict):
            return {key: self._observation(part) for key, part in obs.items()}
        return self._observation(obs)

    def reset(self) -> Observation:
        return self._observe(self.venv.reset())

    def step_wait(self) -> Stepped:
        obs, rewards, dones, infos = self.venv.step_wait()
        return self._observe(obs), self._rewards(rewards), self._dones(dones), self._infos(infos)


class Reusing(VecEnvWrapper):
    """A VecEnv that writes what it observes, rewards and says is done into the same arrays at every step."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._kept: dict[str, np.ndarray] = {}

    def _same(self, name: str, now: np.ndarray) -> np.ndarray:
        kept = self._kept.setdefault(name, now.copy())
        kept[:] = now
        return kept

    def _observe(self, obs: Observation) -> Observation:
        if isinstance(obs, dict):
            return {key: self._same(key, part) for key, part in obs.items()}
        return self._same("observation", obs)

    def reset(self) -> Observation:
        return self._observe(self.venv.reset())

    def step_wait(self) -> Stepped:
        obs, rewards, dones, infos = self.venv.step_wait()
        return self._observe(obs), self._same("rewards", rewards), self._same("dones", dones), infos


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


#: Kinds of answers, each with the same numbers in it, and whether A2C takes them.
ODD: dict[str, tuple[Callable[[VecEnv], VecEnv], bool]] = {
    "dones list": (partial(Odd, dones=list), False),
    "dones tuple": (partial(Odd, dones=tuple), False),
    "dones uint8": (partial(Odd, dones=lambda dones: dones.astype(np.uint8)), True),
    "dones int": (partial(Odd, dones=lambda dones: dones.astype(np.int64)), True),
    "dones float": (partial(Odd, dones=lambda dones: dones.astype(np.float32)), True),
    "rewards float64": (partial(Odd, rewards=lambda rewards: rewards.astype(np.float64)), True),
    "rewards int": (partial(Odd, rewards=lambda rewards: rewards.astype(np.int64)), True),
    "rewards list": (partial(Odd, rewards=lambda rewards: rewards.tolist()), False),
    "rewards object": (partial(Odd, rewards=lambda rewards: rewards.astype(object)), True),
    "infos tuple": (partial(Odd, infos=tuple), True),
    "infos array": (partial(Odd, infos=lambda infos: np.array(infos, dtype=object)), True),
    "infos of ended ones alone": (
        partial(Odd, infos=lambda infos: [info if "terminal_observation" in info else None for info in infos]),
        False,
    ),
    "observations float64": (partial(Odd, observation=lambda obs: obs.astype(np.float64)), True),
    "observations int": (partial(Odd, observation=lambda obs: obs.astype(np.int64)), True),
    "observations Fortran": (partial(Odd, observation=np.asfortranarray), True),
    "the same arrays": (Reusing, False),  # it takes them, and learns from other numbers
    "read-only arrays": (partial(Odd, observation=read_only, rewards=read_only, dones=read_only), False),
}


def learn(algorithm: type[Any], env: VecEnv, **arguments: Any) -> tuple[Any, Batches]:
    is_dict = "spaces" in vars(env.observation_space)
    keep = Batches()
    arguments = {"n_steps": 12, "policy_kwargs": dict(TINY), "seed": 0, "device": "cpu"} | arguments
    model = algorithm("MultiInputPolicy" if is_dict else "MlpPolicy", env, **arguments)
    model.learn(72, callback=None if algorithm is A2C else keep)
    return model, keep


@cache
def learned_from_plain_answers(algorithm: Algorithm, n_envs: int, as_dict: bool) -> tuple[Any, Batches]:
    return learn(algorithm, diary(n_envs, as_dict=as_dict, ending="truncated", lengths=(5, 7)))


# All algorithms collect alike: every combination with one of them, and each of the others once.
COLLECTING: list[tuple[Algorithm, int, bool]] = [(VanillaPG, n, as_dict) for n in (1, 3) for as_dict in (False, True)]
COLLECTING += [(REINFORCE, 3, False), (OffPolicyISPG, 3, False)]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(("algorithm", "n_envs", "as_dict"), COLLECTING)
def test_the_kind_of_the_answers_makes_no_difference(
    algorithm: Algorithm, n_envs: int, as_dict: bool, kind: str
) -> None:
    """The batches and the policy are, to the bit, those of SB3's own VecEnv; not a word is lost over it."""
    odd = ODD[kind][0](diary(n_envs, as_dict=as_dict, ending="truncated", lengths=(5, 7)))
    expected, batches = learned_from_plain_answers(algorithm, n_envs, as_dict)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # PyTorch's, which A2C draws too
        model, odd_batches = learn(algorithm, odd)
    assert model._n_updates > 0
    for one, other in zip(batches.updates, odd_batches.updates, strict=True):
        for name in ("rewards", "terminated", "truncated", "behaviour_log_prob", "actions", "last_values"):
            assert th.equal(getattr(one, name), getattr(other, name)), name
        assert th.equal(one.episodes.lengths, other.episodes.lengths)
    for one, other in zip(expected.policy.parameters(), model.policy.parameters(), strict=True):
        assert th.equal(one, other)


@pytest.mark.parametrize("kind", [kind for kind, (_, takes_it) in ODD.items() if takes_it])
def test_a2c_takes_them_too(kind: str) -> None:
    """The list says what A2C does: what it steps has to be stepped."""
    learn(A2C, ODD[kind][0](diary(2)))


class Trace(BaseCallback):
    """Keeps the observation before each step, and whether it began an episode, as copies."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[np.ndarray] = []
        self.shown: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.rows.append(np.array(self.locals["new_obs"]))
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.locals["rollout_buffer"]
        self.shown.append(buffer.observations[: buffer.pos].copy())


@every_algorithm
def test_an_array_that_is_written_again_was_read_before(algorithm: Algorithm) -> None:
    """The observations in the buffer are those that the actions were drawn at: index, episode and step, in order."""
    trace = Trace()
    make(algorithm, Reusing(diary(2, lengths=(5,))), n_steps=8).learn(48, callback=trace)
    rows = np.concatenate(trace.shown)
    for env in range(2):
        assert rows[:, env].tolist() == [[env, t // 5, t % 5] for t in range(24)]


# Infos without the last observation


def without_last_observation(infos: list[dict[str, Any]], instead: bool) -> list[dict[str, Any]]:
    for info in infos:
        if info.pop("terminal_observation", None) is not None and instead:
            info["terminal_observation"] = None
    return infos


@pytest.mark.parametrize("instead", [False, True], ids=["missing", "None"])
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("algorithm", [VanillaPG, OffPolicyISPG])
def test_a_time_limit_without_its_last_observation_is_an_end(
    algorithm: Algorithm, as_dict: bool, instead: bool
) -> None:
    """Nothing follows, as in SB3; one word of it in all of the run."""
    env = diary(3, as_dict=as_dict, ending="truncated")
    with pytest.warns(UserWarning, match="terminal_observation") as caught:
        _, keep = learn(algorithm, Odd(env, infos=partial(without_last_observation, instead=instead)), n_steps=10)
    assert len(caught) == 1
    for batch in keep.updates:
        ended = batch.terminated | batch.truncated
        assert ended.all() and batch.last_values.tolist() == [0.0] * len(ended)
    learn(A2C, Odd(diary(3, ending="truncated"), infos=partial(without_last_observation, instead=instead)))


@every_algorithm
def test_a_time_limit_that_nobody_bootstraps_at_needs_no_last_observation(
    algorithm: Algorithm,
) -> None:
    env = Odd(diary(2, ending="truncated"), infos=partial(without_last_observation, instead=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make(algorithm, env).learn(64)._n_updates > 0


# What is no number

BEHIND: dict[str, Callable[[VecEnv, Callable[[VecEnv], VecNormalize]], VecEnv]] = {
    "VecNormalize": lambda env, normalized: normalized(env),
    "VecMonitor(VecNormalize)": lambda env, normalized: VecMonitor(normalized(env)),
    "VecNormalize(VecMonitor)": lambda env, normalized: normalized(VecMonitor(env)),
    "VecFrameStack(VecNormalize)": lambda env, normalized: VecFrameStack(normalized(env), 2),
    "VecNormalize(VecFrameStack)": lambda env, normalized: normalized(VecFrameStack(env, 2)),
    "VecNormalize(Dict)": lambda env, normalized: normalized(env),
}


def statistics_of(normalizer: VecNormalize) -> list[np.ndarray]:
    obs_rms: Any = normalizer.obs_rms
    of_obs = obs_rms.values() if isinstance(obs_rms, dict) else [obs_rms]
    return [np.array(part) for one in (*of_obs, normalizer.ret_rms) for part in (one.mean, one.var, one.count)]


class Statistics(BaseCallback):
    """Keeps those of a VecNormalize after every good step."""

    def __init__(self, normalizer: VecNormalize) -> None:
        super().__init__()
        self.normalizer, self.last = normalizer, statistics_of(normalizer)

    def _on_step(self) -> bool:
        self.last = statistics_of(self.normalizer)
        return True


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in SB3's own arithmetic
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["reset", "observation", "reward"])
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (REINFORCE, {}),
        (OffPolicyISPG, {}),
        (VanillaPG, {}),
        (VanillaPG, {"norm_reward": False}),
        (VanillaPG, {"training": False}),
    ],
)
@pytest.mark.parametrize("behind", BEHIND)
def test_statistics_forget_what_is_not_finite(
    algorithm: Algorithm, behind: str, settings: dict[str, bool], what: Any, value: float
) -> None:
    """The environment is named, the means and variances are those of the step before, and learning goes on."""
    is_dict = "Dict" in behind
    found: list[VecNormalize] = []

    def normalized(env: VecEnv) -> VecNormalize:
        found.append(VecNormalize(env, norm_obs_keys=["where"] if is_dict else None, **settings))
        return found[0]

    env = BEHIND[behind](faulty(Fault(what, step=7, value=value), n_envs=2, as_dict=is_dict), normalized)
    model = make(algorithm, env, policy="MultiInputPolicy" if is_dict else "MlpPolicy", n_steps=10)
    callback = Statistics(found[0])
    with pytest.raises(ValueError, match="environment 1"):
        model.learn(60, callback=callback)
    now = statistics_of(found[0])
    assert all(np.array_equal(one, other) for one, other in zip(now, callback.last, strict=True))
    model.learn(60)  # the fault was one of a kind
    assert n_updates(model) > 0
    assert all(np.isfinite(part).all() for part in statistics_of(found[0]))
    assert all(bool(parameter.isfinite().all()) for parameter in model.policy.parameters())


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("algorithm", [VanillaPG, OffPolicyISPG])
def test_a_last_observation_that_is_not_finite_is_named(algorithm: Algorithm, as_dict: bool, n_envs: int) -> None:
    """It is part of no observation that the policy acts on: the critic's value of it would spoil the loss."""
    # The fifth step is the episode's last, and its observation the terminal one
    env = faulty(Fault("observation", step=5), n_envs, n_envs - 1, as_dict=as_dict)
    env.envs[-1].unwrapped.ending = "truncated"  # type: ignore[attr-defined]
    with pytest.raises(
        ValueError, match=rf"terminal observation of environment {n_envs - 1} at time step {5 * n_envs}"
    ):
        learn(algorithm, env, n_steps=10)
