"""The RL Zoo with our algorithms: ``pip install "sb3-pg[zoo]"``.

Not imported by ``import sb3_pg``, since importing rl_zoo3 changes Gymnasium's TimeLimit.
"""

from sb3_pg.zoo.configs import config_path
from sb3_pg.zoo.registration import register

__all__ = ["config_path", "register"]
