"""An LSTM policy's fast actor does what the policy does, from the same random numbers, whatever happens to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.env_util import make_vec_env
from torch import nn
from torch.nn.utils import parametrizations

from sb3_pg import OffPolicyISPG
from sb3_pg.policies import acting
from sb3_pg.policies.acting import PolicyActor, actor_of
from sb3_pg.policies.evaluation import act, next_values
from sb3_pg.policies.fast.stock import is_stock_lstm
from sb3_pg.policies.sequence import recurrent
from sb3_pg.policies.sequence.recurrent import LstmActorPolicy, LstmCriticPolicy
from tests.helpers.edits import Edit, Editor, distance
from tests.helpers.models import AS_PPO
from tests.test_user_edits import IN_A_STEP

BOX = spaces.Box(-1, 1, (3,))
#: How an LSTM policy with a critic may be built.
KINDS: dict[str, dict[str, Any]] = {
    "its own LSTM": {},
    "the actor's LSTM": {"shared_lstm": True, "enable_critic_lstm": False},
    "a layer": {"enable_critic_lstm": False},
    "two LSTMs": {"n_lstm_layers": 2},
    "no biases": {"lstm_kwargs": {"bias": False}},
    "no layers behind it": {"net_arch": []},
    "two features extractors": {"share_features_extractor": False},
}
of_every_kind = pytest.mark.parametrize(
    ("cls", "kwargs"),
    [*((LstmCriticPolicy, kwargs) for kwargs in KINDS.values()), (LstmActorPolicy, {})],
    ids=[*KINDS, "no critic"],
)
every_action_space = pytest.mark.parametrize("action_space", [spaces.Discrete(4), spaces.Box(-1, 1, (2, 2))])


def make(cls: type[LstmCriticPolicy] = LstmCriticPolicy, **kwargs: Any) -> LstmCriticPolicy:
    """A small policy, in evaluation mode as while it collects."""
    space = kwargs.pop("action_space", spaces.Discrete(4))
    small: dict[str, Any] = {"net_arch": [8], "lstm_hidden_size": 5}
    policy = cls(BOX, space, lambda _: 0.0, **small | kwargs)
    policy.set_training_mode(False)
    return policy


@of_every_kind
@every_action_space
def test_every_step_is_the_policy_s(cls: Any, kwargs: dict[str, Any], action_space: Any) -> None:
    """Actions and memories bit for bit; values, log-probs and what follows to the rounding of another batch size."""
    n_envs, n_steps, rng = 6, 12, np.random.default_rng(0)
    policy = make(cls, action_space=action_space, **kwargs)
    memory = {name: th.as_tensor(rng.normal(size=part.shape)).float() for name, part in policy.empty_memory(6).items()}
    fast, slow = actor_of(policy, n_envs, n_steps, memory=memory), PolicyActor(policy, memory)
    assert not isinstance(fast, PolicyActor)
    observations, seen = rng.normal(size=(n_steps, n_envs, 3)).astype(np.float32), []
    for step, obs in enumerate(observations):
        starts = rng.random(n_envs) < 0.3
        for actor in (fast, slow):
            th.manual_seed(step)
            actor.forget(starts)
            seen.append((actor.act(obs), th.get_rng_state(), actor.memory))
        (actions, state, known), (expected, expected_state, expected_memory) = seen[-2:]
        np.testing.assert_array_equal(actions, expected)
        assert th.equal(state, expected_state)
        assert known is not None and expected_memory is not None
        for name, part in expected_memory.items():
            assert th.equal(known[name], part)
    rows = th.as_tensor(observations).flatten(0, 1)
    for one, other in zip(fast.evaluation(rows), slow.evaluation(rows), strict=True):
        th.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    with th.no_grad():
        following = [next_values(policy, rows[:n_envs], actor.memory) for actor in (fast, slow)]
    th.testing.assert_close(*following, rtol=0, atol=0)


@of_every_kind
@every_action_space
@pytest.mark.parametrize("begins", [False, True])
def test_a_step_through_the_cells_is_sb3_contrib_s(
    cls: Any, kwargs: dict[str, Any], action_space: Any, begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the rounding of another kernel, with episodes that begin and go on."""
    policy = make(cls, action_space=action_space, **kwargs)
    memory = {name: th.randn(part.shape) for name, part in policy.empty_memory(6).items()}
    obs, starts = th.randn(6, 3), np.array([begins, False] * 3)
    said = []
    for _ in range(2):
        th.manual_seed(0)
        with th.no_grad():
            drawn = act(policy, obs, {}, memory)
        state = tuple(np.ones((policy.lstm_hidden_state_shape[0], 6, 5), np.float32) for _ in range(2))
        predicted, state = policy.predict(obs.numpy(), state, starts, deterministic=True)  # type: ignore[assignment]
        assert drawn.memory is not None
        said.append([drawn.values, drawn.log_probs, *drawn.memory.values(), *map(th.as_tensor, (predicted, *state))])
        monkeypatch.setattr(recurrent, "steps_through_cells", lambda lstm: False)
    for one, other in zip(*said, strict=True):
        th.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# --- whatever is done to it -----------------------------------------------------------------------------------------


def scale_the_lstms(model: Any, _: dict[str, Any]) -> None:
    for lstm in (model.policy.lstm_actor, model.policy.lstm_critic):
        for parameter in lstm.parameters():
            parameter.data.mul_(1.5)


def replace_the_lstms(model: Any, _: dict[str, Any]) -> None:
    for name in ("lstm_actor", "lstm_critic"):
        old = getattr(model.policy, name)
        with th.random.fork_rng(devices=[]):
            th.manual_seed(1)
            setattr(model.policy, name, nn.LSTM(old.input_size, old.hidden_size))


def hook_of_an_lstm(model: Any, _: dict[str, Any]) -> None:
    if not model.policy.lstm_actor._forward_hooks:
        model.policy.lstm_actor.register_forward_hook(lambda module, inputs, output: (2 * output[0], output[1]))


def forward_of_an_lstm(model: Any, _: dict[str, Any]) -> None:
    lstm = model.policy.lstm_critic
    if "forward" not in vars(lstm):
        forward = lstm.forward
        lstm.forward = lambda features, states: forward(2 * features, states)


def replace_process_sequence(model: Any, _: dict[str, Any]) -> None:
    through = LstmCriticPolicy._process_sequence
    model.policy._process_sequence = lambda features, *others: through(3 * features, *others)


def weight_norm(model: Any, _: dict[str, Any]) -> None:
    if not nn.utils.parametrize.is_parametrized(model.policy.lstm_actor):
        parametrizations.weight_norm(model.policy.lstm_actor, "weight_hh_l0")


OF_LSTMS: dict[str, Edit] = {
    "LSTMs scaled": scale_the_lstms,
    "LSTMs replaced": replace_the_lstms,
    "hook of an LSTM": hook_of_an_lstm,
    "forward of an LSTM": forward_of_an_lstm,
    "_process_sequence": replace_process_sequence,
    "weight_norm": weight_norm,
}
EDITS = {name: edit for name, edit in IN_A_STEP.items() if name != "forward wrapped"} | OF_LSTMS


def after_learning(env_id: str, edit: Edit) -> dict[str, th.Tensor]:
    """Every parameter after four rollouts with two environments."""
    kwargs = {"lstm_hidden_size": 8, "net_arch": [8]}
    model = OffPolicyISPG(
        "MlpLstmPolicy",
        make_vec_env(env_id, 2, seed=0),
        policy_kwargs=kwargs,
        seed=0,
        device="cpu",
        **AS_PPO | {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "learning_rate": 1e-3, "max_grad_norm": 1e6},
    )
    model.learn(4 * 2 * model.n_steps, callback=Editor(edit, in_step=True))
    return {name: value.detach().clone() for name, value in model.policy.named_parameters()}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_edited_in_a_rollout_it_is_the_edited_policy(env_id: str, edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameter by parameter, what learning without a fast actor gives."""
    with_fast_actor = after_learning(env_id, edit)
    monkeypatch.setattr(acting, "is_stock_lstm", lambda policy: False)
    assert distance(with_fast_actor, after_learning(env_id, edit)) < 1e-5


class Overridden(LstmCriticPolicy):
    """A class of the user's."""


@pytest.mark.parametrize(
    "make_policy",
    [
        lambda: make(Overridden),
        lambda: make().double(),
        lambda: make(action_space=spaces.MultiBinary(3)),
        lambda: make(action_space=spaces.Box(-1, 1, (2,)), use_sde=True),
        lambda: RecurrentActorCriticPolicy(BOX, spaces.Discrete(2), lambda _: 0.0),
    ],
    ids=["subclass", "double", "MultiBinary", "gSDE", "sb3-contrib's"],
)
def test_any_other_takes_the_general_path(make_policy: Any) -> None:
    assert is_stock_lstm(make())
    assert not is_stock_lstm(make_policy())


@pytest.mark.parametrize("owner", [nn.LSTM, LstmCriticPolicy, RecurrentActorCriticPolicy])
def test_methods_of_classes_count(owner: type, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make()
    assert is_stock_lstm(policy)
    monkeypatch.setattr(owner, "forward", lambda *args: None)
    assert not is_stock_lstm(policy)
