"""Small sales data for tests of the forecasting recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xtorch.tasks.forecasting.plan import Plan, make_plan
from xtorch.tasks.forecasting.windows import Panel

NUM_SERIES, NUM_DAYS, HORIZON = 6, 120, 7


def usual_sales(store: int) -> np.ndarray:
    """What a store sells on a day but for noise, float64 [NUM_DAYS]."""
    return 20 + 10 * store + 6 * np.sin(2 * np.pi * np.arange(NUM_DAYS) / 7 + store)


def write_sales(root: Path) -> Path:
    """Daily sales of six stores with a week, noise, and a gap."""
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    days = np.datetime64("2024-01-01") + np.arange(NUM_DAYS)
    lines = ["date,store,sales"]
    for store in range(NUM_SERIES):
        sales = np.maximum(usual_sales(store) + rng.normal(0, 1, NUM_DAYS), 1)
        lines += [
            f"{day},S{store},{value:.2f}"
            for index, (day, value) in enumerate(zip(days, sales, strict=True))
            if (store, index) != (2, 50)
        ]
    (root / "sales.csv").write_text("\n".join(lines))
    return root


def sales_panel(num_series: int = 4, size: int = 150) -> tuple[Panel, Plan]:
    rng = np.random.default_rng(1)
    week = 10 + 3 * np.sin(2 * np.pi * np.arange(size) / 7)
    values = [week * (1 + number) + rng.normal(0, 0.5, size) for number in range(num_series)]
    return Panel(values, 7), make_plan(values, season=7, seasons=(7,), horizon=7, usual_horizon=7)


def quiet(done: float, what: str) -> None:
    """Progress that nobody watches."""
