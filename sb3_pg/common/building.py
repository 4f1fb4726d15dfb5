"""What buffer and policy are built with: refused where it cannot be meant, named where they cannot be built with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from sb3_pg.data.checks import check_bool, check_positive_int, is_number

SWITCHES = ("ortho_init", "full_std", "use_expln", "squash_output", "share_features_extractor", "normalize_images")
#: Widths of the layers of SB3's policies, unless told otherwise.
DEFAULT_NET_ARCH = (64, 64)


class NotBuiltTypeError(ValueError, TypeError):
    """A ValueError of ours where SB3 has a TypeError, which a program may wait for."""


class NotBuiltAssertionError(ValueError, AssertionError):
    """A ValueError of ours where SB3 has an AssertionError."""


BOTH: dict[type[Exception], type[ValueError]] = {TypeError: NotBuiltTypeError, AssertionError: NotBuiltAssertionError}


def check_policy_kwargs(policy_class: type[Any], policy_kwargs: Mapping[str, Any], device: th.device) -> None:
    """Refuse what SB3's policies would take for something else, or fail on at the first step of the optimizer.

    A policy with a constructor of its own may mean anything by these names, and is left to say so itself.

    :raises ValueError: naming policy_kwargs, the entry, what was given and what is valid
    """
    home = getattr(policy_class.__init__, "__module__", "").partition(".")[0]
    if home not in ("stable_baselines3", "sb3_contrib", "sb3_pg"):
        return
    for name in SWITCHES:
        if name in policy_kwargs:
            check_bool(f"policy_kwargs[{name!r}]", policy_kwargs[name])
    scale = policy_kwargs.get("log_std_init", 0.0)
    if not is_number(scale) or not math.isfinite(scale):
        raise ValueError(f"policy_kwargs['log_std_init'] must be a finite number, got {scale!r}")
    widths = _widths(policy_kwargs)
    if "activation_fn" in policy_kwargs and widths:
        _try_activation(policy_kwargs["activation_fn"], widths[0])
    if "optimizer_class" in policy_kwargs or policy_kwargs.get("optimizer_kwargs") is not None:
        kwargs = policy_kwargs.get("optimizer_kwargs")
        _try_optimizer(policy_kwargs.get("optimizer_class", th.optim.Adam), {} if kwargs is None else kwargs, device)


def _widths(policy_kwargs: Mapping[str, Any]) -> list[int]:
    """Of the layers, all nets one after the other."""
    net_arch = policy_kwargs.get("net_arch")
    if isinstance(net_arch, list) and len(net_arch) == 1 and isinstance(net_arch[0], dict):
        net_arch = net_arch[0]  # SB3's old way to write it, about which it warns
    if net_arch is None:
        is_cnn = policy_kwargs.get("features_extractor_class") is NatureCNN
        return [] if is_cnn else list(DEFAULT_NET_ARCH)
    nets = net_arch if isinstance(net_arch, dict) else {"pi": net_arch}
    is_sound = nets.keys() <= {"pi", "vf"} and all(map(_is_row, nets.values()))
    widths = [width for net in nets.values() for width in net] if is_sound else []
    try:
        for width in widths:
            check_positive_int("a width", width)
    except ValueError:
        is_sound = False
    if not is_sound:
        raise ValueError(
            "policy_kwargs['net_arch'] must be a list of the layers' widths, [64, 64] say, or a dictionary of such, "
            f"dict(pi=[64, 64], vf=[64, 64]), got {net_arch!r}"
        )
    return widths


def _is_row(net: object) -> bool:
    if isinstance(net, np.ndarray):
        return net.ndim == 1
    return isinstance(net, Sequence) and not isinstance(net, (str, bytes))


def _try_activation(activation_fn: Any, width: int) -> None:
    """Refuse an activation that is none: from ``(n, width)`` features to as many."""
    try:
        with th.no_grad():
            shape = activation_fn().eval()(th.zeros(2, width)).shape
        error: Exception | None = (
            None if shape == (2, width) else ValueError(f"it makes {tuple(shape)} of {(2, width)}")
        )
    except Exception as found:
        error = found
    if error is not None:
        raise ValueError(
            "policy_kwargs['activation_fn'] must be a class of activations, torch.nn.Tanh say, got "
            f"{activation_fn!r}: {error}"
        ) from error


def _try_optimizer(optimizer_class: Any, optimizer_kwargs: Any, device: th.device) -> None:
    """Refuse an optimizer that cannot be made, or cannot make a step as SB3's algorithms do."""
    parameter = nn.Parameter(th.zeros(2, 2, device=device))
    parameter.grad = th.zeros_like(parameter)
    try:
        if infinite := [
            key for key, value in optimizer_kwargs.items() if is_number(value) and not math.isfinite(value)
        ]:
            raise ValueError(f"{', '.join(infinite)} must be finite")
        optimizer_class([parameter], lr=0.0, **optimizer_kwargs).step()
    except Exception as error:
        raise ValueError(
            "policy_kwargs['optimizer_class'] must be an optimizer of PyTorch's that takes policy_kwargs"
            "['optimizer_kwargs'] and steps without a closure, torch.optim.Adam say, got "
            f"{optimizer_class!r} and {optimizer_kwargs!r}: {error}"
        ) from error


@contextmanager
def naming_what_fails(
    model: OnPolicyAlgorithm, policy_class: type[Any], rollout_buffer_kwargs: Mapping[str, Any]
) -> Iterator[None]:
    """Say of what arguments the buffer, which SB3 makes first, or the policy could not be built.

    The error of a policy that is given no arguments is its own.
    """
    try:
        yield
    except Exception as error:
        if getattr(model, "rollout_buffer", None) is None:
            kind: Any = model.rollout_buffer_class
            what = f"rollout_buffer_class={kind.__name__} cannot be built with n_steps={model.n_steps}"
            what += f" and rollout_buffer_kwargs={rollout_buffer_kwargs}" if rollout_buffer_kwargs else ""
        elif model.policy_kwargs:
            what = f"policy={policy_class.__name__} cannot be built with policy_kwargs={model.policy_kwargs}"
        else:
            raise
        kind = next((ours for theirs, ours in BOTH.items() if isinstance(error, theirs)), ValueError)
        raise kind(f"{what}: {type(error).__name__}: {error}") from error
