"""Compiled artifacts: what their `io.json` says and refuses, and what AOTInductor is asked to compile."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xinfer import BackendError, HardwareTarget
from xinfer.backends import RuntimeSettings, get_backend, required_target
from xinfer.backends.artifact_io import ArtifactIO, Dim, Port

HERE = HardwareTarget.detect()
IO = ArtifactIO(
    inputs=(
        Port(
            name="tokens",
            datatype="INT64",
            dims=(Dim(min=1, max=8, symbol="n"), Dim(min=1, max=64, symbol="t")),
        ),
        Port(
            name="mask", datatype="BOOL", dims=(Dim(min=1, max=8, symbol="n"), Dim(min=1, max=64, symbol="t"))
        ),
    ),
    outputs=(Port(name="vector", datatype="FP32", dims=(Dim(min=1, max=8, symbol="n"), Dim(min=4, max=4))),),
    device="cpu",
    target=(),
    layers=("bf16", "bf16", "fp32"),
    runtime="2.13.0",
)


def tokens(batch: int, length: int, dtype: str = "int64") -> np.ndarray:
    return np.zeros((batch, length), dtype)


def test_io_is_read_as_it_was_written(tmp_path: Path) -> None:
    IO.save(tmp_path)
    assert ArtifactIO.load(tmp_path) == IO
    assert IO.outputs[0].spec.shape == (-1, 4)


def test_what_compiled_code_needs_is_told_to_the_manifest(tmp_path: Path) -> None:
    replace(IO, target=("avx2", "avx512f")).save(tmp_path)
    assert required_target("inductor", tmp_path) == ("avx2", "avx512f")
    assert required_target("openvino", tmp_path) == ()


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"schema_version": 2}', None])
def test_io_is_a_typed_error_when_it_cannot_be_read(tmp_path: Path, damage: bytes | None) -> None:
    if damage is not None:
        (tmp_path / "io.json").write_bytes(damage)
    with pytest.raises(BackendError, match=r"io\.json"):
        ArtifactIO.load(tmp_path)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"tokens": tokens(2, 5)}, "takes"),
        ({"tokens": tokens(2, 5), "mask": tokens(2, 6, "bool")}, "mask"),
        ({"tokens": tokens(9, 5), "mask": tokens(9, 5, "bool")}, r"n=1\.\.8"),
        ({"tokens": tokens(2, 5, "int32"), "mask": tokens(2, 5, "bool")}, "int64"),
        ({"tokens": tokens(2, 5)[0], "mask": tokens(2, 5, "bool")}, "tokens"),
    ],
)
def test_inputs_are_refused_when_compiled_code_would_misread_them(
    feeds: dict[str, np.ndarray], message: str
) -> None:
    IO.check({"tokens": tokens(2, 5), "mask": tokens(2, 5, "bool")})
    with pytest.raises(BackendError, match=message):
        IO.check(feeds)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"target": ("avx9000",)}, "avx9000"), ({"device": "cuda"}, "compiled for cuda")],
)
def test_machine_code_for_another_machine_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the backend inductor needs torch")
    replace(IO, **change).save(tmp_path)
    with pytest.raises(BackendError, match=message) as caught:
        get_backend("inductor").load(tmp_path, RuntimeSettings(num_threads=1, num_streams=1))
    assert caught.value.code == "backend.unsupported"


@pytest.fixture(scope="module")
def program() -> Any:
    torch = pytest.importorskip("torch", reason="the backend inductor needs torch")

    class Net(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(8)
            self.head = torch.nn.Linear(8, 4)

        def forward(self, image: Any) -> Any:
            features = torch.relu(self.norm(self.conv(image)))
            return torch.softmax(self.head(features.mean((2, 3))), -1)

    n = torch.export.Dim("n", min=1, max=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(Net().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes={"image": {0: n}})


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be compiled, instead of compiling it."""
    inductor = pytest.importorskip("torch._inductor", reason="the backend inductor needs torch")
    caught: dict[str, Any] = {}

    def compile_(program: Any, *, package_path: str, inductor_configs: dict[str, Any]) -> None:
        caught.update(program=program, path=Path(package_path), configs=inductor_configs)

    monkeypatch.setattr(inductor, "aoti_compile_and_package", compile_)
    monkeypatch.setattr("xinfer.backends.inductor_compile._compiler", lambda: "g++")
    return caught


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 2e-2)])
def test_precision_is_part_of_the_program_that_is_compiled(
    precision: Any, tolerance: float, program: Any, compiled: dict[str, Any], tmp_path: Path
) -> None:
    import torch

    from xinfer.backends.inductor import compile_exported

    compile_exported(program, tmp_path, precision=precision, output_names=["probability"])
    assert compiled["path"] == tmp_path / "model.pt2"
    assert compiled["configs"]["freezing"] is True
    io = ArtifactIO.load(tmp_path)
    assert io.layers == (precision, precision)
    assert [port.spec.shape for port in io.inputs] == [(-1, 3, 8, 8)]
    assert [(port.name, port.datatype) for port in io.outputs] == [("probability", "FP32")]
    image = torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        found, want = compiled["program"].module()(image), program.module()(image)
    difference = (found.float() - want).abs().max().item()
    assert difference <= tolerance
    assert (difference > 0) == (precision == "bf16")


def test_code_is_compiled_for_the_level_that_a_mask_leaves(
    program: Any, compiled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "avx2" not in HERE.isa:
        pytest.skip("this CPU has no AVX2")
    from xinfer.backends.inductor import compile_exported

    monkeypatch.setattr("xinfer.targets.masking.tell_runtimes", lambda: None)
    monkeypatch.setenv("XINFER_MAX_ISA", "avx2")
    compile_exported(program, tmp_path)
    assert compiled["configs"]["cpp.march"] == "x86-64-v3"
    assert ArtifactIO.load(tmp_path).target == ("avx2",)


def test_a_missing_compiler_is_a_typed_error(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xinfer.backends.inductor import compile_exported

    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BackendError) as caught:
        compile_exported(program, tmp_path)
    assert caught.value.code == "backend.no_compiler"
    assert not any(tmp_path.iterdir())


def test_names_that_do_not_fit_the_program_are_refused(
    program: Any, compiled: dict[str, Any], tmp_path: Path
) -> None:
    from xinfer.backends.inductor import compile_exported

    with pytest.raises(BackendError, match="1 inputs and 1 outputs"):
        compile_exported(program, tmp_path, output_names=["a", "b"])
    assert "program" not in compiled


def test_a_package_is_loaded_once_per_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("torch._inductor.package", reason="the backend inductor needs torch")
    loads = []
    monkeypatch.setattr(package, "load_package", lambda path, num_runners: loads.append(path) or object())
    monkeypatch.setattr("xinfer.backends.inductor._LOADED", {})
    settings = RuntimeSettings(num_threads=1, num_streams=1)
    for name in ("first", "moved"):
        (tmp_path / name).mkdir()
        IO.save(tmp_path / name)
        (tmp_path / name / "model.pt2").write_bytes(b"same")
        get_backend("inductor").load(tmp_path / name, settings).close()
    assert len(loads) == 1
    (tmp_path / "moved" / "model.pt2").write_bytes(b"other")
    get_backend("inductor").load(tmp_path / "moved", settings)
    assert len(loads) == 2


def test_io_json_is_canonical(tmp_path: Path) -> None:
    IO.save(tmp_path)
    text = (tmp_path / "io.json").read_text()
    assert json.dumps(json.loads(text), sort_keys=True, indent=1) + "\n" == text
