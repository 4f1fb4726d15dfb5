"""What a step carries beside its observation, by name: the *extras* of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch as th
from sb3_contrib.common.maskable.utils import EXPECTED_METHOD_NAME

#: Which actions are allowed, under sb3-contrib's name for the environments' method and the policies' argument.
ACTION_MASKS = EXPECTED_METHOD_NAME


def absent(name: str) -> bool | int:
    """What stands for an extra at a step that was taken without it, by another kind of policy.

    Without a mask everything was allowed. Of anything else there is nothing.
    """
    return True if name == ACTION_MASKS else 0


def joined_extras(extras: Sequence[Mapping[str, th.Tensor]], n_rows: Sequence[int]) -> dict[str, th.Tensor]:
    """The extras of several batches one after the other, of rows or of episodes; what one lacks is :func:`absent`.

    :param extras: name -> ``(n_rows, ...)`` of each
    :param n_rows: of each
    """
    kinds = {name: tensor for one in extras for name, tensor in one.items()}
    return {
        name: th.cat(
            [
                one[name] if name in one else kind.new_full((n, *kind.shape[1:]), absent(name))
                for one, n in zip(extras, n_rows, strict=True)
            ]
        )
        for name, kind in kinds.items()
    }
