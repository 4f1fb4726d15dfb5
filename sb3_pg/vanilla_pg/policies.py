"""The policies that VanillaPG's aliases stand for when a critic is learned: SB3's."""

from sb3_pg.policies.critic import CriticCnnPolicy, CriticPolicy, MultiInputCriticPolicy

MlpPolicy = CriticPolicy
CnnPolicy = CriticCnnPolicy
MultiInputPolicy = MultiInputCriticPolicy
