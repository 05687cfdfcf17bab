"""Trust policy: which publishers may sign which models, kept in one file per user.

The file is TOML (or JSON where its name ends in ``.json``)::

    schema_version = 1
    unsigned = "refuse"                      # or "allow"
    revoked = ["sha256:<64 hex digits>"]     # fingerprints of keys that no longer count

    [[publishers]]
    name = "acme"
    models = ["acme-*", "gravel"]            # shell patterns over the engine's name (`identity.name`)
    keys = ["acme.pub.pem"]                  # PEM text, or a file next to this one
    not_before = 2026-01-01T00:00:00Z        # optional, as is not_after

Everything that is unclear refuses: a policy or a key that cannot be read, a file that others may write.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from xinfer import signing, trust_file
from xinfer.errors import DocumentError, SignatureError
from xinfer.manifest import Manifest

_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class TrustedKey:
    """A publisher's public key.

    Attributes:
        pem: The key, as `signing.normalised_public_key` gives it.
        fingerprint: `signing.key_fingerprint` of it.
        path: The file that the policy names, where it does not hold the key itself.
    """

    pem: bytes
    fingerprint: str
    path: str | None = None

    @classmethod
    def read(cls, entry: str, *, folder: Path) -> TrustedKey:
        """Reads one of a publisher's `keys`: PEM text, or a path from the policy's folder.

        Raises:
            SignatureError: It is no EC public key (``signature.bad_key``), or others may write the file.
        """
        inline = entry.lstrip().startswith("-----BEGIN")
        try:
            data = entry.encode() if inline else trust_file.read_private(folder / entry)
        except OSError as error:
            raise SignatureError(
                f"the key {entry} cannot be read: {error.strerror}", code="signature.bad_key", value=entry
            ) from error
        pem = signing.normalised_public_key(data)
        return cls(pem=pem, fingerprint=signing.key_fingerprint(pem), path=None if inline else entry)


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """Someone whose signature counts, for some models and some time.

    Attributes:
        name: What the user calls them.
        keys: Any of them may have signed.
        models: Shell patterns; the engine's name must match one (case matters).
        not_before, not_after: When their signatures count; checked against the clock at loading, because a
            signature by a key carries no time that could be believed.
    """

    name: str
    keys: tuple[TrustedKey, ...]
    models: tuple[str, ...]
    not_before: datetime | None = None
    not_after: datetime | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a publisher's name is letters, digits and ._@/-, not {self.name!r}")
        if not self.keys or not self.models:
            raise ValueError(f"publisher {self.name!r} needs at least one key and one model pattern")
        for moment in (self.not_before, self.not_after):
            if moment is not None and moment.tzinfo is None:
                raise ValueError(f"publisher {self.name!r}: {moment} has no time zone")

    def may_sign(self, model: str) -> bool:
        """Whether one of the patterns matches a model's name."""
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)

    def valid_at(self, moment: datetime) -> bool:
        """Whether signatures count at a time."""
        return (self.not_before is None or self.not_before <= moment) and (
            self.not_after is None or moment <= self.not_after
        )


@dataclass(frozen=True, kw_only=True)
class TrustPolicy:
    """Whose engines may be loaded. The empty policy trusts nobody.

    Attributes:
        publishers: Who is trusted, and for what.
        revoked: Fingerprints of keys that count for nothing, whoever holds them.
        unsigned: Whether engines without a signature may be loaded. One that carries a signature must carry
            a good one in any case.
    """

    publishers: tuple[Publisher, ...] = ()
    revoked: tuple[str, ...] = ()
    unsigned: Literal["refuse", "allow"] = "refuse"

    def __post_init__(self) -> None:
        if self.unsigned not in ("refuse", "allow"):
            raise ValueError(f"unsigned is 'refuse' or 'allow', not {self.unsigned!r}")
        names = [publisher.name for publisher in self.publishers]
        if len(set(names)) != len(names):
            raise ValueError("a publisher's name appears twice")
        for fingerprint in self.revoked:
            if not _FINGERPRINT.fullmatch(fingerprint):
                raise ValueError(f"a fingerprint is sha256: and 64 hex digits, not {fingerprint!r}")

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> TrustPolicy:
        """Reads the policy.

        Args:
            path: The file; default: `default_path`, where a missing file is the empty policy.

        Returns:
            The policy.

        Raises:
            SignatureError: The file cannot be read, differs from the format, names a key that cannot be
                used, or may be written by others (``signature.policy``).
        """
        file = default_path() if path is None else Path(path)
        if path is None and not os.path.lexists(file):
            return cls()
        try:
            return _from_document(trust_file.read(file), folder=file.parent)
        except OSError as error:
            raise _bad_policy(file, error.strerror or str(error)) from error
        except (ValueError, RecursionError, DocumentError, SignatureError) as error:
            raise _bad_policy(file, str(error)) from error

    def save(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Writes the policy, whole or not at all, readable by the user alone (mode 0600).

        Comments of an earlier file are lost.

        Args:
            path: The file; default: `default_path`.

        Returns:
            The file.
        """
        file = default_path() if path is None else Path(path)
        trust_file.write(file, _to_document(self))
        return file

    def check(
        self, folder: str | os.PathLike[str], manifest: Manifest, *, now: datetime | None = None
    ) -> Publisher | None:
        """Decides whether an unpacked engine may be loaded.

        Args:
            folder: The unpacked package.
            manifest: Its manifest, as the caller will use it.
            now: The time to judge by; default: the clock's.

        Returns:
            Whose engine it is; None for an unsigned one where the policy allows such.

        Raises:
            SignatureError: ``signature.missing``: unsigned; ``.revoked``: by a key that was revoked;
                ``.untrusted_publisher``: by nobody who may sign this model; ``.expired``: outside the
                publisher's time; ``.invalid``: a file was changed, added or removed, or the signature is
                not what it claims.
        """
        model, moment = manifest.identity.name, now or datetime.now(UTC)
        try:
            hint = signing.signer_hint(folder)
        except SignatureError as error:
            if error.code == "signature.missing" and self.unsigned == "allow":
                return None
            raise
        holders = [
            (publisher, key)
            for publisher in self.publishers
            for key in publisher.keys
            if hashlib.sha256(key.pem).hexdigest() == hint
        ]
        if any(key.fingerprint in self.revoked for _, key in holders):
            raise SignatureError(
                f"the key that signed {model!r} was revoked",
                code="signature.revoked",
                value=holders[0][1].fingerprint,
                hint="get an engine that the publisher signed with another key",
            )
        allowed = [(publisher, key) for publisher, key in holders if publisher.may_sign(model)]
        if not allowed:
            known = ", ".join(sorted({publisher.name for publisher, _ in holders}))
            raise SignatureError(
                f"{known} may not sign {model!r}" if known else f"nobody trusted signed {model!r}",
                code="signature.untrusted_publisher",
                value=hint,
                hint="add the publisher's public key and model pattern to the trust policy if you trust them",
            )
        current = [(publisher, key) for publisher, key in allowed if publisher.valid_at(moment)]
        if not current:
            raise SignatureError(
                f"{allowed[0][0].name} is not trusted at this time",
                code="signature.expired",
                value=moment.isoformat(),
                hint="renew not_after in the trust policy, or get an engine signed by a current key",
            )
        publisher, key = current[0]
        signing.verify_folder(folder, key.pem)
        # The signature vouches for what lies in the folder, so that is what must have been judged by name.
        if Manifest.from_json((Path(folder) / "manifest.json").read_bytes()) != manifest:
            raise SignatureError("the manifest is not the one that was signed", value=model)
        return publisher


def default_path() -> Path:
    """Where the policy stands: ``$XINFER_TRUST``, else ``xinfer/trust.toml`` in the user's configuration."""
    chosen = os.environ.get("XINFER_TRUST")
    if chosen:
        return Path(chosen)
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "xinfer" / "trust.toml"


def add_publisher(
    name: str,
    key: str | os.PathLike[str] | bytes,
    *,
    models: Iterable[str],
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Publisher:
    """Trusts a publisher; a known name gets one more key, and these models and times in place of its own.

    Args:
        name: What to call them.
        key: The public key: a PEM file, or its content. It is copied into the policy.
        models: Shell patterns of the models that they may sign.
        not_before, not_after: When their signatures count; with a time zone.
        path: The policy; default: `default_path`.

    Returns:
        The publisher as it now stands.

    Raises:
        SignatureError: The key cannot be used, or is revoked (``signature.revoked``); or the policy cannot be
            read.
    """
    try:
        data = key if isinstance(key, bytes) else Path(key).read_bytes()
    except OSError as error:
        raise SignatureError(
            f"the key cannot be read: {error.strerror}", code="signature.bad_key", value=str(key)
        ) from error
    pem = signing.normalised_public_key(data)
    trusted = TrustedKey(pem=pem, fingerprint=signing.key_fingerprint(pem))

    def change(policy: TrustPolicy) -> TrustPolicy:
        if trusted.fingerprint in policy.revoked:
            raise SignatureError("this key was revoked", code="signature.revoked", value=trusted.fingerprint)
        before = next((item for item in policy.publishers if item.name == name), None)
        kept = tuple(item for item in (before.keys if before else ()) if item.pem != pem)
        publisher = Publisher(
            name=name,
            keys=(*kept, trusted),
            models=tuple(models),
            not_before=not_before,
            not_after=not_after,
        )
        others = tuple(item for item in policy.publishers if item.name != name)
        return dataclasses.replace(policy, publishers=(*others, publisher))

    return _edit(path, change).publishers[-1]


def remove_publisher(name: str, *, path: str | os.PathLike[str] | None = None) -> bool:
    """Trusts a publisher no longer. Returns whether the policy knew them."""
    known = False

    def change(policy: TrustPolicy) -> TrustPolicy:
        nonlocal known
        known = any(publisher.name == name for publisher in policy.publishers)
        rest = tuple(publisher for publisher in policy.publishers if publisher.name != name)
        return dataclasses.replace(policy, publishers=rest)

    _edit(path, change)
    return known


def list_publishers(*, path: str | os.PathLike[str] | None = None) -> tuple[Publisher, ...]:
    """Who is trusted. Raises SignatureError where the policy cannot be read."""
    return TrustPolicy.load(path).publishers


def revoke_key(fingerprint: str, *, path: str | os.PathLike[str] | None = None) -> TrustPolicy:
    """Lets a key count for nothing from now on, even if someone adds it again.

    Args:
        fingerprint: As `signing.key_fingerprint` gives it.
        path: The policy; default: `default_path`.

    Raises:
        SignatureError: It is no fingerprint, or the policy cannot be read (``signature.policy``).
    """
    return _edit(
        path,
        lambda policy: dataclasses.replace(
            policy, revoked=tuple(sorted({*policy.revoked, fingerprint.lower()}))
        ),
    )


def _edit(path: str | os.PathLike[str] | None, change: Callable[[TrustPolicy], TrustPolicy]) -> TrustPolicy:
    file = default_path() if path is None else Path(path)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with trust_file.locked(file):
        try:
            policy = change(TrustPolicy.load(file) if os.path.lexists(file) else TrustPolicy())
        except ValueError as error:
            raise _bad_policy(file, str(error)) from error
        policy.save(file)
    return policy


def _from_document(read: trust_file.PolicyDocument, *, folder: Path) -> TrustPolicy:
    return TrustPolicy(
        unsigned=read.unsigned,
        revoked=read.revoked,
        publishers=tuple(
            Publisher(
                name=item.name,
                keys=tuple(TrustedKey.read(entry, folder=folder) for entry in item.keys),
                models=item.models,
                not_before=None if item.not_before is None else datetime.fromisoformat(item.not_before),
                not_after=None if item.not_after is None else datetime.fromisoformat(item.not_after),
            )
            for item in read.publishers
        ),
    )


def _to_document(policy: TrustPolicy) -> dict[str, Any]:
    publishers = []
    for publisher in policy.publishers:
        document: dict[str, Any] = {
            "name": publisher.name,
            "models": list(publisher.models),
            "keys": [key.path or key.pem.decode() for key in publisher.keys],
        }
        for name in ("not_before", "not_after"):
            moment = getattr(publisher, name)
            if moment is not None:
                document[name] = moment.isoformat()
        publishers.append(document)
    return {
        "schema_version": 1,
        "unsigned": policy.unsigned,
        "revoked": list(policy.revoked),
        "publishers": publishers,
    }


def _bad_policy(file: Path, reason: str) -> SignatureError:
    return SignatureError(
        f"the trust policy {file.name} cannot be used: {reason}",
        code="signature.policy",
        value=str(file),
        hint="mend the file; until then nothing is trusted",
    )
