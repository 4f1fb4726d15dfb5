"""Saved files are there whole or not at all, and stay what they were: links, modes, names."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch as th
from gymnasium import spaces

from sb3_pg import REINFORCE, ActorPolicy, MaskableActorPolicy, OffPolicyISPG
from sb3_pg.files import whole_file

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

Save = Callable[[Path], None]


@pytest.fixture(params=["model", "policy", "history", "anything"])
def saved(request: pytest.FixtureRequest) -> Save:
    """Each kind of thing that is written."""
    if request.param == "model":
        return REINFORCE("MlpPolicy", "CartPole-v1", device="cpu").save
    if request.param == "policy":
        policy = REINFORCE("MlpPolicy", "CartPole-v1", device="cpu").policy
        assert isinstance(policy, ActorPolicy)
        return policy.save
    if request.param == "history":
        # verbose=2: SB3 then says what it overwrites, which the user's file is not
        model = OffPolicyISPG("MlpPolicy", "CartPole-v1", n_reused_batches=1, verbose=2, device="cpu")
        return model.save_replay_buffer

    def save(path: Path) -> None:
        with whole_file(path) as unfinished:
            unfinished.write_bytes(b"new")

    return save


def others_than(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir() if one != path)


def test_a_link_stays_a_link_and_a_mode_a_mode(saved: Save, tmp_path: Path) -> None:
    target, link = tmp_path / "target.zip", tmp_path / "link.zip"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    saved(link)
    assert link.is_symlink() and target.read_bytes() != b"old"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert others_than(link) == ["target.zip"]


def test_a_new_file_has_the_mode_that_open_gives(saved: Save, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    saved(tmp_path / "new.zip")
    assert (tmp_path / "new.zip").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("saved", ["model", "policy", "history"], indirect=True)
@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()], ids=repr)
def test_what_fails_leaves_the_old_file(
    saved: Save, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.zip"
    saved(path)
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(th, "save", fail)
    with pytest.raises(type(error)):
        saved(path)
    assert path.read_bytes() == before and others_than(path) == []


def test_a_planted_link_is_not_followed(saved: Save, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in (".file.part.zip", f".file.{os.getpid()}.part.zip"):
        (tmp_path / name).symlink_to(victim)
    saved(tmp_path / "file.zip")
    assert victim.read_bytes() == b"precious"


def test_what_is_no_file_is_written_in_place() -> None:
    with whole_file(Path(os.devnull)) as place:
        place.write_bytes(b"nothing")
    assert place == Path(os.devnull) and place.is_char_device()


def test_killed_while_writing(tmp_path: Path) -> None:
    """The old file is whole, and the next one who saves removes what the killed process has left."""
    path = tmp_path / "file.zip"
    path.write_bytes(b"old")
    script = (
        "import pathlib, sys, time\nfrom sb3_pg.files import whole_file\n"
        "with whole_file(pathlib.Path(sys.argv[1])) as unfinished:\n"
        "    unfinished.write_bytes(b'half')\n    print('there', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        with whole_file(path) as unfinished:  # another one who writes it does not disturb the first
            unfinished.write_bytes(b"newer")
        assert len(others_than(path)) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.read_bytes() == b"newer" and len(others_than(path)) == 1
    with whole_file(path) as unfinished:
        unfinished.write_bytes(b"newest")
    assert path.read_bytes() == b"newest" and others_than(path) == []


def test_names_are_as_in_sb3(tmp_path: Path) -> None:
    """A suffix where there is none, a folder that is not there, one that has the name; and no file at all."""
    model = REINFORCE("MlpPolicy", "CartPole-v1", device="cpu")
    model.save(str(tmp_path / "model"))
    for name in ("folder.zip", "folder.zip_2"):
        (tmp_path / name).mkdir()
    with pytest.warns(UserWarning, match="is a folder"):
        model.save(tmp_path / "folder.zip")
    with pytest.warns(UserWarning, match="does not exist"):
        model.save(tmp_path / "deep" / "model.zip")
    assert others_than(tmp_path / "-") == ["deep", "folder.zip", "folder.zip_2", "folder.zip_2_2", "model.zip"]
    model.save(io.BytesIO())


@pytest.mark.parametrize("policy_class", [ActorPolicy, MaskableActorPolicy])
def test_a_policy_is_saved_as_by_sb3(policy_class: Any, tmp_path: Path) -> None:
    """By any name, in memory too, and loaded again."""
    policy = policy_class(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), lambda _: 1e-3)
    memory = io.BytesIO()
    policy.save(memory)
    policy.save(str(tmp_path / "policy"))
    assert others_than(tmp_path / "-") == ["policy"]
    memory.seek(0)
    for source in (memory, tmp_path / "policy"):
        loaded = policy_class.load(source)
        assert all(map(th.equal, policy.state_dict().values(), loaded.state_dict().values()))
