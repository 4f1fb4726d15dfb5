"""Batches that are used again: what is kept of them, for how long, and on disk."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_pg import OffPolicyISPG
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.update.history import BatchHistory
from tests.helpers.environments import RandomEnv, diary
from tests.helpers.models import OWN_CRITIC, differences, make, snapshot
from tests.helpers.recording import log_to_memory

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
OBSERVED = spaces.Box(-2.0, 2.0, (3,), np.float32)
DICTIONARY = spaces.Dict({"a": OBSERVED, "b": spaces.Discrete(3)})


def random_env(action_space: spaces.Space[Any], observation_space: spaces.Space[Any] = OBSERVED) -> DummyVecEnv:
    """Two environments with episodes of about 4 steps."""
    return DummyVecEnv([lambda: RandomEnv(action_space, observation_space, 10, 0.25)] * 2)


def ispg(env: Any = None, n_reused_batches: int = 3, **kwargs: Any) -> OffPolicyISPG:
    """A small model that uses batches again."""
    env = random_env(spaces.Discrete(3)) if env is None else env
    settings: dict[str, Any] = {"incomplete_episodes": "truncate", "learning_rate": 0.02, "target_kl": None}
    model = make(OffPolicyISPG, env, n_reused_batches=n_reused_batches, **settings | kwargs)
    assert isinstance(model, OffPolicyISPG)
    return model


def env_of(model: OffPolicyISPG) -> VecEnv:
    env = model.get_env()
    assert env is not None
    return env


def per_update(model: OffPolicyISPG) -> int:
    """Steps of a rollout."""
    return model.n_steps * model.n_envs


#: Models of several kinds.
MODELS: dict[str, Callable[..., OffPolicyISPG]] = {
    "Discrete": ispg,
    "MultiBinary": lambda **kwargs: ispg(random_env(spaces.MultiBinary(2)), **kwargs),
    "Box": lambda **kwargs: ispg(random_env(BOX), **kwargs),
    "gSDE": lambda **kwargs: ispg(random_env(BOX), use_sde=True, sde_sample_freq=4, **kwargs),
    "dictionary": lambda **kwargs: ispg(
        random_env(spaces.Discrete(3), DICTIONARY), policy="MultiInputPolicy", **kwargs
    ),
    "critic": lambda **kwargs: ispg(**OWN_CRITIC | {"incomplete_episodes": "bootstrap"} | kwargs),
    "micro-batches": lambda **kwargs: ispg(micro_batch_size=7, **kwargs),
    "trajectory": lambda **kwargs: ispg(**{"importance": "trajectory", "incomplete_episodes": "carry"} | kwargs),
    "minibatches": lambda **kwargs: ispg(batch_size=20, **kwargs),
    "batches of several sizes": lambda **kwargs: ispg(**{"incomplete_episodes": "drop"} | kwargs),
}
every_model = pytest.mark.parametrize("name", MODELS)


class Rollouts(BaseCallback):
    """Keeps the batch and the policy's parameters of every rollout, and what was logged of every update."""

    model: OffPolicyISPG

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[EpisodeBatch] = []
        self.policies: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.logged.append(dict(self.logger.name_to_value))

    def _on_rollout_end(self) -> None:
        # A copy, so that what happens to the algorithm's own later does not matter
        batch = copy.deepcopy(self.model.rollout_buffer.batch)
        assert batch is not None
        self.batches.append(batch)
        self.policies.append(copy.deepcopy(self.model.policy.state_dict()))

    def _on_training_end(self) -> None:
        self.logged.append(dict(self.logger.name_to_value))


# --- memory ---------------------------------------------------------------------------------------------------------


class Sizes(BaseCallback):
    """The number of batches in the history, and their bytes, before each rollout."""

    model: OffPolicyISPG

    def __init__(self) -> None:
        super().__init__()
        self.n_batches: list[int] = []
        self.n_bytes: list[int] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        history = self.model.replay_buffer
        kept = {one.number for one in history}
        assert len(kept) == len(history) <= self.model.n_reused_batches
        for one in history:
            assert one.log_probs.keys() == kept, "a log-prob of every batch under every kept policy, and no other"
            assert all(len(value) == one.batch.episodes.n_rows for value in one.log_probs.values())
        self.n_batches.append(len(history))
        self.n_bytes.append(len(pickle.dumps(history)))


@pytest.mark.parametrize("n_reused_batches", [1, 2, 5])
def test_memory_is_bounded(n_reused_batches: int) -> None:
    """Over 50 updates, from whatever is pickled with it: rows, parameters and log-probs of the batches kept."""
    sizes = Sizes()
    model = ispg(diary(2, lengths=[4]), n_reused_batches=n_reused_batches)
    model.learn(50 * per_update(model), callback=sizes)
    assert sizes.n_batches == [*range(n_reused_batches), *[n_reused_batches] * (50 - n_reused_batches)]
    # Once it is full only the digits of the numbers vary
    assert max(sizes.n_bytes[n_reused_batches:]) <= min(sizes.n_bytes[n_reused_batches:]) + 200


def test_nothing_is_kept_where_nothing_is_used_again() -> None:
    model = ispg(n_reused_batches=0).learn(96)
    assert len(model.replay_buffer) == 0
    assert len(pickle.dumps(model.replay_buffer)) < 200


# --- what is kept ---------------------------------------------------------------------------------------------------


@every_model
def test_what_is_kept(name: str) -> None:
    """The last batches, newest first, as they were collected; their policies; every log-prob under each of these."""
    model, rollouts = MODELS[name](), Rollouts()
    model.learn(8 * per_update(model), callback=rollouts)
    kept = list(model.replay_buffer)
    batches, policies = rollouts.batches[:-4:-1], rollouts.policies[:-4:-1]
    assert len(kept) == 3
    for one, batch, policy in zip(kept, batches, policies, strict=True):
        assert differences(one.policy.state_dict(), policy) == []
        for field in ("observations", "actions", "rewards", "behaviour_log_prob", "values", "last_values"):
            assert differences(getattr(one.batch, field), getattr(batch, field)) == [], field
        assert th.equal(one.batch.episodes.lengths, batch.episodes.lengths)
    judge = MODELS[name](seed=9).policy
    judge.set_training_mode(False)
    for one in kept:
        for other in kept:
            judge.load_state_dict(other.policy.state_dict())
            with th.no_grad():
                expected = judge.evaluate_actions(one.batch.observations, one.batch.actions)[1]
            th.testing.assert_close(one.log_probs[other.number], expected, rtol=1e-5, atol=1e-5)
        if name != "trajectory":
            th.testing.assert_close(one.log_probs[one.number], one.batch.behaviour_log_prob, rtol=1e-5, atol=1e-5)
    far = (kept[0].log_probs[kept[2].number] - kept[0].log_probs[kept[0].number]).abs().max()
    assert far > 1e-3, "policies that are equal prove nothing"


@every_model
def test_policies_that_are_equal_weigh_equally(name: str) -> None:
    """With a learning rate of 0 every weight is 1, and past batches are as good as new ones."""
    model, rollouts = MODELS[name](learning_rate=0.0), Rollouts()
    model.learn(8 * per_update(model), callback=rollouts)
    for logged in rollouts.logged[1:]:
        assert logged["train/ess"] == pytest.approx(1, abs=1e-6)
        assert logged["train/ratio_max"] == pytest.approx(1, abs=2e-6)
        assert logged["train/ratio_std"] == pytest.approx(0, abs=2e-6)
        assert logged["train/approx_kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["Discrete", "Box", "gSDE", "dictionary", "batches of several sizes"])
def test_weights_are_those_of_the_mixture(name: str) -> None:
    """pi / sum_k share_k q_k of every row, newest batch first, from the parameters that were noted on the way."""
    model, rollouts = MODELS[name](), Rollouts()
    n_updates = 7
    model.learn(n_updates * per_update(model), callback=rollouts)
    judge = MODELS[name](seed=9).policy
    judge.set_training_mode(False)
    after = [*rollouts.policies[1:], model.policy.state_dict()]

    def density(policy: dict[str, Any], batch: EpisodeBatch) -> th.Tensor:
        judge.load_state_dict(policy)
        with th.no_grad():
            return judge.evaluate_actions(batch.observations, batch.actions)[1].double().exp()

    for update in range(n_updates):
        used = range(update, max(-1, update - 4), -1)
        n_rows = [rollouts.batches[k].episodes.n_rows for k in used]
        weights = []
        for k in used:
            batch = rollouts.batches[k]
            mixture = sum(
                n / sum(n_rows) * density(rollouts.policies[j], batch) for j, n in zip(used, n_rows, strict=True)
            )
            weights.append(density(after[update], batch) / mixture)
        weight = th.cat(weights)
        logged = rollouts.logged[update + 1]
        assert logged["train/ess"] == pytest.approx(
            float(weight.sum() ** 2 / (len(weight) * (weight**2).sum())), rel=1e-4
        )
        assert logged["train/ratio_max"] == pytest.approx(float(weight.max()), rel=1e-4)
        assert logged["train/ratio_std"] == pytest.approx(float(weight.std()), rel=1e-3, abs=1e-5)


def test_behind_vec_normalize() -> None:
    """Observations are kept as their policy saw them: statistics that move on change no ratio.

    Of the first update, which uses one batch, and with a learning rate of 0 of every later one, all weights are 1.
    """
    env = VecNormalize(random_env(spaces.Discrete(3)), gamma=0.99)
    model, rollouts = ispg(env, learning_rate=0.0), Rollouts()
    model.learn(6 * per_update(model), callback=rollouts)
    for one, batch in zip(model.replay_buffer, rollouts.batches[::-1], strict=False):
        assert isinstance(one.batch.observations, th.Tensor) and isinstance(batch.observations, th.Tensor)
        assert th.equal(one.batch.observations, batch.observations)
        assert th.equal(one.batch.rewards, batch.rewards)
    for logged in rollouts.logged[1:]:
        assert logged["train/ratio_max"] == pytest.approx(1, abs=2e-6)
        assert logged["train/ess"] == pytest.approx(1, abs=1e-6)


def test_ratios_at_the_start_of_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind VecNormalize too the newest batch has ratios of 1 to the policy that is about to learn."""
    seen: list[tuple[th.Tensor, th.Tensor]] = []
    genuine = BatchHistory.sample

    def sample(history: BatchHistory, batch: EpisodeBatch, *args: Any) -> Any:
        with th.no_grad():
            log_prob = model.policy.evaluate_actions(batch.observations, batch.actions)[1]
        result = genuine(history, batch, *args)
        seen.append((log_prob - batch.behaviour_log_prob, result.log_prob[: len(log_prob)] - log_prob))
        return result

    monkeypatch.setattr(BatchHistory, "sample", sample)
    model = ispg(VecNormalize(random_env(BOX), gamma=0.99), learning_rate=0.05)
    model.learn(6 * per_update(model))
    assert len(seen) == 6
    for ratios in seen:
        assert all(float(one.abs().max()) < 1e-4 for one in ratios)


# --- on disk --------------------------------------------------------------------------------------------------------


def same_history(one: BatchHistory, other: BatchHistory) -> bool:
    """Whether two of them hold the same, bit for bit."""
    assert [past.number for past in one] == [past.number for past in other]
    for ours, theirs in zip(one, other, strict=True):
        assert differences(ours.policy, theirs.policy) == []
        assert differences(ours.log_probs, theirs.log_probs) == []
        ours_now, theirs_now = vars(ours.batch).copy(), vars(theirs.batch).copy()
        assert differences(vars(ours_now.pop("episodes")), vars(theirs_now.pop("episodes"))) == []
        assert differences(ours_now, theirs_now) == []
    return True


@every_model
def test_save_and_go_on(name: str, tmp_path: Path) -> None:
    """Model and history saved, loaded and continued: as a run that was never interrupted, bit for bit."""
    model = MODELS[name]()
    model.learn(5 * per_update(model))
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "history")
    ends, logs = [], []
    for is_loaded in (False, True):
        if is_loaded:
            going_on = OffPolicyISPG.load(tmp_path / "model", device="cpu")
            going_on.load_replay_buffer(tmp_path / "history")
            # The same environments, begun anew in both runs
            going_on.set_env(env_of(MODELS[name]()))
        else:
            going_on = model
            going_on.set_env(env_of(MODELS[name]()))
        going_on.set_random_seed(5)
        logs.append(log_to_memory(going_on))
        going_on.learn(5 * per_update(model), reset_num_timesteps=False)
        ends.append(going_on)
    assert differences(snapshot(ends[0]), snapshot(ends[1])) == []
    assert same_history(ends[0].replay_buffer, ends[1].replay_buffer)
    assert [dump["train/ess"] for dump in logs[0][1:]] == [dump["train/ess"] for dump in logs[1][1:]]


def test_without_the_history_it_goes_on_otherwise(tmp_path: Path) -> None:
    """The comparison above would see it: a model without its history learns, from its new batches alone."""
    model = ispg().learn(160)
    model.save(tmp_path / "model")
    loaded = OffPolicyISPG.load(tmp_path / "model", env=ispg().env, device="cpu")
    assert len(loaded.replay_buffer) == 0
    ends = []
    for going_on in (model, loaded):
        going_on.set_env(env_of(ispg()))
        going_on.set_random_seed(5)
        ends.append(snapshot(going_on.learn(32, reset_num_timesteps=False)))
    assert differences(ends[0]["policy"], ends[1]["policy"]) != []
    loaded.learn(160, reset_num_timesteps=False)
    assert len(loaded.replay_buffer) == 3


@pytest.mark.parametrize("given", ["str", "Path", "another suffix", "no suffix"])
def test_paths(given: str, tmp_path: Path) -> None:
    """As for SB3's off-policy algorithms."""
    model = ispg().learn(160)
    name = {"another suffix": "history.bin", "no suffix": "history"}.get(given, "history.pkl")
    path = str(tmp_path / name) if given == "str" else tmp_path / name
    model.save_replay_buffer(path)
    expected = tmp_path / (name if "." in name else f"{name}.pkl")
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [expected]
    fresh = ispg()
    fresh.load_replay_buffer(path, truncate_last_traj=True)
    assert same_history(model.replay_buffer, fresh.replay_buffer)
    fresh = ispg()
    fresh.load_replay_buffer(expected)
    assert same_history(model.replay_buffer, fresh.replay_buffer)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """SB3 makes it, and says so."""
    model, path = ispg().learn(96), tmp_path / "new" / "folder" / "history"
    with pytest.warns(UserWarning, match=r"new/folder' does not exist. Will create it"):
        model.save_replay_buffer(path)
    fresh = ispg()
    fresh.load_replay_buffer(path)
    assert same_history(model.replay_buffer, fresh.replay_buffer)


def test_file_objects(tmp_path: Path) -> None:
    """An open file, or bytes in memory."""
    model = ispg().learn(160)
    memory = io.BytesIO()
    model.save_replay_buffer(memory)
    memory.seek(0)
    with (tmp_path / "history").open("wb") as file:
        model.save_replay_buffer(file)
    with (tmp_path / "history").open("rb") as file:
        for source in (memory, file):
            fresh = ispg()
            fresh.load_replay_buffer(source, truncate_last_traj=False)
            assert same_history(model.replay_buffer, fresh.replay_buffer)


def test_checkpoint_callback(tmp_path: Path) -> None:
    """SB3's checkpoints take the history along, each that of its moment."""
    model = ispg()
    kwargs: dict[str, Any] = {"name_prefix": "pg", "save_replay_buffer": True}
    model.learn(160, callback=CheckpointCallback(40, str(tmp_path), **kwargs))
    for n_steps in (80, 160):
        loaded = OffPolicyISPG.load(tmp_path / f"pg_{n_steps}_steps", env=ispg().env, device="cpu")
        loaded.load_replay_buffer(str(tmp_path / f"pg_replay_buffer_{n_steps}_steps.pkl"))
        # Saved in a rollout: before the update that would have kept its batch
        assert len(loaded.replay_buffer) == min(3, (n_steps - 1) // 32)
        loaded.learn(32, reset_num_timesteps=False)


@pytest.mark.parametrize("size", [0, 1, 2, 4])
def test_loading_into_another_number_of_batches(size: int, tmp_path: Path) -> None:
    """The newest are kept; with more room all of them."""
    model = ispg().learn(160)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "history")
    fresh = OffPolicyISPG.load(tmp_path / "model", env=ispg().env, device="cpu", n_reused_batches=size)
    fresh.load_replay_buffer(tmp_path / "history")
    numbers = [one.number for one in model.replay_buffer]
    assert [one.number for one in fresh.replay_buffer] == numbers[:size]
    fresh.learn(160, reset_num_timesteps=False)
    assert len(fresh.replay_buffer) == size
    kept = {one.number for one in fresh.replay_buffer}
    assert all(one.log_probs.keys() == kept for one in fresh.replay_buffer)


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], None, "text"], ids=str)
def test_a_file_that_holds_something_else(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.pkl"
    th.save(content, path)
    model = ispg().learn(96)
    before = list(model.replay_buffer)
    with pytest.raises(ValueError, match=rf"other\.pkl holds a {type(content).__name__}: .*save_replay_buffer"):
        model.load_replay_buffer(path)
    assert list(model.replay_buffer) == before


@pytest.mark.parametrize("n_bytes", [0, 10, 1000])
def test_a_file_that_is_cut_off(n_bytes: int, tmp_path: Path) -> None:
    """What is no archive, or half of one, is refused by its name; the model keeps the history that it had."""
    model = ispg().learn(96)
    model.save_replay_buffer(tmp_path / "history.pkl")
    whole = (tmp_path / "history.pkl").read_bytes()
    (tmp_path / "history.pkl").write_bytes(whole[:n_bytes])
    before = list(model.replay_buffer)
    with pytest.raises(ValueError, match=r"history\.pkl is no archive, or cut off"):
        model.load_replay_buffer(tmp_path / "history.pkl")
    assert list(model.replay_buffer) == before


@pytest.mark.parametrize(
    "other",
    [
        {"policy_kwargs": {"net_arch": [9]}},
        {"policy_kwargs": {"net_arch": [8, 8]}},
        {"env": random_env(spaces.Discrete(4))},
        {"env": random_env(BOX)},
        OWN_CRITIC | {"incomplete_episodes": "bootstrap"},
    ],
    ids=["width", "depth", "actions", "kind of actions", "critic"],
)
def test_batches_of_another_network(other: dict[str, Any], tmp_path: Path) -> None:
    ispg().learn(96).save_replay_buffer(tmp_path / "history")
    model = ispg(**other)
    with pytest.raises(ValueError, match=r"history holds batches of another network: give the file .* with this model"):
        model.load_replay_buffer(tmp_path / "history")
    assert len(model.replay_buffer) == 0


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ispg().load_replay_buffer(tmp_path / "nothing")


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["OSError", "KeyboardInterrupt"])
def test_interrupted_save(exists: bool, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays whole; where there was none there is none by that name."""
    model, path = ispg().learn(96), tmp_path / "history.pkl"
    if exists:
        model.save_replay_buffer(path)
        old = path.read_bytes()
    model.learn(96, reset_num_timesteps=False)

    def half(content: Any, file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(th, "save", half)
        with pytest.raises(type(error)):
            model.save_replay_buffer(path)
    assert path.exists() == exists
    if exists:
        assert path.read_bytes() == old
        ispg().load_replay_buffer(path)
    model.save_replay_buffer(path)
    assert [one.name for one in tmp_path.iterdir()] == ["history.pkl"], "nothing is left of the interrupted one"


def test_a_saved_model_holds_no_batches(tmp_path: Path) -> None:
    """Its file is as large as that of a model which keeps none: neither the history is in it nor the frozen policy."""
    sizes = {}
    for n_reused_batches in (0, 5):
        model = ispg(n_reused_batches=n_reused_batches).learn(10 * 32)
        model.save(tmp_path / "model")
        with zipfile.ZipFile(tmp_path / "model.zip") as archive:
            data = archive.read("data").decode()
            sizes[n_reused_batches] = sum(one.file_size for one in archive.infolist())
        assert '"replay_buffer"' not in data
        assert '"_frozen"' not in data
        assert "BatchHistory" not in data
    assert abs(sizes[5] - sizes[0]) < 1000


def test_get_and_set_parameters_leave_the_history_alone() -> None:
    model = ispg().learn(160)
    assert model.get_parameters().keys() == {"policy", "policy.optimizer"}
    before = list(model.replay_buffer)
    model.set_parameters(model.get_parameters())  # type: ignore[arg-type]
    assert list(model.replay_buffer) == before
