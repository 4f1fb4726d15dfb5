"""The gradient that ``REINFORCE.learn`` hands to its optimizer is the literal sum over what the environments played.

The reference (:mod:`tests.helpers.gradients`) shares nothing with the package: it knows the steps from a recorder
around each environment, the drawn actions from a hook on the policy, and calls ``autograd.grad`` once a step in double
precision. Everywhere the parameters really change between the iterations (plain gradient descent), so steps that an
earlier policy sampled are weighted by pi_now / pi_then, truncated at 10.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.common.arguments import BASELINES
from sb3_pg.estimators import LossReduction
from tests.helpers.environments import OBSERVATIONS, SPACES, RandomEnv
from tests.helpers.gradients import callable_baseline, carried_ratio, literal_gradients, pieces_of_learn
from tests.helpers.recording import Negate, Tape, record
from tests.helpers.tabular import TabularEnv, long_episodes_pay, tabular_env

LOSS_REDUCTIONS = get_args(LossReduction)


def assert_literal(model: REINFORCE, tape: Tape, tolerance: float = 1e-6) -> None:
    """In every iteration |gradient - reference| <= tolerance |reference|; and there were updates to compare at all."""
    expected = literal_gradients(model, tape)
    assert tape.gradients.keys() == expected.keys() and len(expected) >= 2
    for iteration, reference in expected.items():
        error = reference.error(tape.gradients[iteration])
        assert error <= tolerance, f"iteration {iteration}: relative error {error:.1e}"


def carried_ratios(model: REINFORCE, tape: Tape) -> list[float]:
    """pi_now / pi_then of the steps that were used in a later iteration than the one that sampled them."""
    return [
        carried_ratio(tape, iteration, piece, step)
        for iteration, pieces in pieces_of_learn(model, tape).items()
        for piece in pieces
        for step in piece.steps
        if step.iteration != iteration
    ]


# Every combination of three of the last four occurs; total returns are discounted already
SETTINGS = [
    (returns, n_envs, by_episodes, discount_gradient, micro)
    for returns in ("reward_to_go", "total")
    for n_envs in (1, 3)
    for by_episodes in (False, True)
    for discount_gradient in (False, True)
    for micro in ([None, 7][(n_envs == 3) ^ by_episodes ^ discount_gradient],)
    if not (returns == "total" and discount_gradient)
]


# Every setting with every baseline, in turn with one of the reductions: these meet all settings and all baselines
COMBINED = [
    pytest.param(*setting, baseline, LOSS_REDUCTIONS[(i + k) % len(LOSS_REDUCTIONS)], id=f"{name}-{i}")
    for i, setting in enumerate(SETTINGS)
    for k, (name, baseline) in enumerate([*((name, name) for name in BASELINES), ("callable", callable_baseline)])
]


@pytest.mark.parametrize(
    ("returns", "n_envs", "by_episodes", "discount_gradient", "micro_batch_size", "baseline", "loss_reduction"),
    COMBINED,
)
def test_gradient_is_the_literal_sum(
    returns: str,
    baseline: Any,
    loss_reduction: str,
    n_envs: int,
    by_episodes: bool,
    discount_gradient: bool,
    micro_batch_size: int | None,
) -> None:
    """Every estimator; by steps (where episodes are carried over) and by whole episodes; one environment and three.

    By episodes each iteration begins with a reset, so that no episode goes on in the next one.
    """
    model, tape = record(
        tabular_env,
        n_envs,
        algorithm=REINFORCE,
        n_steps=100 if by_episodes else 19 if n_envs == 1 else 7,
        n_episodes=6 if by_episodes else None,
        returns=returns,
        baseline=baseline,
        loss_reduction=loss_reduction,
        discount_gradient=discount_gradient,
        micro_batch_size=micro_batch_size,
        gamma=0.9,
        learning_rate=0.1,
        vf_coef=0.0,
    )
    assert_literal(model, tape)
    assert by_episodes == (not carried_ratios(model, tape))
    if by_episodes:
        assert all(len({step.iteration for step in episode.steps}) == 1 for episode in tape.episodes if episode.steps)


def sure_of_the_first_action(model: REINFORCE) -> None:
    """Probabilities of 0.93 and 0.07 everywhere, but for what the weights add."""
    bias = model.policy.action_net.bias
    assert isinstance(bias, th.Tensor)
    bias.data.copy_(th.tensor([1.3, -1.3]))


def test_carried_weights_are_truncated_at_ten() -> None:
    """Between policies of (0.93, 0.07) and (0.07, 0.93) carried steps have ratios of 13, which count 10, or of 1/13.

    (The score of a likely action, 1 - 0.93, loses a digit in single precision, hence the tolerance.)
    """
    model, tape = record(
        tabular_env,
        4,
        algorithm=REINFORCE,
        n_steps=5,
        n_iterations=20,
        baseline="none",
        policy_kwargs={"net_arch": [], "optimizer_class": Negate},
        prepare=sure_of_the_first_action,
    )
    assert_literal(model, tape, tolerance=5e-6)
    ratios = np.array(carried_ratios(model, tape))
    assert (ratios > 12).any() and (ratios < 1 / 12).any()


@pytest.mark.parametrize("bootstrap_truncated", [False, True])
@pytest.mark.parametrize("incomplete_episodes", ["carry", "bootstrap", "truncate", "drop"])
def test_every_rule_for_cut_episodes(incomplete_episodes: str, bootstrap_truncated: bool) -> None:
    """What follows an edge or a time limit goes into the gradient as the rule says, and never into the rewards.

    With ``discount_gradient`` a piece of an episode that began in an earlier rollout is weighted by gamma^t with the
    t of the episode.
    """
    model, tape = record(
        lambda: TabularEnv(long_episodes_pay(horizon=3), horizon_end="truncated"),
        3,
        algorithm=REINFORCE,
        n_steps=5,
        n_iterations=6,
        returns="reward_to_go",
        baseline="value",
        incomplete_episodes=incomplete_episodes,
        bootstrap_truncated=bootstrap_truncated,
        gamma=0.9,
        discount_gradient=True,
        learning_rate=0.1,
        prepare=lambda model: th.nn.init.normal_(model.policy.value_net.weight),
    )
    assert_literal(model, tape)
    played = [np.full_like(rewards, np.nan) for rewards in tape.buffer_rewards]
    for episode, step in tape.steps():
        if step.iteration < len(played):
            played[step.iteration][step.tick % 5, episode.env] = step.reward
    np.testing.assert_array_equal(tape.buffer_rewards, played)
    begun = [one for one in tape.episodes if one.steps]
    assert any(one.steps[0].iteration != one.steps[-1].iteration for one in begun) and any(
        one.truncated for one in begun
    )


@pytest.mark.parametrize("policy", OBSERVATIONS)
@pytest.mark.parametrize("actions", SPACES)
@pytest.mark.parametrize("baseline", ["time_leave_one_out", "optimal"])
def test_every_action_space(policy: str, actions: str, baseline: str) -> None:
    """The log-prob of a step is the joint one, summed over the dimensions of the action once, of the action drawn.

    That is the one that the environment played, but for a Box with narrow bounds: there it is the action before it
    was clipped.
    """
    action_space, arguments = SPACES[actions]
    model, tape = record(
        lambda: RandomEnv(action_space, OBSERVATIONS[policy], horizon=6, end_probability=0.2),
        2,
        algorithm=REINFORCE,
        policy=policy,
        n_steps=11,
        baseline=baseline,
        learning_rate=0.02,
        ent_coef=0.05,
        policy_kwargs={"net_arch": [5]},
        **arguments,
    )
    assert_literal(model, tape)
    assert carried_ratios(model, tape)
    is_clipped = []
    for episode, step in tape.steps():
        drawn = tape.sampled[step.tick][episode.env]
        low, high = (action_space.low, action_space.high) if isinstance(action_space, spaces.Box) else (None, None)
        np.testing.assert_array_equal(step.action, drawn if low is None else np.clip(drawn, low, high))
        is_clipped.append(not np.array_equal(step.action, drawn))
    assert any(is_clipped) == (actions == "Box clipped")


@pytest.mark.parametrize("own_optimizer", [False, True])
@pytest.mark.parametrize("normalize_advantage", [False, True])
@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_the_whole_loss(own_optimizer: bool, normalize_advantage: bool, micro_batch_size: int | None) -> None:
    """Normalised advantages, an entropy bonus and a critic: of the joint loss, or with an optimizer of its own."""
    model, tape = record(
        tabular_env,
        2,
        algorithm=REINFORCE,
        n_steps=16,
        baseline="value",
        normalize_advantage=normalize_advantage,
        ent_coef=0.1,
        vf_coef=0.0 if own_optimizer else 0.5,
        value_learning_rate=0.1 if own_optimizer else None,
        micro_batch_size=micro_batch_size,
        learning_rate=0.1,
        policy_kwargs={"net_arch": [4]},
    )
    assert_literal(model, tape)


def test_normalisation_without_a_critic() -> None:
    """The default of REINFORCE: time_leave_one_out, normalised over the steps of the batch, before gamma^t."""
    model, tape = record(
        tabular_env,
        2,
        algorithm=REINFORCE,
        n_steps=8,
        normalize_advantage=True,
        discount_gradient=True,
        gamma=0.8,
        learning_rate=0.3,
    )
    assert_literal(model, tape)


@pytest.mark.parametrize("baseline", ["batch_mean", "value"])
def test_a_quota_that_takes_several_rollouts(baseline: str) -> None:
    """With n_steps too short for n_episodes the episodes so far are kept, and the update uses the quota, whole."""
    with pytest.warns(UserWarning, match="n_steps=5 ended before each environment had played its share"):
        model, tape = record(
            tabular_env,
            2,
            algorithm=REINFORCE,
            n_steps=5,
            n_episodes=6,
            n_iterations=12,
            baseline=baseline,
            vf_coef=0.0,
            learning_rate=0.1,
        )
    assert_literal(model, tape)
    assert len(tape.gradients) < 12
    assert all(len(pieces) == 6 for pieces in pieces_of_learn(model, tape).values())


@pytest.mark.parametrize("algorithm", [REINFORCE, VanillaPG, OffPolicyISPG])
@pytest.mark.parametrize("batch_normalisation", [False, True])
def test_large_batches_go_through_in_pieces(algorithm: Any, batch_normalisation: bool) -> None:
    """Unless told otherwise no pass of a learning policy sees more than 4,096 rows, and the parameters after an update
    are those of one piece to 1e-6; with batch normalisation, whose pieces would differ, there is one piece."""

    def learn(micro_batch_size: int | None) -> tuple[dict[str, th.Tensor], int]:
        kwargs: dict[str, Any] = {"features_extractor_class": Normalised} if batch_normalisation else {}
        whole: dict[str, Any] = {"batch_size": None} if algorithm is OffPolicyISPG else {}
        model = algorithm(
            "MlpPolicy",
            make_vec_env("CartPole-v1", 40, seed=0),
            n_steps=150,
            micro_batch_size=micro_batch_size,
            **whole,
            policy_kwargs={"net_arch": [8], **kwargs},
            seed=0,
            device="cpu",
        )
        rows: list[int] = []

        def note(module: Any, arguments: Any, output: Any) -> None:
            rows.extend([len(output)] * module.training)

        model.policy.action_net.register_forward_hook(note)
        model.learn(6000)
        return {name: value.clone() for name, value in model.policy.named_parameters()}, max(rows)

    (ours, most), (in_one, all_rows) = learn(None), learn(10**6)
    assert most == all_rows > 5000 if batch_normalisation else most == 4096
    for name in ours:
        th.testing.assert_close(ours[name], in_one[name], rtol=1e-6, atol=1e-6)


class Normalised(FlattenExtractor):
    """Features with a batch normalisation."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.normalise = th.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.normalise(super().forward(observations))
