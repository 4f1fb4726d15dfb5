"""An update that fails leaves no trace: in a parameter, an optimizer, a buffer, the history or a count."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from tests.helpers.environments import diary
from tests.helpers.models import (
    JOINT_CRITIC,
    OWN_CRITIC,
    Algorithm,
    differences,
    every_algorithm,
    every_estimator,
    make,
    n_updates,
)
from tests.helpers.recording import Batches, assert_whole
from tests.robustness.kept import not_finite, of_model

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

ITERATION = 32


def learn(model: PolicyGradientAlgorithm, n_iterations: int = 1, **kwargs: Any) -> None:
    model.learn(n_iterations * ITERATION, reset_num_timesteps=False, **kwargs)


def assert_refused(model: PolicyGradientAlgorithm, mend: Callable[[], object], match: str = "finite") -> None:
    """The next update is refused, nothing has changed, and after the mending three more are made."""
    before = of_model(model)
    with pytest.raises(ValueError, match=match):
        learn(model)
    assert differences(before, of_model(model)) == []
    mend()
    updates = model._n_updates
    learn(model, 3)
    assert model._n_updates > updates
    assert [*not_finite(of_model(model))] == []


class Raise(BaseCallback):
    """Has the ``n``-th call of something in an update fail."""

    def __init__(self, error: BaseException, n: int) -> None:
        super().__init__()
        self.error, self.n = error, n

    def _on_step(self) -> bool:
        return True

    def __call__(self, *_: Any) -> None:
        self.n -= 1
        if self.n == 0:
            raise self.error


@every_algorithm
@every_estimator
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_a_rate_that_goes_wrong_late(algorithm: Algorithm, estimator: dict[str, Any], value: float) -> None:
    """Whether it is looked at before or after the step."""
    rates = [value]
    arguments = estimator | {"learning_rate": lambda p: 1e-2 if p > 0.5 or not rates else rates[0]}
    model = make(algorithm, diary(2), **arguments)
    before: list[Any] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            before.append(of_model(self.model))

    with pytest.raises(ValueError, match="learning"):
        model.learn(4 * ITERATION, callback=Watch())
    assert len(before) == 2
    assert differences(before[-1], of_model(model)) == []
    rates.clear()
    learn(model, 3)
    assert [*not_finite(of_model(model))] == []


@every_algorithm
@every_estimator
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("mine")], ids=repr)
def test_an_update_that_is_broken_off(
    algorithm: Algorithm, estimator: dict[str, Any], n: int, error: BaseException
) -> None:
    """After a step of an optimizer, when parameters and moments have moved; in the first update or in a later one."""
    for n_before in (0, 2):
        model = make(algorithm, diary(2), **estimator)
        if n_before:
            learn(model, n_before)
        optimizer = model.policy.optimizer if n == 1 or model.value_optimizer is None else model.value_optimizer
        n_steps = n if algorithm is OffPolicyISPG or model.value_optimizer is not None else 1
        before, parameters = of_model(model), [*model.policy.parameters()]
        handle = optimizer.register_step_post_hook(Raise(error, n_steps))
        with pytest.raises(type(error)):
            learn(model)
        assert differences(before, of_model(model)) == []
        assert all(one is other for one, other in zip(parameters, model.policy.parameters(), strict=True))
        assert all(one.grad is None for one in model.policy.parameters())
        handle.remove()
        recorder = Batches()
        learn(model, 3, callback=recorder)
        for batch in recorder.updates:
            assert_whole(batch, lengths=[5])


@every_algorithm
def test_goes_on_as_a_model_that_was_never_refused(algorithm: Algorithm) -> None:
    """The same optimizer, the same moments: the next update is that of a twin."""
    models = []
    for _ in range(2):
        models.append(make(algorithm, diary(2, lengths=[4]), **OWN_CRITIC))
        learn(models[-1], 2)
    handle = models[0].policy.optimizer.register_step_post_hook(Raise(RuntimeError("mine"), 1))
    with pytest.raises(RuntimeError, match="mine"):
        learn(models[0])
    handle.remove()
    for model in models:
        model._last_obs = None
        assert model.env is not None
        for index, one in enumerate(model.env.envs):  # type: ignore[attr-defined]
            one.unwrapped.__init__([4], index)
        model.set_random_seed(3)
        learn(model)
    ours, twins = (of_model(model) for model in models)
    assert differences(twins, ours) == []


class Wandering(th.optim.Optimizer):
    """A user's own: with a list, a dictionary and a count of its own, and another optimizer inside."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.inner = th.optim.Adam(self.param_groups[0]["params"], lr=lr)
        self.trail: list[float] = []
        self.sums: dict[str, Any] = {"all": th.zeros(3), "deep": [th.zeros(())]}
        self.n_steps = 0
        self.breaks = False

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.n_steps += 1
        self.trail.append(self.n_steps)
        self.sums["all"] += self.n_steps
        self.sums["deep"][0].add_(1)
        self.sums[f"step {self.n_steps}"] = th.ones(1)
        self.inner.step()
        for one in self.param_groups[0]["params"]:
            self.state[one]["path"] = self.state[one].get("path", 0.0) + one.detach().abs()
            if self.breaks:
                self.state[one]["path"] = self.state[one]["path"] * math.nan

    @property
    def everything(self) -> dict[str, Any]:
        own = {"n": self.n_steps, "trail": [*self.trail], "sums": copy.deepcopy(self.sums)}
        return own | {"inner": copy.deepcopy(self.inner.state_dict()), "state": copy.deepcopy(self.state_dict())}


@every_algorithm
@pytest.mark.parametrize("n_before", [0, 2])
def test_a_users_own_optimizer(algorithm: Algorithm, n_before: int) -> None:
    """Whatever it keeps; what it makes not finite is seen even where the parameters are finite."""
    kwargs: dict[str, Any] = {"net_arch": [4], "optimizer_class": Wandering}
    model = make(algorithm, diary(2), **JOINT_CRITIC | {"policy_kwargs": kwargs})
    if n_before:
        learn(model, n_before)
    optimizer: Any = model.policy.optimizer
    optimizer.breaks = True
    before = optimizer.everything

    def mend() -> None:
        assert differences(before, optimizer.everything) == []
        optimizer.breaks = False

    assert_refused(model, mend, match=r"path of .* in Wandering")


class Normalised(BaseFeaturesExtractor):
    """With running statistics, a mask that is infinite by design, and a buffer that is replaced at every pass."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 3)
        self.norm = th.nn.BatchNorm1d(3)
        self.register_buffer("mask", th.full((2,), -math.inf))
        self.passes: th.Tensor
        self.register_buffer("passes", th.zeros(1))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        if self.training:
            self.passes = self.passes + 1
        return self.norm(observations)


@every_algorithm
def test_buffers(algorithm: Algorithm) -> None:
    """They are put back; one that is infinite by design is not taken for a fault."""
    kwargs: dict[str, Any] = {"net_arch": [4], "features_extractor_class": Normalised}
    model = make(algorithm, diary(2), **JOINT_CRITIC | {"policy_kwargs": kwargs})
    learn(model, 2)
    extractor: Any = model.policy.features_extractor
    before, updates = copy.deepcopy(extractor.state_dict()), model._n_updates
    handle = model.policy.optimizer.register_step_post_hook(Raise(RuntimeError("mine"), 1))
    with pytest.raises(RuntimeError, match="mine"):
        learn(model)
    assert differences(before, extractor.state_dict()) == []
    handle.remove()
    learn(model)
    assert extractor.passes > before["passes"]
    assert model._n_updates > updates
    mean = extractor.norm.running_mean
    handle = model.policy.optimizer.register_step_post_hook(lambda *_: mean.fill_(math.inf))
    with pytest.raises(ValueError, match="running_mean"):
        learn(model)
    assert bool(mean.isfinite().all())


@every_algorithm
@pytest.mark.parametrize("name", ["action_net.weight", "value_net.bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_comes_with_such_parameters(algorithm: Algorithm, name: str, value: float) -> None:
    """They are named before anything is done, and reading them in again mends it."""
    model = make(algorithm, diary(2), **JOINT_CRITIC)
    learn(model)
    good: Any = copy.deepcopy(model.get_parameters())
    with th.no_grad():
        dict(model.policy.named_parameters())[name].view(-1)[0] = value
    calls: list[int] = []
    assert model.env is not None
    model.env.reset = lambda: calls.append(1)  # type: ignore[assignment, return-value]
    bad = of_model(model)
    with pytest.raises(ValueError, match=f"{name}.*set_parameters"):
        learn(model)
    assert calls == []
    assert str(differences(bad, of_model(model))) == str(differences(bad, copy.deepcopy(bad)))
    del model.env.reset
    model.set_parameters(good)
    learn(model, 2)


@every_algorithm
@pytest.mark.parametrize("space", [spaces.Discrete(2), spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2)], ids=str)
def test_weights_that_a_callback_breaks(algorithm: Algorithm, space: spaces.Space[Any]) -> None:
    """Named at once where the action shows it; else when the rollout is over, and nothing is learned from it."""

    class Break(BaseCallback):
        model: Any

        def _on_step(self) -> bool:
            if self.n_calls == 20:
                self.model.policy.action_net.weight.data.fill_(math.nan)
            return True

    model = make(algorithm, diary(2, action_space=space), **OWN_CRITIC)
    with pytest.raises(ValueError, match=r"action_net\.weight"):
        learn(model, 3, callback=Break())
    assert n_updates(model) == 1
    if not isinstance(space, spaces.Discrete):
        assert model.num_timesteps == 2 * 20


def test_histories_are_replaced_and_not_written_into() -> None:
    """A batch that was refused is in none, nor are the log-probs under its policy."""
    model = make(OffPolicyISPG, diary(2), **OWN_CRITIC, n_reused_batches=3)
    assert isinstance(model, OffPolicyISPG)
    learn(model, 2)
    history, past = model.replay_buffer, [*model.replay_buffer]
    numbers = [[*one.log_probs] for one in past]
    handle = model.policy.optimizer.register_step_post_hook(Raise(RuntimeError("mine"), 2))
    for _ in range(3):
        handle = model.policy.optimizer.register_step_post_hook(Raise(RuntimeError("mine"), 1))
        with pytest.raises(RuntimeError, match="mine"):
            learn(model)
        handle.remove()
    assert model.replay_buffer is history
    assert all(one is other for one, other in zip(past, model.replay_buffer, strict=True))
    assert [[*one.log_probs] for one in past] == numbers


def test_the_natural_steps_result() -> None:
    """Its length is looked at as any other's."""
    model = make(VanillaPG, diary(2), natural_gradient=True, learning_rate=1.0)
    learn(model)
    group = model.policy.optimizer.param_groups[0]
    group["weight_decay"] = math.nan

    def mend() -> None:
        assert math.isnan(group["weight_decay"]), "the user's own, and left to him"
        group["weight_decay"] = 0.0

    before = model.policy.state_dict()
    kept = copy.deepcopy(before)
    with pytest.raises(ValueError, match="finite"):
        learn(model)
    assert differences(kept, model.policy.state_dict()) == []
    mend()
    learn(model, 2)


def test_the_rollout_is_forgotten() -> None:
    """Nothing that was carried with a refused batch is used later."""
    model = make(REINFORCE, diary(2, lengths=[7, 4, 6, 5]))
    learn(model)
    assert model.rollout_buffer.carried_steps > 0
    handle = model.policy.optimizer.register_step_post_hook(Raise(RuntimeError("mine"), 1))
    with pytest.raises(RuntimeError):
        learn(model)
    assert model.rollout_buffer.carried_steps == 0
    assert model.rollout_buffer.batch is None
    handle.remove()
    recorder = Batches()
    learn(model, 3, callback=recorder)
    for batch in recorder.updates:
        assert_whole(batch, lengths=[7, 4, 6, 5])


@every_algorithm
def test_large_numbers_are_no_fault(algorithm: Algorithm) -> None:
    """Second moments whose squares overflow, as after rewards in the billions, are finite and remain."""
    model = make(algorithm, diary(2), **JOINT_CRITIC | {"max_grad_norm": None})
    learn(model)
    for state in model.policy.optimizer.state.values():
        for key in ("exp_avg_sq", "square_avg"):
            if key in state:
                state[key].fill_(1e25)
    updates = model._n_updates
    learn(model, 2)
    assert model._n_updates > updates
    assert np.isfinite([one.detach().numpy().sum() for one in model.policy.parameters()]).all()


@every_algorithm
def test_a_copy_of_a_model_is_put_back_as_the_model_is(algorithm: Algorithm) -> None:
    """Each has copies of its own."""
    model = make(algorithm, diary(2), **OWN_CRITIC)
    learn(model, 2)
    twin = copy.deepcopy(model)
    before = of_model(model)
    for one in (twin, model):
        handle = one.policy.optimizer.register_step_post_hook(Raise(RuntimeError("mine"), 1))
        with pytest.raises(RuntimeError, match="mine"):
            learn(one)
        handle.remove()
        assert differences(before, of_model(one)) == []
        state = next(iter(one.policy.optimizer.state.values()))
        state["exp_avg" if "exp_avg" in state else "square_avg"].view(-1)[0] = math.nan
        with pytest.raises(ValueError, match="finite"):
            learn(one)
