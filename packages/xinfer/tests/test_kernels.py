"""Triton kernels against their NumPy counterparts: in Triton's interpreter, compiled for GPUs that are not
here, and on one where there is one.

The interpreter is chosen when triton is imported, so it runs in a process of its own, once for all cases.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xinfer.postproc import nms
from xinfer.preproc import ImageProcessor

MISSING = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
needs_triton = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

ARCHITECTURES = (75, 90, 120)
"""The oldest, a middle and the newest generation: a compilation takes a second."""


def has_gpu() -> bool:
    if MISSING:
        return False
    import torch

    return bool(torch.cuda.is_available())


def scene(num: int, seed: int, *, grid: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    if grid:
        # Whole numbers: ties, touching edges, empty boxes and overlaps of exactly the threshold.
        boxes = rng.integers(0, 7, (num, 4)).astype(np.float32)
    else:
        centres = rng.uniform(0, 120, (num, 2))
        sides = rng.uniform(10, 60, (num, 2))
        boxes = np.hstack([centres - sides / 2, centres + sides / 2]).astype(np.float32)
    return {
        "boxes": boxes,
        "scores": (rng.integers(-2, 20, num) / 20).astype(np.float32),
        "labels": rng.integers(0, 3, num),
    }


def nms_cases() -> list[tuple[dict[str, np.ndarray], dict[str, Any]]]:
    odd = scene(9, 5)
    odd["boxes"][2, 1], odd["scores"][4], odd["scores"][6] = np.nan, np.inf, np.nan
    return [
        (scene(0, 0), {}),
        (scene(1, 1), {}),
        (scene(31, 2), {"iou_threshold": 0.5, "score_threshold": 0.3}),
        (scene(97, 3), {"max_detections": 5}),
        (scene(150, 4), {"class_aware": False}),
        (odd, {"score_threshold": -1.0}),
        (scene(60, 6, grid=True), {"iou_threshold": 1 / 3, "score_threshold": -1.0}),
        (scene(60, 7, grid=True), {"iou_threshold": 0.5, "class_aware": False}),
        (scene(40, 8, grid=True), {"iou_threshold": 0.0, "score_threshold": -1.0}),
    ]


def image_cases() -> list[tuple[np.ndarray, ImageProcessor]]:
    rng = np.random.default_rng(0)
    options: list[dict[str, Any]] = [
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        {"mean": (127, 120, 110), "std": (128, 64, 32), "scale": 1.0, "color": "BGR"},
    ]
    return [
        (rng.integers(0, 256, (batch, *size, 3), dtype=np.uint8), ImageProcessor(size, **settings))
        for settings in options
        for batch, size in ((1, (1, 1)), (2, (33, 47)))
    ]


def run(code: str, *arguments: object, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:xinfer", "-c", code, *map(str, arguments)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


INTERPRETED = """
import json, sys
from pathlib import Path
import numpy as np, torch
from xinfer.errors import InputError
from xinfer.kernels.image import normalise
from xinfer.kernels.nms import nms
from xinfer.preproc import ImageProcessor
folder = Path(sys.argv[1])
spec = json.loads((folder / "spec.json").read_text())
given = np.load(folder / "given.npz")
found = {}
for i, options in enumerate(spec["nms"]):
    parts = [torch.from_numpy(given[f"nms{i}.{name}"]) for name in ("boxes", "scores", "labels")]
    found[f"nms{i}"] = nms(*parts, **options).numpy()
for i, document in enumerate(spec["images"]):
    pixels = torch.from_numpy(given[f"image{i}"])
    processor = ImageProcessor.from_json(document)
    found[f"image{i}"] = normalise(pixels, processor).numpy()
    found[f"half{i}"] = normalise(pixels, processor, dtype="float16").numpy()
processor, pixels = ImageProcessor((2, 2)), torch.zeros((1, 2, 2, 3), dtype=torch.uint8)
boxes, scores = torch.zeros((3, 4)), torch.ones(3)
wrong = [
    lambda: normalise(pixels.float(), processor), lambda: normalise(pixels[0], processor),
    lambda: normalise(pixels, ImageProcessor((2, 2), layout="NHWC")),
    lambda: nms(boxes[:, :3], scores), lambda: nms(boxes, scores[:2]), lambda: nms(boxes, scores, scores[:1]),
    lambda: nms(boxes, scores, iou_threshold=2), lambda: nms(boxes, scores, max_detections=0),
    lambda: nms(torch.zeros((70_000, 4)), torch.ones(70_000)),
]
accepted = []
for index, call in enumerate(wrong):
    try:
        call()
    except InputError:
        continue
    accepted.append(index)
np.savez(folder / "found.npz", accepted=accepted, **found)
"""


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder: Path = tmp_path_factory.mktemp("kernels")
    given = {
        f"nms{i}.{name}": array for i, (case, _) in enumerate(nms_cases()) for name, array in case.items()
    }
    given |= {f"image{i}": pixels for i, (pixels, _) in enumerate(image_cases())}
    np.savez(folder / "given.npz", **given)
    spec = {
        "nms": [options for _, options in nms_cases()],
        "images": [processor.to_json() for _, processor in image_cases()],
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    run(INTERPRETED, folder, TRITON_INTERPRET="1")
    return dict(np.load(folder / "found.npz"))


@needs_triton
@pytest.mark.parametrize("index", range(len(nms_cases())))
def test_interpreted_nms_keeps_what_numpy_keeps(interpreted: dict[str, np.ndarray], index: int) -> None:
    case, options = nms_cases()[index]
    expected = nms(case["boxes"], case["scores"], case["labels"], **options)
    assert interpreted[f"nms{index}"].tolist() == expected.tolist()


@needs_triton
@pytest.mark.parametrize("index", range(len(image_cases())))
def test_interpreted_normalise_equals_the_processor(interpreted: dict[str, np.ndarray], index: int) -> None:
    pixels, processor = image_cases()[index]
    expected, _ = processor.batch(list(pixels))
    np.testing.assert_array_equal(interpreted[f"image{index}"], expected)
    np.testing.assert_array_equal(interpreted[f"half{index}"], expected.astype(np.float16))


COMPILED = """
import json, sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from xinfer.kernels import image, nms
architectures = list(map(int, sys.argv[1].split(",")))
pairs = dict(boxes_ptr="*fp32", labels_ptr="*i64", bits_ptr="*i32", iou_threshold="fp32")
pairs |= dict(num="i32", words="i32")
walk = dict(bits_ptr="*i32", kept_ptr="*i64", count_ptr="*i32", num="i32", words="i32", limit="i32")
pixels = dict(pixels_ptr="*u8", tables_ptr="*fp32", num_pixels="i32")
every = [
    ("overlap", nms._overlap_kernel, pairs, dict(rows=nms.ROWS)),
    ("greedy", nms._greedy_kernel, walk, dict(width=512)),
    ("image", image._normalise_kernel, pixels | dict(out_ptr="*fp16"), dict(flip=True, block=image.BLOCK)),
]
# Arguments that are 1 are compiled in.
ones = [
    ("overlap of one", nms._overlap_kernel, pairs, dict(rows=nms.ROWS, num=1, words=1)),
    ("greedy of one", nms._greedy_kernel, walk, dict(width=1, num=1, words=1, limit=1)),
]
found = {}
for architecture in architectures:
    for name, kernel, signature, constants in every + (ones if architecture == architectures[0] else []):
        signature = {k: "constexpr" if k in constants else signature[k] for k in kernel.arg_names}
        source, target = ASTSource(kernel, signature, constants), GPUTarget("cuda", architecture, 32)
        compiled = triton.compile(source, target=target, options={"enable_fp_fusion": False})
        found[f"{name} sm_{architecture}"] = [len(compiled.asm["cubin"]), compiled.asm["ptx"].count("fma.")]
print(json.dumps(found))
"""


@needs_triton
def test_kernels_compile_for_every_nvidia_generation_without_fused_rounding(tmp_path: Path) -> None:
    output = run(COMPILED, ",".join(map(str, ARCHITECTURES)), TRITON_CACHE_DIR=str(tmp_path))
    found = json.loads(output.splitlines()[-1])
    assert len(found) == 3 * len(ARCHITECTURES) + 2
    for name, (size, num_fused) in found.items():
        assert size > 0, name
        assert num_fused == 0, name


@needs_triton
def test_kernels_refuse_what_does_not_fit(interpreted: dict[str, np.ndarray]) -> None:
    assert interpreted["accepted"].tolist() == []


def test_a_missing_triton_says_what_to_install() -> None:
    output = run(
        "import sys; sys.modules['torch'] = None\n"
        "from xinfer.errors import MissingExtraError\n"
        "try:\n    import xinfer.kernels.nms\n"
        "except MissingExtraError as error: print(error.hint)\n"
    )
    assert "ignition-xinfer[gpu]" in output


@pytest.mark.gpu
@needs_triton
@pytest.mark.skipif(not has_gpu(), reason="no GPU")
def test_kernels_on_the_gpu_equal_numpy() -> None:
    import torch

    from xinfer.kernels import image
    from xinfer.kernels import nms as gpu_nms

    larger = [
        (scene(5000, 9), {"iou_threshold": 0.5}),
        (scene(3000, 10, grid=True), {"iou_threshold": 1 / 3}),
    ]
    for case, options in [*nms_cases(), *larger]:
        parts = [torch.from_numpy(case[name]).cuda() for name in ("boxes", "scores", "labels")]
        expected = nms(case["boxes"], case["scores"], case["labels"], **options)
        assert gpu_nms.nms(*parts, **options).tolist() == expected.tolist()
    for pixels, processor in image_cases():
        expected, _ = processor.batch(list(pixels))
        found = image.normalise(torch.from_numpy(pixels).cuda(), processor)
        np.testing.assert_array_equal(found.cpu().numpy(), expected)
