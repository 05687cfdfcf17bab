"""Trust policy: who may sign what, and that everything else is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from xinfer import SignatureError, trust
from xinfer.manifest import Manifest
from xinfer.signing import generate_key, key_fingerprint, sign_folder, signer_hint
from xinfer.trust import TrustPolicy, add_publisher, list_publishers, remove_publisher, revoke_key

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def folder(package_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(package_folder, tmp_path / "package"))


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    return Manifest.from_json((folder / "manifest.json").read_bytes())


@pytest.fixture
def file(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    path = tmp_path / "trust.toml"
    add_publisher("acme", keys[1], models=["tin*"], path=path)
    return path


@pytest.fixture
def other_key(tmp_path: Path) -> tuple[Path, Path]:
    generate_key(tmp_path / "other.pem", tmp_path / "other.pub.pem")
    return tmp_path / "other.pem", tmp_path / "other.pub.pem"


def refusal(policy: TrustPolicy, folder: Path, manifest: Manifest, now: datetime = NOW) -> str:
    with pytest.raises(SignatureError) as caught:
        policy.check(folder, manifest, now=now)
    return caught.value.code


def test_check_names_the_publisher_when_all_fits(file: Path, folder: Path, manifest: Manifest) -> None:
    publisher = TrustPolicy.load(file).check(folder, manifest)
    assert publisher is not None
    assert publisher.name == "acme"


def test_check_refuses_when_the_policy_is_empty(folder: Path, manifest: Manifest) -> None:
    assert refusal(TrustPolicy(), folder, manifest) == "signature.untrusted_publisher"


@pytest.mark.parametrize("name", ["manifest.json", "artifact/model.onnx", "labels.json"])
def test_check_refuses_when_a_file_was_altered(
    file: Path, folder: Path, manifest: Manifest, name: str
) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert refusal(TrustPolicy.load(file), folder, manifest) == "signature.invalid"


def test_check_refuses_when_a_file_was_added(file: Path, folder: Path, manifest: Manifest) -> None:
    (folder / "artifact" / "extra.bin").write_bytes(b"x")
    assert refusal(TrustPolicy.load(file), folder, manifest) == "signature.invalid"


def test_check_refuses_when_a_stranger_signed(
    file: Path, folder: Path, manifest: Manifest, other_key: tuple[Path, Path]
) -> None:
    (folder / "model.sig").unlink()
    sign_folder(folder, other_key[0])
    assert refusal(TrustPolicy.load(file), folder, manifest) == "signature.untrusted_publisher"


def test_check_refuses_when_a_strangers_signature_claims_a_trusted_key(
    file: Path, folder: Path, manifest: Manifest, other_key: tuple[Path, Path]
) -> None:
    trusted = signer_hint(folder)
    (folder / "model.sig").unlink()
    sign_folder(folder, other_key[0])
    forged = (folder / "model.sig").read_text().replace(signer_hint(folder), trusted)
    (folder / "model.sig").write_text(forged)
    assert signer_hint(folder) == trusted
    assert refusal(TrustPolicy.load(file), folder, manifest) == "signature.invalid"


def test_check_refuses_when_the_publisher_may_not_sign_this_model(
    tmp_path: Path, folder: Path, manifest: Manifest, keys: tuple[Path, Path], other_key: tuple[Path, Path]
) -> None:
    path = tmp_path / "narrow.toml"
    add_publisher("acme", keys[1], models=["Tiny", "acme-*"], path=path)
    add_publisher("other", other_key[1], models=["*"], path=path)
    with pytest.raises(SignatureError, match="acme may not sign 'tiny'") as caught:
        TrustPolicy.load(path).check(folder, manifest)
    assert caught.value.code == "signature.untrusted_publisher"


def test_check_refuses_when_the_name_judged_is_not_the_name_signed(
    tmp_path: Path, folder: Path, manifest: Manifest, keys: tuple[Path, Path]
) -> None:
    path = tmp_path / "narrow.toml"
    add_publisher("acme", keys[1], models=["acme-*"], path=path)
    renamed = dataclasses.replace(manifest, identity=dataclasses.replace(manifest.identity, name="acme-1"))
    assert refusal(TrustPolicy.load(path), folder, renamed) == "signature.invalid"


def test_check_refuses_outside_the_publishers_time(
    tmp_path: Path, folder: Path, manifest: Manifest, keys: tuple[Path, Path]
) -> None:
    path = tmp_path / "timed.toml"
    first, last = NOW, NOW + timedelta(days=1)
    add_publisher("acme", keys[1], models=["*"], not_before=first, not_after=last, path=path)
    policy = TrustPolicy.load(path)
    for inside in (first, last):
        assert policy.check(folder, manifest, now=inside)
    for outside in (first - timedelta(seconds=1), last + timedelta(seconds=1)):
        assert refusal(policy, folder, manifest, outside) == "signature.expired"


def test_check_refuses_when_the_key_is_revoked_even_if_added_elsewhere(
    file: Path, folder: Path, manifest: Manifest, keys: tuple[Path, Path]
) -> None:
    fingerprint = key_fingerprint(keys[1].read_bytes())
    revoke_key(fingerprint, path=file)
    assert refusal(TrustPolicy.load(file), folder, manifest) == "signature.revoked"
    with pytest.raises(SignatureError) as caught:
        add_publisher("again", keys[1], models=["*"], path=file)
    assert caught.value.code == "signature.revoked"


def test_check_accepts_a_second_key_after_the_first_was_revoked(
    file: Path, folder: Path, manifest: Manifest, keys: tuple[Path, Path], other_key: tuple[Path, Path]
) -> None:
    add_publisher("acme", other_key[1], models=["tin*"], path=file)
    revoke_key(key_fingerprint(keys[1].read_bytes()), path=file)
    (folder / "model.sig").unlink()
    sign_folder(folder, other_key[0])
    assert TrustPolicy.load(file).check(folder, manifest)


def test_unsigned_is_refused_unless_allowed_and_a_bad_signature_always(
    file: Path, folder: Path, manifest: Manifest
) -> None:
    policy = TrustPolicy.load(file)
    lenient = dataclasses.replace(policy, unsigned="allow")
    (folder / "model.sig").write_bytes(b"{}")
    assert refusal(lenient, folder, manifest) == "signature.invalid"
    (folder / "model.sig").unlink()
    assert refusal(policy, folder, manifest) == "signature.missing"
    assert lenient.check(folder, manifest) is None
    (folder / "model.sig").symlink_to(folder / "nowhere")
    assert refusal(lenient, folder, manifest) == "signature.invalid"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "unsigned = 'allow'",
        "schema_version = 2",
        "schema_version = 1\nunsigned = 'maybe'",
        "schema_version = 1\nunsinged = 'refuse'",
        "schema_version = 1\nrevoked = ['abc']",
        "schema_version = 1\n[[publishers]]\nname = 'a'\nkeys = []\nmodels = ['*']",
        "schema_version = 1\n[[publishers]]\nname = 'a'\nkeys = ['none.pem']\nmodels = ['*']",
        "schema_version = 1\n[[publishers]]\nname = 'a'\nkeys = ['key.pem']\nmodels = []",
        "schema_version = 1\n[[publishers]]\nname = 'a'\nkeys = ['key.pem']\nmodels = ['*']\n"
        "not_after = 2026-01-01T00:00:00",
        "schema_version = 1\n[[publishers]]\nname = 'a'\nkeys = ['key.pem']\nmodels = ['*']\n"
        "not_after = 2026-01-01",
        "schema_version = 1\n[[publishers]]\nname = 'a'\nkeys = ['-----BEGIN PUBLIC']\nmodels = ['*']",
        "not toml",
        "a = " + "[" * 100_000,
        "\udcff",
    ],
    ids=lambda content: f"{len(content)}",
)
def test_load_refuses_when_the_policy_is_not_in_order(
    tmp_path: Path, keys: tuple[Path, Path], content: str
) -> None:
    shutil.copyfile(keys[1], tmp_path / "key.pem")
    (tmp_path / "trust.toml").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SignatureError) as caught:
        TrustPolicy.load(tmp_path / "trust.toml")
    assert caught.value.code == "signature.policy"


def test_load_refuses_when_the_file_is_missing_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SignatureError) as caught:
            TrustPolicy.load(path)
        assert caught.value.code == "signature.policy"


def test_load_refuses_when_others_may_write_the_policy_or_a_key(
    file: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copyfile(keys[1], tmp_path / "key.pem")
    by_file = tmp_path / "by_file.toml"
    by_file.write_text(
        "schema_version = 1\n[[publishers]]\nname = 'acme'\nkeys = ['key.pem']\nmodels = ['*']\n"
    )
    for writable, policy in ((file, file), (tmp_path / "key.pem", by_file)):
        TrustPolicy.load(policy)
        writable.chmod(0o622)
        with pytest.raises(SignatureError, match="written by others"):
            TrustPolicy.load(policy)


def test_load_of_the_default_is_the_empty_policy_when_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[Path, Path]
) -> None:
    monkeypatch.delenv("XINFER_TRUST", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert TrustPolicy.load() == TrustPolicy()
    add_publisher("acme", keys[1].read_bytes(), models=["*"])
    assert (tmp_path / "config" / "xinfer" / "trust.toml").is_file()
    assert [publisher.name for publisher in list_publishers()] == ["acme"]
    monkeypatch.setenv("XINFER_TRUST", str(tmp_path / "elsewhere.toml"))
    assert trust.default_path() == tmp_path / "elsewhere.toml"
    assert list_publishers() == ()


@pytest.mark.parametrize("name", ["trust.toml", "trust.json"])
def test_save_and_load_give_the_same_policy(
    tmp_path: Path, keys: tuple[Path, Path], other_key: tuple[Path, Path], name: str
) -> None:
    path = tmp_path / name
    shutil.copyfile(keys[1], tmp_path / "key.pem")
    by_file = {"name": "by-file", "keys": ["key.pem"], "models": ['odd "name\\\x7f', "ü*"]}
    document = {"schema_version": 1, "publishers": [by_file], "revoked": ["sha256:" + "0" * 64]}
    (tmp_path / "start.json").write_text(json.dumps(document))
    TrustPolicy.load(tmp_path / "start.json").save(path)
    add_publisher("inline", other_key[1], models=["*"], not_after=NOW, path=path)
    policy = TrustPolicy.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, second = policy.publishers
    assert (first.models, first.keys[0].path) == (tuple(by_file["models"]), "key.pem")
    assert (second.not_after, second.keys[0].path) == (NOW, None)
    assert policy.revoked == ("sha256:" + "0" * 64,)
    policy.save(path)
    assert TrustPolicy.load(path) == policy


def test_remove_forgets_the_publisher(file: Path, folder: Path, manifest: Manifest) -> None:
    assert remove_publisher("acme", path=file)
    assert not remove_publisher("acme", path=file)
    assert refusal(TrustPolicy.load(file), folder, manifest) == "signature.untrusted_publisher"


def test_edits_do_not_start_from_nothing_when_the_policy_cannot_be_read(
    file: Path, keys: tuple[Path, Path]
) -> None:
    file.write_text("damaged")
    with pytest.raises(SignatureError):
        add_publisher("acme", keys[1], models=["*"], path=file)
    assert file.read_text() == "damaged"


@pytest.mark.parametrize("options", [{"name": "a b"}, {"name": ""}, {"models": []}])
def test_add_refuses_what_would_not_load(
    file: Path, keys: tuple[Path, Path], options: dict[str, object]
) -> None:
    before = file.read_bytes()
    arguments = {"name": "new", "models": ["*"]} | options
    with pytest.raises(SignatureError):
        add_publisher(str(arguments["name"]), keys[1], models=arguments["models"], path=file)
    assert file.read_bytes() == before


def test_no_revocation_is_lost_when_many_are_made_at_once(file: Path) -> None:
    fingerprints = [f"sha256:{number:064x}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: revoke_key(value, path=file), fingerprints))
    assert TrustPolicy.load(file).revoked == tuple(fingerprints)


def test_fingerprint_is_what_openssl_gives(keys: tuple[Path, Path]) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = ["openssl", "pkey", "-pubin", "-in", str(keys[1]), "-outform", "DER"]
    der = subprocess.run(command, capture_output=True, check=True).stdout
    assert key_fingerprint(keys[1].read_bytes()) == "sha256:" + hashlib.sha256(der).hexdigest()


def test_fingerprint_is_the_same_when_the_key_is_laid_out_otherwise(keys: tuple[Path, Path]) -> None:
    pem = keys[1].read_bytes()
    assert key_fingerprint(b"\n" + pem.replace(b"\n", b"\r\n") + b"\n") == key_fingerprint(pem)
