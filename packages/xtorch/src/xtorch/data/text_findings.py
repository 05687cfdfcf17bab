"""Findings about files, rows and single texts, for `xtorch.data.check_text`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from xtorch.data.findings import Findings
from xtorch.data.near_texts import plain
from xtorch.data.text_traits import (
    has_hidden_characters,
    has_markup,
    has_no_words,
    identifies,
    is_damaged,
    languages,
)
from xtorch.data.texts import TextData, UsableText

MAX_TOKENS = 256
"""Of a text; the model sees no more."""
_TOKENS_PER_WORD = 1.35
_MIN_TEXTS = 20
_MIN_OF_LABEL = 4
_COMPARED_LABELS = 30


def literal(text: str) -> str:
    """A user's words for a finding's title, where braces mean something."""
    return text.replace("{", "{{").replace("}", "}}")


def listed(names: Sequence[str]) -> str:
    """The first few names, shortened, for a finding's title."""
    shown = [name if len(name) <= 40 else name[:39] + "…" for name in names[:5]]
    return literal(", ".join(shown) + (", …" if len(names) > len(shown) else ""))


def report_files(data: TextData, findings: Findings) -> None:
    if data.num_files == 0:
        findings.add(
            "file.none",
            "error",
            "No files",
            "Upload a CSV, TSV, JSON lines or Parquet file with a text and a label column, or folders of "
            ".txt files named after their label.",
            num=0,
        )
    for name, error in data.unreadable.items():
        findings.add(
            "file.unreadable",
            "warning" if data.rows else "error",
            literal(error.message.rstrip(".")),
            f"It is left out. To use it: {error.hint or 'upload it again'}.",
            [name],
        )
    findings.add(
        "file.ignored",
        "info",
        "{num} file{s} without labelled texts",
        "They are ignored: their format is another, or they have other columns.",
        data.ignored,
    )
    if data.problem is not None:
        findings.add(
            "columns.unclear",
            "error",
            literal(data.problem.message.rstrip(".")),
            f"{(data.problem.hint or '').capitalize()}.",
            num=len(data.tables) or 1,
        )
    findings.add(
        "encoding.mixed",
        "warning",
        "{num} row{s} in another encoding than the rest",
        "Each was read in the encoding that fits. Look whether their letters are right; save all as UTF-8.",
        data.mixed_encodings,
    )
    findings.add(
        "encoding.lost",
        "warning",
        "Characters that no encoding explains, in {num} place{s}",
        "They became a replacement character. Export the data again as UTF-8.",
        data.damaged,
    )


def report_rows(data: TextData, findings: Findings) -> None:
    def places(rows: Callable[[Any], Sequence[int]]) -> list[str]:
        return [f"{table.name}:{row}" for table in data.tables for row in rows(table)]

    findings.add(
        "table.long_rows",
        "warning",
        "{num} row{s} with more cells than there are columns",
        "They are left out: where the text ends cannot be told. Quote texts that hold the delimiter.",
        places(lambda table: table.long_rows),
    )
    findings.add(
        "table.short_rows",
        "info",
        "{num} row{s} with fewer cells than there are columns",
        "The missing cells count as empty.",
        places(lambda table: table.short_rows),
    )
    findings.add(
        "table.broken_rows",
        "warning",
        "{num} line{s} that are no JSON object",
        "They are left out.",
        places(lambda table: table.broken_rows),
    )
    findings.add(
        "table.unclosed_quote",
        "warning",
        "{num} file{s} with a quote that is never closed",
        "Quotes were read as plain characters there. Double each quote inside of a quoted text.",
        [table.name for table in data.tables if table.unclosed_quote],
    )
    findings.add(
        "table.repeated_header",
        "info",
        "{num} row{s} that are the header again",
        "They are left out.",
        places(lambda table: table.repeated_headers),
    )
    findings.add(
        "table.renamed_columns",
        "info",
        "{num} column{s} without a name of their own",
        "They were numbered.",
        [f"{table.name}: {name}" for table in data.tables for name in table.renamed_columns],
    )
    findings.add(
        "text.empty",
        "warning",
        "{num} row{s} without text",
        "They are left out.",
        data.empty,
    )
    findings.add(
        "label.missing",
        "warning",
        "{num} text{s} without a label",
        "They are left out. Label them, or delete them.",
        data.unlabelled,
    )
    if data.spellings:
        shown = "; ".join(
            f"{name!r} also as {', '.join(map(repr, others[:3]))}"
            for name, others in list(data.spellings.items())[:5]
        )
        findings.add(
            "label.spelling",
            "warning",
            f"{len(data.spellings)} label{'' if len(data.spellings) == 1 else 's'} spelled in several ways",
            f"They count as one: {shown}. Write each label in one way.",
            data.respelled,
        )


def report_texts(usable: Sequence[UsableText], findings: Findings) -> None:
    def places(matches: Callable[[str], bool]) -> list[str]:
        return [row.place for row in usable if matches(row.text)]

    findings.add(
        "text.long",
        "warning",
        f"{{num}} text{{s}} longer than about {MAX_TOKENS} tokens",
        "Only their beginning is read. Put what matters first, or cut long texts into parts.",
        places(lambda text: num_tokens(text) > MAX_TOKENS),
    )
    findings.add(
        "text.no_words",
        "warning",
        "{num} text{s} without a single word",
        "There is little to learn from digits, punctuation and emoji alone.",
        places(has_no_words),
    )
    findings.add(
        "text.markup",
        "warning",
        "{num} text{s} with HTML tags or entities",
        "It is learned as it stands, and requests must then hold it too. Better: remove tags and entities "
        "here and there.",
        places(has_markup),
    )
    findings.add(
        "text.damaged",
        "warning",
        "{num} text{s} with wrongly decoded characters (such as Ã© for é)",
        "They are used as they are. Export the data again as UTF-8.",
        places(is_damaged),
    )
    findings.add(
        "text.hidden",
        "info",
        "{num} text{s} with invisible characters",
        "Most do no harm: the tokeniser removes control characters.",
        places(has_hidden_characters),
    )
    findings.add(
        "text.identifiers",
        "warning",
        "{num} text{s} with addresses, telephone or order numbers",
        "They may be personal data, and a model may learn them by heart instead of the meaning. Remove or "
        "mask them.",
        places(identifies),
    )
    found = languages(row.text for row in usable)
    total = sum(found.values())
    others = total - found["English"]
    if total >= _MIN_TEXTS and others > 0.05 * total:
        shares = ", ".join(f"{name} {count / total:.0%}" for name, count in found.most_common(5))
        findings.add(
            "text.languages",
            "warning",
            f"Texts in languages other than English: {shares}",
            "The pretrained model learned from English texts. Others work less well, the less the more their "
            "script differs: look at the test result of each language.",
            num=others,
        )


def num_tokens(text: str) -> int:
    """About how many tokens a text has; without the tokeniser, which the check does not need."""
    wide = sum(character > "\u2e80" for character in text)
    return round(_TOKENS_PER_WORD * len(text.split())) + wide + 2


def report_label_in_text(usable: Sequence[UsableText], labels: Sequence[str], findings: Findings) -> None:
    """A label that stands in most of its own texts and hardly any other gives the answer away."""
    wanted = {label: f" {plain(label)} " for label in labels[:_COMPARED_LABELS] if len(plain(label)) > 2}
    if not wanted or len(usable) < _MIN_TEXTS:
        return
    own: dict[str, list[str]] = defaultdict(list)
    other: Counter[str] = Counter()
    totals = Counter(label for row in usable for label in row.labels)
    for row in usable:
        text = f" {plain(row.text)} "
        for label, phrase in wanted.items():
            if phrase in text:
                if label in row.labels:
                    own[label].append(row.place)
                else:
                    other[label] += 1
    given_away = [
        label
        for label in wanted
        if totals[label] >= _MIN_OF_LABEL
        and len(own[label]) > 0.5 * totals[label]
        and other[label] < 0.05 * max(1, len(usable) - totals[label])
    ]
    findings.add(
        "label.in_text",
        "warning",
        f"{len(given_away)} label{'' if len(given_away) == 1 else 's'} stand in most of their own texts: "
        f"{listed(given_away)}",
        "The model will learn the word instead of the meaning. If new texts do not hold it, remove it here.",
        [place for label in given_away for place in own[label]],
    )
