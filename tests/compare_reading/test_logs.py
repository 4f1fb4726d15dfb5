"""What loggers wrote: one run's in three formats, and event files as others write them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from sb3_pg.compare.reading.events import MARK, read_events, second_of
from sb3_pg.compare.reading.progress import read_progress_csv, read_progress_json
from tests.compare_reading.runs import learn


def test_one_run_in_three_formats(tmp_path: Path) -> None:
    """The same numbers; event files have float32, one row for each step, and a time of their own."""
    learn(PPO, tmp_path, formats=("csv", "json", "tensorboard"), batch_size=16)
    csv, remarks = read_progress_csv(tmp_path / "progress.csv")
    assert {"time/total_timesteps", "rollout/ep_rew_mean", "train/approx_kl", "eval/mean_reward"} <= csv.keys()
    json, more = read_progress_json(tmp_path / "progress.json")
    assert json.keys() == csv.keys()
    for key, values in csv.items():
        assert values == pytest.approx(json[key], rel=1e-6, nan_ok=True), key  # in CSV with float32's digits
    events, others = read_events(tmp_path.glob(f"{MARK}*"))
    # SB3 keeps these from TensorBoard
    assert csv.keys() - events.keys() == {"time/iterations", "train/n_updates"}
    assert events.keys() <= csv.keys()
    assert events["time/total_timesteps"].tolist() == sorted(set(csv["time/total_timesteps"]))
    assert events["time/time_elapsed"][-1] == pytest.approx(np.nanmax(csv["time/time_elapsed"]), abs=5)
    for key in events.keys() - {"time/total_timesteps", "time/time_elapsed"}:
        logged = ~np.isnan(csv[key])
        found = events[key][np.searchsorted(events["time/total_timesteps"], csv["time/total_timesteps"][logged])]
        assert found == pytest.approx(csv[key][logged], rel=1e-6), key
    assert not (*remarks, *more, *others)


def write_events(folder: Path, suffix: str, *values: tuple[int, Summary.Value], seconds: float = 0) -> Path:
    """A file with given values, all of them this long after its beginning, which is now."""
    writer = EventFileWriter(str(folder), filename_suffix=suffix)
    end = time.time() + seconds
    for step, value in values:
        writer.add_event(Event(step=step, summary=Summary(value=[value]), wall_time=end))
    writer.close()
    return next(folder.glob(f"{MARK}*{suffix}"))


def scalar(tag: str, value: float) -> Summary.Value:
    return Summary.Value(tag=tag, simple_value=value)


def test_a_later_file_takes_the_place_of_what_was_lost(tmp_path: Path) -> None:
    """A run that was killed at step 30 and went on from its checkpoint at 10: step 20 was made again, 30 never."""
    first = write_events(tmp_path, ".a", *((step, scalar("x", step)) for step in (10, 20, 30)), seconds=500)
    second = write_events(tmp_path, ".b", (20, scalar("x", 21)), seconds=700)
    columns, remarks = read_events([second, first])
    assert columns["x"].tolist() == [10, 21]
    assert columns["time/total_timesteps"].tolist() == [10, 20]
    assert columns["time/time_elapsed"] == pytest.approx([500, 500 + 700], abs=60)
    assert len(remarks) == 1
    assert "begins at step 20; 2 later steps of an earlier file are left out" in remarks[0]


def test_scalars_of_both_kinds_and_nothing_else(tmp_path: Path) -> None:
    """TensorFlow 2 and Keras write scalars as tensors."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    as_tensor = Summary.Value(tag="y", tensor=make_tensor_proto(0.5), metadata=metadata)
    picture = Summary.Value(tag="z", image=Summary.Image(height=1, width=1))
    text = Summary.Value(tag="t", tensor=make_tensor_proto("words"))
    path = write_events(tmp_path, ".c", (3, as_tensor), (3, scalar("x", 2.0)), (4, picture), (4, text))
    columns, remarks = read_events([path])
    numbers = {key: values.tolist() for key, values in columns.items() if not key.startswith("time")}
    assert numbers == {"x": [2], "y": [0.5]}
    assert columns["time/total_timesteps"].tolist() == [3]
    assert not remarks


def test_names_of_event_files() -> None:
    assert second_of(Path("events.out.tfevents.1795761162.host.name.9717.0")) == 1795761162
    assert second_of(Path("events.out.tfevents.mine")) is None


def test_missing_is_not_the_same_as_logged_and_no_number(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    path.write_text('time/total_timesteps,a,b,c,"d"\n10,1,nan,,word\n20,,2,,word\n30,-inf,,,\n')
    columns, remarks = read_progress_csv(path)
    assert columns.keys() == {"time/total_timesteps", "a", "b"}
    assert np.array_equal(columns["a"], [1, np.nan, -np.inf], equal_nan=True)
    assert remarks == ("progress.csv: not always finite where it was logged: a, b",)


def test_scalars_that_are_no_numbers(tmp_path: Path) -> None:
    path = write_events(tmp_path, ".d", (1, scalar("x", np.nan)), (2, scalar("x", 1.0)), (2, scalar("y", np.inf)))
    columns, remarks = read_events([path])
    assert np.array_equal(columns["x"], [np.nan, 1], equal_nan=True)
    assert remarks == ("event files: not always finite where it was logged: x, y",)
