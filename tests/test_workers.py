"""Data-parallel workers: their update is that of one process which has the episodes of all, and none waits for ever.

In two processes of PyTorch's gloo backend (:mod:`tests.helpers.workers`), in double precision.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch as th

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.data import distributed
from sb3_pg.data.batch import ReturnsBatch
from tests.helpers.models import JOINT_CRITIC, MONTE_CARLO, OWN_CRITIC, differences
from tests.helpers.workers import NEVER, Case, Outcome, Workers, build, learn_alone, learn_with_a_peer


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    pair = Workers(tmp_path_factory.mktemp("workers"))
    yield pair
    pair.close()


#: Episodes that the rollout's edge cuts, and a critic's word on the rest.
CUT = JOINT_CRITIC | {"returns": "gae", "incomplete_episodes": "bootstrap", "bootstrap_truncated": True}
CUT_OWN = CUT | {"value_learning_rate": 1e-2, "n_value_updates": 3}
FAR: dict[str, Any] = {"learning_rate": 0.1, "n_epochs": 6}


def longest_so_far(batch: ReturnsBatch) -> th.Tensor:
    """A baseline of the rows alone."""
    return batch.episodes.step.to(batch.returns)


def natural(**arguments: Any) -> Case:
    """Whose solver begins at random, and ends near the solution."""
    return dataclasses.replace(vanilla(**arguments, natural_gradient=True), tolerance=1e-6)


def reinforce(**arguments: Any) -> Case:
    return Case(REINFORCE, {"learning_rate": 0.05, "log_gradient_variance": True, **arguments})


def vanilla(**arguments: Any) -> Case:
    return Case(VanillaPG, {"learning_rate": 0.05, "gae_lambda": 0.9, **arguments})


def ispg(**arguments: Any) -> Case:
    return Case(OffPolicyISPG, {"learning_rate": 0.02, "n_epochs": 3, "ent_coef": 0.01, **arguments})


BASELINES = ("none", "batch_mean", "time_mean", "leave_one_out", "time_leave_one_out", "optimal", 0.5, longest_so_far)
CASES: dict[str, Case] = {
    **{f"REINFORCE {getattr(one, '__name__', one)}": reinforce(baseline=one) for one in BASELINES},
    "REINFORCE critic": reinforce(**JOINT_CRITIC),
    "REINFORCE quota": reinforce(n_episodes=4),
    "REINFORCE total": reinforce(returns="total", baseline="time_mean", loss_reduction="episode"),
    "REINFORCE normalised": reinforce(normalize_advantage=True, discount_gradient=True, loss_reduction="step"),
    "VanillaPG joint critic": vanilla(**CUT, ent_coef=0.01, log_gradient_variance=True),
    # Of which worker 0 has none
    "VanillaPG cut episodes": dataclasses.replace(
        vanilla(**CUT, log_gradient_variance=True), horizons=(4, 6), end_probability=0.0
    ),
    "VanillaPG own critic": vanilla(**CUT_OWN, normalize_advantage=True),
    "VanillaPG critic in minibatches": vanilla(**CUT_OWN | {"incomplete_episodes": "carry"}, value_batch_size=7),
    "VanillaPG critic in its units": vanilla(**CUT_OWN, normalize_value=True),
    "VanillaPG in pieces": vanilla(**CUT_OWN, micro_batch_size=5),
    "VanillaPG natural": natural(**OWN_CRITIC, micro_batch_size=7),
    "VanillaPG KL bound": natural(**OWN_CRITIC, target_kl=0.01),
    "VanillaPG KL bound, searched": natural(**CUT, target_kl=2.0, line_search_shrinking_factor=0.5, ent_coef=0.01),
    "VanillaPG KL bound, as it is": natural(**CUT_OWN, target_kl=0.01, line_search_max_iter=0),
    "VanillaPG Box": dataclasses.replace(natural(**CUT_OWN), action_space="Box"),
    "VanillaPG frozen": dataclasses.replace(vanilla(**CUT), frozen=True),
    "ISPG no critic": ispg(),
    **{f"ISPG {one}": ispg(loss_reduction=one) for one in ("step", "episode", "mean_length")},
    "ISPG clip": ispg(**CUT_OWN, clip_range=0.2, clip_range_vf=0.1, normalize_advantage=True, **FAR),
    "ISPG penalty": ispg(**CUT, target_kl=0.01, kl_constraint="penalty", **FAR),
    "ISPG stop": ispg(**CUT_OWN, target_kl=0.01, **FAR),
    "ISPG backtrack": ispg(**CUT, target_kl=0.001, kl_constraint="backtrack", **FAR),
    # Steps after which the distributions are none: worker 1, where it has no rows, does not find that out by itself
    "ISPG backtrack from far": ispg(target_kl=0.001, kl_constraint="backtrack", n_epochs=2, learning_rate=1e308),
    "ISPG min_ess": ispg(min_ess=0.9, **FAR),
    "ISPG self_normalize": ispg(self_normalize=True, max_weight=1.5),
    "ISPG trajectory": ispg(importance="trajectory", self_normalize=True, log_gradient_variance=True),
    "ISPG per_decision": ispg(importance="per_decision", self_normalize=True, normalize_advantage=True),
    "ISPG optimal": ispg(importance="per_decision", baseline="optimal"),
    "ISPG reused": ispg(**OWN_CRITIC, n_reused_batches=2, n_steps=24),
    "ISPG reused trajectories": ispg(importance="trajectory", n_reused_batches=2, micro_batch_size=6),
    "ISPG V-trace": ispg(**CUT_OWN, n_reused_batches=2, n_steps=24, reused_advantages="vtrace"),
    "ISPG V-trace, whole episodes": ispg(
        **CUT_OWN | {"incomplete_episodes": "carry"}, n_reused_batches=1, reused_advantages="vtrace"
    ),
    "ISPG minibatches": ispg(**OWN_CRITIC, batch_size=6, value_batch_size=4, normalize_advantage=True),
    "ISPG minibatches clip": ispg(**CUT | {"incomplete_episodes": "carry"}, batch_size=6, clip_range=0.2),
    "ISPG minibatches of episodes": ispg(importance="trajectory", batch_size=6, self_normalize=True),
    "ISPG minibatches of pieces": ispg(
        importance="per_decision", batch_size=8, micro_batch_size=3, self_normalize=True, normalize_advantage=True
    ),
    "ISPG minibatches stop": ispg(batch_size=6, target_kl=0.01, **FAR),
}
#: Worker 1's episodes last longer than a rollout: it has none at first, and then one with steps that it carried over.
LATE: dict[str, Case] = {
    name: dataclasses.replace(CASES[name], horizons=(5, 20), end_probability=0.0)
    for name, case in CASES.items()
    if case.arguments.get("incomplete_episodes", "carry") == "carry"
    and name not in {f"REINFORCE {one}" for one in ("none", "batch_mean", "0.5", "total", "quota")}
    and name not in {f"ISPG {one}" for one in ("step", "episode", "mean_length")}
}


def assert_same(outcomes: list[Outcome], expected: Outcome, tolerance: float) -> None:
    """The workers agree to the bit, so that they never drift apart, and with one process but for rounding."""
    assert differences(outcomes[0].parameters, outcomes[1].parameters) == []
    outcome = outcomes[0]
    assert outcome.error == expected.error == ""
    assert outcome.n_updates == expected.n_updates
    for name, value in expected.parameters.items():
        th.testing.assert_close(outcome.parameters[name], value, rtol=tolerance, atol=tolerance)
    for each in outcomes:
        for logged, wanted in zip(each.logged, expected.logged, strict=True):
            assert logged == pytest.approx(wanted, rel=10 * tolerance, abs=tolerance, nan_ok=True)


@pytest.mark.parametrize("name", CASES)
def test_two_workers_learn_as_one_process_with_the_episodes_of_both(name: str, workers: Workers) -> None:
    workers.start(learn_with_a_peer, CASES[name])
    expected = learn_alone(CASES[name])
    assert_same(workers.results(), expected, CASES[name].tolerance)
    assert expected.n_updates >= 2
    arguments = CASES[name].arguments
    may_stop = "n_epochs" in arguments and "kl_constraint" not in arguments
    if may_stop and {"target_kl", "min_ess"} & arguments.keys():
        assert expected.n_updates < CASES[name].n_iterations * arguments["n_epochs"], "nothing was stopped"


@pytest.mark.parametrize("name", LATE)
def test_a_worker_without_an_episode_takes_part_with_none(name: str, workers: Workers) -> None:
    workers.start(learn_with_a_peer, LATE[name])
    expected = learn_alone(LATE[name])
    outcomes = workers.results()
    assert_same(outcomes, expected, LATE[name].tolerance)
    for outcome in outcomes:
        assert not any("No episode" in warning for warning in outcome.warnings)
    assert expected.n_updates >= 2


def learned(algorithm: Any, rank: int) -> dict[str, th.Tensor]:
    """The parameters after ``learn`` itself."""
    model = build(Case(algorithm, CUT_OWN if algorithm is VanillaPG else {}), rank)
    return model.learn(4 * model.n_steps * model.n_envs).policy.state_dict()


@pytest.mark.parametrize("algorithm", [REINFORCE, VanillaPG, OffPolicyISPG])
def test_learn_keeps_the_workers_together(algorithm: Any, workers: Workers) -> None:
    one, other = workers.run(learned, algorithm)
    assert differences(one, other) == []


@pytest.mark.parametrize("algorithm", [REINFORCE, VanillaPG, OffPolicyISPG])
def test_without_an_episode_on_any_worker_there_is_no_update(algorithm: Any, workers: Workers) -> None:
    case = Case(algorithm, OWN_CRITIC, horizons=(NEVER, NEVER), end_probability=0.0)
    for outcome in workers.run(learn_with_a_peer, case):
        assert (outcome.n_updates, outcome.error) == (0, "")
        assert len([warning for warning in outcome.warnings if "No episode" in warning]) == 1
        assert math.isnan(outcome.logged[-1]["train/policy_loss"])


@pytest.mark.parametrize("algorithm", [REINFORCE, VanillaPG, OffPolicyISPG])
@pytest.mark.parametrize(("estimator", "edited"), [(MONTE_CARLO, "advantages"), (OWN_CRITIC, "returns")])
def test_a_gradient_that_is_not_finite_stops_both(
    algorithm: Any, estimator: dict[str, Any], edited: str, workers: Workers
) -> None:
    case = Case(algorithm, estimator, edited=edited, n_iterations=1)
    one, other = workers.run(learn_with_a_peer, case)
    assert "is not finite" in one.error
    assert "is not finite" in other.error


def fails_on_long_episodes(batch: ReturnsBatch) -> th.Tensor:
    """A user's function that has a fault on worker 1."""
    if int(batch.episodes.lengths.max()) > 5:
        raise ValueError("too long for me")
    return batch.returns


def test_a_baseline_that_fails_on_one_worker_stops_both(workers: Workers) -> None:
    case = Case(REINFORCE, {"baseline": fails_on_long_episodes}, end_probability=0.0, horizons=(4, 8))
    one, other = workers.run(learn_with_a_peer, case)
    assert "Another worker" in one.error
    assert "too long for me" in other.error


# --- the seam itself ------------------------------------------------------------------------------------------------


def through_the_seam(rank: int) -> dict[str, Any]:
    """Every function, of what differs between the workers."""
    some = th.arange(3.0 * rank)  # none on worker 0; 0, 1, 2 on worker 1
    layer = th.nn.Linear(2, 1)
    optimizer = th.optim.SGD(layer.parameters(), lr=1.0)
    if rank == 1:
        layer.weight.grad = th.ones(1, 2)
    distributed.sum_gradients(optimizer)
    leaf = th.ones((), requires_grad=True)
    return {
        "all_sum": distributed.all_sum(some.sum()).item(),
        "requires_grad": distributed.all_sum(leaf * 2).requires_grad,
        "ragged_sum": distributed.ragged_sum(th.ones(2 + rank)).tolist(),
        "all_max": distributed.all_max(some).item(),
        "all_mean": distributed.all_mean(some).item(),
        "all_count": distributed.all_count(rank + 1),
        "most": distributed.most(rank + 1),
        "any_worker": (distributed.any_worker(rank == 1), distributed.any_worker(False)),
        "gradients": (layer.weight.grad is not None and layer.weight.grad.tolist(), layer.bias.grad),
        "shift_and_scale": [value.item() for value in distributed.shift_and_scale(some[: rank * 2])],
        "mean_of_one": [value.item() for value in distributed.shift_and_scale(some[:rank])],
    }


def test_the_seam(workers: Workers) -> None:
    one, other = workers.run(through_the_seam)
    expected = {
        "all_sum": 3.0,
        "requires_grad": False,
        "all_max": 2.0,
        "all_mean": 1.0,
        "all_count": 3,
        "most": 2,
        "any_worker": (True, False),
        "gradients": ([[1.0, 1.0]], None),
        "shift_and_scale": pytest.approx([0.5, math.sqrt(0.5) + 1e-8]),
        "mean_of_one": [0.0, 1.0],
    }
    assert one == expected | {"ragged_sum": [2.0, 2.0]}
    assert other == expected | {"ragged_sum": [2.0, 2.0, 1.0]}


def test_a_process_alone_gets_back_what_it_gives() -> None:
    """The very tensor, with its gradient, in or out of a process group of its own."""
    tensor = th.ones(3, requires_grad=True)
    assert distributed.all_sum(tensor) is distributed.ragged_sum(tensor) is tensor
    assert distributed.all_max(th.empty(0)).item() == -math.inf
    with pytest.raises(ValueError, match="mine"), distributed.failing_together():
        raise ValueError("mine")
