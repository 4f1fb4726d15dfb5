"""Past batches that are credited again by V-trace: with what, where episodes were cut, what the critic learns of it.

That the estimate itself is exact is in ``tests/estimators/test_exact.py``.
"""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import OffPolicyISPG
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.update.critic import ValueLoss, fit_critic
from sb3_pg.update.weighting import WeightedSample
from tests.helpers import literal
from tests.helpers.environments import RandomEnv, diary
from tests.helpers.models import OWN_CRITIC, differences, make, snapshot
from tests.helpers.spies import replace_everywhere

BOX = spaces.Box(-2.0, 2.0, (3,))
DICTIONARY = spaces.Dict({"a": BOX, "b": spaces.Discrete(3)})
SETTINGS: dict[str, Any] = OWN_CRITIC | {
    "returns": "gae",
    "gae_lambda": 0.9,
    "incomplete_episodes": "bootstrap",
    "bootstrap_truncated": True,
    "n_reused_batches": 2,
    "reused_advantages": "vtrace",
    "learning_rate": 0.05,
    "value_learning_rate": 0.05,
    "target_kl": None,
    "n_steps": 10,
}


def random_env(observation_space: spaces.Space[Any] = BOX) -> DummyVecEnv:
    """Episodes of about 5 steps, some ended by a time limit."""
    env = DummyVecEnv([lambda: RandomEnv(spaces.Discrete(3), observation_space, 7, 0.1)] * 2)
    env.seed(0)
    return env


def ispg(env: Any = None, **kwargs: Any) -> OffPolicyISPG:
    model = make(OffPolicyISPG, random_env() if env is None else env, **SETTINGS | kwargs)
    assert isinstance(model, OffPolicyISPG)
    return model


class Samples:
    """The samples of a model's updates, each with a copy of the policy as the update began, and the newest batch."""

    def __init__(self, model: OffPolicyISPG):
        self.seen: list[tuple[WeightedSample, Any, EpisodeBatch]] = []
        sample = model.replay_buffer.sample

        def noted(batch: EpisodeBatch, *args: Any) -> WeightedSample:
            policy = type(model.policy)(**model.policy._get_constructor_parameters())
            policy.load_state_dict(model.policy.state_dict())
            policy.set_training_mode(False)
            result = sample(batch, *args)
            self.seen.append((copy.deepcopy(result), policy, copy.deepcopy(batch)))
            return result

        model.replay_buffer.sample = noted  # type: ignore[method-assign, assignment]


VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no limit": {"vtrace_max_ratio": None},
    "a limit of 2": {"vtrace_max_ratio": 2.0},
    "rewards to go": {"returns": "reward_to_go", "vtrace_max_ratio": None},
    "carried": {"incomplete_episodes": "carry"},
    "truncated": {"incomplete_episodes": "truncate"},
    "a time limit is an end": {"bootstrap_truncated": False},
    "a quota": {"n_episodes": 4, "n_steps": 20},
    "micro-batches": {"micro_batch_size": 4},
    "dictionary": {"policy": "MultiInputPolicy"},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_past_steps_are_worth_what_the_definition_says(variant: dict[str, Any]) -> None:
    """Rewards and ratios as they were stored, today's values of states and of what was observed at each end."""
    model = ispg(random_env(DICTIONARY if "policy" in variant else BOX), **variant)
    samples = Samples(model)
    model.learn(8 * 2 * model.n_steps)
    gae_lambda = 1.0 if model.returns == "reward_to_go" else 0.9
    with_reuse = [one for one in samples.seen if one[0].batch.n_rows > one[2].n_rows]
    assert len(with_reuse) >= 3
    n_followed = 0
    for sample, policy, newest in with_reuse:
        batch, lengths = sample.batch, sample.batch.episodes.lengths.tolist()
        assert batch.last_observations is not None and batch.is_followed is not None
        with th.no_grad():
            values, log_prob, _ = policy.evaluate_actions(batch.observations, batch.actions)
            last_values = policy.predict_values(batch.last_observations).flatten() * batch.is_followed
        ratios = (log_prob - batch.behaviour_log_prob).exp()
        r, v, rho = (
            [part.tolist() for part in one.flatten().split(lengths)] for one in (batch.rewards, values, ratios)
        )
        limit = model.vtrace_max_ratio or math.inf
        expected = literal.vtrace_advantage(r, v, rho, model.gamma, gae_lambda, last_values.tolist(), limit)
        advantages = th.tensor([value for episode in expected for value in episode])
        past = slice(newest.n_rows, None)
        th.testing.assert_close(sample.credit.advantages[past], advantages[past], rtol=1e-4, atol=1e-4)
        targets = advantages + values.flatten()
        th.testing.assert_close(sample.credit.value_targets[past], targets[past], rtol=1e-4, atol=1e-4)
        assert th.equal(batch.is_followed & batch.terminated, th.zeros_like(batch.terminated))
        n_followed += int(batch.is_followed.sum())
    assert n_followed > 0 or not model.bootstrap_truncated


@pytest.mark.filterwarnings("ignore:No episode ended")
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("ending", ["terminated", "truncated"])
@pytest.mark.parametrize("incomplete_episodes", ["bootstrap", "carry", "truncate"])
def test_what_was_observed_at_an_end_is_kept(as_dict: bool, ending: Any, incomplete_episodes: str) -> None:
    """An observation of (environment, episode, step): the one after the last row's, of the same episode."""
    env = diary(2, lengths=(5, 3), ending=ending, as_dict=as_dict)
    policy = "MultiInputPolicy" if as_dict else "MlpPolicy"
    model = ispg(env, policy=policy, incomplete_episodes=incomplete_episodes, n_steps=4)
    samples = Samples(model)
    model.learn(12 * 8)
    kinds = set()
    for _, _, batch in samples.seen:
        assert batch.last_observations is not None and batch.is_followed is not None
        observations, ends = batch.at(batch.episodes.last_row).observations, batch.last_observations
        if isinstance(observations, dict) and isinstance(ends, dict):
            observations, ends = observations["where"], ends["where"]
        assert isinstance(observations, th.Tensor) and isinstance(ends, th.Tensor)
        is_cut = ~(batch.terminated | batch.truncated)
        assert th.equal(batch.is_followed, batch.truncated | (is_cut & (th.tensor(incomplete_episodes != "truncate"))))
        followed = batch.is_followed
        th.testing.assert_close(ends[followed], observations[followed] + th.tensor([0.0, 0.0, 1.0]))
        kinds |= set(followed.tolist())
    ends_are_followed, cuts_are_followed = ending == "truncated", incomplete_episodes != "truncate"
    # With "carry" no episode is cut
    assert kinds == {ends_are_followed} | ({cuts_are_followed} if incomplete_episodes != "carry" else set())


def test_a_policy_that_stands_still_is_credited_as_before() -> None:
    """Rates of 0: ratios of 1 and the same critic, hence GAE, for both kinds of reuse."""
    credits = []
    for reused_advantages in ("stored", "vtrace"):
        model = ispg(learning_rate=0.0, value_learning_rate=0.0, reused_advantages=reused_advantages)
        samples = Samples(model)
        model.learn(100)
        credits.append([sample.credit for sample, _, _ in samples.seen])
    for stored, again in zip(*credits, strict=True):
        th.testing.assert_close(again.advantages, stored.advantages, rtol=1e-5, atol=1e-5)
        th.testing.assert_close(again.value_targets, stored.value_targets, rtol=1e-5, atol=1e-5)


def test_the_critic_is_fitted_to_all_batches_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of the balance heuristic as the update begins: p / mean_k p_k, the mean by the batches' rows."""
    fits: list[tuple[EpisodeBatch, ValueLoss]] = []

    def watched(policy: Any, optimizer: Any, batch: EpisodeBatch, value_loss: ValueLoss, *args: Any) -> float:
        fits.append((batch, value_loss))
        return fit_critic(policy, optimizer, batch, value_loss, *args)

    replace_everywhere(monkeypatch, fit_critic, watched)
    model = ispg(n_reused_batches=1)
    samples = Samples(model)
    model.learn(60)
    (first, _, _), (second, policy, newest) = samples.seen[:2]
    behaviour = samples.seen[0][1]
    with th.no_grad():
        now, then = (
            one.evaluate_actions(second.batch.observations, second.batch.actions)[1] for one in (policy, behaviour)
        )
    share = newest.n_rows / second.batch.n_rows
    expected = now.exp() / (share * now.exp() + (1 - share) * then.exp())
    batch, loss = fits[1]
    assert batch.n_rows == second.batch.n_rows > first.batch.n_rows and loss.weights is not None
    th.testing.assert_close(loss.weights, expected, rtol=1e-4, atol=1e-5)
    assert float((loss.weights - 1).abs().max()) > 1e-3
    th.testing.assert_close(loss.targets, second.credit.value_targets)
    errors = (th.zeros(batch.n_rows) - loss.targets).square()
    assert loss(th.zeros(batch.n_rows), slice(None)).item() == pytest.approx((expected * errors).sum().item(), rel=1e-4)


class Bonus(BaseCallback):
    """Adds 100 to the advantages of the first rollout."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps == 20:
            self.model.rollout_buffer.advantages += 100  # type: ignore[attr-defined]


def test_a_bonus_of_a_callback_counts_again() -> None:
    seen = []
    for callback in (None, Bonus()):
        model = ispg(learning_rate=0.0, value_learning_rate=0.0)
        samples = Samples(model)
        model.learn(60, callback=callback)
        seen.append([sample.credit.advantages for sample, _, _ in samples.seen])
    for update, (plain, edited) in enumerate(zip(*seen, strict=True)):
        bonus = th.zeros_like(plain)
        bonus[20 * update : 20 * update + 20] = 100.0
        th.testing.assert_close(edited - plain, bonus, rtol=1e-4, atol=1e-4)


def test_a_clipped_critic_stays_near_what_it_says_today(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of past rows too, whatever a callback added to their advantages."""
    fits: list[ValueLoss] = []

    def watched(policy: Any, optimizer: Any, batch: EpisodeBatch, value_loss: ValueLoss, *args: Any) -> float:
        fits.append(value_loss)
        return fit_critic(policy, optimizer, batch, value_loss, *args)

    replace_everywhere(monkeypatch, fit_critic, watched)
    model = ispg(clip_range_vf=0.1)
    samples = Samples(model)
    model.learn(60, callback=Bonus())
    for (sample, policy, _), loss in zip(samples.seen, fits, strict=True):
        with th.no_grad():
            today = policy.predict_values(sample.batch.observations).flatten()
        th.testing.assert_close(loss.before, today, rtol=1e-5, atol=1e-5)


def test_a_saved_history_goes_on_as_if_it_had_never_stopped() -> None:
    """Batches with their ends in a file: the update after it is the same."""
    whole, half = (ispg().learn(60) for _ in range(2))
    file, model_file = io.BytesIO(), io.BytesIO()
    half.save_replay_buffer(file)
    half.save(model_file)
    for one in (file, model_file):
        one.seek(0)
    again = OffPolicyISPG.load(model_file, env=half.get_env(), device="cpu")
    again.load_replay_buffer(file)
    again.set_logger(whole.logger)
    for model in (whole, again):
        model.rollout_buffer = whole.rollout_buffer
        model.train()
    assert differences(snapshot(whole), snapshot(again)) == []


def test_batches_that_do_not_know_their_ends_are_refused() -> None:
    stored = ispg(reused_advantages="stored").learn(60)
    model_file, file = io.BytesIO(), io.BytesIO()
    stored.save(model_file)
    stored.save_replay_buffer(file)
    for one in (file, model_file):
        one.seek(0)
    model = OffPolicyISPG.load(model_file, env=random_env(), device="cpu", reused_advantages="vtrace")
    model.load_replay_buffer(file)
    with pytest.raises(ValueError, match="reused_advantages='vtrace' needs what was observed at the end"):
        model.learn(20)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"reused_advantages": "retrace"}, "reused_advantages must be one of 'stored', 'vtrace'"),
    ({"n_reused_batches": 0}, "reused_advantages='vtrace' .*n_reused_batches"),
    ({"vtrace_max_ratio": 0}, "vtrace_max_ratio must be a number > 0"),
    ({"importance": "per_decision", "returns": "reward_to_go", "incomplete_episodes": "carry"}, "importance="),
    ({"baseline": "none", "value_learning_rate": None, "n_value_updates": 1, "returns": "reward_to_go"}, "critic"),
    ({"rollout_buffer_kwargs": {"keep_last_observations": 3}, "reused_advantages": "stored"}, "keep_last_observations"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ispg(**arguments)
