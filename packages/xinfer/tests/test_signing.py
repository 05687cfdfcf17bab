"""Signatures, checked by this package and by model-signing's own command."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from xinfer import SignatureError
from xinfer.signing import generate_key, public_key_pem, sign_folder, verify_folder


def _model_signing(folder: Path, public_key: Path) -> int:
    command = [
        sys.executable, "-m", "model_signing", "verify", "key", str(folder),
        "--signature", str(folder / "model.sig"), "--public_key", str(public_key),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.fixture
def folder(package_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(package_folder, tmp_path / "package"))


def test_the_command_accepts_a_package_and_refuses_every_change(
    folder: Path, keys: tuple[Path, Path]
) -> None:
    assert _model_signing(folder, keys[1]) == 0
    added = folder / "artifact" / "extra.bin"
    added.write_bytes(b"x")
    assert _model_signing(folder, keys[1]) != 0
    added.unlink()
    assert _model_signing(folder, keys[1]) == 0
    labels = folder / "labels.json"
    labels.write_bytes(labels.read_bytes().replace(b"ok", b"OK"))
    assert _model_signing(folder, keys[1]) != 0


@pytest.mark.parametrize(
    "name", ["manifest.json", "receipt.json", "labels.json", "golden.npz", "artifact/model.onnx"]
)
def test_verify_fails_when_one_byte_changes(folder: Path, keys: tuple[Path, Path], name: str) -> None:
    verify_folder(folder, keys[1])
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(SignatureError) as caught:
        verify_folder(folder, keys[1])
    assert caught.value.code == "signature.invalid"


@pytest.mark.parametrize("name", ["extra.txt", "artifact/more.bin", ".gitattributes", ".git/config"])
def test_verify_fails_when_a_file_is_added(folder: Path, keys: tuple[Path, Path], name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(SignatureError):
        verify_folder(folder, keys[1])


def test_verify_fails_when_a_file_is_missing(folder: Path, keys: tuple[Path, Path]) -> None:
    (folder / "labels.json").unlink()
    with pytest.raises(SignatureError):
        verify_folder(folder, keys[1])


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"mediaType": 1}'])
def test_verify_fails_when_the_signature_is_garbage(
    folder: Path, keys: tuple[Path, Path], content: bytes
) -> None:
    (folder / "model.sig").write_bytes(content)
    with pytest.raises(SignatureError):
        verify_folder(folder, keys[1])


def test_verify_says_missing_when_there_is_no_signature(folder: Path, keys: tuple[Path, Path]) -> None:
    (folder / "model.sig").unlink()
    with pytest.raises(SignatureError) as caught:
        verify_folder(folder, keys[1])
    assert caught.value.code == "signature.missing"


@pytest.mark.parametrize("key", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_verify_says_bad_key_when_the_key_is_garbage(folder: Path, key: bytes) -> None:
    with pytest.raises(SignatureError) as caught:
        verify_folder(folder, key)
    assert caught.value.code == "signature.bad_key"


def test_sign_is_refused_when_the_key_is_missing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SignatureError) as caught:
        sign_folder(folder, tmp_path / "none.pem")
    assert caught.value.code == "signature.bad_key"


def test_generate_key_is_private_and_never_overwrites(tmp_path: Path) -> None:
    private, public = tmp_path / "k.pem", tmp_path / "k.pub.pem"
    generate_key(private, public)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert public_key_pem(private) == public.read_bytes()
    before = private.read_bytes()
    with pytest.raises(SignatureError):
        generate_key(private, tmp_path / "other.pem")
    assert private.read_bytes() == before
