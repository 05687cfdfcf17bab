"""Preprocessing in the graph: what a wrapped model computes against NumPy, Pillow and the source model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from xinfer import SourceModelError
from xinfer.builders.preprocessing import OPSET, Preprocessing, YoloxHead, wrap
from xinfer.postproc.boxes import decode_yolox

from .conftest import make_image

MEAN, STD = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: dict[str, Sequence[int | str]],
    outputs: dict[str, Sequence[int | str]],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 18,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def identity(path: Path, shape: Sequence[int | str], *, name: str = "x", opset: int = 18) -> Path:
    """A network that shows what it is fed."""
    nodes = [helper.make_node("Identity", [name], ["y"], "only")]
    return save(path, nodes, inputs={name: shape}, outputs={"y": shape}, opset=opset)


def run(path: Path, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_wrap_normalises_orders_and_lays_out(tmp_path: Path, color: Any, layout: Any) -> None:
    shape = [1, 3, 32, 40] if layout == "NCHW" else [1, 32, 40, 3]
    source = identity(tmp_path / "net.onnx", shape)
    spec = Preprocessing(size=(32, 40), mean=MEAN, std=STD, color=color, layout=layout)
    image_HW3 = make_image(3)
    found = run(wrap(source, tmp_path / "wrapped.onnx", spec), image=image_HW3[None])["y"][0]
    planes_HW3 = image_HW3 if color == "RGB" else image_HW3[:, :, ::-1]
    wanted_HW3 = (planes_HW3.astype(np.float64) - MEAN) / STD
    wanted = wanted_HW3.transpose(2, 0, 1) if layout == "NCHW" else wanted_HW3
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("size", [(97, 130), (33, 200), (16, 24), (7, 5)])
def test_wrap_resizes_in_the_graph_as_pillow_does(tmp_path: Path, size: tuple[int, int]) -> None:
    source = identity(tmp_path / "net.onnx", ["N", 3, 16, 24])
    spec = Preprocessing(size=(16, 24), resize="graph")
    image_HW3 = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found_3hw = run(wrap(source, tmp_path / "wrapped.onnx", spec), image=image_HW3[None])["y"][0]
    wanted_hw3 = np.asarray(Image.fromarray(image_HW3).resize((24, 16), Image.Resampling.BILINEAR))
    # Pillow rounds to 8 bits after each of its two passes.
    assert np.abs(found_3hw.transpose(1, 2, 0) - wanted_hw3).max() < 1.01


def test_wrap_resizes_a_batch_in_openvino_as_in_onnxruntime(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="the second runtime")
    source = identity(tmp_path / "net.onnx", ["N", 3, 16, 24])
    wrapped = wrap(source, tmp_path / "wrapped.onnx", Preprocessing(size=(16, 24), resize="graph", mean=MEAN))
    batch_N = np.random.default_rng(1).integers(0, 256, (2, 61, 90, 3), dtype=np.uint8)
    compiled = openvino.Core().compile_model(str(wrapped), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled([batch_N])[0], run(wrapped, image=batch_N)["y"], rtol=1e-4, atol=1e-3)


def test_wrap_frees_or_fixes_the_batch_and_a_side(tmp_path: Path) -> None:
    source = identity(tmp_path / "net.onnx", [1, 3, "H", "W"])
    wrapped = wrap(source, tmp_path / "w.onnx", Preprocessing(size=(8, 0)), batch="N")
    (value,) = onnx.load(str(wrapped)).graph.input
    dims = [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
    assert dims == ["N", 8, "W", 3]
    assert run(wrapped, image=np.zeros((2, 8, 5, 3), np.uint8))["y"].shape == (2, 3, 8, 5)


def test_wrap_believes_the_spec_when_the_source_declares_another_size(tmp_path: Path) -> None:
    """CenterFace's file says [10,3,32,32] and takes anything."""
    kernel = np.ones((1, 3, 2, 2), np.float32)
    source = save(
        tmp_path / "net.onnx",
        [helper.make_node("Conv", ["x", "k"], ["y"], "conv", strides=[2, 2])],
        inputs={"x": [10, 3, 32, 32]},
        outputs={"y": [10, 1, 16, 16]},
        constants={"k": kernel},
    )
    wrapped = wrap(source, tmp_path / "w.onnx", Preprocessing(size=(64, 48)), batch=1, outputs={"y": "heat"})
    (value,) = onnx.load(str(wrapped)).graph.output
    assert value.name == "heat"
    assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == [1, 1, 32, 24]
    image = np.full((1, 64, 48, 3), 2, np.uint8)
    assert (run(wrapped, image=image)["heat"] == 24).all()


def test_wrap_keeps_answers_when_it_raises_an_old_opset(tmp_path: Path) -> None:
    source = save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Slice", ["x"], ["part"], "slice", axes=[2, 3], starts=[1, 1], ends=[9, 9]),
            helper.make_node("Upsample", ["part", "scales"], ["y"], "up", mode="nearest"),
        ],
        inputs={"x": [1, 3, 10, 10]},
        outputs={"y": [1, 3, 16, 16]},
        constants={"scales": np.array([1, 1, 2, 2], np.float32)},
        opset=9,
    )
    wrapped = wrap(source, tmp_path / "w.onnx", Preprocessing(size=(10, 10)))
    assert onnx.load(str(wrapped)).opset_import[0].version == OPSET
    image_HW3 = make_image(1, (10, 10))
    wanted = run(source, x=image_HW3.transpose(2, 0, 1)[None].astype(np.float32))["y"]
    np.testing.assert_array_equal(run(wrapped, image=image_HW3[None])["y"], wanted)


def test_wrap_works_when_the_source_uses_the_new_names_itself(tmp_path: Path) -> None:
    source = identity(tmp_path / "net.onnx", [1, 3, 4, 4], name="image")
    image = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    found = run(wrap(source, tmp_path / "w.onnx", Preprocessing(size=(4, 4))), image=image)["y"]
    np.testing.assert_array_equal(found, image.transpose(0, 3, 1, 2))


def test_the_yolox_head_decodes_as_the_reference_does(tmp_path: Path) -> None:
    """The head's raw output travels through the image: 21 places of 8 numbers each."""
    num_places = 16 + 4 + 1
    constants = {"shape": np.array([1, num_places, 8], np.int64), "small": np.array(1 / 255, np.float32)}
    source = save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Slice", ["x", "zero", "end", "axis"], ["plane"], "first_plane"),
            helper.make_node("Reshape", ["plane", "flat"], ["row"], "row"),
            helper.make_node("Slice", ["row", "zero", "places", "axis"], ["part"], "part"),
            helper.make_node("Mul", ["part", "small"], ["scaled"], "scale"),
            helper.make_node("Reshape", ["scaled", "shape"], ["raw"], "shape_it"),
        ],
        inputs={"x": [1, 3, 32, 32]},
        outputs={"raw": [1, num_places, 8]},
        constants=constants
        | {
            "zero": np.array([0], np.int64),
            "end": np.array([1], np.int64),
            "axis": np.array([1], np.int64),
            "flat": np.array([1, -1], np.int64),
            "places": np.array([num_places * 8], np.int64),
        },
    )
    wrapped = wrap(source, tmp_path / "w.onnx", Preprocessing(size=(32, 32)), head=YoloxHead())
    image = np.random.default_rng(2).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    raw = image[0, :, :, 0].reshape(-1)[: num_places * 8].reshape(1, num_places, 8).astype(np.float32) / 255
    boxes, scores = decode_yolox(raw, (32, 32))
    found = run(wrapped, image=image)
    assert list(found) == ["boxes", "scores"]
    np.testing.assert_allclose(found["boxes"], boxes, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-5, atol=1e-6)


def test_wrap_keeps_one_output_when_told(tmp_path: Path) -> None:
    source = save(
        tmp_path / "net.onnx",
        [helper.make_node("Neg", ["x"], ["1959"], "a"), helper.make_node("Abs", ["x"], ["1960"], "b")],
        inputs={"x": [1, 3, 2, 2]},
        outputs={"1959": [1, 3, 2, 2], "1960": [1, 3, 2, 2]},
    )
    wrapped = wrap(source, tmp_path / "w.onnx", Preprocessing(size=(2, 2)), only_output="saliency")
    found = run(wrapped, image=np.full((1, 2, 2, 3), 7, np.uint8))
    assert list(found) == ["saliency"]
    assert (found["saliency"] == -7).all()


def test_wrap_refuses_models_that_are_no_image_networks(tmp_path: Path) -> None:
    spec, out = Preprocessing(size=(4, 4)), tmp_path / "w.onnx"
    with pytest.raises(SourceModelError, match="2 axes"):
        wrap(identity(tmp_path / "a.onnx", [1, 3]), out, spec)
    two = save(
        tmp_path / "b.onnx",
        [helper.make_node("Add", ["a", "b"], ["y"], "add")],
        inputs={"a": [1, 3, 4, 4], "b": [1, 3, 4, 4]},
        outputs={"y": [1, 3, 4, 4]},
    )
    with pytest.raises(SourceModelError, match="one float32 input"):
        wrap(two, out, spec)
    good = identity(tmp_path / "c.onnx", [1, 3, 4, 4])
    with pytest.raises(SourceModelError, match="no output 'z'"):
        wrap(good, out, spec, outputs={"z": "y"})
    with pytest.raises(SourceModelError, match="YOLOX head needs"):
        wrap(good, out, Preprocessing(), head=YoloxHead())
    (tmp_path / "d.onnx").write_bytes(b"not ONNX")
    with pytest.raises(SourceModelError):
        wrap(tmp_path / "d.onnx", out, spec)
    assert not out.exists()
