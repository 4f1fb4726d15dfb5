"""The parts of a batch, and a batch of no rows among others."""

from __future__ import annotations

import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from sb3_pg.data.batch import EpisodeBatch, concatenate
from sb3_pg.data.minibatches import Minibatch, minibatches, pieces, whole_batch
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.policies.divergence import Divergence
from sb3_pg.policies.passes import Passes, all_log_probs
from sb3_pg.update.natural_gradient import FisherMatrix
from tests.helpers.models import policy_and_batch

LENGTHS = st.lists(st.integers(1, 6), max_size=5)


def batch_of(lengths: list[int], n_observed: int = 4) -> EpisodeBatch:
    """Episodes of these lengths, of zeros."""
    index = EpisodeIndex.from_lengths(th.tensor(lengths, dtype=th.long))
    rows, each = th.zeros(index.n_rows), th.zeros(index.n_episodes)
    env, ended, observed = th.arange(index.n_episodes), each > 0, th.zeros(index.n_rows, n_observed)
    actions = rows.long()
    return EpisodeBatch(index, observed, actions, rows, rows, rows, rows > 0, env, ended, ended, each)


def rows_of(part: Minibatch, batch: EpisodeBatch) -> list[int]:
    return th.arange(batch.n_rows)[part.rows].tolist()


@given(n_rows=st.integers(0, 9), size=st.none() | st.integers(1, 9))
def test_pieces_are_all_rows_in_order_and_one_at_least(n_rows: int, size: int | None) -> None:
    found = list(pieces(n_rows, size))
    assert len(found) >= 1
    assert [row for piece in found for row in range(piece.start, piece.stop)] == list(range(n_rows))
    assert max(piece.stop - piece.start for piece in found) <= (n_rows if size is None else size)


@given(lengths=LENGTHS, batch_size=st.none() | st.integers(1, 8), whole_episodes=st.booleans())
def test_minibatches_are_the_batch(lengths: list[int], batch_size: int | None, whole_episodes: bool) -> None:
    """Each row once, in parts whose shares add up to 1 (0 of a batch of none)."""
    batch = batch_of(lengths)
    parts = list(minibatches(batch, batch_size, whole_episodes))
    assert sorted(row for part in parts for row in rows_of(part, batch)) == list(range(batch.n_rows))
    assert all(part.n_rows == len(rows_of(part, batch)) for part in parts)
    assert sum(part.share for part in parts) == pytest.approx(1.0 if lengths else 0.0)


@given(first=LENGTHS, second=LENGTHS)
def test_batches_are_joined_of_any_number_of_episodes(first: list[int], second: list[int]) -> None:
    joined = concatenate([batch_of(first), batch_of(second)])
    assert joined.episodes.lengths.tolist() == [*first, *second]
    assert joined.env.tolist() == list(range(len(first) + len(second)))


def test_no_pass_is_made_over_no_rows() -> None:
    """PyTorch's distributions take none, nor does a batch normalisation."""
    policy, _ = policy_and_batch(spaces.Discrete(3))
    batch = batch_of([])
    policy.features_extractor.register_forward_pre_hook(lambda *_: pytest.fail("a pass"))
    values, log_prob, entropy = Passes(policy, 0, None, True).evaluate(batch.at(slice(0, 0)), values=True)
    assert values is not None
    assert entropy is not None
    assert (values.shape, log_prob.shape, entropy.shape) == ((0, 1), (0,), (0,))
    assert all_log_probs(policy, batch, whole_batch(batch), 5).shape == (0,)
    assert float(Divergence(policy, batch).summed(slice(0, 0))) == 0.0
    assert FisherMatrix(policy, batch).parameters == []
