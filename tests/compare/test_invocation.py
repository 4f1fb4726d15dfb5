"""What is recorded and shown of a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_pg.compare.invocation import as_seen_from_here, as_typed


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["/venv/bin/python", "/venv/bin/sb3-pg", "compare", "--seeds", "3"], "sb3-pg compare --seeds 3"),
        (["/usr/bin/python3.11", "/home/me/.local/bin/sb3-pg", "train"], "sb3-pg train"),
        (["sb3-pg", "compare"], "sb3-pg compare"),
        (["/venv/bin/python", "-m", "sb3_pg.cli", "compare"], "/venv/bin/python -m sb3_pg.cli compare"),
        (["/venv/bin/python", "/home/me/grid.py", "sb3-pg"], "/venv/bin/python /home/me/grid.py sb3-pg"),
        (["python"], "python"),
        ([], ""),
    ],
)
def test_ours_is_shown_as_it_was_typed_and_others_whole(words: list[str], typed: str) -> None:
    assert " ".join(as_typed(words)) == typed


def test_a_folder_is_shown_as_it_is_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert as_seen_from_here(tmp_path / "runs" / "a") == "runs/a"
    assert as_seen_from_here(tmp_path.parent / "elsewhere") == str(tmp_path.parent / "elsewhere")
