"""``ignition predict``: the answers of every task, and what is sent for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_api
import pytest
from cli_cases import Ignition, full_api
from fake_api import FakeApi

BASE = {"model": "m", "version": 1, "engine": fake_api.DIGEST, "timing_ms": {"total": 1.5}}
TEXTS = {"task": "text-classification", "label": "late", "labels": ["late"], "confidence": 0.9,
         "probabilities": {"late": 0.9, "broken": 0.1}}  # fmt: skip
ANSWERS: dict[str, tuple[dict[str, Any], tuple[str, ...], list[str]]] = {
    "classes": (
        {"task": "image-classification", "label": "cat", "probability": 0.75, "labels": ["cat"],
         "top": [{"label": "cat", "probability": 0.75}, {"label": "dog", "probability": 0.25}]},
        ("FILE",), ["cat", "75.0%", "dog 25.0%"],
    ),
    "boxes": (
        {"task": "object-detection", "image": {"width": 9, "height": 9},
         "detections": [{"label": "cell", "score": 0.876, "box": [1, 2, 30.4, 40]}]},
        ("FILE",), ["cell", "0.876", "1, 2, 30, 40"],
    ),
    "no boxes": ({"task": "object-detection", "detections": []}, ("FILE",), ["nothing found"]),
    "mask": (
        {"task": "semantic-segmentation", "labels": ["sky"], "shares": {"sky": 0.25},
         "mask": {"media_type": "image/png", "data_base64": "UE5H"}},
        ("FILE",), ["sky 25.0%"],
    ),
    "text": (TEXTS, ("--text", "where is it?"), ["where is it?", "late", "90.0%", "broken 10.0%"]),
    "unsure": (TEXTS | {"label": None, "labels": []}, ("--text", "hm"), ["not sure"]),
    "series": (
        {"task": "forecast", "horizon": 2, "quantiles": {"0.1": [1, 2], "0.5": [3, 4], "0.9": [5, 6]}},
        ("--history", "1,2,nan,3"), ["10%", "50%", "90%", "3", "6"],
    ),
}  # fmt: skip


def test_predict_prints_verdicts_and_writes_the_heatmap(
    api: FakeApi, ignition: Ignition, photos: Path, tmp_path: Path
) -> None:
    full_api(api)
    png = tmp_path / "out.png"
    code, out, _ = ignition("predict", "bolts", str(photos / "b/2.jpg"), "--heatmap", str(png))
    assert code == 0
    assert "defective" in out
    assert png.read_bytes() == b"PNG"
    code, out, _ = ignition("predict", "bolts", str(photos / "b/2.jpg"), str(photos / "ok/1.jpg"), "--json")
    assert [item["verdict"] for item in json.loads(out)] == ["defective"] * 2


@pytest.mark.parametrize("case", ANSWERS)
def test_predict_prints_in_the_tasks_own_columns(
    api: FakeApi, ignition: Ignition, photos: Path, case: str
) -> None:
    answer, arguments, expected = ANSWERS[case]
    full_api(api)
    api.routes["POST /v1/endpoints/bolts/predict"] = {**BASE, **answer}
    given = [str(photos / "b/2.jpg") if word == "FILE" else word for word in arguments]
    code, out, _ = ignition("predict", "bolts", *given)
    assert code == 0
    for words in expected:
        assert words in out
    code, out, _ = ignition("predict", "bolts", *given, "--json")
    assert code == 0
    [item] = json.loads(out)
    assert "mask" not in item, "pictures are no text"
    assert {name: item[name] for name in answer if name != "mask"} == {
        k: v for k, v in answer.items() if k != "mask"
    }
    assert set(item) - set(BASE) - set(answer) <= {"file", "text", "input"}, "nothing of other tasks"


def test_predict_sends_text_and_history_as_json(api: FakeApi, ignition: Ignition, tmp_path: Path) -> None:
    full_api(api)
    api.routes["POST /v1/endpoints/bolts/predict"] = {**BASE, **TEXTS}
    assert ignition("predict", "bolts", "--text", "a", "--text", "ü")[0] == 0
    (tmp_path / "past.csv").write_text("1;2\nnan 4.5\n")
    assert ignition("predict", "bolts", "--history", str(tmp_path / "past.csv"), "--json")[0] == 0
    sent = [(json.loads(body), headers["Content-Type"]) for _, path, body, headers in api.requests]
    assert [body for body, _ in sent] == [{"text": "a"}, {"text": "ü"}, {"history": [1.0, 2.0, None, 4.5]}]
    assert {kind for _, kind in sent} == {"application/json"}


def test_predict_takes_more_numbers_than_a_files_name_has_letters(api: FakeApi, ignition: Ignition) -> None:
    full_api(api)
    api.routes["POST /v1/endpoints/bolts/predict"] = {**BASE, **TEXTS}
    assert ignition("predict", "bolts", "--history", ",".join(["10.5"] * 2000), "--json")[0] == 0
    assert json.loads(api.requests[-1][2]) == {"history": [10.5] * 2000}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a.jpg", "--text", "x"),
        ("--text", "x", "--history", "1"),
        ("--history", "one"),
        ("--history", ","),
    ],
)
def test_predict_is_refused_when_it_is_not_about_one_thing(
    api: FakeApi, ignition: Ignition, arguments: tuple[str, ...]
) -> None:
    full_api(api)
    assert ignition("predict", "bolts", *arguments)[0] == 2
    assert api.requests == []


def test_predict_answers_one_json_document_when_an_image_fails(
    api: FakeApi, ignition: Ignition, photos: Path
) -> None:
    full_api(api)
    code, out, _ = ignition("predict", "bolts", str(photos / "b/2.jpg"), str(photos / "none.jpg"), "--json")
    assert code == 2
    good, bad = json.loads(out)
    assert good["verdict"] == "defective"
    assert (bad["file"], bad["error"]["code"]) == (str(photos / "none.jpg"), "client.input")
