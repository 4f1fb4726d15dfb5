"""Files of killed runs, cut at every byte: never a crash, never a wrong number, and a line that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import A2C
from stable_baselines3.common.logger import configure

from sb3_pg.compare.reading import read_runs
from sb3_pg.compare.reading.evaluations import read_evaluations
from sb3_pg.compare.reading.events import MARK, read_events
from sb3_pg.compare.reading.files import Remarks
from sb3_pg.compare.reading.monitor import read_monitors
from sb3_pg.compare.reading.progress import Columns, read_progress_csv, read_progress_json
from sb3_pg.compare.reading.saved_model import read_saved_model
from sb3_pg.compare.reading.zoo import read_cell, read_zoo
from tests.compare_reading.runs import write_evaluations, write_monitor

CONFIG = """!!python/object/apply:collections.OrderedDict
- - - gamma
    - 0.98
  - - learning_rate
    - lin_0.001
  - - n_envs
    - 16
  - - n_timesteps
    - 100000.0
  - - normalize
    - true
  - - policy
    - MlpPolicy
  - - policy_kwargs
    - activation_fn: &id001 !!python/name:torch.nn.modules.activation.Tanh ''
      net_arch:
      - 64
      - 32
"""


def cuts(path: Path, every: int = 1) -> Iterator[bytes]:
    """Beginnings of a file, the whole of it last; the file has them while they are dealt with."""
    whole = path.read_bytes()
    for end in (*range(0, len(whole), every), len(whole)):
        path.write_bytes(whole[:end])
        yield whole[:end]


def is_beginning(part: Columns, whole: Columns) -> bool:
    """Whether the rows of a table are the first ones of another; some of the last row's numbers may not be there."""
    for key, values in part.items():
        is_same = (values == whole[key][: len(values)]) | (np.isnan(values) & np.isnan(whole[key][: len(values)]))
        if not (is_same[:-1].all() and (is_same[-1] or np.isnan(values[-1]))):
            return False
    return True


def test_monitor(tmp_path: Path) -> None:
    path = write_monitor(tmp_path / "0.monitor.csv", [(9.0, 10, 1.125), (12.5, 110, 2.5), (-3.25, 7, 13.75)], 5.0)
    whole, _ = read_monitors([path])
    assert whole is not None
    counts = set()
    for content in cuts(path):
        part, remarks = read_monitors([path])
        n_whole = sum(line.endswith(b"\r\n") for line in content.splitlines(keepends=True)[2:])
        counts.add(n_whole)
        assert (0 if part is None else len(part.returns)) == n_whole
        if part is not None:
            for name in ("steps", "returns", "seconds"):
                assert np.array_equal(getattr(part, name), getattr(whole, name)[:n_whole])
        is_cut = bool(content) and not content.endswith(b"\n")
        assert any("0.monitor.csv: its last line" in remark for remark in remarks) == is_cut
    assert counts == {0, 1, 2, 3}


def write_log(folder: Path, kind: str) -> Path:
    """A log of SB3's logger, with a key that comes late and texts among the numbers."""
    logger = configure(str(folder), [kind])
    for step, values in enumerate(({"a": 0.1, "b": 2}, {"a": 1e-12, "b": 1234567}, {"a": -0.25, "b": 3, "c": 4.5})):
        for key, value in values.items():
            logger.record(key, value)
        logger.record("text", 'a "word", and more')
        logger.dump(step)
    logger.close()
    return next(path for path in folder.iterdir())


@pytest.mark.parametrize(
    ("kind", "read", "n_columns"),
    [
        ("csv", read_progress_csv, 3),
        ("json", read_progress_json, 3),
        ("tensorboard", lambda path: read_events([path]), 5),
    ],
)
def test_logs(kind: str, read: Callable[[Path], tuple[Columns, Remarks]], n_columns: int, tmp_path: Path) -> None:
    path = write_log(tmp_path, kind)
    whole, remarks = read(path)
    assert len(whole) == n_columns
    assert not remarks
    if kind != "tensorboard":
        assert whole["b"].tolist() == [2, 1234567, 3]
    lengths, said = set(), 0
    for _ in cuts(path):
        part, remarks = read(path)
        assert is_beginning(part, whole)
        assert all(remark.startswith(path.name) for remark in remarks)
        lengths.add(max((len(values) for values in part.values()), default=0))
        said += bool(remarks)
    assert lengths == {0, 1, 2, 3}
    assert said > 50


def test_evaluations(tmp_path: Path) -> None:
    """Their file has its directory at its end: cut anywhere, nothing is known of it."""
    write_evaluations(tmp_path)
    path = tmp_path / "evaluations.npz"
    n_bytes = path.stat().st_size
    for content in cuts(path, every=5):
        evaluations, remarks = read_evaluations(path)
        assert (evaluations is not None) == (len(content) == n_bytes)
        assert [remark.split(":")[0] for remark in remarks] == ["evaluations.npz"] * (evaluations is None)


def test_model(tmp_path: Path) -> None:
    model = A2C("MlpPolicy", "CartPole-v1", seed=7, policy_kwargs={"net_arch": [2]}, gamma=0.75)
    path = tmp_path / "model.zip"
    model.save(path)
    n_bytes = path.stat().st_size
    for content in cuts(path, every=211):
        said = read_saved_model([path])
        assert said.seed == (7 if len(content) == n_bytes else None)
        assert [remark.split(":")[0] for remark in said.remarks] == ["model.zip"] * (len(content) < n_bytes)


def subset(part: Any, whole: Any) -> bool:
    """Whether a setting is what it is in the whole file, or not there, or a list or dictionary that lacks some."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and subset(value, whole[key]) for key, value in part.items())
    if isinstance(whole, list) and isinstance(part, list):
        return part == whole[: len(part)]
    return bool(part == whole) or part is None


def test_configuration_of_the_zoo(tmp_path: Path) -> None:
    parameters = tmp_path / "CartPole-v1"
    parameters.mkdir()
    path = parameters / "config.yml"
    path.write_text(CONFIG)
    whole = read_zoo(tmp_path, parameters)
    assert whole.settings["policy_kwargs"] == {
        "activation_fn": "torch.nn.modules.activation.Tanh",
        "net_arch": [64, 32],
    }
    assert whole.facts["n_envs"] == 16
    assert whole.budget == 100_000
    counts = set()
    for _ in cuts(path):
        part = read_zoo(tmp_path, parameters)
        assert subset(part.settings, whole.settings)
        assert part.budget in (None, 100_000)
        counts.add(len(part.settings))
    assert counts == set(range(8))


def test_cell(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    path.write_text(json.dumps({"label": "a", "seed": 12, "settings": {"gamma": 0.5}, "n_envs": 8}, indent=1))
    n_bytes = path.stat().st_size
    for content in cuts(path):
        said = read_cell(path)
        assert said.seed == (12 if len(content) == n_bytes else None)
        assert [remark.split(":")[0] for remark in said.remarks] == ["cell.json"] * (len(content) < n_bytes)


def test_damage_in_the_middle(tmp_path: Path) -> None:
    """Blocks of zeros, as after a power failure, and half a line that an appending process wrote on."""
    path = write_monitor(tmp_path / "0.monitor.csv", [(1.0, 10, 1.0), (2.0, 10, 2.0), (3.0, 10, 3.0)])
    path.write_bytes(path.read_bytes().replace(b"2.0,10,2.0\r\n", b"\0" * 100 + b"2.0,10\r\n"))
    episodes, remarks = read_monitors([path])
    assert episodes is not None
    assert episodes.returns.tolist() == [1, 3]
    assert remarks == ("0.monitor.csv: 1 damaged lines are left out",)
    log = tmp_path / "progress.csv"
    log.write_text("time/total_timesteps,a\n10,1\n20\n30,3\n")
    columns, remarks = read_progress_csv(log)
    assert columns["a"].tolist() == [1, 3]
    assert remarks == ("progress.csv: 1 damaged lines are left out",)


def test_a_run_of_which_nothing_is_whole_is_still_there(tmp_path: Path) -> None:
    names = ("evaluations.npz", "progress.csv", "0.monitor.csv", "model.zip", "cell.json", f"{MARK}1.x")
    for name in names:
        (tmp_path / name).write_bytes(b"\x89half a line")
    found = read_runs([tmp_path])
    assert len(found.records) == 1
    record = found.records[0]
    assert record.evaluations is None
    assert record.episodes is None
    assert not record.progress
    for name in names:
        assert any(name in remark for remark in record.remarks), name
    assert all("\n" not in remark for remark in record.remarks)
