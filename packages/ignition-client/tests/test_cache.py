from __future__ import annotations

import os
from pathlib import Path

import pytest

from ignition_client.agent.cache import BlobCache
from ignition_client.digests import digest_of_bytes, write_verified
from ignition_client.errors import DigestMismatchError


def add(cache: BlobCache, data: bytes, used_at: int) -> str:
    digest = digest_of_bytes(data)
    cache.add(digest, [data])
    os.utime(cache._path(digest), (used_at, used_at))
    return digest


def test_prune_removes_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, max_bytes=25)
    digests = [add(cache, bytes([n]) * 10, used_at=n) for n in (1, 2, 3)]
    assert cache.has(digests[0], 10)  # used again: now the newest
    assert cache.prune() == 10
    assert [cache.has(digest, 10) for digest in digests] == [True, False, True]


def test_cache_drops_a_blob_of_the_wrong_size(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, max_bytes=100)
    digest = add(cache, b"whole", used_at=1)
    path = cache._path(digest)
    path.chmod(0o644)
    path.write_bytes(b"wh")
    assert not cache.has(digest, 5)
    assert not path.exists()


def test_placed_file_survives_pruning_and_is_read_only(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache", max_bytes=0)
    digest = add(cache, b"data", used_at=1)
    cache.place(digest, tmp_path / "job" / "a" / "b")
    cache.prune()
    assert (tmp_path / "job" / "a" / "b").read_bytes() == b"data"
    assert (tmp_path / "job" / "a" / "b").stat().st_mode & 0o222 == 0


def test_place_copies_when_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    cache = BlobCache(tmp_path / "cache", max_bytes=0)
    digest = add(cache, b"data", used_at=1)
    cache.place(digest, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"data"


def test_write_verified_leaves_nothing_when_the_bytes_are_wrong(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"before")
    with pytest.raises(DigestMismatchError):
        write_verified(target, [b"other"], digest_of_bytes(b"data"))
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]
