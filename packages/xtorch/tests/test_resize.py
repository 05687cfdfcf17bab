"""The resize agrees with torch and Pillow, in torch and in both runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from xtorch.export import OnnxModel, export_image_model
from xtorch.models.resize import Preprocess, resize, resize_weights

SIZES = [(37, 91), (256, 256), (300, 200), (128, 500), (64, 64), (97, 33)]


def picture(height: int, width: int) -> np.ndarray:
    """Noise: the hardest case for a resize. uint8 [height,width,3]."""
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resize_equals_torch_with_antialias(height: int, width: int) -> None:
    x_NCHW = torch.from_numpy(picture(height, width)).permute(2, 0, 1)[None].float()
    expected = F.interpolate(x_NCHW, size=(128, 96), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(resize(x_NCHW, 128, 96), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resize_equals_pillow_in_float(height: int, width: int) -> None:
    channel_HW = picture(height, width)[..., 0].astype(np.float32)
    expected = np.asarray(Image.fromarray(channel_HW).resize((96, 128), Image.Resampling.BILINEAR))
    found = resize(torch.from_numpy(channel_HW)[None, None], 128, 96)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)


def test_weights_sum_to_one_and_are_the_identity_when_sizes_are_equal() -> None:
    for size_in, size_out in ((7, 100), (100, 7), (33, 32)):
        assert torch.allclose(resize_weights(size_in, size_out).sum(dim=1), torch.ones(size_out))
    assert torch.equal(resize_weights(16, 16), torch.eye(16))


class _Flat(nn.Module):
    """`Preprocess` with the image as the only output."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocess = Preprocess(64, mean=127.0, std=128.0)

    def forward(self, image_NHWC: Tensor) -> Tensor:
        return self.preprocess(image_NHWC)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resize") / "resize.onnx"
    export_image_model(_Flat().eval(), path, output_names=["x"])
    return path


def _expected(image_NHWC: np.ndarray) -> np.ndarray:
    x_NCHW = (torch.from_numpy(image_NHWC).permute(0, 3, 1, 2).float() - 127) / 128
    resized = F.interpolate(x_NCHW, size=(64, 64), mode="bilinear", antialias=True, align_corners=False)
    return resized.numpy()


def test_exported_resize_is_right_in_onnx_runtime(exported: Path) -> None:
    model = OnnxModel(exported)
    for height, width in SIZES:
        image_NHWC = picture(height, width)[None]
        np.testing.assert_allclose(model(image_NHWC)[0], _expected(image_NHWC), rtol=0, atol=1e-4)


def test_exported_resize_is_right_in_openvino(exported: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    compiled = openvino.Core().compile_model(str(exported), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for height, width in SIZES:
        image_NHWC = picture(height, width)[None]
        np.testing.assert_allclose(compiled(image_NHWC)[0], _expected(image_NHWC), rtol=0, atol=1e-4)


def test_exported_resize_is_close_in_openvino_when_it_computes_in_bfloat16(exported: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    compiled = openvino.Core().compile_model(str(exported), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    # Beyond 256 pixels bfloat16 cannot tell positions apart: the weights must not be computed in it.
    for height, width in [(300, 200), (480, 640), (1000, 333)]:
        image_NHWC = picture(height, width)[None]
        np.testing.assert_allclose(compiled(image_NHWC)[0], _expected(image_NHWC), rtol=0, atol=0.02)
