"""How far two policies are apart, and the policy as it was before an update."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
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

from sb3_pg import ActorPolicy
from sb3_pg.data.batch import EpisodeBatch, Observations
from sb3_pg.data.minibatches import Minibatch, whole_batch
from sb3_pg.policies.divergence import Divergence, frozen_copy, policy_kl
from tests.helpers.models import (
    ACTION_SPACES,
    EXTRACTED,
    JOINT_CRITIC,
    TINY,
    actions_of,
    differences,
    policy_and_batch,
)
from tests.helpers.recording import double_precision
from tests.helpers.updates import BOX, OBSERVED, TARGET, described, ispg, kl_of, watched

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


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


class OwnArguments(ActorCriticPolicy):
    """A policy of a user's with an argument of its own, which it does not tell SB3 about."""

    def __init__(self, *args: Any, width: int = 4, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"net_arch": [width]})


IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICTIONARY = spaces.Dict({"a": OBSERVED, "b": spaces.Discrete(3)})

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
