"""OffPolicyISPG and the names of its policies."""

from sb3_pg.off_policy_ispg.off_policy_ispg import OffPolicyISPG
from sb3_pg.off_policy_ispg.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "OffPolicyISPG"]
