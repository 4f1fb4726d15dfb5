"""Our algorithms under the RL Zoo's names."""

from __future__ import annotations

from rl_zoo3 import hyperparams_opt
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pg.off_policy_ispg import OffPolicyISPG
from sb3_pg.reinforce import REINFORCE
from sb3_pg.vanilla_pg import VanillaPG
from sb3_pg.zoo import search_spaces

#: The Zoo's id of each of our algorithms.
OURS: dict[str, type[BaseAlgorithm]] = {
    "reinforce": REINFORCE,
    "vanillapg": VanillaPG,
    "offpolicyispg": OffPolicyISPG,
}
SAMPLERS: dict[str, search_spaces.Sampler] = {
    "reinforce": search_spaces.sample_reinforce,
    "vanillapg": search_spaces.sample_vanillapg,
    "offpolicyispg": search_spaces.sample_offpolicyispg,
}
CONVERTERS: dict[str, search_spaces.Converter] = {
    "reinforce": search_spaces.convert_reinforce,
    "vanillapg": search_spaces.convert_vanillapg,
    "offpolicyispg": search_spaces.convert_offpolicyispg,
}


def register() -> None:
    """See :func:`sb3_pg.zoo.register`."""
    ALGOS.update(OURS)
    hyperparams_opt.HYPERPARAMS_SAMPLER.update(SAMPLERS)
    hyperparams_opt.HYPERPARAMS_CONVERTER.update(CONVERTERS)
