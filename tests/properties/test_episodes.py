"""Episodes of few-shot adaptation: support and query never share a sample, and draws compare."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.training.episodes import MIN_QUERY, draw_episodes


@given(
    heldout=st.integers(15, 400),
    shots=st.lists(st.integers(1, 10), min_size=1, max_size=3),
    draws=st.integers(1, 4),
    query=st.integers(1, 300),
    seed=st.integers(0, 9),
)
def test_no_support_sample_is_measured_on(
    heldout: int, shots: list[int], draws: int, query: int, seed: int
) -> None:
    episodes = draw_episodes(heldout, shots, draws, query, seed)
    assert 1 <= len(episodes.query) <= query
    assert len(np.unique(episodes.query)) == len(episodes.query)
    assert len(episodes.support) == draws
    for support in episodes.support:
        assert len(np.unique(support)) == len(support) == max(shots)
        assert not np.isin(support, episodes.query).any()
        assert support.max() < heldout
    if heldout >= 2 * max(shots) * draws:
        assert len(np.unique(np.concatenate(episodes.support))) == draws * max(shots)


def test_the_query_is_as_large_as_asked_for_when_there_is_plenty() -> None:
    assert len(draw_episodes(300, (1, 5), 3, 200, 0).query) == 200


def test_episodes_follow_the_seed() -> None:
    first, again, other = (draw_episodes(100, (5,), 2, 50, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.query, again.query)
    assert np.array_equal(first.support[1], again.support[1])
    assert not np.array_equal(first.query, other.query)


def test_too_few_held_out_samples_are_refused_with_the_numbers() -> None:
    message = rf"adapt\.shots: 10 examples .* need {10 + MIN_QUERY} held-out samples, but there are 14"
    with pytest.raises(InputError, match=message):
        draw_episodes(14, (1, 10), 2, 50, 0)
