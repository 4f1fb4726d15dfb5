"""How far an update goes: the KL it is measured by, and the three rules that bound it, all watched from outside."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import ActorPolicy, OffPolicyISPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import EpisodeBatch, Observations
from sb3_pg.data.minibatches import Minibatch, minibatches, whole_batch
from sb3_pg.policies.divergence import Divergence, frozen_copy, policy_kl
from sb3_pg.update.trust_region import MAX_HALVINGS, TrustRegion
from tests.helpers.environments import RandomEnv
from tests.helpers.models import (
    ACTION_SPACES,
    JOINT_CRITIC,
    TINY,
    actions_of,
    differences,
    make,
    policy_and_batch,
)
from tests.helpers.recording import double_precision, flat_gradient
from tests.helpers.spies import replace_everywhere

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

TARGET = 0.02
BOX = ACTION_SPACES["Box"]
OBSERVED = spaces.Box(-2.0, 2.0, (3,), np.float32)

#: Optimizers whose steps are far too large. The entropy bonus keeps the policy from an end where nothing moves it.
ADAM: dict[str, Any] = {"learning_rate": 2.0, "ent_coef": 0.5}
SGD: dict[str, Any] = {
    "learning_rate": 20.0,
    "ent_coef": 0.5,
    "policy_kwargs": TINY | {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {}},
}
every_optimizer = pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["Adam", "SGD"])
every_space = pytest.mark.parametrize("action_space", [None, BOX], ids=["Discrete", "Box"])
BACKTRACK: dict[str, Any] = {"target_kl": TARGET, "kl_constraint": "backtrack"}


def random_env(action_space: spaces.Space[Any] | None = None, n_envs: int = 2) -> DummyVecEnv:
    """Episodes of about 4 steps, of random observations, paid for the action."""
    action_space = spaces.Discrete(3) if action_space is None else action_space
    return DummyVecEnv([partial(RandomEnv, action_space, OBSERVED, 10, 0.25)] * n_envs)


def ispg(action_space: spaces.Space[Any] | None = None, **kwargs: Any) -> OffPolicyISPG:
    """A small model that uses every row of its rollouts: 32 of them."""
    settings: dict[str, Any] = {"incomplete_episodes": "truncate", "normalize_advantage": True, "n_epochs": 4}
    model = make(OffPolicyISPG, random_env(action_space), **settings | kwargs)
    assert isinstance(model, OffPolicyISPG)
    return model


# --- watching from outside ------------------------------------------------------------------------------------------

Described = tuple[th.Tensor, ...]
"""The numbers that a distribution is made of: log-probs of all actions, or means and standard deviations."""


def described(policy: ActorCriticPolicy, observations: Observations) -> Described:
    """What the policy does, as it acts: in evaluation mode."""
    was_training = policy.training
    policy.set_training_mode(False)
    with th.no_grad():
        distribution = policy.get_distribution(observations).distribution
    policy.set_training_mode(was_training)
    if isinstance(distribution, th.distributions.Normal):
        return distribution.mean.double(), distribution.stddev.double()
    assert isinstance(distribution, th.distributions.Categorical)
    return (distribution.logits.double().log_softmax(dim=-1),)


def kl_of(old: Described, new: Described) -> th.Tensor:
    """KL(old || new) of each row, by the textbook's formulas."""
    if len(old) == 1:
        return (old[0].exp() * (old[0] - new[0])).sum(dim=-1)
    (mean0, std0), (mean1, std1) = old, new
    return ((std1 / std0).log() + (std0**2 + (mean0 - mean1) ** 2) / (2 * std1**2) - 0.5).sum(dim=-1)


@dataclass
class Seen:
    """An update as it looked from outside.

    :param steps: KL(old || new) over the states of the rollout after each step of the optimizer, before it is halved
    :param sample_sizes: effective sample size of the rollout after each step, as a fraction
    :param kl: after the update
    :param moved: whether a parameter of the actor changed
    :param ratios: pi_new / pi_old of each row after the update
    """

    batch: EpisodeBatch
    before: Described
    actor: dict[str, th.Tensor]
    steps: list[float] = field(default_factory=list)
    sample_sizes: list[float] = field(default_factory=list)
    kl: float = 0.0
    moved: bool = False
    ratios: th.Tensor = field(default_factory=lambda: th.ones(0))
    logged: dict[str, float] = field(default_factory=dict)


class Watch(BaseCallback):
    """Measures every update of a model.

    :param each_step: also after every step of the optimizer
    """

    model: PolicyGradientAlgorithm

    def __init__(self, each_step: bool = True) -> None:
        super().__init__()
        self.each_step = each_step
        self.updates: list[Seen] = []
        self._open = False

    def _on_training_start(self) -> None:
        if self.each_step:
            self.model.policy.optimizer.register_step_post_hook(self._after_step)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        batch = self.model.rollout_buffer.batch
        assert batch is not None
        actor = {name: p.detach().clone() for name, p in self.model.policy.named_parameters() if "value" not in name}
        self.updates.append(Seen(batch, described(self.model.policy, batch.observations), actor))
        self._open = True

    def _after_step(self, *_: Any) -> None:
        seen = self.updates[-1]
        seen.steps.append(float(self._kl(seen).mean()))
        seen.sample_sizes.append(sample_size(self._ratios(seen)))

    def _on_rollout_start(self) -> None:
        if not self._open:
            return
        seen = self.updates[-1]
        seen.kl, seen.ratios = float(self._kl(seen).mean()), self._ratios(seen)
        parameters = dict(self.model.policy.named_parameters())
        seen.moved = any(not th.equal(parameters[name], value) for name, value in seen.actor.items())
        seen.logged = {
            key.removeprefix("train/"): value
            for key, value in self.logger.name_to_value.items()
            if key.startswith("train/")
        }
        self._open = False

    def _on_training_end(self) -> None:
        self._on_rollout_start()

    def _kl(self, seen: Seen) -> th.Tensor:
        return kl_of(seen.before, described(self.model.policy, seen.batch.observations))

    def _ratios(self, seen: Seen) -> th.Tensor:
        policy, batch = self.model.policy, seen.batch
        was_training = policy.training
        policy.set_training_mode(False)
        with th.no_grad():
            log_prob = policy.evaluate_actions(batch.observations, batch.actions)[1]
        policy.set_training_mode(was_training)
        return (log_prob - batch.behaviour_log_prob).double().exp()


def sample_size(weights: th.Tensor) -> float:
    """(sum w)^2 / (n sum w^2)."""
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))


def watched(model: OffPolicyISPG, n_updates: int, each_step: bool = True) -> list[Seen]:
    """Let it learn, and see how far every update goes."""
    watch = Watch(each_step)
    model.learn(n_updates * model.n_steps * model.n_envs, callback=watch)
    assert len(watch.updates) == n_updates
    return watch.updates


# --- the KL ---------------------------------------------------------------------------------------------------------

#: Action space -> whether the policy is one of state-dependent exploration.
POLICIES = {name: (space, False) for name, space in ACTION_SPACES.items()} | {"gSDE": (BOX, True)}
every_policy = pytest.mark.parametrize("name", POLICIES)
every_finite = pytest.mark.parametrize("name", ["Discrete", "MultiDiscrete", "MultiBinary"])


def two_policies(name: str) -> tuple[ActorCriticPolicy, ActorCriticPolicy, EpisodeBatch]:
    """A policy, another one, and states; in float64."""
    action_space, use_sde = POLICIES[name]
    batch = policy_and_batch(action_space)[1]
    generator = th.Generator().manual_seed(2)
    pair = []
    for _ in range(2):
        policy = ActorCriticPolicy(
            spaces.Box(-1, 1, (4,)), action_space, lambda _: 0.0, net_arch=[3], ortho_init=False, use_sde=use_sde
        )
        policy = double_precision(policy)
        with th.no_grad():
            for parameter in policy.parameters():
                parameter.copy_(0.5 * th.randn(parameter.shape, generator=generator, dtype=th.float64))
        pair.append(policy)
    return pair[0], pair[1], batch


def enumerated_kl(old: ActorCriticPolicy, new: ActorCriticPolicy, batch: EpisodeBatch, name: str) -> th.Tensor:
    """sum_a pi_old(a|s) (log pi_old(a|s) - log pi_new(a|s)) over every action, of each row."""
    total = th.zeros(batch.episodes.n_rows, dtype=th.float64)
    for action in actions_of(POLICIES[name][0]):
        actions = th.tensor([action] * len(total), dtype=th.float64 if name == "MultiBinary" else th.long)
        ours, theirs = (policy.evaluate_actions(batch.observations, actions)[1] for policy in (old, new))
        total = total + ours.exp() * (ours - theirs)
    return total


def closed_kl(old: ActorCriticPolicy, new: ActorCriticPolicy, batch: EpisodeBatch) -> th.Tensor:
    """What :func:`policy_kl` says of each row."""
    return policy_kl(old.get_distribution(batch.observations), new.get_distribution(batch.observations))


@every_finite
def test_kl_is_the_sum_over_all_actions(name: str) -> None:
    """The joint KL, of each row, from old to new and not the other way round."""
    old, new, batch = two_policies(name)
    th.testing.assert_close(closed_kl(old, new, batch), enumerated_kl(old, new, batch, name))
    assert (closed_kl(old, new, batch) - closed_kl(new, old, batch)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["Box", "gSDE"])
def test_kl_is_the_integral_over_all_actions(name: str) -> None:
    """A double integral by the trapezoidal rule, and the textbook's formula."""
    old, new, batch = two_policies(name)
    kl = closed_kl(old, new, batch).detach()
    pair = [described(policy, batch.observations) for policy in (old, new)]
    th.testing.assert_close(kl, kl_of(*pair))
    for row in range(batch.episodes.n_rows):
        mean0, std0 = (value[row] for value in pair[0])
        axes = [th.linspace(-9, 9, 181, dtype=th.float64) * std0[i] + mean0[i] for i in range(2)]
        area = float(th.stack([axis[1] - axis[0] for axis in axes]).prod())
        actions = th.cartesian_prod(*axes)
        assert isinstance(batch.observations, th.Tensor)
        observations = batch.observations[row : row + 1].expand(len(actions), -1)
        ours, theirs = (policy.evaluate_actions(observations, actions)[1].detach() for policy in (old, new))
        assert float(ours.exp().sum()) * area == pytest.approx(1, abs=1e-9)
        assert float((ours.exp() * (ours - theirs)).sum()) * area == pytest.approx(float(kl[row]), rel=1e-9)


@every_finite
def test_kl_where_a_probability_is_too_small_for_its_precision(name: str) -> None:
    """As long as its logarithm is not: two actions, one of which the new policy all but never takes."""
    distributions = {"Discrete": CategoricalDistribution(2), "MultiDiscrete": MultiCategoricalDistribution([2])}
    old, new = (copy.copy(distributions.get(name, BernoulliDistribution(1))) for _ in range(2))
    for distribution, log_odds in ((old, 20.0), (new, 200.0)):
        logits = th.tensor([[log_odds, 0.0]])
        distribution.proba_distribution(logits[:, :1] if name == "MultiBinary" else logits)
    kl, rare = policy_kl(old, new), math.exp(-20.0) / (1 + math.exp(-20.0))
    assert float(kl) == pytest.approx(rare * 179.0, abs=1.5 * rare)  # the common action's share is below precision


@every_policy
def test_kl_of_equal_policies_is_0(name: str) -> None:
    old, _, batch = two_policies(name)
    assert closed_kl(old, old, batch).abs().max() <= 1e-14
    assert closed_kl(old, old, batch).shape == (batch.episodes.n_rows,)


def moving(
    old: ActorCriticPolicy, new: ActorCriticPolicy, batch: EpisodeBatch, size: int | None = None
) -> tuple[Divergence, ActorCriticPolicy]:
    """The divergence of a policy that was the old one when it was made, and that policy, which is the new one now."""
    policy = frozen_copy(old).requires_grad_(True)
    divergence = Divergence(policy, batch, size)
    policy.load_state_dict(new.state_dict())
    return divergence, policy


@every_policy
@pytest.mark.parametrize("size", [1, 4, 6, 100])
def test_mean_kl_in_micro_batches(name: str, size: int) -> None:
    """In pieces or in one: the mean over all rows, or over some; the new policy stays in the mode that it was in."""
    old, new, batch = two_policies(name)
    rows = th.tensor([5, 0, 3, 2, 1])
    some = Minibatch(rows, len(rows), None, len(rows) / batch.episodes.n_rows)
    kl = closed_kl(old, new, batch).detach()
    divergence, new = moving(old, new, batch, size)
    for is_training in (True, False):
        new.set_training_mode(is_training)
        assert divergence.mean() == pytest.approx(float(kl.mean()), rel=1e-12)
        assert divergence.mean(some) == pytest.approx(float(kl[rows].mean()), rel=1e-12)
        assert divergence.mean(whole_batch(batch)) == divergence.mean()
        assert new.training == is_training


@every_finite
def test_gradient_of_the_summed_kl(name: str) -> None:
    """With respect to the new policy, as by differentiating the sum over all actions."""
    old, new, batch = two_policies(name)
    divergence, new = moving(old, new, batch)
    rows = th.tensor([4, 1])
    actor = [parameter for name, parameter in new.named_parameters() if "value" not in name]
    ours = th.autograd.grad(divergence.summed(rows), actor)
    theirs = th.autograd.grad(enumerated_kl(old, new, batch, name)[rows].sum(), actor)
    for one, other in zip(ours, theirs, strict=True):
        th.testing.assert_close(one, other)


class NoClosedForm(th.distributions.Distribution):
    """A categorical distribution that PyTorch knows no KL of."""

    def __init__(self, logits: th.Tensor) -> None:
        super().__init__(logits.shape[:-1], validate_args=False)
        self.logits = logits.log_softmax(dim=-1)

    def sample(self, sample_shape: Any = ()) -> th.Tensor:
        return th.distributions.Categorical(logits=self.logits).sample(sample_shape)

    def log_prob(self, value: th.Tensor) -> th.Tensor:
        return self.logits.gather(-1, value.long()[..., None])[..., 0]


class OwnDistribution(CategoricalDistribution):
    """An SB3 distribution of a user's, with neither a KL nor an entropy."""

    def proba_distribution(self, action_logits: th.Tensor) -> OwnDistribution:
        self.distribution = NoClosedForm(action_logits)  # type: ignore[assignment]
        return self

    def entropy(self) -> Any:
        return None


class OwnPolicy(ActorPolicy):
    """A policy with :class:`OwnDistribution`."""

    def _build(self, lr_schedule: Any) -> None:
        self.action_dist = OwnDistribution(int(self.action_space.n))  # type: ignore[attr-defined]
        super()._build(lr_schedule)


def test_estimate_where_there_is_no_closed_form() -> None:
    """Weighted by the old policy's probabilities, the estimate over all actions is the KL; it is never negative."""
    th.manual_seed(0)
    logits = th.randn(2, 5, 3, dtype=th.float64)
    old, new = (OwnDistribution(3).proba_distribution(one) for one in logits)
    of_action = [policy_kl(old, new, th.full((5,), action)) for action in range(3)]
    assert min(float(estimate.min()) for estimate in of_action) >= 0
    probabilities = old.distribution.logits.exp()
    estimated = sum(probabilities[:, action] * of_action[action] for action in range(3))
    known = [CategoricalDistribution(3).proba_distribution(one) for one in logits]
    th.testing.assert_close(estimated, policy_kl(known[0], known[1]))
    with pytest.raises(NotImplementedError):
        policy_kl(old, new)


@pytest.mark.parametrize("kl_constraint", ["stop", "backtrack", "penalty"])
def test_every_constraint_without_a_closed_form(kl_constraint: Any) -> None:
    """A policy whose distribution has no KL learns, and what is logged is the estimate from its own actions."""
    model = ispg(policy=OwnPolicy, kl_constraint=kl_constraint, target_kl=TARGET, learning_rate=0.05)
    model.learn(320)
    batch = model.rollout_buffer.batch
    assert batch is not None
    log_prob = model.policy.evaluate_actions(batch.observations, batch.actions)[1].detach().double()
    log_ratio = log_prob - batch.behaviour_log_prob
    estimate = float((log_ratio.exp() - 1 - log_ratio).mean())
    logged = model.logger.name_to_value["train/approx_kl"]
    assert logged == pytest.approx(estimate, abs=1e-6)
    assert 0 < logged and (kl_constraint != "backtrack" or logged <= TARGET)


# --- the policy as it was -------------------------------------------------------------------------------------------


class Extractor(BaseFeaturesExtractor):
    """Features with parameters, and arguments of their own.

    :param drop: share of them that is dropped in training
    """

    def __init__(self, observation_space: spaces.Box, width: int, drop: float = 0.0) -> None:
        super().__init__(observation_space, width)
        size = int(np.prod(observation_space.shape))
        layers = [th.nn.Flatten(), th.nn.Linear(size, width), th.nn.Tanh(), th.nn.Dropout(drop)]
        self.network = th.nn.Sequential(*layers)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.network(observations)


class OwnArguments(ActorCriticPolicy):
    """A policy of a user's with an argument of its own, which it does not tell SB3 about."""

    def __init__(self, *args: Any, width: int = 4, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"net_arch": [width]})


IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICTIONARY = spaces.Dict({"a": OBSERVED, "b": spaces.Discrete(3)})
EXTRACTED: dict[str, Any] = TINY | {"features_extractor_class": Extractor}

#: Class, spaces, arguments.
ORIGINALS: dict[str, tuple[type[ActorCriticPolicy], spaces.Space[Any], spaces.Space[Any], dict[str, Any]]] = {
    "plain": (ActorCriticPolicy, OBSERVED, spaces.Discrete(3), TINY),
    "two networks": (ActorCriticPolicy, OBSERVED, BOX, {"net_arch": {"pi": [4], "vf": [7, 5]}}),
    "no critic": (ActorPolicy, OBSERVED, spaces.MultiDiscrete([2, 3]), TINY),
    "gSDE": (ActorCriticPolicy, OBSERVED, BOX, TINY | {"use_sde": True}),
    "squashed gSDE": (ActorCriticPolicy, OBSERVED, BOX, TINY | {"use_sde": True, "squash_output": True}),
    "own features": (
        ActorCriticPolicy,
        OBSERVED,
        spaces.Discrete(3),
        EXTRACTED | {"features_extractor_kwargs": {"width": 5}},
    ),
    "own features of actor and critic": (
        ActorCriticPolicy,
        OBSERVED,
        spaces.Discrete(3),
        EXTRACTED | {"features_extractor_kwargs": {"width": 5}, "share_features_extractor": False},
    ),
    "dropout": (
        ActorCriticPolicy,
        OBSERVED,
        spaces.Discrete(3),
        EXTRACTED | {"features_extractor_kwargs": {"width": 5, "drop": 0.5}},
    ),
    "own distribution": (OwnPolicy, OBSERVED, spaces.Discrete(3), TINY),
    "own arguments": (OwnArguments, OBSERVED, spaces.Discrete(3), {"width": 6}),
    "dictionary": (MultiInputActorCriticPolicy, DICTIONARY, spaces.MultiBinary(2), TINY),
    "images": (
        ActorCriticCnnPolicy,
        IMAGE,
        spaces.Discrete(3),
        TINY | {"features_extractor_kwargs": {"features_dim": 8}},
    ),
    "raw images": (
        ActorCriticPolicy,
        IMAGE,
        spaces.Discrete(3),
        EXTRACTED | {"features_extractor_kwargs": {"width": 5}, "normalize_images": False},
    ),
}
every_original = pytest.mark.parametrize("name", ORIGINALS)


def original(name: str) -> tuple[ActorCriticPolicy, Observations, th.Tensor]:
    """A policy with parameters far from those of its construction, observations, and actions."""
    policy_class, observation_space, action_space, kwargs = ORIGINALS[name]
    th.manual_seed(0)
    policy = policy_class(observation_space, action_space, lambda _: 1e-3, **kwargs)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * th.randn_like(parameter))
    observation_space.seed(0)
    action_space.seed(0)
    observations = policy.obs_to_tensor(_stacked([observation_space.sample() for _ in range(5)]))[0]
    actions = th.as_tensor(np.array([action_space.sample() for _ in range(5)]))
    if isinstance(action_space, spaces.MultiBinary):
        actions = actions.float()
    return policy, observations, actions


def _stacked(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)


def outputs(policy: ActorCriticPolicy, observations: Observations, actions: th.Tensor) -> list[th.Tensor]:
    """Values, log-probs and (where there are any) entropies."""
    return [one for one in policy.evaluate_actions(observations, actions) if one is not None]


@every_original
def test_frozen_copy(name: str) -> None:
    """It says what the policy says, learns nothing, draws nothing, and stays as it is when the policy moves on."""
    policy, observations, actions = original(name)
    policy.set_training_mode(False)
    states = th.get_rng_state(), np.random.get_state(legacy=False)
    frozen = frozen_copy(policy)
    assert th.equal(th.get_rng_state(), states[0])
    np.testing.assert_equal(np.random.get_state(legacy=False), states[1])
    assert type(frozen) is type(policy)
    assert not frozen.training
    before = outputs(frozen, observations, actions)
    assert differences(before, [one.detach() for one in outputs(policy, observations, actions)]) == []
    assert not any(one.requires_grad for one in [*before, *frozen.parameters()])
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1)
    policy.set_training_mode(True)
    assert differences(before, outputs(frozen, observations, actions)) == []
    assert differences(before, [one.detach() for one in outputs(policy, observations, actions)]) != []


@every_original
def test_frozen_copy_follows_a_state_dict(name: str) -> None:
    """What the algorithm does at every further update: load the parameters of the moment."""
    policy, observations, actions = original(name)
    frozen = frozen_copy(policy)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * th.randn_like(parameter))
    frozen.load_state_dict(policy.state_dict())
    policy.set_training_mode(False)
    ours, theirs = (outputs(one, observations, actions) for one in (frozen, policy))
    assert differences(ours, [one.detach() for one in theirs]) == []
    assert not frozen.training and not any(one.requires_grad for one in [*ours, *frozen.parameters()])


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"action_space": BOX},
        {"action_space": BOX, "use_sde": True, "sde_sample_freq": 4},
        {"policy_kwargs": EXTRACTED | {"features_extractor_kwargs": {"width": 5, "drop": 0.5}}},
        {
            **JOINT_CRITIC,
            "policy_kwargs": EXTRACTED | {"features_extractor_kwargs": {"width": 5}, "share_features_extractor": False},
        },
        {**JOINT_CRITIC, "policy": OwnArguments, "policy_kwargs": {"width": 6}},
        {"n_reused_batches": 3},
    ],
    ids=["plain", "Box", "gSDE", "dropout", "features of actor and critic", "own arguments", "reused batches"],
)
def test_logged_kl_is_from_the_policy_as_it_was(kwargs: dict[str, Any]) -> None:
    """``train/approx_kl`` of every update, whatever the policy's class, and after many of them."""
    model = ispg(**kwargs | {"incomplete_episodes": "truncate"}, learning_rate=0.03)
    for seen in watched(model, 20):
        assert seen.logged["approx_kl"] == pytest.approx(seen.kl, rel=1e-4, abs=1e-6)
        assert seen.moved and seen.kl > 1e-6


# --- "backtrack" ----------------------------------------------------------------------------------------------------

#: The bound is kept as it is computed, in float32: in float64 the KL may be above it by a rounding error.
BOUND = TARGET * (1 + 1e-6)


def assert_bounded(updates: list[Seen]) -> None:
    """The bound held after every update; most steps would have passed it by far; the policy moved all the same."""
    assert max(seen.kl for seen in updates) <= BOUND
    assert median(kl for seen in updates for kl in seen.steps) > 10 * TARGET
    moved = [seen.kl for seen in updates if seen.moved]
    assert len(moved) > len(updates) / 2
    assert max(moved) > TARGET / 2, "a bound that is never nearly reached proves nothing"


@every_space
@every_optimizer
@pytest.mark.parametrize("n_epochs", [1, 4])
@pytest.mark.parametrize("batch_size", [None, 16])
def test_backtracking_keeps_the_bound(
    action_space: Any, optimizer: dict[str, Any], n_epochs: int, batch_size: int | None
) -> None:
    """Under a learning rate that is far too large, after each of 60 updates."""
    assert_bounded(watched(ispg(action_space, n_epochs=n_epochs, batch_size=batch_size, **BACKTRACK | optimizer), 60))


def test_backtracking_keeps_the_bound_over_500_updates() -> None:
    assert_bounded(watched(ispg(n_epochs=2, batch_size=16, **BACKTRACK | ADAM), 500))


@pytest.mark.parametrize(
    "kwargs",
    [
        JOINT_CRITIC,
        {"policy_kwargs": EXTRACTED | {"features_extractor_kwargs": {"width": 5, "drop": 0.5}}},
        {"action_space": BOX, "use_sde": True},
        {"n_reused_batches": 2, "micro_batch_size": 7},
        {"clip_range": 0.2, "batch_size": 16},
    ],
    ids=["joint critic", "dropout", "gSDE", "reused batches", "clipped"],
)
def test_backtracking_keeps_the_bound_for(kwargs: dict[str, Any]) -> None:
    """Other models: the KL is that of the policy as it acts, and over the states of this rollout alone."""
    assert_bounded(watched(ispg(**ADAM | kwargs | BACKTRACK | {"incomplete_episodes": "truncate"}), 30))


@every_space
@every_optimizer
def test_without_a_bound_it_is_passed(action_space: Any, optimizer: dict[str, Any]) -> None:
    """What the same settings do without: the first update of 15 models."""
    models = [ispg(action_space, n_epochs=1, target_kl=None, seed=seed, **optimizer) for seed in range(15)]
    kls = [watched(model, 1)[0].kl for model in models]
    assert median(kls) > 10 * TARGET
    assert sum(kl > TARGET for kl in kls) >= 13


@dataclass
class Tried:
    """A step of a trust region.

    :param full: the parameters after the optimizer's own step
    """

    before: list[th.Tensor]
    full: list[th.Tensor]
    after: list[th.Tensor]
    is_within: bool
    critic_moved: bool


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Tried]:
    """Every step that a trust region takes."""
    every: list[Tried] = []
    genuine = TrustRegion.step

    def step(region: TrustRegion, optimizer: th.optim.Optimizer) -> bool:
        full: list[th.Tensor] = []
        full_of_critic: list[th.Tensor] = []

        def now(is_critic: bool = False) -> list[th.Tensor]:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            return [p.detach().clone() for p in parameters if (p in region.critic) == is_critic]

        def note(*_: Any) -> None:
            full.extend(now())
            full_of_critic.extend(now(is_critic=True))

        handle = optimizer.register_step_post_hook(note)
        before, critic = now(), now(is_critic=True)
        is_within = genuine(region, optimizer)
        handle.remove()
        assert differences(full_of_critic, now(is_critic=True)) == [], "no bound holds the critic back"
        every.append(Tried(before, full, now(), is_within, differences(critic, full_of_critic) != []))
        return is_within

    monkeypatch.setattr(TrustRegion, "step", step)
    return every


def difference(one: list[th.Tensor], other: list[th.Tensor]) -> th.Tensor:
    """From one to the other, flat and in float64."""
    return th.cat([(b.double() - a.double()).flatten() for a, b in zip(one, other, strict=True)])


@every_space
@every_optimizer
@pytest.mark.parametrize("estimator", [{}, JOINT_CRITIC], ids=["actor", "joint critic"])
def test_halved_steps_lie_on_the_line_between(
    tried: list[Tried], action_space: Any, optimizer: dict[str, Any], estimator: dict[str, Any]
) -> None:
    """What is left of a step is a power of 1/2 of it, in every parameter of the actor; or nothing, bit for bit."""
    kwargs = BACKTRACK | optimizer | estimator | {"incomplete_episodes": "truncate", "batch_size": 16}
    ispg(action_space, **kwargs).learn(40 * 32)
    shares = []
    for one in tried:
        full, taken = difference(one.before, one.full), difference(one.before, one.after)
        if not one.is_within:
            assert differences(one.before, one.after) == []
            shares.append(0.0)
            continue
        share = float(taken @ full / (full @ full))
        n_halvings = round(-np.log2(share))
        assert 0 <= n_halvings <= MAX_HALVINGS
        scale = max(float(p.abs().max()) for p in [*one.before, *one.full])
        th.testing.assert_close(taken, full * 0.5**n_halvings, rtol=1e-5, atol=1e-6 * scale)
        shares.append(0.5**n_halvings)
    assert 0 < sum(0 < share < 1 for share in shares)
    assert len(set(shares)) > 3, "steps of several lengths"
    assert all(one.critic_moved == bool(estimator) for one in tried)


@every_space
@every_optimizer
def test_a_step_that_cannot_be_halved_enough_is_undone(
    tried: list[Tried], action_space: Any, optimizer: dict[str, Any]
) -> None:
    """Under a bound that nothing meets the parameters stay as they are, bit for bit, and the update ends."""
    model = ispg(action_space, **BACKTRACK | optimizer | {"target_kl": 1e-30, "batch_size": 16})
    updates = watched(model, 5)
    assert [seen.moved for seen in updates] == [False] * 5
    assert [seen.kl for seen in updates] == [0.0] * 5
    assert len(tried) == 5, "one step an update was tried"
    assert all(differences(one.before, one.after) == [] for one in tried)
    assert all(float(difference(one.before, one.full).norm()) > 0.1 for one in tried)


@every_space
@pytest.mark.parametrize("learning_rate", [1e3, 1e38])
def test_backtracking_from_where_there_is_no_policy(action_space: Any, learning_rate: float) -> None:
    """A step to where the distribution does not exist (a deviation of 0 or inf) is a step too far, and is undone.

    PyTorch raises a ValueError there. It must not leave the model with these parameters.
    """
    model = ispg(action_space, **BACKTRACK | SGD | {"learning_rate": learning_rate})
    updates = watched(model, 10, each_step=False)
    assert max(seen.kl for seen in updates) <= BOUND
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())


# --- "stop" ---------------------------------------------------------------------------------------------------------


def assert_stopped_at(limit: float, after_steps: list[float], n_most: int, is_over: Callable[[float], bool]) -> None:
    """An update went on until a step took it over the limit, or as long as it could."""
    assert after_steps, "the first step is always taken"
    assert not any(is_over(value) for value in after_steps[:-1]), f"went on past {limit}: {after_steps}"
    assert len(after_steps) == n_most or is_over(after_steps[-1]), f"stopped before {limit}: {after_steps}"


@every_space
@pytest.mark.parametrize("learning_rate", [0.01, 0.05, 2.0])
def test_stop(action_space: Any, learning_rate: float) -> None:
    """No step after the one that took the KL over 1.5 times the target, none left out before; epochs are counted.

    The KL that decides is that after the step before, not the 0 of the policy with itself (OpenAI's Spinning Up,
    issue 211).
    """
    model = ispg(action_space, target_kl=TARGET, kl_constraint="stop", n_epochs=10, learning_rate=learning_rate)
    updates = watched(model, 30)
    for seen in updates:
        assert_stopped_at(1.5 * TARGET, seen.steps, 10, lambda kl: kl > 1.5 * TARGET)
        assert seen.logged["epochs"] == len(seen.steps)
        assert seen.kl == seen.steps[-1]
    n_steps = [len(seen.steps) for seen in updates]
    assert min(n_steps) < 10
    if learning_rate == 2.0:
        assert median(n_steps) == 1, "one step is far too much"
    if learning_rate == 0.01:
        assert max(n_steps) > 2, "the KL of the step before is not that of the first"
    assert model._n_updates == sum(n_steps)


def test_stop_looks_at_the_rows_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """In minibatches as SB3's PPO does; the epoch that a step was taken in counts."""
    model = ispg(target_kl=TARGET, kl_constraint="stop", n_epochs=10, learning_rate=0.03, batch_size=10)
    watch, asked = Watch(), []
    genuine = TrustRegion.must_stop

    def must_stop(region: TrustRegion, part: Minibatch) -> bool:
        answer = genuine(region, part)
        seen = watch.updates[-1]
        asked.append((float(watch._kl(seen)[part.rows].mean()), answer, len(watch.updates), len(seen.steps)))
        return answer

    monkeypatch.setattr(TrustRegion, "must_stop", must_stop)
    model.learn(30 * 32, callback=watch)
    for kl, answer, _, _ in asked:
        if kl != pytest.approx(1.5 * TARGET, rel=1e-4):
            assert answer == (kl > 1.5 * TARGET)
    answers = [answer for _, answer, _, _ in asked]
    assert any(answers) and not all(answers)
    for number, seen in enumerate(watch.updates, start=1):
        mine = [(answer, n_steps) for _, answer, update, n_steps in asked if update == number]
        # Asked before each step but the first, and for the last time where the answer was yes
        assert [n_steps for _, n_steps in mine] == list(range(1, len(mine) + 1))
        assert [answer for answer, _ in mine[:-1]] == [False] * (len(mine) - 1)
        assert len(seen.steps) == len(mine) + (not mine[-1][0])
        assert seen.logged["epochs"] == -(-len(seen.steps) // 4), "4 minibatches of 32 rows"


@pytest.mark.parametrize("target_kl", [1e6, None])
@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_bound_far_away_stops_nothing(target_kl: float | None, batch_size: int | None) -> None:
    """Every step of every epoch is taken."""
    model = ispg(target_kl=target_kl, n_epochs=5, batch_size=batch_size, learning_rate=0.05, ent_coef=0.5)
    for seen in watched(model, 10):
        assert len(seen.steps) == (5 if batch_size is None else 10)
        assert seen.logged["epochs"] == 5
        assert max(seen.steps) > 1e-3


# --- "penalty" ------------------------------------------------------------------------------------------------------


def test_penalty_adapts_its_coefficient(tmp_path: Path) -> None:
    """Doubled above 1.5 times the target, halved below 2/3 of it, kept in between; saved, loaded, logged."""
    model = ispg(target_kl=TARGET, kl_constraint="penalty", kl_coef=2.0, learning_rate=0.05, ent_coef=0.5)
    updates = watched(model, 60)
    coefs = [2.0, *(seen.logged["kl_coef"] for seen in updates)]
    factors = []
    for seen, (before, after) in zip(updates, pairwise(coefs), strict=True):
        expected = 2.0 if seen.kl > 1.5 * TARGET else 0.5 if seen.kl < TARGET / 1.5 else 1.0
        assert after == pytest.approx(expected * before), seen.kl
        factors.append(expected)
    assert set(factors) == {0.5, 1.0, 2.0}
    assert all(len(seen.steps) == 4 for seen in updates), "a penalty stops nothing"
    assert model.kl_coef == coefs[-1] != 2.0
    model.save(tmp_path / "model")
    assert OffPolicyISPG.load(tmp_path / "model", device="cpu").kl_coef == model.kl_coef


@pytest.mark.parametrize(("kl_coef", "kl", "expected"), [(9e5, 1.0, 1e6), (1.5e-6, 0.0, 1e-6), (3.0, TARGET, 3.0)])
def test_coefficient_of_the_penalty_is_bounded(kl_coef: float, kl: float, expected: float) -> None:
    """Between 1e-6 and 1e6, so that a run that cannot move, or cannot stay, comes back from it."""
    region = TrustRegion(TARGET, "penalty", kl_coef, None, None)  # type: ignore[arg-type]
    assert region.adapted_coef(kl) == expected


@every_space
@pytest.mark.parametrize("learning_rate", [0.05, 0.1])
def test_penalty_brings_the_kl_near_to_the_target(action_space: Any, learning_rate: float) -> None:
    """Where steps are too large, the KL of the last 30 of 60 updates is nearer to the target than without."""
    settings = {"learning_rate": learning_rate, "ent_coef": 0.5, "n_epochs": 5}
    with_penalty = watched(ispg(action_space, target_kl=TARGET, kl_constraint="penalty", **settings), 60)
    without = watched(ispg(action_space, target_kl=None, **settings), 60)
    ours, theirs = (mean(seen.kl for seen in updates[30:]) for updates in (with_penalty, without))
    assert abs(ours - TARGET) < abs(theirs - TARGET) / 2


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("micro_batch_size", [None, 5])
def test_penalty_is_the_mean_kl_over_the_rows_of_the_step(
    monkeypatch: pytest.MonkeyPatch, batch_size: int | None, micro_batch_size: int | None
) -> None:
    """The first step has no KL, and is that without a penalty; the second has the gradient of kl_coef * KL added."""
    parts: list[Minibatch] = []

    def noted(*arguments: Any) -> Iterator[Minibatch]:
        for part in minibatches(*arguments):
            parts.append(part)
            yield part

    replace_everywhere(monkeypatch, minibatches, noted)

    def steps(kl_coef: float) -> list[tuple[th.Tensor, th.Tensor]]:
        """The gradient of each step, and that of the KL."""
        settings: dict[str, Any] = {"kl_constraint": "penalty", "target_kl": TARGET, "kl_coef": kl_coef}
        settings |= {"batch_size": batch_size, "micro_batch_size": micro_batch_size, "n_epochs": 2}
        model = ispg(learning_rate=0.05, max_grad_norm=None, **settings)
        actor, watch = list(model.policy.parameters()), Watch()
        seen: list[tuple[th.Tensor, th.Tensor]] = []

        def note(*_: Any) -> None:
            update = watch.updates[-1]
            distribution = model.policy.get_distribution(update.batch.observations).distribution
            assert isinstance(distribution, th.distributions.Categorical)
            logits = distribution.logits
            kl = (update.before[0].exp() * (update.before[0] - logits)).sum(dim=-1)[parts[-1].rows].mean()
            of_kl = th.cat([part.flatten() for part in th.autograd.grad(kl, actor)])
            seen.append((flat_gradient(model.policy), of_kl))

        model.policy.optimizer.register_step_pre_hook(note)
        model.learn(32, callback=watch)
        return seen

    free, penalised = steps(1e-9), steps(3.0)
    th.testing.assert_close(free[0][0], penalised[0][0])
    assert penalised[1][1].norm() > 1e-3
    th.testing.assert_close(penalised[1][0] - free[1][0], 3 * penalised[1][1].float(), rtol=1e-3, atol=1e-5)


# --- min_ess, and what is logged ------------------------------------------------------------------------------------


@every_space
@pytest.mark.parametrize("min_ess", [0.9, 0.999999])
def test_min_ess(action_space: Any, min_ess: float) -> None:
    """No step after the one that took the effective sample size below the fraction; at least one step an update."""
    model = ispg(action_space, target_kl=None, min_ess=min_ess, n_epochs=10, learning_rate=0.03)
    updates = watched(model, 30)
    for seen in updates:
        assert_stopped_at(min_ess, seen.sample_sizes, 10, lambda ess: ess < min_ess)
        assert seen.logged["epochs"] == len(seen.steps)
    n_steps = [len(seen.steps) for seen in updates]
    assert max(n_steps) > 1 if min_ess == 0.9 else max(n_steps) <= 2
    assert min(n_steps) < 10


@every_space
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"clip_range": 0.2},
        {"max_weight": 1.1},
        {"max_weight": 1.1, "self_normalize": True},
        {"clip_range": lambda left: 0.3 * left},
        {"batch_size": 10},
    ],
    ids=["plain", "clip_range", "max_weight", "self-normalized", "clip_range schedule", "batch_size"],
)
def test_logged_of_the_weights(action_space: Any, kwargs: dict[str, Any]) -> None:
    """Every number as computed from the log-probs of before and after the update."""
    n_updates = 15
    model = ispg(action_space, target_kl=None, n_epochs=3, learning_rate=0.03, **kwargs)
    clipped = []
    for number, seen in enumerate(watched(model, n_updates), start=1):
        weights = seen.ratios.clamp(max=kwargs.get("max_weight", np.inf))
        if "self_normalize" in kwargs:
            weights = weights / weights.mean()
        expected = {
            "ess": sample_size(weights),
            "ratio_max": float(weights.max()),
            "ratio_std": float(weights.std()),
            "approx_kl": seen.kl,
            "epochs": 3,
            "n_updates": 3 * number,
        }
        near = 1e-4
        if "clip_range" in kwargs:
            eps = kwargs["clip_range"]
            eps = max(0.0, eps(1 - number / n_updates)) if callable(eps) else eps
            assert seen.logged["clip_range"] == pytest.approx(eps)
            off = (seen.ratios - 1).abs() - eps
        else:
            assert "clip_range" not in seen.logged
            off = seen.ratios - kwargs.get("max_weight", np.inf)
        least, most = (off > near).float().mean(), (off > -near).float().mean()
        assert float(least) - 1e-6 <= seen.logged["clip_fraction"] <= float(most) + 1e-6
        clipped.append(seen.logged["clip_fraction"])
        for key, value in expected.items():
            assert seen.logged[key] == pytest.approx(value, rel=2e-4, abs=1e-5), key
        assert len(seen.steps) == (12 if "batch_size" in kwargs else 3)
    is_clipping = "clip_range" in kwargs or "max_weight" in kwargs
    assert (max(clipped) > 0.05) == is_clipping
