"""What holds for any batch: random numbers of episodes, lengths, rewards and discounts (the same ones on every run)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import TypeVar

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_pg import estimators as est
from sb3_pg.estimators.baselines import AllSum
from tests.helpers import literal
from tests.helpers.enumeration import batch_baseline

Value = TypeVar("Value")

UNIT = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 0.99, 1.0])
BASELINES = sorted(est.BATCH_BASELINES)
LEVELS: list[est.Importance] = ["timestep", "per_decision", "trajectory", "none"]


@dataclass(frozen=True)
class Ragged:
    """A random batch: its facts flat, and how to cut them into lists of episodes."""

    episodes: est.EpisodeIndex
    rewards: th.Tensor
    values: th.Tensor
    last_values: th.Tensor

    def rows(self, flat: th.Tensor) -> literal.Rows:
        return [part.tolist() for part in flat.split(self.episodes.lengths.tolist())]


@st.composite
def batches(draw: st.DrawFn, min_episodes: int = 1, equal_lengths: bool = False) -> Ragged:
    """1 to 7 episodes of 1 to 17 steps; some of them end with a last value of 0."""
    count, length = st.integers(min_episodes, 7), st.integers(1, 17)
    lengths = (
        [draw(length)] * draw(count) if equal_lengths else draw(st.lists(length, min_size=min_episodes, max_size=7))
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_rows, scale = sum(lengths), draw(st.sampled_from([1.0, 100.0]))
    return Ragged(
        episodes=est.EpisodeIndex.from_lengths(th.tensor(lengths)),
        rewards=th.as_tensor(scale * rng.normal(size=n_rows).round(3)),
        values=th.as_tensor(scale * rng.normal(size=n_rows).round(3)),
        last_values=th.as_tensor(scale * rng.normal(size=len(lengths)) * rng.integers(0, 2, size=len(lengths))),
    )


def assert_near(result: th.Tensor, expected: th.Tensor, relative: float = 1e-9) -> None:
    """Equal to a fraction of the largest entry."""
    scale = max(1.0, float(expected.abs().max()))
    th.testing.assert_close(result.double(), expected, rtol=0, atol=relative * scale)


def flat(ragged: literal.Rows) -> th.Tensor:
    return th.tensor([value for episode in ragged for value in episode], dtype=th.float64)


# Against the definition, in double and in single precision


@pytest.mark.parametrize(("dtype", "relative"), [(th.float64, 1e-12), (th.float32, 2e-6)])
@given(batch=batches(), gamma=UNIT, gae_lambda=UNIT)
def test_returns_are_their_definition(
    dtype: th.dtype, relative: float, batch: Ragged, gamma: float, gae_lambda: float
) -> None:
    """reward_to_go, total_return, generalized_advantage and discount_factors against literal double loops."""
    rewards, values, last_list = batch.rows(batch.rewards), batch.rows(batch.values), batch.last_values.tolist()
    episodes, lengths = batch.episodes, batch.episodes.lengths.tolist()
    r, v, last = (part.to(dtype) for part in (batch.rewards, batch.values, batch.last_values))
    log_ratios = (batch.values - batch.rewards) / 100  # any numbers: ratios from about 0.1 to 10
    ratios, limit = batch.rows(log_ratios.exp()), 0.5 + gamma
    results = {
        "vtrace_advantage": est.vtrace_advantage(
            r, v, log_ratios.to(dtype), episodes, gamma, gae_lambda, last, max_ratio=limit
        ),
        "reward_to_go": est.reward_to_go(r, episodes, gamma, last),
        "total_return": est.total_return(r, episodes, gamma, last),
        "generalized_advantage": est.generalized_advantage(r, v, episodes, gamma, gae_lambda, last),
        "discount_factors": est.discount_factors(episodes, gamma, dtype),
    }
    expected = {
        "vtrace_advantage": literal.vtrace_advantage(
            rewards, values, ratios, gamma, gae_lambda, last_list, max_ratio=limit
        ),
        "reward_to_go": literal.reward_to_go(rewards, gamma, last_list),
        "total_return": literal.total_return(rewards, gamma, last_list),
        "generalized_advantage": literal.generalized_advantage(rewards, values, gamma, gae_lambda, last_list),
        "discount_factors": literal.discount_factors(lengths, gamma),
    }
    for name, result in results.items():
        assert result.dtype == dtype, name
        magnitude = max(1.0, float(batch.rewards.abs().sum() + batch.values.abs().sum()))
        assert_near(result / magnitude, flat(expected[name]) / magnitude, relative)


@given(batch=batches(), gamma=UNIT, gae_lambda=UNIT, max_ratio=st.sampled_from([1.0, 10.0]))
def test_vtrace_of_one_s_own_steps_is_gae(batch: Ragged, gamma: float, gae_lambda: float, max_ratio: float) -> None:
    args = (batch.episodes, gamma, gae_lambda, batch.last_values)
    vtrace = est.vtrace_advantage(batch.rewards, batch.values, th.zeros_like(batch.values), *args, max_ratio)
    assert_near(vtrace, est.generalized_advantage(batch.rewards, batch.values, *args), 1e-12)


@pytest.mark.parametrize(("dtype", "relative"), [(th.float64, 1e-12), (th.float32, 2e-6)])
@pytest.mark.parametrize("name", BASELINES)
@given(batch=batches(min_episodes=2))
def test_baselines_are_their_definition(name: str, dtype: th.dtype, relative: float, batch: Ragged) -> None:
    """``batch.rewards`` stands for any returns here."""
    result = batch_baseline(name, batch.rewards.to(dtype), batch.episodes)
    assert result.dtype == dtype
    assert_near(result, flat(literal.baseline(name, batch.rows(batch.rewards))), relative)


@pytest.mark.parametrize(("dtype", "relative"), [(th.float64, 1e-12), (th.float32, 2e-6)])
@given(batch=batches())
def test_optimal_constant_is_its_definition(dtype: th.dtype, relative: float, batch: Ragged) -> None:
    """Each row a component of the vectors R_i and S_i of its episode."""
    alone = 0.1 + batch.values.abs()
    dots, sq_norms = (est.segment_sum(one.to(dtype), batch.episodes) for one in (batch.rewards * alone, alone**2))
    expected = literal.optimal_constant(batch.rows(batch.rewards), batch.rows(alone))
    result = est.optimal_constant(dots, sq_norms)
    assert result.dtype == dtype
    scale = float((dots.abs().sum() / sq_norms.sum()).double())
    assert abs(float(result) - expected) <= relative * max(scale, abs(expected), 1e-3)


@pytest.mark.parametrize(("dtype", "relative"), [(th.float64, 1e-12), (th.float32, 2e-6)])
@given(batch=batches())
def test_cumulative_sums_are_their_definition(dtype: th.dtype, relative: float, batch: Ragged) -> None:
    result = est.segment_cumulative_sum(batch.rewards.to(dtype), batch.episodes)
    assert result.dtype == dtype
    assert_near(result, flat(literal.cumulative_sum(batch.rows(batch.rewards))), relative)


@pytest.mark.parametrize(("dtype", "relative"), [(th.float64, 1e-12), (th.float32, 1e-4)])
@pytest.mark.parametrize("importance", LEVELS)
@given(batch=batches(), gamma=UNIT)
def test_importance_weights_are_their_definition(
    importance: est.Importance, dtype: th.dtype, relative: float, batch: Ragged, gamma: float
) -> None:
    """The products of each level, self-normalised too, and the credit of rewards so weighted. Log-ratios of 0.3 at
    most, so that a path of 17 keeps its digits."""
    log_ratios = 0.3 * batch.values / batch.values.abs().max().clamp(min=1e-3)
    products = literal.path_weights(batch.rows(log_ratios), importance)
    weights = est.importance_weights(est.path_log_ratio(log_ratios.to(dtype), batch.episodes, importance))
    normalized = est.self_normalized(weights, batch.episodes, importance)
    baseline = 0.5 * batch.rewards.flip(0)
    credit = est.per_decision_credit(weights, batch.rewards.to(dtype), baseline.to(dtype), batch.episodes, gamma)
    assert weights.dtype == normalized.dtype == credit.dtype == dtype
    assert_near(weights, flat(products), relative)
    assert_near(normalized, flat(literal.self_normalized(products, importance)), relative)
    expected = flat(literal.per_decision_credit(products, batch.rows(batch.rewards), batch.rows(baseline), gamma))
    magnitude = max(1.0, float(flat(products).max()) * float(batch.rewards.abs().sum()))
    assert_near(credit / magnitude, expected / magnitude, relative)


# Symmetries


@pytest.mark.parametrize("baseline", BASELINES)
@given(batch=batches(min_episodes=2), gamma=UNIT, data=st.data())
def test_the_order_of_the_episodes_does_not_matter(
    baseline: str, batch: Ragged, gamma: float, data: st.DataObject
) -> None:
    """Permuted episodes have permuted advantages (by reward-to-go and by GAE), and the same gradient."""
    order = data.draw(st.permutations(range(batch.episodes.n_episodes)))
    table = th.linspace(-1, 1, batch.episodes.n_rows, dtype=th.float64)  # what a policy would say of each row

    def permuted(values: th.Tensor) -> th.Tensor:
        parts = values.split(batch.episodes.lengths.tolist())
        return th.cat([parts[i] for i in order])

    def estimate(
        episodes: est.EpisodeIndex, rewards: th.Tensor, values: th.Tensor, last: th.Tensor, features: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        theta = th.tensor([0.3, -0.2], dtype=th.float64, requires_grad=True)
        log_prob = th.nn.functional.logsigmoid(theta[0] + theta[1] * features)
        returns = est.reward_to_go(rewards, episodes, gamma, last)
        advantages = returns - batch_baseline(baseline, returns, episodes)
        gae = est.generalized_advantage(rewards, values, episodes, gamma, 0.9, last)
        surrogate = est.score_function_surrogate(log_prob, advantages + gae, est.loss_divisor(episodes, "episode"))
        return advantages, gae, th.autograd.grad(surrogate, theta)[0]

    advantages, gae, gradient = estimate(batch.episodes, batch.rewards, batch.values, batch.last_values, table)
    shuffled = est.EpisodeIndex.from_lengths(batch.episodes.lengths[list(order)])
    rest = (permuted(batch.rewards), permuted(batch.values), batch.last_values[list(order)], permuted(table))
    advantages_after, gae_after, gradient_after = estimate(shuffled, *rest)
    assert_near(advantages_after, permuted(advantages))
    assert_near(gae_after, permuted(gae))
    assert_near(gradient_after, gradient)


@pytest.mark.parametrize(
    ("returns", "baseline"),
    [
        (est.total_return, "batch_mean"),
        (est.total_return, "leave_one_out"),
        (est.reward_to_go, "time_mean"),
        (est.reward_to_go, "time_leave_one_out"),
    ],
)
@given(batch=batches(min_episodes=2, equal_lengths=True), gamma=UNIT, shift=st.floats(-10, 10))
def test_a_shift_of_the_rewards_leaves_the_advantages_alone(
    returns: Callable[..., th.Tensor], baseline: str, batch: Ragged, gamma: float, shift: float
) -> None:
    """Where all episodes are of the same length, a constant added to each reward is the same for all of them."""

    def advantages(rewards: th.Tensor) -> th.Tensor:
        values = returns(rewards, batch.episodes, gamma)
        return values - batch_baseline(baseline, values, batch.episodes)

    assert_near(advantages(batch.rewards + shift), advantages(batch.rewards))


@given(batch=batches(), gamma=UNIT, gae_lambda=UNIT)
def test_a_last_value_is_one_more_reward(batch: Ragged, gamma: float, gae_lambda: float) -> None:
    """Bootstrapping with V is an episode that is one step longer, with V as the reward of that step; and it is
    gamma * V on top of the last reward. The same for the GAE, whose V is 0 past the end."""
    episodes = batch.episodes
    longer = est.EpisodeIndex.from_lengths(episodes.lengths + 1)
    real = longer.remaining > 0

    def extended(values: th.Tensor, ends: th.Tensor) -> th.Tensor:
        out = values.new_zeros(longer.n_rows)
        out[real] = values
        out[longer.last_row] = ends
        return out

    one_more = extended(batch.rewards, batch.last_values)
    on_top = batch.rewards.index_add(0, episodes.last_row, gamma * batch.last_values)
    for returns in (est.reward_to_go, est.total_return):
        result = returns(batch.rewards, episodes, gamma, batch.last_values)
        assert_near(result, returns(one_more, longer, gamma)[real])
        assert_near(result, returns(on_top, episodes, gamma))
    result = est.generalized_advantage(batch.rewards, batch.values, episodes, gamma, gae_lambda, batch.last_values)
    values = extended(batch.values, batch.last_values)  # at the added step, the TD error is V - V = 0
    assert_near(result, est.generalized_advantage(one_more, values, longer, gamma, gae_lambda)[real])
    assert_near(result, est.generalized_advantage(on_top, batch.values, episodes, gamma, gae_lambda))


@given(batch=batches(), gamma=UNIT)
def test_discounting_is_causal_and_stops_at_the_end(batch: Ragged, gamma: float) -> None:
    """A change of one reward changes nothing after it, nor in any other episode."""
    row = batch.episodes.n_rows // 2
    changed = batch.rewards.clone()
    changed[row] += 1
    difference = est.reward_to_go(changed, batch.episodes, gamma) - est.reward_to_go(
        batch.rewards, batch.episodes, gamma
    )
    rows = th.arange(batch.episodes.n_rows)
    untouched = (rows > row) | (batch.episodes.episode != batch.episodes.episode[row])
    assert not difference[untouched].any()
    assert float(difference[row]) == pytest.approx(1)


# Data-parallel workers


def on_two_workers(run: Callable[[int, AllSum], Value]) -> list[Value]:
    """Run both workers in a thread each; their ``all_sum`` waits for the other and adds the two tensors up."""
    barrier, sent = Barrier(2, timeout=10), [th.empty(0), th.empty(0)]

    def worker(rank: int) -> Value:
        def all_sum(tensor: th.Tensor) -> th.Tensor:
            sent[rank] = tensor
            barrier.wait()
            total = sent[0] + sent[1]
            barrier.wait()
            return total

        return run(rank, all_sum)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(worker, range(2)))


@given(batch=batches(min_episodes=2), data=st.data())
def test_two_workers_with_half_the_batch_each_agree_with_one(batch: Ragged, data: st.DataObject) -> None:
    """batch_mean, leave_one_out, optimal_constant, loss_divisor and the ESS, however the episodes are shared out."""
    first = data.draw(st.integers(1, batch.episodes.n_episodes - 1))
    bounds = (0, int(batch.episodes.last_row[first - 1]) + 1, batch.episodes.n_rows)
    lengths = (batch.episodes.lengths[:first], batch.episodes.lengths[first:])
    dots, sq_norms = batch.last_values, 0.1 + batch.last_values.square()
    reductions: list[est.LossReduction] = ["step", "episode", "mean_length"]

    def statistics(
        returns: th.Tensor, episodes: est.EpisodeIndex, dots: th.Tensor, sq_norms: th.Tensor, *all_sum: AllSum
    ) -> tuple[th.Tensor, th.Tensor]:
        rows = [
            est.batch_mean(returns, episodes, *all_sum),
            est.leave_one_out(returns, episodes, *all_sum),
        ]
        constant = est.optimal_constant(dots, sq_norms, *all_sum)
        divisors = [est.loss_divisor(episodes, reduction, 3.0, *all_sum) for reduction in reductions]
        return th.stack(rows), th.stack([constant, est.effective_sample_size(sq_norms, *all_sum), *divisors])

    def half(rank: int, all_sum: AllSum) -> tuple[th.Tensor, th.Tensor]:
        returns = batch.rewards[bounds[rank] : bounds[rank + 1]]
        mine = slice(None, first) if rank == 0 else slice(first, None)
        return statistics(returns, est.EpisodeIndex.from_lengths(lengths[rank]), dots[mine], sq_norms[mine], all_sum)

    rows, scalars = statistics(batch.rewards, batch.episodes, dots, sq_norms)
    (rows_0, scalars_0), (rows_1, scalars_1) = on_two_workers(half)
    assert_near(th.cat([rows_0, rows_1], dim=1), rows)
    assert_near(scalars_0, scalars)
    assert_near(scalars_1, scalars)


@pytest.mark.parametrize("baseline", ["time_mean", "time_leave_one_out"])
@given(lengths=st.tuples(*[st.lists(st.integers(1, 9), max_size=4)] * 2), seed=st.integers(0, 2**32 - 1))
def test_two_workers_share_the_baselines_of_a_step(
    baseline: str, lengths: tuple[list[int], list[int]], seed: int
) -> None:
    """The sums of the steps are added up element by element: the longest episode (here of 9 steps) must be of the same
    length on both workers, the others are free."""
    halves = [est.EpisodeIndex.from_lengths(th.tensor([*half, 9])) for half in lengths]
    whole = est.EpisodeIndex.from_lengths(th.cat([half.lengths for half in halves]))
    returns = th.as_tensor(np.random.default_rng(seed).normal(size=whole.n_rows))
    parts = returns.split([half.n_rows for half in halves])
    results = on_two_workers(lambda rank, all_sum: est.BATCH_BASELINES[baseline](parts[rank], halves[rank], all_sum))
    assert_near(th.cat(results), batch_baseline(baseline, returns, whole))


@pytest.mark.parametrize("importance", ["timestep", "trajectory", "none"])
@given(batch=batches(min_episodes=2), data=st.data())
def test_two_workers_normalise_their_weights_together(
    importance: est.Importance, batch: Ragged, data: st.DataObject
) -> None:
    """w / mean(w) over both halves, and the ESS of the weights, however the episodes are shared out."""
    first = data.draw(st.integers(1, batch.episodes.n_episodes - 1))
    lengths = batch.episodes.lengths.split([first, batch.episodes.n_episodes - first])
    halves = [est.EpisodeIndex.from_lengths(half) for half in lengths]
    log_ratios = batch.values / batch.values.abs().max().clamp(min=1e-3)
    weights = est.importance_weights(est.path_log_ratio(log_ratios, batch.episodes, importance))
    parts = weights.split([half.n_rows for half in halves])
    results = on_two_workers(lambda rank, all_sum: est.self_normalized(parts[rank], halves[rank], importance, all_sum))
    whole = est.self_normalized(weights, batch.episodes, importance)
    assert_near(th.cat(results), whole)
    sizes = on_two_workers(lambda rank, all_sum: est.effective_sample_size(parts[rank], all_sum))
    assert [float(size) for size in sizes] == pytest.approx([float(est.effective_sample_size(weights))] * 2)


@given(lengths=st.tuples(*[st.lists(st.integers(1, 9), max_size=4)] * 2), seed=st.integers(0, 2**32 - 1))
def test_two_workers_normalise_the_weights_of_a_step(lengths: tuple[list[int], list[int]], seed: int) -> None:
    """ "per_decision", with the longest episode of the same length on both workers, as for the baselines of a step."""
    halves = [est.EpisodeIndex.from_lengths(th.tensor([*half, 9])) for half in lengths]
    whole = est.EpisodeIndex.from_lengths(th.cat([half.lengths for half in halves]))
    weights = th.as_tensor(np.random.default_rng(seed).normal(size=whole.n_rows)).exp()
    parts = weights.split([half.n_rows for half in halves])
    results = on_two_workers(
        lambda rank, all_sum: est.self_normalized(parts[rank], halves[rank], "per_decision", all_sum)
    )
    assert_near(th.cat(results), est.self_normalized(weights, whole, "per_decision"))


# Weights


@given(
    log_ratios=st.lists(st.floats(-50, 50), min_size=1, max_size=20),
    max_weight=st.sampled_from([0.5, 1.0, 2.0, 1e6]),
)
def test_weights_are_truncated_ratios_of_a_sane_sample_size(log_ratios: list[float], max_weight: float) -> None:
    """min(exp(log ratio), c) whatever the log-probs themselves are; 1/n <= ESS <= 1, and 1 once all are truncated."""
    log_ratio = th.tensor(log_ratios, dtype=th.float64)
    behaviour = th.linspace(-30, 2, len(log_ratios), dtype=th.float64)
    weights = est.importance_weights(est.log_ratio(behaviour + log_ratio, behaviour), max_weight)
    th.testing.assert_close(weights, log_ratio.exp().clamp(max=max_weight), rtol=1e-12, atol=0)
    ess = float(est.effective_sample_size(weights))
    assert 1 / len(log_ratios) - 1e-12 <= ess <= 1 + 1e-12
    if bool((log_ratio.exp() >= max_weight).all()):
        assert ess == pytest.approx(1)


@given(log_ratios=st.lists(st.floats(-50, 50), min_size=1, max_size=20), alpha=st.sampled_from([1e-3, 0.3, 0.99]))
def test_defensive_weights_are_bounded_and_keep_their_order(log_ratios: list[float], alpha: float) -> None:
    """0 <= w <= 1 / alpha, nowhere further from 1 than the plain weight, rising with it."""
    plain = th.tensor(sorted(log_ratios), dtype=th.float64)
    weights = est.importance_weights(plain, defensive_coef=alpha)
    assert bool(((weights >= 0) & (weights <= (1 + 1e-12) / alpha)).all())
    assert bool((weights.log().abs() <= plain.abs() + 1e-9).all())
    assert bool((weights.diff() >= -1e-12 / alpha).all())


@pytest.mark.parametrize("dtype", [th.float64, th.float32])
@given(log_ratios=st.lists(st.floats(-50, 50) | st.floats(-1e-3, 1e-3), min_size=1, max_size=50))
def test_the_estimate_of_the_kl_divergence_is_never_negative(dtype: th.dtype, log_ratios: list[float]) -> None:
    assert bool((est.kl_estimate(th.tensor(log_ratios, dtype=dtype)) >= 0).all())
