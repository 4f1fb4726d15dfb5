"""A spy, or a mistake, in the place of a function: wherever it is known, so that nothing depends on where it lies."""

from __future__ import annotations

import sys
from typing import Any

import pytest


def replace_everywhere(
    monkeypatch: pytest.MonkeyPatch, target: Any, replacement: Any, packages: tuple[str, ...] = ("sb3_pg",)
) -> None:
    """Put ``replacement`` in the place of ``target`` under every name that it has in a module of these packages."""
    places = [
        (module, name)
        for module_name, module in list(sys.modules.items())
        if module_name.split(".")[0] in packages
        for name, value in list(vars(module).items())
        if value is target
    ]
    assert places, f"no module of {packages} knows {target!r}"
    for module, name in places:
        monkeypatch.setattr(module, name, replacement)
