"""Numbers that nobody looks at are right, and where there is none, a word says so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import A2C, PPO

from sb3_pg import REINFORCE, EpisodeRolloutBuffer, OffPolicyISPG, VanillaPG
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.estimators import effective_sample_size
from tests.helpers.environments import diary
from tests.helpers.models import OWN_CRITIC, TINY, Algorithm, differences, every_algorithm, make, snapshot
from tests.helpers.recording import Batches, log_to_memory

# Rows not in use, in SB3's own algorithms


@pytest.mark.parametrize("baseline", ["none", "value"])
@pytest.mark.parametrize(("algorithm", "arguments"), [(PPO, {"batch_size": 4, "n_epochs": 2}), (A2C, {})])
def test_no_row_of_a_dropped_episode_trains(algorithm: Any, arguments: dict[str, Any], baseline: str) -> None:
    """Of 12 steps the first 10 are two whole episodes: 20 rows of 2 environments, each as often as there are passes."""
    kwargs = {"incomplete_episodes": "drop", "baseline": baseline}
    own = {"rollout_buffer_class": EpisodeRolloutBuffer, "rollout_buffer_kwargs": kwargs, "policy_kwargs": dict(TINY)}
    model = algorithm("MlpPolicy", diary(2), n_steps=12, device="cpu", seed=0, **own, **arguments)
    rows: list[tuple[float, ...]] = []
    evaluate = model.policy.evaluate_actions

    def noting(obs: th.Tensor, actions: th.Tensor) -> Any:
        rows.extend(tuple(row) for row in obs.tolist())
        return evaluate(obs, actions)

    model.policy.evaluate_actions = noting
    model.learn(24)
    expected = [(env, episode, t) for env in range(2) for episode in range(2) for t in range(5)]
    assert sorted(rows) == sorted(expected * arguments.get("n_epochs", 1))


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_no_row_at_all_is_an_error(algorithm: Any) -> None:
    own = {"rollout_buffer_class": EpisodeRolloutBuffer, "rollout_buffer_kwargs": {"incomplete_episodes": "drop"}}
    model = algorithm("MlpPolicy", diary(2, lengths=(50,)), n_steps=12, device="cpu", **own)
    with pytest.raises(ValueError, match=r"n_steps=12.*incomplete_episodes='drop'.*raise n_steps, or write"):
        model.learn(24)


# Normalised advantages


@every_algorithm
def test_batches_of_one_row_are_not_normalised(algorithm: Algorithm) -> None:
    """Refused where every batch has one; not where a quota of episodes has more."""
    arguments: dict[str, Any] = {"n_steps": 1, "normalize_advantage": True, "incomplete_episodes": "truncate"}
    with pytest.raises(ValueError, match=r"normalize_advantage=True.*n_steps=1.*n_steps >= 2"):
        make(algorithm, diary(), **arguments)
    make(algorithm, diary(2), **arguments)
    make(algorithm, diary(), **arguments, n_episodes=2)


@every_algorithm
def test_a_single_row_stays_as_it_is(algorithm: Algorithm) -> None:
    """An episode of one step: the gradient is that without the normalisation, as in SB3's PPO."""

    def grad_norms(normalize_advantage: bool) -> list[float]:
        model = make(
            algorithm, diary(lengths=(1,)), n_steps=1, baseline="none", normalize_advantage=normalize_advantage
        )
        dumps = log_to_memory(model)
        model.learn(4)
        return [one["train/grad_norm"] for one in dumps if "train/grad_norm" in one]

    assert grad_norms(True) == grad_norms(False)
    assert min(grad_norms(True)) > 0


@every_algorithm
def test_equal_advantages_teach_nothing(algorithm: Algorithm) -> None:
    """All 7 but for rounding: not the rounding, blown up to a deviation of 1."""
    model = make(algorithm, diary(2), normalize_advantage=True, baseline=lambda batch: batch.returns - 7.0)
    before = snapshot(model)["policy"]
    model.learn(64)
    assert model._n_updates > 0
    assert differences(before, snapshot(model)["policy"]) == []


# The optimal constant

LEVELS = ("timestep", "trajectory", "per_decision", "none")
OPTIMAL: list[tuple[Algorithm, dict[str, Any]]] = [
    *[
        (algorithm, {"returns": returns})
        for algorithm in (REINFORCE, VanillaPG)
        for returns in ("reward_to_go", "total")
    ],
    *[(algorithm, {"discount_gradient": True}) for algorithm in (REINFORCE, VanillaPG)],
    *[(OffPolicyISPG, {"importance": level}) for level in LEVELS],
    *[(OffPolicyISPG, {"importance": level, "discount_gradient": True}) for level in LEVELS],
]


def literal_sums(model: Any, batch: EpisodeBatch, returns: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """R_i and S_i of each episode, score by score: what multiplies a score, with the returns and without."""
    assert isinstance(batch.observations, th.Tensor)
    policy, level = model.policy, getattr(model, "importance", "timestep")
    parameters = [p for name, p in policy.named_parameters() if "value" not in name]
    with_returns, alone = [], []
    for rows in batch.each_episode():
        scores, ratios = [], []
        for row in range(rows.start, rows.stop):
            log_prob = policy.evaluate_actions(batch.observations[row : row + 1], batch.actions[row : row + 1])[1]
            scores.append(th.cat([g.flatten() for g in th.autograd.grad(log_prob.sum(), parameters)]).double())
            ratios.append(log_prob.item() - batch.behaviour_log_prob[row].item())
        rho, rewards, g = np.exp(ratios), batch.rewards[rows].double(), returns[rows].double()
        n = len(rho)
        w = {"timestep": rho, "none": np.ones(n), "trajectory": np.full(n, rho.prod())}.get(level, rho.cumprod())
        earned = [w[t] * float(g[t]) for t in range(n)]
        if level == "per_decision":
            earned = [sum(model.gamma ** (k - t) * w[k] * float(rewards[k]) for k in range(t, n)) for t in range(n)]
        factor = [model.gamma**t if model.discount_gradient else 1.0 for t in range(n)]
        with_returns.append(sum(factor[t] * earned[t] * scores[t] for t in range(n)))
        alone.append(sum(factor[t] * w[t] * scores[t] for t in range(n)))
    return th.stack(with_returns), th.stack(alone)


@pytest.mark.parametrize(("algorithm", "arguments"), OPTIMAL, ids=str)
def test_the_optimal_baseline_minimises_the_variance_of_what_is_used(
    algorithm: Algorithm, arguments: dict[str, Any]
) -> None:
    """Of sum_i |R_i - b S_i|^2 in every batch, with carried steps in it: no other constant is better."""
    model = make(
        algorithm, diary(3, lengths=(5, 3)), n_steps=7, baseline="optimal", gamma=0.9, learning_rate=0.05, **arguments
    )
    compute, n_carried = model._baseline, 0

    def checked(batch: EpisodeBatch, returns: th.Tensor) -> th.Tensor:
        nonlocal n_carried
        n_carried += int(batch.carried.sum())
        baseline = compute(batch, returns)
        with_returns, alone = literal_sums(model, batch, returns)
        best = float((with_returns * alone).sum() / alone.square().sum())
        assert baseline.tolist() == pytest.approx([best] * batch.n_rows, rel=1e-3)
        sizes = [float((with_returns - b * alone).square().sum()) for b in (float(baseline[0]), best + 0.1, best - 0.1)]
        assert sizes[0] < min(sizes[1:])
        return baseline

    model._baseline = checked  # type: ignore[method-assign]
    model.learn(7 * 3 * 4)
    assert n_carried > 0 and model._n_updates > 0


@every_algorithm
def test_a_total_return_is_not_discounted_twice(algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match=r"discount_gradient=True would discount twice.*returns='total'"):
        make(algorithm, diary(), returns="total", discount_gradient=True)


# What is logged


@every_algorithm
def test_a_ratio_of_no_signal_is_told_once(algorithm: Algorithm) -> None:
    model = make(algorithm, diary(), n_steps=5, log_gradient_variance=True, baseline="none")
    dumps = log_to_memory(model)
    with pytest.warns(UserWarning, match="gradient_snr is nan") as caught:
        model.learn(25)
    assert len(caught) == 1
    assert all(np.isnan(one["train/gradient_snr"]) for one in dumps if "train/gradient_snr" in one)


@every_algorithm
def test_the_parts_of_a_cut_episode_are_one_part(algorithm: Algorithm) -> None:
    """One environment, several segments, the last of them cut: no two independent parts, hence nan and a word."""
    model = make(
        algorithm, diary(), n_steps=12, log_gradient_variance=True, baseline="none", incomplete_episodes="truncate"
    )
    with pytest.warns(UserWarning, match="environments"):
        model.learn(24)


@given(n=st.integers(1, 200_000), weight=st.floats(2.0**-100, 2.0**60, width=32))
def test_the_effective_sample_size_of_equal_weights_is_all(n: int, weight: float) -> None:
    ess = float(effective_sample_size(th.full((n,), weight, dtype=th.float32)))
    assert 1 - 1e-5 < ess <= 1


@every_algorithm
def test_episodes_are_counted_that_ended(algorithm: Algorithm) -> None:
    """12 steps of episodes of 5: two end in the first rollout, and the third is cut."""
    model = make(algorithm, diary(2), n_steps=12, incomplete_episodes="truncate", baseline="none")
    dumps = log_to_memory(model)
    model.learn(48)
    assert [one["rollout/episodes"] for one in dumps] == [4, 4]


@pytest.mark.parametrize("algorithm", [VanillaPG, OffPolicyISPG])
def test_lambda_zero_explains_nothing_by_itself(algorithm: Algorithm) -> None:
    """The critic has learned nothing, and the lambda returns of lambda 0 are mostly what it says."""
    keep = Batches()
    env = diary(2, lengths=(50,))
    model = make(algorithm, env, n_steps=100, **OWN_CRITIC | {"returns": "gae"}, gae_lambda=0.0)
    with th.no_grad():
        model.policy.value_net.weight.mul_(200)  # a critic that is sure of something else
    dumps = log_to_memory(model)
    model.learn(400, callback=keep)
    first = next(one for one in dumps if "train/explained_variance" in one)["train/explained_variance"]
    batch = keep.updates[0]
    to_go = [float(batch.rewards[row : rows.stop] @ model.gamma ** th.arange(rows.stop - row))
             for rows in batch.each_episode() for row in range(rows.start, rows.stop)]  # fmt: skip
    expected = 1 - np.var(np.array(to_go) - batch.values.numpy()) / np.var(to_go)
    assert first == pytest.approx(expected, rel=1e-3)


# Rates


def test_the_natural_gradient_has_a_rate_of_its_own_with_plain_steps() -> None:
    def rate(**arguments: Any) -> Any:
        return VanillaPG("MlpPolicy", "CartPole-v1", device="cpu", **arguments).learning_rate

    sgd, adam = ({"optimizer_class": one} for one in (th.optim.SGD, th.optim.Adam))
    assert rate(natural_gradient=False) == rate(policy_kwargs=sgd) == 3e-3
    assert rate(natural_gradient=True, policy_kwargs=adam) == 3e-3
    assert rate(natural_gradient=True) == rate(natural_gradient=True, policy_kwargs=sgd) == 0.3
    assert rate(natural_gradient=True, learning_rate=0.1) == 0.1


@every_algorithm
def test_nothing_falls_below_zero(algorithm: Algorithm) -> None:
    """63 steps where 50 were asked for."""
    clip: dict[str, Any] = {"clip_range": lambda p: 0.2 * p, "clip_range_vf": lambda p: 0.2 * p}
    arguments = OWN_CRITIC | {
        name: (lambda p: 0.1 * p) for name in ("learning_rate", "ent_coef", "value_learning_rate")
    }
    model: Any = make(algorithm, diary(3), n_steps=7, **arguments | (clip if algorithm is OffPolicyISPG else {}))
    model.learn(50)
    assert model.num_timesteps == 63
    rates = [optimizer.param_groups[0]["lr"] for optimizer in (model.policy.optimizer, model.value_optimizer)]
    rates += [model._now(model.ent_coef)]
    if algorithm is OffPolicyISPG:
        rates += [model._clip_range(model.clip_range), model._clip_range(model.clip_range_vf)]
    assert rates == [0.0] * len(rates)


def test_the_snippet_of_the_readme_does_not_warn() -> None:
    text = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    (snippet,) = (one for one in re.findall(r"```python\n(.*?)```", text, re.S) if "EpisodeRolloutBuffer" in one)
    code = "import warnings\nfrom stable_baselines3 import A2C, PPO\nwarnings.simplefilter('error')\n"
    code += snippet.replace('"CartPole-v1",', '"CartPole-v1", device="cpu", n_steps=64,') + "\nmodel.learn(128)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
