"""Policy gradients for Stable-Baselines3."""

from importlib.metadata import PackageNotFoundError, version

from sb3_pg.checkpoints import ResumeCallback, has_checkpoint
from sb3_pg.envs import GymnasiumVecEnv, make_vec_env
from sb3_pg.off_policy_ispg import OffPolicyISPG
from sb3_pg.policies.actor import ActorCnnPolicy, ActorPolicy, MultiInputActorPolicy
from sb3_pg.policies.maskable import MaskableActorCnnPolicy, MaskableActorPolicy, MaskableMultiInputActorPolicy
from sb3_pg.reinforce import REINFORCE
from sb3_pg.rollout.buffers import EpisodeDictRolloutBuffer, EpisodeRolloutBuffer
from sb3_pg.vanilla_pg import VanillaPG

try:
    __version__ = version("sb3_pg")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "REINFORCE",
    "ActorCnnPolicy",
    "ActorPolicy",
    "EpisodeDictRolloutBuffer",
    "EpisodeRolloutBuffer",
    "GymnasiumVecEnv",
    "MaskableActorCnnPolicy",
    "MaskableActorPolicy",
    "MaskableMultiInputActorPolicy",
    "MultiInputActorPolicy",
    "OffPolicyISPG",
    "ResumeCallback",
    "VanillaPG",
    "has_checkpoint",
    "make_vec_env",
]
