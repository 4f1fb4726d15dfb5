"""A pytest plugin that runs a package's own tests with another class in the place of one of its algorithms.

The packages are Stable-Baselines3 and sb3-contrib. The swap happens while pytest is being configured, before a test
module is imported, so the tests stay unmodified: ``from stable_baselines3 import A2C`` simply finds the other class.
Tests that do not concern it are deselected.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType

import pytest
import sb3_contrib
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

from tests.conformance.leftovers import LEFTOVERS, Borderline

PACKAGES = (stable_baselines3, sb3_contrib)


@dataclass(frozen=True)
class Swap:
    """``replacement`` stands where ``package`` has its algorithm ``name``."""

    package: ModuleType
    name: str
    replacement: type[BaseAlgorithm]

    @classmethod
    def parse(cls, spec: str) -> Swap:
        """Read ``NAME=MODULE:CLASS``, for example ``A2C=sb3_pg:REINFORCE``; the name says which package."""
        name, _, target = spec.partition("=")
        module, _, class_name = target.partition(":")
        packages = [package for package in PACKAGES if hasattr(package, name)]
        if not (packages and module and class_name):
            names = " or ".join(package.__name__ for package in PACKAGES)
            raise pytest.UsageError(f"--swap wants NAME=MODULE:CLASS with an algorithm of {names}, got {spec!r}")
        return cls(packages[0], name, getattr(importlib.import_module(module), class_name))

    def install(self) -> None:
        """Replace the class wherever its package exports it, except where it is defined."""
        original = getattr(self.package, self.name)
        for module_name, module in list(sys.modules.items()):
            exported = module_name.partition(".")[0] == self.package.__name__ and module_name != original.__module__
            if exported and getattr(module, self.name, None) is original:
                setattr(module, self.name, self.replacement)

    def concerns(self, item: pytest.Function) -> bool:
        """Whether a test uses the swapped class.

        A test that is parametrised by algorithms does if the class is one of its own; any other one does if its code,
        or that of a fixture or a helper of its module, names the class or something that holds it.
        """
        parameters = list(leaves(item.callspec.params)) if hasattr(item, "callspec") else []
        algorithms = [value for value in parameters if isinstance(value, type) and issubclass(value, BaseAlgorithm)]
        if algorithms:
            return self.replacement in algorithms
        fixtures = [fixture.func for group in item._fixtureinfo.name2fixturedefs.values() for fixture in group]
        local = [func for func in fixtures if func.__module__ == item.function.__module__]
        return any(self._is_used_by(func, set()) for func in (item.function, *local))

    def _is_used_by(self, func: FunctionType, seen: set[FunctionType]) -> bool:
        """Follow the names in ``func`` through the functions of its own module."""
        if func in seen:
            return False
        seen.add(func)
        for name in names_in(func.__code__):
            value = func.__globals__.get(name)
            if name == self.name or any(leaf is self.replacement for leaf in leaves(value)):
                return True
            if (
                isinstance(value, FunctionType)
                and value.__module__ == func.__module__
                and self._is_used_by(value, seen)
            ):
                return True
        return False


def leaves(value: object) -> Iterator[object]:
    """Everything in a nest of built-in containers, keys included."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        for element in value:
            yield from leaves(element)
    else:
        yield value


def names_in(code: CodeType) -> Iterator[str]:
    """The global names and attributes that a piece of code uses, nested functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


class StaleLeftover(pytest.Item):
    """A leftover that names no test; a failing test rather than an error, which xdist would bury in its own."""

    def runtest(self) -> None:
        """Fail, with the name."""
        pytest.fail(f"leftovers.py lists {self.name}, and no test that concerns the swap has that id", pytrace=False)


def mark_leftovers(items: list[pytest.Function], reasons: dict[str, str]) -> set[str]:
    """Expect the listed tests to fail, and return the names in the list that no test has."""
    unused = set(reasons)
    for item in items:
        for name in {item.nodeid, item.nodeid.partition("[")[0]} & reasons.keys():
            may_pass = isinstance(reasons[name], Borderline)
            raises = AssertionError if may_pass else None
            # A plain string: a report with another is one that workers cannot send
            reason = str(reasons[name])
            item.add_marker(pytest.mark.xfail(reason=reason, strict=not may_pass, raises=raises))
            unused.discard(name)
    return unused


SWAP = pytest.StashKey[Swap]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--swap``."""
    parser.addoption("--swap", required=True, metavar="NAME=MODULE:CLASS", help="the class that replaces an algorithm")


def pytest_configure(config: pytest.Config) -> None:
    """Swap the class in before any test module is imported."""
    swap = Swap.parse(config.getoption("swap"))
    swap.install()
    config.stash[SWAP] = swap


def pytest_report_header(config: pytest.Config) -> str:
    """Say what is tested."""
    swap = config.stash[SWAP]
    return f"swap: {swap.package.__name__}.{swap.name} is {swap.replacement.__module__}.{swap.replacement.__qualname__}"


@pytest.hookimpl(tryfirst=True)  # before -k and -m deselect, so that the list of leftovers meets the whole suite
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Function | StaleLeftover]
) -> None:
    """Keep the tests that concern the swapped class, and mark the leftovers among them."""
    swap = config.stash[SWAP]
    kept = [item for item in items if isinstance(item, pytest.Function) and swap.concerns(item)]
    if not kept:
        raise pytest.UsageError(f"no test concerns {swap.name}")
    stale = mark_leftovers(kept, LEFTOVERS.get(config.getoption("swap"), {}))
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [*kept, *(StaleLeftover.from_parent(session, name=name) for name in sorted(stale))]
