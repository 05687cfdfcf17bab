"""Search spaces as data: what a tuner may choose, and which choices only matter beside others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from xtorch.errors import SettingsError

Scalar = str | int | float | bool | None
When = tuple[str, tuple[Scalar, ...]]
"""A parent's name and the values of it with which the parameter matters."""


@dataclass(frozen=True, kw_only=True)
class Float:
    """A number in low..high, both included; with `log`, each factor is as likely as any other."""

    low: float
    high: float
    log: bool = False
    when: When | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, log=self.log)

    def allows(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class Int:
    """A whole number in low..high, both included, in steps of `step` from `low` on."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    when: When | None = None

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, log=self.log)
        if self.step < 1 or (self.log and self.step != 1) or (self.high - self.low) % self.step:
            raise SettingsError(
                "A step must be positive, divide the range, and be 1 on a logarithmic scale.", value=self.step
            )

    def allows(self, value: Any) -> bool:
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
            and (value - self.low) % self.step == 0
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several options without an order: texts, numbers, bool or None."""

    options: tuple[Scalar, ...]
    when: When | None = None

    def __post_init__(self) -> None:
        if not self.options or len({(type(option), option) for option in self.options}) < len(self.options):
            raise SettingsError("Options must be given, each once.", value=self.options)

    def allows(self, value: Any) -> bool:
        # True == 1: the type counts as well.
        return any(type(option) is type(value) and option == value for option in self.options)


Parameter = Float | Int | Choice
Space = Mapping[str, Parameter]
"""Parameters by name; a parent stands before the parameters that depend on it."""
Params = Mapping[str, Scalar]


class Suggests(Protocol):
    """What draws values: an Optuna trial."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = ...) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = ..., log: bool = ...) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


def check_space(space: Space) -> None:
    """
    Raises:
        SettingsError: The space is empty, or a condition names no earlier choice or none of its options.
    """
    if not space:
        raise SettingsError("A search space needs parameters.", value={})
    seen: dict[str, Parameter] = {}
    for name, parameter in space.items():
        if parameter.when is not None:
            parent, values = parameter.when
            choice = seen.get(parent)
            if not isinstance(choice, Choice):
                raise SettingsError(
                    f"{name!r} depends on {parent!r}, which is no choice that stands before it.", value=parent
                )
            if not values or not all(choice.allows(value) for value in values):
                raise SettingsError(
                    f"{name!r} depends on values that {parent!r} never has.", value=list(values)
                )
        seen[name] = parameter


def _matters(parameter: Parameter, params: Params) -> bool:
    if parameter.when is None:
        return True
    parent, values = parameter.when
    # A parent that does not matter itself has no value.
    return parent in params and params[parent] in values


def active(space: Space, params: Params) -> list[str]:
    """Names of the parameters that matter with these values."""
    return [name for name, parameter in space.items() if _matters(parameter, params)]


def check_params(space: Space, params: Params) -> dict[str, Scalar]:
    """
    Returns:
        The values in the space's order.

    Raises:
        SettingsError: A value is missing, out of range, unknown, or does not matter beside the others.
    """
    wanted = active(space, params)
    for name in params:
        if name not in wanted:
            raise SettingsError(
                f"There is no parameter {name!r}, or it does not matter beside the others.",
                value=dict(params),
                hint=f"these matter: {', '.join(wanted)}",
            )
    for name in wanted:
        if name not in params:
            raise SettingsError(f"The parameter {name!r} has no value.", value=dict(params))
        if not space[name].allows(params[name]):
            raise SettingsError(
                f"{name} cannot be {params[name]!r}.", value=params[name], hint=repr(space[name])
            )
    return {name: params[name] for name in wanted}


def suggest(space: Space, source: Suggests) -> dict[str, Scalar]:
    """Draws the parameters that matter, parents first."""
    params: dict[str, Scalar] = {}
    for name, parameter in space.items():
        if not _matters(parameter, params):
            continue
        match parameter:
            case Float():
                params[name] = source.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
            case Int():
                params[name] = source.suggest_int(
                    name, parameter.low, parameter.high, step=parameter.step, log=parameter.log
                )
            case Choice():
                params[name] = source.suggest_categorical(name, parameter.options)
    return params


def describe(space: Space) -> dict[str, Any]:
    """The space as JSON."""
    return {
        name: {"kind": type(parameter).__name__, **asdict(parameter)} for name, parameter in space.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_range(low: float, high: float, *, log: bool) -> None:
    if not (_is_number(low) and _is_number(high) and low < high):
        raise SettingsError("A range must ascend between finite numbers.", value=[low, high])
    if log and low <= 0:
        raise SettingsError("A logarithmic scale begins above 0.", value=low)
