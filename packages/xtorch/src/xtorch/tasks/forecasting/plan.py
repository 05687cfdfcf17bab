"""What a run does with the series it has: how much history is seen, and where accuracy is tried.

Shapes: N series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtorch.data.series import SeriesSet
from xtorch.errors import DataError, SettingsError
from xtorch.tasks.forecasting.windows import Panel

LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
CANDIDATES = ("theta", "ets", "median", "intermittent", "linear", "trees", "networks", "arima")
"""What may compete besides the baselines."""
_MAX_LENGTH = 1024
_MAX_ORIGINS = 12
_ENOUGH_ERRORS = 400
"""Past errors at each step ahead that the outer quantiles are read off well from."""


@dataclass(frozen=True, kw_only=True)
class ForecastSettings:
    """What a run may be asked to do differently."""

    horizon: int | None = None
    """Values to forecast; None: by the frequency, and fewer where series are short."""
    levels: tuple[float, ...] = LEVELS
    """Quantiles to forecast, ascending, with 0.5."""
    season: int | None = None
    """Values per season; None: by the frequency. 1: none."""
    candidates: tuple[str, ...] = CANDIDATES
    """Which kinds compete."""
    num_seeds: int = 2
    """Networks that are trained alike but for the seed."""
    gaps: str = "auto"
    """Periods without a row: "missing", "zero" or "auto"."""
    time: str | None = None
    """The column of times; None: found out. So are the next two."""
    ids: tuple[str, ...] | None = None
    """The columns that name a series, or the one that does."""
    target: str | None = None

    def __post_init__(self) -> None:
        for name, highest in (("horizon", 1000), ("season", 1440), ("num_seeds", 10)):
            value = getattr(self, name)
            if value is None and name != "num_seeds":
                continue
            whole = isinstance(value, int | float) and not isinstance(value, bool)
            if not (whole and 1 <= value <= highest and value == int(value)):
                raise SettingsError(f"{name} must be a whole number from 1 to {highest}.", value=value)
            object.__setattr__(self, name, int(value))
        for name in ("ids", "candidates"):
            if isinstance(only := getattr(self, name), str):
                object.__setattr__(self, name, (only,))
        for name, given in (
            ("time", self.time),
            ("target", self.target),
            *(("ids", i) for i in self.ids or ()),
        ):
            if not (given is None or isinstance(given, str)):
                raise SettingsError(f"{name} must name a column.", value=given)
        levels = list(self.levels)
        if levels != sorted(set(levels)) or not all(0 < level < 1 for level in levels) or 0.5 not in levels:
            raise SettingsError("levels must ascend within 0..1 and hold 0.5.", value=levels)
        if self.gaps not in ("auto", "missing", "zero"):
            raise SettingsError("gaps must be auto, missing or zero.", value=self.gaps)
        if unknown := sorted(set(self.candidates) - set(CANDIDATES)):
            raise SettingsError(
                "candidates names an unknown kind.", value=unknown[0], hint=f"known: {', '.join(CANDIDATES)}"
            )

    @property
    def roles(self) -> dict[str, object]:
        """What `xtorch.data.series.read_series` is told."""
        given = {
            "time": self.time,
            "target": self.target,
            "ids": None if self.ids is None else list(self.ids),
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The protocol of a run.

    Attributes:
        horizon: Values forecast.
        length: Past values that the model sees.
        season: Values per season of the naive forecast and of MASE.
        seasons: All seasons that members may use, the shortest first.
        log: Values before the test part are positive, so learned members work on logarithms.
        non_negative: None of them is below 0, so no forecast is.
        intermittent: Many of them are 0.
        num_origins: How many times the horizon is forecast in the validation part.
        stride: Values between two of these origins.
        min_history: Values before the first forecast of a training window.
    """

    horizon: int
    length: int
    season: int
    seasons: tuple[int, ...]
    log: bool
    non_negative: bool
    intermittent: bool
    num_origins: int
    stride: int
    min_history: int

    @property
    def validation_span(self) -> int:
        """Values before the test part that are forecast for validation."""
        return self.horizon + (self.num_origins - 1) * self.stride

    def to_dict(self) -> dict[str, object]:
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()
        }


def make_plan(
    values: Sequence[np.ndarray],
    *,
    season: int,
    seasons: Sequence[int],
    horizon: int | None,
    usual_horizon: int,
) -> Plan:
    """
    Args:
        values: Of each series, float64, NaN where missing.
        season: For the naive forecast and MASE.
        seasons: That members may use.
        horizon: What was asked for; None: `usual_horizon`, and fewer where series are short.
        usual_horizon: By the frequency.

    Raises:
        DataError: No series is long enough for the horizon, or has a value before the test part.
    """
    lengths = np.array([len(value) for value in values])
    typical = int(np.median(lengths))
    wanted = horizon or max(1, min(usual_horizon, typical // 4))
    if lengths.max() < 2 * wanted + 3:
        raise DataError(
            f"The longest series has {lengths.max()} values, too few to forecast {wanted}.",
            value=int(lengths.max()),
            hint="training needs the horizon twice for testing, and history before: ask for a shorter one",
        )
    history = max(typical - 2 * wanted, 3)
    usable = tuple(m for m in seasons if 1 < m <= history // 2)
    season = season if season <= max(history // 2, 1) else 1
    longest = max(usable, default=1)
    length = int(
        min(
            _MAX_LENGTH, max(4 * longest, min(10 * longest, 120), 60, 3 * wanted), max(history, 2 * wanted, 8)
        )
    )
    # What values are like is read off the history alone: the test part decides nothing.
    pasts = [value[: max(len(value) - wanted, 0)] for value in values]
    known = [past[np.isfinite(past)] for past in pasts if np.isfinite(past).any()]
    if not known:
        raise DataError(
            f"No series has a value before its last {wanted}.",
            value=len(values),
            hint="the last values are the test part: ask for a shorter horizon",
        )
    positive = np.mean([bool((value > 0).all()) for value in known])
    zeros = np.mean([float((value == 0).mean()) for value in known])
    # The validation part may take up to a third of the history; short ones are still tried once.
    room = max(0, history // 3 - wanted)
    num_wanted = int(np.clip(-(-_ENOUGH_ERRORS // len(values)), 2, _MAX_ORIGINS))
    stride = wanted if room >= (num_wanted - 1) * wanted else max(1, wanted // 4)
    num_origins = 1 + min(num_wanted - 1, room // stride)
    return Plan(
        horizon=wanted,
        length=length,
        season=season,
        seasons=usable,
        log=bool(positive > 0.99),
        non_negative=all(float(value.min()) >= 0 for value in known),
        intermittent=bool(zeros > 0.2),
        num_origins=num_origins,
        stride=stride,
        min_history=max(3, min(max(season, 2 * wanted, min(longest, 60)), history // 2)),
    )


def plan_for(series: SeriesSet, usable: Sequence[int], settings: ForecastSettings) -> Plan:
    """`make_plan` for series that were read; settings overrule the frequency."""
    frequency = series.frequency
    season, seasons = frequency.season, frequency.seasons
    if settings.season is not None:
        season = settings.season
        longer = [m for m in seasons if m > season and m % season == 0]
        seasons = (season, *longer) if season > 1 else ()
    return make_plan(
        [series.values[number] for number in usable],
        season=season,
        seasons=seasons,
        horizon=settings.horizon,
        usual_horizon=frequency.horizon,
    )


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where windows end: value number `ends` of `series`; int64 [W] each."""

    series: np.ndarray
    ends: np.ndarray


def test_part(panel: Panel, plan: Plan) -> Part:
    """The last `horizon` values of every series that leaves a history."""
    return _kept(panel, plan, np.arange(len(panel)), panel.sizes - plan.horizon)


def validation_parts(panel: Panel, plan: Plan, *, max_windows: int, seed: int) -> Part:
    """Rolling origins before the test part, of a sample of the series where there are many.

    Source: Tashman, "Out-of-sample tests of forecasting accuracy" (International Journal of Forecasting
    2000), section 3.
    """
    numbers = np.arange(len(panel))
    if len(numbers) * plan.num_origins > max_windows:
        rng = np.random.default_rng(seed)
        numbers = np.sort(rng.choice(numbers, max(1, max_windows // plan.num_origins), replace=False))
    back = 2 * plan.horizon + plan.stride * np.arange(plan.num_origins)
    series = np.tile(numbers, plan.num_origins)
    return _kept(panel, plan, series, panel.sizes[series] - np.repeat(back, len(numbers)))


def training_part(panel: Panel, plan: Plan, *, held_back: int, max_windows: int, seed: int) -> Part:
    """Every place that leaves a history before and a whole horizon after, or a random sample of them.

    Args:
        held_back: Values at the end of each series that no future may reach into.
    """
    last = panel.sizes - held_back - plan.horizon
    counts = np.maximum(last - plan.min_history + 1, 0)
    total = int(counts.sum())
    rng = np.random.default_rng(seed)
    picks = (
        np.arange(total) if total <= max_windows else np.sort(rng.choice(total, max_windows, replace=False))
    )
    before = np.concatenate([[0], np.cumsum(counts)])
    series = np.searchsorted(before, picks, side="right") - 1
    return _kept(panel, plan, series, plan.min_history + picks - before[series])


def _kept(panel: Panel, plan: Plan, series: np.ndarray, ends: np.ndarray) -> Part:
    """Only windows with at least two known values in what the model sees."""
    enough = (ends >= 2) & (panel.num_known(series, ends, plan.length) >= 2)
    return Part(series=series[enough], ends=ends[enough])
