"""EngineBuilder: the search's rules, on a model small enough to build in seconds."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from xinfer import (
    AccuracyBudgetError,
    AnomalyDetector,
    BuildError,
    CalibrationError,
    EngineBuilder,
    EnginePackage,
    HardwareTarget,
    InferenceEngine,
    PackageError,
    SourceModelError,
    VerificationError,
)
from xinfer.backends import BACKENDS, RuntimeSettings, get_backend
from xinfer.backends.registry import BackendInfo
from xinfer.builders import openvino_ir, quantise, search, steps
from xinfer.builders.candidates import SCOPES, Mode, Recipe, narrower, search_space
from xinfer.builders.graph import inspect_graph, load_onnx
from xinfer.builders.measure import measure_pipeline
from xinfer.builders.race import Runner, decided, race_job, run_race
from xinfer.tasks import TaskSpec
from xinfer.verify import cosine_agreement

HERE = HardwareTarget.detect()


@pytest.fixture(scope="module")
def feeds(images: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{"image": image[None]} for image in images]


def ordering(outputs):
    """A metric that a good engine keeps: how well scores follow the sum of the map."""
    scores = np.array([float(output["score"][0]) for output in outputs])
    sums = np.array([float(output["anomaly_map"].sum()) for output in outputs])
    return float(np.corrcoef(scores, sums)[0, 1])


@pytest.fixture(scope="module")
def builder(anomaly_onnx: Path, task: TaskSpec, feeds: list[dict[str, np.ndarray]]) -> EngineBuilder:
    return (
        EngineBuilder.from_onnx(anomaly_onnx)
        .named("tiny", 3, licences=["Apache-2.0"])
        .with_task(task)
        .with_accuracy_budget(
            metric="ordering", evaluate=ordering, samples=feeds, max_drop=0.05, min_agreement=0.5
        )
        .with_budget(150)
    )


@pytest.fixture(scope="module")
def built(
    builder: EngineBuilder,
    feeds: list[dict[str, np.ndarray]],
    keys: tuple[Path, Path],
    png: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> EnginePackage:
    stages: list[tuple[str, float]] = []
    path = tmp_path_factory.mktemp("built") / "tiny.engine"
    package = (
        builder.with_int8(feeds[:4])
        .with_comparison("nothing", len, [png])
        .on_progress(lambda stage, fraction, message: stages.append((stage, fraction)))
        .build_and_save(path, signing_key=keys[0])
    )
    fractions = [fraction for _, fraction in stages]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert [item.name for item in path.parent.iterdir()] == ["tiny.engine"]
    return package


def test_built_engine_loads_with_its_key_and_predicts(
    built: EnginePackage, keys: tuple[Path, Path], png: bytes
) -> None:
    with AnomalyDetector(built.path, public_key=keys[1]) as detector:
        assert detector.predict(png).verdict in ("ok", "defective")


def test_built_engine_says_where_it_comes_from(built: EnginePackage, anomaly_onnx: Path) -> None:
    manifest = built.manifest
    assert (manifest.identity.name, manifest.identity.version) == ("tiny", 3)
    assert manifest.source.opset == 18
    assert manifest.source.licences == ("Apache-2.0",)
    assert manifest.compatibility.target == HERE.name
    assert manifest.io.inputs[0].shape == (-1, -1, -1, 3)
    assert manifest.recipe.calibration_digest is not None


def test_receipt_has_a_row_for_every_candidate_and_one_winner(built: EnginePackage) -> None:
    receipt = built.receipt
    tried = {row.id for row in receipt.candidates}
    assert {
        "onnxruntime/fp32",
        "openvino/fp32",
        "onnxruntime/int8/ort-qdq/network",
        "openvino/int8/nncf-openvino/network",
    } <= tried
    assert len(tried) == len(receipt.candidates)
    assert [row.status for row in receipt.candidates].count("selected") == 1
    for row in receipt.candidates:
        if row.status in ("selected", "ok"):
            assert row.latency_ms is not None
            assert row.latency_ms.p50 > 0
            assert row.throughput_per_s is not None
            assert row.peak_memory_bytes is not None
            assert row.drop is not None
            assert row.drop <= 0.05
        else:
            assert row.reason


class Scripted(Runner):
    """A runner whose rounds take what the test says, in seconds."""

    rounds: Iterator[float]

    def turn(self) -> None:
        seconds = next(self.rounds)
        self.latencies_ms.append(seconds * 1e3)
        self.rounds_ms.append(seconds * 1e3)
        self.rates_per_s.append(1 / seconds)
        self.cpu_ms.append(seconds * 1e3)


def scripted(**rounds: list[float]) -> dict[str, Runner]:
    runners: dict[str, Runner] = {}
    for name, seconds in rounds.items():
        runner = Scripted(name=name, job={})
        runner.rounds = itertools.chain(seconds, itertools.repeat(seconds[-1]))
        runners[name] = runner
    return runners


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_race_orders_by_cost_and_drops_who_is_far_behind(objective: Mode) -> None:
    runners = scripted(slow=[3.0], fast=[1.0], second=[1.1])
    lost: list[tuple[str, str, str]] = []
    order = run_race(
        runners,
        objective,
        deadline_s=math.inf,
        lost=lambda *what: lost.append(what),
        progress=lambda index, num: None,
    )
    assert list(order) == ["fast", "second"]
    assert lost == [("slow", "dropped", "3.0x slower")]
    assert len(runners["slow"].rounds_ms) == 2, "one round may have met another's work"
    assert len(runners["fast"].rounds_ms) == 3, "all is clear after three"


def test_race_goes_on_while_it_is_not_clear_who_is_faster() -> None:
    runners = scripted(a=[1.0, 1.2, 1.0, 1.2, 1.0, 1.0], b=[1.2, 1.0, 1.2, 1.0, 1.2, 1.3])
    run_race(
        runners, "latency", deadline_s=math.inf, lost=lambda *what: None, progress=lambda index, num: None
    )
    assert len(runners["a"].rounds_ms) > 3


def test_int8_was_executed_as_int8(built: EnginePackage) -> None:
    executed = {
        row.id: row.precision_executed
        for row in built.receipt.candidates
        if row.precision_requested == "int8"
    }
    assert any("int8" in (precision or "") for precision in executed.values()), executed


def test_comparison_is_in_the_signed_receipt(built: EnginePackage) -> None:
    comparison = built.receipt.comparison
    assert comparison is not None
    assert comparison.peer == "nothing"
    assert comparison.speedup == pytest.approx(comparison.throughput_per_s / comparison.peer_throughput_per_s)
    assert comparison.speedup < 1


def test_measure_pipeline_finds_a_slower_peer_slower(engine_file: Path, png: bytes) -> None:
    with InferenceEngine.load(engine_file, require_signature=False) as engine:
        detector = AnomalyDetector(engine)

        def hundredfold(data: bytes) -> None:
            for _ in range(100):
                detector.predict(data)

        comparison = measure_pipeline(engine, [png], hundredfold, rounds=1)
    assert comparison.speedup > 10
    assert comparison.peer_cpu_ms_per_item > comparison.cpu_ms_per_item


def test_nothing_is_written_when_no_candidate_keeps_the_budget(
    builder: EngineBuilder, feeds: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    impossible = builder.with_backends("onnxruntime").with_accuracy_budget(
        metric="ordering", evaluate=ordering, samples=feeds, max_drop=0.01, source_value=2.0
    )
    with pytest.raises(AccuracyBudgetError, match="export is at fault") as caught:
        impossible.build_and_save(tmp_path / "x.engine")
    assert caught.value.code == "build.accuracy_budget"
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_when_the_packed_engine_differs(
    builder: EngineBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = InferenceEngine.infer

    def worse(self, inputs):
        return {name: array * np.float32(0.5) for name, array in infer(self, inputs).items()}

    monkeypatch.setattr(InferenceEngine, "infer", worse)
    with pytest.raises(VerificationError):
        builder.with_backends("onnxruntime").build_and_save(tmp_path / "x.engine")
    assert not list(tmp_path.iterdir())


def test_a_candidate_that_crashes_is_a_failed_row(
    builder: EngineBuilder, feeds: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = steps.prepare

    def crash(recipe: Recipe, *arguments, **options):
        if recipe.precision == "int8":
            # The worker's job is unreadable: it dies without a result, as a crash does.
            raise steps.StepError("the process ended without a result (killed by SIGSEGV): ")
        return prepare(recipe, *arguments, **options)

    monkeypatch.setattr(steps, "prepare", crash)
    with builder.with_backends("onnxruntime").with_int8(feeds[:2]).build() as built:
        rows = {row.precision_requested: row for row in built.receipt.candidates if row.status != "dropped"}
    assert rows["int8"].status == "failed"
    assert "SIGSEGV" in str(rows["int8"].reason)
    assert rows["fp32"].status == "selected"


def test_a_candidate_that_answers_otherwise_than_when_it_was_gated_is_a_failed_row(
    builder: EngineBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_outputs(*arguments, **options):
        job = race_job(*arguments, **options)
        with np.load(job["outputs"]) as arrays:
            doubled = {name: arrays[name] * 2 for name in arrays.files}
        np.savez(job["outputs"], **doubled)
        return job

    monkeypatch.setattr(search, "race_job", other_outputs)
    with pytest.raises(BuildError, match="in latency mode: output 'score' differs"):
        builder.with_backends("onnxruntime").with_precision("fp32").build()


def test_a_candidate_that_dies_in_the_race_is_a_failed_row(
    builder: EngineBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = Runner.turn

    def die(self: Runner) -> None:
        if self.name == "openvino/fp32":
            self._process.send_signal(signal.SIGSEGV)
        turn(self)

    monkeypatch.setattr(Runner, "turn", die)
    with builder.with_precision("fp32").build() as built:
        rows = {row.id: row for row in built.receipt.candidates}
    assert rows["openvino/fp32"].status == "failed"
    assert "SIGSEGV" in str(rows["openvino/fp32"].reason)
    assert rows["onnxruntime/fp32"].status == "selected"


@pytest.mark.parametrize(
    ("costs", "best", "expected"),
    [
        ([2.0, 2.1, 1.9], [1.0, 1.0, 1.0], True),  # twice as slow, beyond doubt
        ([1.001, 1.0, 1.002], [1.0, 1.0, 1.0], True),  # as fast, beyond doubt
        ([1.5, 0.8, 1.1], [1.0, 1.0, 1.0], False),
        ([1.0], [1.0], False),
    ],
)
def test_race_is_decided_when_more_rounds_would_change_nothing(
    costs: list[float], best: list[float], expected: bool
) -> None:
    assert decided(np.array(costs), np.array(best)) is expected


def test_an_interrupted_build_leaves_nothing_behind(anomaly_onnx: Path, tmp_path: Path) -> None:
    script = f"""
import numpy as np, sys
from xinfer import EngineBuilder
feeds = [{{"image": np.full((1, 32, 32, 3), i, np.uint8)}} for i in range(4)]
builder = EngineBuilder.from_onnx({str(anomaly_onnx)!r}).with_accuracy_budget(metric="cosine", samples=feeds)
builder.on_progress(
    lambda stage, fraction, message: print(stage, flush=True)
).build_and_save({str(tmp_path / "out" / "x.engine")!r})
"""
    (tmp_path / "out").mkdir()
    (tmp_path / "temporary").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "Measuring":
            break
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in stderr
    assert not list((tmp_path / "out").iterdir())
    assert not [path.name for path in (tmp_path / "temporary").iterdir() if path.name.startswith("xinfer")]


def test_an_identical_build_answers_at_once_and_another_does_not(
    builder: EngineBuilder, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = (
        builder.with_backends("onnxruntime")
        .with_precision("fp32")
        .with_cache(tmp_path, evaluation="ordering")
    )
    first = plan.build_and_save(tmp_path / "a.engine")

    def refuse(self):
        raise AssertionError("searched again")

    monkeypatch.setattr(search.Search, "run", refuse)
    second = plan.build_and_save(tmp_path / "b.engine", signing_key=keys[0])
    assert second.signed
    assert second.receipt == first.receipt
    InferenceEngine.load(second, public_key=keys[1]).close()
    for other in (
        plan.with_seed(1),
        plan.with_cache(tmp_path, evaluation="other"),
        plan.with_cache(tmp_path),
    ):
        with pytest.raises(AssertionError, match="searched again"):
            other.build_and_save(tmp_path / "c.engine")


def test_agreement_with_the_source_needs_no_labels(
    anomaly_onnx: Path, feeds: list[dict[str, np.ndarray]]
) -> None:
    plan = (
        EngineBuilder.from_onnx(anomaly_onnx)
        .with_backends("openvino")
        .with_precision("fp32")
        .with_accuracy_budget(metric="cosine", samples=feeds)
    )
    with plan.build() as built:
        assert built.receipt.accuracy is not None
        assert built.receipt.accuracy.source_value == pytest.approx(1)
        assert built.receipt.accuracy.engine_value > 0.999
    with pytest.raises(BuildError, match="evaluate"):
        plan.with_accuracy_budget(metric="mAP", samples=feeds)


def test_assets_travel_with_the_engine(builder: EngineBuilder, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("one two")
    plan = (
        builder.with_backends("onnxruntime")
        .with_precision("fp32")
        .with_assets({"words.txt": tmp_path / "words"})
    )
    package = plan.build_and_save(tmp_path / "x.engine")
    with InferenceEngine.load(package, require_signature=False) as engine:
        assert engine.asset("words.txt") == b"one two"
        with pytest.raises(PackageError):
            engine.asset("none")
    with pytest.raises(BuildError):
        plan.with_assets({"../x": tmp_path / "words"})


def test_int8_is_also_tried_with_bf16_around_it_after_its_sibling() -> None:
    target = replace(HERE, isa=("avx512_vnni", "avx512_bf16"))
    ids = [
        recipe.id
        for recipe in search_space(
            target, frozenset({"bf16", "int8"}), frozenset({"openvino", "onnxruntime"})
        )
    ]
    sibling = ids.index("openvino/int8/ort-qdq/network")
    assert ids[sibling + 1] == "openvino/int8+bf16/ort-qdq/network"
    assert not any(name.startswith("onnxruntime/int8+bf16") for name in ids)
    assert len(set(ids)) == len(ids)


def test_a_killed_worker_is_a_step_error(tmp_path: Path) -> None:
    with pytest.raises(steps.StepError, match="exit code 1"):
        steps._run({}, timeout_s=60)


@pytest.mark.parametrize("change", [{"max_drop": np.nan}, {"source_value": np.nan}, {"min_agreement": -1.0}])
def test_a_budget_that_everything_would_keep_is_refused(
    builder: EngineBuilder, change: dict[str, float]
) -> None:
    with pytest.raises(BuildError, match=next(iter(change))):
        type(builder)(replace(builder.plan, **change)).build()


def test_a_candidate_whose_metric_is_not_a_number_is_over_budget(
    builder: EngineBuilder, feeds: list[dict[str, np.ndarray]]
) -> None:
    values = iter([1.0, 1.0, np.nan])

    def evaluate(outputs):
        return next(values)

    plan = builder.with_precision("fp32").with_accuracy_budget(
        metric="ordering", evaluate=evaluate, samples=feeds, min_agreement=0.5
    )
    with plan.build() as built:
        assert [row.status for row in built.receipt.candidates] == ["selected", "over_budget"]


def test_build_needs_an_accuracy_budget(anomaly_onnx: Path) -> None:
    with pytest.raises(BuildError, match="accuracy budget"):
        EngineBuilder.from_onnx(anomaly_onnx).build()


def test_int8_needs_calibration(builder: EngineBuilder) -> None:
    with pytest.raises(CalibrationError):
        builder.with_precision("int8").build()
    with pytest.raises(CalibrationError):
        builder.with_int8([])


def test_wrong_sample_names_are_refused(builder: EngineBuilder, images: list[np.ndarray]) -> None:
    with pytest.raises(CalibrationError, match="calibration sample 0"):
        builder.with_int8([{"picture": images[0][None]}]).build()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x01"])
def test_a_damaged_model_is_refused(builder: EngineBuilder, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(SourceModelError):
        type(builder)(replace(builder.plan, source=path)).build()


def test_a_model_without_the_task_outputs_is_refused(
    builder: EngineBuilder, task: TaskSpec, feeds: list[dict[str, np.ndarray]]
) -> None:
    other = replace(task, outputs={"score": "logit", "map": "anomaly_map"})
    with pytest.raises(SourceModelError, match="logit"):
        builder.with_task(other).build()


@pytest.mark.parametrize(
    "choose",
    [
        lambda b: b.with_precision("fp4"),
        lambda b: b.with_backends("abacus"),
        lambda b: b.optimize_for("beauty"),
        lambda b: b.for_target(replace(HERE, name="cpu-riscv64")),
    ],
)
def test_unknown_choices_are_refused(builder: EngineBuilder, choose) -> None:
    with pytest.raises(BuildError):
        choose(builder)


def test_search_space_has_bf16_only_where_it_is_executed() -> None:
    everything = frozenset({"fp32", "bf16", "int8"}), frozenset({"openvino", "onnxruntime"})
    without = replace(HERE, isa=("avx2",))
    with_bf16 = replace(HERE, isa=("avx2", "avx512_bf16"))
    assert not any(recipe.precision == "bf16" for recipe in search_space(without, *everything))
    assert any(recipe.precision == "bf16" for recipe in search_space(with_bf16, *everything))


def test_accelerators_are_searched_with_the_backends_that_run_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackendInfo, "installed", True)
    target = HardwareTarget.from_name("cuda-sm_90")
    recipes = search_space(target, frozenset({"fp32", "fp16", "int8"}), frozenset(BACKENDS), device="cuda")
    ids = {recipe.id for recipe in recipes}
    assert {"tensorrt@cuda/fp16", "tensorrt@cuda/int8/portable/network", "onnxruntime@cuda/fp32"} <= ids
    assert not any(name.startswith("openvino") for name in ids)
    assert {recipe.device for recipe in recipes} == {"cuda"}


def test_a_build_for_an_accelerator_that_is_not_here_is_refused(builder: EngineBuilder) -> None:
    with pytest.raises(BuildError, match="measured where they run"):
        builder.for_target("cuda-sm_37")


def test_a_wider_scope_comes_after_its_narrower_one() -> None:
    recipes = search_space(HERE, frozenset({"int8"}), frozenset({"openvino", "onnxruntime"}))
    for recipe in recipes:
        before = narrower(recipe, SCOPES)
        if before is not None:
            assert recipes.index(before) < recipes.index(recipe)
    assert {recipe.scope for recipe in recipes} == {None, *SCOPES}


def test_graph_parts_are_found(anomaly_onnx: Path) -> None:
    graph = inspect_graph(load_onnx(anomaly_onnx))
    assert {"cast", "normalise", "layout", "resize"} <= graph.preprocessing
    assert graph.tail == {"squeeze", "score"}
    assert graph.matching(["conv*", "head"]) == {"conv0", "conv1", "head"}


def test_folding_repairs_a_quantised_graph(
    anomaly_onnx: Path, feeds: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    graph = inspect_graph(load_onnx(anomaly_onnx))
    quantised = tmp_path / "model.onnx"
    quantise.onnxruntime_qdq(
        anomaly_onnx, quantised, feeds[:4], graph.preprocessing | graph.tail, reduce_range=False
    )
    openvino_ir.convert(quantised, tmp_path / "ir")
    settings = RuntimeSettings(num_threads=1, num_streams=1)
    folded = get_backend("openvino").load(tmp_path / "ir", settings)
    source = get_backend("onnxruntime").load(anomaly_onnx.parent, settings)
    for sample in feeds:
        found, expected = folded.infer(sample), source.infer(sample)
        assert cosine_agreement(found["anomaly_map"], expected["anomaly_map"]) > 0.99


def test_folding_leaves_no_pair_of_an_activation(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    scale, zero = np.float32(0.1), np.uint8(7)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in (("scale", scale), ("zero", zero))],
    )
    path = tmp_path / "pair.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    model = openvino.Core().read_model(str(path))
    assert openvino_ir.fold_quantisation(model) == 1
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    assert "Convert" not in kinds
    x = np.linspace(-2, 40, 8, dtype=np.float32)[None]
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    quantised = np.clip(np.round(x / scale) + zero, 0, 255)
    expected = np.maximum((quantised - zero) * scale, 0)
    np.testing.assert_allclose(compiled([x])[0], expected, atol=1e-5)


def test_receipt_and_manifest_are_the_documents_in_the_file(built: EnginePackage, tmp_path: Path) -> None:
    folder = built.extract(tmp_path / "unpacked")
    receipt = json.loads((folder / "receipt.json").read_bytes())
    assert receipt["accuracy"]["verdict"] == "pass"
    assert receipt["protocol"]["interleaved"] is True
    # One thread for each of many inferences, or whatever the search found to be faster here.
    assert receipt["candidates"][0]["settings"]["throughput_mode"]["num_streams"] <= HERE.num_cores


def test_every_precision_has_a_turn_when_the_budget_is_spent_at_once(
    builder: EngineBuilder, feeds: list[dict[str, np.ndarray]]
) -> None:
    plan = builder.with_precision("fp32").with_int8(feeds[:4]).with_backends("onnxruntime").with_budget(0.001)
    with plan.build() as built:
        rows = {row.id: row for row in built.receipt.candidates}
    tried = {row.precision_requested for row in rows.values() if row.accuracy is not None}
    assert tried == {"fp32", "int8"}
    assert any(row.reason == "no time left in the budget" for row in rows.values())
