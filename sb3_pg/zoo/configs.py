"""Where the configurations of our algorithms lie, and what is in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Inside the package in a wheel; beside it in a checkout, editable installs included.
FOLDERS = (Path(__file__).parents[1] / "zoo_configs", Path(__file__).parents[2] / "zoo_configs")


def config_path(algo: str) -> Path:
    """The file with an algorithm's configurations.

    :param algo: the Zoo's id: ``"reinforce"``, ``"vanillapg"`` or ``"offpolicyispg"``
    :raises ValueError: if there is none
    """
    for folder in FOLDERS:
        if (path := folder / f"{algo}.yml").is_file():
            return path
    raise ValueError(f"sb3_pg has no configurations of {algo!r}: give a file by --conf-file")


def read_configs(path: str | Path) -> dict[str, dict[str, Any]]:
    """Environment id (or ``default``, ``atari``) -> hyperparameters, of a file in the Zoo's format.

    :raises ValueError: for a file that is missing, no YAML, or something else than that
    """
    import yaml  # comes with the extra; config_path works without

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no configuration file {path}")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    if not (isinstance(content, dict) and all(isinstance(section, dict) for section in content.values())):
        raise ValueError(
            f"{path} must have a section of hyperparameters for each environment, like 'CartPole-v1:' and below it, "
            "indented, 'n_timesteps: 100000'"
        )
    return content
