"""Which of an engine's two copies answers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np

from xinfer.serve.adaptive import AdaptiveEngine


class FakeEngine:
    """Answers with its name; waits in `infer` until `gate` opens."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.closed = False

    def infer(self, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
        self.entered.release()
        assert self.gate.wait(10)
        return {"by": self.name}

    def close(self) -> None:
        self.closed = True


def adaptive() -> tuple[AdaptiveEngine, FakeEngine, FakeEngine]:
    alone, together = FakeEngine("alone"), FakeEngine("together")
    return AdaptiveEngine(cast(Any, alone), cast(Any, together)), alone, together


def test_lone_requests_get_all_cores() -> None:
    engine, alone, together = adaptive()
    alone.gate.set()
    assert [engine.infer({})["by"] for _ in range(3)] == ["alone"] * 3
    assert not together.entered.acquire(blocking=False)


def test_requests_beside_another_get_a_core_each() -> None:
    engine, alone, together = adaptive()
    together.gate.set()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(engine.infer, {})
        assert alone.entered.acquire(timeout=10)
        assert [engine.infer({})["by"] for _ in range(3)] == ["together"] * 3
        alone.gate.set()
        assert first.result()["by"] == "alone"
        assert engine.infer({})["by"] == "alone", "nothing else is under way any more"


def test_close_closes_both_copies() -> None:
    engine, alone, together = adaptive()
    engine.close()
    assert alone.closed
    assert together.closed
