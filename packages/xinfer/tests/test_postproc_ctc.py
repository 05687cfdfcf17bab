"""Decoding against the sum over all paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xinfer.errors import InputError
from xinfer.postproc import beam_search, greedy_decode

CHARSET = ["-", "a", "b", "c"]


def distribution(steps: int, symbols: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(symbols, 0.6), steps)


def collapse(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """Graves 2006, section 3.1: repeats merged, then blanks dropped."""
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != blank)


def by_all_paths(probs_TC: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    steps, symbols = probs_TC.shape
    total: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(symbols), repeat=steps):
        key = collapse(path, blank)
        total[key] = total.get(key, 0.0) + float(np.prod(probs_TC[np.arange(steps), path]))
    return total


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(0, 5), symbols=st.integers(2, 4), blank=st.integers(-1, 1), seed=st.integers(0, 999))
def test_a_wide_beam_search_gives_the_exact_probabilities(
    steps: int, symbols: int, blank: int, seed: int
) -> None:
    probs_TC = distribution(steps, symbols, seed)
    exact = by_all_paths(probs_TC, blank % symbols)
    found = beam_search(probs_TC, blank=blank, beam_width=10_000, num_results=10_000)
    assert {item.symbols for item in found} >= exact.keys() - {k for k, p in exact.items() if p == 0}
    for item in found:
        assert item.score == pytest.approx(exact[item.symbols], rel=1e-9, abs=1e-12)
    scores = [item.score for item in found]
    assert scores == sorted(scores, reverse=True)


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(0, 12), symbols=st.integers(2, 5), blank=st.integers(0, 1), seed=st.integers(0, 999))
def test_greedy_is_the_collapsed_best_path(steps: int, symbols: int, blank: int, seed: int) -> None:
    probs_TC = distribution(steps, symbols, seed)
    (found,) = greedy_decode(probs_TC[None], blank=blank)
    assert found.symbols == collapse(tuple(probs_TC.argmax(axis=1).tolist()), blank)
    assert len(found.steps) == len(found.symbols)
    for symbol, step in zip(found.symbols, found.steps, strict=True):
        assert probs_TC[step].argmax() == symbol


def test_greedy_writes_text_with_the_mean_probability() -> None:
    probs = np.array([[0.1, 0.9, 0, 0], [0.2, 0.8, 0, 0], [1, 0, 0, 0], [0, 0.6, 0.4, 0], [0, 0, 0, 1]])
    (found,) = greedy_decode(probs[None], charset=CHARSET)
    assert found.text == "aac"
    assert found.steps == (0, 3, 4)
    assert found.score == pytest.approx((0.9 + 0.6 + 1) / 3)
    (empty,) = greedy_decode(np.tile([[1.0, 0, 0, 0]], (3, 1))[None], charset=CHARSET)
    assert (empty.text, empty.score) == ("", 0.0)


def test_beam_search_finds_what_the_best_path_misses() -> None:
    # The blank wins each step, yet the paths that write "a" are likelier together: Graves 2006, figure 2.
    probs = np.array([[0.6, 0.4], [0.6, 0.4]])
    assert greedy_decode(probs[None], charset=["-", "a"])[0].text == ""
    (found,) = beam_search(probs, charset=["-", "a"])
    assert found.text == "a"
    assert found.score == pytest.approx(0.64)


def test_beam_search_stays_exact_over_many_steps() -> None:
    # Probabilities of 400 steps underflow unless they are kept as logarithms.
    probs = np.full((400, 3), [0.5, 0.3, 0.2])
    (found,) = beam_search(probs, beam_width=4, top_symbols=1)
    assert all(symbol == 1 for symbol in found.symbols)
    assert np.isfinite(found.score)


def test_top_symbols_leaves_out_unlikely_ones() -> None:
    probs = np.array([[0.1, 0.5, 0.3, 0.1]])
    texts = {item.text for item in beam_search(probs, charset=CHARSET, top_symbols=2, num_results=9)}
    assert texts == {"", "a", "b"}


@pytest.mark.parametrize(
    "options", [{"blank": 4}, {"blank": -5}, {"charset": ["-", "a"]}, {"charset": list("-abcd")}]
)
def test_a_charset_or_blank_that_does_not_fit_is_refused(options: dict) -> None:
    with pytest.raises(InputError):
        greedy_decode(np.ones((1, 2, 4)) / 4, **options)
    with pytest.raises(InputError):
        beam_search(np.ones((2, 4)) / 4, **options)


def test_shapes_and_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError):
        greedy_decode(np.ones((2, 4)))
    with pytest.raises(InputError):
        beam_search(np.ones((1, 2, 4)))
    for options in ({"beam_width": 0}, {"top_symbols": 0}, {"num_results": 0}):
        with pytest.raises(InputError):
            beam_search(np.ones((2, 4)), **options)
