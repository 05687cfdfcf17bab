"""Signatures of engine packages, made and checked by OpenSSF model-signing.

The signature covers every file of the unpacked package but itself, so that model-signing's own command
verifies it too: ``model_signing verify key FOLDER --signature FOLDER/model.sig --public_key KEY``.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xinfer import schema
from xinfer._extras import require
from xinfer.errors import DocumentError, SignatureError

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE_FILE = "model.sig"


def generate_key(private_path: str | os.PathLike[str], public_path: str | os.PathLike[str]) -> None:
    """Makes a signing key: EC P-256 as PEM, the private file with mode 0600.

    Args:
        private_path: Where the private key goes; must not exist.
        public_path: Where the public key goes; must not exist.

    Raises:
        SignatureError: One of the files exists already (a key is never overwritten).
    """
    serialization = require("cryptography.hazmat.primitives.serialization", "sign")
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", "sign")
    for path in (private_path, public_path):
        if Path(path).exists():
            raise SignatureError(
                f"{Path(path).name} exists already",
                code="signature.bad_key",
                value=str(path),
                hint="keep the key, or move it away first",
            )
    key = ec.generate_private_key(ec.SECP256R1())
    private_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    # O_EXCL with the mode given at creation: the private key is never readable by others.
    with os.fdopen(os.open(private_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private_pem)
    Path(public_path).write_bytes(public_pem)


def public_key_pem(private_key: str | os.PathLike[str]) -> bytes:
    """The PEM public key that belongs to a private key file.

    Raises:
        SignatureError: The file is not an unencrypted PEM private key.
    """
    serialization = require("cryptography.hazmat.primitives.serialization", "sign")
    try:
        key = serialization.load_pem_private_key(Path(private_key).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _bad_key(private_key, error) from error
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return bytes(pem)


def normalised_public_key(public_key: bytes) -> bytes:
    """A public key as the PEM that `cryptography` writes, however it was laid out before.

    Args:
        public_key: PEM of an EC public key.

    Returns:
        The same key; equal keys give equal bytes.

    Raises:
        SignatureError: It is not an EC public key as PEM (``signature.bad_key``).
    """
    serialization = require("cryptography.hazmat.primitives.serialization", "sign")
    pem = _load_public_key(public_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return bytes(pem)


def key_fingerprint(public_key: bytes) -> str:
    """The name of a public key: ``sha256:`` and the SHA-256 of its SubjectPublicKeyInfo as DER, in hex.

    ``openssl pkey -pubin -in KEY -outform DER | sha256sum`` gives the same digits.

    Args:
        public_key: PEM of an EC public key.

    Raises:
        SignatureError: It is not an EC public key as PEM (``signature.bad_key``).
    """
    serialization = require("cryptography.hazmat.primitives.serialization", "sign")
    der = _load_public_key(public_key).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return "sha256:" + hashlib.sha256(der).hexdigest()


def signer_hint(folder: str | os.PathLike[str]) -> str:
    """Which key a signature says it was made with: the SHA-256, in hex, of the key's `normalised_public_key`.

    This is a claim, not a proof: it only tells which key to verify with. model-signing refuses a signature
    whose claim does not fit the key.

    Args:
        folder: The unpacked package.

    Raises:
        SignatureError: Unsigned (``signature.missing``), or not a signature of this kind
            (``signature.invalid``).
    """
    signature = Path(folder) / SIGNATURE_FILE
    # A dangling link is something that claims to be a signature, not the absence of one.
    if not os.path.lexists(signature):
        raise _unsigned()
    try:
        bundle = schema.loads(signature.read_bytes(), where=SIGNATURE_FILE)
        hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    except (OSError, DocumentError, LookupError, TypeError) as error:
        raise SignatureError(
            "the signature cannot be read", value=str(folder), hint="sign the engine again"
        ) from error
    if not isinstance(hint, str):
        raise SignatureError("the signature does not say which key made it", value=str(folder))
    return hint


def sign_folder(folder: str | os.PathLike[str], private_key: str | os.PathLike[str]) -> Path:
    """Signs every file below a folder and writes ``model.sig`` into it.

    Args:
        folder: The unpacked package.
        private_key: PEM file of an EC private key.

    Returns:
        The signature's path.

    Raises:
        SignatureError: The key cannot be used.
    """
    signing = require("model_signing.signing", "sign")
    public_key_pem(private_key)
    folder = Path(folder)
    signature = folder / SIGNATURE_FILE
    config = signing.Config().use_elliptic_key_signer(private_key=Path(private_key))
    config.set_hashing_config(_hashing(signature)).sign(folder, signature)
    return signature


def verify_folder(folder: str | os.PathLike[str], public_key: str | os.PathLike[str] | bytes) -> None:
    """Checks that the signature of a folder is by this key and covers exactly the files that are there.

    Args:
        folder: The unpacked package, with ``model.sig``.
        public_key: PEM file of the public key, or its content.

    Raises:
        SignatureError: Unsigned (``signature.missing``), another key, or a changed, added or removed
            file (``signature.invalid``); or the key cannot be read (``signature.bad_key``).
    """
    verifying = require("model_signing.verifying", "sign")
    folder = Path(folder)
    signature = folder / SIGNATURE_FILE
    if not signature.is_file():
        raise _unsigned()
    with _key_file(public_key) as key:
        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=key)
        except (OSError, ValueError, TypeError) as error:
            raise _bad_key(key, error) from error
        try:
            config.set_hashing_config(_hashing(signature)).verify(folder, signature)
        except Exception as error:
            # model-signing lets parser, protobuf and cryptography errors through: all mean "not verified".
            raise SignatureError(
                f"the signature does not verify: {error or type(error).__name__}",
                value=str(folder),
                hint="the file was changed after signing, or was signed by another key",
            ) from error


def _unsigned() -> SignatureError:
    return SignatureError(
        "the engine is not signed", code="signature.missing", hint="sign it, or load it unsigned on purpose"
    )


def _load_public_key(public_key: bytes) -> Any:
    serialization = require("cryptography.hazmat.primitives.serialization", "sign")
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", "sign")
    exceptions = require("cryptography.exceptions", "sign")
    try:
        key = serialization.load_pem_public_key(public_key)
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm) as error:
        raise _bad_key("(inline)", error) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _bad_key("(inline)", TypeError("it is not an elliptic-curve key"))
    return key


def _hashing(signature: Path) -> Any:
    hashing = require("model_signing.hashing", "sign")
    return hashing.Config().set_ignored_paths(paths=[signature.name], ignore_git_paths=False)


@contextmanager
def _key_file(public_key: str | os.PathLike[str] | bytes) -> Iterator[Path]:
    if not isinstance(public_key, bytes):
        yield Path(public_key)
        return
    with tempfile.TemporaryDirectory(prefix="xinfer-key-") as folder:
        path = Path(folder) / "key.pub.pem"
        path.write_bytes(public_key)
        yield path


def _bad_key(path: str | os.PathLike[str], error: Exception) -> SignatureError:
    return SignatureError(
        f"the key {Path(path).name} cannot be used: {error}",
        code="signature.bad_key",
        value=str(path),
        hint="an EC key as PEM, made by `xinfer keygen`",
    )
