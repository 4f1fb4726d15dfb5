"""What an update writes into, as it was before: to put it back in place, and to see whether it is finite still."""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

#: Numbers of a tensor beyond which reading it costs more than the call that has it read.
FEW = 2**13
#: What holds no tensor that a step could write into.
PLAIN = frozenset({bool, int, float, str, tuple, type(None)})


class Undo:
    """The parameters of some optimizers, whatever these remember, and a policy's buffers, as they were.

    Tensors and dictionaries keep their identity when they are put back, since others hold them too. The room for the
    copies is kept from one update to the next.
    """

    def __init__(self) -> None:
        #: What was looked through last, and those of its modules that have buffers.
        self._looked_through: tuple[list[object], list[th.nn.Module]] = ([], [])
        self._found = _Found()
        self._before, self._after = _Room(), _Room()

    def __reduce__(self) -> tuple[type[Undo], tuple[()]]:
        """A copy of a model has room of its own."""
        return Undo, ()

    def keep(self, policy: ActorCriticPolicy, optimizers: Sequence[th.optim.Optimizer]) -> None:
        """Remember everything as it is."""
        self._found = _Found()
        for optimizer in optimizers:
            self._found.add(optimizer)
        parts: list[object] = [policy, *self._found.tensors]
        if not _are_same(parts, self._looked_through[0]):  # to look is a good part of the time that all this takes
            self._looked_through = parts, [module for module in policy.modules() if module._buffers]
        for module in self._with_buffers:
            self._found.add(module._buffers)
        self._before.fill(self._found.tensors)

    def restore(self) -> None:
        """Make everything what it was at the last :meth:`keep`; gradients are gone."""
        for there, before in self._found.containers:
            _put_back(there, before)
        with th.no_grad():
            for tensor, copy in zip(self._found.tensors, self._before.copies, strict=True):
                if not th.equal(tensor, copy):
                    tensor.copy_(copy)
                if tensor.requires_grad:
                    tensor.grad = None

    def not_finite(self, policy: ActorCriticPolicy, optimizers: Sequence[th.optim.Optimizer]) -> list[str]:
        """The names of what is not finite now, or too large to be squared; a policy's buffers if they were finite."""
        tensors = [one for optimizer in optimizers for one in (*_parameters(optimizer), *_remembered_by(optimizer))]
        tensors += [one for module in self._with_buffers for one in module._buffers.values() if one is not None]
        large = [one.detach() for one in tensors if one.numel() > FEW]
        self._after.fill([one for one in tensors if one.numel() <= FEW])
        sums = self._before.squares() + self._after.squares() + [_squared(one) for one in large]
        rates = [float(group.get("lr", 0.0)) for optimizer in optimizers for group in optimizer.param_groups]
        if all(map(math.isfinite, (*rates, *(one.item() for one in sums)))):
            return []
        # Overflow makes a sum infinite too: each is looked at by itself
        return [*self._unsound(policy, optimizers)]

    def was_not_finite(self, policy: ActorCriticPolicy) -> list[str]:
        """The names of the policy's parameters that were not finite at the last :meth:`keep`."""
        copies, names = self._copy_of, {id(one): name for name, one in policy.named_parameters()}
        return [name for key, name in names.items() if key in copies and not _is_finite(copies[key])]

    def _unsound(self, policy: ActorCriticPolicy, optimizers: Sequence[th.optim.Optimizer]) -> Iterator[str]:
        names = {id(one): name for name, one in policy.named_parameters()}
        for optimizer in optimizers:
            if not all(math.isfinite(group.get("lr", 0.0)) for group in optimizer.param_groups):
                yield f"the learning rate of {type(optimizer).__name__}"  # a line search may have undone the step
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
    def _with_buffers(self) -> list[th.nn.Module]:
        return self._looked_through[1]

    @property
    def _copy_of(self) -> dict[int, th.Tensor]:
        return {id(tensor): copy for tensor, copy in zip(self._found.tensors, self._before.copies, strict=True)}


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
        elif isinstance(value, (dict, list, deque, th.optim.Optimizer)) and id(value) not in self._seen:
            self._seen.add(id(value))
            self._add_container(value)

    def _add_container(self, value: Any) -> None:
        if isinstance(value, th.optim.Optimizer):
            there = vars(value)
            inside: list[Any] = [value.param_groups, value.state]
            if len(there) > len(_of_every_optimizer()):  # a user's own, with attributes of its own
                inside += [one for name, one in there.items() if name not in _of_every_optimizer()]
        else:
            there = value
            inside = [*(there.values() if isinstance(there, dict) else there)]
        self.containers.append((there, there.copy()))
        for one in inside:
            if type(one) not in PLAIN:
                self.add(one)


@cache
def _of_every_optimizer() -> frozenset[str]:
    """Attributes that every optimizer has: of these, only the state and the groups change in a step.

    Asked of one when the first is at hand: to make one takes a second of imports.
    """
    return frozenset(vars(th.optim.SGD([th.zeros(())], lr=1.0)))


def _put_back(there: Any, before: Any) -> None:
    """Have a dictionary or a list hold what it held."""
    if isinstance(there, dict):
        there.update(before)  # first, so that an optimizer is never without its attributes
        for key in [key for key in there if key not in before]:
            del there[key]
    else:
        there.clear()
        there.extend(before)


class _Room:
    """Copies of some tensors. The small ones lie side by side, so that one call reads them all."""

    def __init__(self) -> None:
        #: The tensors, their copies, and tensors that hold all numbers of the copies between them. In one attribute: a
        #: Ctrl-C between two would leave a room for ever that fits no tensors.
        self._held: tuple[list[th.Tensor], list[th.Tensor], list[th.Tensor]] = ([], [], [])

    @property
    def copies(self) -> list[th.Tensor]:
        """As many as there were tensors."""
        return self._held[1]

    def fill(self, tensors: list[th.Tensor]) -> None:
        """Copy them; into the same room if it is the tensors of the last time."""
        if not (_are_same(tensors, self._held[0]) and _are_alike(tensors, self.copies)):
            self._held = (tensors, *_room_for(tensors))
        with th.no_grad():
            th._foreach_copy_(self.copies, tensors)

    def squares(self) -> list[th.Tensor]:
        """Sums of squares, scalars, which are finite only if every number that was copied is; they may overflow."""
        return [_squared(piece) for piece in self._held[2]]


def _room_for(tensors: list[th.Tensor]) -> tuple[list[th.Tensor], list[th.Tensor]]:
    """Tensors like these, and the pieces that they lie in if they hold numbers."""
    copies = [th.empty_like(one, requires_grad=False) for one in tensors]
    numbers = [place for place, one in enumerate(copies) if one.is_floating_point()]
    small = [place for place in numbers if copies[place].numel() <= FEW]
    pieces = [copies[place] for place in numbers if place not in small]
    for device, dtype in {(copies[place].device, copies[place].dtype) for place in small}:
        alike = [place for place in small if (copies[place].device, copies[place].dtype) == (device, dtype)]
        sizes = [copies[place].numel() for place in alike]
        flat = th.zeros(sum(sizes), device=device, dtype=dtype)
        for place, piece in zip(alike, flat.split(sizes), strict=True):
            copies[place] = piece.view(copies[place].shape)
        pieces.append(flat)
    return copies, pieces


def _squared(numbers: th.Tensor) -> th.Tensor:
    flat = numbers.reshape(-1)
    return th.dot(flat, flat)


def _is_finite(tensor: th.Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _parameters(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    return [one for group in optimizer.param_groups for one in group["params"]]


def _remembered_by(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    """What a user's own optimizer keeps of each number. PyTorch's keep what is finite after a finite gradient."""
    if type(optimizer).__module__.startswith("torch.optim."):
        return []
    return [one for state in optimizer.state.values() for one in state.values() if isinstance(one, th.Tensor)]


def _are_same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _are_alike(tensors: list[th.Tensor], others: list[th.Tensor]) -> bool:
    """Whether the first ones are: ``policy.double()`` changes all."""
    return not tensors or (tensors[0].dtype, tensors[0].device) == (others[0].dtype, others[0].device)
