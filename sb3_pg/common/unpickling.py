"""Pickles of plain data, read without running them: a name in one is looked up in a list, and nowhere else."""

from __future__ import annotations

import pickletools
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: What can be a key, or in a set: its hash takes no time, however it is nested.
KEYS = (str, bytes, int, float, complex, np.generic, type(None))
#: Operations whose argument is the value.
VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS: dict[str, Callable[[], object]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple},
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
IGNORED = {"PROTO", "FRAME", "STOP"}


class RefusedError(ValueError):
    """What is in a pickle that is no plain data."""


@dataclass
class Known:
    """What may be in a pickle beside numbers, texts and containers.

    :param names: (module, name) -> what it stands for. Of those that are in none of the others it is only said.
    :param calls: what it stands for, by its ``id`` -> what is called in its place
    :param instances: the same of a class, for one of it that its state follows
    :param states: module and name of a type -> what gives a state to one of it
    """

    names: dict[tuple[str, str], object] = field(default_factory=dict)
    calls: dict[int, Callable[..., object]] = field(default_factory=dict)
    instances: dict[int, Callable[..., object]] = field(default_factory=dict)
    states: dict[tuple[str, str], Callable[[Any, Any], None]] = field(default_factory=dict)

    def __or__(self, other: Known) -> Known:
        return Known(
            self.names | other.names,
            self.calls | other.calls,
            self.instances | other.instances,
            self.states | other.states,
        )


def load_plain(pickled: bytes, known: Known) -> object:
    """What is in a pickle, if it is plain data and what is known.

    :raises RefusedError: for anything else, before anything of it has happened
    """
    return _Machine(known).run(pickled)


class _Machine:
    """Does what a pickle says, of those things that it may say."""

    def __init__(self, known: Known):
        self.known = known
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.steps: Mapping[str, Callable[[Any], object]] = {
            "MARK": self._mark,
            "POP": lambda _: self._pop(1),
            "POP_MARK": lambda _: self._since_mark(),
            "MEMOIZE": lambda _: self._remember(len(self.memo)),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._remember),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda number: self._push(self.memo[number])),
            "TUPLE": lambda _: self._push(tuple(self._since_mark())),
            "FROZENSET": lambda _: self._push(frozenset(_keys(self._since_mark()))),
            "APPEND": lambda _: self._append(self._pop(1)),
            "APPENDS": lambda _: self._append(self._since_mark()),
            "ADDITEMS": lambda _: self._add(self._since_mark()),
            "SETITEM": lambda _: self._set(self._pop(2)),
            "SETITEMS": lambda _: self._set(self._since_mark()),
            "GLOBAL": lambda argument: self._name(*argument.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._name(*self._pop(2)),
            "REDUCE": lambda _: self._make(self.known.calls),
            "NEWOBJ": lambda _: self._make(self.known.instances),
            "BUILD": lambda _: self._build(),
        }

    def run(self, pickled: bytes) -> object:
        """What is at the top in the end."""
        for operation, argument, _ in pickletools.genops(pickled):
            name = operation.name
            if name in VALUES:
                self._push(argument)
            elif name in CONSTANTS:
                self._push(CONSTANTS[name]())
            elif name in TUPLES:
                self._push(tuple(self._pop(TUPLES[name])))
            elif name in self.steps:
                self.steps[name](argument)
            elif name not in IGNORED:
                raise RefusedError(f"the operation {name} of pickle's")
        return self._pop(1)[0]

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise RefusedError("a pickle that is none")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def _mark(self, _: object) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.outer.pop()
        return values

    def _remember(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def _append(self, values: list[Any]) -> None:
        self._target(list, deque).extend(values)

    def _add(self, values: list[Any]) -> None:
        self._target(set).update(_keys(values))

    def _set(self, values: list[Any]) -> None:
        self._target(dict, OrderedDict).update(zip(_keys(values[::2]), values[1::2], strict=True))

    def _target(self, *kinds: type) -> Any:
        """The container at the top, to which something is added."""
        if type(self.stack[-1]) not in kinds:
            raise RefusedError(f"a {type(self.stack[-1]).__name__} to which something is added")
        return self.stack[-1]

    def _name(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise RefusedError("a name that is no text")
        if (module, name) not in self.known.names:
            raise RefusedError(f"{module}.{name}")
        self._push(self.known.names[module, name])

    def _make(self, makers: Mapping[int, Callable[..., object]]) -> None:
        named, arguments = self._pop(2)
        if id(named) not in makers or type(arguments) is not tuple:
            raise RefusedError(f"a call of {_called(named)}")
        self._push(makers[id(named)](*arguments))

    def _build(self) -> None:
        (state,) = self._pop(1)
        give = self.known.states.get(name_of(type(self.stack[-1])))
        if give is None:
            raise RefusedError(f"a state of {_called(self.stack[-1])}")
        give(self.stack[-1], state)


def name_of(named: Any) -> tuple[str, str]:
    """How a pickle says it."""
    return named.__module__, named.__qualname__


def _keys(values: list[Any]) -> list[Any]:
    for value in values:
        if not isinstance(value, KEYS):
            raise RefusedError(f"a {type(value).__name__} as a key")
    return values


def _called(value: object) -> str:
    """Words for something that may be anything: its own would be made of all that is in it."""
    return ".".join(name_of(value)) if isinstance(value, type) else f"a {type(value).__name__}"
