"""The policies that REINFORCE's aliases stand for, when no critic is learned."""

from sb3_pg.policies.actor import ActorCnnPolicy, ActorPolicy, MultiInputActorPolicy

MlpPolicy = ActorPolicy
CnnPolicy = ActorCnnPolicy
MultiInputPolicy = MultiInputActorPolicy
