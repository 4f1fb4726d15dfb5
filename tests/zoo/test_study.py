"""A search is shared by processes that come and go at any moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sb3_pg.zoo import study as search

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize("storage", ["study.log", "sqlite:///{}/study.db"])
@pytest.mark.parametrize("is_seen_finished", [True, False], ids=["before tell looks", "after it"])
def test_an_abandoned_trial_is_marked_by_whoever_comes_first(
    storage: str, is_seen_finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process marks a trial between this one's look at it and this one's write."""
    where = storage.format(tmp_path) if ":" in storage else str(tmp_path / storage)
    ours = search.open_study(where, "shared")
    others = search.open_study(where, "shared")
    assert ours is not None and others is not None
    for worker in ["gone", "gone", "alive"]:
        ours.ask().set_user_attr(search.WORKER, worker)
    monkeypatch.setattr(search, "_is_gone", lambda worker: worker == "gone")
    write = ours._storage.set_trial_state_values
    raced: list[int] = []

    def mark_first(trial_id: int, *args: Any, **kwargs: Any) -> bool:
        if not raced:
            raced.append(search.fail_abandoned(others))
        return write(trial_id, *args, **kwargs)

    if is_seen_finished:
        listed = ours.get_trials

        def list_then_mark(*args: Any, **kwargs: Any) -> Any:
            trials = listed(*args, **kwargs)
            raced.append(search.fail_abandoned(others))
            return trials

        monkeypatch.setattr(ours, "get_trials", list_then_mark)
    else:
        monkeypatch.setattr(ours._storage, "set_trial_state_values", mark_first)

    assert search.fail_abandoned(ours) == 0
    assert raced == [2]
    states = [trial.state for trial in ours._storage.get_all_trials(ours._study_id)]
    assert states == [TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING]
