"""Pages of results say what they were measured with, and whether that is still the code."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import runs
from benchmarks.provenance import (
    FOLDER,
    MARK_COMMAND,
    PAGES,
    ROOT,
    UNCOUNTED,
    Page,
    Stamp,
    code_hash,
    current_commit,
    module_file,
    publish,
)
from benchmarks.runs import Contender, Result, Run, resume_all
from sb3_pg import REINFORCE

FILES = sorted((ROOT / FOLDER).glob("*.md"))

BENCH = "from package import train\n\n\ndef main():\n    return train(3)\n"
INIT = '''"""All of it."""

from package.other import unused
from package.work import train

__all__ = ["train", "unused"]
'''
WORK = '''"""The work."""

import math

from package.tools import double


class Trainer:
    """Trains."""

    rate = 0.5  #: steps


def train(n):
    """Train."""
    # a comment
    return math.sqrt(double(n)) * Trainer.rate
'''
TOOLS = "def double(n):\n    return 2 * n\n"
OTHER = "def unused():\n    return 7\n"
SETTINGS = "Task-v0:\n  gamma: 1.0\n  n_envs: 8\nOther-v0:\n  gamma: 0.9\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write(tmp_path, "bench.py", BENCH)
    write(tmp_path, "package/__init__.py", INIT)
    write(tmp_path, "package/work.py", WORK)
    write(tmp_path, "package/tools.py", TOOLS)
    write(tmp_path, "package/other.py", OTHER)
    write(tmp_path, "zoo_configs/algorithm.yml", SETTINGS)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def page_hash(root: Path) -> str:
    return Page("bench", (("algorithm", "Task-v0"),)).code(root)


# The pages


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_page_says_what_it_was_measured_with_and_whether_it_is_stale(path: Path) -> None:
    assert path.name in PAGES, f"add {path.name} to PAGES in benchmarks/provenance.py"
    stamp = Stamp.read(path.read_text())
    assert stamp is not None, f"{path.name} has no line 'Measured at commit ...': make it again"
    stale = stamp.code != PAGES[path.name].code()
    assert stamp.stale == stale, (
        f"{path.name} is {'stale' if stale else 'fresh'} and says otherwise: make it again or run {MARK_COMMAND}"
    )


def test_every_page_is_there_and_made_by_a_module_that_is() -> None:
    assert {path.name for path in FILES} == set(PAGES)
    modules = [*(page.module for page in PAGES.values()), *UNCOUNTED]
    assert [module for module in modules if module_file(module, ROOT) is None] == []


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_page_depends_on_the_settings_that_it_reads(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def shipped(name: str, algorithm: type[REINFORCE], env_id: str) -> Contender:
        read.append((algorithm.__name__.lower(), env_id))
        return Contender(name, algorithm)

    monkeypatch.setattr(runs, "shipped", shipped)
    runpy.run_module(page.module, run_name="read", alter_sys=True)
    assert set(page.settings) == set(read)


# The stamp


def test_a_stamp_is_read_back_from_the_page_that_it_is_published_in(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    stamp = Stamp("abc1234+", "0123456789ab")
    publish("# Title\n\nMade by me.\n", path, stamp)
    assert path.read_text() == "# Title\n\nMeasured at commit abc1234+, code 0123456789ab.\n\nMade by me.\n"
    assert Stamp.read(path.read_text()) == stamp
    assert Stamp.read(f"# Title\n\n{replace(stamp, stale=True)}\n") == replace(stamp, stale=True)
    assert Stamp.read("# Title\n") is None


@pytest.mark.parametrize("text", [f"{Stamp('a', 'b')} Nearly.\n", f"{Stamp('a', 'b')}\n\n{Stamp('a', 'b', True)}\n"])
def test_a_page_cannot_be_both_fresh_and_stale(text: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        Stamp.read(text)


def test_there_need_not_be_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_commit(tmp_path) == "unknown"
    monkeypatch.setenv("PATH", "")
    assert current_commit() == "unknown"


# The hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another"),
        ('"""Train."""', '"""Learn."""'),
        ('    """Trains."""\n\n', ""),
        ("math.sqrt(double(n)) * Trainer.rate", "(\n        math.sqrt( double(n))*Trainer.rate\n    )"),
        ("import math\n", "import math\nimport os\n\nif os:\n    import json\n"),
        ("from package.tools import double", "from package import tools\nfrom .tools import double"),
        ("class Trainer", "__all__ = []\n\n\nclass Trainer"),
    ],
)
def test_the_hash_is_the_same_when_nothing_else_is_computed(repository: Path, old: str, new: str) -> None:
    before = page_hash(repository)
    assert old in WORK
    write(repository, "package/work.py", WORK.replace(old, new))
    assert page_hash(repository) == before


def test_the_hash_is_the_same_when_a_module_moves_or_is_divided(repository: Path) -> None:
    before = page_hash(repository)
    (repository / "package/work.py").unlink()
    head, function = WORK.split("def train")
    write(repository, "package/deep/__init__.py", "from package.deep.trainer import Trainer\n")
    write(repository, "package/deep/trainer.py", head)
    write(
        repository,
        "package/deep/job.py",
        f"import math\n\nfrom package.deep import Trainer\nfrom package.tools import double\n\n\ndef train{function}",
    )
    write(repository, "package/__init__.py", INIT.replace("package.work", "package.deep.job"))
    assert page_hash(repository) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("bench.py", "3", "4"),
        ("package/work.py", "0.5", "0.25"),
        ("package/work.py", "* Trainer.rate", "+ Trainer.rate"),
        ("package/tools.py", "2 * n", "n * 2"),
        ("package/tools.py", "2", "2.0"),
        ("zoo_configs/algorithm.yml", "1.0", "0.99"),
    ],
)
def test_the_hash_is_another_when_something_else_is_computed(repository: Path, name: str, old: str, new: str) -> None:
    before = page_hash(repository)
    text = (repository / name).read_text()
    write(repository, name, text.replace(old, new, 1))
    assert page_hash(repository) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("package/other.py", "7", "8"),
        ("zoo_configs/algorithm.yml", "0.9", "0.8"),
        ("zoo_configs/algorithm.yml", "  gamma: 1.0\n  n_envs: 8", "  n_envs: 8  # few\n  gamma: 1.0"),
    ],
)
def test_the_hash_knows_nothing_of_what_the_page_does_not_use(repository: Path, name: str, old: str, new: str) -> None:
    before = page_hash(repository)
    text = (repository / name).read_text()
    assert old in text
    write(repository, name, text.replace(old, new))
    assert page_hash(repository) == before


def test_a_star_takes_all_of_a_package(repository: Path) -> None:
    write(repository, "bench.py", BENCH.replace("import train", "import *"))
    before = code_hash(["bench"], root=repository)
    write(repository, "package/other.py", OTHER.replace("7", "8"))
    assert code_hash(["bench"], root=repository) != before


# Runs that are kept


def finished(run: Run, code: str) -> None:
    run.folder.mkdir(parents=True)
    Result(run.contender.name, run.seed, code, final_score=1.0).save(run.folder)


def test_only_runs_of_this_code_and_these_settings_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_all(missing: list[Run], n_workers: int, advance: object) -> list[Result]:
        return [Result(run.contender.name, run.seed, run.code, final_score=2.0) for run in missing]

    monkeypatch.setattr(runs, "train_all", train_all)
    own = Run(Contender("one", REINFORCE, {"gamma": 1.0}), "CartPole-v1", 0, 1_000, tmp_path / "0").with_code()
    other_settings = replace(own.contender, settings={"gamma": 0.9})
    others = [
        replace(own, folder=tmp_path / "1", contender=other_settings).with_code(),
        replace(own, folder=tmp_path / "2", n_steps=2_000).with_code(),
        replace(own, folder=tmp_path / "3", code="made by other code"),
        replace(own, folder=tmp_path / "4", code=""),
    ]
    for run in (own, *others):
        finished(run, run.code)
    asked = [replace(own, folder=run.folder) for run in (own, *others)]
    assert [result.final_score for result in resume_all(asked)] == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert own.folder.exists() and not any(run.folder.exists() for run in others)


def test_a_run_keeps_the_hash_that_it_was_started_with(tmp_path: Path) -> None:
    run = Run(Contender("one", REINFORCE, n_envs=1), "CartPole-v1", 0, 2_048, tmp_path / "run", code="0123456789ab")
    runs.train(run, lambda n_steps: True)
    assert json.loads((run.folder / "result.json").read_text())["code"] == "0123456789ab"
