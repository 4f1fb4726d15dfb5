"""The one seam through which goes whatever the workers of a data-parallel run share: sums, counts, decisions.

Workers are the processes of ``torch.distributed``, each with its own environments and a copy of the model. They make
each update together, on the union of their batches: a gradient is the sum of theirs, a mean is one over the rows of
all, and what depends on such a number (to stop, to halve a step, to raise an error) is the same for each. Without a
process group, or in one of a single process, every function here gives back what it is given.

All workers must come to the same calls in the same order. So a worker that has nothing of its own to add, no episode or
no minibatch left, adds nothing with the same calls: a batch of no rows goes the way of any other.

No gradient flows through a sum over workers. Counts and decisions are tensors of the CPU, so the process group must
take those as well as the device's own (as PyTorch's default backend does).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from torch import distributed


def has_peers() -> bool:
    """Whether this process is one of several workers."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def all_sum(tensor: th.Tensor) -> th.Tensor:
    """Sum of the tensor over all workers, of the same shape on each; without a gradient where there are several."""
    return _reduced(tensor, distributed.ReduceOp.SUM) if has_peers() else tensor


def ragged_sum(tensor: th.Tensor) -> th.Tensor:
    """Sum of vectors whose lengths may differ between workers, as if the shorter ones went on with zeros.

    :param tensor: ``(n,)``, or a scalar, which is summed as it is
    :return: ``(n,)``: as much of the sum as this worker's vector is long
    """
    if tensor.ndim == 0 or not has_peers():
        return all_sum(tensor)
    padded = tensor.new_zeros(most(len(tensor)))
    padded[: len(tensor)] = tensor.detach()
    return all_sum(padded)[: len(tensor)]


def all_max(values: th.Tensor) -> th.Tensor:
    """The largest of the values of all workers; minus infinity where none has any.

    :param values: ``(n,)``
    :return: scalar
    """
    own = values.max() if values.numel() > 0 else values.new_tensor(-math.inf)
    return _reduced(own, distributed.ReduceOp.MAX) if has_peers() else own


def all_mean(values: th.Tensor) -> th.Tensor:
    """Mean of the values of all workers, of which some may have none.

    :param values: ``(n,)``
    :return: scalar
    """
    return all_sum(values.sum()) / all_count(values.numel())


def all_count(number: int) -> int:
    """Sum of a number over all workers."""
    return int(all_sum(th.tensor(number))) if has_peers() else number


def most(number: int) -> int:
    """The largest of the workers' numbers."""
    return int(_reduced(th.tensor(number), distributed.ReduceOp.MAX)) if has_peers() else number


def any_worker(fact: bool) -> bool:
    """Whether something is true of one worker at least."""
    return most(int(fact)) > 0


@contextmanager
def failing_together() -> Iterator[None]:
    """Make a ValueError on one worker one on each, so that none waits for a worker that has given up.

    There must be no sum over workers inside.
    """
    error: ValueError | None = None
    try:
        yield
    except ValueError as found:
        error = found
    if any_worker(error is not None):
        raise error or ValueError("Another worker could not go on: its own error says why.")


@contextmanager
def same_random_numbers(device: th.device) -> Iterator[None]:
    """Let PyTorch draw the same numbers on all workers, from a seed of all their generators."""
    if not has_peers():
        yield
        return
    seed = all_count(int(th.randint(2**31, ())))
    with th.random.fork_rng([device] if device.type == "cuda" else []):
        th.manual_seed(seed)
        yield


def sum_gradients(optimizer: th.optim.Optimizer) -> None:
    """Sum the gradients of an optimizer's parameters over all workers, in place.

    In one vector, so that a parameter without a gradient on this worker has its place in it all the same; one that has
    none on any stays without.
    """
    if not has_peers():
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not parameters:
        return
    gradients = [th.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    present = gradients[0].new_tensor([float(one.grad is not None) for one in parameters])
    total = all_sum(th.cat([*(gradient.flatten() for gradient in gradients), present]))
    *sums, present = total.split([*(one.numel() for one in parameters), len(parameters)])
    for parameter, value, is_present in zip(parameters, sums, present.tolist(), strict=True):
        if is_present:
            parameter.grad = value.view_as(parameter).to(parameter.dtype)


def _reduced(tensor: th.Tensor, how: distributed.ReduceOp.RedOpType) -> th.Tensor:
    total = tensor.detach().clone(memory_format=th.contiguous_format)
    distributed.all_reduce(total, how)
    return total


def mean_and_std(values: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Mean and (unbiased) standard deviation over all workers; a deviation of 0 for a single value.

    :param values: ``(n,)``
    :return: two scalars
    """
    n = all_sum(values.new_tensor(float(values.numel())))
    mean = all_sum(values.sum()) / n
    variance = all_sum((values - mean).square().sum()) / (n - 1).clamp(min=1)
    return mean, variance.sqrt()


def shift_and_scale(advantages: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """What advantages are shifted by and divided by, to have mean 0 and deviation 1.

    Where there is one alone, 0 and 1: as in SB3's PPO it stays as it is. Where none differs from another there is
    nothing to learn, and the scale is infinite.

    :param advantages: ``(n,)``
    :return: two scalars
    """
    mean, std = mean_and_std(advantages)
    if all_count(advantages.numel()) == 1:
        return th.zeros_like(mean), th.ones_like(std)
    return mean, th.where(std > 0, std + 1e-8, math.inf)
