"""Engine files: determinism, strictness, and hostile archives."""

from __future__ import annotations

import io
import json
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from xinfer import DocumentError, EnginePackage, PackageError
from xinfer.manifest import Manifest, Receipt
from xinfer.package import Golden, read_labels


def _rewrite(source: Path, destination: Path, change: dict[str, bytes | None], **options: int) -> Path:
    """Copies an archive with entries replaced (bytes), removed (None) or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(destination, "w") as new:
        contents = {name: old.read(name) for name in old.namelist()} | change
        for name, data in contents.items():
            if data is not None:
                new.writestr(zipfile.ZipInfo(name), data, **options)
    return destination


def test_write_is_deterministic(package_folder: Path, tmp_path: Path) -> None:
    first = EnginePackage.write(tmp_path / "a.engine", package_folder)
    copy = shutil.copytree(package_folder, tmp_path / "copy")
    second = EnginePackage.write(tmp_path / "b.engine", copy)
    assert (first.digest, first.key) == (second.digest, second.key)
    names = zipfile.ZipFile(first.path).namelist()
    assert names == sorted(names)


@pytest.mark.parametrize("name", ["manifest.json", "receipt.json", "golden.npz", "labels.json"])
def test_key_tells_packages_apart(name: str, engine_file: Path, tmp_path: Path) -> None:
    content = zipfile.ZipFile(engine_file).read(name)
    changed = content + b" " if name.endswith(".json") else content + b"\0"
    other = EnginePackage.open(_rewrite(engine_file, tmp_path / "other.engine", {name: changed}))
    assert other.key != EnginePackage.open(engine_file).key


def test_write_leaves_nothing_when_the_folder_is_incomplete(package_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(package_folder, tmp_path / "broken"))
    (folder / "receipt.json").unlink()
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(PackageError, match=r"receipt\.json"):
        EnginePackage.write(out / "x.engine", folder)
    assert not list(out.iterdir())


def test_write_keeps_the_old_file_when_it_fails(package_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.engine"
    EnginePackage.write(out, package_folder)
    before = out.read_bytes()
    folder = Path(shutil.copytree(package_folder, tmp_path / "broken"))
    (folder / "notes.txt").write_text("not allowed")
    with pytest.raises(PackageError, match=r"notes\.txt"):
        EnginePackage.write(out, folder)
    assert out.read_bytes() == before


def test_extract_gives_the_files_back(engine_file: Path, package_folder: Path, tmp_path: Path) -> None:
    package = EnginePackage.open(engine_file)
    folder = package.extract(tmp_path / "new" / "engine")
    assert package.extract(folder) == folder
    originals = {
        path.relative_to(package_folder): path for path in package_folder.rglob("*") if path.is_file()
    }
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    assert found.keys() == originals.keys()
    assert all(found[name].read_bytes() == originals[name].read_bytes() for name in originals)
    assert [path.name for path in folder.parent.iterdir()] == ["engine"]


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "artifact/../../evil",
        "artifact/.gitattributes",
        "artifact/a\\b",
        ".git/config",
        "x",
    ],
)
def test_open_refuses_names_outside_the_layout(engine_file: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageError, match="unexpected entry"):
        EnginePackage.open(_rewrite(engine_file, tmp_path / "x.engine", {name: b"x"}))


def test_open_refuses_compressed_entries(engine_file: Path, tmp_path: Path) -> None:
    bomb = _rewrite(
        engine_file,
        tmp_path / "x.engine",
        {"artifact/bomb": bytes(1 << 20)},
        compress_type=zipfile.ZIP_DEFLATED,
    )
    with pytest.raises(PackageError, match="compressed"):
        EnginePackage.open(bomb)


def test_open_refuses_symlinks(engine_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    shutil.copyfile(engine_file, path)
    link = zipfile.ZipInfo("artifact/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(PackageError, match="regular file"):
        EnginePackage.open(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_open_refuses_duplicates(engine_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    shutil.copyfile(engine_file, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("manifest.json", "{}")
    with pytest.raises(PackageError, match="twice"):
        EnginePackage.open(path)


@pytest.mark.parametrize("length", [0, 10, 2000])
def test_open_refuses_truncated_files(engine_file: Path, tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(engine_file.read_bytes()[:length])
    with pytest.raises(PackageError):
        EnginePackage.open(path)


def test_open_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="No such file"):
        EnginePackage.open(tmp_path / "none.engine")


def test_documents_survive_a_round_trip(engine_file: Path) -> None:
    from xinfer import schema

    package = EnginePackage.open(engine_file)
    assert Manifest.from_json(schema.dumps(package.manifest)) == package.manifest
    assert Receipt.from_json(schema.dumps(package.receipt)) == package.receipt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema_version=2), "schema version 2"),
        (lambda d: d.pop("schema_version"), "schema version None"),
        (lambda d: d.pop("backend"), "'backend' is missing"),
        (lambda d: d.update(surprise=1), "unknown field 'surprise'"),
        (lambda d: d["identity"].update(version="1"), r"manifest\.identity\.version"),
        (lambda d: d["identity"].update(version=True), r"manifest\.identity\.version"),
        (lambda d: d["task"].update(score_range=[1.0, 0.0]), "must ascend"),
        (lambda d: d["io"]["inputs"][0].update(datatype="COMPLEX"), "datatype"),
        (lambda d: d.update(io=[]), r"manifest\.io: expected an object"),
    ],
)
def test_manifest_is_refused_when_it_differs_from_the_schema(engine_file: Path, change, message: str) -> None:
    with zipfile.ZipFile(engine_file) as archive:
        document = json.loads(archive.read("manifest.json"))
    change(document)
    with pytest.raises(DocumentError, match=message):
        Manifest.from_json(json.dumps(document).encode())


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"a": 1, "a": 2}', b'{"schema_version": NaN}', b"\xff"])
def test_manifest_is_refused_when_it_is_no_json_object(text: bytes) -> None:
    with pytest.raises(DocumentError):
        Manifest.from_json(text)


def test_golden_refuses_what_would_expand() -> None:
    bomb = io.BytesIO()
    np.savez_compressed(bomb, **{"input.image": np.zeros(10_000_000, np.uint8)})
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**15,)})
    liar = io.BytesIO()
    with zipfile.ZipFile(liar, "w") as archive:
        archive.writestr("input.image.npy", header.getvalue())
    for data in (bomb.getvalue(), liar.getvalue(), b"", b"PK"):
        with pytest.raises(PackageError, match="golden"):
            Golden.from_bytes(data)


def test_golden_refuses_pickled_arrays(tmp_path: Path) -> None:
    path = tmp_path / "g.npz"
    np.savez(path, **{"input.x": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(PackageError):
        Golden.from_bytes(path.read_bytes())


def test_extract_keeps_what_is_unpacked_already_and_mends_what_was_changed(
    engine_file: Path, tmp_path: Path
) -> None:
    package = EnginePackage.open(engine_file)
    folder = package.extract(tmp_path / "unpacked")
    before = (folder / "artifact" / "model.onnx").stat().st_ino
    package.extract(folder)
    assert (folder / "artifact" / "model.onnx").stat().st_ino == before, "nothing is written twice"
    (folder / "artifact" / "extra").write_bytes(b"")
    (folder / "labels.json").write_bytes(b'["no", "defective"]\n')
    package.extract(folder)
    assert not (folder / "artifact" / "extra").exists()
    assert read_labels((folder / "labels.json").read_bytes()) == package.labels
