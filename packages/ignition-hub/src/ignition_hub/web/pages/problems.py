"""What went wrong with a form, to be shown above it."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from ignition_hub.errors import HubError


@dataclass(frozen=True)
class FormProblem:
    title: str
    detail: str
    hint: str | None

    @classmethod
    def of(cls, error: ValidationError | HubError, title: str) -> FormProblem:
        if isinstance(error, HubError):
            return cls(title, str(error), error.hint)
        fields = sorted({str(place["loc"][0]) for place in error.errors() if place["loc"]})
        return cls(title, f"Not valid: {', '.join(fields)}.", "Correct these fields and try again.")
