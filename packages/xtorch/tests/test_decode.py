"""Decoding is xInfer's, bit for bit; the cache gives the same pixels within its budget."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xinfer.errors import ImageDecodeError
from xinfer.preproc import decode_image as xinfer_decode_image
from xtorch.data import decode
from xtorch.data.decode import ImageFiles, decode_image
from xtorch.data.decode_cache import DecodeCache
from xtorch.data.loader import ExtendedDataLoader
from xtorch.errors import DataError, SampleError, SettingsError
from xtorch.transforms import Compose, HorizontalFlip, RandomResizedCrop

RECIPE = {"decode": 1}


def picture(mode: str = "RGB", height: int = 90, width: int = 120) -> Image.Image:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(2**16, size=(height, width), dtype=np.uint16))
    small = Image.fromarray(rng.integers(256, size=(height // 8, width // 8, 4), dtype=np.uint8), "RGBA")
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


FILES = {
    "jpeg": lambda: encoded(picture(), "JPEG"),
    "jpeg, progressive": lambda: encoded(picture(), "JPEG", progressive=True),
    "jpeg, large": lambda: encoded(picture(height=700, width=500), "JPEG"),
    "jpeg, grey": lambda: encoded(picture("L"), "JPEG"),
    "jpeg, CMYK": lambda: encoded(picture("CMYK"), "JPEG"),
    **{
        f"jpeg, turned {turn}": lambda turn=turn: encoded(picture(), "JPEG", exif=exif(turn))
        for turn in range(9)
    },
    "png": lambda: encoded(picture(), "PNG"),
    "png, alpha": lambda: encoded(picture("RGBA"), "PNG"),
    "png, palette": lambda: encoded(picture("P"), "PNG"),
    "png, 16 bits": lambda: encoded(picture("I;16"), "PNG"),
    "png, 1 bit": lambda: encoded(picture("1"), "PNG"),
    "webp": lambda: encoded(picture(), "WEBP", lossless=True),
    "bmp": lambda: encoded(picture(), "BMP"),
    "tiff": lambda: encoded(picture(), "TIFF"),
    "gif": lambda: encoded(picture("P"), "GIF"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("min_side", [1, 45, 224])
def test_pixels_are_those_that_are_served(name: str, min_side: int) -> None:
    data = FILES[name]()
    ours, theirs = (each(data, min_side=min_side) for each in (decode_image, xinfer_decode_image))
    assert ours.dtype == theirs.dtype == np.uint8
    assert np.array_equal(ours, theirs)
    assert ours.flags.c_contiguous


def test_jpeg_is_scaled_no_further_than_needed() -> None:
    data = FILES["jpeg, large"]()
    assert decode_image(data, min_side=250).shape == (350, 250, 3)
    assert decode_image(data, min_side=251).shape == (700, 500, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        FILES["jpeg"]()[:500],
        FILES["png"]()[:500],
        FILES["jpeg, CMYK"]()[:900],
        b"\xff\xd8" + b"\0" * 50,
    ],
    ids=["empty", "text", "cut JPEG", "cut PNG", "cut CMYK", "zeros"],
)
def test_damaged_files_are_refused_by_both(data: bytes) -> None:
    with pytest.raises(ImageDecodeError):
        xinfer_decode_image(data, min_side=32)
    with pytest.raises(DataError):
        decode_image(data, min_side=32)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "images" / f"{index}.jpg" for index in range(8)]
    paths[0].parent.mkdir()
    rng = np.random.default_rng(0)
    for path in paths:
        small = Image.fromarray(rng.integers(256, size=(9, 12, 3), dtype=np.uint8))
        path.write_bytes(encoded(small.resize((120, 90)), "JPEG"))
    return paths


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the files that were really decoded."""
    sizes: list[int] = []

    def spy(data: bytes, *, min_side: int) -> np.ndarray:
        sizes.append(len(data))
        return decode_image(data, min_side=min_side)

    monkeypatch.setattr(decode, "decode_image", spy)
    return sizes


def pixels(batches: Any) -> list[Any]:
    return [batch["image_NHWC"].tolist() for batch in batches]


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize(("kind", "workers"), [("none", 0), ("threads", 3)])
def test_cached_epochs_decode_nothing_and_give_the_same(
    files: list[Path], decoded: list[int], tmp_path: Path, where: str, kind: Any, workers: int
) -> None:
    augment = Compose([RandomResizedCrop(32, 32), HorizontalFlip()])
    dataset = ImageFiles(files, list(range(8)), min_side=40, transform=augment)
    options: dict[str, Any] = {"shuffle": True, "kind": kind, "workers": workers}
    with ExtendedDataLoader(dataset, 4, **options) as plain:
        expected = [pixels(plain) for _ in range(2)]
    decoded.clear()
    cache = DecodeCache("memory" if where == "memory" else tmp_path / "cache")
    with ExtendedDataLoader(dataset, 4, cache=cache, **options) as cached:
        assert [pixels(cached) for _ in range(2)] == expected
    assert len(decoded) == 8
    folder = cache.folder
    cache.close()
    assert folder.exists() is (where == "disk")


def test_worker_processes_share_the_cache(files: list[Path]) -> None:
    cache = DecodeCache()
    dataset = ImageFiles(files, min_side=40)
    with ExtendedDataLoader(dataset, 4, cache=cache, kind="processes", workers=2) as loader:
        first = pixels(loader)
        used = cache.used_bytes
        assert used == sum(8 + decode_image(path.read_bytes(), min_side=40).nbytes for path in files)
        assert pixels(loader) == first
        assert cache.used_bytes == used
    assert cache.folder.exists()  # workers that end do not take it away
    cache.close()


def test_changed_file_is_decoded_again(files: list[Path]) -> None:
    cache = DecodeCache()
    dataset = ImageFiles(files, min_side=40).with_cache(cache)
    before = dataset.pixels(0)
    assert np.array_equal(dataset.pixels(0), before)
    files[0].write_bytes(files[1].read_bytes())
    os.utime(files[0], ns=(1, 1))
    assert np.array_equal(dataset.pixels(0), dataset.pixels(1))
    assert not np.array_equal(dataset.pixels(0), before)
    cache.close()


def test_other_recipe_and_other_content_are_not_found(tmp_path: Path) -> None:
    cache = DecodeCache(tmp_path)
    x_HW3 = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert cache.put(RECIPE, "sha256:aa11", x_HW3)
    found = cache.get(RECIPE, "sha256:aa11")
    assert found is not None
    assert np.array_equal(found, x_HW3)
    assert not found.flags.writeable
    assert cache.get(RECIPE, "sha256:aa12") is None
    assert cache.get({"decode": 2}, "sha256:aa11") is None


def test_budget_is_kept_and_what_is_stored_stays(tmp_path: Path) -> None:
    x_HW3 = np.zeros((10, 10, 3), np.uint8)
    cache = DecodeCache(tmp_path, budget_bytes=1000)
    stored = [cache.put(RECIPE, f"sha256:{index:04x}", x_HW3) for index in range(5)]
    assert stored == [True, True, True, False, False]
    assert cache.used_bytes == 3 * 308
    assert cache.get(RECIPE, "sha256:0000") is not None
    assert cache.put(RECIPE, "sha256:0000", x_HW3)
    assert cache.used_bytes == 3 * 308
    smaller = DecodeCache(tmp_path, budget_bytes=700)
    assert smaller.used_bytes == 2 * 308


def test_threads_keep_the_budget_together(tmp_path: Path) -> None:
    cache = DecodeCache(tmp_path, budget_bytes=20 * 308)
    x_HW3 = np.zeros((10, 10, 3), np.uint8)

    def fill(start: int) -> None:
        for index in range(start, start + 30):
            cache.put(RECIPE, f"sha256:{index:04x}", x_HW3)

    threads = [threading.Thread(target=fill, args=(start,)) for start in (0, 10, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = list(tmp_path.glob("*/*/*"))
    assert sum(path.stat().st_size for path in entries) <= cache.used_bytes <= cache.budget_bytes
    assert len(entries) > 10


def test_torn_entry_is_not_taken(tmp_path: Path) -> None:
    cache = DecodeCache(tmp_path)
    cache.put(RECIPE, "sha256:aa", np.zeros((10, 10, 3), np.uint8))
    (entry,) = tmp_path.glob("*/*/*")
    for size in (0, 5, 8, 100):
        entry.write_bytes(b"\x0a\0\0\0\x0a\0\0\0"[:size].ljust(size, b"\0"))
        assert cache.get(RECIPE, "sha256:aa") is None, size


KILLED = """
import os, signal, sys
from xtorch.data.decode_cache import DecodeCache
cache = DecodeCache()
print(cache.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.faults
def test_memory_of_a_killed_process_is_given_back_by_the_next_cache() -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    left = Path(ended.stdout.strip())
    assert left.exists()
    alive = DecodeCache()
    assert not left.exists()
    other = DecodeCache()
    assert alive.folder.exists()  # in use, and so left alone
    alive.close()
    other.close()


def test_unreadable_file_is_named(files: list[Path]) -> None:
    files[5].write_bytes(b"no image")
    files[6].unlink()
    with ExtendedDataLoader(ImageFiles(files, min_side=40), 1, kind="none", on_error="skip") as loader:
        assert len(list(loader)) == 6
    assert [failure.name for failure in loader.failures] == [f"Sample {i} ({files[i]})" for i in (5, 6)]
    with pytest.raises(SampleError, match=r"5\.jpg"):
        list(ExtendedDataLoader(ImageFiles(files, min_side=40), 1, kind="none"))


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="1 paths and 2 targets"):
        ImageFiles(["a"], [1, 2], min_side=3)
    with pytest.raises(SettingsError, match="min_side"):
        ImageFiles(["a"], min_side=0)
    with pytest.raises(SettingsError, match="budget"):
        DecodeCache(budget_bytes=0)
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be kept"):
        DecodeCache(tmp_path / "file" / "folder")
