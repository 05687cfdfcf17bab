"""What every data check reports (`wire.CheckReport`). Imports no torch: the answer is wanted in seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from xtorch.errors import ColumnsError, DataError, LayoutError, TableError, TooFewImagesError

MAX_PATHS = 50
MAX_EXAMPLES = 12
_ERRORS: dict[str, type[DataError]] = {
    "annotation.none": LayoutError,
    "class.one": TooFewImagesError,
    "columns.unclear": ColumnsError,
    "file.unreadable": TableError,
    "image.none": LayoutError,
    "image.too_few": TooFewImagesError,
    "layout.unknown": LayoutError,
    "ok.too_few": TooFewImagesError,
}
"""What findings are as exceptions; a `DataError` where nothing stands here."""

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a check noticed.

    Attributes:
        code: Stable: ``images.duplicate``.
        severity: "error" blocks training, "warning" may hurt the result, "info" is good to know.
        title: For people, with the number: "3 images cannot be read".
        hint: How to mend it, and what training does about it.
        num: How many samples are concerned.
        paths: Up to `MAX_PATHS` of them: files, or ``file:row`` of a table.
    """

    code: str
    severity: Severity
    title: str
    hint: str
    num: int
    paths: Sequence[str] = ()


class Findings:
    """Collects findings; one about no sample is none."""

    def __init__(self) -> None:
        self._found: list[Finding] = []

    def add(
        self,
        code: str,
        severity: Severity,
        title: str,
        hint: str,
        paths: Iterable[str] = (),
        *,
        num: int | None = None,
    ) -> None:
        """
        Args:
            title: ``{num}`` and ``{s}`` (plural) are filled in.
            num: Where it is not the number of `paths`; then the finding is kept even without any.
        """
        listed = sorted(paths)
        count = len(listed) if num is None else num
        if count or num is not None:
            words = title.format(num=count, s="" if count == 1 else "s")
            self._found.append(
                Finding(
                    code=code, severity=severity, title=words, hint=hint, num=count, paths=listed[:MAX_PATHS]
                )
            )

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self._found if finding.severity == "error"]

    def sorted(self) -> list[Finding]:
        """Errors first."""
        order = {"error": 0, "warning": 1, "info": 2}
        return sorted(self._found, key=lambda finding: order[finding.severity])


def refuse(errors: Iterable[Finding]) -> None:
    """Turns a check's first error into an exception: training does not begin.

    Args:
        errors: Findings that block training.

    Raises:
        DataError: There is one; of the kind that its code stands for.
    """
    for finding in errors:
        kind = _ERRORS.get(finding.code, DataError)
        raise kind(f"{finding.title}.", value=finding.num, hint=finding.hint)


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """A label, how many samples have it, and up to `MAX_EXAMPLES` of them to show (files or texts)."""

    name: str
    num_items: int
    examples: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a data check found.

    Attributes:
        item: What is counted: "images", "rows", "series".
        layout: The format that was detected, in the task's words: ``coco``, ``class_folders``, ``long_csv``.
        num_items: Usable ones.
        facts: What was inferred, for people: ``{"Text column": "body", "Frequency": "hourly"}``.
        charts: What to draw, as `xtorch.tasks.report.Chart` as a mapping.
        suits: Ids of the templates that can use this data, the best first.
    """

    item: Literal["images", "rows", "series"]
    layout: str
    num_files: int
    num_items: int
    size_bytes: int
    classes: Sequence[ClassCount] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    charts: Sequence[Mapping[str, Any]] = ()
    findings: Sequence[Finding] = ()
    suits: Sequence[str] = ()
    duration_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
