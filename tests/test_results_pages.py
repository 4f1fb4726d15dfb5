"""Pages of results say what they were measured with, and whether that is still the code."""

from __future__ import annotations

import json
import re
import runpy
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO

from benchmarks import defaults, first_look, learning, out_of_the_box, passages, provenance, reuse, runs, samples
from benchmarks.provenance import (
    FOLDER,
    MARK_COMMAND,
    PAGES,
    ROOT,
    UNCOUNTED,
    Page,
    Stamp,
    code_hash,
    collect,
    current_commit,
    module_file,
    publish,
)
from benchmarks.runs import contender, kept, trained
from sb3_pg import REINFORCE, VanillaPG
from sb3_pg.compare.grid import Contender
from sb3_pg.compare.reading import Found
from sb3_pg.compare.records import Episodes, Evaluations, Record
from sb3_pg.statistics import Passage
from sb3_pg.zoo.registration import OURS

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


#: Whose runs are not there: to be taken off with the page.
NOT_MADE_YET = {"out_of_the_box.md", "reuse.md"}


def test_every_page_is_there_and_made_by_a_module_that_is() -> None:
    assert {path.name for path in FILES} == set(PAGES) - NOT_MADE_YET
    modules = [*(module for page in PAGES.values() for module in (page.module, *page.sources)), *UNCOUNTED]
    assert [module for module in modules if module_file(module, ROOT) is None] == []


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_page_depends_on_the_settings_that_it_reads(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def shipped(label: str, algorithm: type[REINFORCE], env_id: str, **more: Any) -> Contender:
        read.append((algorithm.__name__.lower(), env_id))
        return contender(label, algorithm, **more)

    monkeypatch.setattr(runs, "shipped", shipped)
    monkeypatch.delitem(sys.modules, page.module, raising=False)
    module = runpy.run_module(page.module, run_name="read", alter_sys=True)
    # What the command reads by itself
    read += [(one, env_id) for one in module.get("ALGORITHMS", ()) if one in OURS for env_id in module["ENV_IDS"]]
    assert set(page.settings) == set(read)


@pytest.mark.parametrize("module", [defaults, first_look, learning, samples])
def test_a_page_depends_on_what_trains_and_reads_its_runs_and_on_no_report(module: ModuleType) -> None:
    found: set[Path] = set()
    collect(module.__name__, None, ROOT, found, UNCOUNTED)
    names = {path.relative_to(ROOT).as_posix() for path in found}
    rooms = {f"sb3_pg/{room}" for room in ("compare/grid/cell.py", "compare/reading/monitor.py", "zoo/experiment.py")}
    assert rooms <= names
    reports = ("sb3_pg/report/", "sb3_pg/compare/page/", "sb3_pg/compare/verdict", "sb3_pg/compare/comparison")
    assert [name for name in names if name.startswith(reports)] == []
    algorithms = {
        name.split("/")[1] for name in names if re.search(r"/(reinforce|vanilla_pg|off_policy_ispg)\.py", name)
    }
    own = {value.__name__ for value in vars(module).values() if isinstance(value, type) and value in OURS.values()}
    assert {OURS[name.replace("_", "")].__name__ for name in algorithms} == own


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


def asked(folder: Path, **changes: Any) -> list[Record]:
    contenders = [contender("one", REINFORCE, n_steps=64)]
    arguments: dict[str, Any] = {"contenders": contenders, "env_ids": "CartPole-v1", "seeds": [3, 4], "steps": 64}
    # Evaluated at the beginning and at the end: by default 20 times
    few = {"n_envs": 1, "n_eval_episodes": 2, "eval_every": 64, "jobs": 1}
    return trained(folder, **arguments | few | changes)


def cells(folder: Path) -> dict[Path, str]:
    return {path.parent: path.read_text() for path in folder.glob("*/*/*/cell.json")}


def test_runs_are_kept_while_neither_code_nor_settings_change(tmp_path: Path) -> None:
    records = asked(tmp_path)
    before = cells(tmp_path)
    assert [(one.algorithm, one.env_id, one.seed, one.budget) for one in records] == [
        ("one", "CartPole-v1", seed, 64) for seed in (3, 4)
    ]
    assert records[0].settings == {"n_envs": 1, "n_steps": 64, "policy": "MlpPolicy"}
    assert records[0].evaluations is not None and records[0].evaluations.returns.shape[1] == 2
    assert {record.folder for record in records} == set(before)
    more = asked(tmp_path, seeds=[4, 5])
    assert [record.seed for record in more] == [4, 5]
    after = cells(tmp_path)
    assert len(after) == 3 and before.items() <= after.items()


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where runs are asked for, with nothing that trains them."""
    found = []

    def run_grid(contenders: Any, env_ids: Any, seeds: Any, out: Path, *_: Any, **__: Any) -> list[Any]:
        found.append(out)
        return []

    monkeypatch.setattr(runs, "run_grid", run_grid)
    monkeypatch.setattr(runs, "read_runs", lambda paths: Found([]))
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"contenders": [contender("one", REINFORCE, n_steps=64, gamma=0.9)]},
        {"contenders": [contender("one", VanillaPG, n_steps=64)]},
        {"steps": 128},
        {"n_envs": 2},
        {"eval_every": 32},
        {"n_eval_episodes": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_asked_otherwise_is_trained_elsewhere(
    tmp_path: Path, folders: list[Path], change: dict[str, Any]
) -> None:
    for changes in ({}, {}, change):
        asked(tmp_path, **changes)
    assert folders[0] == folders[1] != folders[2]
    assert {folder.parent for folder in folders} == {tmp_path}


def test_runs_go_on_in_another_checkout(tmp_path: Path) -> None:
    """From an archive without what a machine is called; the same runs make the same archive."""
    here, there, archive = tmp_path / "here", tmp_path / "there", tmp_path / "results/runs.tar.xz"
    with kept(here, archive):
        before = asked(here, seeds=[3])
    with pytest.raises(KeyboardInterrupt), kept(there, archive):
        after = asked(there, seeds=[3])
        facts = json.loads((after[0].folder / "cell.json").read_text())
        assert facts["command"] == [] and "host" not in facts["machine"]
        asked(there, seeds=[4])
        raise KeyboardInterrupt
    for one, other in zip(before, after, strict=True):
        assert one.evaluations is not None and other.evaluations is not None
        assert np.array_equal(one.evaluations.returns, other.evaluations.returns)
    # Nothing was trained anew
    assert {path.name for path in there.glob("*/*/*_4/*")} == {"cell.json", "evaluations.npz"}
    packed = archive.read_bytes()
    with kept(tmp_path / "third", archive):
        found = (tmp_path / "third").glob("*/*/*/cell.json")
        assert {path.parent.name for path in found} == {"CartPole-v1_4", "CartPole-v1_5"}
    assert archive.read_bytes() == packed


@pytest.mark.parametrize(
    ("algorithm", "changed", "counts"),
    [
        (REINFORCE, "sb3_pg.compare.grid.cell", True),
        (REINFORCE, "sb3_pg.common.base_algorithm", True),
        (REINFORCE, "sb3_pg.vanilla_pg.vanilla_pg", False),
        (PPO, "sb3_pg.compare.grid.cell", True),
        (PPO, "sb3_pg.common.base_algorithm", False),
    ],
)
def test_runs_of_other_code_are_left_where_they_are(
    algorithm: Any,
    changed: str,
    counts: bool,
    tmp_path: Path,
    folders: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine's counts too, but for SB3's algorithms, in which it has no part."""
    contenders = [contender("one", algorithm)]
    asked(tmp_path, contenders=contenders)
    path, statements = module_file(changed, ROOT), provenance.statements
    assert path is not None

    def with_one_more(source: str) -> tuple[str, ...]:
        return (*statements(source), "one more") if source == path.read_text() else statements(source)

    monkeypatch.setattr(provenance, "statements", with_one_more)
    asked(tmp_path, contenders=contenders)
    assert (folders[0] != folders[1]) == counts


def test_a_run_that_fails_leaves_no_page(tmp_path: Path) -> None:
    broken = Contender("broken", "tests.compare_grid.actors.Crashing", {"n_steps": 16})
    for _ in range(2):  # it is tried again, whatever made it fail
        with pytest.raises(RuntimeError, match=r"1 of 2 runs failed.*\nbroken on CartPole-v1, seed 3: Arithm.*third"):
            asked(tmp_path, contenders=[broken, contender("one", REINFORCE, n_steps=64)], seeds=[3])


# What is made of them


def record(one: Contender, env_id: str, seed: int, steps: int) -> Record:
    """A run whose last 100 training episodes reach a mean of 500 halfway."""
    at = np.linspace(0, steps, 201)[1:]
    ended = np.where(at <= steps / 2, 500.0, 520.0 + seed)
    evaluations = Evaluations(np.array([0.0, steps]), np.array([[-1000.0], [500.0 + seed]]))
    return Record(one.label, env_id, seed, Path(), steps, evaluations, Episodes(at, ended, at))


@pytest.mark.parametrize(
    ("module", "n_rows"), [(defaults, 11), (first_look, 7), (learning, 6), (samples, 4), (reuse, 15)]
)
def test_a_page_has_a_line_for_each_contender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, n_rows: int
) -> None:
    def made_up(folder: Path, contenders: Any, env_id: str, seeds: Any, steps: int, **options: Any) -> list[Record]:
        assert folder == Path("runs", module.__name__.rpartition(".")[2]) and options["eval_every"] <= steps
        return [record(one, env_id, seed, steps) for one in contenders for seed in seeds]

    monkeypatch.setattr(module, "trained", made_up)
    monkeypatch.setattr(module, "kept", lambda *_: nullcontext(), raising=False)
    monkeypatch.setattr(module, "TABLE", tmp_path / module.TABLE.name)
    assert module.main() == 0
    page = module.TABLE.read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and line[2:3] not in "|-"]
    counted = {
        learning: learning.TASKS,
        defaults: defaults.VARIANTS,
        first_look: (),
        samples: "1",
        reuse: reuse.TARGETS,
    }
    headings = len(counted[module])
    assert len(rows) - headings == n_rows
    assert Stamp.read(page) == Stamp.now(module.TABLE)
    assert max(map(len, page.split("\n| ")[0].splitlines())) <= 120


def test_the_page_of_plain_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of made-up runs: a line a task and number of environments, the scale, REINFORCE beside A2C, two reports."""

    def made_up(_: Path, contenders: Any, env_ids: Any, seeds: Any, steps: int, **__: Any) -> list[Record]:
        return [record(one, env_id, seed, steps) for one in contenders for env_id in env_ids for seed in seeds]

    monkeypatch.setattr(out_of_the_box, "trained", made_up)
    monkeypatch.setattr(out_of_the_box, "kept", lambda *_: nullcontext())
    monkeypatch.setattr(out_of_the_box, "random_score", lambda _: -1000.0)
    # Every task has the ends of its scale; a page of three tasks and algorithms is made like one of all, in less time
    assert list(out_of_the_box.scale()) == list(out_of_the_box.ENV_IDS)
    assert set(out_of_the_box.EPISODIC) < set(out_of_the_box.ENV_IDS)
    monkeypatch.setattr(out_of_the_box, "ENV_IDS", ("CartPole-v1", "Acrobot-v1", "Pendulum-v1"))
    monkeypatch.setattr(out_of_the_box, "EPISODIC", ("CartPole-v1", "Acrobot-v1"))
    labels = [one.label for one in out_of_the_box.CONTENDERS]
    assert labels == ["VanillaPG", "OffPolicyISPG", "REINFORCE", "PPO", "A2C"]
    few = [one for one in out_of_the_box.CONTENDERS if one.label in ("REINFORCE", "PPO", "A2C")]
    monkeypatch.setattr(out_of_the_box, "CONTENDERS", few)
    monkeypatch.setattr(out_of_the_box, "scale", partial(out_of_the_box.scale, out_of_the_box.ENV_IDS))
    for name in ("PAGE", "RESULTS", "FOLDER"):
        monkeypatch.setattr(out_of_the_box, name, tmp_path / getattr(out_of_the_box, name).name)
    assert out_of_the_box.main() == 0
    text = out_of_the_box.PAGE.read_text()
    assert all(text.count(f"| {env_id} | ") == 2 for env_id in out_of_the_box.ENV_IDS)
    assert "CartPole-v1 -1,000 and 500" in text and "REINFORCE has" in text and "## 1 environment" in text
    assert {path.name for path in out_of_the_box.RESULTS.glob("*/report.html")} == {"report.html"}


def test_random_actions_are_the_same_every_time() -> None:
    scores = [out_of_the_box.random_score("CartPole-v1") for _ in range(2)]
    assert scores[0] == scores[1] and 10 < scores[0] < 40


def test_when_a_target_was_reached() -> None:
    run = record(learning.TASKS[0].settings[0][0], "CartPole-v1", 4, 200_000)
    assert learning.passage(run, 490.0) == Passage(100_000.0, True)
    # 50 episodes of 524 among the last 100
    assert learning.passage(run, 512.0) == Passage(150_000.0, True)
    assert learning.passage(run, 525.0) == Passage(200_000.0, False)
    assert passages.passage(run, 475.0) == Passage(200_000.0, True)
    assert passages.passage(run, 505.0) == Passage(200_000.0, False)


def test_a_ratio_of_steps_and_its_interval() -> None:
    steps = np.array([10.0, 20.0, 30.0])
    assert passages.relative(steps, steps) == "1.00"
    found = re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", passages.relative(2 * steps, steps.copy()))
    assert found is not None
    ratio, low, high = map(float, found.groups())
    assert low < 1 < ratio == 2 < high
