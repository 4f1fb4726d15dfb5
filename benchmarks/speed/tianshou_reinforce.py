"""Tianshou's REINFORCE, where it is installed, on the same task."""

from __future__ import annotations

import time
from importlib import import_module
from importlib.util import find_spec

import gymnasium as gym
from torch import nn

from benchmarks.speed.timing import Rate


def has_tianshou() -> bool:
    """Whether Tianshou 2, whose interface this is written for, can be imported."""
    return find_spec("tianshou") is not None and find_spec("tianshou.algorithm") is not None


def learning_tianshou(env_id: str, n_envs: int, n_steps: int, n_rollouts: int) -> Rate:
    """Environment steps per second of its training, without evaluations, on its own vector environment.

    :param n_steps: of each environment, an update
    """
    data, nets = import_module("tianshou.data"), import_module("tianshou.utils.net.common")
    reinforce = import_module("tianshou.algorithm.modelfree.reinforce")
    trainer, optim = import_module("tianshou.trainer"), import_module("tianshou.algorithm.optim")
    env = gym.make(env_id)
    net = nets.Net(state_shape=env.observation_space.shape, hidden_sizes=(64, 64), activation=nn.Tanh)
    actor = import_module("tianshou.utils.net.discrete").DiscreteActor(
        preprocess_net=net,
        action_shape=env.action_space.n,  # type: ignore[attr-defined]  # a Discrete space
        softmax_output=False,
    )
    policy = reinforce.DiscreteActorPolicy(
        actor=actor, action_space=env.action_space, observation_space=env.observation_space
    )
    algorithm = reinforce.Reinforce(policy=policy, optim=optim.AdamOptimizerFactory(lr=1e-3))
    vector_env = import_module("tianshou.env").DummyVectorEnv([lambda: gym.make(env_id)] * n_envs)
    steps_of_rollout = n_steps * n_envs
    buffer = data.VectorReplayBuffer(steps_of_rollout, n_envs)
    params = trainer.OnPolicyTrainerParams(
        training_collector=data.Collector(algorithm, vector_env, buffer),
        max_epochs=1,
        epoch_num_steps=n_rollouts * steps_of_rollout,
        collection_step_num_env_steps=steps_of_rollout,
        batch_size=None,
        verbose=False,
        show_progress=False,
    )

    def rate() -> float:
        started = time.perf_counter()
        algorithm.run_training(params)
        return n_rollouts * steps_of_rollout / (time.perf_counter() - started)

    return rate
