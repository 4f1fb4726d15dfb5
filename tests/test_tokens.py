"""Sequences of tokens as environments, alone and many at once; what their prompts and groups are good for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_sb3_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE, GymnasiumVecEnv
from sb3_pg.envs import TokenEnv, TokenVectorEnv
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.estimators.baselines import group_leave_one_out, leave_one_out
from sb3_pg.imitation import clone
from sb3_pg.policies.sequence.tokens import TokenTransformer
from sb3_pg.rollout.credit import groups_of
from tests.helpers.models import every_algorithm, make
from tests.helpers.recording import Batches

PROMPTS = [(0, 1), (2,), (3, 3, 3)]
TASK: dict[str, Any] = {"n_tokens": 5, "max_tokens": 4, "prompts": PROMPTS, "end_token": 4}


def sum_of(prompt: tuple[int, ...], completion: tuple[int, ...]) -> float:
    """A reward that knows the prompt."""
    return 10.0 * len(prompt) + sum(completion)


# The environments


def test_an_episode_by_hand() -> None:
    env = TokenEnv(reward_model=sum_of, **TASK | {"prompts": [(2, 1)], "context_length": 4})
    check_env(env, skip_render_check=True)
    check_sb3_env(env)
    observed, _ = env.reset(seed=0)
    assert observed.tolist() == [5, 5, 2, 1]
    assert [env.step(token)[:4] for token in (3, 0)][-1][1:] == (0.0, False, False)
    observed, reward, terminated, truncated, infos = env.step(4)
    assert observed.tolist() == [1, 3, 0, 4] and (reward, terminated, truncated) == (27.0, True, False)
    assert infos == {"prompt": (2, 1), "completion": (3, 0, 4)}
    env.reset()
    ends = [env.step(0)[2] for _ in range(4)]
    assert ends == [False, False, False, True]


def test_numbers_and_arrays_of_numpy() -> None:
    numbers = {
        "n_tokens": np.int64(5),
        "max_tokens": np.int32(2),
        "context_length": np.int64(3),
        "end_token": np.int64(4),
    }
    env = TokenEnv(reward_model=sum_of, prompts=np.array([[1, 2], [3, 4]]), **numbers)  # type: ignore[arg-type]
    check_sb3_env(env)
    env.reset(seed=0)
    assert env.step(np.int64(4))[2] is True
    TokenVectorEnv(np.int64(2), reward_model=sum_of, prompts=np.array([[1]]), **numbers).reset()  # type: ignore[arg-type]


def test_the_whole_context_is_seen_unless_told_otherwise() -> None:
    env = TokenEnv(reward_model=sum_of, **TASK)
    assert env.observation_space.shape == (6,)  # the longest prompt, and all tokens but the last


@given(n_envs=st.integers(1, 3), group_size=st.integers(1, 3), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=20, deadline=None)
def test_many_at_once_are_as_one_by_one(n_envs: int, group_size: int, seed: int, data: st.DataObject) -> None:
    """From the same prompts and tokens the same observations, rewards and ends; a group has one prompt."""
    n = n_envs * group_size
    many = GymnasiumVecEnv(TokenVectorEnv(n, reward_model=sum_of, group_size=group_size, **TASK))
    many.seed(seed)
    observed: Any = many.reset()
    prompts: list[list[tuple[int, ...]]] = [[] for _ in range(n)]
    alone: list[Any] = [None] * n
    for env in range(n):
        alone[env] = []
    for _ in range(12):
        before = np.array(observed)
        actions = np.array([data.draw(st.integers(0, 4)) for _ in range(n)])
        observed, rewards, dones, infos = many.step(actions)
        for env in range(n):
            task = TokenEnv(reward_model=sum_of, **TASK).task
            if not alone[env]:
                shown = [token for token in before[env].tolist() if token != 5]
                prompts[env].append(tuple(shown))
                assert tuple(shown) in PROMPTS
            alone[env].append(int(actions[env]))
            prompt = prompts[env][-1]
            assert dones[env] == (len(alone[env]) == 4 or actions[env] == 4)
            assert rewards[env] == (sum_of(prompt, tuple(alone[env])) if dones[env] else 0.0)
            last = infos[env]["terminal_observation"] if dones[env] else observed[env]
            assert last.tolist() == task.observed(prompt, alone[env]).tolist()
            if dones[env]:
                assert infos[env]["prompt"] == prompt and infos[env]["completion"] == tuple(alone[env])
                alone[env] = []
    for first in range(0, n, group_size):
        group = [prompts[env] for env in range(first, first + group_size)]
        shortest = min(map(len, group))
        assert all(one[:shortest] == group[0][:shortest] for one in group)


def test_a_seed_gives_the_same_prompts_and_another_gives_others() -> None:
    def played(seed: int) -> list[Any]:
        env = GymnasiumVecEnv(TokenVectorEnv(6, reward_model=sum_of, **TASK))
        env.seed(seed)
        seen: list[Any] = [np.array(env.reset()).tolist()]
        for _ in range(20):
            seen.append(np.array(env.step(np.full(6, 4))[0]).tolist())
        return seen

    assert played(3) == played(3) != played(4)


def test_episodes_in_a_row_share_a_prompt() -> None:
    """A reset in the middle of an episode begins a new group, as that of a new quota of episodes does."""
    env = TokenEnv(reward_model=sum_of, group_size=3, **TASK)
    shown = []
    for number in range(30):
        shown.append(env.reset(seed=0 if number == 0 else None)[0].tolist())
        env.step(4)
    groups = [shown[first : first + 3] for first in range(0, 30, 3)]
    assert all(one == group[0] for group in groups for one in group) and len({str(group) for group in groups}) > 1
    env.reset()
    shown = [env.reset()[0].tolist() for _ in range(30)]
    assert len({str(one) for one in shown}) > 1
    first = env.reset()[0].tolist()
    for _ in range(2):
        env.step(4)
        assert env.reset()[0].tolist() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_tokens": 0}, "n_tokens must be"),
        ({"max_tokens": 0}, "max_tokens must be"),
        ({"group_size": 0}, "group_size must be"),
        ({"context_length": 0}, "context_length must be"),
        ({"prompts": []}, "prompts must have at least one"),
        ({"prompts": [(0, 5)]}, r"n_tokens - 1 = 4, got \[5\]"),
        ({"end_token": -1}, r"n_tokens - 1 = 4, got \[-1\]"),
        ({"end_token": 1.5}, r"n_tokens - 1 = 4, got \[1.5\]"),
        ({"prompts": [(True,)]}, r"n_tokens - 1 = 4, got \[True\]"),
        ({"prompts": ["ab"]}, r"n_tokens - 1 = 4, got \['a', 'b'\]"),
        ({"prompts": [1, 2]}, "prompts must be sequences"),
        ({"reward_model": 3}, "reward_model must take a prompt and a completion"),
    ],
)
def test_tasks_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    for cls, more in ((TokenEnv, {}), (TokenVectorEnv, {"num_envs": 2})):
        with pytest.raises(ValueError, match=message):
            cls(**{"reward_model": sum_of} | TASK | more | arguments)
    with pytest.raises(ValueError, match="num_envs=3 must be a multiple of group_size=2"):
        TokenVectorEnv(3, reward_model=sum_of, group_size=2, **TASK)


# Groups


@given(
    data=st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5), st.integers(1, 4)), min_size=1, max_size=9),
)
def test_the_baseline_is_that_of_the_others_of_the_group(data: list[tuple[int, float, int]]) -> None:
    """By a loop; where there are no others in the group that of all others, and without any, 0."""
    group, worth, lengths = zip(*data, strict=True)
    index = EpisodeIndex.from_lengths(th.tensor(lengths))
    returns = th.tensor(worth, dtype=th.float64)[index.episode] + index.step
    got = group_leave_one_out(returns, index, th.tensor(group))
    for row, episode in enumerate(index.episode.tolist()):
        others = [n for n in range(len(data)) if n != episode]
        of_group = [n for n in others if group[n] == group[episode]] or others
        expected = sum(worth[n] for n in of_group) / len(of_group) if of_group else 0.0
        assert float(got[row]) == pytest.approx(expected, abs=1e-9)


def test_one_group_is_leave_one_out() -> None:
    index = EpisodeIndex.from_lengths(th.tensor([2, 1, 3]))
    returns = th.rand(6, dtype=th.float64)
    got = group_leave_one_out(returns, index, th.zeros(3, dtype=th.long))
    assert th.allclose(got, leave_one_out(returns, index))


def test_it_is_unbiased_and_less_noisy_where_prompts_differ() -> None:
    """By enumeration of all pairs of completions of two prompts, one token each: E[(G - b) grad log pi] is the gradient
    of the mean reward, and its variance is below that of the baseline of all others.
    """
    th.manual_seed(0)
    logits = th.randn(2, 3, dtype=th.float64, requires_grad=True)
    reward = th.tensor([[0.0, 1.0, 0.5], [10.0, 9.0, 11.0]], dtype=th.float64)
    index, group = EpisodeIndex.from_lengths(th.ones(4, dtype=th.long)), th.tensor([0, 0, 1, 1])
    log_pi = logits.log_softmax(dim=1)
    (exact,) = th.autograd.grad((log_pi.exp() * reward).sum(dim=1).mean(), logits, retain_graph=True)
    variance = {}
    for name, baseline in (
        ("group", lambda returns: group_leave_one_out(returns, index, group)),
        ("all", lambda returns: leave_one_out(returns, index)),
    ):
        mean, second = th.zeros_like(exact), 0.0
        for actions in th.cartesian_prod(*[th.arange(3)] * 4):
            returns, said = reward[group, actions], log_pi[group, actions]
            estimate = ((returns - baseline(returns)) * said).mean()
            (gradient,) = th.autograd.grad(estimate, logits, retain_graph=True)
            probability = said.sum().exp().item()
            mean, second = mean + probability * gradient, second + probability * float(gradient.square().sum())
        assert th.allclose(mean, exact, atol=1e-12)
        variance[name] = second - float(exact.square().sum())
    assert variance["group"] < 0.1 * variance["all"]


@every_algorithm
def test_groups_in_learn(algorithm: Any) -> None:
    """Episodes that begin with the same observation are a group, in one environment after another or side by side."""
    side_by_side = GymnasiumVecEnv(TokenVectorEnv(6, reward_model=sum_of, group_size=3, **TASK))
    in_a_row = DummyVecEnv([lambda: TokenEnv(reward_model=sum_of, group_size=2, **TASK)] * 2)
    for env in (side_by_side, in_a_row):
        model = make(algorithm, env, baseline="group_leave_one_out", n_episodes=12, n_steps=64)
        seen = Batches()
        model.learn(300, callback=seen)
        for batch in seen.updates:
            group = groups_of(batch)
            first: Any = batch.observations[batch.episodes.first_row]  # type: ignore[index]
            same = (first[:, None] == first[None]).all(dim=-1)
            assert th.equal(same, group[:, None] == group[None])
            assert (group.bincount() >= 2).all()


@pytest.mark.parametrize("group_size", [2, 4])
def test_groups_are_those_of_a_quota(group_size: int) -> None:
    """Where completions have different lengths, whoever waits plays on; each quota begins with a group all the same."""
    prompts = [[one, two] for one in range(5) for two in range(5)]  # that few groups have the same one by chance
    task = TASK | {"prompts": prompts, "end_token": 0}
    side_by_side = GymnasiumVecEnv(TokenVectorEnv(2 * group_size, reward_model=sum_of, group_size=group_size, **task))
    in_a_row = DummyVecEnv([lambda: TokenEnv(reward_model=sum_of, group_size=group_size, **task)] * 2)
    for env, n_episodes in ((side_by_side, 2 * group_size), (in_a_row, 4 * group_size)):
        model = make(REINFORCE, env, baseline="group_leave_one_out", n_episodes=n_episodes, n_steps=128)
        seen = Batches()
        model.learn(2_000, callback=seen)
        assert len(seen.updates) > 10
        for batch in seen.updates:
            assert all(count % group_size == 0 for count in groups_of(batch).bincount().tolist())


# A small language model


def test_a_transformer_over_the_context_is_cloned_and_learns() -> None:
    """From sentences that repeat the prompt it learns to repeat it, and from there to please a reward model."""

    def repeats(prompt: tuple[int, ...], completion: tuple[int, ...]) -> float:
        return float(completion == (prompt[0], prompt[0]))

    task: dict[str, Any] = {"n_tokens": 4, "max_tokens": 2, "prompts": [[0], [1], [2], [3]]}
    env = GymnasiumVecEnv(TokenVectorEnv(16, reward_model=repeats, group_size=4, **task))
    env.seed(0)
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 1}
    kwargs = {"features_extractor_class": TokenTransformer, "features_extractor_kwargs": sizes, "net_arch": []}
    model = REINFORCE(
        "MlpPolicy",
        env,
        n_steps=8,
        gamma=1.0,
        baseline="group_leave_one_out",
        policy_kwargs=kwargs,
        seed=0,
        learning_rate=1e-2,
        device="cpu",
    )
    single = TokenEnv(reward_model=repeats, **task).task
    demonstrations = [
        {"observations": np.stack([single.observed((n,), []), single.observed((n,), [n])]), "actions": np.array([n, n])}
        for n in range(4)
    ]
    losses = clone(model, demonstrations * 8, n_epochs=15, batch_size=16, learning_rate=1e-2)
    assert losses[-1] < 0.3 < 1.0 < losses[0]
    model.learn(3_000)
    assert np.mean([info["r"] for info in model.ep_info_buffer]) > 0.95  # type: ignore[union-attr]


def test_it_needs_tokens() -> None:
    with pytest.raises(ValueError, match="TokenTransformer needs a MultiDiscrete observation"):
        REINFORCE("MlpPolicy", "CartPole-v1", policy_kwargs={"features_extractor_class": TokenTransformer})
