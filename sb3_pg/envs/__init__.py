"""Vector environments of other libraries, as Stable-Baselines3's VecEnv."""

from sb3_pg.envs.make import make_vec_env
from sb3_pg.envs.tokens import TokenEnv, TokenVectorEnv
from sb3_pg.envs.vector import GymnasiumVecEnv

__all__ = ["GymnasiumVecEnv", "TokenEnv", "TokenVectorEnv", "make_vec_env"]
