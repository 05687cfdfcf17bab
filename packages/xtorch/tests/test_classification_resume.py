"""A run that was killed, run again, ends as one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xtorch.data.check import UsableImage
from xtorch.data.check_classification import inspect_classes
from xtorch.data.classes import scan_classes
from xtorch.models.classifier import ClassifierConfig
from xtorch.tasks.classification import run
from xtorch.tasks.classification.features import FeatureExtractor

_spec = util.spec_from_file_location("shapes", Path(__file__).with_name("shapes.py"))
assert _spec is not None
assert _spec.loader is not None
shapes = util.module_from_spec(_spec)
_spec.loader.exec_module(shapes)

SETTINGS = {"input_size": 128, "max_trials": 4, "fine_tune": False}
KILLED_IN = {
    "features": """
        from xtorch.tasks.classification import features
        compute, calls = features.FeatureExtractor._compute, []
        def counted(self, images):
            calls.append(len(images))
            if len(calls) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return compute(self, images)
        features.FeatureExtractor._compute = counted
        """,
    "search": """
        from xtorch.tasks.classification import head
        fold, calls = head.out_of_fold, []
        def counted(*arguments):
            calls.append(arguments[-1])
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return fold(*arguments)
        head.out_of_fold = counted
        """,
}


def timeless(folder: Path) -> dict[str, Any]:
    """What of a report does not depend on the clock."""
    report = json.loads((folder / "report.json").read_text())
    return {name: report[name] for name in ("metrics", "held_out", "operating_point", "counts", "confusion")}


@pytest.mark.faults
@pytest.mark.parametrize("step", list(KILLED_IN))
def test_killed_run_ends_with_the_same_metric_when_it_runs_again(
    step: str, tmp_path: Path, weights: Path
) -> None:
    data = shapes.write(tmp_path / "data", dict.fromkeys(shapes.NAMES, 14))
    options: dict[str, Any] = {"name": "x", "seed": 3, "settings": SETTINGS, "budget_s": 3600}
    whole = run(data, tmp_path / "whole", **options)
    script = "import json, os, signal, sys\n" + textwrap.dedent(KILLED_IN[step])
    script += (
        "from xtorch.tasks.classification import run\n"
        "data, out, cache, options = sys.argv[1:]\n"
        "run(data, out, cache_dir=cache, **json.loads(options))\n"
    )
    folders = [str(path) for path in (data, tmp_path / "out", tmp_path / "cache")]
    arguments = [sys.executable, "-c", script, *folders, json.dumps(options)]
    killed = subprocess.run(arguments, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "out/report.json").exists()
    kept = {path: path.stat().st_ino for path in (tmp_path / "cache").rglob("*.npy")}
    assert len(kept) == 24 if step == "features" else kept
    assert len(list((tmp_path / "cache/searches").glob("*.jsonl"))) == (step == "search")
    again = run(data, tmp_path / "out", cache_dir=tmp_path / "cache", **options)
    assert {path: path.stat().st_ino for path in kept} == kept  # used, not made again
    assert again["value"] == whole["value"]
    assert timeless(tmp_path / "out") == timeless(tmp_path / "whole")


def test_features_do_not_depend_on_the_company_of_an_image(tmp_path: Path, weights: Path) -> None:
    """Batches of a resumed run are composed otherwise; its values must be the same to the last bit."""
    root = shapes.write(tmp_path, dict.fromkeys(shapes.NAMES, 5))
    images: list[UsableImage] = inspect_classes(scan_classes(root)).usable
    extractor = FeatureExtractor(ClassifierConfig(num_classes=3, input_size=128), cache_dir=None)
    together = extractor.features(root, images[:11], lambda *_: None)
    alone = extractor.features(root, [images[9]], lambda *_: None)
    assert np.array_equal(together.pooled[9], alone.pooled[0])
    assert np.array_equal(together.maps[9].numpy(), alone.maps[0].numpy())
