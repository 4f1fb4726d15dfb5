"""An LSTM a step at a time: PyTorch's kernel for sequences takes longer to begin than a small step takes."""

from __future__ import annotations

import torch as th
from torch import nn

#: Hidden and cell states of one LSTM, ``(n_layers, n, size)`` each.
States = tuple[th.Tensor, th.Tensor]
_FORWARD = nn.LSTM.forward


def is_plain(lstm: nn.LSTM) -> bool:
    """Whether it is one LSTM after another, each with its whole hidden state as output."""
    return not (lstm.bidirectional or lstm.batch_first or lstm.proj_size)


def steps_through_cells(lstm: nn.LSTM) -> bool:
    """Whether a step can go through its cells: on the CPU, without a gradient, and where it is a plain one.

    Not where somebody listens to its passes, or has put something else in their place.
    """
    return (
        type(lstm) is nn.LSTM
        and lstm.weight_ih_l0.device.type == "cpu"
        and not (th.is_grad_enabled() or th.is_autocast_enabled("cpu"))
        and is_plain(lstm)
        and not (lstm.dropout and lstm.training)
        and not (lstm._forward_pre_hooks or lstm._forward_hooks or nn.modules.module._has_any_global_hook())
        and lstm.forward == _FORWARD.__get__(lstm)
    )


def through_cells(lstm: nn.LSTM, features: th.Tensor, states: States) -> tuple[th.Tensor, States]:
    """One step, layer by layer.

    :param features: ``(n, input_size)``
    :return: ``(n, hidden_size)`` and the states after it
    """
    hidden, cell, said = [], [], features
    for layer, parameters in enumerate(lstm.all_weights):
        said, state = th.lstm_cell(said, (states[0][layer], states[1][layer]), *parameters)
        hidden.append(said)
        cell.append(state)
    return said, (th.stack(hidden), th.stack(cell))
