"""Reading ONNX models from anywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer.errors import MissingExtraError, SourceModelError
from xinfer.package import file_digest
from xinfer.sources import Limits, OnnxReader, limits, read_onnx
from xinfer.sources import onnx_source as reading

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])


def make_model(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """A model from x [N,8] to y; by default one product and one rectifier."""
    nodes = nodes or (
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("Relu", ["h"], ["y"], "relu"),
    )
    weights = {"w": np.eye(8, dtype=np.float32)} if weights is None else weights
    graph = helper.make_graph(
        list(nodes), "g", [X], [Y], [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def reader() -> Iterator[OnnxReader]:
    with OnnxReader(timeout_s=30) as reader:
        yield reader


def save(model: onnx.ModelProto, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "given.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refuse(reader: OnnxReader, model: onnx.ModelProto | bytes, folder: Path) -> SourceModelError:
    """The error that a model ends in; nothing may be left in the folder."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(SourceModelError) as caught:
        reader.read(data, folder=folder)
    assert not list(folder.iterdir())
    return caught.value


def test_read_gives_facts_and_one_clean_file(reader: OnnxReader, anomaly_onnx: Path, tmp_path: Path) -> None:
    source = reader.read(anomaly_onnx, folder=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    facts = source.facts
    assert facts.opset == 18
    assert facts.inputs[0].shape == (-1, -1, -1, 3)
    assert facts.inputs[0].axes == ("N", "H", "W")
    assert facts.inputs[0].free_axes == (0, 1, 2)
    assert facts.inputs[0].dtype == "uint8"
    assert [value.name for value in facts.outputs] == ["score", "anomaly_map"]
    assert facts.op_counts["Conv"] == 3
    assert facts.heavy == ("conv0", "conv1", "head")
    assert source.graph.tail == {"squeeze", "score"}
    assert not facts.is_transformer
    assert source.digest == file_digest(source.path)
    assert source.source_digest == file_digest(anomaly_onnx)
    again = reader.read(anomaly_onnx.read_bytes(), folder=tmp_path / "again")
    assert (again.digest, again.source_digest) == (source.digest, source.source_digest)
    twice = reader.read(source.path, folder=tmp_path / "twice")
    assert twice.path.read_bytes() == source.path.read_bytes()


def test_read_onnx_needs_no_reader(anomaly_onnx: Path, tmp_path: Path) -> None:
    assert read_onnx(anomaly_onnx, folder=tmp_path).facts.num_nodes == 14


def test_cycle_is_refused_with_the_nodes_on_it(reader: OnnxReader, tmp_path: Path) -> None:
    model = make_model(
        helper.make_node("Add", ["x", "c"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "second"),
        helper.make_node("Neg", ["b"], ["c"], "third"),
        helper.make_node("Exp", ["c"], ["y"], "innocent"),
    )
    error = refuse(reader, model, tmp_path)
    assert error.code == "build.source_model.cyclic"
    assert all(name in error.message for name in ("'first'", "'second'", "'third'"))
    assert "innocent" not in error.message


def test_cycle_through_a_subgraph_is_found(reader: OnnxReader, tmp_path: Path) -> None:
    then, other = (
        helper.make_graph(
            [helper.make_node(kind, ["late"], [name], name)],
            name,
            [],
            [helper.make_empty_tensor_value_info(name)],
        )
        for kind, name in (("Relu", "a"), ("Neg", "b"))
    )
    model = make_model(
        helper.make_node("Constant", [], ["flag"], "flag", value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["flag"], ["y"], "branch", then_branch=then, else_branch=other),
        helper.make_node("Exp", ["y"], ["late"], "late"),
    )
    error = refuse(reader, model, tmp_path)
    assert error.code == "build.source_model.cyclic"
    assert "'branch' (If)" in error.message


def test_nodes_in_the_wrong_order_are_put_right(reader: OnnxReader, tmp_path: Path) -> None:
    model = make_model()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    source = reader.read(model.SerializeToString(), folder=tmp_path)
    assert [node.name for node in onnx.load(str(source.path)).graph.node] == ["product", "relu"]


def test_weights_are_no_inputs_when_an_old_file_lists_them(reader: OnnxReader, tmp_path: Path) -> None:
    model = make_model(
        helper.make_node("MatMul", ["x", "w"], ["y"], "product"), weights={"w": np.eye(8, dtype=np.float32)}
    )
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 8]))
    model.ir_version = 3
    source = reader.read(save(model, tmp_path), folder=tmp_path / "out")
    assert [value.name for value in onnx.load(source.path).graph.input] == ["x"]
    assert [value.name for value in source.facts.inputs] == ["x"]


def test_nodes_get_names_of_their_own(reader: OnnxReader, tmp_path: Path) -> None:
    model = make_model(
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], "Relu_0"),
        helper.make_node("Relu", ["b"], ["y"], "Relu_0"),
    )
    assert set(reader.read(model.SerializeToString(), folder=tmp_path).facts.nodes) == {
        "Relu_0", "Relu_1", "Relu_0_0",
    }  # fmt: skip


def change(field: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = make_model()
    field(model)
    return model


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        (
            make_model(helper.make_node("Add", ["x", "ghost"], ["y"], "sum")),
            "dangling_input",
            "'sum' (Add) needs 'ghost'",
        ),
        (make_model(helper.make_node("Relu", ["x"], ["z"], "r")), "dangling_input", "output 'y'"),
        (
            make_model(
                helper.make_node("Relu", ["x"], ["y"], "r"), helper.make_node("Neg", ["x"], ["y"], "n")
            ),
            "duplicate_name",
            "'n' (Neg) computes 'y'",
        ),
        (
            change(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
            "duplicate_name",
            "two weights 'w'",
        ),
        (change(lambda m: m.graph.initializer[0].dims.append(2)), "shape", "weight 'w'"),
        (change(lambda m: m.graph.initializer[0].dims.append(-2)), "shape", "weight 'w'"),
        (change(lambda m: m.graph.initializer[0].dims.append(2**50)), "too_large", "weight 'w'"),
        (
            make_model(weights={"w": np.zeros((3, 8), np.float32)}),
            "shape",
            "'product' (MatMul)",
        ),
        (
            make_model(helper.make_node("Frobnicate", ["x"], ["y"], "odd")),
            "unsupported_op",
            "'odd' (Frobnicate)",
        ),
        (
            make_model(helper.make_node("Thing", ["x"], ["y"], "odd", domain="com.example")),
            "unsupported_op",
            "com.example",
        ),
        (
            change(
                lambda m: (
                    m.opset_import.append(helper.make_opsetid("com.example", 1)),
                    m.graph.node.append(helper.make_node("Thing", ["x"], ["z"], "odd", domain="com.example")),
                )
            ),
            "unsupported_op",
            "'odd' (com.example::Thing)",
        ),
        (
            make_model(helper.make_node("BitShift", ["x", "x"], ["y"], "shift", direction="LEFT")),
            "malformed",
            "'shift' (BitShift)",
        ),
        (make_model(helper.make_node("Softmax", ["x"], ["y"], "soft", axis="one")), "malformed", "'soft'"),
        (
            make_model(helper.make_node("EPContext", ["x"], ["y"], "ctx", domain="com.microsoft")),
            "unsupported_op",
            "ctx",
        ),
        (make_model(helper.make_node("Relu", ["x"], ["y"], "n" * 2000)), "too_large", "2000 characters"),
        (change(lambda m: setattr(m.opset_import[0], "version", 9999)), "unsupported_version", "opset"),
    ],
)
def test_faulty_model_is_refused_with_the_node_at_fault(
    reader: OnnxReader, tmp_path: Path, model: onnx.ModelProto, kind: str, words: str
) -> None:
    error = refuse(reader, model, tmp_path)
    assert error.code == f"build.source_model.{kind}"
    assert words in error.message
    assert "/onnxruntime_src" not in error.message


def test_operator_without_a_kernel_is_refused_when_onnx_knows_it(reader: OnnxReader, tmp_path: Path) -> None:
    # Part of ONNX, but ONNX Runtime's CPU provider has no kernel for these types.
    model = make_model(
        helper.make_node("Cast", ["x"], ["d"], "cast", to=TensorProto.DOUBLE),
        helper.make_node("Acosh", ["d"], ["e"], "odd"),
        helper.make_node("Cast", ["e"], ["y"], "back", to=TensorProto.FLOAT),
    )
    error = refuse(reader, model, tmp_path)
    assert error.code == "build.source_model.unsupported_op"
    assert "'odd' (Acosh)" in error.message


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_truncated_file_is_told_from_a_malformed_one(reader: OnnxReader, tmp_path: Path, cut: int) -> None:
    data = make_model().SerializeToString()
    assert refuse(reader, data[:-cut], tmp_path).code == "build.source_model.truncated"
    assert refuse(reader, b"hello, world" * 9, tmp_path).code == "build.source_model.malformed"
    assert refuse(reader, b"", tmp_path).code == "build.source_model.truncated"


def test_limits_hold_for_nodes_depth_and_size(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["d"])], "deepest", [], [])
    for _ in range(6):
        node = helper.make_node("If", ["x"], ["d"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "level", [], [])
    deep = make_model(*graph.node)
    data = make_model().SerializeToString()
    tight = Limits(max_depth=3, max_nodes=1, max_file_bytes=10_000)
    with OnnxReader(limits=tight) as reader:
        assert "more than 1 nodes" in refuse(reader, data, tmp_path).message
        assert refuse(reader, bytes(10_001), tmp_path).code == "build.source_model.too_large"
    with OnnxReader(limits=Limits(max_depth=3)) as reader:
        error = refuse(reader, deep, tmp_path)
    assert (error.code, error.message) == (
        "build.source_model.too_large",
        "graphs are nested more than 3 deep",
    )


def function(name: str, *calls: str) -> onnx.FunctionProto:
    names = ["a", *(f"b{index}" for index in range(len(calls)))]
    nodes = [
        helper.make_node(call, [names[index]], [names[index + 1]], domain="local")
        for index, call in enumerate(calls)
    ]
    return helper.make_function("local", name, ["a"], [names[-1]], nodes, [helper.make_opsetid("local", 1)])


def with_functions(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    model = make_model(helper.make_node("F0", ["x"], ["y"], "call", domain="local"))
    model.functions.extend(functions)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def test_functions_that_call_themselves_are_refused(reader: OnnxReader, tmp_path: Path) -> None:
    error = refuse(reader, with_functions(function("F0", "F1"), function("F1", "F0")), tmp_path)
    assert error.code == "build.source_model.cyclic"


def test_functions_that_would_expand_without_end_are_refused(reader: OnnxReader, tmp_path: Path) -> None:
    calls = [function(f"F{level}", *[f"F{level + 1}"] * 10) for level in range(9)]
    error = refuse(reader, with_functions(*calls, function("F9")), tmp_path)
    assert error.code == "build.source_model.too_large"


def test_functions_are_inlined(reader: OnnxReader, tmp_path: Path) -> None:
    twice = helper.make_function(
        "local",
        "F0",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    source = reader.read(with_functions(twice).SerializeToString(), folder=tmp_path)
    assert source.facts.op_counts == {"Add": 1}


# ------------------------------------------------------------------------------------------ external weights


def externalise(folder: Path, location: str, **entries: str) -> Path:
    """A model whose weight stands elsewhere; the right bytes are in weights.bin, 16 bytes in."""
    model = make_model()
    tensor = model.graph.initializer[0]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes(16) + tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "16", "length": "256", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return save(model, folder)


def test_external_weights_are_gathered_in(reader: OnnxReader, tmp_path: Path) -> None:
    source = reader.read(externalise(tmp_path / "in", "weights.bin"), folder=tmp_path / "out")
    model = onnx.load(str(source.path), load_external_data=False)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), np.eye(8))
    assert not source.facts.external
    assert source.facts.weight_bytes == 256


def test_external_weights_stay_beside_the_model_when_they_are_large(tmp_path: Path) -> None:
    with OnnxReader(limits=Limits(inline_bytes=100)) as reader:
        source = reader.read(externalise(tmp_path / "in", "weights.bin"), folder=tmp_path / "out")
    assert source.facts.external
    assert sorted(path.name for path in source.path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    loaded = onnx.load(str(source.path))
    np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.initializer[0]), np.eye(8))
    # A later, small model must not stand beside another one's weights.
    read_onnx(make_model().SerializeToString(), folder=tmp_path / "out")
    assert [path.name for path in source.path.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("location", "entries"),
    [
        ("../secret.bin", {}),
        ("sub/../../secret.bin", {}),
        ("link.bin", {}),
        ("linked/weights.bin", {}),
        ("pipe", {}),
        ("sub", {}),
        ("missing.bin", {}),
        ("C:\\weights.bin", {}),
        ("..\\secret.bin", {}),
        ("", {}),
        ("weights.bin", {"offset": "-1"}),
        ("weights.bin", {"offset": "17"}),
        ("weights.bin", {"offset": "many"}),
        ("weights.bin", {"length": "255"}),
        ("weights.bin", {"length": str(2**60)}),
        ("/dev/zero", {"offset": "0"}),
    ],
)
def test_external_weights_outside_the_folder_are_refused(
    reader: OnnxReader, tmp_path: Path, location: str, entries: dict[str, str]
) -> None:
    path = externalise(tmp_path / "in", location, **entries)
    (tmp_path / "secret.bin").write_bytes(bytes(272))
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "secret.bin")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "in")
    os.mkfifo(tmp_path / "in" / "pipe")
    with pytest.raises(SourceModelError, match="weight 'w'") as caught:
        reader.read(path, folder=tmp_path / "out")
    assert caught.value.code == "build.source_model.external_data"
    assert not list((tmp_path / "out").iterdir())


def test_external_weights_are_refused_when_the_model_comes_as_bytes(
    reader: OnnxReader, tmp_path: Path
) -> None:
    path = externalise(tmp_path / "in", "weights.bin")
    assert refuse(reader, path.read_bytes(), tmp_path / "out").code == "build.source_model.external_data"


# ------------------------------------------------------------------------------------------ the process's end


def test_reader_survives_the_death_of_its_process(
    reader: OnnxReader, anomaly_onnx: Path, tmp_path: Path
) -> None:
    reader.read(anomaly_onnx, folder=tmp_path)
    assert reader._process is not None
    reader._process.kill()
    reader._process.wait()
    with pytest.raises(SourceModelError) as caught:
        reader.read(anomaly_onnx, folder=tmp_path / "b")
    assert caught.value.code == "build.source_model.crashed"
    assert reader.read(anomaly_onnx, folder=tmp_path / "b").facts.num_nodes == 14


def test_reading_ends_in_a_timeout_when_it_takes_too_long(anomaly_onnx: Path, tmp_path: Path) -> None:
    with OnnxReader(timeout_s=0.0) as reader, pytest.raises(SourceModelError) as caught:
        reader.read(anomaly_onnx, folder=tmp_path)
    assert caught.value.code == "build.source_model.timeout"
    assert not list(tmp_path.iterdir())


def test_reading_ends_in_an_error_when_memory_is_short(anomaly_onnx: Path, tmp_path: Path) -> None:
    with (
        OnnxReader(limits=Limits(memory_bytes=1 << 20), timeout_s=30) as reader,
        pytest.raises(SourceModelError) as caught,
    ):
        reader.read(anomaly_onnx, folder=tmp_path)
    assert caught.value.code in ("build.source_model.too_large", "build.source_model.crashed")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (f"-{int(signal.SIGSEGV)}", "crashed"),
        (f"-{int(signal.SIGKILL)}", "crashed"),
        (f"-{int(signal.SIGXCPU)}", "timeout"),
        (f"-{int(signal.SIGXFSZ)}", "too_large"),
        ("-999", "crashed"),
        ("3", "crashed"),
        ("lost", "crashed"),
    ],
)
def test_every_end_of_the_process_is_a_typed_error(tmp_path: Path, end: str, code: str) -> None:
    with pytest.raises(SourceModelError) as caught:
        reading._result(tmp_path, end, "model.onnx", 1.0)
    assert caught.value.code == f"build.source_model.{code}"
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(SourceModelError):
        reading._result(tmp_path, end, "model.onnx", 1.0)


def test_models_are_read_where_there_is_no_fork(
    anomaly_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import runpy; from xinfer.sources import limits; limits.HAS_FORK = False\n"
        "runpy.run_module('xinfer.sources.worker', run_name='__main__')"
    )
    monkeypatch.setattr(reading, "WORKER", ("-c", code))
    monkeypatch.setattr(limits, "HAS_FORK", False)
    with OnnxReader(timeout_s=60) as reader:
        assert refuse(reader, b"nonsense", tmp_path).code == "build.source_model.malformed"
        assert reader.read(anomaly_onnx, folder=tmp_path).facts.num_nodes == 14


def test_files_that_are_no_files_are_refused(reader: OnnxReader, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(SourceModelError) as caught:
            reader.read(path, folder=tmp_path / "out")
        assert caught.value.code == "build.source_model.unreadable"


def test_a_missing_runtime_names_its_extra(
    reader: OnnxReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="onnx is not installed"):
        reader.read(b"x", folder=tmp_path)


def test_reading_leaves_no_process_behind(anomaly_onnx: Path, tmp_path: Path) -> None:
    with OnnxReader() as reader:
        reader.read(anomaly_onnx, folder=tmp_path)
        process = reader._process
    assert process is not None
    assert process.poll() is not None
