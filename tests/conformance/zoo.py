"""Run rl_zoo3's own test suite on our commands, with our algorithms in its lists: ``python -m tests.conformance.zoo``.

The suite is taken, unmodified, from the source distribution of the installed version. It calls ``train.py`` and
``enjoy.py`` in its folder: these are ours. Whatever follows goes to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import rl_zoo3

from tests.conformance.run import ROOT, fetch_suite

#: What the Zoo's repository has at its top, and its tests call.
SCRIPTS = {"train.py": "train", "enjoy.py": "enjoy"}
SCRIPT = """\
import sys
from sb3_pg.zoo.commands import main

if __name__ == "__main__":
    sys.exit(main(["{command}", *sys.argv[1:]]))
"""


def prepare(suite: Path) -> None:
    """Put what the source distribution lacks beside the tests: our commands, and the Zoo's installed configurations."""
    for name, command in SCRIPTS.items():
        (suite / name).write_text(SCRIPT.format(command=command))
    (suite / "rl-trained-agents").mkdir(exist_ok=True)  # empty: the suite lists it as soon as it is imported
    configs = suite / "hyperparams"
    if not configs.exists():
        configs.symlink_to(Path(rl_zoo3.__file__).parent / "hyperparams")


def main() -> int:
    """Run it, and return pytest's status."""
    suite = fetch_suite("rl_zoo3", version("rl_zoo3"))
    prepare(suite)
    config = ["-c", os.devnull, "--rootdir", str(suite), "-p", "tests.conformance.zoo_plugin", "-n", "2"]
    command = [sys.executable, "-m", "pytest", *config, *sys.argv[1:], str(suite / "tests")]
    # "python" of the suite's command lines is this one; no network, no screen
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PATH": path, "PYTHONPATH": python_path, "HF_HUB_OFFLINE": "1", "SDL_VIDEODRIVER": "dummy"}
    return subprocess.run(command, cwd=suite, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
