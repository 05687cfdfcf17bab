"""A few hundred cases of `benchmarks/fuzz.py`, and the faults that its long runs found."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from xinfer import schema
from xinfer.errors import DocumentError, PackageError
from xinfer.manifest import Manifest, Receipt
from xinfer.package import EnginePackage, Golden

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
CASES = 240


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    if not (BENCHMARKS / "fuzz.py").exists():
        pytest.skip("benchmarks/ is not beside packages/ here")
    spec = importlib.util.spec_from_file_location("xinfer_fuzz", BENCHMARKS / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["xinfer_fuzz"] = module
    spec.loader.exec_module(module)
    return module


def test_damaged_models_and_packages_end_in_typed_errors(fuzz: ModuleType) -> None:
    result = fuzz.fuzz(CASES, 1_000_000, limit_s=240)
    assert result["failures"] == []
    assert result["cases"] == CASES
    # Most must fail, some must not: else the cases test nothing.
    for kind in ("onnx", "engine"):
        accepted = result["outcomes"][kind].get("accepted", 0)
        assert 0 < accepted < CASES / 4
        assert len(result["outcomes"][kind]) > 2


def test_fuzzing_notices_what_it_should(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "0"
    fuzz.make_root(root)
    monkeypatch.setattr(sys, "addaudithook", lambda hook: None)
    caller = fuzz.Caller(root, (root / "sound.engine").read_bytes(), 0)

    def untyped(*args: object, **options: object) -> None:
        raise KeyError("odd")

    def writes(*args: object, **options: object) -> None:
        (root / "canary" / "new").write_text("x")

    monkeypatch.setattr(caller, "_load", untyped)
    assert "KeyError" in caller.run(1)["fault"]
    monkeypatch.setattr(caller, "_load", writes)
    assert "canary/new" in caller.run(1)["fault"]
    caller._watch("open", (str(root / "elsewhere"), "w", 0))
    assert caller.written == [f"open {root / 'elsewhere'}"]
    caller.reader.close()


def replace(engine_file: Path, out: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(engine_file) as archive, zipfile.ZipFile(out, "w") as fresh:
        for entry in archive.namelist():
            fresh.writestr(entry, content if entry == name else archive.read(entry))
    return out


@pytest.mark.parametrize(
    "number",
    ["1e999", "-1e999", "1" * 400, "9" * 5000, "[" * 5000, "[" * 900 + "]" * 900, '"\\ud800"', "1.0", "true"],
)
def test_manifest_is_refused_when_a_value_is_out_of_this_world(
    engine_file: Path, tmp_path: Path, number: str
) -> None:
    with zipfile.ZipFile(engine_file) as archive:
        document = json.loads(archive.read("manifest.json"))
    document["schema_version"] = "@"
    text = json.dumps(document).replace('"@"', number)
    with pytest.raises(DocumentError):
        EnginePackage.open(replace(engine_file, tmp_path / "x.engine", "manifest.json", text.encode()))


def test_whole_number_too_large_for_a_float_is_refused(engine_file: Path) -> None:
    with zipfile.ZipFile(engine_file) as archive:
        document = json.loads(archive.read("manifest.json"))
    document["recipe"]["duration_s"] = 10**400
    with pytest.raises(DocumentError, match="duration_s"):
        Manifest.from_json(json.dumps(document).encode())


def test_documents_are_utf8_and_nothing_else() -> None:
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        with pytest.raises(DocumentError):
            schema.loads("{}".encode(encoding), where="x")
    assert schema.loads(b'{"a": "\\u00e9"}', where="x") == {"a": "é"}


@pytest.mark.parametrize("statuses", [[], ["ok"], ["selected", "selected"]])
def test_receipt_is_refused_unless_one_candidate_is_selected(engine_file: Path, statuses: list[str]) -> None:
    with zipfile.ZipFile(engine_file) as archive:
        document = json.loads(archive.read("receipt.json"))
    document["candidates"] = [document["candidates"][0] | {"status": status} for status in statuses]
    with pytest.raises(DocumentError, match="exactly one"):
        Receipt.from_json(json.dumps(document).encode())


@pytest.mark.parametrize(
    "name", ["artifact/MODEL.onnx", "artifact/model.onnx/inner", "artifact/Model.ONNX/x"]
)
def test_entries_that_collide_on_some_file_systems_are_refused(
    engine_file: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(engine_file.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(PackageError, match="one place"):
        EnginePackage.open(path)


def test_directory_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(9000):
            archive.writestr(f"artifact/{index:090}", b"")
    with pytest.raises(PackageError, match="directory is too large"):
        EnginePackage.open(path)


def array(header: str, content: bytes = b"", name: str = "input.x.npy", times: int = 1) -> bytes:
    text = header.encode()
    data = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + content
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for _ in range(times):
            archive.writestr(name, data)
    return buffer.getvalue()


PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("header", "num_bytes", "name", "times"),
    [
        (PLAIN, 4, "other.npy", 1),
        (PLAIN, 4, "input.x.npy", 2),
        (PLAIN, 8, "input.x.npy", 1),
        (PLAIN.replace("1,", "2,"), 4, "input.x.npy", 1),
        (PLAIN.replace("1,", "-1,"), 4, "input.x.npy", 1),
        (PLAIN.replace("<f4", "<U1"), 4, "input.x.npy", 1),
        (PLAIN.replace("'<f4'", "[('a', '<f4')]"), 4, "input.x.npy", 1),
        ("(" * 300, 0, "input.x.npy", 1),
    ],
)
def test_golden_takes_plain_arrays_of_the_size_that_they_declare(
    header: str, num_bytes: int, name: str, times: int
) -> None:
    assert Golden.from_bytes(array(PLAIN, bytes(4))).inputs["x"].shape == (1,)
    with pytest.raises(PackageError):
        Golden.from_bytes(array(header, bytes(num_bytes), name, times))


@pytest.mark.parametrize("order", ["C", "F"])
def test_golden_survives_a_round_trip(order: str) -> None:
    x = np.asarray(np.arange(6, dtype=np.float16).reshape(2, 3), order=order)
    golden = Golden(inputs={"x": x}, outputs={"y": np.array(True), "z": np.zeros((0, 4), np.int8)})
    again = Golden.from_bytes(golden.to_bytes())
    np.testing.assert_array_equal(again.inputs["x"], x)
    assert again.outputs["y"].shape == ()
    assert again.outputs["z"].shape == (0, 4)
