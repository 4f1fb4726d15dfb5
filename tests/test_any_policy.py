"""Any policy that A2C trains is trained, and by the same gradient."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from torch.nn.utils import parametrizations

from sb3_pg import ActorPolicy, OffPolicyISPG, VanillaPG
from sb3_pg.policies.fast.stock import is_stock
from sb3_pg.update.natural_gradient import FisherMatrix, make_natural
from tests.helpers.environments import diary
from tests.helpers.models import JOINT_CRITIC, OWN_CRITIC, TINY, every_algorithm, make
from tests.helpers.recording import Batches, log_to_memory
from tests.helpers.spies import replace_everywhere

BOX = spaces.Box(-1, 1, (2,))


class SharedTrunk(nn.Module):
    """A trunk, and a head on it for each of actor and critic."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = 6
        self.trunk = nn.Sequential(nn.Linear(n_features, 6), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(6, 6), nn.Tanh())

    def forward(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: th.Tensor) -> th.Tensor:
        return self.trunk(features)

    def forward_critic(self, features: th.Tensor) -> th.Tensor:
        return self.critic(self.trunk(features))


class SharedPolicy(ActorCriticPolicy):
    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = SharedTrunk(self.features_dim)  # type: ignore[assignment]


class FrozenTrunk(SharedPolicy):
    """Frozen when it is built, before its optimizer is."""

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        self.mlp_extractor.trunk.requires_grad_(False)


class Opaque(th.distributions.Distribution):
    """Of which nothing is known but what it draws, and how likely that was."""

    def __init__(self, inner: th.distributions.Distribution) -> None:
        super().__init__(validate_args=False)
        self.inner = inner

    def rsample(self, sample_shape: Any = ()) -> th.Tensor:
        return self.inner.rsample(sample_shape)

    def log_prob(self, value: th.Tensor) -> th.Tensor:
        return self.inner.log_prob(value)


class BetaDistribution(Distribution):
    """Of the user's: on (0, 1) for each dimension, without a word of how far two are apart."""

    def __init__(self, has_kl: bool) -> None:
        super().__init__()
        self.has_kl = has_kl

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def proba_distribution(self, parameters: th.Tensor) -> BetaDistribution:
        a, b = (1 + nn.functional.softplus(parameters)).chunk(2, dim=1)
        beta = th.distributions.Beta(a, b)
        self.distribution = beta if self.has_kl else Opaque(beta)
        return self

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        return self.distribution.log_prob(actions.clamp(1e-5, 1 - 1e-5)).sum(dim=1)  # type: ignore[union-attr]

    def entropy(self) -> th.Tensor | None:
        return self.distribution.entropy().sum(dim=1) if self.has_kl else None  # type: ignore[union-attr]

    def sample(self) -> th.Tensor:
        return self.distribution.rsample().clamp(1e-5, 1 - 1e-5)  # type: ignore[union-attr]

    def mode(self) -> th.Tensor:
        return self.sample()

    def actions_from_params(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def log_prob_from_params(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class BetaPolicy(ActorCriticPolicy):
    has_kl = True

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_dist = BetaDistribution(self.has_kl)
        self.action_net = nn.Linear(self.mlp_extractor.latent_dim_pi, 2 * self.action_space.shape[0])  # type: ignore[index]
        del self.log_std
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor, *args: Any) -> Distribution:
        return self.action_dist.proba_distribution(self.action_net(latent_pi))


class PlainBeta(BetaPolicy):
    has_kl = False


class Annealed(ActorCriticPolicy):
    temperature = 1.0

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor, *args: Any) -> Distribution:
        return self.action_dist.proba_distribution(self.action_net(latent_pi) / self.temperature)


class Anneal(BaseCallback):
    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        policy: Any = self.model.policy
        policy.temperature *= 0.5


class Features(BaseFeaturesExtractor):
    """With a layer that does something else when it is trained."""

    def __init__(self, space: Any, layer: str) -> None:
        super().__init__(space, 4)
        kind = {"BatchNorm": nn.BatchNorm1d(4), "Dropout": nn.Dropout(0.5)}[layer]
        self.net = nn.Sequential(nn.Linear(3, 4), kind)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations / 10)


def state(model: Any) -> dict[str, th.Tensor]:
    return copy.deepcopy(dict(model.policy.state_dict()))


def changed(model: Any, before: dict[str, th.Tensor]) -> set[str]:
    return {name for name, value in model.policy.state_dict().items() if not th.equal(value, before[name])}


@every_algorithm
@pytest.mark.parametrize("critic", [OWN_CRITIC, JOINT_CRITIC], ids=["own", "joint"])
@pytest.mark.parametrize("policy", [SharedPolicy, FrozenTrunk])
def test_a_trunk_shared_in_the_extractor(algorithm: Any, critic: dict[str, Any], policy: Any) -> None:
    """The critic's own optimizer has the critic's own parameters, and everything that is not frozen learns."""
    model = make(algorithm, diary(2), policy=policy, **critic)
    names = {parameter: name for name, parameter in model.policy.named_parameters()}
    if critic is OWN_CRITIC:
        assert model.value_optimizer is not None
        (group,) = model.value_optimizer.param_groups
        heads = {"mlp_extractor.critic.0.weight", "mlp_extractor.critic.0.bias", "value_net.weight", "value_net.bias"}
        assert {names[parameter] for parameter in group["params"]} == heads
    before = state(model)
    model.learn(64)
    assert changed(model, before) == {name for p, name in names.items() if p.requires_grad}
    assert ("mlp_extractor.trunk.0.weight" in changed(model, before)) == (policy is SharedPolicy)


EXTRA = {
    "optimal": {"baseline": "optimal"},
    "own critic": OWN_CRITIC,
    "joint critic": JOINT_CRITIC,
    "snr": OWN_CRITIC | {"log_gradient_variance": True},
}
MODES: list[Any] = [
    *((VanillaPG, OWN_CRITIC | {"natural_gradient": True}),),
    *((OffPolicyISPG, OWN_CRITIC | {"target_kl": 0.01, "kl_constraint": k}) for k in ("stop", "backtrack", "penalty")),
    (OffPolicyISPG, JOINT_CRITIC | {"target_kl": 0.01, "kl_constraint": "backtrack"}),
    (OffPolicyISPG, OWN_CRITIC | {"n_reused_batches": 2}),
]


@pytest.mark.filterwarnings("ignore:train/gradient_snr is nan")
@every_algorithm
@pytest.mark.parametrize("kwargs", EXTRA.values(), ids=EXTRA.keys())
@pytest.mark.parametrize("space", [spaces.Discrete(2), BOX], ids=["Discrete", "Box"])
@pytest.mark.parametrize("frozen", ["actor", "critic", "first layers"])
def test_frozen_parts_stay(algorithm: Any, kwargs: dict[str, Any], space: Any, frozen: str) -> None:
    check_frozen(algorithm, kwargs, space, frozen)


@pytest.mark.parametrize(("algorithm", "kwargs"), MODES)
@pytest.mark.parametrize("space", [spaces.Discrete(2), BOX], ids=["Discrete", "Box"])
@pytest.mark.parametrize("frozen", ["actor", "critic", "first layers"])
def test_frozen_parts_stay_in_every_mode(algorithm: Any, kwargs: dict[str, Any], space: Any, frozen: str) -> None:
    check_frozen(algorithm, kwargs, space, frozen)


def check_frozen(algorithm: Any, kwargs: dict[str, Any], space: Any, frozen: str) -> None:
    """To the bit, after learning has begun; the rest learns, and what was frozen does once it is thawed."""
    model = make(algorithm, diary(2, action_space=space), **kwargs)
    model.learn(64)
    parts = {"actor": ("policy_net", "action_net", "log_std"), "critic": ("value_net",), "first layers": ("_net.0",)}
    named = dict(model.policy.named_parameters())
    chosen = {name for name in named if any(part in name for part in parts[frozen])}
    for name in chosen:
        named[name].requires_grad_(False)
    before = state(model)
    model.learn(64)
    assert changed(model, before) == named.keys() - chosen
    for name in chosen:
        named[name].requires_grad_(True)
    model.learn(64)
    assert changed(model, before) == named.keys()


@every_algorithm
@pytest.mark.parametrize("policy", [BetaPolicy, PlainBeta])
def test_a_distribution_of_the_user_s(algorithm: Any, policy: Any) -> None:
    kwargs = {"n_reused_batches": 1, "target_kl": 0.01, "kl_constraint": "penalty"}
    extra = kwargs if algorithm is OffPolicyISPG else {}
    model = make(algorithm, diary(2, action_space=BOX), policy=policy, **OWN_CRITIC | extra)
    before = state(model)
    model.learn(64)
    assert changed(model, before) == before.keys()


def test_the_fisher_matrix_of_a_distribution_without_a_divergence() -> None:
    """The mean of s s^T over the actions of the batch, s their score."""
    seen = Batches()
    model = make(VanillaPG, diary(2, action_space=BOX), policy=PlainBeta, **OWN_CRITIC).learn(32, callback=seen)
    (batch,) = seen.updates
    fisher, policy = FisherMatrix(model.policy, batch), model.policy
    scores = []
    for row in range(batch.n_rows):
        steps = batch.at(slice(row, row + 1))
        log_prob = policy.evaluate_actions(steps.observations, steps.actions)[1]
        scores.append(th.cat([part.flatten() for part in th.autograd.grad(log_prob.sum(), fisher.parameters)]))
    vector, matrix = th.randn(len(scores[0])), th.stack(scores)
    th.testing.assert_close(fisher.product(vector), matrix.T @ (matrix @ vector) / batch.n_rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_reused_batches", [0, 2])
def test_a_policy_that_stands_still_is_at_divergence_0(n_reused_batches: int) -> None:
    """At a learning rate of 0, while a callback anneals its temperature."""
    kwargs = OWN_CRITIC | {"learning_rate": 0.0, "target_kl": 0.01, "n_reused_batches": n_reused_batches}
    model = make(OffPolicyISPG, diary(2), policy=Annealed, **kwargs)
    dumps = log_to_memory(model)
    model.learn(128, callback=Anneal())
    assert [abs(dump["train/approx_kl"]) for dump in dumps[1:]] == pytest.approx([0.0] * 3, abs=1e-7)
    assert isinstance(model, OffPolicyISPG)
    assert [past.policy.temperature for past in model.replay_buffer] == [0.0625, 0.125][:n_reused_batches]


@pytest.mark.parametrize("layer", ["BatchNorm", "Dropout"])
@pytest.mark.parametrize("max_grad_norm", [None, 1e-3])
def test_natural_gradient_is_the_literal_solve(
    monkeypatch: pytest.MonkeyPatch, layer: str, max_grad_norm: float | None
) -> None:
    """F from the rows' Jacobians of the logits, in evaluation mode; g is clipped first."""
    kwargs = {"features_extractor_class": Features, "features_extractor_kwargs": {"layer": layer}, "net_arch": []}
    model = make(
        VanillaPG,
        diary(2, action_space=spaces.Discrete(3)),
        **OWN_CRITIC | {"natural_gradient": True, "cg_max_steps": 200, "cg_damping": 0.1},
        max_grad_norm=max_grad_norm,
        policy_kwargs=kwargs,
    )
    seen: list[tuple[th.Tensor, th.Tensor, th.Tensor]] = []

    def noted(policy: Any, batch: Any, damping: float, *args: Any) -> None:
        parameters = FisherMatrix(policy, batch).parameters
        gradient = th.cat([p.grad.flatten().double() for p in parameters if p.grad is not None])
        was_training = policy.training
        policy.set_training_mode(False)
        fisher = th.zeros(len(gradient), len(gradient), dtype=th.float64)
        for row in range(batch.n_rows):
            distribution = policy.get_distribution(batch.observations[row : row + 1]).distribution
            for action in range(3):
                log_prob = distribution.log_prob(th.tensor([action]))
                score = th.cat([s.flatten() for s in th.autograd.grad(log_prob, parameters, retain_graph=True)])
                fisher += distribution.probs[0, action].item() * th.outer(score, score).double() / batch.n_rows
        policy.set_training_mode(was_training)
        make_natural(policy, batch, damping, *args)
        solved = th.cat([p.grad.flatten().double() for p in parameters if p.grad is not None])
        seen.append((gradient, th.linalg.solve(fisher + damping * th.eye(len(gradient)).double(), gradient), solved))

    replace_everywhere(monkeypatch, make_natural, noted)
    model.learn(64)
    assert len(seen) == 2
    for gradient, expected, solved in seen:
        assert gradient.norm() > 0
        assert max_grad_norm is None or gradient.norm() == pytest.approx(max_grad_norm, rel=1e-2)
        th.testing.assert_close(solved, expected, rtol=1e-3, atol=1e-3 * float(expected.norm()))


def test_a_halved_step_halves_the_actor_alone() -> None:
    """With a joint critic: its parameters are where they would be without a bound."""
    ends = []
    for target_kl in (1e9, 1e-9):
        kwargs = JOINT_CRITIC | {"n_epochs": 1, "target_kl": target_kl, "learning_rate": 0.1}
        model = make(OffPolicyISPG, diary(2), **kwargs, kl_constraint="backtrack")
        before = state(model)
        model.learn(32)
        ends.append({name: value - before[name] for name, value in state(model).items()})
    free, bound = ends
    for name in free:
        is_critic = "value" in name
        assert float(free[name].abs().max()) > 1e-3
        if is_critic:
            th.testing.assert_close(bound[name], free[name])
        else:
            assert float(bound[name].abs().max()) < 1e-3


def hidden(policy: Any) -> Any:
    return policy.mlp_extractor.policy_net


UNUSUAL = {
    "full backward hook": lambda p: p.action_net.register_full_backward_hook(lambda *args: None),
    "backward pre-hook": lambda p: p.action_net.register_full_backward_pre_hook(lambda *args: None),
    "pre-hook": lambda p: p.value_net.register_forward_pre_hook(lambda *args: None),
    "hook of a container": lambda p: hidden(p).register_forward_hook(lambda *args: None),
    "weight_norm": lambda p: parametrizations.weight_norm(hidden(p)[0]),
    "spectral_norm": lambda p: parametrizations.spectral_norm(p.action_net),
    "old weight_norm": lambda p: nn.utils.weight_norm(hidden(p)[0]),
    "method of an object": lambda p: setattr(p.mlp_extractor, "forward_actor", lambda x: x),
    "method of the policy": lambda p: setattr(p, "evaluate_actions", lambda *args: None),
    "method of the distribution": lambda p: setattr(p.action_dist, "log_prob", lambda *args: None),
    "two activations": lambda p: hidden(p).append(nn.Tanh()),
    "first an activation": lambda p: hidden(p).insert(0, nn.Tanh()),
    "another layer": lambda p: hidden(p).append(nn.LayerNorm(8)),
    "no bias": lambda p: setattr(p, "action_net", nn.Linear(8, 2, bias=False)),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL.keys())
@pytest.mark.parametrize("cls", [ActorCriticPolicy, ActorPolicy])
def test_no_short_cut_through_what_was_changed(cls: Any, change: Any) -> None:
    policy = cls(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), lambda _: 0.0, net_arch=[8])
    assert is_stock(policy)
    change(policy)
    assert not is_stock(policy)


def test_global_hooks_and_methods_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ActorCriticPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), lambda _: 0.0, net_arch=[8])
    with nn.modules.module.register_module_forward_hook(lambda *args: None):
        assert not is_stock(policy)
    assert is_stock(policy)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: x)
    assert not is_stock(policy)


@pytest.mark.parametrize("space", [spaces.Discrete(3), BOX], ids=["Discrete", "Box"])
def test_a_traced_actor_takes_any_number_of_rows(space: Any) -> None:
    policy = ActorPolicy(spaces.Box(-1, 1, (3,)), space, lambda _: 0.0, net_arch=[8])
    policy.requires_grad_(False)
    traced = th.jit.trace(lambda obs: policy(obs, True), th.randn(1, 3), check_trace=False)
    observations = th.randn(5, 3)
    for one, other in zip(traced(observations), policy(observations, True), strict=True):
        assert one.shape == other.shape
        th.testing.assert_close(one, other)


class EntirelyShared(ActorCriticPolicy):
    """The critic is what the actor's logits add up to."""

    def predict_values(self, obs: Any) -> th.Tensor:
        return self._value(self.get_distribution(obs))

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> Any:
        distribution = self.get_distribution(obs)
        return self._value(distribution), distribution.log_prob(actions), distribution.entropy()

    def forward(self, obs: th.Tensor, deterministic: bool = False) -> Any:
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic)
        return actions, self._value(distribution), distribution.log_prob(actions)

    @staticmethod
    def _value(distribution: Any) -> th.Tensor:
        return distribution.distribution.probs[:, :1] * 3


@every_algorithm
def test_a_critic_without_parameters_of_its_own(algorithm: Any) -> None:
    with pytest.raises(ValueError, match="write value_learning_rate=None"):
        make(algorithm, diary(2), policy=EntirelyShared, **OWN_CRITIC)
    model = make(algorithm, diary(2), policy=EntirelyShared, **JOINT_CRITIC)
    before = state(model)
    model.learn(64)
    assert {name for name in before if "value" not in name} == changed(model, before)


SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "MultiDiscrete": (spaces.MultiDiscrete([2, 3]), {}),
    "MultiBinary": (spaces.MultiBinary(2), {}),
    "gSDE": (BOX, {"use_sde": True}),
    "squashed": (BOX, {"use_sde": True, "policy_kwargs": TINY | {"squash_output": True}}),
    "apart": (BOX, {"policy_kwargs": TINY | {"share_features_extractor": False}}),
    "ELU": (spaces.Discrete(2), {"policy_kwargs": TINY | {"activation_fn": nn.ELU}}),
}


@every_algorithm
@pytest.mark.parametrize(("space", "kwargs"), SETTINGS.values(), ids=SETTINGS.keys())
def test_every_parameter_learns(algorithm: Any, space: Any, kwargs: dict[str, Any]) -> None:
    model = make(algorithm, diary(2, action_space=space), **OWN_CRITIC | kwargs)
    before = state(model)
    model.learn(64)
    names = {name for name, _ in model.policy.named_parameters()}
    assert names <= changed(model, before)
    assert all(np.isfinite(value.numpy()).all() for value in model.policy.state_dict().values())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_batches_are_used_again_with_a_weight_that_a_hook_computes() -> None:
    """Their policies are copies, which PyTorch does not make of such a weight."""
    model = make(OffPolicyISPG, diary(2), **OWN_CRITIC | {"learning_rate": 0.1}, n_reused_batches=1)
    nn.utils.weight_norm(model.policy.action_net)
    model.policy.optimizer = th.optim.Adam(model.policy.parameters())
    model.learn(96)
    assert isinstance(model, OffPolicyISPG)
    (past,) = model.replay_buffer
    rows = (past.batch.observations, past.batch.actions)
    _, log_prob, _ = past.policy.evaluate_actions(*rows)
    th.testing.assert_close(log_prob, next(iter(past.log_probs.values())), rtol=1e-4, atol=1e-4)
    assert not th.equal(log_prob, model.policy.evaluate_actions(*rows)[1])
