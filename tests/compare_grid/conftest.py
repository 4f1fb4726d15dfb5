"""The small grid, trained once in this process: what all other ways have to come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.compare_grid.small import answers, fill


@pytest.fixture(scope="session")
def small_grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small")
    assert [result.error for result in fill(out)] == [""] * 6
    return out


@pytest.fixture(scope="session")
def expected(small_grid: Path) -> dict[str, dict[str, Any]]:
    return answers(small_grid)
