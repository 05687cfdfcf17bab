"""A run that was killed, run again, ends as one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xtorch.data.check import UsableImage, inspect_images
from xtorch.data.layout import scan_image_folder
from xtorch.models.anomaly import AnomalyConfig
from xtorch.tasks.anomaly import run
from xtorch.tasks.anomaly.features import FeatureExtractor

SETTINGS = {"input_size": 128, "memory_size": 150}


def digest_free(report: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the clock."""
    return {name: report[name] for name in ("metrics", "held_out", "operating_point", "counts", "confusion")}


def test_killed_run_ends_with_the_same_metric_when_it_runs_again(
    tmp_path: Path, weights: Path, plates: Any
) -> None:
    data = plates({"ok": 36, "defective/hole": 24})
    whole = run(data, tmp_path / "whole", name="x", seed=3, settings=SETTINGS)
    # Killed while the features of the 5th batch are being made.
    script = textwrap.dedent(
        """
        import json, os, signal, sys
        from xtorch.tasks.anomaly import features, run
        compute, calls = features.FeatureExtractor._compute, []
        def counted(self, images):
            calls.append(len(images))
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return compute(self, images)
        features.FeatureExtractor._compute = counted
        data, out, cache, settings = sys.argv[1:]
        run(data, out, name="x", seed=3, settings=json.loads(settings), cache_dir=cache)
        """
    )
    folders = [str(path) for path in (data, tmp_path / "out", tmp_path / "cache")]
    arguments = [sys.executable, "-c", script, *folders, json.dumps(SETTINGS)]
    killed = subprocess.run(arguments, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "out/report.json").exists()
    kept = list((tmp_path / "cache").rglob("*.npy"))
    assert len(kept) == 32
    files = {path: path.stat().st_ino for path in kept}
    again = run(data, tmp_path / "out", name="x", seed=3, settings=SETTINGS, cache_dir=tmp_path / "cache")
    assert {path: path.stat().st_ino for path in kept} == files  # used, not made again
    assert again["value"] == whole["value"]
    assert again["candidate"] == whole["candidate"]
    first, second = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "out"))
    assert digest_free(first) == digest_free(second)


@pytest.fixture
def images(plates: Any) -> tuple[Path, list[UsableImage]]:
    root = plates({"ok": 22})
    return root, inspect_images(scan_image_folder(root)).usable


def test_features_do_not_depend_on_the_company_of_an_image(
    images: tuple[Path, list[UsableImage]], weights: Path
) -> None:
    """Batches of a resumed run are composed otherwise; its values must be the same to the last bit."""
    root, listed = images
    extractor = FeatureExtractor(AnomalyConfig(input_size=128), cache_dir=None)
    together = extractor.maps(root, listed[:11], lambda *_: None)
    alone = extractor.maps(root, [listed[9]], lambda *_: None)
    for whole, single in zip(together, alone, strict=True):
        assert np.array_equal(whole[9].numpy(), single[0].numpy())


def test_half_written_features_are_made_again(
    images: tuple[Path, list[UsableImage]], weights: Path, tmp_path: Path
) -> None:
    root, listed = images
    extractor = FeatureExtractor(AnomalyConfig(input_size=128), cache_dir=tmp_path / "cache")
    expected = extractor.maps(root, listed[:2], lambda *_: None)
    path = sorted((tmp_path / "cache").rglob("*.npy"))[0]
    path.write_bytes(path.read_bytes()[:500])
    found = extractor.maps(root, listed[:2], lambda *_: None)
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(expected, found, strict=True))
