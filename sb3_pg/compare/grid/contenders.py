"""Who competes: ``"reinforce:baseline=none,ppo,my_module.MyAlgorithm"`` read into contenders."""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pg.zoo import register

BRACKETS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Contender:
    """An algorithm with its variations.

    :param label: what tables and figures call it
    :param algorithm: the Zoo's id of one of ours, of SB3's or of sb3-contrib's, or a class's dotted path
    :param overrides: hyperparameters that take the place of its configuration's
    """

    label: str
    algorithm: str
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name of the folder with its runs: in small letters, as the Zoo's plots look for it."""
        return re.sub(r"[^\w.,:=+-]", "_", self.label.lower())


def parse_contenders(text: str) -> list[Contender]:
    """Read a list of algorithms, each with what it shall have otherwise: ``name:argument=value:argument=value``.

    Values are Python (``3``, ``True``, ``[64, 64]``), and text where they are not (``lin_0.001``). A comma or a colon
    between brackets or quotes belongs to the value.

    :raises ValueError: for an algorithm that is not there, two contenders with one label, a variation without a value
    """
    contenders = [_parse(part.strip()) for part in split_outside(text, ",")]
    check_labels(contenders)
    return contenders


def check_labels(contenders: Sequence[Contender]) -> None:
    """Refuse contenders that could not be told apart.

    :raises ValueError: for two of one label (or of labels that differ in letters that a folder's name leaves out)
    """
    if not contenders:
        raise ValueError("there is no algorithm to train: write some, like 'reinforce,ppo'")
    for folder, count in Counter(contender.folder for contender in contenders).items():
        if count > 1:
            labels = ", ".join(contender.label for contender in contenders if contender.folder == folder)
            raise ValueError(f"{count} contenders have one label ({labels}): leave one out, or vary an argument")


def split_outside(text: str, separator: str) -> list[str]:
    """The pieces of a text between separators, except those within brackets or quotes."""
    pieces, closing, quote = [""], list[str](), ""
    for character in text:
        if character == separator and not closing and not quote:
            pieces.append("")
            continue
        pieces[-1] += character
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in BRACKETS:
            closing.append(BRACKETS[character])
        elif closing and character == closing[-1]:
            closing.pop()
    if closing or quote:
        raise ValueError(f"{text!r}: {quote or closing[-1]} is missing")
    return pieces


def _parse(text: str) -> Contender:
    name, *variations = (piece.strip() for piece in split_outside(text, ":"))
    if not name:
        raise ValueError("an algorithm's name is empty: write a list like 'reinforce,ppo'")
    algorithm_class(name)
    overrides: dict[str, Any] = {}
    for variation in variations:
        key, equals, value = (part.strip() for part in variation.partition("="))
        if not (key and equals and value):
            raise ValueError(f"{text}: {variation!r} is no variation: write argument=value, like {name}:gamma=1.0")
        if key in overrides:
            raise ValueError(f"{text}: {key} has two values")
        if key == "n_timesteps":
            raise ValueError(f"{text}: n_timesteps is the budget, the same for everybody: give that instead")
        overrides[key] = _value(value)
    return Contender(":".join([name, *variations]), name, overrides)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """The class behind an algorithm's name.

    :param name: the Zoo's id or a dotted path, which is looked for in the working directory too
    :raises ValueError: if there is none, with the nearest one
    """
    register()
    if name in ALGOS:
        found: type[BaseAlgorithm] = ALGOS[name]
        return found
    if "." not in name:
        instead = _near(name.lower(), ALGOS) or f"write one of {', '.join(sorted(ALGOS))}, or my_module.MyAlgorithm"
        raise ValueError(f"there is no algorithm {name}: {instead}")
    return _imported(name)


def _imported(path: str) -> type[BaseAlgorithm]:
    module_name, _, class_name = path.rpartition(".")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and misses another one
        raise ValueError(
            f"there is no module {error.name} for {path}, neither installed nor in {os.getcwd()}"
        ) from error
    found = getattr(module, class_name, None)
    if isinstance(found, type) and issubclass(found, BaseAlgorithm):
        return found
    classes = sorted(_algorithms(vars(module)))
    if found is not None:
        raise ValueError(f"{path} is not a class with Stable-Baselines3's BaseAlgorithm as its base")
    instead = _near(class_name, classes) or (f"it has {', '.join(classes)}" if classes else "it has no algorithm")
    raise ValueError(f"there is no {class_name} in {module_name}: {instead}")


def _algorithms(names: Mapping[str, Any]) -> Iterator[str]:
    return (name for name, value in names.items() if isinstance(value, type) and issubclass(value, BaseAlgorithm))


def _near(name: str, names: Any) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {near[0]}?" if near else ""
