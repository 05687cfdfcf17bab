from __future__ import annotations

import pytest
import torch
from torch import nn

from xtorch import SettingsError
from xtorch.optim import Constant, Cosine, OneCycle, Schedule, Step, parameter_groups

STEPS, EPOCHS = 8, 5


def factors(schedule: Schedule) -> list[float]:
    return [schedule.factor(step / STEPS, 1 / STEPS, EPOCHS) for step in range(STEPS * EPOCHS)]


def torchs(make: object) -> list[float]:
    """The rates of one of torch's schedulers, stepped with every step."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimiser)  # type: ignore[operator]
    rates = []
    for _ in range(STEPS * EPOCHS):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def test_cosine_is_torchs() -> None:
    expected = torchs(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS * EPOCHS, eta_min=0.1))
    assert factors(Cosine(warmup_epochs=0, floor=0.1)) == pytest.approx(expected)


def test_step_is_torchs() -> None:
    expected = torchs(lambda o: torch.optim.lr_scheduler.StepLR(o, 2 * STEPS, gamma=0.3))
    assert factors(Step(every_epochs=2, gamma=0.3)) == pytest.approx(expected)


def test_one_cycle_is_torchs_but_for_its_last_step() -> None:
    total = STEPS * EPOCHS + 1
    expected = torchs(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, 1.0, total_steps=total, pct_start=(0.3 * (total - 1) + 1) / total, final_div_factor=1e4 / 25
        )
    )
    ours = factors(OneCycle(peak=0.3))
    assert ours == pytest.approx(expected, abs=1e-6)
    assert ours.index(max(ours)) == 12


@pytest.mark.parametrize(
    "schedule", [Constant(warmup_epochs=1), Cosine(warmup_epochs=1), Step(every_epochs=9, warmup_epochs=1)]
)
def test_warm_up_rises_in_equal_steps_to_the_full_rate(schedule: Schedule) -> None:
    rates = factors(schedule)
    assert rates[:STEPS] == pytest.approx([(step + 1) / (STEPS + 1) for step in range(STEPS)])
    assert rates[STEPS] == 1


def test_constant_stays() -> None:
    assert set(factors(Constant())) == {1.0}


def test_step_counts_whole_epochs_when_fractions_are_not_exact() -> None:
    step = Step(every_epochs=0.3, gamma=0.5)
    assert [step.factor(k * 0.1, 0.1, 1) for k in range(10)] == [0.5 ** (k // 3) for k in range(10)]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError):
        OneCycle(peak=1)
    with pytest.raises(SettingsError):
        Step(every_epochs=0)


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    decayed, others = parameter_groups(model, weight_decay=0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3)]
    assert [tuple(p.shape) for p in others["params"]] == [(4,), (4,), (4,), (2,)]
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
