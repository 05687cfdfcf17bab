"""The check of labelled texts: what is found out, what is wrong, and that nothing ends in a stack trace."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xtorch.data.check_text import TextInspection, check_texts, inspect_texts
from xtorch.data.near_texts import near_text_pairs
from xtorch.data.text_traits import language_of, script_of
from xtorch.data.texts import read_texts
from xtorch.errors import DataError

WORDS = [
    "river",
    "stone",
    "bread",
    "paper",
    "window",
    "garden",
    "silver",
    "morning",
    "engine",
    "letter",
    "market",
    "winter",
    "music",
    "basket",
    "forest",
    "bridge",
    "candle",
    "ladder",
    "mirror",
    "pocket",
    "summer",
    "ticket",
    "valley",
    "wagon",
    "yellow",
    "anchor",
    "butter",
    "copper",
    "desert",
]


def sentences(num: int, seed: int = 0) -> list[str]:
    """Distinct ones, none nearly the same as another."""
    rng = random.Random(seed)
    return [" ".join(rng.sample(WORDS, 9)) for _ in range(num)]


def good_rows(num: int = 60, labels: tuple[str, ...] = ("sport", "money")) -> list[tuple[str, str]]:
    return [(text, labels[i % len(labels)]) for i, text in enumerate(sentences(num))]


def as_csv(rows: list[tuple[str, str]], header: str = "text,label") -> str:
    return "\n".join([header, *(f'"{text}",{label}' for text, label in rows)]) + "\n"


def put(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    root.mkdir(exist_ok=True)
    return root


def codes(inspection: TextInspection) -> dict[str, Any]:
    return {finding.code: finding for finding in inspection.report.findings}


def test_clean_table_has_no_findings(tmp_path: Path) -> None:
    inspection = inspect_texts(put(tmp_path, {"data.csv": as_csv(good_rows())}))
    assert inspection.report.findings == []
    assert inspection.report.facts == {
        "Text column": "text",
        "Label column": "label",
        "Task": "one label a text",
    }
    assert inspection.labels == ("money", "sport")
    assert [each.num_items for each in inspection.report.classes] == [30, 30]
    assert inspection.report.item == "rows"
    assert inspection.report.suits == ["text-classification"]
    assert {chart["id"] for chart in inspection.report.charts} == {"labels", "lengths"}


def test_check_report_is_plain_json(tmp_path: Path) -> None:
    report = check_texts(put(tmp_path, {"data.csv": as_csv(good_rows())}))
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again.keys() == report.keys()
    assert again["classes"][0] == report["classes"][0]


# ------------------------------------------------------------------------------- formats and columns


def test_formats_give_the_same_rows(tmp_path: Path) -> None:
    rows = good_rows()
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    forms: dict[str, dict[str, str | bytes]] = {
        "csv": {"data.csv": as_csv(rows)},
        "tsv": {"data.tsv": "text\tlabel\n" + "".join(f"{t}\t{k}\n" for t, k in rows)},
        "jsonl": {"data.jsonl": "\n".join(lines)},
        "json": {"data.json": f"[{','.join(lines)}]"},
        "folders": {f"{label}/{i}.txt": text for i, (text, label) in enumerate(rows)},
        "fasttext": {"data.txt": "".join(f"__label__{label} {text}\n" for text, label in rows)},
        "lines": {"SMSCollection": "".join(f"{label}\t{text}\n" for text, label in rows)},
        "headless": {"data.csv": as_csv(rows).split("\n", 1)[1]},
    }
    for name, files in forms.items():
        data = read_texts(put(tmp_path / name, files))
        assert sorted((row.text, row.labels[0]) for row in data.rows) == sorted(rows), name
        assert data.labels == ("money", "sport")
        assert not data.multi_label


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        ("id,review,sentiment", "review", "sentiment"),
        ("date,message,author,category", "message", "category"),
        ("Class,Comment,url", "Comment", "Class"),
        ("label,label_text,text", "text", "label_text"),
        ("a,b,c", "b", "c"),
    ],
)
def test_columns_are_inferred(tmp_path: Path, header: str, text: str, label: str) -> None:
    names = header.split(",")
    lines = [header]
    for i, (body, kind) in enumerate(good_rows()):
        cells = {"date": f"2024-01-{i % 28 + 1:02d}", "url": f"https://a.b/{i}", "author": f"name{i % 7}"}
        cells |= {"id": str(i), "label": str(i % 2), "a": str(i * 7), text: body, label: kind}
        lines.append(",".join(f'"{cells[name]}"' for name in names))
    facts = read_texts(put(tmp_path, {"data.csv": "\n".join(lines)})).facts
    assert (facts["Text column"], facts["Label column"]) == (text, label)


def test_title_and_description_are_joined(tmp_path: Path) -> None:
    lines = ["title,description,label"]
    lines += [f"{text[:25]},{text},{label}" for text, label in good_rows()]
    data = read_texts(put(tmp_path, {"data.csv": "\n".join(lines)}))
    assert data.facts["Text columns"] == "title, description (joined by a space)"
    assert data.rows[0].text == f"{sentences(1)[0][:25].strip()} {sentences(1)[0]}"


@pytest.mark.parametrize(
    ("cells", "fact"),
    [
        (["a|b", "a", "b|c", "c"], "separated by '|'"),
        (["a;b", "a", "b; c", "c"], "separated by ';'"),
        (["a, b", "a", "b, c", "c"], "separated by ','"),
        (['["a", "b"]', '["a"]', '["b", "c"]', '["c"]'], "a list"),
        (["['a', 'b']", "['a']", "['b', 'c']", "['c']"], "a list"),
    ],
)
def test_several_labels_in_a_cell(tmp_path: Path, cells: list[str], fact: str) -> None:
    lines = [json.dumps({"text": text, "labels": cells[i % 4]}) for i, text in enumerate(sentences(40))]
    data = read_texts(put(tmp_path, {"data.jsonl": "\n".join(lines)}))
    assert data.multi_label
    assert data.facts["Labels of a row"] == fact
    assert [row.labels for row in data.rows[:4]] == [("a", "b"), ("a",), ("b", "c"), ("c",)]


def test_separator_inside_of_one_label_is_none(tmp_path: Path) -> None:
    data = read_texts(
        put(
            tmp_path,
            {
                "d.tsv": "text\tlabel\n"
                + "".join(
                    f"{text}\t{('food, drink', 'Sci/Tech')[i % 2]}\n" for i, text in enumerate(sentences(40))
                )
            },
        )
    )
    assert not data.multi_label
    assert data.labels == ("Sci/Tech", "food, drink")


def test_one_column_a_label(tmp_path: Path) -> None:
    lines = ["id,comment_text,toxic,insult,threat"]
    lines += [f"{i},{text},{i % 2},{i % 3 == 0:d},0" for i, text in enumerate(sentences(60))]
    lines += [f"{i},{text},0,0,1" for i, text in enumerate(sentences(6, seed=9), start=60)]
    data = read_texts(put(tmp_path, {"data.csv": "\n".join(lines)}))
    assert data.multi_label
    assert data.labels == ("insult", "threat", "toxic")
    assert data.rows[2].labels == ()
    assert data.rows[3].labels == ("insult", "toxic")


def test_one_column_a_label_with_one_each_is_single_label(tmp_path: Path) -> None:
    lines = ["text,yes,no"] + [f"{text},{i % 2},{1 - i % 2}" for i, text in enumerate(sentences(40))]
    data = read_texts(put(tmp_path, {"data.csv": "\n".join(lines)}))
    assert not data.multi_label
    assert data.rows[0].labels == ("no",)


@pytest.mark.parametrize(
    "files",
    [
        {"train.csv": 40, "test.csv": 20},
        {"data/train-00000-of-00001.csv": 40, "data/test-00000-of-00001.csv": 20},
    ],
)
def test_given_files_are_the_split(tmp_path: Path, files: dict[str, int]) -> None:
    rows, start = good_rows(), 0
    for name, num in files.items():
        put(tmp_path, {name: as_csv(rows[start : start + num])})
        start += num
    parts = [row.part for row in read_texts(tmp_path).rows]
    assert sorted(map(str, parts)) == ["test"] * 20 + ["train"] * 40


def test_split_column_and_folders_are_the_split(tmp_path: Path) -> None:
    parts = ("train", "train", "dev", "test")
    lines = ["text,label,split"] + [f"{t},{k},{parts[i // 2 % 4]}" for i, (t, k) in enumerate(good_rows())]
    data = read_texts(put(tmp_path / "a", {"data.csv": "\n".join(lines)}))
    assert data.facts["Split column"] == "split"
    assert [row.part for row in data.rows[:8:2]] == ["train", "train", "validation", "test"]
    files: dict[str, str | bytes] = {
        f"{p}/{k}/{i}.txt": t for p in ("train", "test") for i, (t, k) in enumerate(good_rows(20))
    }
    found = {row.part for row in read_texts(put(tmp_path / "b", files)).rows}
    assert found == {"train", "test"}


# -------------------------------------------------------------------------------------- dirty inputs


def _with(extra: list[tuple[str, str]]) -> dict[str, str | bytes]:
    return {"data.csv": as_csv(good_rows() + extra)}


LONG = " ".join(f"word{i}" for i in range(400))
GERMAN = [
    f"Das ist nicht der {a} und ich mag die {b} für eine Stunde"
    for a, b in zip(WORDS, WORDS[5:], strict=False)
]

WARNED: dict[str, tuple[dict[str, str | bytes], str, int | None]] = {
    "empty text": (_with([("", "sport"), ("nan", "money"), ("   ", "sport")]), "text.empty", 3),
    "missing label": (_with([(s, "") for s in sentences(3, 5)]), "label.missing", 3),
    "label in several spellings": (
        _with([(sentences(1, 5)[0], "Sport"), (sentences(1, 6)[0], " sport ")]),
        "label.spelling",
        2,
    ),
    "exact duplicates": (_with(good_rows()[:4]), "duplicate.exact", 4),
    "near duplicates": (_with([(t.upper() + "!", k) for t, k in good_rows()[:2]]), "duplicate.near", 4),
    "near duplicates of another label": (
        _with([(t.title() + ".", "money") for t, k in good_rows()[:1]]),
        "duplicate.near_conflict",
        2,
    ),
    "label conflict": (_with([(good_rows()[0][0], "money")]), "duplicate.label_conflict", 2),
    "leakage": (
        {"train.csv": as_csv(good_rows()), "test.csv": as_csv(good_rows()[:5] + good_rows(70)[60:])},
        "duplicate.leakage",
        5,
    ),
    "near leakage": (
        {
            "train.csv": as_csv(good_rows()),
            "test.csv": as_csv([(t + ".", k) for t, k in good_rows()[:3]] + good_rows(70)[60:]),
        },
        "duplicate.near_leakage",
        6,
    ),
    "imbalance": (
        {"data.csv": as_csv([(s, "rare" if i < 4 else "common") for i, s in enumerate(sentences(120))])},
        "label.imbalance",
        1,
    ),
    "label with too few texts": (_with([(s, "rare") for s in sentences(2, 5)]), "label.too_few", 2),
    "few texts": ({"data.csv": as_csv(good_rows(16))}, "label.few", 2),
    "label only in the test part": (
        {"train.csv": as_csv(good_rows()), "test.csv": as_csv([(s, "new") for s in sentences(5, 7)])},
        "label.only_in_test",
        5,
    ),
    "mixed encodings": (
        {
            "data.csv": as_csv(good_rows() + [(f"café {s}", "sport") for s in sentences(4, 5)]).encode()
            + '"naïve thing here",money\n'.encode("cp1252")
        },
        "encoding.mixed",
        1,
    ),
    "half of a surrogate pair": (
        {
            "data.jsonl": "\n".join(json.dumps({"text": t, "label": k}) for t, k in good_rows())
            + '\n{"text": "broken \\ud83d emoji here", "label": "sport"}'
        },
        "encoding.lost",
        1,
    ),
    "wrongly decoded": (_with([("the cafÃ© was not quite open", "sport")]), "text.damaged", 1),
    "long text": (_with([(LONG, "sport")]), "text.long", 1),
    "markup": (
        _with([("<p>one two<br/>three</p>", "sport"), ("a &amp; b are here", "money")]),
        "text.markup",
        2,
    ),
    "identifiers": (
        _with([("write to anna@example.com please now", "sport"), ("call +49 170 1234567 at once", "money")]),
        "text.identifiers",
        2,
    ),
    "no words": (_with([("12345 !!! 99", "sport"), ("🙂🙂 ?!", "money")]), "text.no_words", 2),
    "invisible characters": (_with([("zero\u200bwidth space is here", "sport")]), "text.hidden", 1),
    "another language": (_with([(s, "sport") for s in GERMAN]), "text.languages", None),
    "label in the text": (
        {"data.csv": as_csv([(f"{text} about {label}", label) for text, label in good_rows()])},
        "label.in_text",
        60,
    ),
    "unquoted delimiter": ({"data.csv": as_csv(good_rows()) + "a, b and c,sport\n"}, "table.long_rows", 1),
    "short row": ({"data.csv": as_csv(good_rows()) + "nothing else\n"}, "table.short_rows", 1),
    "quote never closed": (
        {
            "data.tsv": "text\tlabel\n"
            + "".join(f"{t}\t{k}\n" for t, k in good_rows())
            + '"open text\tsport\n'
        },
        "table.unclosed_quote",
        1,
    ),
    "header again": (
        {"data.csv": as_csv(good_rows()) + as_csv(good_rows(64)[60:])},
        "table.repeated_header",
        1,
    ),
    "broken JSON lines": (
        {
            "data.jsonl": "\n".join(json.dumps({"text": t, "label": k}) for t, k in good_rows())
            + '\n{"text": '
        },
        "table.broken_rows",
        1,
    ),
    "a damaged file beside": (
        {"data.csv": as_csv(good_rows()), "other.csv": b"PK\x03\x04"},
        "file.unreadable",
        1,
    ),
    "files of other kinds": (
        {"data.csv": as_csv(good_rows()), "readme.md": "# hello", "categories.json": '["sport", "money"]'},
        "file.ignored",
        1,
    ),
    "small test part": (
        {"train.csv": as_csv(good_rows()), "test.csv": as_csv(good_rows(70)[60:])},
        "test.small",
        None,
    ),
    "equal column names": (
        {"data.csv": "text,text,label\n" + "".join(f"{t},,{k}\n" for t, k in good_rows())},
        "table.renamed_columns",
        1,
    ),
}


@pytest.mark.parametrize("kind", WARNED)
def test_dirty_input_is_found_and_the_rest_is_used(tmp_path: Path, kind: str) -> None:
    files, code, num = WARNED[kind]
    inspection = inspect_texts(put(tmp_path, files))
    found = codes(inspection)
    assert code in found, sorted(found)
    assert found[code].severity != "error"
    assert num is None or found[code].num == num
    assert found[code].hint
    assert not inspection.errors
    assert len(inspection.usable) >= 16


REFUSED: dict[str, tuple[dict[str, str | bytes], str]] = {
    "nothing": ({}, "file.none"),
    "empty file": ({"data.csv": b""}, "file.unreadable"),
    "Excel": ({"data.csv": b"PK\x03\x04abc"}, "file.unreadable"),
    "pictures only": ({"a/b.png": b"\x89PNG"}, "text.none"),
    "header only": ({"data.csv": "text,label\n"}, "columns.unclear"),
    "no label column": ({"data.csv": "text\n" + "\n".join(sentences(30))}, "columns.unclear"),
    "no text column": (
        {"data.csv": "x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(30))},
        "columns.unclear",
    ),
    "which label": (
        {
            "data.csv": "text,aa,bb\n"
            + "".join(f"{t},{k},{'uv'[i % 2]}x\n" for i, (t, k) in enumerate(good_rows()))
        },
        "columns.unclear",
    ),
    "one label": ({"data.csv": as_csv([(s, "same") for s in sentences(30)])}, "label.one"),
    "one row": ({"data.csv": as_csv(good_rows(1))}, "label.one"),
    "two texts of each": ({"data.csv": as_csv(good_rows(4))}, "label.none_learnable"),
    "labels like sentences": (
        {"data.csv": as_csv([(s, f"x{i}") for i, s in enumerate(sentences(40))])},
        "label.too_many",
    ),
    "a number to estimate": (
        {"data.csv": as_csv([(s, f"{i % 60 / 7:.3f}") for i, s in enumerate(sentences(200))])},
        "label.numbers",
    ),
    "all conflicts": (
        {"data.csv": as_csv([(s, k) for s in sentences(20) for k in ("a", "b")])},
        "label.none_learnable",
    ),
    "braces": ({"data.csv": as_csv([(s, "{x}") for s in sentences(30)])}, "label.one"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_hopeless_input_is_refused_with_a_hint(tmp_path: Path, kind: str) -> None:
    files, code = REFUSED[kind]
    inspection = inspect_texts(put(tmp_path / "data", files))
    errors = {finding.code: finding for finding in inspection.errors}
    assert code in errors, [(f.code, f.title) for f in inspection.report.findings]
    assert errors[code].hint
    assert inspection.report.suits == []


def test_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        check_texts(tmp_path / "none")


def test_what_is_left_out_is_left_out(tmp_path: Path) -> None:
    rows = good_rows()
    files = _with([rows[1], (rows[0][0], "money"), (rows[3][0].upper(), rows[3][1])])
    inspection = inspect_texts(put(tmp_path, files))
    texts = [row.text for row in inspection.usable]
    assert rows[0][0] not in texts  # both labels
    assert texts.count(rows[1][0]) == 1
    groups = {row.text: row.group for row in inspection.usable}
    assert groups[rows[3][0]] == groups[rows[3][0].upper()]
    assert len(set(groups.values())) == len(texts) - 1


def test_near_pairs_are_found_among_many_and_only_those() -> None:
    texts = sentences(3000)
    changed = texts[7] + " indeed"
    pairs = near_text_pairs(
        [
            *texts,
            changed,
            "",
            "",
            "短い文章です。今日は天気が良いですね。",
            "短い文章です。今日は天気が良いですね!",
        ]
    )
    assert (7, 3000) in [tuple(sorted(pair)) for pair in pairs]
    assert (3003, 3004) in [tuple(sorted(pair)) for pair in pairs]
    assert len(pairs) == 2


def test_languages_and_scripts() -> None:
    assert language_of("This is not what I have for you") == "English"
    assert language_of("Ich bin nicht da und das ist gut") == "German"
    assert language_of("qwerty asdf") is None
    assert script_of("Привет, мир") == "Cyrillic"
    assert script_of("مرحبا بالعالم") == "Arabic"
    assert script_of("12 !") is None


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_never_end_in_a_stack_trace(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    names: list[Callable[[int], str]] = [
        lambda i: f"{i}.csv",
        lambda i: f"{i}.jsonl",
        lambda i: f"a/{i}.txt",
        lambda i: f"{i}.json",
    ]
    base = as_csv(good_rows(12)).encode()
    for i in range(12):
        data = bytearray(base if i % 2 else rng.randbytes(300))
        for _ in range(rng.randrange(1, 30)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        put(tmp_path, {names[i % 4](i): bytes(data)})
        check_texts(tmp_path)
