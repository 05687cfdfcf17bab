"""The predict route for every kind of task, on real small engines whose answers are known."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from xinfer.serve.app import GatewayApp
from xinfer.serve.bodies import MAX_MANY
from xinfer.serve.exchange import Limits
from xinfer.serve.host import Catalogue, Endpoint, WorkerPool
from xinfer.serve.server import load_host

from ..conftest import encode, make_image
from ..test_zoo_forecast import GOLDEN, HORIZON, LENGTH, SPEC, make_seasonal_onnx
from ..test_zoo_nlp import CLASSIFY, EMBED, VECTORS
from ..text_models import (
    golden_tokens,
    make_classifier_onnx,
    make_embedding_onnx,
    table,
    tokenizer_json,
)
from ..zoo_engines import make_engine, save_onnx
from .test_app import Call

JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain; charset=utf-8"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
JPEG = encode(make_image(5, (80, 64)))
VISION: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "classes": (
        {"task": "image-classification", "labels": ["cat", "dog", "fish"]},
        {"scores": np.array([[1.0, 3.0, 2.0]])},
    ),
    "boxes": (
        {"task": "object-detection", "labels": ["cup", "book"], "score_threshold": 0.3},
        {"boxes": np.array([[[4, 4, 20, 20], [9, 8, 40, 9]]]), "scores": np.array([[[0.9, 0], [0.1, 0.2]]])},
    ),
    "masks": (
        {"task": "semantic-segmentation", "labels": ["background", "sky"], "background": "background"},
        {"logits": np.concatenate([np.zeros((1, 1, 8, 12)), np.full((1, 1, 8, 12), 5.0)], axis=1)},
    ),
}  # fmt: skip


def constant_onnx(path: Path, outputs: dict[str, np.ndarray]) -> Path:
    """Answers the same whatever the image shows."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["float"], ["peak"], "peak", keepdims=0),
        helper.make_node("Mul", ["peak", "nothing"], ["zero"], "zero"),
        *(helper.make_node("Add", [f"c_{name}", "zero"], [name], name) for name in outputs),
    ]
    constants = {f"c_{name}": value.astype(np.float32) for name, value in outputs.items()}
    return save_onnx(
        path,
        nodes,
        {"image": (TensorProto.UINT8, [1, 32, 48, 3])},
        {name: value.shape for name, value in outputs.items()},
        constants | {"nothing": np.float32(0)},
    )


def write_engines(root: Path) -> dict[str, Path]:
    """Engine files by name."""
    for name, (task, outputs) in VISION.items():
        model = constant_onnx(root / name / "model" / "model.onnx", outputs)
        image = {"name": "image", "kind": "image", "color": "RGB", "min_side": 32,
                 "size": [32, 48], "mode": "letterbox", "pad_value": 114}  # fmt: skip
        document = {**task, "input": image, "outputs": {output: output for output in outputs}}
        golden = {"image": np.zeros((1, 32, 48, 3), np.uint8)}
        make_engine(root / name, model, {"metric": "cosine", **document}, golden).close()
    tokenizer = {"tokenizer.json": tokenizer_json()}
    rows = table(3, {"good": [4, 0, 0], "bad": [0, 4, 0], "london": [0, 0, 4]}, [0, 0, 0])
    model = make_classifier_onnx(root / "texts" / "model" / "model.onnx", rows)
    make_engine(root / "texts", model, CLASSIFY, golden_tokens(types=True), tokenizer).close()
    model = make_embedding_onnx(root / "vectors" / "model" / "model.onnx", VECTORS, pooled=True)
    make_engine(root / "vectors", model, EMBED, golden_tokens(), tokenizer).close()
    model = make_seasonal_onnx(root / "series" / "model" / "model.onnx")
    make_engine(root / "series", model, SPEC, GOLDEN).close()
    return {folder.name: folder / "tiny.engine" for folder in root.iterdir()}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayApp]:
    root = tmp_path_factory.mktemp("engines")
    catalogue, pool = Catalogue(), WorkerPool(2, max_queued=8)
    catalogue.replace(
        {
            name: Endpoint(name=name, key_sha256=None, host=load_host(path, None, num_workers=2))
            for name, path in write_engines(root).items()
        }
    )
    yield GatewayApp(catalogue, pool, limits=Limits(), is_ready=lambda: True, asks_for_keys=False)
    pool.close()
    catalogue.replace({})


def ask(
    app: GatewayApp,
    name: str,
    body: bytes | dict[str, Any] | list[Any],
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = (JSON if not isinstance(body, bytes) else {}) if headers is None else headers

    async def call() -> tuple[int, Any]:
        async with asyncio.timeout(60):
            return await Call(app, [content], path=f"/v1/endpoints/{name}/predict", headers=given).answer()

    return asyncio.run(call())


@pytest.mark.parametrize("name", ["classes", "boxes", "masks", "texts", "vectors", "series"])
def test_every_answer_says_which_task_model_and_engine_gave_it(app: GatewayApp, name: str) -> None:
    body = {"texts": b"good film", "vectors": b"good film", "series": b"[1, 2, 3, 4, 5]"}.get(name, JPEG)
    status, answer = ask(app, name, body)
    assert status == 200, answer
    host = app.catalogue.endpoints[name].host
    assert answer["engine"] == host.digest
    assert host.engine.task is not None
    assert answer["task"] == host.engine.task.task
    assert (answer["model"], answer["version"]) == (
        host.engine.manifest.identity.name,
        host.engine.manifest.identity.version,
    )
    assert set(answer["timing_ms"]) == {"decode", "inference", "total"}
    assert all(0 <= value < 60_000 for value in answer["timing_ms"].values())


def test_classifier_answers_label_and_size(app: GatewayApp) -> None:
    _, answer = ask(app, "classes", JPEG)
    assert (answer["label"], answer["labels"]) == ("dog", ["dog"])
    assert [entry["label"] for entry in answer["top"]] == ["dog", "fish", "cat"]
    assert answer["probability"] == pytest.approx(float(np.exp(3) / np.exp([1, 2, 3]).sum()))
    assert answer["image"] == {"width": 80, "height": 64}


def test_detector_answers_boxes_in_the_images_pixels(app: GatewayApp) -> None:
    _, answer = ask(app, "boxes", JPEG)
    assert answer["image"] == {"width": 80, "height": 64}
    [found] = answer["detections"]
    assert (found["label"], found["box"]) == ("cup", [8, 8, 40, 40])
    assert found["score"] == pytest.approx(0.9)


def test_segmenter_answers_a_mask_of_the_images_size(app: GatewayApp) -> None:
    _, answer = ask(app, "masks", JPEG)
    assert answer["shares"] == {"sky": 1.0}
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["mask"]["data_base64"]))))
    assert mask.shape == (64, 80)
    assert (mask == 1).all()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"a good film", TEXT),
        (b"a good film", {}),
        (b"a good film", FORM),
        (b"\xef\xbb\xbfa good film", TEXT),
        (b'{"text": "a good film"}', JSON),
        (b'{"text": "a good film"}', {"content-type": "application/vnd.x+json; charset=utf-8"}),
        (b' {"text": "a good film"}', FORM),
    ],
)
def test_text_may_come_plain_or_as_json(app: GatewayApp, body: bytes, headers: dict[str, str]) -> None:
    status, answer = ask(app, "texts", body, headers)
    assert status == 200, answer
    assert answer["label"] == "good"
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_json_sent_as_plain_text_is_text(app: GatewayApp) -> None:
    status, answer = ask(app, "texts", b'{"bad": "bad"}', TEXT)
    assert (status, answer["label"]) == (200, "bad")


def test_many_texts_are_answered_in_order(app: GatewayApp) -> None:
    status, answer = ask(app, "texts", {"texts": ["good", "bad", "in london", "good"]})
    assert status == 200, answer
    assert [result["label"] for result in answer["results"]] == ["good", "bad", "place", "good"]
    assert answer["task"] == "text-classification"
    assert "label" not in answer


def test_forecast_is_in_the_series_own_units(app: GatewayApp) -> None:
    history = [100.0, 110.0, 100.0, 90.0] * 4
    status, answer = ask(app, "series", {"history": history})
    assert status == 200, answer
    assert answer["horizon"] == HORIZON
    assert set(answer["quantiles"]) == {"0.1", "0.5", "0.9"}
    np.testing.assert_allclose(answer["quantiles"]["0.5"], history[:HORIZON], rtol=1e-5)
    assert ask(app, "series", json.dumps(history).encode())[1]["quantiles"] == answer["quantiles"]


def test_series_may_have_gaps_and_many_are_answered_in_order(app: GatewayApp) -> None:
    flat, steep = [5.0, None, 5.0, 5.0] * 3, list(range(LENGTH))
    status, answer = ask(app, "series", {"histories": [flat, steep]})
    assert status == 200, answer
    first, second = answer["results"]
    np.testing.assert_allclose(first["quantiles"]["0.5"], [5] * HORIZON, rtol=1e-6)
    assert second["quantiles"]["0.5"][0] == pytest.approx(LENGTH - 4)


BAD: dict[str, tuple[str, bytes, dict[str, str], str]] = {
    "text as image": ("classes", b"hello", {}, "image.unreadable"),
    "image as text": ("texts", JPEG, {}, "body.invalid"),
    "image as series": ("series", JPEG, {}, "body.invalid"),
    "cut JSON": ("texts", b'{"text": "a', JSON, "body.invalid"),
    "cut JSON series": ("series", b'{"history": [1, 2', JSON, "body.invalid"),
    "list of texts": ("texts", b'["a", "b"]', JSON, "body.invalid"),
    "another field": ("texts", b'{"txt": "a"}', JSON, "body.invalid"),
    "both fields": ("texts", b'{"text": "a", "texts": ["b"]}', JSON, "body.invalid"),
    "no field": ("series", b"{}", JSON, "body.invalid"),
    "number as text": ("texts", b'{"text": 7}', JSON, "body.invalid"),
    "no texts": ("texts", b'{"texts": []}', JSON, "body.invalid"),
    "too many texts": ("texts", json.dumps({"texts": ["a"] * (MAX_MANY + 1)}).encode(), JSON, "body.invalid"),
    "text as history": ("series", b'{"history": "1,2,3"}', JSON, "body.invalid"),
    "text in history": ("series", b'{"history": [1, "2"]}', JSON, "body.invalid"),
    "true in history": ("series", b'{"history": [1, true]}', JSON, "body.invalid"),
    "nested history": ("series", b'{"history": [[1, 2], [3, 4]]}', JSON, "body.invalid"),
    "no values": ("series", b'{"history": [null, null, null]}', JSON, "body.invalid"),
    "empty history": ("series", b'{"history": []}', JSON, "body.invalid"),
    "huge values": ("series", b'{"history": [1e300, 1]}', JSON, "body.invalid"),
    "NaN": ("series", b'{"history": [NaN]}', JSON, "body.invalid"),
    "empty": ("texts", b"", TEXT, "body.empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_body_is_a_problem_that_says_how_to_mend_it(app: GatewayApp, case: str) -> None:
    name, body, headers, code = BAD[case]
    status, answer = ask(app, name, body, headers)
    assert answer["code"] == code, answer
    assert 400 <= status < 500
    assert answer["detail"].endswith(".")
    assert answer["hint"]
    # And the endpoint goes on.
    good = {"classes": JPEG, "texts": b"good", "series": b"[1, 2, 3]"}[name]
    assert ask(app, name, good)[0] == 200


def test_heat_map_is_refused_where_there_is_none(app: GatewayApp) -> None:
    async def call() -> tuple[int, Any]:
        request = Call(app, [JPEG], path="/v1/endpoints/boxes/predict", query="heatmap=png")
        return await request.answer()

    status, answer = asyncio.run(call())
    assert (status, answer["code"]) == (400, "query.invalid")
