"""Policies that remember in ``learn()``: nothing is lost, or mixed up, at the edges of rollouts and episodes."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.envs import TokenEnv
from sb3_pg.policies.passes import all_last_values, all_log_probs, all_values
from tests.helpers.environments import RandomEnv
from tests.helpers.masks import MASKED_SPACES, assert_own_masks, masked_diary
from tests.helpers.models import JOINT_CRITIC, Algorithm, differences, every_algorithm, make, snapshot
from tests.helpers.recording import Batches

OBSERVED = spaces.Box(-2, 2, (3,))
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("MlpLstmPolicy", {"lstm_hidden_size": 4, "net_arch": [5]}),
    "attention": ("MlpAttentionPolicy", {"context_length": 5, "d_model": 4, "n_heads": 2, "net_arch": [5]}),
}
every_policy = pytest.mark.parametrize(("policy", "policy_kwargs"), POLICIES.values(), ids=POLICIES.keys())


def random_envs(n_envs: int = 3, action_space: spaces.Space[Any] | None = None, horizon: int = 12) -> DummyVecEnv:
    space = spaces.Discrete(3) if action_space is None else action_space
    env = DummyVecEnv([partial(RandomEnv, space, OBSERVED, horizon, 0.1)] * n_envs)
    env.seed(0)
    return env


class Checked(Batches):
    """Asks the policy about each batch before the update."""

    def __init__(self, has_critic: bool = False, may_be_rests: bool = False) -> None:
        super().__init__()
        self.has_critic, self.may_be_rests, self.n_begun = has_critic, may_be_rests, 0

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        policy, batch = self.model.policy, self.batches[-1]
        if batch is None:
            return
        assert th.allclose(all_log_probs(policy, batch, whole_batch(batch), None), batch.behaviour_log_prob, atol=1e-5)
        something = th.stack([part.reshape(len(part), -1).any(dim=1) for part in batch.memory.values()]).any(dim=0)
        self.n_begun += int(something.sum())
        # A later step has a memory; a first one has none, but where the rest of an endless episode counts as another
        is_first = batch.episodes.step[batch.episodes.first_row] == 0
        assert something[~is_first].all()
        assert self.may_be_rests or not something[is_first].any()
        if self.has_critic:
            assert th.allclose(all_values(policy, batch, None), batch.values, atol=1e-5)
            follows = batch.is_followed
            assert follows is not None and follows.any()
            assert th.allclose(th.where(follows, all_last_values(policy, batch), 0), batch.last_values, atol=1e-5)


@every_policy
@every_algorithm
@pytest.mark.parametrize("incomplete_episodes", ["carry", "bootstrap", "truncate", "drop"])
def test_what_was_said_while_acting_is_said_again(
    algorithm: Algorithm, policy: str, policy_kwargs: dict[str, Any], incomplete_episodes: str
) -> None:
    """A policy that does not change says the same of every row: from a memory where the rollout's edge cut the episode,
    from its beginning elsewhere. So do values, of what follows a time limit or the edge too.
    """
    has_critic = incomplete_episodes == "bootstrap"
    arguments: dict[str, Any] = {"incomplete_episodes": incomplete_episodes}
    if has_critic:
        arguments |= {"baseline": "value", "bootstrap_truncated": True}
        arguments |= {"rollout_buffer_kwargs": {"keep_last_observations": True}}
    model = make(
        algorithm, random_envs(), policy=policy, policy_kwargs=policy_kwargs, n_steps=9, learning_rate=0.0, **arguments
    )
    seen = Checked(has_critic)
    model.learn(3 * 9 * 8, callback=seen)
    assert len(seen.updates) >= 5
    assert (seen.n_begun > 0) == (incomplete_episodes in ("bootstrap", "truncate"))


@every_policy
def test_the_rest_of_an_endless_episode_is_remembered(policy: str, policy_kwargs: dict[str, Any]) -> None:
    """Cut after ``cut_length`` steps, its rest waits as an episode of its own, whose beginning is in no batch."""
    env = DummyVecEnv([lambda: RandomEnv(spaces.Discrete(2), OBSERVED, 10**6, 0.0)] * 2)
    kwargs: dict[str, Any] = {"cut_length": 10}
    model = make(
        REINFORCE,
        env,
        policy=policy,
        policy_kwargs=policy_kwargs,
        n_steps=4,
        learning_rate=0.0,
        rollout_buffer_kwargs=kwargs,
        baseline="none",
    )
    seen = Checked(may_be_rests=True)
    with pytest.warns(UserWarning, match="No episode ended"):
        model.learn(2 * 4 * 12, callback=seen)
    assert seen.n_begun >= 4


class IgnoresPast(ActorCriticPolicy):
    """Before its layers stands what an LSTM of one unit says of a step that has no past."""


class OneUnit(BaseFeaturesExtractor):
    """o tanh(i g), of one linear map each."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 1)
        self.gates = th.nn.Linear(observation_space.shape[0], 3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        enter, new, out = self.gates(observations).chunk(3, dim=-1)
        said: th.Tensor = out.sigmoid() * (enter.sigmoid() * new.tanh()).tanh()
        return said


@pytest.mark.parametrize(
    ("algorithm", "arguments"),
    [
        (REINFORCE, {}),
        (VanillaPG, {"incomplete_episodes": "bootstrap"} | JOINT_CRITIC),
        (VanillaPG, {"natural_gradient": True, "target_kl": 0.01}),
        (OffPolicyISPG, {"importance": "trajectory", "n_reused_batches": 1, "max_weight": 5.0}),
        (OffPolicyISPG, {"clip_range": 0.2, "n_epochs": 3} | JOINT_CRITIC),
    ],
    ids=str,
)
def test_an_lstm_that_ignores_its_past_is_an_mlp(algorithm: Any, arguments: dict[str, Any]) -> None:
    """With one unit, frozen, its forget gate shut and nothing fed back: updates are those of an MLP behind it."""
    common = {"net_arch": [6], "activation_fn": th.nn.Tanh}
    lstm = make(
        algorithm,
        random_envs(),
        policy="MlpLstmPolicy",
        policy_kwargs=common | {"lstm_hidden_size": 1},
        **arguments,
    )
    mlp = make(algorithm, random_envs(), policy_kwargs=common | {"features_extractor_class": OneUnit}, **arguments)
    policy: Any = lstm.policy
    gates: Any = mlp.policy.features_extractor
    with th.no_grad():
        for one in filter(None, (policy.lstm_actor, policy.lstm_critic)):
            one.weight_hh_l0.zero_()
            one.bias_hh_l0.zero_()
            rows = [0, 2, 3]  # PyTorch's gates: input, forget, cell, output
            one.weight_ih_l0[rows], one.bias_ih_l0[rows] = gates.gates.weight, gates.gates.bias
            one.bias_ih_l0[1], one.weight_ih_l0[1] = -1e4, 0.0
            one.requires_grad_(False)
        gates.requires_grad_(False)
    names = [name for name in mlp.policy.state_dict() if not name.startswith(("features", "pi_feat", "vf_feat"))]
    policy.load_state_dict({name: mlp.policy.state_dict()[name].clone() for name in names}, strict=False)
    before = {name: mlp.policy.state_dict()[name].clone() for name in names}
    for model in (lstm, mlp):
        model.set_random_seed(3)
        model.learn(3 * 16 * 4)
    changed = [name for name in names if not th.equal(before[name], mlp.policy.state_dict()[name])]
    assert len(changed) >= 4
    for name in names:
        assert th.allclose(lstm.policy.state_dict()[name], mlp.policy.state_dict()[name], atol=1e-6), name


@every_policy
@every_algorithm
def test_saved_and_loaded(algorithm: Algorithm, policy: str, policy_kwargs: dict[str, Any], tmp_path: Path) -> None:
    """Parameters, optimizers and what it predicts, also without trust; then it learns on, with other environments."""
    model = make(algorithm, random_envs(), policy=policy, policy_kwargs=policy_kwargs, baseline="value").learn(200)
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", random_envs(2), trust=False)
    assert differences(snapshot(loaded), snapshot(model)) == []
    observations, state, other = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), None, None
    for observation in observations:
        action, state = model.predict(observation, state, deterministic=True)
        again, other = loaded.predict(observation, other, deterministic=True)
        assert np.array_equal(action, again)
    assert loaded.learn(100, reset_num_timesteps=False).num_timesteps >= 300
    path = tmp_path / "policy.pth"
    model.policy.save(str(path))
    alone = type(model.policy).load(str(path))
    assert differences(alone, model.policy) == []


@every_policy
def test_predict_goes_on_from_its_state(policy: str, policy_kwargs: dict[str, Any]) -> None:
    """Step by step with the state it is as one pass over the episode; ``episode_start`` begins anew."""
    model = make(VanillaPG, random_envs(), policy=policy, policy_kwargs=policy_kwargs, baseline="value")
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(th.randn_like(parameter))
    observations = np.random.default_rng(1).normal(size=(7, 2, 3)).astype(np.float32)
    alone: list[np.ndarray] = []
    for env in range(2):
        state, said = None, []
        for observation in observations[:, env]:
            action, state = model.predict(observation, state, deterministic=True)
            said.append(action)
        alone.append(np.array(said))
    state, together = None, []
    for observation in observations:
        action, state = model.predict(observation, state, np.zeros(2, dtype=bool), deterministic=True)
        together.append(action)
    assert np.array_equal(np.array(together).T, np.array(alone))
    begins, _ = model.predict(observations[3], state, np.array([True, False]), deterministic=True)
    assert begins[0] == model.predict(observations[3, 0], deterministic=True)[0]


class Swap(BaseCallback):
    """Puts a copy of the policy in its place in the middle of a rollout, and of another kind at the end of one."""

    def _on_step(self) -> bool:
        if self.n_calls == 5:
            self.model.policy = copy.deepcopy(self.model.policy)
        return True


@every_policy
@every_algorithm
def test_a_policy_swapped_for_its_copy_remembers(
    algorithm: Algorithm, policy: str, policy_kwargs: dict[str, Any]
) -> None:
    """A run with the swap is the run without."""
    runs = []
    for callback in (None, Swap()):
        model = make(algorithm, random_envs(), policy=policy, policy_kwargs=policy_kwargs, learning_rate=0.0)
        seen = Batches()
        model.learn(3 * 16, callback=[seen, *([callback] if callback else [])])
        runs.append(seen.updates)
    for one, other in zip(*runs, strict=True):
        assert th.equal(one.actions, other.actions) and th.equal(one.behaviour_log_prob, other.behaviour_log_prob)


@every_policy
@every_algorithm
@pytest.mark.parametrize("space", MASKED_SPACES)
@pytest.mark.parametrize("as_dict", [False, True], ids=["array", "dictionary"])
def test_masks(algorithm: Algorithm, policy: str, policy_kwargs: dict[str, Any], space: str, as_dict: bool) -> None:
    """Every row has its own, while acting and when it is asked about again; the environment refuses other actions."""
    name = policy.replace("Mlp", "MultiInput") if as_dict else policy
    env = masked_diary(3, space=space, as_dict=as_dict)
    for arguments in ({"learning_rate": 0.0}, {"learning_rate": 0.0} | JOINT_CRITIC, {}):
        model = make(algorithm, env, policy=name, policy_kwargs=policy_kwargs, n_steps=7, **arguments)
        assert type(model.policy).__name__.startswith("Maskable")
        seen = Checked() if "learning_rate" in arguments else Batches()
        model.learn(3 * 7 * 3, callback=seen)
        for batch in seen.updates:
            assert_own_masks(batch, MASKED_SPACES[space][1])
    observed: Any = env.reset()
    state = None
    for _ in range(3):
        masks = np.stack(env.env_method("action_masks"))
        action, state = model.predict(observed, state, action_masks=masks)
        observed = env.step(action)[0]
    assert state is not None


@every_policy
def test_images(policy: str, policy_kwargs: dict[str, Any]) -> None:
    """Convolutions see rows, the Transformer and the LSTM sequences."""
    env = make_vec_env(lambda: RandomEnv(spaces.Discrete(2), spaces.Box(0, 255, (36, 36, 1), np.uint8), 5, 0.1), 2)
    kwargs = policy_kwargs | {"features_extractor_kwargs": {"features_dim": 8}}
    for algorithm, estimator in ((REINFORCE, {}), (VanillaPG, JOINT_CRITIC)):
        make(algorithm, env, policy=policy.replace("Mlp", "Cnn"), policy_kwargs=kwargs, n_steps=8, **estimator).learn(
            32
        )


@every_policy
def test_gsde_and_evaluation(policy: str, policy_kwargs: dict[str, Any]) -> None:
    """As in sb3-contrib; and ``evaluate_policy`` hands the state on."""
    env = random_envs(2, spaces.Box(-1, 1, (2,)))
    model = make(VanillaPG, env, policy=policy, policy_kwargs=policy_kwargs, use_sde=True, sde_sample_freq=4)
    model.learn(100)
    mean, _ = evaluate_policy(model, env, 4, warn=False)
    assert np.isfinite(mean)


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("MlpLstmPolicy", {"lstm_hidden_size": 6, "net_arch": [5]}),
    ("MlpAttentionPolicy", {"context_length": 7, "d_model": 4, "n_heads": 2, "net_arch": [5]}),
    ("MlpPolicy", {"net_arch": [5]}),
]


class SwapFor(BaseCallback):
    """Puts another policy in the place of the model's at one moment."""

    def __init__(self, other: Any, moment: str) -> None:
        super().__init__()
        self.other, self.moment, self.n_rollouts = other, moment, 0

    def _swap(self, moment: str) -> None:
        if moment == self.moment and self.n_rollouts == 2:
            self.model.policy, self.n_rollouts = self.other, 3

    def _on_rollout_start(self) -> None:
        self.n_rollouts += 1
        self._swap("start")

    def _on_step(self) -> bool:
        self._swap("step")
        return True

    def _on_rollout_end(self) -> None:
        self._swap("end")


@every_policy
@every_algorithm
@pytest.mark.parametrize("moment", ["start", "step", "end"])
@pytest.mark.parametrize("incomplete_episodes", ["carry", "bootstrap"])
def test_a_policy_swapped_for_one_of_another_kind(
    algorithm: Algorithm, policy: str, policy_kwargs: dict[str, Any], moment: str, incomplete_episodes: str
) -> None:
    """It begins with nothing, and what the other remembered is nothing to it, in batches that are used again either."""
    arguments: dict[str, Any] = JOINT_CRITIC | {"incomplete_episodes": incomplete_episodes, "learning_rate": 1e-3}
    arguments |= {"n_steps": 9} | ({"value_learning_rate": 1e-3} if algorithm is OffPolicyISPG else {})
    arguments |= {"n_reused_batches": 2} if algorithm is OffPolicyISPG else {}
    for name, kwargs in OTHERS:
        other = make(algorithm, random_envs(), policy=name, policy_kwargs=kwargs, **arguments).policy
        model = make(algorithm, random_envs(), policy=policy, policy_kwargs=policy_kwargs, **arguments)
        model.learn(3 * 9 * 6, callback=SwapFor(other, moment))
        assert model.policy is other
        assert all(bool(parameter.isfinite().all()) for parameter in other.parameters())


@every_policy
def test_observations_of_numpys_sizes(policy: str, policy_kwargs: dict[str, Any]) -> None:
    env = DummyVecEnv([lambda: TokenEnv(3, lambda prompt, completion: float(len(completion)), 4, end_token=0)] * 2)
    make(REINFORCE, env, policy=policy, policy_kwargs=policy_kwargs).learn(64)


# What cannot be meant


@every_policy
@pytest.mark.parametrize("stock", [PPO, A2C])
def test_in_stock_algorithms(stock: Any, policy: str, policy_kwargs: dict[str, Any]) -> None:
    """They ask about steps, of which such a policy knows nothing."""
    cls = type(make(VanillaPG, random_envs(), policy=policy, policy_kwargs=policy_kwargs, baseline="value").policy)
    with pytest.raises(ValueError, match="learn with REINFORCE, VanillaPG or OffPolicyISPG"):
        stock(cls, random_envs(), policy_kwargs=dict(policy_kwargs), n_steps=8).learn(48)


@every_policy
def test_states_of_another_shape(policy: str, policy_kwargs: dict[str, Any]) -> None:
    model = make(REINFORCE, random_envs(), policy=policy, policy_kwargs=policy_kwargs)
    observations = np.zeros((2, 3), dtype=np.float32)
    state: Any = model.predict(observations)[1]
    wrongs: list[Any] = [state[:1], state[0], 3, [part[..., :1, :] if part.ndim > 1 else part for part in state]]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="state must be a tuple of arrays"):
            model.predict(observations, wrong)
    with pytest.raises(ValueError, match="of as many observations"):
        model.predict(observations[:1], state)
    with pytest.raises(ValueError, match="episode_start must have a truth value for each of 2 observations"):
        model.predict(observations, state, np.zeros(3, dtype=bool))


@pytest.mark.parametrize(
    ("policy", "policy_kwargs", "message"),
    [
        ("MlpAttentionPolicy", {"context_length": 0}, "context_length must be an integer >= 1"),
        ("MlpAttentionPolicy", {"d_model": 6, "n_heads": 4}, "d_model must be a multiple of n_heads=4, got 6"),
        ("MlpAttentionPolicy", {"n_layers": 1.5}, "n_layers must be an integer >= 1"),
        ("MlpLstmPolicy", {"lstm_hidden_size": 0}, "policy=LstmActorPolicy cannot be built"),
        ("MlpLstmPolicy", {"lstm_size": 8}, "policy=LstmActorPolicy cannot be built"),
        ("MlpLstmPolicy", {"forget_bias": -1}, "forget_bias must be a number >= 0"),
        ("MlpLstmPolicy", {"forget_bias": 1, "lstm_kwargs": {"bias": False}}, "forget_bias must be 0 where"),
        ("MlpLstmPolicy", {"lstm_kwargs": {"bidirectional": True}}, "has not seen the future"),
        ("MlpLstmPolicy", {"lstm_kwargs": {"proj_size": 4}}, "lstm_hidden_size"),
        ("MlpLstmPolicy", {"lstm_kwargs": {"num_layers": 2}}, "n_lstm_layers"),
        ("MlpLstmPolicy", {"lstm_kwargs": 5}, "a dictionary of arguments"),
    ],
)
def test_networks_that_cannot_be(policy: str, policy_kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make(REINFORCE, random_envs(), policy=policy, policy_kwargs=policy_kwargs)


def test_a_recurrent_policy_of_others_is_refused_with_what_to_write_instead() -> None:
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

    with pytest.raises(ValueError, match="write policy='MlpLstmPolicy'"):
        VanillaPG(RecurrentActorCriticPolicy, gym.make("CartPole-v1"))
