from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xtorch import Trainer, TrainerConfig, TrainingError
from xtorch import autoconfig as module
from xtorch.autoconfig import candidates, choose
from xtorch.execution import Execution

PLAIN, BF16 = Execution(), Execution(precision="bf16")
LAST = Execution(channels_last=True)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))


def images(generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(2):
        yield torch.randn(4, 3, 8, 8, generator=generator)


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).float().square().mean()


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> dict[Execution, float]:
    """Speeds as if they had been measured; timings must not decide a test."""
    known: dict[Execution, float] = {}
    monkeypatch.setattr(
        module, "_ratios", lambda steps, rounds: [known.get(step.execution, 1.0) for step in steps]
    )
    return known


def test_candidates_fit_the_model() -> None:
    cpu = torch.device("cpu")
    both = candidates(small_network(), cpu)
    assert both == [PLAIN, LAST, BF16, Execution(precision="bf16", channels_last=True)]
    assert candidates(nn.Linear(2, 2), cpu) == [PLAIN, BF16]
    assert len(candidates(nn.Linear(2, 2), cpu, compile=True)) == 4


def test_the_fastest_is_chosen_and_nothing_is_changed(speeds: dict[Execution, float]) -> None:
    speeds |= {LAST: 1.2, BF16: 1.7}
    model = small_network()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    choice = choose(model, images, loss)
    assert choice.execution == BF16
    assert "Chosen: bf16." in choice.explain()
    assert "1.70x" in choice.explain()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_a_small_gain_is_not_worth_it(speeds: dict[Execution, float]) -> None:
    speeds |= {BF16: 1.02, LAST: 0.9}
    assert choose(small_network(), images, loss).execution == PLAIN


def test_bf16_is_refused_where_losses_leave_float32s(speeds: dict[Execution, float]) -> None:
    speeds |= {BF16: 9.0}

    def fragile(model: nn.Module, batch: Tensor) -> Tensor:
        # A difference of two large numbers, which bf16 loses.
        return ((model[1](model[0](batch)) + 1000) - 1000).square().mean()  # type: ignore[index]

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    choice = choose(model, [torch.randn(8, 4)], fragile, among=[PLAIN, BF16])
    assert choice.execution == PLAIN
    row = choice.measured[1]
    assert row.refused is not None
    assert row.loss_difference > 0.02
    assert math.isnan(row.speedup)
    assert "refused" in choice.explain()


def test_steps_are_really_timed() -> None:
    choice = choose(small_network(), images, loss, rounds=3)
    assert choice.measured[0].speedup == 1
    assert all(row.speedup > 0 and row.loss_difference < 0.02 for row in choice.measured)


def test_trainer_uses_the_choice_and_says_so(
    speeds: dict[Execution, float], caplog: pytest.LogCaptureFixture
) -> None:
    speeds |= {BF16: 2.0}
    caplog.set_level(logging.INFO)
    result = Trainer(TrainerConfig(max_epochs=1, precision="auto")).fit(small_network(), images, loss=loss)
    assert result.execution == BF16
    assert "Chosen: bf16" in caplog.text


def test_the_sources_position_is_kept(speeds: dict[Execution, float]) -> None:
    class Source:
        position = 0

        def state_dict(self) -> dict[str, Any]:
            return {"position": self.position}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.position = state["position"]

        def __iter__(self) -> Iterator[Tensor]:
            self.position += 1
            yield torch.randn(4, 3, 8, 8)

    source = Source()
    choose(small_network(), source, loss)
    assert source.position == 0


def test_refuses_when_there_is_nothing_to_measure(speeds: dict[Execution, float]) -> None:
    with pytest.raises(TrainingError, match="no training batches"):
        choose(small_network(), [], loss)
    with pytest.raises(TrainingError, match="float32 already"):
        choose(small_network(), images, lambda model, batch: loss(model, batch) * float("nan"))
