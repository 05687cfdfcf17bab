"""Engine files: a deterministic zip of documents, artifact and signature (ARCHITECTURE 5 and 10.5)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import shutil
import stat
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np

from xinfer import schema
from xinfer.errors import DocumentError, PackageError, XInferError
from xinfer.manifest import DATATYPES, Manifest, Receipt

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FILES = 256
MAX_SIZE_BYTES = 8 << 30
MAX_DOCUMENT_BYTES = 16 << 20
MAX_GOLDEN_BYTES = 256 << 20
MAX_DIRECTORY_BYTES = 1 << 20
"""Of a zip file's table of contents: `MAX_FILES` entries with long names need a tenth."""

REQUIRED_FILES = frozenset({"manifest.json", "receipt.json", "labels.json", "golden.npz"})
_ALLOWED = re.compile(
    r"(manifest\.json|receipt\.json|labels\.json|golden\.npz|model\.sig|artifact(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){1,4})"
)
"""No hidden names: model-signing leaves git's own files out of a signature."""

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Content address of a file, ``sha256:<64 hex digits>``."""
    with Path(path).open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def artifact_digest(folder: str | os.PathLike[str]) -> str:
    """Content address of an artifact folder: SHA-256 over ``<sha256>  <path>`` lines, sorted by path."""
    root = Path(folder)
    lines = [
        f"{file_digest(path)[7:]}  {path.relative_to(root).as_posix()}\n"
        for path in sorted(root.rglob("*"))
        if path.is_file()
    ]
    return "sha256:" + hashlib.sha256("".join(sorted(lines, key=lambda line: line[66:])).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One recorded pair: inputs and what the engine answered when it was built."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    def to_bytes(self) -> bytes:
        """The pair as ``golden.npz``: keys ``input.<name>`` and ``output.<name>``, no pickle."""
        # np.savez stamps fixed times, so that equal pairs are equal bytes.
        arrays = {f"input.{name}": array for name, array in self.inputs.items()}
        arrays |= {f"output.{name}": array for name, array in self.outputs.items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Golden:
        """Reads ``golden.npz``. Raises PackageError."""
        try:
            arrays: dict[str, np.ndarray] = {}
            with _archive(io.BytesIO(data)) as archive:
                entries = archive.infolist()
                if len(entries) > MAX_FILES:
                    raise ValueError(f"it holds more than {MAX_FILES} arrays")
                if sum(entry.file_size for entry in entries) > len(data):
                    raise ValueError("entries overlap")
                for entry in entries:
                    name = entry.filename.removesuffix(".npy")
                    # Stored arrays cannot unpack to more than the file's own size.
                    if entry.compress_type != zipfile.ZIP_STORED:
                        raise ValueError(f"{entry.filename!r} is compressed")
                    if name in arrays:
                        raise ValueError(f"{entry.filename!r} is there twice")
                    arrays[name] = _read_array(archive.read(entry))
        except Exception as error:
            # Damage reaches far into zipfile's and NumPy's code; a shape that lies is a MemoryError.
            raise PackageError(f"golden.npz cannot be read: {error}") from error
        parts: dict[str, dict[str, np.ndarray]] = {"input": {}, "output": {}}
        for key, array in arrays.items():
            part, _, name = key.partition(".")
            if part not in parts:
                raise PackageError(f"golden.npz holds an unknown array {key!r}", value=key)
            parts[part][name] = array
        return cls(inputs=parts["input"], outputs=parts["output"])


def stage(
    folder: str | os.PathLike[str],
    *,
    manifest: Manifest,
    receipt: Receipt,
    labels: tuple[str, ...],
    golden: Golden,
    artifact: Mapping[str, Path],
) -> None:
    """Lays out an unpacked package, ready to be signed and written.

    Args:
        folder: An empty folder.
        manifest: What the engine is.
        receipt: What was measured.
        labels: Class names.
        golden: The recorded pair.
        artifact: Path below ``artifact/`` -> the file to copy.
    """
    root = Path(folder)
    (root / "manifest.json").write_bytes(schema.dumps(manifest))
    (root / "receipt.json").write_bytes(schema.dumps(receipt))
    (root / "labels.json").write_bytes(schema.dumps(list(labels)))
    (root / "golden.npz").write_bytes(golden.to_bytes())
    for name, source in artifact.items():
        destination = root / "artifact" / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, destination)


class EnginePackage:
    """A checked engine file. Opening reads the documents; nothing is executed and nothing is trusted yet.

    Attributes:
        path: The file.
        key: SHA-256 in hex over all but the artifact, whose digest the manifest holds: names the content as
            `digest` does, without reading the artifact.
        manifest, receipt, labels: Its documents.
        signed: Whether it carries a signature (which opening does not check).
    """

    path: Path
    key: str
    manifest: Manifest
    receipt: Receipt
    labels: tuple[str, ...]
    signed: bool

    @classmethod
    def write(cls, path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> EnginePackage:
        """Packs an unpacked package: sorted names, fixed times, stored; written whole or not at all.

        Args:
            path: The engine file; replaced if it exists.
            folder: What `stage` laid out, signed or not.

        Returns:
            The package, opened.

        Raises:
            PackageError: The folder is not a valid package.
        """
        destination, root = Path(path), Path(folder)
        handle, temporary = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                    for source in sorted(item for item in root.rglob("*") if not item.is_dir()):
                        info = zipfile.ZipInfo(source.relative_to(root).as_posix(), _ZIP_TIME)
                        info.create_system, info.external_attr = 3, 0o100644 << 16
                        info.file_size = source.stat().st_size
                        with source.open("rb") as content, archive.open(info, "w") as entry:
                            shutil.copyfileobj(content, entry, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            cls.open(temporary)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(destination)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
        return cls.open(destination)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> EnginePackage:
        """Opens an engine file and checks its form.

        Args:
            path: The file; may come from anywhere.

        Returns:
            The package.

        Raises:
            PackageError: Not an engine file: damaged, too large, compressed, with unexpected, duplicate,
                linked or missing entries.
            DocumentError: A document inside does not follow its schema.
        """
        self = cls()
        self.path = Path(path)
        try:
            if self.path.stat().st_size > MAX_SIZE_BYTES:
                raise PackageError("the engine file is too large", value=self.path.stat().st_size)
            with self.path.open("rb") as file, _archive(file) as archive:
                names = {info.filename for info in _check(archive, self.path.stat().st_size)}
                self.manifest = Manifest.from_json(archive.read("manifest.json"))
                self.receipt = Receipt.from_json(archive.read("receipt.json"))
                self.labels = read_labels(archive.read("labels.json"))
                documents = sorted(name for name in names if not name.startswith("artifact/"))
                digests = (hashlib.sha256(archive.read(name)).hexdigest() for name in documents)
                lines = [f"{digest}  {name}\n" for digest, name in zip(digests, documents, strict=True)]
                self.key = hashlib.sha256("".join(lines).encode()).hexdigest()
        except XInferError:
            raise
        except Exception as error:
            # Damage reaches far into zipfile's code, which lets struct's, zlib's and codecs' errors through.
            reason = getattr(error, "strerror", None) or str(error)
            raise PackageError(
                f"{self.path.name} is not an engine file: {reason}", value=str(self.path)
            ) from error
        self.signed = "model.sig" in names
        return self

    @cached_property
    def digest(self) -> str:
        """Content address of the file, ``sha256:<64 hex digits>``; reads all of it the first time."""
        return file_digest(self.path)

    def golden(self) -> Golden:
        """The recorded pair. Raises PackageError if it is damaged."""
        try:
            with self.path.open("rb") as file, _archive(file) as archive:
                _check(archive, self.path.stat().st_size)
                return Golden.from_bytes(archive.read("golden.npz"))
        except XInferError:
            raise
        except Exception as error:
            raise PackageError(f"{self.path.name} cannot be read: {error}", value=str(self.path)) from error

    def extract(self, folder: str | os.PathLike[str]) -> Path:
        """Unpacks into a folder that appears whole or not at all.

        What an earlier call left is kept if its documents are this file's and its files have their sizes;
        whoever uses the artifact compares its digest with the manifest's, or checks the signature.

        Args:
            folder: Must not exist yet, or be what an earlier call left.

        Returns:
            The folder.

        Raises:
            PackageError: The file is damaged or changed since it was opened.
        """
        destination = Path(folder)
        if self._is_unpacked(destination):
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
        try:
            with self.path.open("rb") as source, _archive(source) as archive:
                for info in _check(archive, self.path.stat().st_size):
                    target = temporary / info.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(info) as entry, target.open("wb") as file:
                        shutil.copyfileobj(entry, file, 1 << 20)
            try:
                temporary.rename(destination)
            except OSError:
                # Someone else unpacked the same file first, or what is in the way was changed since.
                if not self._is_unpacked(destination):
                    shutil.rmtree(destination, ignore_errors=True)
                    temporary.rename(destination)
        except XInferError:
            raise
        except Exception as error:
            raise PackageError(
                f"{self.path.name} cannot be unpacked: {error}", value=str(self.path)
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return destination

    def _is_unpacked(self, folder: Path) -> bool:
        """Whether a folder holds this package, as far as that shows without reading the artifact."""
        if not (folder / "manifest.json").is_file():
            return False
        try:
            with self.path.open("rb") as source, _archive(source) as archive:
                entries = _check(archive, self.path.stat().st_size)
                found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
                return found == {entry.filename for entry in entries} and all(
                    (folder / entry.filename).stat().st_size == entry.file_size
                    if entry.filename.startswith("artifact/")
                    else (folder / entry.filename).read_bytes() == archive.read(entry)
                    for entry in entries
                )
        except (OSError, zipfile.BadZipFile, EOFError, XInferError):
            return False


def read_labels(data: bytes) -> tuple[str, ...]:
    """Reads `labels.json`. Raises DocumentError."""
    document = schema.loads(data, where="labels")
    if not isinstance(document, list) or not all(isinstance(label, str) for label in document):
        raise DocumentError("labels: expected a list of names", value=document)
    return tuple(document)


def _archive(file: IO[bytes]) -> zipfile.ZipFile:
    """Opens a zip file. zipfile reads the whole directory into memory: here it must be a small one."""
    # A view: the file stays the caller's, and its ordinary reads are not bounded.
    bounded = cast("IO[bytes]", _Bounded(file))
    archive = zipfile.ZipFile(bounded)
    archive.fp = file
    return archive


class _Bounded:
    """A file whose reads end in an error beyond what a directory of ours can have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        most = MAX_DIRECTORY_BYTES + 1
        data = self._file.read(most if size is None or size < 0 else min(size, most))
        if len(data) > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile("its directory is too large")
        return data


def _read_array(data: bytes) -> np.ndarray:
    """Reads one `.npy`: plain numbers, exactly as many as its header says. Raises ValueError."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if reader is None:
        raise ValueError(f"version {version} of the array format")
    shape, is_fortran, dtype = reader(file)
    if dtype.name not in DATATYPES.values():
        raise ValueError(f"an array of {dtype}")
    # Checked before memory is taken: a shape may lie.
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"an array of {list(shape)[:8]} in {len(data) - file.tell()} bytes")
    array = np.frombuffer(data, dtype, offset=file.tell())
    return array.reshape(shape, order="F" if is_fortran else "C").copy(order="K")


def _check(archive: zipfile.ZipFile, size_bytes: int) -> list[zipfile.ZipInfo]:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(entries) > MAX_FILES:
        raise PackageError(f"the engine file holds more than {MAX_FILES} files", value=len(entries))
    if len(set(names)) != len(names):
        raise PackageError("the engine file holds a name twice", value=sorted(names))
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if not _ALLOWED.fullmatch(entry.filename):
            raise PackageError(f"unexpected entry {entry.filename!r}", value=entry.filename)
        if kind not in (0, stat.S_IFREG):
            raise PackageError(f"{entry.filename!r} is not a regular file", value=entry.filename)
        # Stored entries cannot expand, so sizes are bounded by the file's own size.
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise PackageError(f"{entry.filename!r} is compressed", value=entry.filename)
        if entry.flag_bits & 0x1:
            raise PackageError(f"{entry.filename!r} is encrypted", value=entry.filename)
        limit = {"golden.npz": MAX_GOLDEN_BYTES}.get(entry.filename, MAX_DOCUMENT_BYTES)
        if not entry.filename.startswith("artifact/") and entry.file_size > limit:
            raise PackageError(f"{entry.filename!r} is too large", value=entry.file_size)
    folded = {name.casefold() for name in names}
    parents = {name[:end] for name in folded for end in range(len(name)) if name[end] == "/"}
    if len(folded) != len(names) or parents & folded:
        raise PackageError("two entries need one place on some file systems", value=sorted(names))
    if sum(entry.file_size for entry in entries) > size_bytes:
        raise PackageError("entries overlap", value=size_bytes)
    missing = sorted(REQUIRED_FILES - set(names))
    if missing or not any(name.startswith("artifact/") for name in names):
        raise PackageError(f"{(missing or ['artifact/'])[0]} is missing", value=missing)
    return entries
