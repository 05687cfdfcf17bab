"""ImageProcessor against the chains that people write: OpenCV with NumPy, blobFromImage, Pillow, torch.

    .venv/bin/python benchmarks/image_processor.py [--seconds 5]

From JPEG bytes and from pixels to the float32 NCHW input of a classifier (224, ImageNet normalisation) and of
a detector (640, letterboxed). Each row cycles through the same photographs (COCO's, where the test data are;
else generated). The largest difference from the plain OpenCV chain is given for each, so that speed is not
bought with other pixels: Pillow and torch resize with other kernels. From JPEG, ours may decode at half size.
On a machine with a GPU and Triton, the fused normalising kernel is measured against torch's operations.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from interleaved import Call, gpu_or_reason, machine, measure, report
from PIL import Image

from xinfer.preproc import ImageProcessor

RESULT = Path(__file__).parent / "results" / "image_processor.json"
DATA = Path(os.environ.get("IGNITION_TEST_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN_3, STD_3 = np.array(MEAN, np.float32), np.array(STD, np.float32)
NUM_IMAGES = 16
PAD = 114

Chain = Callable[[Any], np.ndarray]


def photographs() -> tuple[list[bytes], str]:
    """JPEG files, and where they come from."""
    paths = sorted((DATA / "coco128_val" / "images").rglob("*.jpg"))[:NUM_IMAGES]
    if paths:
        return [path.read_bytes() for path in paths], f"COCO val2017, the first {len(paths)} of the test data"
    rng = np.random.default_rng(0)
    files = []
    for _ in range(NUM_IMAGES):
        small = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files, "generated, 640x480"


def opencv_decode(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def pillow_decode(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def letterbox_size(height: int, width: int, side: int) -> tuple[int, int]:
    scale = min(side / height, side / width)
    return round(height * scale), round(width * scale)


def opencv_classify(pixels: np.ndarray) -> np.ndarray:
    x = cv2.resize(pixels, (224, 224)).astype(np.float32) / 255
    x = (x - MEAN_3) / STD_3
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def opencv_detect(pixels: np.ndarray) -> np.ndarray:
    h, w = letterbox_size(*pixels.shape[:2], 640)
    top, left = (640 - h) // 2, (640 - w) // 2
    x = cv2.resize(pixels, (w, h))
    x = cv2.copyMakeBorder(
        x, top, 640 - h - top, left, 640 - w - left, cv2.BORDER_CONSTANT, value=(PAD, PAD, PAD)
    )
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None].astype(np.float32) / 255)


def blob_classify(pixels: np.ndarray) -> np.ndarray:
    """blobFromImage has one scale for all channels: the deviations are divided out afterwards."""
    x = cv2.dnn.blobFromImage(pixels, 1 / 255, (224, 224), tuple(255 * value for value in MEAN))
    x /= STD_3[None, :, None, None]
    return np.asarray(x)


def blob_detect(pixels: np.ndarray) -> np.ndarray:
    parameters = cv2.dnn.Image2BlobParams()
    parameters.scalefactor = (1 / 255,) * 4
    parameters.size = (640, 640)
    parameters.paddingmode = cv2.dnn.DNN_PMODE_LETTERBOX
    parameters.borderValue = (PAD,) * 4
    return np.asarray(cv2.dnn.blobFromImageWithParams(pixels, parameters))


def pillow_classify(image: Image.Image) -> np.ndarray:
    x = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR), np.float32) / 255
    x = (x - MEAN_3) / STD_3
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def pillow_detect(image: Image.Image) -> np.ndarray:
    h, w = letterbox_size(image.height, image.width, 640)
    canvas = Image.new("RGB", (640, 640), (PAD, PAD, PAD))
    canvas.paste(image.resize((w, h), Image.Resampling.BILINEAR), ((640 - w) // 2, (640 - h) // 2))
    return np.ascontiguousarray(np.asarray(canvas, np.float32).transpose(2, 0, 1)[None] / 255)


def torch_classify(pixels: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div_(255)
    x = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", align_corners=False)
    x = (x - torch.tensor(MEAN)[None, :, None, None]) / torch.tensor(STD)[None, :, None, None]
    return x.contiguous().numpy()


def torch_detect(pixels: np.ndarray) -> np.ndarray:
    h, w = letterbox_size(*pixels.shape[:2], 640)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div_(255)
    x = torch.nn.functional.interpolate(x, (h, w), mode="bilinear", align_corners=False)
    top, left = (640 - h) // 2, (640 - w) // 2
    padding = (left, 640 - w - left, top, 640 - h - top)
    return torch.nn.functional.pad(x, padding, value=PAD / 255).contiguous().numpy()


def cycling(chain: Chain, items: list[Any]) -> Call:
    """The chain over the items in turn."""
    turn = itertools.cycle(items)
    return lambda: chain(next(turn))


def gpu_rows(seconds: float) -> dict[str, dict[str, dict[str, float]]]:
    from xinfer.kernels.image import normalise

    processor = ImageProcessor((640, 640), mean=MEAN, std=STD)
    pixels = torch.randint(0, 256, (32, 640, 640, 3), dtype=torch.uint8, device="cuda")
    mean, std = (torch.tensor(values, device="cuda")[None, :, None, None] for values in (MEAN, STD))

    def ours() -> None:
        normalise(pixels, processor)
        torch.cuda.synchronize()

    def eager() -> None:
        ((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()
        torch.cuda.synchronize()

    return {"32 images of 640x640 on the GPU": measure({"xinfer": ours, "torch": eager}, seconds=seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5, help="per row")
    parser.add_argument("--threads", type=int, default=1, help="of OpenCV and torch")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    torch.set_num_threads(options.threads)
    files, origin = photographs()
    gpu, gpu_note = gpu_or_reason()
    hardware = machine("numpy", "opencv-python-headless", "pillow", "simplejpeg", "torch")
    tasks: dict[str, tuple[ImageProcessor, dict[str, Chain]]] = {
        "classifier, 224": (
            ImageProcessor((224, 224), mode="stretch", mean=MEAN, std=STD),
            {"opencv + numpy": opencv_classify, "opencv blobFromImage": blob_classify,
             "pillow + numpy": pillow_classify, "torch": torch_classify},
        ),
        "detector, 640 letterboxed": (
            ImageProcessor((640, 640), pad_value=PAD),
            {"opencv + numpy": opencv_detect, "opencv blobFromImage": blob_detect,
             "pillow + numpy": pillow_detect, "torch": torch_detect},
        ),
    }  # fmt: skip
    pixels, pillows = [opencv_decode(data) for data in files], [pillow_decode(data) for data in files]
    rows, difference = {}, {}
    for task, (processor, chains) in tasks.items():
        out = np.empty(processor.shape, np.float32)
        calls: dict[str, Call] = {
            "xinfer": cycling(lambda x, p=processor, o=out: p(x, out=o)[0], pixels),
            "xinfer, new array each time": cycling(lambda x, p=processor: p(x)[0], pixels),
        }
        for name, chain in chains.items():
            calls[name] = cycling(chain, pillows if name.startswith("pillow") else pixels)
        plain = chains["opencv + numpy"](pixels[0])
        difference[task] = {
            name: float(np.abs(chain(pillows[0] if name.startswith("pillow") else pixels[0]) - plain).max())
            for name, chain in {**chains, "xinfer": lambda x, p=processor: p(x)[0]}.items()
        }
        rows[f"{task}, from pixels"] = measure(calls, seconds=options.seconds)
        encoded: dict[str, Call] = {
            "xinfer": cycling(lambda x, p=processor, o=out: p(x, out=o)[0], files),
            "xinfer, new array each time": cycling(lambda x, p=processor: p(x)[0], files),
        }
        for name, chain in chains.items():
            decode: Callable[[bytes], Any] = pillow_decode if name.startswith("pillow") else opencv_decode
            encoded[name] = cycling(lambda x, c=chain, d=decode: c(d(x)), files)
        rows[f"{task}, from JPEG"] = measure(encoded, seconds=options.seconds)
    if gpu:
        rows.update(gpu_rows(options.seconds))
    result = {
        "machine": hardware,
        "gpu": gpu_note,
        "protocol": {"rounds": "in turns", "threads": options.threads, "images": origin, "num": len(files)},
        "largest_difference_from_opencv_chain": difference,
        "rows": rows,
    }
    report(result, options.out, ours="xinfer")
    print("largest difference from opencv + numpy:", difference)


if __name__ == "__main__":
    main()
