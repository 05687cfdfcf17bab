"""What a search is: its space, what it tries first, and when it ends; checked before the first trial."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from xtorch.errors import SettingsError
from xtorch.space import Params, Space, check_params, check_space, describe

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and when the search ends.

    Attributes:
        space: What may be chosen.
        portfolio: Settings that have been good elsewhere, the best first; they are tried first.
        budget_s: Seconds for the whole search, interrupted runs included. The first trial is always begun.
        max_trials: Most trials.
        patience: Ends the search after this many trials without progress, counted from the portfolio's end;
            None: never.
        min_delta: Smallest difference that is progress.
        direction: Whether more or less is better.
        seed: Decides every draw.
        identity: Says what the objective depends on besides its parameters (the data's digest, say); a
            journal with another one is refused.
        constraints: Name of a measured figure -> its upper limit.
        warmup_steps: Trials are not ended early before this step.

    Raises:
        SettingsError: The space or a limit makes no sense.
    """

    space: Space
    portfolio: Sequence[Params] = ()
    budget_s: float = math.inf
    max_trials: int = 50
    patience: int | None = None
    min_delta: float = 0.0
    direction: Direction = "maximize"
    seed: int = 0
    identity: str = ""
    constraints: Mapping[str, float] = field(default_factory=dict)
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        check_space(self.space)
        if self.direction not in ("maximize", "minimize"):
            raise SettingsError("direction must be maximize or minimize.", value=self.direction)
        positive = {"max_trials": self.max_trials, "budget_s": self.budget_s, "patience": self.patience}
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise SettingsError(f"{name} must be positive.", value=value)
        if not self.min_delta >= 0:
            raise SettingsError("min_delta must not be negative.", value=self.min_delta)
        if not all(math.isfinite(limit) for limit in self.constraints.values()):
            raise SettingsError("Limits must be finite.", value=dict(self.constraints))
        for params in self.portfolio:
            check_params(self.space, params)

    @property
    def sign(self) -> float:
        """Times a value: more is better."""
        return 1.0 if self.direction == "maximize" else -1.0

    @property
    def digest(self) -> str:
        """Of all that decides which trials come; limits of the search's length may grow between runs."""
        return digest(
            [
                describe(self.space),
                [dict(params) for params in self.portfolio],
                self.direction,
                self.seed,
                dict(self.constraints),
                self.warmup_steps,
                self.identity,
            ]
        )


def digest(value: Any) -> str:
    """Of JSON; the order of names does not count."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
