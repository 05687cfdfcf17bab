"""The data check of labelled texts: what there is, what is wrong with it and what training leaves out."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xtorch.data.duplicates import connected
from xtorch.data.findings import MAX_EXAMPLES, CheckReport, ClassCount, Finding, Findings
from xtorch.data.near_texts import near_text_pairs
from xtorch.data.text_columns import MAX_LABELS, Part
from xtorch.data.text_findings import (
    MAX_TOKENS,
    listed,
    num_tokens,
    report_files,
    report_label_in_text,
    report_rows,
    report_texts,
)
from xtorch.data.texts import TextData, TextRow, UsableText, read_texts, shortened
from xtorch.picks import evenly
from xtorch.progress import Progress, silent
from xtorch.tasks.report import Chart, Series

TEMPLATE = "text-classification"
MIN_OF_LABEL = 4
"""A label with fewer usable texts cannot be learned and tested: it is left out."""
FEW_OF_LABEL = 16
FEW_TEST = 50
_IMBALANCE = 20
_SHOWN_LABELS = 30
_MIN_NUMBERS = 20


@dataclass(kw_only=True)
class TextInspection:
    """Result of the data check: the report for people and what may be used."""

    report: CheckReport
    usable: list[UsableText] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    multi_label: bool = False

    @property
    def errors(self) -> list[Finding]:
        """Findings that block training."""
        return [finding for finding in self.report.findings if finding.severity == "error"]


def check_texts(root: str | Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Check a folder of labelled texts before training.

    Args:
        root: The dataset's folder, in a form of `xtorch.data.texts`.
        progress: Told about progress.

    Returns:
        The fields of `xtorch.data.findings.CheckReport`. A finding of severity ``error`` blocks training.

    Raises:
        DataError: `root` is not a folder.
    """
    return inspect_texts(root, progress=progress).report.to_dict()


def inspect_texts(
    root: str | Path,
    *,
    text_columns: Sequence[str] = (),
    label_columns: Sequence[str] = (),
    progress: Progress | None = None,
) -> TextInspection:
    """`check_texts` with the list of texts that may be used.

    Left out are rows without text or label, all but one of equal texts, all copies of a text with
    contradicting labels, training texts that are also in a given test part, and labels with fewer than
    `MIN_OF_LABEL` texts.
    """
    started = time.monotonic()
    progress = progress or silent
    progress("Reading texts", progress=0.0)
    data = read_texts(root, text_columns=text_columns, label_columns=label_columns)
    findings = Findings()
    report_files(data, findings)
    report_rows(data, findings)
    progress("Looking for duplicates", progress=0.4, message=f"{len(data.rows)} texts")
    rows = _deduplicate(data, findings)
    usable = _group_near(rows, findings)
    progress("Looking at texts", progress=0.8)
    report_texts(usable, findings)
    report_label_in_text(usable, data.labels, findings)
    usable, labels = _report_labels(data, usable, findings)
    report = CheckReport(
        item="rows",
        layout=data.layout,
        num_files=data.num_files,
        num_items=len(usable),
        size_bytes=data.size_bytes,
        classes=_classes(usable, labels),
        facts=data.facts,
        charts=[asdict(chart) for chart in _charts(usable, labels)],
        findings=findings.sorted(),
        suits=[TEMPLATE] if not findings.errors else [],
        duration_s=round(time.monotonic() - started, 3),
    )
    progress("Looking at texts", progress=1.0)
    return TextInspection(report=report, usable=usable, labels=labels, multi_label=data.multi_label)


# ----------------------------------------------------------------------------------------- duplicates


def _deduplicate(data: TextData, findings: Findings) -> list[TextRow]:
    """Findings about equal texts; the rows that are left."""
    groups: dict[str, list[TextRow]] = defaultdict(list)
    for row in data.rows:
        groups[" ".join(row.text.split())].append(row)
    kept: list[TextRow] = []
    extras: list[str] = []
    conflicts: list[str] = []
    leaks: list[str] = []
    for group in groups.values():
        if len({row.labels for row in group}) > 1:
            conflicts += [row.place for row in group]
            continue
        # What is tested or chosen by must not have been learned.
        order: dict[Part | None, int] = {"test": 0, "validation": 1, "train": 2, None: 2}
        group.sort(key=lambda row: order[row.part])
        kept.append(group[0])
        if group[0].part in ("test", "validation"):
            leaks += [row.place for row in group[1:] if row.part != group[0].part]
        extras += [row.place for row in group[1:]]
    findings.add(
        "duplicate.label_conflict",
        "warning",
        "{num} row{s} hold the same text with different labels",
        "All copies are left out until the wrong ones are deleted. If a text may have several labels, put "
        "them into one row, separated by |.",
        conflicts,
    )
    findings.add(
        "duplicate.leakage",
        "warning",
        "{num} training text{s} are also in the test or validation part",
        "A model tested on what it learned from looks better than it is. These are left out of training.",
        leaks,
    )
    findings.add(
        "duplicate.exact",
        "warning",
        "{num} exact duplicate{s}",
        "One copy of each is used, the others are left out.",
        extras,
    )
    return sorted(kept, key=lambda row: _order(row.place))


def _order(place: str) -> tuple[str, int]:
    name, _, number = place.rpartition(":")
    return (name, int(number)) if number.isdigit() else (place, 0)


def _group_near(rows: Sequence[TextRow], findings: Findings) -> list[UsableText]:
    pairs = near_text_pairs([row.text for row in rows])
    findings.add(
        "duplicate.near",
        "info",
        "{num} text{s} say nearly the same as another",
        "They are used, but kept on the same side of the split into training and test texts.",
        {rows[index].place for pair in pairs for index in pair},
    )
    findings.add(
        "duplicate.near_conflict",
        "warning",
        "{num} text{s} say nearly the same as another with a different label",
        "One of each two labels may be wrong.",
        {rows[k].place for a, b in pairs if rows[a].labels != rows[b].labels for k in (a, b)},
    )
    held = ("test", "validation")
    findings.add(
        "duplicate.near_leakage",
        "warning",
        "{num} text{s} say nearly the same in training and in a given test or validation part",
        "The measured accuracy may be too good: texts of one source belong into one part.",
        {
            rows[k].place
            for a, b in pairs
            if rows[a].part != rows[b].part and (rows[a].part in held or rows[b].part in held)
            for k in (a, b)
        },
    )
    groups = connected(len(rows), pairs)
    return [
        UsableText(text=row.text, labels=row.labels, place=row.place, part=row.part, group=group)
        for row, group in zip(rows, groups, strict=True)
    ]


# --------------------------------------------------------------------------------------------- labels


def _report_labels(
    data: TextData, usable: Sequence[UsableText], findings: Findings
) -> tuple[list[UsableText], tuple[str, ...]]:
    """Findings about labels; what remains without those that are too rare, and the labels in their order."""
    if not data.rows:
        if data.num_files and data.problem is None and not data.unreadable:
            findings.add(
                "text.none",
                "error",
                "No labelled texts",
                "A table needs a text and a label column; folders of .txt files are named after their label.",
                num=0,
            )
        return [], ()
    counts = Counter(label for row in usable for label in row.labels)
    given_test = any(row.part == "test" for row in usable)
    learnable = Counter(label for row in usable if row.part != "test" for label in row.labels)
    if _are_measurements(counts, len(usable)):
        findings.add(
            "label.numbers",
            "error",
            f"The label column holds {len(counts)} different numbers",
            "That is a quantity to estimate, not a class. Turn it into a few ranges, such as low and high.",
            num=len(counts),
        )
        return list(usable), tuple(counts)
    if len(counts) > MAX_LABELS or (len(usable) >= _MIN_NUMBERS and len(counts) > 0.5 * len(usable)):
        findings.add(
            "label.too_many",
            "error",
            f"{len(counts)} different labels for {len(usable)} texts",
            "The label column is perhaps not the one to learn: rename the right one to label.",
            num=len(counts),
        )
        return list(usable), tuple(counts)
    rare = {label for label in counts if learnable[label] < MIN_OF_LABEL}
    labels = tuple(label for label in data.labels if label in counts and label not in rare)
    kept = [row for row in usable if not rare & set(row.labels)]
    unseen = sorted(label for label in rare if learnable[label] == 0)
    findings.add(
        "label.only_in_test",
        "warning",
        f"{len(unseen)} label{'' if len(unseen) == 1 else 's'} only in the test part: {listed(unseen)}",
        "What was never seen cannot be learned: these test texts are left out.",
        [row.place for row in usable if set(row.labels) & set(unseen)],
    )
    seen = sorted(rare - set(unseen))
    findings.add(
        "label.too_few",
        "warning",
        f"{len(seen)} label{'' if len(seen) == 1 else 's'} with fewer than {MIN_OF_LABEL} texts: "
        + listed([f"{label} ({learnable[label]})" for label in seen]),
        "They cannot be learned and tested, so their texts are left out. Add more, or join similar labels.",
        [row.place for row in usable if set(row.labels) & set(seen)],
    )
    needed = 1 if data.multi_label else 2
    if len(labels) < needed:
        findings.add(
            "label.one" if len(counts) == 1 else "label.none_learnable",
            "error",
            f"Only one label: {listed(list(counts))}" if len(counts) == 1 else "Too few texts of every label",
            f"At least {needed} labels with {MIN_OF_LABEL} texts each are needed.",
            num=len(labels),
        )
        return kept, labels
    few = [label for label in labels if learnable[label] < FEW_OF_LABEL]
    findings.add(
        "label.few",
        "warning",
        "{num} label{s} with fewer than " + str(FEW_OF_LABEL) + " texts",
        "It works, but more examples of these help most.",
        (f"{label} ({learnable[label]})" for label in few),
    )
    most, least = max(learnable[label] for label in labels), min(learnable[label] for label in labels)
    if most > _IMBALANCE * least:
        findings.add(
            "label.imbalance",
            "warning",
            f"The most frequent label has {most // least} times as many texts as the rarest",
            "Look at each label's own result, not at the share of right answers alone; add texts of rare "
            "labels.",
            num=sum(learnable[label] * _IMBALANCE < most for label in labels),
        )
    num_test = sum(row.part == "test" for row in kept)
    if given_test and num_test < FEW_TEST:
        findings.add(
            "test.small",
            "warning",
            f"Only {num_test} texts in the given test part",
            "The measured accuracy has a wide interval.",
            num=num_test,
        )
    return kept, labels


def _are_measurements(counts: Counter[str], num: int) -> bool:
    try:
        values = {float(label) for label in counts}
    except ValueError:
        return False
    fractional = any(value != int(value) for value in values if np.isfinite(value))
    return len(values) > _MIN_NUMBERS and (fractional or len(values) > 0.1 * num)


def _classes(usable: Sequence[UsableText], labels: Sequence[str]) -> list[ClassCount]:
    texts: dict[str, list[str]] = {label: [] for label in labels}
    for row in usable:
        for label in row.labels:
            if label in texts:
                texts[label].append(row.text)
    return [
        ClassCount(
            name=label,
            num_items=len(of_label),
            examples=[shortened(text) for text in evenly(of_label, MAX_EXAMPLES)],
        )
        for label, of_label in texts.items()
    ]


def _charts(usable: Sequence[UsableText], labels: Sequence[str]) -> list[Chart]:
    if not usable:
        return []
    counts = Counter(label for row in usable for label in row.labels)
    shown = sorted(labels, key=lambda label: -counts[label])[:_SHOWN_LABELS]
    lengths = np.array([min(num_tokens(row.text), 2 * MAX_TOKENS) for row in usable])
    edges = np.linspace(0, max(8, int(lengths.max())), 25)
    return [
        Chart(
            id="labels",
            title="Texts of each label",
            kind="bars",
            x_title="label",
            y_title="texts",
            x=shown,
            series=[Series(name="texts", y=[float(counts[label]) for label in shown])],
            note="" if len(shown) == len(labels) else f"The {len(shown)} most frequent of {len(labels)}.",
        ),
        Chart(
            id="lengths",
            title="Length of the texts",
            kind="histogram",
            x_title="tokens, about",
            y_title="texts",
            x=edges.tolist(),
            series=[Series(name="texts", y=np.histogram(lengths, bins=edges)[0].astype(float).tolist())],
        ),
    ]
