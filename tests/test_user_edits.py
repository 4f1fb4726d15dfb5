"""What a user's callback changes counts, wherever SB3's A2C and PPO let it count."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from sb3_pg import OffPolicyISPG, VanillaPG
from tests.helpers.edits import Edit, Editor, assign, compute_again, distance, wave
from tests.helpers.models import (
    AS_A2C,
    AS_PPO,
)

# --- at the end of a rollout ----------------------------------------------------------------------------------------


def add_in_place(name: str) -> Edit:
    def edit(model: Any, _: dict[str, Any]) -> None:
        column = getattr(model.rollout_buffer, name)
        column += wave(column.shape)

    return edit


def edit_rewards(model: Any, _: dict[str, Any]) -> None:
    model.rollout_buffer.rewards += wave(model.rollout_buffer.rewards.shape)
    compute_again(model)


def assign_rewards(model: Any, _: dict[str, Any]) -> None:
    model.rollout_buffer.rewards = model.rollout_buffer.rewards * 2.0
    compute_again(model)


def compute_twice(model: Any, _: dict[str, Any]) -> None:
    compute_again(model)
    compute_again(model)


def bonus_after_computing_again(model: Any, _: dict[str, Any]) -> None:
    model.rollout_buffer.advantages += 5.0
    edit_rewards(model, _)
    model.rollout_buffer.advantages += wave(model.rollout_buffer.advantages.shape)


def look_through_the_samples_then_edit(model: Any, _: dict[str, Any]) -> None:
    """SB3's get() lays the columns out flat, in place of those that were there."""
    state = np.random.get_state()
    for _sample in model.rollout_buffer.get(None):
        pass
    np.random.set_state(state)
    model.rollout_buffer.advantages += wave(model.rollout_buffer.advantages.shape)
    model.rollout_buffer.observations *= 0.5


def swap_two_environments(name: str) -> Edit:
    def edit(model: Any, _: dict[str, Any]) -> None:
        column = getattr(model.rollout_buffer, name)
        column[:, [0, 1]] = column[:, [1, 0]]

    return edit


def set_ent_coef(model: Any, _: dict[str, Any]) -> None:
    model.ent_coef = 0.3


def set_vf_coef(model: Any, _: dict[str, Any]) -> None:
    model.vf_coef = 3.0


def set_max_grad_norm(model: Any, _: dict[str, Any]) -> None:
    model.max_grad_norm = 0.01


def set_normalize_advantage(model: Any, _: dict[str, Any]) -> None:
    model.normalize_advantage = not model.normalize_advantage


def set_lr_schedule(model: Any, _: dict[str, Any]) -> None:
    model.lr_schedule = lambda progress: 1e-2 * progress


def replace_optimizer(model: Any, _: dict[str, Any]) -> None:
    if not isinstance(model.policy.optimizer, th.optim.SGD):
        model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=0.1, momentum=0.9)


def freeze_the_actor(model: Any, _: dict[str, Any]) -> None:
    model.policy.action_net.requires_grad_(False)
    model.policy.mlp_extractor.policy_net.requires_grad_(False)


def freeze_then_unfreeze(model: Any, _: dict[str, Any]) -> None:
    is_odd = model.num_timesteps // (model.n_steps * model.n_envs) % 2 == 1
    model.policy.mlp_extractor.requires_grad_(is_odd)


AT_THE_END: dict[str, Edit] = {
    "advantages in place": add_in_place("advantages"),
    "advantages assigned": assign("advantages", lambda column: column + wave(column.shape)),
    "advantages scaled": assign("advantages", lambda column: -3 * column),
    "advantages replaced": assign("advantages", lambda column: wave(column.shape).astype(np.float64)),
    "returns in place": add_in_place("returns"),
    "returns scaled": assign("returns", lambda column: 0.5 * column),
    "returns replaced": assign("returns", lambda column: wave(column.shape)),
    "rewards in place": edit_rewards,
    "rewards assigned": assign_rewards,
    "computed twice": compute_twice,
    "bonus after computing again": bonus_after_computing_again,
    "samples looked at": look_through_the_samples_then_edit,
    "observations in place": add_in_place("observations"),
    "observations assigned": assign("observations", lambda column: column * 0.5),
    "actions in place": swap_two_environments("actions"),
    "actions assigned": assign("actions", lambda column: column[::-1].copy()),
    "log-probs in place": add_in_place("log_probs"),
    "log-probs assigned": assign("log_probs", lambda column: column - 0.1 * wave(column.shape)),
    "values in place": add_in_place("values"),
    "values assigned": assign("values", lambda column: column * 0.9),
    "ent_coef": set_ent_coef,
    "vf_coef": set_vf_coef,
    "max_grad_norm": set_max_grad_norm,
    "normalize_advantage": set_normalize_advantage,
    "lr_schedule": set_lr_schedule,
    "optimizer": replace_optimizer,
    "frozen actor": freeze_the_actor,
    "frozen and thawed": freeze_then_unfreeze,
}

# --- in the middle of a rollout -------------------------------------------------------------------------------------


def scaled_state(model: Any) -> dict[str, th.Tensor]:
    return {name: 0.9 * value for name, value in model.policy.state_dict().items()}


def load_state_dict(model: Any, _: dict[str, Any]) -> None:
    model.policy.load_state_dict(scaled_state(model))


def set_parameters(model: Any, _: dict[str, Any]) -> None:
    model.set_parameters({"policy": scaled_state(model)}, exact_match=False)


def set_vector(model: Any, _: dict[str, Any]) -> None:
    vector = nn.utils.parameters_to_vector(model.policy.parameters())
    nn.utils.vector_to_parameters(0.9 * vector.detach(), model.policy.parameters())


def scale_the_data(model: Any, _: dict[str, Any]) -> None:
    for parameter in model.policy.parameters():
        parameter.data.mul_(0.9)


def scale_the_critic_s_data(model: Any, _: dict[str, Any]) -> None:
    model.policy.value_net.weight.data.add_(0.1)


def set_log_std(model: Any, _: dict[str, Any]) -> None:
    if hasattr(model.policy, "log_std"):
        model.policy.log_std.data.fill_(-2)


def replace_log_std(model: Any, _: dict[str, Any]) -> None:
    if hasattr(model.policy, "log_std"):
        model.policy.log_std = nn.Parameter(th.full_like(model.policy.log_std, -1.5))


def filled(layer: nn.Linear) -> nn.Linear:
    """Another layer of the same shape."""
    with th.random.fork_rng(devices=[]):
        other = nn.Linear(layer.in_features, layer.out_features)
    with th.no_grad():
        other.weight.copy_(th.as_tensor(wave(tuple(other.weight.shape))))
        other.bias.copy_(th.as_tensor(wave(tuple(other.bias.shape))))
    return other


def replace_action_net(model: Any, _: dict[str, Any]) -> None:
    model.policy.action_net = filled(model.policy.action_net)


def replace_value_net(model: Any, _: dict[str, Any]) -> None:
    model.policy.value_net = filled(model.policy.value_net)


def replace_first_layers(model: Any, _: dict[str, Any]) -> None:
    for net in (model.policy.mlp_extractor.policy_net, model.policy.mlp_extractor.value_net):
        net[0] = filled(net[0])


def one_more_activation(model: Any, _: dict[str, Any]) -> None:
    for net in (model.policy.mlp_extractor.policy_net, model.policy.mlp_extractor.value_net):
        net.append(nn.ReLU())


def replace_policy(model: Any, _: dict[str, Any]) -> None:
    model.policy = copy.deepcopy(model.policy)
    model.policy.load_state_dict(scaled_state(model))


def hook(model: Any, _: dict[str, Any]) -> None:
    if not model.policy.action_net._forward_hooks:
        model.policy.action_net.register_forward_hook(lambda module, arguments, output: 2 * output)


def hook_of_the_critic(model: Any, _: dict[str, Any]) -> None:
    if not model.policy.value_net._forward_hooks:
        model.policy.value_net.register_forward_hook(lambda module, arguments, output: output + 1)


def gradient_hook(model: Any, _: dict[str, Any]) -> None:
    if not model.policy.action_net._backward_hooks:
        model.policy.action_net.register_full_backward_hook(lambda module, inputs, outputs: (2 * inputs[0],))


def wrapped_forward(model: Any, _: dict[str, Any]) -> None:
    forward = model.policy.forward

    def values_and_more(obs: th.Tensor, deterministic: bool = False) -> Any:
        actions, values, log_prob = forward(obs, deterministic)
        return actions, values + 1, log_prob

    model.policy.forward = values_and_more


def edit_rewards_of_step(_: Any, names: dict[str, Any]) -> None:
    names["rewards"] += wave(names["rewards"].shape)


def edit_observations_of_step(_: Any, names: dict[str, Any]) -> None:
    names["new_obs"] *= 0.5


def edit_dones_of_step(_: Any, names: dict[str, Any]) -> None:
    names["dones"][0] = True


def edit_infos_of_step(_: Any, names: dict[str, Any]) -> None:
    names["dones"][1] = True
    names["infos"][1] |= {"terminal_observation": names["new_obs"][1] * 2, "TimeLimit.truncated": True}


def edit_actions_of_step(_: Any, names: dict[str, Any]) -> None:
    names["actions"][:] = names["actions"][::-1].copy()


IN_A_STEP: dict[str, Edit] = {
    "load_state_dict": load_state_dict,
    "set_parameters": set_parameters,
    "vector_to_parameters": set_vector,
    "data": scale_the_data,
    "data of the critic": scale_the_critic_s_data,
    "log_std": set_log_std,
    "log_std replaced": replace_log_std,
    "action_net replaced": replace_action_net,
    "value_net replaced": replace_value_net,
    "layers replaced": replace_first_layers,
    "one more activation": one_more_activation,
    "policy replaced": replace_policy,
    "hook": hook,
    "hook of the critic": hook_of_the_critic,
    "gradient hook": gradient_hook,
    "forward wrapped": wrapped_forward,
    "rewards": edit_rewards_of_step,
    "new_obs": edit_observations_of_step,
    "dones": edit_dones_of_step,
    "infos": edit_infos_of_step,
    "actions": edit_actions_of_step,
}
EDITS = [pytest.param(edit, False, id=f"end: {name}") for name, edit in AT_THE_END.items()]
EDITS += [pytest.param(edit, True, id=f"step: {name}") for name, edit in IN_A_STEP.items()]
every_edit = pytest.mark.parametrize(("edit", "in_step"), EDITS)
every_env = pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])


def after_learning(algorithm: Any, env_id: str, callback: Editor | None, **settings: Any) -> dict[str, th.Tensor]:
    """Every parameter after four rollouts with two environments."""
    env = make_vec_env(env_id, 2, seed=0)
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", **settings)
    model.learn(4 * 2 * model.n_steps, callback=callback)
    return {name: value.detach().clone() for name, value in model.policy.named_parameters()}


@every_env
@every_edit
def test_edited_as_a2c_it_is_a2c(env_id: str, edit: Edit, in_step: bool) -> None:
    """Parameter by parameter, to 1e-5: A2C sums its rows in a random order, and RMSprop divides by a small root."""
    shared = {"n_steps": 8, "learning_rate": 1e-3, "max_grad_norm": 1e6}
    theirs = after_learning(A2C, env_id, Editor(edit, in_step), **shared)
    ours = after_learning(VanillaPG, env_id, Editor(edit, in_step), **AS_A2C | shared)
    assert distance(ours, theirs) < 1e-5


@every_env
@every_edit
def test_edited_as_ppo_it_is_ppo(env_id: str, edit: Edit, in_step: bool) -> None:
    """Parameter by parameter, to 1e-5, with a critic that is clipped too."""
    shared = {
        "n_steps": 8,
        "batch_size": 8,
        "n_epochs": 2,
        "clip_range": 0.2,
        "clip_range_vf": 0.1,
        "max_grad_norm": 1e6,
    }
    theirs = after_learning(PPO, env_id, Editor(edit, in_step), **shared)
    ours = after_learning(OffPolicyISPG, env_id, Editor(edit, in_step), **AS_PPO | shared)
    assert distance(ours, theirs) < 1e-5
