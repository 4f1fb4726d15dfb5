"""What an update writes into, as it was before: to put it back in place, and to see whether it is finite still."""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

#: Numbers of a tensor beyond which reading it costs more than the call that has it read.
FEW = 2**13
#: Attributes that every optimizer has: of these, only the state and the groups change in a step.
OF_EVERY_OPTIMIZER = frozenset(vars(th.optim.SGD([th.zeros(())], lr=1.0)))


class Undo:
    """The parameters of some optimizers, whatever these remember, and a policy's buffers, as they were.

    Tensors and dictionaries keep their identity when they are put back, since others hold them too. The room for the
    copies is kept from one update to the next.
    """

    def __init__(self) -> None:
        self._parts: list[object] = []
        self._with_buffers: list[th.nn.Module] = []
        self._found = _Found()
        self._copies: list[th.Tensor] = []
        self._squares = _Squares()

    def keep(self, policy: ActorCriticPolicy, optimizers: Sequence[th.optim.Optimizer]) -> None:
        """Remember everything as it is."""
        before, self._found = self._found.tensors, _Found()
        for optimizer in optimizers:
            self._found.add(optimizer)
        parts = [policy, *(one for optimizer in optimizers for one in _parameters(optimizer))]
        if not _are_same(parts, self._parts):  # to look for them is a good part of the time that all this takes
            self._parts, self._with_buffers = parts, [module for module in policy.modules() if module._buffers]
        for module in self._with_buffers:
            self._found.add(module._buffers)
        tensors = self._found.tensors
        if not (_are_same(before, tensors) and _have_room(tensors, self._copies)):
            self._copies = [th.empty_like(tensor, requires_grad=False) for tensor in tensors]
        with th.no_grad():
            th._foreach_copy_(self._copies, tensors)

    def restore(self) -> None:
        """Make everything what it was at the last :meth:`keep`; gradients are gone."""
        for there, before in self._found.containers:
            _put_back(there, before)
        with th.no_grad():
            for tensor, copy in zip(self._found.tensors, self._copies, strict=True):
                if not th.equal(tensor, copy):
                    tensor.copy_(copy)
                if tensor.requires_grad:
                    tensor.grad = None

    def not_finite(self, policy: ActorCriticPolicy, optimizers: Sequence[th.optim.Optimizer]) -> list[str]:
        """The names of what is not finite now, or too large to be squared; a policy's buffers if they were finite."""
        tensors = [one for optimizer in optimizers for one in (*_parameters(optimizer), *_remembered(optimizer))]
        tensors += [one for module in self._with_buffers for one in module._buffers.values() if one is not None]
        return [] if self._squares.are_finite(tensors) else [*self._unsound(policy, optimizers)]

    def was_not_finite(self, policy: ActorCriticPolicy) -> list[str]:
        """The names of the policy's parameters that were not finite at the last :meth:`keep`."""
        copies, names = self._copy_of, {id(one): name for name, one in policy.named_parameters()}
        return [name for key, name in names.items() if key in copies and not _is_finite(copies[key])]

    def _unsound(self, policy: ActorCriticPolicy, optimizers: Sequence[th.optim.Optimizer]) -> Iterator[str]:
        names = {id(one): name for name, one in policy.named_parameters()}
        for optimizer in optimizers:
            for parameter in _parameters(optimizer):
                name = names.get(id(parameter), "a parameter")
                if not _is_finite(parameter.detach().square().sum()):
                    yield name
                for key, value in optimizer.state.get(parameter, {}).items():
                    is_of_each_number = isinstance(value, th.Tensor) and value.shape == parameter.shape
                    if is_of_each_number and not _is_finite(value):
                        yield f"{key} of {name} in {type(optimizer).__name__}"
        copies = self._copy_of
        for name, buffer in policy.named_buffers():
            copy = copies.get(id(buffer))  # one that is infinite by design, as masks are, has been so before
            if copy is not None and _is_finite(copy) and not _is_finite(buffer):
                yield name

    @property
    def _copy_of(self) -> dict[int, th.Tensor]:
        return {id(tensor): copy for tensor, copy in zip(self._found.tensors, self._copies, strict=True)}


class _Found:
    """Tensors, and the dictionaries and lists that hold them or numbers, each with what it held when it was found."""

    def __init__(self) -> None:
        self.tensors: list[th.Tensor] = []
        self.containers: list[tuple[Any, Any]] = []
        self._seen: set[int] = set()

    def add(self, value: object) -> None:
        """Look into it, and into what it holds."""
        if isinstance(value, th.Tensor):
            self.tensors.append(value)
        elif isinstance(value, (dict, list, deque, th.optim.Optimizer)):
            if id(value) not in self._seen:
                self._seen.add(id(value))
                self._add_container(value)
        elif isinstance(value, tuple):
            for one in value:
                self.add(one)

    def _add_container(self, value: Any) -> None:
        if isinstance(value, th.optim.Optimizer):
            there = vars(value)
            inside = [value.state, value.param_groups]
            if len(there) > len(OF_EVERY_OPTIMIZER):  # a user's own, with attributes of its own
                inside += [one for name, one in there.items() if name not in OF_EVERY_OPTIMIZER]
        else:
            there = value
            inside = there.values() if isinstance(there, dict) else there
        self.containers.append((there, there.copy()))
        for one in inside:
            self.add(one)


def _put_back(there: Any, before: Any) -> None:
    """Have a dictionary or a list hold what it held."""
    if isinstance(there, dict):
        there.update(before)  # first, so that an optimizer is never without its attributes
        for key in [key for key in there if key not in before]:
            del there[key]
    else:
        there.clear()
        there.extend(before)


class _Squares:
    """The sum of the squares of all numbers in some tensors, which is finite only if each of them is.

    Small tensors are first copied side by side, into room that is kept: a call for each would cost more.
    """

    def __init__(self) -> None:
        self._room_is_for: list[th.Tensor] = []
        self._is_small: list[bool] = []
        self._is_large: list[bool] = []
        self._flats: list[th.Tensor] = []
        self._rooms: list[th.Tensor] = []

    def are_finite(self, tensors: list[th.Tensor]) -> bool:
        """Whether the sum is finite; it may overflow."""
        if not (_are_same(tensors, self._room_is_for) and _have_room(self._small(tensors), self._rooms)):
            self._make_room(tensors)
        with th.no_grad():
            th._foreach_copy_(self._rooms, self._small(tensors))
            sums = [_squared(one) for one in (*self._flats, *compress(tensors, self._is_large))]
            places = {one.device for one in sums}  # each is waited for only once
            return all(math.isfinite(sum(one for one in sums if one.device == place)) for place in places)

    def _small(self, tensors: list[th.Tensor]) -> list[th.Tensor]:
        return [*compress(tensors, self._is_small)]

    def _make_room(self, tensors: list[th.Tensor]) -> None:
        self._room_is_for = tensors
        sizes = [one.numel() if one.is_floating_point() and one.layout is th.strided else 0 for one in tensors]
        self._is_small, self._is_large = [0 < size <= FEW for size in sizes], [size > FEW for size in sizes]
        small, rooms = self._small(tensors), dict[int, th.Tensor]()
        self._flats = []
        for kind in {(one.device, one.dtype) for one in small}:
            alike = [place for place, one in enumerate(small) if (one.device, one.dtype) == kind]
            sizes = [small[place].numel() for place in alike]
            flat = th.zeros(sum(sizes), device=kind[0], dtype=kind[1])
            self._flats.append(flat)
            for place, room in zip(alike, flat.split(sizes), strict=True):
                rooms[place] = room.view(small[place].shape)
        self._rooms = [rooms[place] for place in range(len(small))]


def _squared(tensor: th.Tensor) -> th.Tensor:
    flat = tensor.reshape(-1)
    return th.dot(flat, flat)


def _is_finite(tensor: th.Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _parameters(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    return [one for group in optimizer.param_groups for one in group["params"]]


def _remembered(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    return [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, th.Tensor)
    ]


def _are_same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _have_room(tensors: list[th.Tensor], rooms: list[th.Tensor]) -> bool:
    """Whether the rooms that were made for these tensors still fit: ``policy.double()`` changes all of them."""
    return not tensors or (tensors[0].dtype, tensors[0].device) == (rooms[0].dtype, rooms[0].device)
