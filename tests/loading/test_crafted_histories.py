"""Files of past batches that would run code, or hold what no batch is: refused, and the model has what it had."""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import OffPolicyISPG
from sb3_pg.data.batch import Edit
from tests.helpers.environments import RandomEnv
from tests.helpers.masks import masked_diary
from tests.helpers.models import OWN_CRITIC, differences, make
from tests.loading.crafting import Call, pickles, rewritten, saved_by_torch

OBSERVED = spaces.Dict({"a": spaces.Box(-2.0, 2.0, (3,), np.float32), "b": spaces.Discrete(3)})
Change = Callable[[Any], object]


def model_of(action_space: spaces.Space[Any], observed: spaces.Space[Any] = OBSERVED, **kwargs: Any) -> OffPolicyISPG:
    env = DummyVecEnv([lambda: RandomEnv(action_space, observed, 10, 0.25)] * 2)
    settings: dict[str, Any] = {"n_reused_batches": 2, "incomplete_episodes": "truncate"} | kwargs
    model = make(OffPolicyISPG, env, **settings)
    assert isinstance(model, OffPolicyISPG)
    model.learn(96)
    return model


@pytest.fixture(scope="module")
def model() -> OffPolicyISPG:
    return model_of(spaces.Box(-1.0, 1.0, (2,)), policy="MultiInputPolicy")


@pytest.fixture(scope="module")
def saved(model: OffPolicyISPG) -> bytes:
    memory = io.BytesIO()
    model.save_replay_buffer(memory)
    return memory.getvalue()


def assert_refused(model: OffPolicyISPG, content: bytes, path: Path, message: str = "") -> None:
    """By the file's name; what the model had it has."""
    before = list(model.replay_buffer)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"history\.pkl .*{message}"):
        model.load_replay_buffer(path)
    assert list(model.replay_buffer) == before


@pytest.mark.parametrize("kind", ["REDUCE", "an object's state", "array of objects", "INST"])
def test_pickles(kind: str, model: OffPolicyISPG, tmp_path: Path) -> None:
    """What earlier versions wrote is not read at all."""
    crafted = pickles(tmp_path / "canary")[kind]
    assert_refused(model, crafted, tmp_path / "history.pkl", "pickle|archive")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_calls_among_tensors(new_format: bool, model: OffPolicyISPG, tmp_path: Path) -> None:
    content = {"format": Call(os.mkdir, str(tmp_path / "canary"))}
    crafted = saved_by_torch(content, _use_new_zipfile_serialization=new_format)
    assert_refused(model, crafted, tmp_path / "history.pkl")
    assert not (tmp_path / "canary").exists()
    th.load(io.BytesIO(crafted), weights_only=False)
    assert (tmp_path / "canary").exists(), "the file is harmless, and proves nothing"


def in_batch(name: str, value: Any) -> Change:
    return lambda history: history["batches"][0]["batch"].update({name: value})


def edited(name: str, change: Callable[[Any], Any]) -> Change:
    """With another value of a batch's field."""

    def edit(history: Any) -> None:
        batch = history["batches"][1]["batch"]
        batch[name] = change(batch[name])

    return edit


#: What is done to a history, and what the message says.
EDITS: dict[str, tuple[Change, str]] = {
    "another format": (lambda history: history.update(format="other"), "holds a dict"),
    "another version": (lambda history: history.update(version=2), "another version"),
    "no batches": (lambda history: history.pop("batches"), "no batches"),
    "batches by name": (lambda history: history.update(batches={}), "no batches"),
    "no number": (lambda history: history.update(next_number=None), "next_number"),
    "numbers from the future": (lambda history: history.update(next_number=0), "below next_number"),
    "a number twice": (lambda history: history["batches"][1].update(number=history["batches"][0]["number"]), "each"),
    "a batch that is none": (lambda history: history["batches"].insert(0, 3), "batch 0 must be a dictionary"),
    "a field less": (lambda history: history["batches"][1].pop("credit"), "batch 1 lacks.* credit"),
    "a field more": (in_batch("more", 1), "more"),
    "a number for a tensor": (in_batch("rewards", 1.0), "rewards of batch 0 must be a tensor, got a float"),
    "another number of rows": (edited("rewards", lambda one: one[:-1]), "rewards of batch 1 must have the shape"),
    "a column": (edited("values", lambda one: one[:, None]), "values of batch 1"),
    "other numbers": (edited("rewards", lambda one: one.long()), "rewards of batch 1 must hold floating-point"),
    "flags that are numbers": (edited("terminated", lambda one: one.float()), "terminated of batch 1 must hold truth"),
    "missing rewards": (in_batch("rewards", None), "rewards of batch 0 must be a tensor"),
    "another action": (edited("actions", lambda one: one[:, :1]), "actions of batch 1 must have the shape"),
    "no dictionary": (edited("observations", lambda one: one["a"]), "observations of batch 1 must be a dictionary"),
    "a key less": (edited("observations", lambda one: {"a": one["a"]}), "observations of batch 1.*'a', 'b'"),
    "another observation": (edited("observations", lambda one: one | {"a": one["a"][:, :2]}), "'a' in observations"),
    "lengths that don't add up": (
        lambda history: history["batches"][0]["batch"]["episodes"].update(lengths=th.tensor([10**15])),
        "lengths of batch 0 must add up",
    ),
    "negative lengths": (
        lambda history: history["batches"][0]["batch"]["episodes"]["lengths"].mul_(-1),
        "lengths of batch 0 must add up",
    ),
    "episodes that are shuffled": (
        lambda history: history["batches"][0]["batch"]["episodes"]["episode"].add_(1),
        "episode must say",
    ),
    "steps that jump": (lambda history: history["batches"][0]["batch"]["episodes"]["step"].mul_(2), "step must grow"),
    "an edit that is none": (in_batch("return_edit", {"shown": 1}), "return_edit of batch 0 lacks"),
    "an edit of other rows": (in_batch("value_edit", {"shown": th.zeros(1), "now": th.zeros(1)}), "value_edit"),
    "extras that are none": (in_batch("extras", [1]), "extras of batch 0 must be a dictionary"),
    "a memory that is none": (in_batch("memory", [1]), "memory of batch 0 must be a dictionary"),
    "a memory of other episodes": (in_batch("memory", {"a": th.zeros(99)}), "'a' in memory of batch 0"),
    "extras of other rows": (in_batch("extras", {"a": th.zeros(1)}), "'a' in extras of batch 0"),
    "credit of other rows": (lambda history: history["batches"][0]["credit"].update(returns=th.zeros(1)), "returns"),
    "log-probs by name": (lambda history: history["batches"][0].update(log_probs={"a": th.zeros(1)}), "log_probs"),
    "log-probs of other rows": (lambda history: history["batches"][0]["log_probs"].update({1: th.zeros(1)}), "1 of"),
    "another network": (lambda history: history["batches"][0]["policy"].popitem(), "another network"),
    "a network that is none": (lambda history: history["batches"][0].update(policy=[1]), "another network"),
    "a layer that is none": (
        lambda history: history["batches"][0]["policy"].update(log_std=[1.0]),
        "another network",
    ),
    "tensors that say much": (in_batch("rewards", th.zeros(1).expand(10**9)), "a tensor of 4000000000 bytes"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_what_is_no_history(kind: str, model: OffPolicyISPG, saved: bytes, tmp_path: Path) -> None:
    edit, message = EDITS[kind]
    history = th.load(io.BytesIO(saved), weights_only=True)
    edit(history)
    assert_refused(model, saved_by_torch(history), tmp_path / "history.pkl", message)


def test_compressed_archives_are_refused(model: OffPolicyISPG, saved: bytes, tmp_path: Path) -> None:
    crafted = rewritten(saved, {"archive/more": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    assert_refused(model, crafted, tmp_path / "history.pkl", "not compressed")


VARIETY: dict[str, Callable[[], OffPolicyISPG]] = {
    "Discrete": lambda: model_of(spaces.Discrete(3), OBSERVED["a"]),
    "MultiDiscrete": lambda: model_of(spaces.MultiDiscrete([2, 3]), OBSERVED["b"]),
    "MultiBinary": lambda: model_of(spaces.MultiBinary(2), spaces.MultiBinary([2, 3])),
    "image": lambda: model_of(spaces.Discrete(3), spaces.Box(0, 255, (36, 36, 1), np.uint8), policy="CnnPolicy"),
    "V-trace": lambda: model_of(
        spaces.Discrete(3),
        OBSERVED["a"],
        **OWN_CRITIC | {"returns": "gae", "reused_advantages": "vtrace", "incomplete_episodes": "bootstrap"},
    ),
    "masks": lambda: make(  # type: ignore[dict-item,return-value]
        OffPolicyISPG, masked_diary(), n_reused_batches=2
    ).learn(96),
}


@pytest.mark.parametrize("kind", VARIETY)
def test_what_is_saved_is_read(kind: str, tmp_path: Path) -> None:
    model = VARIETY[kind]()
    assert len(model.replay_buffer) == 2
    model.save_replay_buffer(tmp_path / "history")
    before = list(model.replay_buffer)
    model.load_replay_buffer(tmp_path / "history")
    for one, other in zip(before, model.replay_buffer, strict=True):
        assert differences(one.policy, other.policy) == []
        episodes, theirs = vars(one.batch), vars(other.batch)
        assert differences(vars(episodes["episodes"]), vars(theirs["episodes"])) == []
        for name in episodes.keys() - {"episodes"}:
            assert differences(episodes[name], theirs[name]) == [], name
    model.learn(32, reset_num_timesteps=False)


def test_edits_of_callbacks_are_kept(tmp_path: Path) -> None:
    model = model_of(spaces.Discrete(3), OBSERVED["a"])
    newest = next(iter(model.replay_buffer))
    edit = Edit(newest.batch.rewards, newest.batch.rewards + 1)
    newest.batch = dataclasses.replace(newest.batch, return_edit=edit)
    model.save_replay_buffer(tmp_path / "history")
    model.load_replay_buffer(tmp_path / "history")
    batch = next(iter(model.replay_buffer)).batch
    assert batch.advantage_edit is None and batch.return_edit is not None
    assert differences(vars(batch.return_edit), vars(edit)) == []
