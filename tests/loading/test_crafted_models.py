"""Model files that would run code: refused by name, and nothing of them has happened."""

from __future__ import annotations

import io
import os
import pickle
import sys
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_pg import REINFORCE, VanillaPG
from sb3_pg.common.known import known_with
from sb3_pg.common.unpickling import RefusedError, load_plain
from tests.helpers.environments import diary
from tests.helpers.models import OWN_CRITIC, differences, make, snapshot
from tests.loading.crafting import Call, named, pickles, rewritten, saved_by_torch, text, with_data, with_pickle

KINDS = list(pickles(Path("anywhere")))


@pytest.fixture(scope="module")
def saved() -> bytes:
    """A model's file."""
    memory = io.BytesIO()
    make(VanillaPG, diary(2), **OWN_CRITIC).learn(32).save(memory)
    return memory.getvalue()


def load(content: bytes, path: Path, **kwargs: Any) -> Any:
    path.write_bytes(content)
    return VanillaPG.load(path, device="cpu", **kwargs)


@pytest.mark.parametrize("kind", KINDS)
def test_pickles_that_run_code(kind: str, saved: bytes, tmp_path: Path) -> None:
    """Read by ``pickle`` each does what it is for; read as plain data none does."""
    crafted = with_pickle(saved, "ent_coef", pickles(tmp_path / "canary")[kind])
    with pytest.raises(ValueError, match=r"model\.zip is more than plain data, and was not loaded: 'ent_coef'"):
        load(crafted, tmp_path / "model.zip", trust=False)
    assert not (tmp_path / "canary").exists()
    with suppress(Exception), warnings.catch_warnings():  # whatever it makes of what the call returned
        warnings.simplefilter("ignore")
        load(crafted, tmp_path / "model.zip", trust=True)
    assert (tmp_path / "canary").exists(), "the file is harmless, and proves nothing"


@pytest.mark.parametrize("entry", ["policy", "policy.optimizer", "value_optimizer", "pytorch_variables", "another"])
@pytest.mark.parametrize("new_format", [True, False])
def test_tensors_that_run_code(entry: str, new_format: bool, saved: bytes, tmp_path: Path) -> None:
    content = saved_by_torch({"a": Call(os.mkdir, str(tmp_path / "canary"))}, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ValueError, match=r"model\.zip "):
        load(rewritten(saved, {f"{entry}.pth": content}), tmp_path / "model.zip", trust=False)
    assert not (tmp_path / "canary").exists()
    th.load(io.BytesIO(content), weights_only=False)
    assert (tmp_path / "canary").exists(), "the file is harmless, and proves nothing"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "getattr"),
        ("builtins", "object"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        ("copyreg", "_reconstructor"),
        ("importlib", "import_module"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("numpy", "load"),
        ("numpy", "object_"),
        ("numpy.random._pickle", "__randomstate_ctor"),
        ("cloudpickle.cloudpickle", "_make_function"),
        ("cloudpickle.cloudpickle", "subimport"),
        ("gymnasium", "make"),
        ("gymnasium.spaces.box", "np.load"),
        ("gymnasium.spaces.discrete", "Discrete.__init__"),
        ("stable_baselines3.common.save_util", "load_from_pkl"),
        ("sb3_pg.update.history_file", "load_history"),
        ("torch.nn.modules.activation", "torch.load"),
        ("torch.nn.modules.container", "Sequential"),
        ("torch.nn", "ReLU.__init__"),
        ("tests.loading.crafting", "Trap"),
    ],
)
def test_names_that_are_not_known(module: str, name: str) -> None:
    with pytest.raises(RefusedError, match=f"{module}.{name}"):
        load_plain(named(module, name) + b".", known_with(()))


TANH = named("torch.nn.modules.activation", "Tanh")
BOX = named("gymnasium.spaces.box", "Box")
ARRAY = named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
FLOAT = named("numpy", "dtype") + text("f8") + b"\x89\x88\x87R"
NUMBERS = named("numpy._core.numeric", "_frombuffer")


@pytest.mark.parametrize(
    "pickled",
    [
        TANH + b")R.",
        TANH + b")\x81.",
        TANH + b"N}" + text("forward") + b"Ns\x86b.",
        TANH + b"}b.",
        TANH + b"K\x01a.",
        TANH + b"K\x01K\x01s.",
        BOX + b")R.",
        BOX + b")\x81}b.",
        BOX + b"K\x01\x85\x81.",
        FLOAT + b"(K\x03" + text(">") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
        FLOAT + b"(K\x03" + text("<") + b"NNNK\x01J\xff\xff\xff\xffK\x00tb.",
        named("numpy", "dtype") + text("O") + b"\x89\x88\x87R.",
        named("numpy", "dtype") + text("f8,O") + b"\x89\x88\x87R.",
        named("numpy", "dtype") + text("V8") + b"\x89\x88\x87R.",
        named("numpy", "dtype") + text("U0") + b"\x89\x88\x87R.",
        ARRAY + b"(K\x01K\x09\x85" + FLOAT + b"\x89C\x08" + bytes(8) + b"tb.",
        ARRAY + b"(K\x01K\x01\x85" + FLOAT + b"\x89]K\x01atb.",
        NUMBERS + b"(]" + FLOAT + b"K\x01\x85" + text("C") + b"tR.",
        named("numpy.random._pickle", "__bit_generator_ctor") + named("builtins", "list") + b"\x85R.",
        named("stable_baselines3.common.utils", "LinearSchedule") + b")\x81}(" + text("start") + b"]ub.",
        named("collections", "deque") + TANH + b"\x85R.",
        named("collections", "OrderedDict") + b"]\x85R.",
        named("pathlib", "PosixPath") + b"K\x01\x85R.",
        b"Pid\n.",
        b"K\x01Q.",
        b"K\x01\x97.",
        b"K\x012.",
        b"}((tK\x01u.",
        b"\x8f((t\x90.",
        b"K\x01K\x02a.",
        b"0.",
        b"R.",
        b"\x93.",
        b"K\x01K\x02\x93.",
    ],
    ids=repr,
)
def test_operations_that_are_not_allowed(pickled: bytes) -> None:
    """Known classes are said, not called; states go where they belong; nothing is added to what is no container."""
    forward = nn.Tanh.forward
    with pytest.raises((RefusedError, IndexError)):
        load_plain(pickled, known_with(()))
    assert nn.Tanh.forward is forward


def test_a_space_has_no_attributes_but_a_spaces() -> None:
    box = spaces.Box(0.0, 1.0, (2,))
    vars(box)["sample"] = "not a method"
    read = load_plain(cloudpickle.dumps(box), known_with(()))
    assert read == spaces.Box(0.0, 1.0, (2,)) and "sample" not in vars(read)


@pytest.mark.parametrize("name", ["env", "_vec_normalize_env", "policy", "_logger", "rollout_buffer", "device"])
def test_an_entry_that_is_made_anew(name: str, saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment's id names a module, which Gymnasium imports."""
    (tmp_path / "module_of_a_stranger.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    crafted = with_data(saved, **{name: "module_of_a_stranger:Anything-v0"})
    with pytest.raises(ValueError, match=rf"model\.zip has an entry '{name}'"):
        load(crafted, tmp_path / "model.zip", trust=False)
    assert "module_of_a_stranger" not in sys.modules


@pytest.mark.parametrize("name", ["predict", "learn", "_setup_model", "logger", "__dict__", "set_parameters"])
def test_an_entry_in_the_place_of_a_method(name: str, saved: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"model\.zip has an entry '{name}'"):
        load(with_data(saved, **{name: 1}), tmp_path / "model.zip", trust=False)


def test_variables_that_a_model_does_not_have(saved: bytes, tmp_path: Path) -> None:
    crafted = rewritten(saved, {"pytorch_variables.pth": saved_by_torch({"__class__.policy": th.zeros(1)})})
    with pytest.raises(ValueError, match=r"model\.zip has pytorch_variables"):
        load(crafted, tmp_path / "model.zip", trust=False)


# --- much out of little ---------------------------------------------------------------------------------------------


def expanded(*size: int) -> th.Tensor:
    """A tensor that says to be large."""
    return th.zeros(1).expand(*size)


def laughs() -> bytes:
    """A list of lists of lists, each the same ten times over."""
    nest: Any = []
    for _ in range(30):
        nest = [nest] * 10
    return pickle.dumps(nest)


def itself() -> bytes:
    nest: list[Any] = []
    nest.append(nest)
    return pickle.dumps(nest)


MUCH: dict[str, Any] = {
    "compressed": lambda saved: rewritten(saved, {"more": bytes(10**7)}, zipfile.ZIP_DEFLATED),
    "compressed tensors": lambda saved: rewritten(
        saved,
        {"policy.pth": rewritten(saved_by_torch({"a": th.zeros(10**6)}), {}, zipfile.ZIP_DEFLATED)},
    ),
    "expanded tensors": lambda saved: rewritten(saved, {"policy.pth": saved_by_torch({"a": expanded(10**6, 10**6)})}),
    "many tensors of one": lambda saved: rewritten(
        saved, {"policy.optimizer.pth": saved_by_torch([th.zeros(10**5)] * 1000)}
    ),
    "meta tensors": lambda saved: rewritten(
        saved, {"policy.pth": saved_by_torch({"a": th.zeros(10**6, device="meta")})}
    ),
    "sparse tensors": lambda saved: rewritten(saved, {"policy.pth": saved_by_torch({"a": th.zeros(3).to_sparse()})}),
    "lists of lists": lambda saved: with_pickle(saved, "gamma", laughs()),
    "a list of itself": lambda saved: with_pickle(saved, "gamma", itself()),
    "deep lists": lambda saved: with_pickle(saved, "gamma", b"]" * 10**5 + b"a" * (10**5 - 1) + b"."),
    "deep JSON": lambda saved: rewritten(saved, {"data": b"[" * 10**6}),
    "a number of many digits": lambda saved: rewritten(saved, {"data": b'{"gamma": ' + b"9" * 10**6 + b"}"}),
}


@pytest.mark.parametrize("kind", MUCH)
def test_much_out_of_little(kind: str, saved: bytes, tmp_path: Path) -> None:
    """What would fill the memory, or take for ever, is refused before."""
    with pytest.raises(ValueError, match=r"model\.zip "):
        load(MUCH[kind](saved), tmp_path / "model.zip", trust=False)


# --- other files ----------------------------------------------------------------------------------------------------

OTHERS: dict[str, Any] = {
    "no archive": lambda saved: b"no archive",
    "nothing": lambda saved: b"",
    "an empty archive": lambda saved: rewritten(saved, dict.fromkeys(zipfile.ZipFile(io.BytesIO(saved)).namelist())),
    "no data": lambda saved: rewritten(saved, {"data": None}),
    "a list": lambda saved: rewritten(saved, {"data": b"[1, 2]"}),
    "no JSON": lambda saved: rewritten(saved, {"data": b"{"}),
    "no text": lambda saved: rewritten(saved, {"data": b"\xff\xff"}),
    "no policy": lambda saved: rewritten(saved, {"policy.pth": None}),
    "no observation space": lambda saved: rewritten(saved, {"data": b"{}"}),
    "a space that is none": lambda saved: with_data(saved, observation_space=1),
    "a policy that is none": lambda saved: with_data(saved, policy_class="os.system"),
    "arguments that are none": lambda saved: with_data(saved, policy_kwargs=[1]),
    "no base64": lambda saved: with_data(saved, gamma={":serialized:": "!"}),
    "no pickle": lambda saved: with_data(saved, gamma={":serialized:": 3}),
    "another network": lambda saved: rewritten(saved, {"policy.pth": saved_by_torch({"a": th.zeros(3)})}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_files_that_are_none(kind: str, saved: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.zip "):
        load(OTHERS[kind](saved), tmp_path / "model.zip", trust=False)


@pytest.mark.parametrize("n_bytes", [0, 100, 5000, -1])
@pytest.mark.parametrize("read", ["load", "set_parameters"])
def test_a_file_that_is_cut_off(read: str, n_bytes: int, saved: bytes, tmp_path: Path) -> None:
    """By its name too where it is trusted."""
    path = tmp_path / "model.zip"
    path.write_bytes(saved[:n_bytes])
    model = make(REINFORCE, diary(1))
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"model\.zip is no archive, or cut off"):
        VanillaPG.load(path) if read == "load" else model.set_parameters(str(path))
    assert differences(before, snapshot(model)) == []
