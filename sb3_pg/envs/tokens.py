"""Sequences of tokens as an environment: an action is the next token, the reward comes at the end.

What language models are tuned in (Ouyang et al. 2022, arXiv 2203.02155), of a size that one core learns in minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

#: From the prompt and the completion to what this is worth.
RewardModel = Callable[[tuple[int, ...], tuple[int, ...]], float]


def check_sizes(sizes: Mapping[str, object]) -> None:
    """Refuse what is no number of things."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {size!r}")


def _tokens_of(prompt: Any) -> tuple[Any, ...]:
    if not isinstance(prompt, (Sequence, np.ndarray)):
        raise ValueError(f"prompts must be sequences of tokens, got {prompt!r} among them")
    return tuple(prompt)


def _is_token(token: Any, n_tokens: int) -> bool:
    return isinstance(token, (int, np.integer)) and type(token) is not bool and 0 <= int(token) < n_tokens


class _Task:
    """What the single environment and the vector of them have in common: spaces, prompts, what is observed."""

    def __init__(
        self,
        n_tokens: int,
        reward_model: RewardModel,
        max_tokens: int,
        prompts: Sequence[Sequence[int]],
        end_token: int | None,
        group_size: int,
        context_length: int | None,
    ):
        sizes = {"n_tokens": n_tokens, "max_tokens": max_tokens, "group_size": group_size}
        check_sizes(sizes | ({} if context_length is None else {"context_length": context_length}))
        if len(prompts) == 0:
            raise ValueError("prompts must have at least one, got none: write [[]] for completions of nothing")
        self.prompts = list(map(_tokens_of, prompts))
        tokens = [token for prompt in self.prompts for token in prompt] + ([] if end_token is None else [end_token])
        if wrong := [token for token in tokens if not _is_token(token, n_tokens)]:
            raise ValueError(
                f"tokens must be integers from 0 to n_tokens - 1 = {n_tokens - 1}, got {wrong} in prompts or end_token"
            )
        if not callable(reward_model):
            raise ValueError(f"reward_model must take a prompt and a completion, got {reward_model!r}")
        self.n_tokens, self.reward_model, self.max_tokens = int(n_tokens), reward_model, int(max_tokens)
        self.prompts = [tuple(map(int, prompt)) for prompt in self.prompts]
        self.end_token, self.group_size = None if end_token is None else int(end_token), int(group_size)
        longest = max(map(len, self.prompts))
        self.context_length = max(1, longest + self.max_tokens - 1) if context_length is None else int(context_length)
        self.action_space = spaces.Discrete(self.n_tokens)
        self.observation_space = spaces.MultiDiscrete([self.n_tokens + 1] * self.context_length)

    def observed(self, prompt: tuple[int, ...], completion: Sequence[int]) -> np.ndarray:
        """``(context_length,)`` the last tokens, of which the newest stands last; ``n_tokens`` where there is none."""
        tokens = [*prompt, *completion][-self.context_length :]
        return np.array([self.n_tokens] * (self.context_length - len(tokens)) + tokens, dtype=np.int64)

    def ended(self, completion: Sequence[int]) -> bool:
        return len(completion) == self.max_tokens or completion[-1] == self.end_token

    def worth(self, prompt: tuple[int, ...], completion: Sequence[int]) -> float:
        return float(self.reward_model(prompt, tuple(completion)))


class TokenEnv(gym.Env[np.ndarray, Any]):
    """Completes prompts, token by token.

    An episode ends with ``end_token``, or with the ``max_tokens``-th token: both are ends of the task. Its last step
    earns what the reward model says of it, all others nothing. ``infos`` of the last step have ``"prompt"`` and
    ``"completion"``.

    :param n_tokens: size of the vocabulary
    :param reward_model: takes the prompt and the completion, tuples of tokens, and says what this is worth
    :param max_tokens: of a completion
    :param prompts: of which one is drawn for each group; ``[[]]``: nothing to complete
    :param end_token: which token ends a completion, None for none
    :param group_size: how many episodes in a row have the same prompt, as ``baseline="group_leave_one_out"`` needs them
    :param context_length: how many tokens are observed; None: all that there are
    :raises ValueError: for tokens that are not in the vocabulary, or no prompts
    """

    def __init__(
        self,
        n_tokens: int,
        reward_model: RewardModel,
        max_tokens: int,
        prompts: Sequence[Sequence[int]] = ((),),
        end_token: int | None = None,
        group_size: int = 1,
        context_length: int | None = None,
    ):
        self.task = _Task(n_tokens, reward_model, max_tokens, prompts, end_token, group_size, context_length)
        self.observation_space, self.action_space = self.task.observation_space, self.task.action_space
        self._n_episodes, self._has_ended = 0, False
        self._prompt: tuple[int, ...] = ()
        self._completion: list[int] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a completion; where one was not finished, or with a seed, a group too."""
        super().reset(seed=seed, options=options)
        if seed is not None or not self._has_ended:
            self._n_episodes = 0
        if self._n_episodes % self.task.group_size == 0:
            self._prompt = self.task.prompts[int(self.np_random.integers(len(self.task.prompts)))]
        self._n_episodes += 1
        self._completion, self._has_ended = [], False
        return self.task.observed(self._prompt, self._completion), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Write a token."""
        self._completion.append(int(action))
        ended = self._has_ended = self.task.ended(self._completion)
        reward = self.task.worth(self._prompt, self._completion) if ended else 0.0
        infos = {"prompt": self._prompt, "completion": tuple(self._completion)} if ended else {}
        return self.task.observed(self._prompt, self._completion), reward, ended, False, infos


class TokenVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many of :class:`TokenEnv` at once, for :class:`~sb3_pg.envs.vector.GymnasiumVecEnv`.

    It takes the same arguments. The completions of a group are written side by side: the k-th prompts of the
    environments of group i // group_size are the same one.

    :param num_envs: how many, a multiple of ``group_size``
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012  # as Gymnasium has it

    def __init__(
        self,
        num_envs: int,
        n_tokens: int,
        reward_model: RewardModel,
        max_tokens: int,
        prompts: Sequence[Sequence[int]] = ((),),
        end_token: int | None = None,
        group_size: int = 1,
        context_length: int | None = None,
    ):
        self.task = _Task(n_tokens, reward_model, max_tokens, prompts, end_token, group_size, context_length)
        check_sizes({"num_envs": num_envs})
        num_envs = int(num_envs)
        if num_envs % group_size != 0:
            raise ValueError(f"num_envs={num_envs} must be a multiple of group_size={group_size}")
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = self.task.observation_space, self.task.action_space
        self.observation_space = batch_space(self.task.observation_space, num_envs)
        self.action_space = batch_space(self.task.action_space, num_envs)
        self._context = np.zeros((num_envs, self.task.context_length), dtype=np.int64)
        self._prompts: list[tuple[int, ...]] = [()] * num_envs
        self._completions: list[list[int]] = [[] for _ in range(num_envs)]
        self._n_episodes = [0] * num_envs
        self._draw = 0

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a completion in all environments, or in those of ``options["reset_mask"]``."""
        super().reset(seed=seed if not isinstance(seed, list) else seed[0], options=options)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self._n_episodes = [0] * self.num_envs
            self._draw = int(self.np_random.integers(2**31))
        for env in range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist():
            # A function of the group and the number of the episode: whoever comes to it first
            of_group = np.random.default_rng([self._draw, env // self.task.group_size, self._n_episodes[env]])
            prompt = self.task.prompts[int(of_group.integers(len(self.task.prompts)))]
            self._prompts[env], self._completions[env] = prompt, []
            self._n_episodes[env] += 1
            self._context[env] = self.task.observed(prompt, [])
        return self._context.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Write a token in each."""
        tokens = np.asarray(actions).astype(np.int64)
        self._context = np.concatenate([self._context[:, 1:], tokens[:, None]], axis=1)
        rewards, ended = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool)
        said: dict[str, Any] = {}
        for env, token in enumerate(tokens.tolist()):
            completion = self._completions[env]
            completion.append(token)
            if self.task.ended(completion):
                ended[env], rewards[env] = True, self.task.worth(self._prompts[env], completion)
                one = {"prompt": self._prompts[env], "completion": tuple(completion)}
                said = self._add_info(said, one, env)
        return self._context.copy(), rewards, ended, np.zeros(self.num_envs, dtype=bool), said
