"""What becomes of an environment that is done.

Gymnasium resets it in one of three ways, and SB3 knows one: the step that ends an episode returns the first observation
of the next. What gets there is a reset of the environments that are done and of no other, which Gymnasium calls a
masked reset. An environment in NEXT_STEP mode that cannot do it spends one of its own steps on the reset, while the
others go on; as SB3 has no transition without an action, that step would reach the learner as a transition that never
was. Such an environment is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

if TYPE_CHECKING:
    AnyVectorWrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    AnyVectorWrapper = VectorWrapper  # generic since Gymnasium 1.4


class CartPoles(AnyVectorWrapper):
    """Gymnasium's vector CartPole, with the masked reset that it lacks.

    It draws what the environment itself would have drawn in its next step, and in the same order.
    """

    def __init__(self, env: CartPoleVectorEnv) -> None:
        super().__init__(env)
        self.poles: Any = env
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.DISABLED}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]``."""
        mask = None if options is None else options.get("reset_mask")
        if mask is None:
            return super().reset(seed=seed, options=options)
        poles = self.poles
        poles.state[:, mask] = poles.np_random.uniform(low=poles.low, high=poles.high, size=(4, mask.sum()))
        poles.steps[mask] = 0
        poles.prev_done[mask] = False
        return poles.state.T.astype(np.float32), {}


def autoreset_mode_of(vector_env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """What the environment says of itself."""
    metadata, base = vector_env.metadata, vector_env.unwrapped
    if metadata is base.metadata and hasattr(base, "autoreset_mode"):
        # Better than the metadata, which many may share: ale-py 0.12 writes to those of the class VectorEnv,
        # Gymnasium 1.1 to those of the class of the single environments.
        given = base.autoreset_mode
    else:
        # Gymnasium's documentation: NEXT_STEP is the default
        own = {} if metadata is VectorEnv.metadata else metadata
        given = own.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    try:
        return AutoresetMode(given)
    except ValueError as error:
        raise ValueError(
            f"metadata['autoreset_mode'] of {vector_env} must be a gymnasium.vector.AutoresetMode, got {given!r}"
        ) from error


def with_masked_reset(vector_env: VectorEnv[Any, Any, Any]) -> tuple[VectorEnv[Any, Any, Any], bool]:
    """An environment that resets those that are done and no other, and whether it does so by itself.

    :raises ValueError: if it cannot
    """
    mode = autoreset_mode_of(vector_env)
    if mode is not AutoresetMode.NEXT_STEP:
        return vector_env, mode is AutoresetMode.SAME_STEP
    if type(vector_env) is CartPoleVectorEnv:
        return CartPoles(vector_env), False
    if type(vector_env) is SyncVectorEnv:
        return vector_env, False
    # Without shared memory, its workers forget that they have been reset already.
    if type(vector_env) is AsyncVectorEnv and vector_env.shared_memory and vector_env.worker is None:
        return vector_env, False
    wrapped = isinstance(vector_env, VectorWrapper)
    problem = "a wrapper around it counts on that" if wrapped else "it has no other reset"
    instead = AutoresetMode.SAME_STEP if wrapped else AutoresetMode.DISABLED
    raise ValueError(
        f"{vector_env} resets an environment in the step after its last (autoreset_mode=NEXT_STEP, Gymnasium's "
        f"default), which for SB3 would be a step that never was, and {problem}: write "
        f"gymnasium.make_vec(env_id, num_envs, vectorization_mode='sync', vector_kwargs={{'autoreset_mode': "
        f"{instead.value!r}}}) (or 'async'); or make_vec_env(..., backend='dummy'); or, in an environment of your own, "
        "give reset(options={'reset_mask': mask}) and set metadata['autoreset_mode'] = AutoresetMode.DISABLED"
    )
