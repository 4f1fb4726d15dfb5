"""Run Stable-Baselines3's and sb3-contrib's own tests with our classes swapped in: ``python -m tests.conformance.run``.

The suites are taken, unmodified, from the source distributions of the installed versions. Whatever follows the options
goes to pytest: ``python -m tests.conformance.run --swap A2C=sb3_pg:REINFORCE -- -k save_load -x``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conformance.leftovers import LEFTOVERS
from tests.conformance.plugin import Swap

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".conformance"


def fetch_suite(package: str, package_version: str) -> Path:
    """Return the folder with ``tests/`` and ``pyproject.toml`` of one version, downloaded the first time."""
    name = f"{package}-{package_version}"
    suite = CACHE / name
    if suite.is_dir():
        return suite
    CACHE.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=CACHE) as scratch:
        download(f"{package}=={package_version}", Path(scratch))
        with tarfile.open(Path(scratch, f"{name}.tar.gz")) as archive:
            # Not the package itself: the installed one is tested.
            wanted = (f"{name}/tests/", f"{name}/pyproject.toml")
            members = [member for member in archive.getmembers() if member.name.startswith(wanted)]
            archive.extractall(scratch, members=members, filter="data")
        Path(scratch, name).rename(suite)
    return suite


def download(requirement: str, folder: Path) -> None:
    """Download the source distribution, or end with a message."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    source = ["--no-binary", requirement.partition("==")[0], "--no-deps", "--dest", str(folder), requirement]
    if subprocess.run(pip + source).returncode:
        sys.exit(f"conformance: could not download the source distribution of {requirement}")


def run_suite(suite: Path, swap: str, pytest_args: list[str]) -> int:
    """Run the suite in a pytest session of its own, with its own configuration, and return the exit status."""
    config = ["-c", str(suite / "pyproject.toml"), "--rootdir", str(suite)]
    plugins = ["-p", "tests.conformance.plugin", "--swap", swap, "-n", "2"]
    command = [sys.executable, "-m", "pytest", *config, *plugins, *pytest_args, str(suite / "tests")]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(command, cwd=suite, env={**os.environ, "PYTHONPATH": path}).returncode


def main() -> int:
    """Run every swap asked for, or all that we promise, and report the first failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swap", action="append", metavar="NAME=MODULE:CLASS", help="default: all that we promise")
    parser.add_argument("pytest_args", nargs="*", help="passed on to pytest")
    args = parser.parse_args()
    statuses = []
    for swap in args.swap or LEFTOVERS:
        package = Swap.parse(swap).package.__name__
        statuses.append(run_suite(fetch_suite(package, version(package)), swap, args.pytest_args))
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
