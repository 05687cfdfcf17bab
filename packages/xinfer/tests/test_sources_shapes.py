"""Profiles of free axes, their text form, fixing them, inputs to try them with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from xinfer.errors import InputError, SourceModelError
from xinfer.sources import ShapeProfile, apply_static, feeds_for, parse_profiles, parse_shapes


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("input:1x3x224x224,mask:1x128", {"input": (1, 3, 224, 224), "mask": (1, 128)}),
        ("input:0:1x3", {"input:0": (1, 3)}),
        ("'a,b':2x2, \"c\":7", {"a,b": (2, 2), "c": (7,)}),
        ("scalar:", {"scalar": ()}),
        (" x : 4 ", {"x": (4,)}),
    ],
)
def test_shapes_are_read(text: str, shapes: dict[str, tuple[int, ...]]) -> None:
    assert parse_shapes(text) == shapes


@pytest.mark.parametrize(
    "text",
    ["", "x", "x:1x", "x:0x3", "x:-1x3", "x:1x3,", "x:1,x:2", ":1x3", "x:axb", "x:1 3", "x:99999999999",
     "x:1e3", "x:999999999x999999999x999999999", ",", "x:1,,y:2", "'x:1"],
)  # fmt: skip
def test_shapes_are_refused_when_they_make_no_sense(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_shapes(text)
    assert caught.value.code == "input.shape"


def test_profiles_come_from_three_texts() -> None:
    profiles = parse_profiles(min_shapes="x:1x8", opt_shapes="x:4x8", max_shapes="x:16x8")
    assert profiles == {"x": ShapeProfile((1, 8), (4, 8), (16, 8))}
    assert parse_profiles(min_shapes="", opt_shapes="x:4", max_shapes="")["x"].is_fixed
    with pytest.raises(InputError, match="different inputs"):
        parse_profiles(min_shapes="y:1", opt_shapes="x:4", max_shapes="")


@pytest.mark.parametrize(
    ("low", "opt", "high", "words"),
    [
        ((1,), (1, 2), (1, 2), "1, 2 and 2 dimensions"),
        ((2,), (1,), (3,), "must ascend"),
        ((1,), (4,), (3,), "must ascend"),
        ((0,), (1,), (1,), "below 1"),
        ((True,), (1,), (1,), "below 1"),
        ((1.0,), (1,), (1,), "below 1"),
        ((2**20,) * 3, (2**20,) * 3, (2**20,) * 3, "too large"),
    ],
)
def test_profile_is_refused_when_it_does_not_ascend(low, opt, high, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ShapeProfile(low, opt, high)


def test_profile_says_what_fits() -> None:
    profile = ShapeProfile((1, 3), (4, 3), (8, 3))
    assert profile.admits((8, 3))
    assert not profile.admits((9, 3))
    assert not profile.admits((8,))
    assert ShapeProfile.fixed((2, 2)).admits((2, 2))


def test_fixed_axes_go_through_to_the_outputs(anomaly_onnx: Path) -> None:
    model = onnx.load(str(anomaly_onnx))
    static = apply_static(model, {"image": (2, 40, 32, 3)})
    dims = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in static.graph.output]
    assert dims == [[2], [2, 8, 8]]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    onnx.checker.check_model(static, full_check=True)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"picture": (1,)}, "no input 'picture'"),
        ({"image": (1, 2)}, "4 axes"),
        ({"image": (1, 8, 8, 4)}, "axis 3"),
        ({"image": (0, 8, 8, 3)}, "axis 0"),
    ],
)
def test_shapes_that_do_not_fit_the_model_are_refused(anomaly_onnx: Path, shapes, words: str) -> None:
    with pytest.raises(SourceModelError, match=words):
        apply_static(onnx.load(str(anomaly_onnx)), shapes)


def test_axes_of_one_name_cannot_have_two_sizes(anomaly_onnx: Path) -> None:
    model = onnx.load(str(anomaly_onnx))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "N"
    with pytest.raises(SourceModelError, match="'N' gets 2 and"):
        apply_static(model, {"image": (2, 4, 4, 3)})


def test_an_input_without_a_rank_gets_one(anomaly_onnx: Path) -> None:
    model = onnx.load(str(anomaly_onnx))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    static = apply_static(model, {"image": (1, 8, 8, 3)})
    assert [dim.dim_value for dim in static.graph.input[0].type.tensor_type.shape.dim] == [1, 8, 8, 3]


def test_feeds_are_the_same_for_the_same_seed() -> None:
    shapes = {"a": (2, 3), "b": (4,), "c": (5,), "d": (2,)}
    dtypes = {"a": "float16", "b": "int64", "c": "uint8", "d": "bool"}
    feeds = feeds_for(shapes, dtypes, 7)
    assert {name: str(array.dtype) for name, array in feeds.items()} == dtypes
    assert {name: array.shape for name, array in feeds.items()} == shapes
    assert set(feeds["b"].tolist()) <= {0, 1}
    again = feeds_for({"a": (2, 3)}, dtypes, 7)
    np.testing.assert_array_equal(again["a"], feeds["a"])
    assert not np.array_equal(feeds_for(shapes, dtypes, 8)["a"], feeds["a"])
    assert feeds_for({"b": (1000,)}, dtypes, high={"b": 50})["b"].max() > 1


@pytest.mark.parametrize("dtype", [None, "bfloat16", "string", "U3", ""])
def test_feeds_are_refused_when_the_type_is_unknown(dtype: str | None) -> None:
    with pytest.raises(InputError) as caught:
        feeds_for({"a": (1,)}, {} if dtype is None else {"a": dtype})
    assert caught.value.code == "input.dtype"
