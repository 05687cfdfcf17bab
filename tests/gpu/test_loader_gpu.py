"""The data loader on a GPU: page-locked batches, copied beside the computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("torch_cuda")


class Numbers:
    def __len__(self) -> int:
        return 64

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return {"index": index, "x": rng.standard_normal((256, 256), dtype=np.float32)}


@pytest.mark.parametrize("kind", ["none", "threads", "processes"])
def test_batches_reach_the_gpu_unchanged_while_it_computes(kind: Any) -> None:
    import torch

    from xtorch.data.loader import ExtendedDataLoader

    options: dict[str, Any] = {"shuffle": True, "kind": kind, "workers": 0 if kind == "none" else 2}
    with ExtendedDataLoader(Numbers(), 8, **options) as loader:
        expected = list(loader)
        assert all(batch["x"].is_pinned() for batch in expected)
    weights = torch.randn(4096, 4096, device="cuda")
    with ExtendedDataLoader(Numbers(), 8, device="cuda", **options) as loader:
        for batch, reference in zip(loader, expected, strict=True):
            assert batch["x"].device.type == "cuda"
            weights = torch.tanh(weights @ weights)  # the computing stream is busy meanwhile
            assert torch.equal(batch["x"].cpu(), reference["x"])
            assert batch["index"].tolist() == reference["index"].tolist()
    assert torch.isfinite(weights).all()
