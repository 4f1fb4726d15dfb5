"""The order of the rows, against lists that are put together row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sb3_pg.rollout.timeline import MARKS, Carried, Timeline

FIELDS = (*MARKS, "observation")


def fields_of(rng: np.random.Generator, *shape: int) -> dict[str, np.ndarray]:
    """Values that differ from each other."""
    fields: dict[str, np.ndarray] = {name: rng.normal(size=shape) for name in MARKS}
    return fields | {"observation": rng.normal(size=(*shape, 2))}


def literal(fields: dict[str, np.ndarray], carried: Carried | None) -> list[tuple[int, int, dict[str, Any]]]:
    """Environment, place and values of each row; of an environment what is carried first, then the rollout."""
    n_steps, n_envs = fields["start"].shape
    rows = []
    for env in range(n_envs):
        for place in range(0 if carried is None else len(carried.env)):
            if carried is not None and carried.env[place] == env:
                values = {name: carried.fields[name][place] for name in FIELDS}
                rows.append((env, place - len(carried.env), values))
        for step in range(n_steps):
            values = {name: fields[name][step, env] for name in FIELDS}
            rows.append((env, step * n_envs + env, values))
    return rows


@given(
    n_steps=st.integers(1, 6),
    n_carried=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    anything=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rows_are_in_the_order_of_episodes(n_steps: int, n_carried: list[int], anything: bool, seed: int) -> None:
    """Also where more is carried than the rollout has rows."""
    rng = np.random.default_rng(seed)
    fields = fields_of(rng, n_steps, len(n_carried))
    env = np.repeat(np.arange(len(n_carried)), n_carried)
    carried = Carried(env, fields_of(rng, len(env))) if anything else None
    timeline, rows = Timeline(fields, carried), literal(fields, carried)
    assert timeline.env.tolist() == [row[0] for row in rows]
    assert timeline.source.tolist() == [row[1] for row in rows]
    chosen = np.flatnonzero(rng.random(len(rows)) < 0.5)
    for name in FIELDS:
        everything = np.array([row[2][name] for row in rows])
        np.testing.assert_array_equal(timeline.taker(slice(None))(name), everything)
        np.testing.assert_array_equal(timeline.taker(chosen)(name), everything[chosen])


def test_what_is_kept_comes_first_in_the_next_one() -> None:
    rng = np.random.default_rng(0)
    first = Timeline(fields_of(rng, 3, 2), None)
    kept = first.kept(np.array([1, 2, 5]))
    second = Timeline(fields_of(rng, 2, 2), kept)
    assert second.env.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert (second.source < 0).tolist() == [True, True, False, False, True, False, False]
    np.testing.assert_array_equal(second.taker(np.array([0, 1, 4]))("observation"), kept.fields["observation"])


def test_a_changed_mark_is_taken_and_kept_as_changed() -> None:
    timeline = Timeline(fields_of(np.random.default_rng(0), 3, 2), None)
    timeline.marks["done"][4] = 7.0
    assert timeline.taker(np.array([4]))("done").tolist() == [7.0]
    assert timeline.kept(np.array([4])).fields["done"].tolist() == [7.0]
