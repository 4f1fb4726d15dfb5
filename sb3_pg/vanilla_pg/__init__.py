"""VanillaPG and the names of its policies."""

from sb3_pg.vanilla_pg.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_pg.vanilla_pg.vanilla_pg import VanillaPG

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "VanillaPG"]
