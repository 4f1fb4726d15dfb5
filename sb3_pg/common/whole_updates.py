"""An update happens whole, or not at all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from sb3_pg.common.trainer import Trainer
from sb3_pg.data.distributed import any_worker

AnyTrainer = TypeVar("AnyTrainer", bound=Trainer)


def all_or_nothing(train: Callable[[AnyTrainer], None]) -> Callable[[AnyTrainer], None]:
    """Have a ``train()`` that fails, or ends in numbers that are not finite, leave everything as it was before.

    That is the policy's parameters and buffers, the optimizers, the model's own attributes, and the history. Of the
    rollout nothing is kept, nor of the episodes that it would have carried on: the next ``learn()`` begins new ones.

    :return: the same, with a ValueError for a result that is not finite
    """

    @functools.wraps(train)
    def whole_train(model: AnyTrainer) -> None:
        """See above."""
        holders = [vars(holder) for holder in model._changed_by_update]
        before, undo = [attributes.copy() for attributes in holders], model._undo
        undo.keep(model.policy, model._optimizers)
        try:
            train(model)
            _check_result(model)
        except BaseException as error:  # Ctrl-C too
            try:
                message = _in_words(error, model)
            finally:
                for attributes, were in zip(holders, before, strict=True):
                    attributes.update(were)
                    for name in attributes.keys() - were.keys():
                        del attributes[name]
                undo.restore()
                model.rollout_buffer.forget()
            if message is not None:
                raise ValueError(message) from error
            raise

    return whole_train


def _check_result(model: Trainer) -> None:
    """Refuse an update after which no other could follow; on all workers if on one."""
    names = model._undo.not_finite(model.policy, model._optimizers)
    if any_worker(bool(names)):
        raise ValueError(_of_result(names or ["something on another worker"], model))


def _in_words(error: BaseException, model: Trainer) -> str | None:
    """Where an error comes from, if it is PyTorch's and doesn't say so; asked before anything is put back."""
    if not isinstance(error, (ValueError, RuntimeError)):
        return None
    if names := model._undo.was_not_finite(model.policy):
        return (
            f"{_listed(names)} had values that are not finite before this update, which changed nothing: load the "
            "parameters that were saved last (set_parameters), or begin with a new model."
        )
    if names := model._undo.not_finite(model.policy, model._optimizers):
        return _of_result(names, model)
    if isinstance(error, RuntimeError) and "without overflow" in str(error):  # of a number that is no float32
        return _of_result(["a step"], model)
    return None


def _of_result(names: list[str], model: Trainer) -> str:
    rates = [
        f"{name} {float(group['lr']):g}"
        for name, optimizer in zip(("learning_rate", "value_learning_rate"), model._optimizers, strict=False)
        for group in optimizer.param_groups
        if "lr" in group
    ]
    return (
        f"With this update {_listed(names)} would not be finite, or too large to learn on "
        f"({', '.join(dict.fromkeys(rates))}). The update was undone, the model can be saved. Lower the rate, see that "
        "a schedule of it gives numbers, and that nothing has put NaN or infinity into an optimizer."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
