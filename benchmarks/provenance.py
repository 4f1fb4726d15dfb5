"""What a page of results was measured with: ``python -m benchmarks.provenance`` lists the pages, fresh or stale.

A page says at which commit it was made, and carries a hash of the code and the settings that its figures come from.
``--mark`` says so in the pages that are stale. What makes a page writes it whole, and so takes the mark away.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FOLDER = Path("docs/results")
MARK_COMMAND = "python -m benchmarks.provenance --mark"
#: No figure comes from these, or from modules below them: a bar, checkpoints, models whose runs say all of themselves,
#: searches. The Zoo's names of our algorithms would bring every one of them along; a page imports those that it trains.
UNCOUNTED = (
    "benchmarks.provenance",
    "sb3_pg.checkpoints",
    "sb3_pg.compare.grid.display",
    "sb3_pg.compare.reading.saved_model",
    "sb3_pg.zoo.registration",
    "sb3_pg.zoo.study",
)


@dataclass(frozen=True)
class Page:
    """A page of results.

    :param module: what makes it
    :param settings: what that reads of ``zoo_configs/``: algorithm and environment
    :param sources: the modules that its figures come from, where these are not all that makes it
    """

    module: str
    settings: tuple[tuple[str, str], ...] = ()
    sources: tuple[str, ...] = ()

    def code(self, root: Path = ROOT) -> str:
        """The hash of what its figures come from, as it is now."""
        return code_hash(
            self.sources or [self.module], [shipped_settings(*which, root) for which in self.settings], root
        )


OURS = ("reinforce", "vanillapg", "offpolicyispg")
CLASSIC = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")
#: How runs are trained and scored, and not how they are kept, or how a report is worded and drawn.
TRAINED_AND_SCORED = (
    "sb3_pg.reinforce.reinforce",
    "sb3_pg.vanilla_pg.vanilla_pg",
    "sb3_pg.off_policy_ispg.off_policy_ispg",
    "sb3_pg.compare.grid.evaluation",
    "sb3_pg.compare.analysis",
)
#: By the name of the file in ``docs/results/``.
PAGES = {
    "classic.md": Page(
        "benchmarks.classic",
        tuple((algorithm, env_id) for algorithm in OURS for env_id in CLASSIC),
        TRAINED_AND_SCORED,
    ),
    "defaults.md": Page("benchmarks.defaults"),
    "first_look.md": Page("benchmarks.first_look"),
    "laboratory.md": Page("benchmarks.laboratory"),
    "learning.md": Page(
        "benchmarks.learning",
        (
            *((algorithm, "CartPole-v1") for algorithm in OURS),
            ("vanillapg", "Pendulum-v1"),
            ("vanillapg", "MountainCarContinuous-v0"),
            ("offpolicyispg", "MountainCarContinuous-v0"),
        ),
    ),
    "memory.md": Page("benchmarks.memory", sources=TRAINED_AND_SCORED),
    "out_of_the_box.md": Page("benchmarks.out_of_the_box", sources=TRAINED_AND_SCORED),
    "reuse.md": Page("benchmarks.reuse"),
    "samples.md": Page("benchmarks.samples", (("reinforce", "CartPole-v1"),)),
    "speed.md": Page("benchmarks.speed.__main__"),
    "tokens.md": Page("benchmarks.token_sweep"),
    "trust_regions.md": Page("benchmarks.trust_regions"),
    "warm_start.md": Page("benchmarks.warm_start"),
}


@dataclass(frozen=True)
class Stamp:
    """The line of a page that says where its figures come from.

    :param commit: abbreviated; with a ``+`` where the code was not as in any commit
    :param code: the hash
    :param stale: whether the line says that the code has changed since
    """

    commit: str
    code: str
    stale: bool = False

    LINE = re.compile(r"^Measured at commit (\S+), code ([0-9a-f]+)\.(.*)$", re.MULTILINE)
    STALE = " **Stale**: the code has changed since; the figures are those of that commit."

    @classmethod
    def now(cls, path: Path) -> Stamp:
        """Of a page that is about to be made. To be taken before the measurement, for what is edited meanwhile is in
        no figure.
        """
        return cls(current_commit(), PAGES[path.name].code())

    @classmethod
    def read(cls, text: str) -> Stamp | None:
        """A page's stamp; None if it has none.

        :raises ValueError: if there are several, or something else on the line
        """
        found = cls.LINE.findall(text)
        if len(found) > 1 or any(rest not in ("", cls.STALE) for *_, rest in found):
            raise ValueError("a page of results has one line 'Measured at commit ...', with nothing else on it")
        return cls(found[0][0], found[0][1], found[0][2] == cls.STALE) if found else None

    def __str__(self) -> str:
        return f"Measured at commit {self.commit}, code {self.code}.{self.STALE if self.stale else ''}"


def publish(text: str, path: Path, stamp: Stamp) -> None:
    """Print a page of results, with the stamp below its title, and write it."""
    title, rest = text.split("\n", 1)
    text = f"{title}\n\n{stamp}\n{rest}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"\n{text}")


def current_commit(root: Path = ROOT) -> str:
    """The commit that is checked out, with a ``+`` if code or settings differ from it; ``unknown`` outside of git."""
    try:
        head, changes = (
            subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (("rev-parse", "--short=7", "HEAD"), ("status", "--porcelain", "--", "*.py", "*.yml"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changes else "")


def code_hash(
    modules: Iterable[str], settings: Iterable[str] = (), root: Path = ROOT, without: Iterable[str] = ()
) -> str:
    """Of the statements in the modules and in all that they import of this repository, in no order, and of settings.

    Comments, docstrings, layout, imports, and the module that a statement is in, leave it as it is.

    :param without: modules that do not count, nor those below them, nor what only they import
    """
    found: set[Path] = set()
    uncounted = (*UNCOUNTED, *without)
    for module in modules:
        collect(module, None, root, found, uncounted)
    parts = [statement for path in found for statement in statements(path.read_text())]
    return hashlib.sha256("\n".join(sorted([*parts, *settings])).encode()).hexdigest()[:12]


def shipped_settings(algorithm: str, env_id: str, root: Path = ROOT) -> str:
    """An environment's section of an algorithm's file in ``zoo_configs/``, comments and order aside."""
    sections = yaml.safe_load((root / "zoo_configs" / f"{algorithm}.yml").read_text())
    return json.dumps(sections[env_id], sort_keys=True)


def collect(module: str, name: str | None, root: Path, found: set[Path], uncounted: tuple[str, ...]) -> None:
    """Add the module's file and those of what it imports, directly or not.

    :param name: all that is wanted of it: from a package, ``from package import name`` follows the name alone, so that
        what trains one algorithm does not depend on the others
    """
    path = module_file(module, root)
    if path is None or path in found or any(f"{module}.".startswith(f"{one}.") for one in uncounted):
        return
    if name is not None and path.name == "__init__.py":
        sources = [(source, own) for source, own, alias in imports(path, root) if alias == name]
        if module_file(f"{module}.{name}", root) is not None:
            sources.append((f"{module}.{name}", None))
        if sources:
            for source, own in sources:
                collect(source, own, root, found, uncounted)
            return
    found.add(path)
    for source, own, _ in imports(path, root):
        collect(source, own, root, found, uncounted)


def module_file(module: str, root: Path) -> Path | None:
    """Where a module of this repository is; None for others."""
    base = root.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def imports(path: Path, root: Path) -> Iterator[tuple[str, str | None, str]]:
    """Every import in a file: the module, the name that is taken from it if it is one, and what it is called here."""
    package = ".".join(path.relative_to(root).parent.parts)
    for node in ast.walk(parsed(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((one.name, None, one.asname or one.name) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield from ((module, one.name, one.asname or one.name) for one in node.names)


@cache
def parsed(source: str) -> ast.Module:
    """The syntax tree of a file's text."""
    return ast.parse(source)


@cache
def statements(source: str) -> tuple[str, ...]:
    """What a module says, statement by statement."""
    return tuple(shape(statement) for statement in parsed(source).body if counts(statement))


def counts(node: object) -> bool:
    """False for statements that do nothing (docstrings) or that only say where something is (imports, ``__all__``)."""
    if isinstance(node, ast.Assign):
        return not any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    if isinstance(node, ast.If):  # an "if TYPE_CHECKING" with nothing but imports
        return any(map(counts, node.body + node.orelse))
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    return not isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass))


def shape(node: object) -> str:
    """A syntax tree as text. Unlike ``ast.dump``'s it is the same in all versions of Python: what is empty is left out,
    such as the type parameters that 3.12 brought.
    """
    if isinstance(node, list):
        return f"[{', '.join(shape(one) for one in node if counts(one))}]"
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(f'{name}={shape(value)}' for name, value in fields)})"
    return repr(node)


def stamps(folder: Path = ROOT / FOLDER) -> Iterator[tuple[Path, Stamp]]:
    """Every page with its stamp as it should read today.

    :raises ValueError: for a file that is no known page, or that has no stamp
    """
    for path in sorted(folder.glob("*.md")):
        if path.name not in PAGES:
            raise ValueError(f"{path.name}: add it to PAGES in benchmarks/provenance.py")
        stamp = Stamp.read(path.read_text())
        if stamp is None:
            raise ValueError(f"{path.name} does not say what it was measured with: make it again")
        yield path, replace(stamp, stale=stamp.code != PAGES[path.name].code())


def main() -> int:
    """List the pages, and mark them if asked to."""
    parser = argparse.ArgumentParser(description="Which pages of results are of the current code.")
    parser.add_argument("--mark", action="store_true", help="say in each page whether it is stale")
    mark = parser.parse_args().mark
    for path, stamp in stamps():
        print(f"{path.relative_to(ROOT)}: {'stale' if stamp.stale else 'fresh'}, measured at commit {stamp.commit}")
        if mark:
            path.write_text(Stamp.LINE.sub(str(stamp), path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
