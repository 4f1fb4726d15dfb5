"""Which policies the names stand for that the algorithms take, and which take masks in the place of others."""

from __future__ import annotations

from stable_baselines3.common.policies import BasePolicy

from sb3_pg.policies.actor import ActorCnnPolicy, ActorPolicy, MultiInputActorPolicy
from sb3_pg.policies.critic import (
    CriticCnnPolicy,
    CriticPolicy,
    MaskableCriticCnnPolicy,
    MaskableCriticPolicy,
    MaskableMultiInputCriticPolicy,
    MultiInputCriticPolicy,
)
from sb3_pg.policies.diffusion import (
    DiffusionActorCnnPolicy,
    DiffusionActorPolicy,
    DiffusionCriticCnnPolicy,
    DiffusionCriticPolicy,
    MultiInputDiffusionActorPolicy,
    MultiInputDiffusionCriticPolicy,
)
from sb3_pg.policies.maskable import MaskableActorCnnPolicy, MaskableActorPolicy, MaskableMultiInputActorPolicy
from sb3_pg.policies.sequence.attention import (
    AttentionActorCnnPolicy,
    AttentionActorPolicy,
    AttentionCriticCnnPolicy,
    AttentionCriticPolicy,
    MultiInputAttentionActorPolicy,
    MultiInputAttentionCriticPolicy,
)
from sb3_pg.policies.sequence.masked import (
    MaskableAttentionActorCnnPolicy,
    MaskableAttentionActorPolicy,
    MaskableAttentionCriticCnnPolicy,
    MaskableAttentionCriticPolicy,
    MaskableLstmActorCnnPolicy,
    MaskableLstmActorPolicy,
    MaskableLstmCriticCnnPolicy,
    MaskableLstmCriticPolicy,
    MaskableMultiInputAttentionActorPolicy,
    MaskableMultiInputAttentionCriticPolicy,
    MaskableMultiInputLstmActorPolicy,
    MaskableMultiInputLstmCriticPolicy,
)
from sb3_pg.policies.sequence.recurrent import (
    LstmActorCnnPolicy,
    LstmActorPolicy,
    LstmCriticCnnPolicy,
    LstmCriticPolicy,
    MultiInputLstmActorPolicy,
    MultiInputLstmCriticPolicy,
)

#: Where no critic is learned.
WITHOUT_CRITIC: dict[str, type[BasePolicy]] = {
    "MlpPolicy": ActorPolicy,
    "CnnPolicy": ActorCnnPolicy,
    "MultiInputPolicy": MultiInputActorPolicy,
    "MlpLstmPolicy": LstmActorPolicy,
    "CnnLstmPolicy": LstmActorCnnPolicy,
    "MultiInputLstmPolicy": MultiInputLstmActorPolicy,
    "MlpAttentionPolicy": AttentionActorPolicy,
    "CnnAttentionPolicy": AttentionActorCnnPolicy,
    "MultiInputAttentionPolicy": MultiInputAttentionActorPolicy,
    "MlpDiffusionPolicy": DiffusionActorPolicy,
    "CnnDiffusionPolicy": DiffusionActorCnnPolicy,
    "MultiInputDiffusionPolicy": MultiInputDiffusionActorPolicy,
}
#: Where one is.
WITH_CRITIC: dict[str, type[BasePolicy]] = {
    "MlpPolicy": CriticPolicy,
    "CnnPolicy": CriticCnnPolicy,
    "MultiInputPolicy": MultiInputCriticPolicy,
    "MlpLstmPolicy": LstmCriticPolicy,
    "CnnLstmPolicy": LstmCriticCnnPolicy,
    "MultiInputLstmPolicy": MultiInputLstmCriticPolicy,
    "MlpAttentionPolicy": AttentionCriticPolicy,
    "CnnAttentionPolicy": AttentionCriticCnnPolicy,
    "MultiInputAttentionPolicy": MultiInputAttentionCriticPolicy,
    "MlpDiffusionPolicy": DiffusionCriticPolicy,
    "CnnDiffusionPolicy": DiffusionCriticCnnPolicy,
    "MultiInputDiffusionPolicy": MultiInputDiffusionCriticPolicy,
}
MASKABLE: dict[type[BasePolicy], type[BasePolicy]] = {
    ActorPolicy: MaskableActorPolicy,
    ActorCnnPolicy: MaskableActorCnnPolicy,
    MultiInputActorPolicy: MaskableMultiInputActorPolicy,
    CriticPolicy: MaskableCriticPolicy,
    CriticCnnPolicy: MaskableCriticCnnPolicy,
    MultiInputCriticPolicy: MaskableMultiInputCriticPolicy,
    LstmActorPolicy: MaskableLstmActorPolicy,
    LstmActorCnnPolicy: MaskableLstmActorCnnPolicy,
    MultiInputLstmActorPolicy: MaskableMultiInputLstmActorPolicy,
    LstmCriticPolicy: MaskableLstmCriticPolicy,
    LstmCriticCnnPolicy: MaskableLstmCriticCnnPolicy,
    MultiInputLstmCriticPolicy: MaskableMultiInputLstmCriticPolicy,
    AttentionActorPolicy: MaskableAttentionActorPolicy,
    AttentionActorCnnPolicy: MaskableAttentionActorCnnPolicy,
    MultiInputAttentionActorPolicy: MaskableMultiInputAttentionActorPolicy,
    AttentionCriticPolicy: MaskableAttentionCriticPolicy,
    AttentionCriticCnnPolicy: MaskableAttentionCriticCnnPolicy,
    MultiInputAttentionCriticPolicy: MaskableMultiInputAttentionCriticPolicy,
}


def maskable(policy_class: type[BasePolicy]) -> type[BasePolicy]:
    """The policy's maskable relative; the class itself where it has none."""
    return MASKABLE.get(policy_class, policy_class)
