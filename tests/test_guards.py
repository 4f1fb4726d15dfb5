"""What is not a number never reaches a parameter, and what does not belong together is never put together."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import ReturnsBatch
from tests.helpers.environments import BrokenEnvironment, Fault, diary, faulty
from tests.helpers.models import (
    JOINT_CRITIC,
    MONTE_CARLO,
    OWN_CRITIC,
    Algorithm,
    differences,
    every_algorithm,
    every_estimator,
    make,
    n_updates,
    no_episode_ended,
    snapshot,
)
from tests.helpers.recording import Batches, StopAfter, assert_whole

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


every_critic = pytest.mark.parametrize("estimator", [JOINT_CRITIC, OWN_CRITIC], ids=["joint critic", "own critic"])

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
every_not_finite = pytest.mark.parametrize("value", NOT_FINITE.values(), ids=NOT_FINITE.keys())


def assert_intact(model: PolicyGradientAlgorithm, before: dict[str, Any], path: Path) -> None:
    """Nothing has changed, and the model can still be saved, loaded and asked."""
    assert differences(before, snapshot(model)) == []
    model.save(path / "model")
    loaded = type(model).load(path / "model", device="cpu")
    assert differences(before, snapshot(loaded)) == []
    observation = model.observation_space.sample()
    action, _ = loaded.predict(observation, deterministic=True)
    assert model.action_space.contains(action)


class BreakOff(BaseCallback):
    """Raises an error in its ``n``-th step."""

    def __init__(self, n: int, error: type[BaseException]) -> None:
        super().__init__()
        self.n, self.error = n, error

    def _on_step(self) -> bool:
        if self.n_calls == self.n:
            raise self.error
        return True


# Not finite, from the environment


@every_algorithm
@every_not_finite
@pytest.mark.parametrize("what", ["observation", "reward"])
@pytest.mark.parametrize("as_dict", [False, True], ids=["array", "dict"])
def test_environment(algorithm: Algorithm, what: Any, value: float, as_dict: bool, tmp_path: Path) -> None:
    """The error names what, which environment and when; the model is that of the last update."""
    # The fault is in step 23 of environment 1 of 3: in the second rollout, after an update.
    env = faulty(Fault(what, step=23, value=value), as_dict=as_dict)
    model = make(algorithm, env, policy="MultiInputPolicy" if as_dict else "MlpPolicy")
    model.learn(48)
    before = snapshot(model)
    assert n_updates(model) == 1
    where = f"{what} of environment 1 at time step {23 * 3} is not finite"
    with pytest.raises(ValueError, match=rf"(?i){where}: .*{re.escape(str(value))}.*can be saved"):
        model.learn(48, reset_num_timesteps=False)
    assert_intact(model, before, tmp_path)


@every_algorithm
@pytest.mark.parametrize("as_dict", [False, True], ids=["array", "dict"])
def test_first_observation(algorithm: Algorithm, as_dict: bool, tmp_path: Path) -> None:
    """What ``reset`` returns is looked at too."""
    env = faulty(Fault("reset"), as_dict=as_dict)
    model = make(algorithm, env, policy="MultiInputPolicy" if as_dict else "MlpPolicy")
    before = snapshot(model)
    with pytest.raises(ValueError, match="observation of environment 1 at time step 0 is not finite"):
        model.learn(48)
    assert_intact(model, before, tmp_path)


@every_algorithm
@pytest.mark.parametrize("n_episodes", [None, 6])
def test_reward_while_waiting(algorithm: Algorithm, n_episodes: int | None) -> None:
    """Steps that would not be used are checked as well: a broken environment is never learned around."""
    env = faulty(Fault("reward", step=12), lengths=[2, 2, 20])
    model = make(algorithm, env, n_episodes=n_episodes, n_steps=100)
    with pytest.raises(ValueError, match="reward of environment 1 at time step 36"):
        model.learn(300)


@every_algorithm
@pytest.mark.parametrize("what", ["observation", "reward"])
def test_environment_under_vec_normalize(algorithm: Algorithm, what: Any) -> None:
    """VecNormalize spreads what is not finite over all environments; the error still names the one it came from."""
    model = make(algorithm, VecNormalize(faulty(Fault(what, step=4))))
    with pytest.raises(ValueError, match=f"(?i){what} of environment 1 at time step 12"):
        model.learn(48)


@every_algorithm
@every_critic
def test_terminal_observation(algorithm: Algorithm, estimator: dict[str, Any], tmp_path: Path) -> None:
    """The last observation of an episode, which only ``bootstrap_truncated`` looks at, breaks no parameter either."""
    env = faulty(Fault("observation", step=5), ending="truncated")
    model = make(algorithm, env, **estimator | {"bootstrap_truncated": True})
    before = snapshot(model)
    with pytest.raises(ValueError, match="not finite"):
        model.learn(48)
    assert_intact(model, before, tmp_path)


# Not finite, from the loss and its gradient


def one_nan(batch: ReturnsBatch) -> th.Tensor:
    """A broken baseline."""
    values = th.zeros_like(batch.returns)
    values[-1] = math.nan
    return values


@every_algorithm
def test_loss(algorithm: Algorithm, tmp_path: Path) -> None:
    """A baseline that is not finite makes a loss that is not."""
    model = make(algorithm, diary(2), **MONTE_CARLO | {"baseline": one_nan})
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"(loss|baseline).*(nan|not finite)"):
        model.learn(32)
    assert_intact(model, before, tmp_path)


@every_algorithm
@every_estimator
@every_not_finite
def test_gradient(algorithm: Algorithm, estimator: dict[str, Any], value: float, tmp_path: Path) -> None:
    """A gradient that is not finite is not stepped along, and leaves no trace in the optimizer."""
    model = make(algorithm, diary(2), **estimator).learn(32)
    before = snapshot(model)
    weight = model.policy.action_net.weight
    assert isinstance(weight, th.Tensor)
    handle = weight.register_hook(lambda gradient: gradient * value)
    with pytest.raises(ValueError, match=r"gradient .*not finite.*No parameter was changed"):
        model.learn(32, reset_num_timesteps=False)
    assert_intact(model, before, tmp_path)
    handle.remove()
    updates = n_updates(model)
    model.learn(32, reset_num_timesteps=False)
    assert n_updates(model) == updates + 1
    assert all(bool(th.isfinite(value).all()) for value in model.policy.state_dict().values())


@every_algorithm
@every_critic
def test_gradient_of_the_critic(algorithm: Algorithm, estimator: dict[str, Any], tmp_path: Path) -> None:
    """The promise that no parameter was changed holds for the actor too when it is the critic that breaks."""
    model = make(algorithm, diary(2), **estimator).learn(32)
    before = snapshot(model)
    model.policy.value_net.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(ValueError, match=r"not finite.*No parameter was changed"):
        model.learn(32, reset_num_timesteps=False)
    assert_intact(model, before, tmp_path)


@every_algorithm
@every_critic
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rewards_too_large_for_float32(algorithm: Algorithm, estimator: dict[str, Any], tmp_path: Path) -> None:
    """A reward that is finite, but its square is not: the critic's loss is refused."""
    model = make(algorithm, faulty(Fault("reward", step=2, value=1e30), faulty_env=0, n_envs=1), **estimator)
    before = snapshot(model)
    with pytest.raises(ValueError, match="not finite"):
        model.learn(16)
    assert_intact(model, before, tmp_path)


# Nothing to learn from


@every_algorithm
@every_estimator
def test_no_episode_no_update(algorithm: Algorithm, estimator: dict[str, Any]) -> None:
    """Without an ended episode nothing changes. A long one is waited for in silence; ten rollouts of it are worth one
    warning for all of them, which says what to do."""
    model = make(algorithm, diary(2, lengths=[5, 300, 5]), n_steps=8, **estimator)
    model.learn(16)
    before = snapshot(model)
    assert n_updates(model) == 1
    model.learn(2 * 8 * 9, reset_num_timesteps=False)
    with pytest.warns(UserWarning, match=r"No episode ended within n_steps=8") as caught:
        model.learn(2 * 8 * 4, reset_num_timesteps=False)
    assert len(caught) == 1
    assert caught[0].filename == __file__, "it points to the line that calls learn()"
    for advice in ("Raise n_steps", "TimeLimit", "incomplete_episodes='truncate'", "'bootstrap' and baseline='value'"):
        assert advice in str(caught[0].message)
    assert differences(before, snapshot(model)) == []
    assert n_updates(model) == 1


@every_algorithm
def test_no_full_quota_no_update(algorithm: Algorithm) -> None:
    """The same for a quota that ``n_steps`` does not suffice for, with advice of its own."""
    model = make(algorithm, diary(2, lengths=[5]), n_steps=8, n_episodes=20)
    before = snapshot(model)
    with pytest.warns(UserWarning, match=r"n_steps=8 .*n_episodes=20.*Raise n_steps or lower n_episodes") as caught:
        model.learn(2 * 8 * 4)
    assert len(caught) == 1
    assert differences(before, snapshot(model)) == []
    assert n_updates(model) == 0


# Never spliced

LENGTHS = [7, 4, 6, 5]
#: In which step of the second rollout of 16 steps it happens. Episodes end in its 1st, 6th, 11th and 16th.
WHEN = [1, 2, 3, 6, 7, 11, 12, 16]


@every_algorithm
@pytest.mark.parametrize("n_episodes", [None, 4])
@pytest.mark.parametrize("step", WHEN)
def test_after_a_callbacks_stop(algorithm: Algorithm, step: int, n_episodes: int | None) -> None:
    """Training that a callback stopped in the middle of a rollout goes on with whole episodes only."""
    model = make(algorithm, diary(2, lengths=LENGTHS), n_episodes=n_episodes)
    assert_goes_on_whole(model, lambda: model.learn(64, callback=StopAfter(16 + step)))


@every_algorithm
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("n_episodes", [None, 4])
@pytest.mark.parametrize("step", WHEN)
def test_after_an_exception_in_a_callback(
    algorithm: Algorithm, step: int, error: type[BaseException], n_episodes: int | None
) -> None:
    """So does training that an exception, or Ctrl-C, ended."""
    model = make(algorithm, diary(2, lengths=LENGTHS), n_episodes=n_episodes)

    def interrupt() -> None:
        with pytest.raises(error):
            model.learn(64, callback=BreakOff(16 + step, error))

    assert_goes_on_whole(model, interrupt)


@every_algorithm
@pytest.mark.parametrize("what", ["reward", "error"])
@pytest.mark.parametrize("faulty_env", [0, 1])
@pytest.mark.parametrize("step", WHEN)
def test_after_a_fault_of_an_environment(algorithm: Algorithm, step: int, faulty_env: int, what: Any) -> None:
    """So does training that an environment ended, whichever of the environments had been stepped by then."""
    env = faulty(Fault(what, step=16 + step), n_envs=2, faulty_env=faulty_env, lengths=LENGTHS)
    model = make(algorithm, env)

    def interrupt() -> None:
        with pytest.raises((ValueError, BrokenEnvironment)):
            model.learn(64)

    assert_goes_on_whole(model, interrupt)


def assert_goes_on_whole(model: PolicyGradientAlgorithm, interrupt: Any) -> None:
    """After the interruption a further ``learn`` makes updates, on whole episodes only, each with its own rewards."""
    interrupt()
    recorder = Batches()
    model.learn(2 * 16 * 3, callback=recorder, reset_num_timesteps=False)
    assert len(recorder.updates) >= 2
    for batch in recorder.updates:
        assert_whole(batch, lengths=LENGTHS)
        assert batch.episodes.step.tolist() == batch.episodes.position.tolist()
        if model.n_episodes is not None:
            assert batch.episodes.n_episodes == model.n_episodes


@every_algorithm
@pytest.mark.parametrize("step", WHEN)
def test_steps_are_numbered_right_after_a_stop(algorithm: Algorithm, step: int) -> None:
    """With ``"truncate"`` the rest of an episode is used whose beginning a stop has lost: its steps keep their t."""
    estimator = MONTE_CARLO | {"baseline": "none", "incomplete_episodes": "truncate"}
    model = make(algorithm, diary(2, lengths=LENGTHS), **estimator)
    model.learn(64, callback=StopAfter(16 + step))
    recorder = Batches()
    model.learn(2 * 16 * 3, callback=recorder, reset_num_timesteps=False)
    for batch in recorder.updates:
        assert isinstance(batch.observations, th.Tensor)
        assert batch.episodes.step.tolist() == batch.observations[:, 2].tolist()


@every_algorithm
def test_interrupted_before_the_first_rollout_ends(algorithm: Algorithm) -> None:
    """An exception in the very first step, then ``learn``: no row of before is in the batch of after."""
    model = make(algorithm, diary(1, lengths=[5]))
    with pytest.raises(RuntimeError):
        model.learn(16, callback=BreakOff(1, RuntimeError))
    recorder = Batches()
    model.learn(16, callback=recorder, reset_num_timesteps=False)
    assert_whole(recorder.updates[0], lengths=[5])


@every_algorithm
def test_warns_again_only_for_another_reason(algorithm: Algorithm) -> None:
    """A second ``learn`` does not repeat the warning."""
    model = make(algorithm, diary(1, lengths=[None]))
    with no_episode_ended():
        model.learn(32)
    model.learn(32, reset_num_timesteps=False)


@every_algorithm
def test_integers_and_images_are_not_checked(algorithm: Algorithm) -> None:
    """Integer observations cannot be NaN: an environment with only those works."""
    model = make(algorithm, diary(1, as_dict=True), policy="MultiInputPolicy").learn(16)
    assert isinstance(model._last_obs, dict)
    assert np.issubdtype(model._last_obs["index"].dtype, np.integer)
