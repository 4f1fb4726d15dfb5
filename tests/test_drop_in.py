"""The algorithms take what Stable-Baselines3's own take, and call back, log and predict as they do."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecNormalize,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.policies.evaluation import evaluate_actions
from tests.helpers.environments import DiaryEnv, diary
from tests.helpers.models import (
    JOINT_CRITIC,
    TINY,
    Algorithm,
    differences,
    every_algorithm,
    every_estimator,
    make,
    n_updates,
    no_episode_ended,
    snapshot,
)
from tests.helpers.recording import Batches, assert_whole, episodes_of, log_to_memory

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


ACTION_SPACES = {
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(np.array([-1.0, 0.0], dtype=np.float32), np.array([1.0, 5.0], dtype=np.float32)),
}
every_action_space = pytest.mark.parametrize("action_space", ACTION_SPACES.values(), ids=ACTION_SPACES.keys())

GSDE = {
    "gSDE": {"use_sde": True, "sde_sample_freq": 4},
    "gSDE once a rollout": {"use_sde": True},
    "squashed gSDE": {"use_sde": True, "sde_sample_freq": 4, "policy_kwargs": TINY | {"squash_output": True}},
}


class SameAsCollected(Batches):
    """Checks, before the update, that the stored log-probs are those of the stored actions under the policy."""

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        batch = self.batches[-1]
        assert batch is not None, "no episode ended"
        fresh = ~batch.carried
        with th.no_grad():
            _, log_prob, _ = evaluate_actions(self.model.policy, batch.at(slice(None)))
        assert fresh.any()
        th.testing.assert_close(log_prob[fresh], batch.behaviour_log_prob[fresh], rtol=1e-4, atol=1e-4)


def assert_learns(model: PolicyGradientAlgorithm, total_timesteps: int) -> list[Any]:
    """The model makes updates that change every parameter group, on the log-probs that it collected."""
    before = snapshot(model)["policy"]
    recorder = SameAsCollected()
    model.learn(total_timesteps, callback=recorder)
    after = model.policy.state_dict()
    changed = [name for name in after if not th.equal(before[name], after[name])]
    assert any(name.startswith("action_net") for name in changed), "the policy has not changed"
    assert all(bool(th.isfinite(value).all()) for value in after.values())
    assert n_updates(model) == len(recorder.updates) > 0
    return recorder.updates


# Spaces


@every_algorithm
@every_action_space
@pytest.mark.parametrize("as_dict", [False, True], ids=["Box obs", "Dict obs"])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_episodes", [None, 6])
def test_spaces(
    algorithm: Algorithm, action_space: spaces.Space[Any], as_dict: bool, n_envs: int, n_episodes: int | None
) -> None:
    """Each kind of action and observation, with one and several environments, by steps and by episodes.

    The environment checks that every action it gets is in its action space.
    """
    env = diary(n_envs, action_space=action_space, as_dict=as_dict)
    policy = "MultiInputPolicy" if as_dict else "MlpPolicy"
    model = make(algorithm, env, policy=policy, n_steps=40, n_episodes=n_episodes)
    for batch in assert_learns(model, 80 * n_envs):
        assert_whole(batch, lengths=[5])
        if n_episodes is not None:
            assert batch.episodes.n_episodes == n_episodes
    observations = env.reset()
    assert not isinstance(observations, tuple)
    actions, _ = model.predict(observations, deterministic=True)
    assert all(action_space.contains(action) for action in actions)


@every_algorithm
@every_estimator
@pytest.mark.parametrize("kwargs", GSDE.values(), ids=GSDE.keys())
def test_gsde(algorithm: Algorithm, estimator: dict[str, Any], kwargs: dict[str, Any]) -> None:
    """State-dependent exploration, squashed and not: actions stay in bounds, the noise is redrawn as often as asked."""
    model = make(algorithm, diary(2, action_space=ACTION_SPACES["Box"]), **estimator | kwargs)
    draws: list[int] = []
    reset_noise = model.policy.reset_noise

    def count(n_envs: int = 1) -> None:
        draws.append(n_envs)
        reset_noise(n_envs)

    model.policy.reset_noise = count  # type: ignore[method-assign]
    assert_learns(model, 2 * 16 * 2)
    draws_per_rollout = 1 + (16 // 4 if "sde_sample_freq" in kwargs else 0)
    assert draws == [2] * (2 * draws_per_rollout)


class PaidImages(FakeImageEnv):
    """SB3's images, with a reward now and then."""

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float(self.current_step % 3), *rest


@every_algorithm
@every_estimator
@pytest.mark.parametrize("discrete", [True, False], ids=["Discrete", "Box"])
def test_images(algorithm: Algorithm, estimator: dict[str, Any], discrete: bool) -> None:
    """Images through CnnPolicy, channels last: SB3's wrapper transposes them."""
    env = PaidImages(screen_height=36, screen_width=36, discrete=discrete)
    model = make(algorithm, env, policy="CnnPolicy", policy_kwargs=None, **estimator)
    batches = assert_learns(model, 32)
    assert batches[0].observations.shape[1:] == (1, 36, 36)


# Vectorised environments and wrappers


@every_algorithm
def test_vec_normalize(algorithm: Algorithm) -> None:
    """What VecNormalize makes of rewards and observations is what is learned from, and no more is done to them."""
    env = VecNormalize(diary(1, ending="truncated"), gamma=0.9)
    model = make(algorithm, env, **JOINT_CRITIC)
    recorder = Batches()
    model.learn(40, callback=recorder)
    batch = recorder.updates[0]
    np.testing.assert_array_equal(batch.rewards.numpy(), np.concatenate(recorder.rewards)[: len(batch.rewards)])
    assert isinstance(batch.observations, th.Tensor)
    assert np.abs(batch.observations.numpy()).max() <= env.clip_obs
    assert model.get_vec_normalize_env() is env


@every_algorithm
@pytest.mark.parametrize("bootstrap_truncated", [False, True])
def test_rewards_stay_raw_at_time_limits(algorithm: Algorithm, bootstrap_truncated: bool) -> None:
    """The value at a time limit is a fact of its own: no reward carries it, as it would in SB3's own collection."""
    model = make(algorithm, diary(1, ending="truncated"), **JOINT_CRITIC | {"bootstrap_truncated": bootstrap_truncated})
    recorder = Batches()
    model.learn(32, callback=recorder)
    for batch in recorder.updates:
        assert batch.truncated.all()
        assert set(batch.rewards.tolist()) <= {1.0, 2.0, 3.0}
    bootstrapped = recorder.updates[0].last_values != 0
    assert bootstrapped.all() == bootstrap_truncated and bootstrapped.any() == bootstrap_truncated


@every_algorithm
def test_vec_frame_stack(algorithm: Algorithm) -> None:
    model = make(algorithm, VecFrameStack(diary(2), n_stack=3))
    assert assert_learns(model, 64)[0].observations.shape[1:] == (9,)


@every_algorithm
def test_monitor(algorithm: Algorithm, tmp_path: Path) -> None:
    """Each episode is counted once: in Monitor's file, in ``ep_info_buffer`` and in the logged means."""
    env = Monitor(DiaryEnv(lengths=[2, 6]), str(tmp_path / "log"))
    model = make(algorithm, env)
    dumps = log_to_memory(model)
    model.learn(16)
    assert [info["l"] for info in model.ep_info_buffer or []] == [2, 6, 6]
    assert dumps[0]["rollout/ep_len_mean"] == pytest.approx(14 / 3)
    env.close()
    rows = (tmp_path / "log.monitor.csv").read_text().splitlines()[2:]
    assert [row.split(",")[1] for row in rows] == ["2", "6", "6"]


@every_algorithm
def test_subprocesses(algorithm: Algorithm) -> None:
    """Environments in processes of their own."""
    env = SubprocVecEnv([partial(DiaryEnv, [4], index) for index in range(2)], start_method="fork")
    try:
        for batch in assert_learns(make(algorithm, env), 64):
            assert_whole(batch, lengths=[4])
    finally:
        env.close()


# The callback contract


class Events(BaseCallback):
    """Writes down what it is called for, and what it sees."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.events: list[str] = []
        self.locals_seen: list[set[str]] = []
        self.stop_at = stop_at

    def _note(self, event: str) -> None:
        self.events.append(f"{event} {self.num_timesteps} {self.model.num_timesteps}")

    def _on_training_start(self) -> None:
        self._note("training_start")

    def _on_rollout_start(self) -> None:
        self._note("rollout_start")

    def _on_step(self) -> bool:
        self._note(f"step {self.n_calls} training={self.model.policy.training}")
        self.locals_seen.append(set(self.locals))
        n_envs = self.training_env.num_envs
        assert [len(self.locals[name]) for name in ("new_obs", "rewards", "dones", "infos", "actions")] == [n_envs] * 5
        where = self.locals["new_obs"]
        for index, (done, info) in enumerate(zip(self.locals["dones"], self.locals["infos"], strict=True)):
            # A new episode has begun where one is done, and its last observation is in the info.
            assert (where[index, 2] == 0) == done == ("terminal_observation" in info)
        return self.n_calls != self.stop_at

    def _on_rollout_end(self) -> None:
        self._note("rollout_end")

    def _on_training_end(self) -> None:
        self._note("training_end")


class CountSteps(VecEnvWrapper):
    """Counts the steps of a vectorised environment."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.n_steps = 0

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        self.n_steps += 1
        return self.venv.step_wait()


@every_algorithm
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("stop_at", [None, 1, 6, 16, 20])
def test_callback_contract(algorithm: Algorithm, n_envs: int, stop_at: int | None) -> None:
    """Callbacks hear what A2C's hear, in its order, at its counts of time steps; returning False ends it at once."""
    ours, theirs = Events(stop_at), Events(stop_at)
    env, reference_env = CountSteps(diary(n_envs)), CountSteps(diary(n_envs))
    make(algorithm, env).learn(2 * 16 * n_envs, callback=ours)
    A2C("MlpPolicy", reference_env, n_steps=16, device="cpu").learn(2 * 16 * n_envs, callback=theirs)
    assert ours.events == theirs.events
    assert env.n_steps == reference_env.n_steps == ours.n_calls
    assert {"new_obs", "dones", "infos", "rewards", "actions"} <= ours.locals_seen[0]


@every_algorithm
def test_callbacks_see_the_locals_of_a2c(algorithm: Algorithm) -> None:
    """Whatever name a callback reads out of A2C's ``locals`` is there."""
    ours, theirs = Events(), Events()
    make(algorithm, diary()).learn(16, callback=ours)
    A2C("MlpPolicy", diary(), n_steps=16, device="cpu").learn(16, callback=theirs)
    assert theirs.locals_seen[0] - ours.locals_seen[0] == set()


@every_algorithm
def test_stopped_rollout_is_not_learned_from(algorithm: Algorithm) -> None:
    """After a callback's False there is no update, and no rollout end."""
    model = make(algorithm, diary())
    before = snapshot(model)
    callback = Events(stop_at=12)
    model.learn(16, callback=callback)
    assert model.num_timesteps == 12
    assert n_updates(model) == 0
    assert differences(before, snapshot(model)) == []
    assert not any(event.startswith("rollout_end") for event in callback.events)


# SB3's callbacks


def _eval(tmp_path: Path, **kwargs: Any) -> EvalCallback:
    return EvalCallback(Monitor(DiaryEnv([6])), eval_freq=16, n_eval_episodes=2, verbose=0, **kwargs)


CALLBACKS: dict[str, tuple[Callable[[Path], Any], int]] = {
    # Name: how to make it, and after how many of 96 time steps it ends the training.
    "evaluation": (lambda path: _eval(path, log_path=str(path), best_model_save_path=str(path)), 96),
    "reward threshold": (lambda path: _eval(path, callback_on_new_best=StopTrainingOnRewardThreshold(1.0)), 16),
    "no improvement": (
        lambda path: _eval(path, callback_after_eval=StopTrainingOnNoModelImprovement(max_no_improvement_evals=1)),
        48,
    ),
    "max episodes": (lambda path: StopTrainingOnMaxEpisodes(max_episodes=7), 35),
    "checkpoints": (lambda path: CheckpointCallback(save_freq=40, save_path=str(path)), 96),
    "every n": (lambda path: EveryNTimesteps(20, StopTrainingOnMaxEpisodes(max_episodes=10**6)), 96),
    "log every n": (lambda path: LogEveryNTimesteps(n_steps=10), 96),
    "progress bar": (lambda path: ProgressBarCallback(), 96),
    "function": (lambda path: lambda locals_, globals_: locals_["self"].num_timesteps < 33, 33),
    "list": (lambda path: [LogEveryNTimesteps(n_steps=10), StopTrainingOnMaxEpisodes(max_episodes=4)], 20),
}


@every_algorithm
@pytest.mark.parametrize(("make_callback", "steps"), CALLBACKS.values(), ids=CALLBACKS.keys())
def test_callbacks_of_sb3(
    algorithm: Algorithm, make_callback: Callable[[Path], Any], steps: int, tmp_path: Path
) -> None:
    """Each callback of SB3 does its work, and stops the training when it should."""
    model = make(algorithm, diary(1))
    callback = make_callback(tmp_path)
    model.learn(96, callback=callback)
    assert model.num_timesteps == steps
    if isinstance(callback, CheckpointCallback):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["rl_model_40_steps.zip", "rl_model_80_steps.zip"]
        assert algorithm.load(tmp_path / "rl_model_40_steps").num_timesteps == 40
    if isinstance(callback, EvalCallback) and callback.log_path is not None:
        assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [16, 32, 48, 64, 80, 96]
        assert algorithm.load(tmp_path / "best_model").predict(np.zeros(3))[0] in (0, 1)


@every_algorithm
def test_progress_bar_argument(algorithm: Algorithm) -> None:
    model = make(algorithm, diary(2)).learn(64, progress_bar=True)
    assert model.num_timesteps == 64


# The logger


@every_algorithm
@every_estimator
@pytest.mark.parametrize("log_gradient_variance", [False, True])
def test_logged_keys_never_change(algorithm: Algorithm, estimator: dict[str, Any], log_gradient_variance: bool) -> None:
    """An iteration without an update logs the same keys as one with it (the first dump comes before any update)."""
    # Iterations of 8 steps: no episode ends, one does, many do, none does.
    env = diary(lengths=[12, 1, 1, 1, 1, 11, 3])
    model = make(algorithm, env, n_steps=8, log_gradient_variance=log_gradient_variance, **estimator)
    dumps = log_to_memory(model)
    with no_episode_ended():
        model.learn(8 * 6)
    keys = [{key for key in dump if not key.startswith("rollout/ep_")} for dump in dumps]
    assert [dump["rollout/episodes"] for dump in dumps] == [0, 5, 0, 2, 3, 3]
    assert [dump["rollout/carried_steps"] for dump in dumps] == [8, 0, 8, 2, 1, 0]
    assert keys[0] == {key for key in keys[1] if not key.startswith("train/")}
    assert all(later == keys[1] for later in keys[2:])
    wanted = {"policy_loss", "entropy_loss", "grad_norm", "advantage_std", "ess", "ratio_max", "ratio_std"}
    wanted |= {"clip_fraction", "n_updates", "learning_rate"}
    wanted |= {"value_loss", "explained_variance"} if estimator["baseline"] == "value" else set()
    wanted |= {"gradient_snr"} if log_gradient_variance else set()
    assert {f"train/{name}" for name in wanted} <= keys[1]
    # A dump tells of the update before it: none, then one of five episodes, none, ...
    n_epochs = getattr(model, "n_epochs", 1)
    assert [dump["train/n_updates"] / n_epochs for dump in dumps[1:]] == [0, 1, 1, 2, 3]
    assert [bool(np.isnan(dump["train/policy_loss"])) for dump in dumps[1:]] == [True, False, True, False, False]


@every_algorithm
def test_every_output_format(algorithm: Algorithm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """stdout, csv, json and TensorBoard all take what is logged, nan included."""
    model = make(algorithm, diary(lengths=[12, 4]), n_steps=8, **JOINT_CRITIC | {"log_gradient_variance": True})
    model.set_logger(configure(str(tmp_path), ["stdout", "csv", "json", "tensorboard"]))
    with no_episode_ended():
        model.learn(32)
    model.logger.close()
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    events = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    for key in ("train/policy_loss", "train/ess", "train/explained_variance", "rollout/episodes"):
        assert key in lines[-1] and key in rows[-1] and key in events
        assert key.partition("/")[2] in printed
    assert [row["rollout/episodes"] for row in rows] == ["0", "2", "2", "2"]
    assert rows[1]["train/policy_loss"] == "nan"


@every_algorithm
def test_log_interval_none_logs_nothing(algorithm: Algorithm) -> None:
    model = make(algorithm, diary())
    dumps = log_to_memory(model)
    model.learn(48, log_interval=None)
    assert dumps == []
    model.learn(48, log_interval=2)
    assert [dump["time/iterations"] for dump in dumps] == [2]


@every_algorithm
def test_tensorboard_run_is_named_after_the_class(algorithm: Algorithm, tmp_path: Path) -> None:
    model = make(algorithm, diary(), tensorboard_log=str(tmp_path))
    model.learn(16)
    model.learn(16, tb_log_name="mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{algorithm.__name__}_1", "mine_1"]


# Whole episodes


@every_algorithm
@every_estimator
def test_episode_quota(algorithm: Algorithm, estimator: dict[str, Any]) -> None:
    """With ``n_episodes`` every batch holds exactly that many, the first ones of each environment, equally shared."""
    lengths = [[1, 2], [5, 3], [9, 1, 1, 1, 12]]
    env = DummyVecEnv([partial(DiaryEnv, lengths[i], i) for i in range(3)])
    model = make(algorithm, env, n_steps=1000, n_episodes=6, **estimator)
    recorder = Batches()
    model.learn(150, callback=recorder)
    assert len(recorder.batches) == len(recorder.updates) > 3
    assert np.all(recorder.starts), "each quota begins with a reset"
    next_episode = [0, 0, 0]
    for batch in recorder.updates:
        played = [rows[0].astype(int).tolist() for rows in episodes_of(batch)]
        assert [index for index, _, _ in played] == [0, 0, 1, 1, 2, 2]
        for index in range(3):
            assert_whole_of(batch, index, lengths[index])
            first, second = (episode for env_index, episode, _ in played if env_index == index)
            assert second == first + 1 and first >= next_episode[index]
            next_episode[index] = second + 1


def assert_whole_of(batch: Any, index: int, lengths: list[int]) -> None:
    """The episodes of one environment have the lengths that it gives them."""
    for rows in episodes_of(batch):
        if rows[0, 0] == index:
            episode = int(rows[0, 1])
            assert rows[:, 2].tolist() == list(range(lengths[min(episode, len(lengths) - 1)]))


@every_algorithm
def test_quota_goes_on_over_rollouts(algorithm: Algorithm) -> None:
    """A quota that ``n_steps`` interrupts goes on in the next rollouts, and is used once it is full."""
    model = make(algorithm, diary(2, lengths=[3, 5]), n_steps=4, n_episodes=4)
    recorder = Batches()
    with pytest.warns(UserWarning, match="before each environment had played its share"):
        model.learn(2 * 4 * 8, callback=recorder)
    n_episodes = [0 if batch is None else batch.episodes.n_episodes for batch in recorder.batches]
    assert n_episodes[:4] == [0, 4, 0, 0]
    for batch in recorder.updates:
        assert batch.episodes.n_episodes == 4
        assert_whole(batch, lengths=[3, 5])


@every_algorithm
def test_environment_that_never_ends(algorithm: Algorithm) -> None:
    """By default its steps wait, with one warning; ``cut_length`` cuts it as a time limit would."""
    patient = make(algorithm, diary(lengths=[None]))
    before = snapshot(patient)
    with no_episode_ended():
        patient.learn(64)
    assert n_updates(patient) == 0 and differences(before, snapshot(patient)) == []

    model = make(algorithm, diary(2, lengths=[None]), rollout_buffer_kwargs={"cut_length": 8})
    recorder = Batches()
    model.learn(3 * 2 * 16, callback=recorder)
    assert n_updates(model) == len(recorder.updates) == 3
    for batch in recorder.updates:
        assert batch.truncated.all() and not batch.terminated.any()
        assert batch.episodes.lengths.tolist() == [16, 16]


@every_algorithm
def test_unfinished_episodes_go_on_in_the_next_learn(algorithm: Algorithm) -> None:
    """``learn(a)`` then ``learn(b, reset_num_timesteps=False)`` uses an episode whole that began in the first."""
    model = make(algorithm, diary(2, lengths=[10]), n_steps=6)
    recorder = Batches()
    with no_episode_ended():
        model.learn(12, callback=recorder)
    model.learn(12, callback=recorder, reset_num_timesteps=False)
    assert model.num_timesteps == 24
    assert recorder.batches[0] is None
    batch = recorder.updates[0]
    assert_whole(batch, lengths=[10])
    assert batch.carried.tolist() == 2 * ([True] * 6 + [False] * 4)


@every_algorithm
def test_learn_anew_forgets_unfinished_episodes(algorithm: Algorithm) -> None:
    """``learn`` resets the environments by default, and so does ``set_env``: what was unfinished is dropped."""
    model = make(algorithm, diary(1, lengths=[10]), n_steps=6)
    recorder = Batches()
    with no_episode_ended():
        model.learn(6, callback=recorder)
    model.learn(12, callback=recorder)
    assert_whole(recorder.updates[0], lengths=[10])
    assert episodes_of(recorder.updates[0])[0][0].tolist() == [0, 1, 0]

    model.set_env(diary(1, lengths=[7]))
    model.learn(12, callback=recorder, reset_num_timesteps=False)
    assert_whole(recorder.updates[-1], lengths=[7])
    assert episodes_of(recorder.updates[-1])[0][0].tolist() == [0, 0, 0]


# Predicting


@every_algorithm
@every_estimator
def test_policy_outputs(algorithm: Algorithm, estimator: dict[str, Any]) -> None:
    """``policy(obs)`` returns actions, values and log-probs; ``predict`` takes what recurrent callers pass."""
    env = diary(3)
    model = make(algorithm, env, **estimator)
    actions, values, log_prob = model.policy(th.zeros(3, 3), deterministic=True)
    assert actions.shape == (3,) and values.shape == (3, 1) and log_prob.shape == (3,)
    observations = env.reset()
    assert isinstance(observations, np.ndarray)
    predicted, state = model.predict(observations, None, np.ones(3, dtype=bool), deterministic=True)
    assert predicted.shape == (3,) and state is None
    mean, _ = evaluate_policy(model, env, n_eval_episodes=3, warn=False)
    assert isinstance(mean, float)
    assert 5 <= mean <= 15


@every_algorithm
def test_set_env_refuses_another_space(algorithm: Algorithm) -> None:
    model = make(algorithm, diary())
    with pytest.raises(ValueError, match="space"):
        model.set_env(diary(action_space=spaces.Discrete(5)))


@every_algorithm
def test_environment_by_name(algorithm: Algorithm) -> None:
    """An environment's id is enough."""
    model = make(algorithm, "CartPole-v1", n_steps=64).learn(64)
    assert n_updates(model) == 1
