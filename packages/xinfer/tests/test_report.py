"""The receipt as a page: it says what the receipt says, escapes everything and loads nothing."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from xinfer.manifest import Histogram, Manifest, Receipt
from xinfer.package import EnginePackage
from xinfer.report import charts, render, write_report
from xinfer.report.facts import factor, number, speedups
from xinfer.report.markup import tag
from xinfer.report.page import headline

from .receipts import candidate, rich_documents

VOID = {"meta", "br", "rect", "line", "circle"}
EVIL = "<script>alert('x')</script>\"&'"


class Page(HTMLParser):
    """A parsed page: its text, elements, and whether elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, name: str, class_: str | None = None) -> list[dict[str, str | None]]:
        return [
            attributes
            for element, attributes in self.elements
            if element == name and (class_ is None or class_ in (attributes.get("class") or "").split())
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag == "td":
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "td" in self.open:
            self.cells[-1][-1] += data


def page(manifest: Manifest, receipt: Receipt, *, signature: str = "unsigned") -> Page:
    return Page(text_of(manifest, receipt, signature=signature))


def text_of(manifest: Manifest, receipt: Receipt, *, signature: str = "unsigned") -> str:
    return render(
        manifest, receipt, digest="sha256:" + "e" * 64, file_name="paving.engine", size_bytes=26 << 20,
        signature=signature,
    )  # fmt: skip


def test_page_opens_with_the_verdict() -> None:
    manifest, receipt = rich_documents()
    assert headline(manifest, receipt) == "4.3× faster than fp32 on the same runtime, and still right"
    shown = page(manifest, receipt)
    assert len(shown.named("h1")) == 1
    assert "lost 0.0026 of the 0.0100 that was allowed, on 500 held-out samples" in shown.text
    assert "1.18× the speed of the fastest other candidate (openvino/int8/ort-qdq/network)" in shown.text
    assert "6.2× the speed of the slowest candidate (onnxruntime/fp32)" in shown.text


def test_page_claims_agreement_only_when_no_data_set_is_on_record() -> None:
    manifest, receipt = rich_documents()
    manifest = dataclasses.replace(manifest, source=dataclasses.replace(manifest.source, dataset_digest=None))
    assert "still right" not in headline(manifest, receipt)
    assert "No data set is on record" in page(manifest, receipt).text


def test_table_has_every_candidate_with_its_numbers_and_reason() -> None:
    manifest, receipt = rich_documents()
    shown = page(manifest, receipt)
    rows = {row[0]: row for row in shown.cells if row}
    for each in receipt.candidates:
        first = each.id + (each.reason or "")
        assert first in rows, each.id
        if each.latency_ms is not None:
            assert rows[first][3] == number(each.latency_ms.p50)
        if each.accuracy is not None:
            assert rows[first][8] == f"{each.accuracy:.4f}"
    assert rows["openvino/int8+bf16/nncf-openvino/network"][1:3] == ["chosen", "int8+bf16"]
    assert len(shown.named("tr", "selected")) == 1


def test_page_shows_classes_layers_histogram_and_peer() -> None:
    manifest, receipt = rich_documents()
    shown = page(manifest, receipt)
    assert len(shown.named("svg", "dumbbell")) == len(receipt.classes)
    assert len(shown.named("rect", "column")) == len(receipt.latency_histogram_ms.counts)  # type: ignore[union-attr]
    assert receipt.layers[0].name in shown.text
    assert "PIL + torch eager, fp32" in shown.text
    losses = [row for row in shown.cells if row and row[0].startswith("class ")]
    changes = [float(row[2]) for row in losses]
    assert len(changes) == 12
    assert changes == sorted(changes), "those that lost most stand first"


def test_page_names_machine_licences_digests_and_how_to_check() -> None:
    manifest, receipt = rich_documents()
    shown = page(manifest, receipt, signature="verified: acme").text
    for expected in (
        receipt.machine.cpu,
        "8.0 GiB",
        "640 single inferences per candidate",
        "Apache-2.0",
        manifest.source.onnx_digest,
        manifest.identity.digest,
        "sha256:" + "e" * 64,
        "xinfer verify paving.engine",
        "--max-drop 0.01",
        "signature verified: acme",
    ):
        assert expected in shown, expected


def test_page_leaves_out_what_the_receipt_lacks() -> None:
    manifest, receipt = rich_documents()
    bare = dataclasses.replace(
        receipt,
        accuracy=None,
        comparison=None,
        latency_histogram_ms=None,
        layers=(),
        classes=(),
        candidates=(candidate("onnxruntime/fp32", "selected"),),
    )
    shown = page(manifest, bare)
    assert "fp32 on onnxruntime" in shown.text
    for heading in ("Accuracy per class", "Where the time goes", "Latency of the winner", "baselines"):
        assert heading not in shown.text


def test_everything_from_the_receipt_is_escaped() -> None:
    manifest, receipt = rich_documents(name=EVIL, labels=(EVIL, "other"))
    receipt = dataclasses.replace(
        receipt,
        machine=dataclasses.replace(receipt.machine, cpu=EVIL, os=EVIL),
        candidates=tuple(dataclasses.replace(row, reason=EVIL) for row in receipt.candidates),
        layers=tuple(dataclasses.replace(row, name=EVIL, type=EVIL) for row in receipt.layers),
        comparison=dataclasses.replace(receipt.comparison, peer=EVIL),  # type: ignore[type-var]
    )
    manifest = dataclasses.replace(
        manifest, source=dataclasses.replace(manifest.source, licences=(EVIL,), run_id=EVIL)
    )
    text = text_of(manifest, receipt, signature=EVIL)
    assert "<script" not in text
    shown = Page(text)
    assert shown.named("script") == []
    assert shown.text.count(EVIL) > len(receipt.candidates)


def test_page_loads_and_runs_nothing() -> None:
    shown = Page(text_of(*rich_documents()))
    assert not {"script", "link", "img", "iframe", "object", "form", "a", "base"} & {
        element for element, _ in shown.elements
    }
    for _, attributes in shown.elements:
        assert not {name for name in attributes if name.startswith("on") or name in ("src", "href", "style")}
    text = text_of(*rich_documents())
    assert re.findall(r"https?:|//\w|url\(|@import", text) == []
    policies = [each["content"] for each in shown.named("meta") if each.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_bars_stay_within_their_tracks_when_numbers_are_odd() -> None:
    for share in (-1.0, 0.0, 0.3, 7.0):
        drawn = Page(charts.bar(share))
        (width,) = [each["width"] for each in drawn.named("rect", "fill")]
        assert width is not None
        assert 0 < float(width.rstrip("%")) <= 100


@pytest.mark.parametrize(
    ("edges", "counts"),
    [((1.0, 1.0), (3,)), ((), ()), ((1.0, 2.0), (0,)), ((1.0, 2.0, 3.0), (1,))],
)
def test_histogram_is_left_out_when_there_is_nothing_to_draw(
    edges: tuple[float, ...], counts: tuple[int, ...]
) -> None:
    assert charts.histogram(Histogram(edges=edges, counts=counts), None) == ""


def test_speedups_are_against_fp32_and_the_fastest_and_slowest_others() -> None:
    _, receipt = rich_documents()
    found = speedups(receipt)
    assert [each.candidate.id for each in found] == [
        "openvino/fp32",
        "openvino/int8/ort-qdq/network",
        "onnxruntime/fp32",
    ]
    assert found[0].throughput == pytest.approx(812 / 187)
    assert found[0].latency == pytest.approx(9.8 / 2.31)
    alone = dataclasses.replace(receipt, candidates=(receipt.selected,))
    assert speedups(alone) == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (0.0312, "0.0312"), (4.271, "4.27"), (1234.4, "1,234"), (3e-6, "3.0e-06")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_factors_are_rounded_as_people_say_them() -> None:
    assert [factor(value) for value in (1.234, 4.34, 123.4)] == ["1.23×", "4.3×", "123×"]


def test_tag_escapes_text_and_attributes_but_not_markup() -> None:
    inner = tag("b", "<i>")
    assert tag("p", inner, None, " & ", class_='a"b', data_label="x") == (
        '<p class="a&quot;b" data-label="x"><b>&lt;i&gt;</b> &amp; </p>'
    )


def test_report_file_is_whole_and_replaces_an_older_one(engine_file: Path, tmp_path: Path) -> None:
    destination = tmp_path / "deep" / "receipt.html"
    package = EnginePackage.open(engine_file)
    write_report(package, destination)
    write_report(package, destination)
    assert [path.name for path in destination.parent.iterdir()] == ["receipt.html"]
    shown = Page(destination.read_text())
    assert "signed, not checked here" in shown.text
    assert package.digest in shown.text
