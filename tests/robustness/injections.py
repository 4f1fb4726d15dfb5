"""Numbers that are not finite, put into a run wherever one could come from: ``python -m tests.robustness.injections``.

After each one everything that the model and its wrappers keep must be what it was before the piece that was refused,
and learning must go on in the mended environment. The counts are printed, by kind; the status is 1 after a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from tests.helpers.environments import DiaryEnv, Fault
from tests.helpers.models import JOINT_CRITIC, MONTE_CARLO, OWN_CRITIC, TINY, differences, make
from tests.robustness.kept import not_finite, of_model, of_wrappers

N_STEPS = 16
#: Steps of an environment before the mending: three rollouts.
BEFORE_MENDING = 3 * N_STEPS
LENGTH = 5
VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "1e38": 1e38}
#: The step of an environment at which it happens; those of callbacks are those of the environment too.
MOMENTS = {"first step": 1, "end of the first rollout": 16, "middle": 23, "end of an episode": 30, "last step": 48}
CRITICS = {"no critic": MONTE_CARLO, "joint critic": JOINT_CRITIC, "own critic": OWN_CRITIC}
WRAPPERS: dict[str, Callable[[VecEnv], VecEnv]] = {
    "plain": lambda env: env,
    "VecNormalize": VecNormalize,
    "VecNormalize of rewards": partial(VecNormalize, norm_obs=False),
    "VecNormalize twice": lambda env: VecNormalize(VecNormalize(env)),
    "VecNormalize in training no more": partial(VecNormalize, training=False),
    "VecFrameStack below": lambda env: VecNormalize(VecFrameStack(env, 2)),
    "VecFrameStack above": lambda env: VecFrameStack(VecNormalize(env), 2),
}
#: Those that leave an infinite observation what it is.
UNCLIPPED = ("plain", "VecNormalize of rewards")


@dataclass(frozen=True)
class Injection:
    """One number, where and when.

    :param settings: arguments of the algorithm beside those of the critic
    """

    kind: str
    value: str
    algorithm: type[OnPolicyAlgorithm] = REINFORCE
    critic: str = "no critic"
    wrapper: str = "plain"
    moment: str = "middle"
    n_envs: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def number(self) -> float:
        return VALUES[self.value]

    @property
    def step(self) -> int:
        return MOMENTS[self.moment]

    @property
    def must_be_refused(self) -> bool:
        """Whether nothing good can come of it; else it may be taken, if everything is finite afterwards."""
        # VecNormalize makes a finite number of an infinite terminal observation; a clip range, a rate that is large
        # or an infinite moment in the denominator may make a step of nothing
        if self.kind == "terminal observation":
            return self.value == "nan" or (self.value != "1e38" and self.wrapper in UNCLIPPED)
        if self.kind in ("observation", "reward", "reset") and self.wrapper == "VecNormalize":
            return True  # its variance would be the last word on everything
        return self.value != "1e38" and self.kind not in ("clip_range", "gSDE noise")

    def __str__(self) -> str:
        settings = "".join(f", {name}={value}" for name, value in self.settings.items())
        where = f"{self.wrapper}, {self.n_envs} environments, {self.moment}, {self.critic}"
        return f"{self.value} in {self.kind}: {self.algorithm.__name__} ({where}{settings})"


class Injector(BaseCallback):
    """Puts the number in where a callback can, remembers what was there, and what everything was before."""

    model: Any

    def __init__(self, what: Injection) -> None:
        super().__init__()
        self.what = what
        self.fired = False
        self.mend: Callable[[], None] = lambda: None
        self.before: dict[str, Any] = {}
        self.wrappers: list[dict[str, Any]] = []

    def _on_training_start(self) -> None:
        self._on_rollout_start()
        self.wrappers = of_wrappers(self.training_env)

    def _on_rollout_start(self) -> None:
        self.before = of_model(self.model)
        self.wrappers = of_wrappers(self.training_env)

    def _on_step(self) -> bool:
        self.wrappers = of_wrappers(self.training_env)
        if self.n_calls == self.what.step and self.what.kind in IN_A_STEP:
            self._fire(IN_A_STEP[self.what.kind])
        return True

    def _on_rollout_end(self) -> None:
        # An optimizer has a state from its first step on
        if self.n_calls >= max(self.what.step, 2 * N_STEPS) and self.what.kind in AT_THE_END and not self.fired:
            self._fire(AT_THE_END[self.what.kind])

    def _fire(self, how: Callable[[Any, float, np.random.Generator], Callable[[], None]]) -> None:
        self.fired = True
        self.mend = how(self.model, self.what.number, np.random.default_rng(self.what.seed))


def one_of(tensors: list[th.Tensor], value: float, rng: np.random.Generator) -> Callable[[], None]:
    """Put the number into one place of one of the tensors; what is returned takes it away again."""
    tensor = tensors[int(rng.integers(len(tensors)))]
    place = int(rng.integers(tensor.numel()))
    flat = tensor.detach().view(-1)
    before = flat[place].item()

    def write(number: float) -> None:
        with th.no_grad():
            flat[place] = number

    write(value)
    return partial(write, before)


def of_the_actor(model: Any) -> list[th.Tensor]:
    return [one for name, one in model.policy.named_parameters() if "value" not in name]


def of_the_critic(model: Any) -> list[th.Tensor]:
    return [one for name, one in model.policy.named_parameters() if "value" in name]


def moments_of(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    state = [(one, value) for one, kept in optimizer.state.items() for value in kept.values()]
    return [value for one, value in state if isinstance(value, th.Tensor) and value.shape == one.shape]


def attribute(name: str, as_schedule: bool, model: Any, value: float, _: Any) -> Callable[[], None]:
    before = getattr(model, name)
    setattr(model, name, FloatSchedule(lambda _: value) if as_schedule else value)
    return lambda: setattr(model, name, before)


def row_of_rewards(model: Any, value: float, rng: np.random.Generator) -> Callable[[], None]:
    """As a callback gives a bonus; the next rollout has rewards of its own."""
    buffer = model.rollout_buffer
    buffer.rewards[int(rng.integers(buffer.pos)), int(rng.integers(buffer.n_envs))] = value
    buffer.compute_returns_and_advantage(th.as_tensor(np.zeros(buffer.n_envs)), model._last_episode_starts)
    return lambda: None


Put = Callable[[Any, float, np.random.Generator], Callable[[], None]]
IN_A_STEP: dict[str, Put] = {
    "weights": lambda model, value, rng: one_of(of_the_actor(model), value, rng),
    "weights of the critic": lambda model, value, rng: one_of(of_the_critic(model), value, rng),
    "gSDE noise": lambda model, value, rng: one_of([model.policy.action_dist.exploration_matrices], value, rng),
    "ent_coef": partial(attribute, "ent_coef", False),
    "rate set in a callback": partial(attribute, "lr_schedule", True),
    "rate of the critic": partial(attribute, "value_lr_schedule", True),
    "clip_range": partial(attribute, "clip_range", True),
}
AT_THE_END: dict[str, Put] = {
    "optimizer's state": lambda model, value, rng: one_of(moments_of(model.policy.optimizer), value, rng),
    "state of the critic's optimizer": lambda model, value, rng: one_of(moments_of(model.value_optimizer), value, rng),
    "rewards edited after a rollout": row_of_rewards,
}
FROM_THE_ENVIRONMENT = ("observation", "reward", "reset", "terminal observation")


class Rate:
    """A rate that goes wrong late, and can be mended."""

    def __init__(self, value: float) -> None:
        self.value: float | None = value

    def __call__(self, progress: float) -> float:
        return 1e-2 if self.value is None or progress > 0.5 else self.value

    def mend(self) -> None:
        self.value = None


def environment(what: Injection, as_dict: bool) -> VecEnv:
    """The environments, the last of which has the fault."""
    part: Any = "observation" if what.kind == "terminal observation" else what.kind
    fault = Fault(part, what.step, what.number) if what.kind in FROM_THE_ENVIRONMENT else None
    space = spaces.Box(-1.0, 1.0, (2,)) if "use_sde" in what.settings else None

    def one(index: int) -> Monitor[Any, Any]:
        its = fault if index == what.n_envs - 1 else None
        # Two, so that no whole wave of episodes ends in one step
        ending: Any = "truncated" if what.kind == "terminal observation" else "terminated"
        return Monitor(DiaryEnv([LENGTH], index, space, as_dict, ending, its))

    env = WRAPPERS[what.wrapper](DummyVecEnv([partial(one, index) for index in range(what.n_envs)]))
    return env


def build(what: Injection) -> tuple[BaseAlgorithm, Rate | None]:
    settings = dict(what.settings)
    as_dict = settings.pop("as_dict", False)
    env = environment(what, as_dict)
    rate = Rate(what.number) if what.kind == "rate as a schedule" else None
    learning_rate = {"learning_rate": rate or 1e-2}
    policy = "MultiInputPolicy" if as_dict else "MlpPolicy"
    if what.algorithm is A2C:
        stock = {name: value for name, value in settings.items() if name == "use_sde"}
        kwargs = {"policy_kwargs": dict(TINY), "n_steps": N_STEPS, "seed": what.seed, "device": "cpu"}
        return A2C(policy, env, **kwargs, **stock, **learning_rate), rate  # type: ignore[arg-type]
    kwargs = CRITICS[what.critic] | learning_rate | {"seed": what.seed} | settings
    return make(what.algorithm, env, policy=policy, **kwargs), rate  # type: ignore[arg-type]


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    :param faults: none, if all is well
    """

    refused: bool
    faults: list[str]


def inject(what: Injection) -> Outcome:
    """Learn until it happens, look, mend, and learn on."""
    model, rate = build(what)
    env = model.get_env()
    assert env is not None
    injector = Injector(what)
    injector.before, injector.wrappers = of_model(model), of_wrappers(env)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        error: Exception | None = None
        try:
            model.learn(BEFORE_MENDING * what.n_envs, callback=injector)
        except Exception as found:
            error = found
        injector.mend()
        for one in env.unwrapped.envs:  # type: ignore[attr-defined]
            one.unwrapped.fault = None
        if rate is not None:
            rate.mend()
        faults = [*_faults(what, model, env, injector, error)]
        if not faults:
            faults += _faults_of_going_on(model, what, may_wait=error is None and what.value == "1e38")
    return Outcome(error is not None, faults)


def _faults(
    what: Injection, model: BaseAlgorithm, env: VecEnv, injector: Injector, error: Exception | None
) -> Iterator[str]:
    if what.kind in IN_A_STEP.keys() | AT_THE_END.keys() and not injector.fired:
        yield "never happened"
    if error is None and what.must_be_refused:
        yield "was not refused"
    if error is not None and not isinstance(error, ValueError):
        yield f"{type(error).__name__}: {error}"
    now = of_model(model) | {"wrappers": of_wrappers(env)}
    yield from (f"{path} is not finite" for path in not_finite(now))
    episodes = [{"r": one["r"], "l": one["l"]} for one in model.ep_info_buffer or ()]
    yield from (f"episode statistics: {path} is not finite" for path in not_finite(episodes))
    if error is not None:
        before = injector.before | {"wrappers": injector.wrappers}
        yield from (f"{path} is not what it was" for path in differences(before, now))


def _faults_of_going_on(model: BaseAlgorithm, what: Injection, may_wait: bool) -> Iterator[str]:
    """:param may_wait: a number that is finite may wait for the end of its episode, and be refused then"""
    updates = model._n_updates
    try:
        if may_wait:
            with contextlib.suppress(ValueError):
                model.learn(N_STEPS * what.n_envs, reset_num_timesteps=False)
        model.learn(3 * N_STEPS * what.n_envs, reset_num_timesteps=False)
    except Exception as error:
        yield f"does not go on: {type(error).__name__}: {error}"
        return
    env = model.get_env()
    assert env is not None
    yield from (f"{path} is not finite later" for path in not_finite(of_model(model) | {"w": of_wrappers(env)}))
    if model._n_updates == updates:
        yield "learns no more"


ALGORITHMS: tuple[type[OnPolicyAlgorithm], ...] = (REINFORCE, VanillaPG, OffPolicyISPG)
REUSE: list[dict[str, Any]] = [
    {"n_reused_batches": 1},
    {"n_reused_batches": 3},
    {"n_reused_batches": 3, "reused_advantages": "vtrace"},
]
BOUNDED: list[dict[str, Any]] = [{"target_kl": 0.01, "kl_constraint": how} for how in ("backtrack", "penalty", "stop")]


def drawn(n_each: int, seed: int) -> list[Injection]:
    """So many of each kind and value, everything else at random."""
    rng = np.random.default_rng(seed)
    kinds = [*FROM_THE_ENVIRONMENT, *IN_A_STEP, *AT_THE_END, "rate as a schedule"]
    every: list[Injection] = []
    for kind in kinds:
        for value in VALUES:
            every += [_draw(kind, value, rng, len(every)) for _ in range(n_each)]
    return every


def _draw(kind: str, value: str, rng: np.random.Generator, seed: int) -> Injection:
    def one_of_these(things: Any) -> Any:
        things = list(things)
        return things[int(rng.integers(len(things)))]

    algorithm = OffPolicyISPG if kind == "clip_range" else one_of_these(ALGORITHMS)
    critics = {
        "weights of the critic": ["joint critic", "own critic"],
        "terminal observation": ["joint critic", "own critic"],
        "rate of the critic": ["own critic"],
        "state of the critic's optimizer": ["own critic"],
    }.get(kind, CRITICS)
    what = Injection(
        kind,
        value,
        algorithm,
        one_of_these(critics),
        one_of_these(WRAPPERS),
        one_of_these(MOMENTS),
        one_of_these((1, 8)),
        seed=seed,
    )
    settings: dict[str, Any] = {}
    if algorithm is OffPolicyISPG:
        settings |= {"n_epochs": 3} | one_of_these([{}, *REUSE, *BOUNDED])
        if "n_reused_batches" in settings and (critics is not CRITICS or what.critic == "joint critic"):
            what = replace(what, critic="own critic")
        if settings.get("reused_advantages") == "vtrace":
            what = replace(what, critic="own critic")
    if algorithm is VanillaPG:
        settings |= one_of_these([{}, {"natural_gradient": True, "learning_rate": None, "target_kl": 0.02}])
        if kind.startswith(("rate", "optimizer")):
            settings = {}
    if kind == "clip_range":
        settings |= {"clip_range": 0.2}
    if kind == "terminal observation":
        settings |= {"bootstrap_truncated": True}
        what = replace(what, moment="end of an episode")
    if kind == "observation" and what.moment == "end of an episode":
        what = replace(what, moment="middle")  # nobody looks at that one
    if kind == "gSDE noise" or (kind == "weights" and rng.random() < 0.3):
        settings |= {"use_sde": True}
    elif rng.random() < 0.2 and what.wrapper == "plain":
        settings |= {"as_dict": True}
    return replace(what, settings=settings)


def main() -> int:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=10, help="injections of each kind and value")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--a2c", action="store_true", help="the same into SB3's A2C, for comparison")
    arguments = parser.parse_args()
    th.set_num_threads(1)
    tried, refused, faulty = Counter[str](), Counter[str](), Counter[str]()
    for what in drawn(arguments.each, arguments.seed):
        if arguments.a2c:
            if what.kind in ("clip_range", "rate of the critic", "state of the critic's optimizer"):
                continue  # it has none
            what = replace(what, algorithm=A2C)
        outcome = inject(what)
        tried[what.kind] += 1
        refused[what.kind] += outcome.refused
        faulty[what.kind] += bool(outcome.faults)
        if outcome.faults and not arguments.a2c:
            print(f"FAULT  {what}\n       " + "\n       ".join(outcome.faults[:4]), flush=True)
    print(f"{'kind':34} {'tried':>6} {'refused':>8} {'faults':>7}")
    for kind in tried:
        print(f"{kind:34} {tried[kind]:6} {refused[kind]:8} {faulty[kind]:7}")
    print(f"{'all':34} {tried.total():6} {refused.total():8} {faulty.total():7}")
    return int(faulty.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
