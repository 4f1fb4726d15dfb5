"""A run that is interrupted, anywhere and anyhow, ends as if it had not been."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, StopTrainingOnMaxEpisodes
from torch import nn

from sb3_pg import REINFORCE, ResumeCallback, VanillaPG
from sb3_pg.checkpoints.store import checkpoints_in
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from tests.checkpoints.kills import kill_through
from tests.checkpoints.runs import KINDS, Interrupt, Interrupted, Kind, learn, outcome
from tests.helpers.models import differences, snapshot

SMALL = Kind(REINFORCE, n_envs=2, arguments={"n_steps": 32}, steps=640)


def learn_through(kind: Kind, folder: Path, steps: Sequence[int], more: Callable[[], list[BaseCallback]] = list) -> Any:
    """A run that is interrupted after so many steps of each process, and resumed each time."""
    for at in steps:
        np.random.seed(at)  # another process has other numbers
        th.manual_seed(at)
        random.seed(at)
        with pytest.raises(Interrupted):
            learn(kind, folder, more=[*more(), Interrupt(at)])
    return learn(kind, folder, more=more())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_run_that_is_interrupted_equals_one_that_is_not(kind: Kind, tmp_path: Path) -> None:
    steps = kind.steps // kind.n_envs
    interruptions = [steps // 2] if kind.backend in ("subproc", "async") else [steps // 2, steps // 3]
    whole = outcome(learn(kind, tmp_path / "whole", resumable=False), tmp_path / "whole")
    broken = learn_through(kind, tmp_path / "broken", interruptions)
    assert outcome(broken, tmp_path / "broken") == whole


@pytest.mark.parametrize("name", ["reuse", "critic"])
def test_a_run_that_is_killed_equals_one_that_is_not(name: str, tmp_path: Path) -> None:
    _, different = kill_through(KINDS[name], tmp_path, random.Random(0), kills=2)
    assert not different


@pytest.mark.parametrize("at", [1, 31, 32, 33, 64, 65])
def test_at_every_place_around_the_edge_of_a_rollout(at: int, tmp_path: Path) -> None:
    whole = learn(SMALL, tmp_path / "whole", resumable=False)
    broken = learn_through(SMALL, tmp_path / "broken", [at])
    assert outcome(broken, tmp_path / "broken") == outcome(whole, tmp_path / "whole")


class Edits(BaseCallback):
    """Changes the model in the middle of a run, once."""

    def __init__(self, edit: Callable[[PolicyGradientAlgorithm], None]) -> None:
        super().__init__()
        self.edit, self.is_done = edit, False

    def _on_step(self) -> bool:
        if self.num_timesteps >= 320 and not self.is_done:
            self.is_done = True
            self.edit(self.model)  # type: ignore[arg-type]
        return True


def freeze(model: Any) -> None:
    """Freeze a layer."""
    model.policy.mlp_extractor.policy_net[0].requires_grad_(False)


def replace_layer(model: Any) -> None:
    """Put another layer in place, of another kind."""
    model.policy.mlp_extractor.policy_net[1] = nn.Softplus()


def replace_optimizer(model: Any) -> None:
    """Put another optimizer in place."""
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=1e-2, momentum=0.9)


def set_arguments(model: Any) -> None:
    """Anneal by hand."""
    model.ent_coef, model.max_grad_norm, model.rollout_buffer.gamma = 0.1, 0.2, 0.9


@pytest.mark.parametrize("edit", [freeze, replace_layer, replace_optimizer, set_arguments])
def test_what_a_callback_did_to_the_model_lasts(edit: Callable[[Any], None], tmp_path: Path) -> None:
    def edits() -> list[BaseCallback]:
        return [Edits(edit)]

    whole = learn(SMALL, tmp_path / "whole", resumable=False, more=edits())
    broken = learn_through(SMALL, tmp_path / "broken", [240], edits)
    assert outcome(broken, tmp_path / "broken") == outcome(whole, tmp_path / "whole")
    assert [one.requires_grad for one in broken.policy.parameters()] == [
        one.requires_grad for one in whole.policy.parameters()
    ]


class Remembers(BaseCallback):
    """Has a memory of many kinds."""

    def __init__(self, given: str) -> None:
        super().__init__()
        self.given, self.seen, self.rewards, self.best = given, 0, list[float](), {"mean": -np.inf}

    def _on_step(self) -> bool:
        self.seen += 1
        return True

    def _on_rollout_end(self) -> None:
        self.rewards.append(float(self.model.rollout_buffer.rewards.sum()))  # type: ignore[attr-defined]
        self.best["mean"] = max(self.best["mean"], self.rewards[-1])
        self.logger.record("custom/draw", random.random() + np.random.random())


def test_callbacks_remember_what_they_did_and_are_what_their_constructors_say(tmp_path: Path) -> None:
    whole, broken = Remembers("a"), Remembers("b")
    learn(SMALL, tmp_path / "whole", resumable=False, more=[whole])
    with pytest.raises(Interrupted):
        learn(SMALL, tmp_path / "broken", more=[CallbackList([Remembers("a")]), Interrupt(200)])
    learn(SMALL, tmp_path / "broken", more=[Interrupt(10_000), CallbackList([broken])])  # in another place
    assert (broken.seen, broken.rewards, broken.best) == (whole.seen, whole.rewards, whole.best)
    assert broken.n_calls == whole.n_calls
    assert broken.given == "b"


def test_a_run_that_a_callback_ended_is_ended_there_again(tmp_path: Path) -> None:
    def stop() -> list[BaseCallback]:
        return [StopTrainingOnMaxEpisodes(max_episodes=10)]

    first = learn(SMALL, tmp_path / "run", more=stop())
    again = learn(SMALL, tmp_path / "run", more=stop())
    assert again.num_timesteps == first.num_timesteps < SMALL.steps
    assert not differences(snapshot(first), snapshot(again))


@pytest.mark.parametrize("name", ["reuse", "carried episodes"])
def test_a_run_that_is_at_its_end_stays_as_it_is(name: str, tmp_path: Path) -> None:
    first = outcome(learn(KINDS[name], tmp_path), tmp_path)
    newest = checkpoints_in(tmp_path / "checkpoints")[-1]
    again = learn(KINDS[name], tmp_path)  # SB3 empties the files of logs when it opens them
    assert outcome(again, tmp_path) == first
    assert checkpoints_in(tmp_path / "checkpoints")[-1] == newest


@pytest.mark.parametrize("is_asked_in_between", [False, True])
def test_a_run_that_is_at_its_end_can_be_made_longer(is_asked_in_between: bool, tmp_path: Path) -> None:
    kind = Kind(REINFORCE, normalize=True, arguments={"n_steps": 16}, steps=640)
    whole = kind.model(kind.env()).learn(640).learn(384, reset_num_timesteps=False)
    kind.model(kind.env()).learn(640, callback=ResumeCallback(tmp_path, every=100))
    longer = kind.algorithm.resume(tmp_path, kind.env())
    if is_asked_in_between:
        longer.learn(640)
    longer.learn(384, reset_num_timesteps=False)
    assert longer.num_timesteps == whole.num_timesteps == 1024
    assert not differences(snapshot(whole), snapshot(longer))


def test_the_second_call_of_learn_goes_on_where_it_was(tmp_path: Path) -> None:
    kind = Kind(VanillaPG, normalize=True, arguments={"n_steps": 16}, steps=640)
    whole = kind.model(kind.env()).learn(640).learn(384, reset_num_timesteps=False)
    broken = kind.model(kind.env()).learn(640)
    with pytest.raises(Interrupted):
        callbacks = [ResumeCallback(tmp_path, every=100), Interrupt(40)]
        broken.learn(384, reset_num_timesteps=False, callback=callbacks)
    resumed = kind.algorithm.resume(tmp_path, kind.env()).learn(384, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps == 1024
    assert not differences(snapshot(whole), snapshot(resumed))


def test_schedules_follow_another_number_of_steps_and_a_warning_says_so(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        learn(SMALL, tmp_path, more=[Interrupt(200)])
    model = REINFORCE.resume(tmp_path / "checkpoints", SMALL.env())
    with pytest.warns(UserWarning, match=r"asked for 640 steps and goes on with learn\(704\)"):
        model.learn(704)
    assert model.num_timesteps == 704


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for at in (200, None):
        env, folder = SMALL.env(), tmp_path / "checkpoints"
        if at is None:
            model = REINFORCE.resume(folder, env)
            model.learn(640)
        else:
            model = REINFORCE("MlpPolicy", env, n_steps=32, tensorboard_log=str(tmp_path / "tb"))
            with pytest.raises(Interrupted):
                model.learn(640, callback=[ResumeCallback(folder, every=128), Interrupt(at)])
    (run,) = (tmp_path / "tb").iterdir()
    found = events.EventAccumulator(str(run))
    found.Reload()
    steps = [one.step for one in found.Scalars("train/policy_loss")]
    assert steps == [*range(128, 641, 64)]  # an update is logged with the rollout after it
