"""Facts about source graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer.builders.graph import inspect_graph, load_onnx
from xinfer.errors import SourceModelError
from xinfer.sources.facts import collect_facts, value_facts
from xinfer.sources.patterns import attention_blocks, normalisation_blocks

NODE = helper.make_node


def make_graph(*nodes: onnx.NodeProto, weights: tuple[str, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(1, np.float32), name) for name in weights],
    )


def attention(*middle: onnx.NodeProto, after: tuple[onnx.NodeProto, ...] = ()) -> onnx.GraphProto:
    """Scores "s", what stands between, softmax of "m" as "p", what follows up to "v", product."""
    return make_graph(
        NODE("MatMul", ["x", "k"], ["s"]),
        *middle,
        NODE("Softmax", ["m"], ["p"]),
        *after,
        NODE("MatMul", ["v", "x"], ["y"]),
        weights=("k", "scale", "mask"),
    )


def test_attention_is_found_through_scaling_mask_and_nan_guard() -> None:
    graph = attention(
        NODE("Mul", ["s", "scale"], ["a"]),
        NODE("Add", ["a", "mask"], ["m"]),
        after=(NODE("IsNaN", ["p"], ["nan"]), NODE("Where", ["nan", "scale", "p"], ["v"])),
    )
    assert attention_blocks(graph) == 1


def test_softmax_is_no_attention_when_it_ends_a_classifier() -> None:
    graph = make_graph(NODE("MatMul", ["x", "k"], ["s"]), NODE("Softmax", ["s"], ["y"]), weights=("k",))
    assert attention_blocks(graph) == 0


def test_softmax_is_no_attention_when_it_weighs_features_after_a_convolution() -> None:
    graph = make_graph(
        NODE("Conv", ["x", "k"], ["s"]),
        NODE("Softmax", ["s"], ["p"]),
        NODE("MatMul", ["p", "x"], ["y"]),
        weights=("k",),
    )
    assert attention_blocks(graph) == 0


def test_fused_operators_count() -> None:
    graph = make_graph(
        NODE("MultiHeadAttention", ["x"], ["a"], domain="com.microsoft"),
        NODE("SkipLayerNormalization", ["a", "x"], ["y"], domain="com.microsoft"),
    )
    assert (attention_blocks(graph), normalisation_blocks(graph)) == (1, 1)


@pytest.mark.parametrize("last", ["Div", "Reciprocal"])
def test_normalisation_is_found_when_it_is_made_of_single_operators(last: str) -> None:
    graph = make_graph(
        NODE("ReduceMean", ["x"], ["mean"]),
        NODE("Sub", ["x", "mean"], ["d"]),
        NODE("Pow", ["d", "two"], ["sq"]),
        NODE("ReduceMean", ["sq"], ["var"]),
        NODE("Add", ["var", "eps"], ["v"]),
        NODE("Sqrt", ["v"], ["std"]),
        NODE(last, ["d", "std"] if last == "Div" else ["std"], ["y"]),
        weights=("two", "eps"),
    )
    assert normalisation_blocks(graph) == 1


def test_a_root_alone_is_no_normalisation() -> None:
    assert normalisation_blocks(make_graph(NODE("Sqrt", ["x"], ["r"]), NODE("Div", ["x", "r"], ["y"]))) == 0


def test_facts_leave_out_weights_that_old_files_list_as_inputs() -> None:
    graph = make_graph(NODE("Gemm", ["x", "k"], ["y"], "fc"), weights=("k",))
    graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [1]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    facts = collect_facts(model, num_parameters=1, weight_bytes=4, external=False)
    assert [value.name for value in facts.inputs] == ["x"]
    assert facts.heavy == ("fc",)
    assert facts.outputs[0].shape is None


def test_value_facts_tell_free_from_fixed_axes() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["N", 3, None])
    facts = value_facts(value)
    assert (facts.shape, facts.axes, facts.dtype) == ((-1, 3, -1), ("N", ""), "bfloat16")


def test_load_onnx_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    for name in ("bad.onnx", "none.onnx"):
        with pytest.raises(SourceModelError):
            load_onnx(tmp_path / name)


def test_parts_are_found_by_reachability(anomaly_onnx: Path) -> None:
    graph = inspect_graph(load_onnx(anomaly_onnx))
    assert {"cast", "normalise", "layout", "resize"} <= graph.preprocessing
    assert graph.tail == {"squeeze", "score"}
    assert graph.matching(["conv*", "head"]) == {"conv0", "conv1", "head"}
