"""Connectionist temporal classification: a distribution per time step as a sequence of symbols.

Legend: B sequences, T time steps, C symbols, the blank among them.

Source: A. Graves et al., "Connectionist Temporal Classification", ICML 2006: section 3.1 (the map that
merges repeated symbols and drops blanks), section 3.2 (best-path decoding). Prefix beam search as in
A. Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent
DNNs", 2014, section 2.3, algorithm 1, without a language model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xinfer.errors import InputError

_NEVER = -math.inf


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """One decoded sequence.

    Attributes:
        symbols: Class numbers, blanks dropped.
        text: The symbols in the charset; empty without one.
        steps: Of each symbol, the time step at which it is most likely (best path) or first appears; empty
            for beam search, which sums over many paths.
        score: Best path: the mean probability of the symbols, 0 of none. Beam search: the probability of the
            sequence.
    """

    symbols: tuple[int, ...]
    text: str
    steps: tuple[int, ...]
    score: float


def greedy_decode(
    probs_BTC: np.ndarray, *, charset: Sequence[str] | None = None, blank: int = 0
) -> list[Transcript]:
    """The most likely symbol of each step, repeats merged and blanks dropped.

    Args:
        probs_BTC: Probabilities.
        charset: What each of the C classes writes, the blank's entry included (it is never written).
        blank: The blank's class number; negative counts from the end.

    Returns:
        One transcript per sequence.

    Raises:
        InputError: Shapes, charset or blank do not fit.
    """
    probs_BTC = np.asarray(probs_BTC)
    if probs_BTC.ndim != 3:
        raise InputError(f"must be [B,T,C], not {list(probs_BTC.shape)}", value=list(probs_BTC.shape))
    blank = _check(probs_BTC.shape[2], charset, blank)
    best_BT = probs_BTC.argmax(axis=2)
    score_BT = np.take_along_axis(probs_BTC, best_BT[:, :, None], axis=2)[:, :, 0]
    result = []
    for best_T, score_T in zip(best_BT, score_BT, strict=True):
        starts = np.flatnonzero(np.diff(best_T, prepend=-1))
        ends = np.append(starts, len(best_T))[1:]
        runs = [
            (int(best_T[start]), int(start + score_T[start:end].argmax()))
            for start, end in zip(starts, ends, strict=True)
            if best_T[start] != blank
        ]
        symbols, steps = tuple(symbol for symbol, _ in runs), tuple(step for _, step in runs)
        score = float(score_T[list(steps)].mean()) if steps else 0.0
        result.append(Transcript(symbols=symbols, text=_write(symbols, charset), steps=steps, score=score))
    return result


def beam_search(
    probs_TC: np.ndarray,
    *,
    charset: Sequence[str] | None = None,
    blank: int = 0,
    beam_width: int = 16,
    top_symbols: int | None = None,
    num_results: int = 1,
) -> list[Transcript]:
    """The most likely sequences, each over all the paths that write it.

    Args:
        probs_TC: Probabilities of one sequence.
        charset: As in `greedy_decode`.
        blank: As in `greedy_decode`.
        beam_width: Prefixes that are followed. With as many as there are, the result is exact.
        top_symbols: Symbols considered per step, the likeliest; None: all. The blank always is.
        num_results: How many sequences.

    Returns:
        Transcripts, likeliest first; equal ones in the order of their symbols.

    Raises:
        InputError: Shapes, charset, blank or widths do not fit.
    """
    probs_TC = np.asarray(probs_TC, np.float64)
    if probs_TC.ndim != 2:
        raise InputError(f"must be [T,C], not {list(probs_TC.shape)}", value=list(probs_TC.shape))
    num_symbols = probs_TC.shape[1]
    blank = _check(num_symbols, charset, blank)
    if beam_width < 1 or num_results < 1 or (top_symbols is not None and top_symbols < 1):
        raise InputError("beam_width, top_symbols and num_results must be positive", value=beam_width)
    with np.errstate(divide="ignore"):
        log_TC = np.log(probs_TC)
    # Prefix -> log probability of the paths that end in the blank, and of those that end in its symbol.
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, _NEVER)}
    for log_C in log_TC:
        symbols = _symbols(log_C, blank, top_symbols)
        log_probs = log_C.tolist()
        following: dict[tuple[int, ...], list[float]] = {}
        for prefix, (ends_blank, ends_symbol) in beams.items():
            either = _log_add(ends_blank, ends_symbol)
            last = prefix[-1] if prefix else None
            same = following.setdefault(prefix, [_NEVER, _NEVER])
            same[0] = _log_add(same[0], either + log_probs[blank])
            if last is not None:
                # The same symbol again, without a blank between, writes nothing new.
                same[1] = _log_add(same[1], ends_symbol + log_probs[last])
            for symbol in symbols:
                longer = following.setdefault((*prefix, symbol), [_NEVER, _NEVER])
                before = ends_blank if symbol == last else either
                longer[1] = _log_add(longer[1], before + log_probs[symbol])
        # What no path writes, such as a repeated symbol before any blank could stand between, is dropped.
        possible = {prefix: ends for prefix, ends in following.items() if max(ends) > _NEVER}
        ranked = sorted(possible.items(), key=lambda item: (-_log_add(*item[1]), item[0]))
        beams = {prefix: (ends[0], ends[1]) for prefix, ends in ranked[:beam_width]}
    return [
        Transcript(symbols=prefix, text=_write(prefix, charset), steps=(), score=math.exp(_log_add(*ends)))
        for prefix, ends in list(beams.items())[:num_results]
    ]


def _symbols(log_C: np.ndarray, blank: int, top_symbols: int | None) -> list[int]:
    if top_symbols is None or top_symbols >= len(log_C):
        chosen = np.arange(len(log_C))
    else:
        chosen = np.argsort(-log_C, kind="stable")[:top_symbols]
    return [int(symbol) for symbol in chosen if symbol != blank and log_C[symbol] > _NEVER]


def _log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b)), with minus infinity for nothing."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))


def _write(symbols: Sequence[int], charset: Sequence[str] | None) -> str:
    return "" if charset is None else "".join(charset[symbol] for symbol in symbols)


def _check(num_symbols: int, charset: Sequence[str] | None, blank: int) -> int:
    if not -num_symbols <= blank < num_symbols:
        raise InputError(f"the blank {blank} is none of {num_symbols} symbols", value=blank)
    if charset is not None and len(charset) != num_symbols:
        raise InputError(
            f"the charset has {len(charset)} entries for {num_symbols} symbols",
            value=len(charset),
            hint="the blank has an entry too",
        )
    return blank % num_symbols
