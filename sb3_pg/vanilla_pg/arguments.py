"""Which of VanillaPG's own arguments are valid, alone and together."""

from __future__ import annotations

import torch as th

from sb3_pg.data.checks import check_bool, check_int, check_not_negative, check_positive, check_positive_int, is_number


def check_natural_gradient(
    natural_gradient: object,
    cg_max_steps: object,
    cg_damping: object,
    target_kl: object,
    line_search_max_iter: object,
    line_search_shrinking_factor: object,
    optimizer_class: object,
) -> None:
    """Refuse numbers out of range, and a bound on steps that are not scaled to it.

    :param optimizer_class: of the actor
    """
    check_bool("natural_gradient", natural_gradient)
    check_positive_int("cg_max_steps", cg_max_steps)
    check_not_negative("cg_damping", cg_damping)
    check_positive("target_kl", target_kl, or_none="steps that are not scaled")
    check_int("line_search_max_iter", line_search_max_iter, 0)
    factor = line_search_shrinking_factor
    if not is_number(factor) or not 0 < factor < 1:
        raise ValueError(f"line_search_shrinking_factor must be a number between 0 and 1, got {factor!r}")
    if target_kl is None:
        return
    if not natural_gradient:
        raise ValueError(
            f"target_kl={target_kl} is the length of a natural step, and VanillaPG takes plain ones: write "
            "natural_gradient=True too, or OffPolicyISPG, whose several steps a bound stops"
        )
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, th.optim.SGD)):
        raise ValueError(
            f"target_kl={target_kl} is the length of a step, which optimizer_class={optimizer_class!r} would change: "
            "leave it out of policy_kwargs, or leave out target_kl"
        )
