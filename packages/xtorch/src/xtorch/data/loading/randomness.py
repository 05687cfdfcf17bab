"""Every sample's own random state: a function of seed, epoch and index, and of nothing else.

Neither the number nor the kind of workers can change what is drawn, and an epoch can be entered anywhere.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import numpy as np
import torch


class Purpose(IntEnum):
    """What a generator is for: streams of different purposes are independent."""

    ORDER = 0
    SAMPLE = 1
    BATCH = 2


def generator(seed: int, epoch: int, purpose: Purpose, number: int = 0) -> np.random.Generator:
    """The generator of an epoch's order, of a sample (by index) or of a batch (by number)."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, epoch, purpose, number)))


def _sequence(seed: int, epoch: int, purpose: Purpose, number: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(epoch, int(purpose), number))


@contextlib.contextmanager
def seeded_globals(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Within it, the generators of `random`, `numpy.random` and torch (CPU) are a sample's own.

    For datasets that draw from them; the process's own states are put back, so that training draws what it
    would have drawn without a loader. Not for threads, which share these generators.
    """
    words = _sequence(seed, epoch, Purpose.SAMPLE, index).generate_state(3)
    before = global_state()
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


def global_state() -> tuple[Any, Any, torch.Tensor]:
    """The states of the process's generators."""
    return random.getstate(), np.random.get_state(), torch.default_generator.get_state()


def draws_from_globals(before: tuple[Any, Any, torch.Tensor]) -> bool:
    """Whether any of the process's generators has moved since `before`."""
    now = global_state()
    return (
        now[0] != before[0]
        or now[1][2:] != before[1][2:]
        or not np.array_equal(now[1][1], before[1][1])
        or not torch.equal(now[2], before[2])
    )
