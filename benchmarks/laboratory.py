"""What theory says of policy gradients, and what the gradient laboratory finds: ``python -m benchmarks.laboratory``.

A PPO that has learned CartPole-v1 half is frozen, and the same episodes are put before every estimator. Without
discounting, so that there is one objective. Takes a while; interrupted, it goes on where it stopped. The page is
``docs/results/laboratory.md``, with a figure in ``docs/figures``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.provenance import Stamp, publish
from sb3_pg.variance import Estimator, Measurement, Settings
from sb3_pg.variance.laboratory import Laboratory
from sb3_pg.variance.measure import measurement_of
from sb3_pg.variance.results import Estimate, EstimatorResult
from sb3_pg.variance.store import Stage
from sb3_pg.variance.summary import variance_ratio

PAGE, FIGURE, FOLDER = Path("docs/results/laboratory.md"), Path("docs/figures/laboratory.png"), Path("runs/laboratory")
ENV_ID, N_ENVS, N_STEPS, SEED = "CartPole-v1", 16, 16_384, 101
LAMBDAS = (0.0, 0.5, 0.9, 0.97, 1.0)

TOTAL, TO_GO = Estimator("total"), Estimator("reward_to_go")
CONSTANT, OF_TIME = Estimator("total", "leave_one_out"), Estimator("reward_to_go", "time_leave_one_out")
CONSTANT_TO_GO, OPTIMAL = Estimator("reward_to_go", "leave_one_out"), Estimator("reward_to_go", "optimal")
FITTED, OWN = (Estimator("reward_to_go", "value", critic) for critic in ("fitted", "model"))
DISCOUNTED = Estimator("reward_to_go", "time_leave_one_out", gamma=0.99)
SHRUNK = Estimator("total", "batch_mean")
BY_LAMBDA = [Estimator("gae", "value", critic, one) for critic in ("model", "fitted") for one in LAMBDAS]
ESTIMATORS = (TOTAL, SHRUNK, CONSTANT, TO_GO, CONSTANT_TO_GO, OPTIMAL, OF_TIME, DISCOUNTED, OWN, FITTED, *BY_LAMBDA)
STEPWISE, PER_DECISION, WHOLE = (Estimator(importance=level) for level in ("timestep", "per_decision", "trajectory"))
TAMED = Estimator(importance="trajectory", self_normalize=True)
SETTINGS = Settings(
    batches=128,
    episodes=16,
    reference_batches=256,
    estimators=ESTIMATORS,
    drift_estimators=(TO_GO, STEPWISE, PER_DECISION, WHOLE, TAMED),
    transforms=(),
    drifts=(0.001, 0.01, 0.1),
    landscape=(),
)
#: What theory says of two variances: words, the lower one, the higher one.
CLAIMS = (
    ("rewards to go, not the total return", TO_GO, TOTAL),
    ("total return less a constant baseline", CONSTANT, TOTAL),
    ("rewards to go less a constant baseline", CONSTANT_TO_GO, TO_GO),
    ("the optimal constant, not the mean", OPTIMAL, CONSTANT_TO_GO),
    ("a baseline for each time step, not a constant", OF_TIME, CONSTANT_TO_GO),
    ("a well-fitted critic, not a baseline for each time step", FITTED, OF_TIME),
    ("the model's own critic, not a baseline for each time step", OWN, OF_TIME),
    ("discounting by 0.99, at the price of a bias", DISCOUNTED, OF_TIME),
)


def frozen_model() -> PPO:
    """Half trained."""
    env = make_vec_env(ENV_ID, N_ENVS, seed=SEED)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=256, gamma=1.0, seed=SEED, device="cpu")
    return model.learn(N_STEPS)


def ratio(stage: Stage, lower: Estimator, higher: Estimator) -> Estimate:
    """Of their variances, on the same batches."""
    return variance_ratio(*(stage.column(f"raw/{one.name}") for one in (lower, higher)))


def text_of(one: Estimate, digits: int = 3) -> str:
    """With its interval."""
    return f"{one.value:.{digits}g} ({one.low:.{digits}g} to {one.high:.{digits}g})"


def shown(found: Estimate) -> str:
    """Whether a ratio below 1 was found."""
    if found.high < 1:
        return "yes"
    return "the opposite" if found.low > 1 else "not to be seen"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])


def claims_table(measured: Stage, drifts: Sequence[tuple[float, Stage]]) -> str:
    """Ratios of variances, one claim a line."""
    pairs = [(words, ratio(measured, lower, higher)) for words, lower, higher in CLAIMS]
    for kl, stage in drifts:
        for words, lower, higher in (
            ("a weight of each reward's past, not of the whole episode", PER_DECISION, WHOLE),
            ("a weight of each step alone, not of its past", STEPWISE, PER_DECISION),
            ("weights of whole episodes normalised to a mean of 1, or not", TAMED, WHOLE),
        ):
            pairs.append((f"{words}; KL {kl:g}", ratio(stage, lower, higher)))
    rows = [[words, text_of(found), shown(found)] for words, found in pairs]
    return table(["lower variance by", "ratio of the variances", "found"], rows)


def estimators_table(results: Sequence[EstimatorResult]) -> str:
    """A line an estimator."""
    rows = [
        [
            one.name,
            text_of(one.whole.variance),
            text_of(one.whole.snr, 2),
            text_of(one.whole.pairwise_cosine, 2),
            text_of(one.paired_bias) if one.name != OF_TIME.name else "0, as the yardstick",
            text_of(one.noise_scale),
        ]
        for one in results
    ]
    heads = ["estimator", "variance", "signal to noise", "cosine of two gradients", "bias", "noise scale, episodes"]
    return table(heads, rows)


def size_table(result: EstimatorResult) -> str:
    """Variance against the number of episodes."""
    rows = [
        [
            f"{point.episodes:,}",
            text_of(point.summary.variance),
            text_of(point.summary.reference_cosine, 2),
            f"{point.summary.variance.value * point.batches / result.curve[0].summary.variance.value:.2f}",
        ]
        for point in result.curve
    ]
    return table(["episodes", "variance", "cosine with the reference", "variance times episodes, relative"], rows)


def weights_table(measurement: Measurement) -> str:
    """Effective sample size and bias of each level against KL."""
    rows = []
    for drift in measurement.drifts:
        results = {one.name: one.whole for one in drift.estimators}
        for weights in drift.weights:
            whole = results[Estimator(importance=weights.level).name]  # type: ignore[arg-type]
            rows.append(
                [
                    f"{drift.measured_kl:.2g}",
                    weights.level,
                    text_of(weights.ess, 2),
                    text_of(weights.variance, 2),
                    text_of(whole.variance),
                    text_of(whole.relative_bias, 2),
                ]
            )
    heads = ["KL", "weights", "effective sample", "variance of the weights", "variance", "bias, relative"]
    return table(heads, rows)


def draw(results: Sequence[EstimatorResult], path: Path) -> None:
    """Variance against the number of episodes, and lambda's trade."""
    matplotlib.use("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    by_name = {one.name: one for one in results}
    for estimator in (TOTAL, CONSTANT, TO_GO, OF_TIME, FITTED):
        points = by_name[estimator.name].curve
        estimates = [point.summary.variance for point in points]
        spread = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
        x, y = [point.episodes for point in points], [e.value for e in estimates]
        left.errorbar(x, y, yerr=spread, label=estimator.name, capsize=2, linewidth=1)
    left.set(xscale="log", yscale="log", xlabel="episodes in a gradient", ylabel="variance (trace of the covariance)")
    sizes = [point.episodes for point in results[0].curve]
    left.set_xticks(sizes, [f"{size}" for size in sizes])
    left.minorticks_off()
    left.legend(fontsize="small")
    for critic in ("model", "fitted"):
        chosen = [by_name[one.name] for one in BY_LAMBDA if one.critic == critic]
        variances, biases = [one.whole.variance.value for one in chosen], [one.paired_bias.value for one in chosen]
        right.plot(biases, variances, marker="o", label=f"{critic} critic")
        for lam, bias, variance in zip(LAMBDAS, biases, variances, strict=True):
            right.annotate(f"{lam:g}", (bias, variance), textcoords="offset points", xytext=(4, 4), fontsize="small")
    right.set(
        yscale="log", xlabel="bias of the gradient", ylabel="variance", title="GAE: lambda trades one for the other"
    )
    right.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> int:
    """Measure what is missing, write the page and the figure."""
    stamp, model = Stamp.now(PAGE), frozen_model()
    lab = Laboratory(model, make_vec_env(ENV_ID, N_ENVS), SETTINGS, FOLDER / stamp.code)
    found = measurement_of(lab)
    drifts = [(one.kl, lab.drift(number, lab.step(one.kl), one.kl)[1]) for number, one in enumerate(found.drifts)]
    yardstick = next(one for one in found.estimators if one.name == OF_TIME.name)
    reference = found.references["undiscounted"]
    draw(found.estimators, FIGURE)
    text = f"""# What theory says of the gradient, and what is found

Made by `python -m benchmarks.laboratory`. A PPO after {found.steps:,} steps of {ENV_ID} (seed {SEED}, gamma=1.0),
whose episodes last {text_of(found.mean_length)} steps. A gradient is one of {SETTINGS.episodes} episodes;
{SETTINGS.batches} of them, the same for each estimator. The reference is the mean of {reference.episodes:,} other
episodes, whose halves have a cosine of {reference.half_cosine:.3f}. Intervals of 95%, each on its own: of twenty, one
misses.

## Claims about variance

{claims_table(lab.measured(), drifts)}

## Estimators

The variance is the trace of the covariance. The bias is the norm of the mean difference from `{OF_TIME.name}`, which
has none, on the same episodes (0 where noise leaves nothing). The gradient itself has a norm of
{text_of(reference.norm)}.

{estimators_table(found.estimators)}

## The size of the batch

`{yardstick.name}`: a variance of 1/N is a last column of ones.

{size_table(yardstick)}

## Policies that have moved on

Rewards to go without a baseline, of episodes that the old policy played, against the gradient at the new one.

{weights_table(found)}

![Variance against episodes, and lambda's trade](../figures/laboratory.png)
"""
    publish(text, PAGE, stamp)
    return 0


if __name__ == "__main__":
    sys.exit(main())
