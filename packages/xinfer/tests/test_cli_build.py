"""xinfer build: what the arguments mean, samples from files, and one real build."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from xinfer import InputError
from xinfer.cli import main
from xinfer.cli.app import parser
from xinfer.cli.command import UsageError
from xinfer.cli.plan import make_plan
from xinfer.cli.samples import Tensor, random_samples, read_samples
from xinfer.package import EnginePackage
from xinfer.sources import OnnxReader

from .conftest import encode

FLOAT = Tensor(name="x", dtype="float32", shape=(-1, 4))
IMAGE = Tensor(name="image", dtype="uint8", shape=(1, -1, -1, 3))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XINFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XINFER_TRUST", str(tmp_path / "trust.toml"))
    return tmp_path / "home"


def make_linear(path: Path, shape: tuple[int | str, ...] = ("N", 4)) -> Path:
    """x -> x @ w: the smallest model worth building."""
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (*shape[:-1], 3))],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_linear(tmp_path_factory.mktemp("linear") / "linear.onnx")


@pytest.fixture(scope="module")
def reader() -> Iterator[OnnxReader]:
    """Starting the process that reads models takes seconds: one serves all tests."""
    with OnnxReader() as opened:
        yield opened


@pytest.fixture(autouse=True)
def read_quickly(reader: OnnxReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xinfer.sources.read_onnx", reader.read)


def plan_of(scratch: Path, *arguments: str) -> Any:
    return make_plan(parser().parse_args(["build", *arguments]), scratch)


# ------------------------------------------------------------------------------------------- samples


def test_arrays_are_split_into_samples(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.savez(tmp_path / "a.npz", x=rows)
    np.save(tmp_path / "b.npy", rows[:, None])
    samples = read_samples(tmp_path, [FLOAT], None)
    assert [sample["x"].shape for sample in samples] == [(1, 4)] * 6
    np.testing.assert_array_equal(samples[4]["x"], rows[1:2])
    assert len(read_samples(tmp_path, [FLOAT], None, limit=2)) == 2


def test_an_array_that_fits_whole_is_one_sample(tmp_path: Path) -> None:
    fixed = Tensor(name="x", dtype="float32", shape=(3, 4))
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4), np.float64))
    (sample,) = read_samples(tmp_path / "a.npz", [fixed], None)
    assert (sample["x"].shape, sample["x"].dtype) == ((3, 4), np.float32)


def test_images_become_samples_when_the_model_takes_images(tmp_path: Path, images: list[np.ndarray]) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").write_bytes(encode(images[0]))
    (sample,) = read_samples(tmp_path, [IMAGE], None)
    np.testing.assert_array_equal(sample["image"][0], images[0])
    small = Tensor(name="image", dtype="uint8", shape=(1, 8, 10, 3))
    assert read_samples(tmp_path, [small], None)[0]["image"].shape == (1, 8, 10, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros((1, 4), np.float32)}, "the model takes"),
        ({"x": np.zeros((1, 4), complex)}, "is complex128"),
        ({"x": np.zeros(4, np.float32)}, "has shape"),
        ({"x": np.array([{"a": 1}], object)}, "cannot be read"),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        read_samples(tmp_path, [FLOAT], None)


def test_different_numbers_of_samples_in_one_file_are_refused(tmp_path: Path) -> None:
    other = Tensor(name="z", dtype="float32", shape=(-1, 1))
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4), np.float32), z=np.zeros((3, 1), np.float32))
    with pytest.raises(InputError, match="different numbers"):
        read_samples(tmp_path, [FLOAT, other], None)


def test_images_are_refused_when_the_model_takes_numbers(tmp_path: Path, png: bytes) -> None:
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(InputError, match="does not take images as they are"):
        read_samples(tmp_path, [FLOAT], None)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_missing_or_empty_folders_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        read_samples(tmp_path / name, [FLOAT], None)


def test_random_samples_take_the_shapes_in_turn_and_repeat_with_the_seed() -> None:
    shapes = [{"x": (1, 4)}, {"x": (2, 4)}]
    first = random_samples([FLOAT], shapes, num=3, seed=1)
    again = random_samples([FLOAT], shapes, num=3, seed=1)
    assert [sample["x"].shape[0] for sample in first] == [1, 2, 1]
    np.testing.assert_array_equal(first[2]["x"], again[2]["x"])
    assert not np.array_equal(first[0]["x"], first[2]["x"])


# ---------------------------------------------------------------------------------------- the options


@pytest.mark.parametrize(
    ("flags", "precisions"),
    [
        ([], {"fp32", "bf16"}),
        (["--fp16"], {"fp32", "fp16"}),
        (["--int8", "--calib", "random"], {"fp32", "int8"}),
        (["--best"], {"fp32", "fp16", "bf16"}),
        (["--best", "--calib", "random"], {"fp32", "fp16", "bf16", "int8"}),
        (["--precision", "bf16,int8", "--calib", "random"], {"fp32", "bf16", "int8"}),
    ],
)
def test_flags_choose_the_precisions(
    linear: Path, tmp_path: Path, flags: list[str], precisions: set[str]
) -> None:
    plan = plan_of(tmp_path, "--onnx", str(linear), *flags)
    assert plan.builder.plan.precisions == precisions
    assert plan.random_accuracy
    assert bool(plan.remarks) == ("random" in flags or flags == ["--best"])


def test_options_reach_the_builder(linear: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((5, 4), np.float32))
    plan = plan_of(
        tmp_path, str(linear), "--data", str(tmp_path / "data.npz"), "--metric", "top1_agreement",
        "--max-drop", "2%", "--objective", "latency", "--batch", "1,4", "--backend", "onnxruntime",
        "--name", "mine", "--version", "7", "--license", "MIT", "--license", "Apache-2.0", "--samples", "4",
    )  # fmt: skip
    told = plan.builder.plan
    assert (told.metric, told.max_drop, told.objective, told.batches) == (
        "top1_agreement",
        0.02,
        "latency",
        (1, 4),
    )
    assert (told.name, told.version, told.licences) == ("mine", 7, ("MIT", "Apache-2.0"))
    assert told.backends == {"onnxruntime"}
    assert len(told.samples) == 4
    assert told.dataset_digest is not None
    assert (plan.accuracy_on, plan.output) == ("data", Path("linear.engine"))


def test_one_shape_fixes_it_and_three_make_a_profile(linear: Path, tmp_path: Path) -> None:
    fixed = plan_of(tmp_path / "a", "--onnx", str(linear), "--optShapes", "x:2x4").builder.plan
    assert dict(fixed.profiles)["x"].is_fixed
    assert {sample["x"].shape for sample in fixed.samples} == {(2, 4)}
    shapes = ["--minShapes", "x:1x4", "--optShapes", "x:2x4", "--maxShapes=x:8x4"]
    profile = plan_of(tmp_path / "b", "--onnx", str(linear), *shapes).builder.plan
    assert dict(profile.profiles)["x"].max == (8, 4)
    assert {sample["x"].shape for sample in profile.samples} == {(1, 4), (2, 4), (8, 4)}
    with pytest.raises(InputError, match="has no input 'z'"):
        plan_of(tmp_path / "c", "--onnx", str(linear), "--optShapes", "z:1x4")
    with pytest.raises(InputError, match="-1 is free"):
        plan_of(tmp_path / "d", "--onnx", str(linear), "--optShapes", "x:1x5")


def test_free_axes_without_shapes_or_data_ask_for_shapes(tmp_path: Path) -> None:
    model = make_linear(tmp_path / "free.onnx", ("N", "S", 4))
    with pytest.raises(InputError) as caught:
        plan_of(tmp_path / "s", "--onnx", str(model))
    assert "--optShapes x:1xNx4" in str(caught.value.hint)


def test_same_folder_for_calibration_and_data_is_remarked(linear: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((5, 4), np.float32))
    data = str(tmp_path / "data.npz")
    plan = plan_of(tmp_path, "--onnx", str(linear), "--data", data, "--calib", data)
    assert "too good" in plan.remarks[0]


def test_labels_need_a_task(linear: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(UsageError):
        plan_of(tmp_path, "--onnx", str(linear), "--labels", str(tmp_path / "labels.txt"))


def test_task_labels_and_pictures_for_an_image_model(anomaly_onnx: Path, tmp_path: Path, task: Any) -> None:
    (tmp_path / "task.json").write_text(json.dumps(task.to_json()))
    (tmp_path / "labels.txt").write_text("fine\nbroken\n")
    plan = plan_of(
        tmp_path, "--onnx", str(anomaly_onnx), "--task", str(tmp_path / "task.json"),
        "--labels", str(tmp_path / "labels.txt"),
    )  # fmt: skip
    told = plan.builder.plan
    assert told.labels == ("fine", "broken")
    assert told.samples[0]["image"].shape == (1, 256, 256, 3)
    assert told.samples[0]["image"].dtype == np.uint8


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "say what to build"),
        (["yolox-nano-coco", "--onnx", "a.onnx"], 2, "say what to build"),
        (["--onnx", "a.onnx", "--int8"], 2, "--calib"),
        (["--onnx", "a.onnx", "--precision", "int4"], 2, "choose of"),
        (["--onnx", "a.onnx", "--backend", "tvm"], 2, "choose of"),
        (["--onnx", "a.onnx", "--sign", "no.pem"], 2, "xinfer keygen"),
        (["--onnx", "a.onnx"], 3, "build.source_model.not_found"),
        (["yolox-nno-coco"], 3, "did you mean yolox-nano-coco"),
        (["yolox-nano-coco", "--optShapes", "x:1"], 2, "the catalogue's"),
        (["ppocr-v4"], 2, "consists of"),
    ],
)
def test_wrong_builds_say_what_is_wrong(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *arguments]) == code
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- a real build


def test_build_signs_reports_verifies_and_answers_again_from_the_cache(
    linear: Path, keys: tuple[Path, Path], tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32))
    engine, page = tmp_path / "out" / "linear.engine", tmp_path / "linear.html"
    common = [
        "--onnx", str(linear), "--backend", "onnxruntime", "--precision", "fp32", "--budget", "1s",
        "--data", str(tmp_path / "data.npz"), f"--saveEngine={engine}",
    ]  # fmt: skip
    assert main(["build", *common, "--sign", str(keys[0]), "--report", str(page), "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["accuracy_on"] == "data"
    assert document["signed"] is True
    assert document["receipt"]["accuracy"]["num_samples"] == 6
    assert "100% Built" in captured.err
    assert "linear" in page.read_text()
    assert EnginePackage.open(engine).digest == document["digest"]

    arguments = ["verify", str(engine), "--public-key", str(keys[1]), "--seconds", "50ms", "--json"]
    assert main([*arguments, "--data", str(tmp_path / "data.npz"), "--onnx", str(linear)]) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    assert (accuracy["metric"], accuracy["num_samples"]) == ("cosine", 6)
    assert accuracy["here"] == pytest.approx(1, abs=1e-4)

    kept = sorted((home / "builds").iterdir())
    assert main(["build", *common]) == 0
    captured = capsys.readouterr()
    assert "an identical build was made before" in captured.err
    assert "onnxruntime/fp32, executes fp32" in captured.out
    assert sorted((home / "builds").iterdir()) == kept
    assert main(["benchmark", str(engine), "--seconds", "20ms"]) == 0, "what was built here needs no key"
