"""What a search tries next: the portfolio, then what a model of the trials so far holds for promising.

Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (NeurIPS 2011), section 4, in its
multivariate form with groups of conditional parameters, by Optuna; trials are ended early by the median rule
of Golovin et al., "Google Vizier" (KDD 2017), section 3.1.2.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import optuna

from xtorch.space import Params, Scalar, check_params, suggest
from xtorch.tune_search import Search, digest
from xtorch.tune_trials import TrialRow

_RANDOM_TRIALS = 8
"""Where there is no portfolio, as many trials are drawn at random before the model takes over."""
_ATTEMPTS = 30
"""Draws of parameters before the space counts as exhausted, where all were tried before."""
_UNPRUNED_TRIALS = 4
"""Fewer complete trials than this are no measure to end others early by."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Parameters to try, and how the model knows them."""

    params: dict[str, Scalar]
    source: Literal["portfolio", "search"]
    _trial: optuna.Trial

    def report(self, value: float, step: int) -> bool:
        """Takes a finite intermediate value; answers whether the trial is not worth going on with."""
        self._trial.report(value, step)
        return self._trial.should_prune()


class Sampler:
    """Draws what was not tried before, and learns from what came of it.

    A draw depends on the search's seed, its own number and what was learned before it, on nothing else.
    """

    def __init__(self, search: Search) -> None:
        self._search = search
        self._portfolio = [check_params(search.space, params) for params in search.portfolio]
        self._tried: set[str] = set()
        self._study = optuna.create_study(
            direction=search.direction,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=search.warmup_steps
            ),
        )

    def draw(self, number: int) -> Draw | None:
        """Parameters for the trial of this number; None: everything was tried."""
        if number < len(self._portfolio):
            return self.given(self._portfolio[number], "portfolio")
        for attempt in range(_ATTEMPTS):
            # The model likes what it knows; the later attempts are drawn at random.
            self._study.sampler = self._sampler(number, attempt, random=attempt >= _ATTEMPTS // 2)
            trial = self._study.ask()
            params = suggest(self._search.space, trial)
            if digest(params) not in self._tried:
                self._tried.add(digest(params))
                return Draw(params=params, source="search", _trial=trial)
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return None

    def given(self, params: Params, source: Literal["portfolio", "search"]) -> Draw:
        """Parameters that are given: by the portfolio, or by a run that was interrupted."""
        self._tried.add(digest(dict(params)))
        self._study.enqueue_trial(dict(params))
        trial = self._study.ask()
        suggest(self._search.space, trial)  # tells the model what each parameter is
        return Draw(params=dict(params), source=source, _trial=trial)

    def learn(self, draw: Draw, row: TrialRow) -> None:
        """Takes what came of a draw. What failed counts as worse than everything else, or it would be tried
        again."""
        if row.state != "complete":
            self._study.tell(draw._trial, state=optuna.trial.TrialState.PRUNED)
            return
        for name, limit in self._search.constraints.items():
            scale = abs(limit) or 1.0
            draw._trial.set_constraint(name, (row.measured[name] - limit) / scale)
        self._study.tell(draw._trial, row.value)

    def _sampler(self, number: int, attempt: int, *, random: bool) -> optuna.samplers.BaseSampler:
        seed = int(np.random.SeedSequence([self._search.seed, number, attempt]).generate_state(1)[0])
        if random:
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`
            return optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=len(self._portfolio) or _RANDOM_TRIALS,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
