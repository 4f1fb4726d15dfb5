"""A quota of episodes is a quota of whole ones, of each environment the same number, whatever cuts the rollouts."""

from __future__ import annotations

import warnings
from functools import partial
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.data.batch import EpisodeBatch, IncompleteEpisodes
from tests.helpers.environments import DiaryEnv, diary
from tests.helpers.models import Algorithm, every_algorithm, make
from tests.helpers.recording import Batches, assert_whole, episodes_of
from tests.helpers.tabular import TabularEnv, long_episodes_pay

N_ENVS = 3
#: Of the first episodes of each environment; the last holds for all that follow.
LENGTHS = ((5,), (3, 9, 2, 7), (8, 1, 1, 4))

every_rule = pytest.mark.parametrize("incomplete_episodes", get_args(IncompleteEpisodes))


def unequal() -> DummyVecEnv:
    return DummyVecEnv([partial(DiaryEnv, index=i, lengths=lengths) for i, lengths in enumerate(LENGTHS)])


def arguments_of(incomplete_episodes: str) -> dict[str, Any]:
    """A critic where one is needed."""
    critic = {"baseline": "value"} if incomplete_episodes == "bootstrap" else {}
    return {"incomplete_episodes": incomplete_episodes} | critic


def played(batch: EpisodeBatch) -> dict[int, list[int]]:
    """The numbers of the episodes of each environment, each of which is all of its episode."""
    found: dict[int, list[int]] = {env: [] for env in range(N_ENVS)}
    for rows in episodes_of(batch):
        index, episode, _ = rows[0].astype(int).tolist()
        length = LENGTHS[index][min(episode, len(LENGTHS[index]) - 1)]
        assert rows.tolist() == [[index, episode, t] for t in range(length)]
        found[index].append(episode)
    return found


@every_rule
@pytest.mark.parametrize("n_steps", [3, 12, 40])
@pytest.mark.parametrize("per_env", [1, 2])
@every_algorithm
def test_a_quota_is_of_whole_episodes(
    algorithm: Algorithm, per_env: int, n_steps: int, incomplete_episodes: str
) -> None:
    """From the first step to the last, the same number of each environment, and the first ones that it played: what an
    environment plays while it waits for the others, or for the next quota, is all that is not used."""
    keep = Batches()
    model = make(
        algorithm, unequal(), n_steps=n_steps, n_episodes=per_env * N_ENVS, **arguments_of(incomplete_episodes)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_steps=3 ended before")
        model.learn(N_ENVS * 200, callback=keep)
    assert len(keep.updates) >= 5
    for batch in keep.updates:
        assert bool((batch.terminated | batch.truncated).all())
        assert batch.episodes.step[batch.episodes.first_row].tolist() == [0] * (per_env * N_ENVS)
        assert np.bincount(batch.env.numpy(), minlength=N_ENVS).tolist() == [per_env] * N_ENVS
    used = [played(batch) for batch in keep.updates]
    for env in range(N_ENVS):
        assert used[0][env] == list(range(per_env)), "not the first ones that it played"
        assert all(np.diff(one[env]).tolist() == [1] * (per_env - 1) for one in used), "one between them is lost"
    for one, following in pairwise(used):
        # The last to fill its quota went on at once: SB3's VecEnv had begun an episode, which the reset put away
        assert min(following[env][0] - one[env][-1] for env in range(N_ENVS)) <= 2
        assert all(following[env][0] > one[env][-1] for env in range(N_ENVS))


@every_algorithm
@pytest.mark.parametrize("n_steps", [3, 5, 12])
def test_carried_episodes_are_used_once_and_all(algorithm: Algorithm, n_steps: int) -> None:
    """Without a quota every episode that has ended is in one batch, and in no other."""
    keep = Batches()
    model = make(algorithm, unequal(), n_steps=n_steps, incomplete_episodes="carry")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No episode ended")
        model.learn(N_ENVS * n_steps * 20, callback=keep)
    used = [played(batch) for batch in keep.updates]
    for env in range(N_ENVS):
        episodes = [episode for one in used for episode in one[env]]
        assert episodes == list(range(len(episodes)))
    n_rows = sum(batch.n_rows for batch in keep.updates)
    assert n_rows + model.rollout_buffer.carried_steps == model.num_timesteps


@every_algorithm
@pytest.mark.parametrize("n_steps", [9, 12])
def test_what_drop_uses_is_whole(algorithm: Algorithm, n_steps: int) -> None:
    keep = Batches()
    make(algorithm, diary(N_ENVS), n_steps=n_steps, incomplete_episodes="drop").learn(N_ENVS * n_steps * 8, keep)
    assert keep.updates
    for batch in keep.updates:
        assert_whole(batch, (5,))
        assert bool((batch.terminated | batch.truncated).all())


@every_rule
@every_algorithm
def test_a_quota_that_is_never_filled_is_told(algorithm: Algorithm, incomplete_episodes: str) -> None:
    """An environment of endless episodes: one warning that names both arguments."""
    env = DummyVecEnv([partial(DiaryEnv, lengths=(5,)), partial(DiaryEnv, lengths=(None,), index=1)])
    model = make(algorithm, env, n_steps=8, n_episodes=2, **arguments_of(incomplete_episodes))
    with pytest.warns(UserWarning, match=r"n_steps=8 ended before.*n_episodes=2") as caught:
        model.learn(2 * 8 * 4)
    assert len(caught) == 1
    assert model._n_updates == 0


# Whose update it is does not matter here, and costs the time: all rules with the cheapest, two with the others.
QUOTAS: list[tuple[Algorithm, int, str]] = [
    (REINFORCE, n_steps, rule) for n_steps in (3, 16) for rule in get_args(IncompleteEpisodes)
]
QUOTAS += [(one, *case) for one in (VanillaPG, OffPolicyISPG) for case in ((3, "carry"), (16, "bootstrap"))]


@pytest.mark.parametrize(("algorithm", "n_steps", "incomplete_episodes"), QUOTAS)
def test_a_quota_does_not_favour_short_episodes(algorithm: Algorithm, n_steps: int, incomplete_episodes: str) -> None:
    """In an MDP where long episodes pay more, with a policy that stays as it is: mean length and mean return of the
    episodes used are the exact ones, to 5.2 standard errors.

    False alarms: 12 cases of two means, 24 * P(|z| > 5.2) = 5e-6. Power: of 16 environments that begin together the 16
    episodes that end first are 43 percent shorter, and 750 give the mean length to 2.6 percent, so that 20 percent are
    found with 99 percent probability, and 43 nearly for certain (16 standard errors).
    """
    mdp, n_envs = long_episodes_pay(), 16
    env = DummyVecEnv([partial(TabularEnv, mdp) for _ in range(n_envs)])
    keep = Batches()
    frozen = arguments_of(incomplete_episodes) | {"learning_rate": 0.0}
    model = make(algorithm, env, n_steps=n_steps, n_episodes=n_envs, gamma=1.0, **frozen)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_steps=3 ended before")
        model.learn(6800, callback=keep)
    with th.no_grad():
        distribution = model.policy.get_distribution(th.arange(mdp.n_states)).distribution
    assert isinstance(distribution, th.distributions.Categorical)
    theta = distribution.logits.double()
    lengths = np.concatenate([batch.episodes.lengths.numpy() for batch in keep.updates])
    returns = np.concatenate(
        [[batch.rewards[rows].sum().item() for rows in batch.each_episode()] for batch in keep.updates]
    )
    exact = (mdp.alive(theta).sum().item(), mdp.objective(theta, 1.0).item())
    assert len(lengths) > 750
    for sample, expected in zip((lengths, returns), exact, strict=True):
        assert abs(sample.mean() - expected) < 5.2 * sample.std() / len(sample) ** 0.5
