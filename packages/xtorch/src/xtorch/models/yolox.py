"""YOLOX: an anchor-free detector with a decoupled head. State dicts are Megvii's.

Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv:2107.08430), sections 2 and 3; the backbone
is CSPDarknet (Wang et al., "CSPNet", CVPRW 2020) with a path aggregation network (Liu et al., CVPR 2018).

Shapes: N images, C channels, H rows, W columns, A locations of all three strides (finest first), K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from xtorch.errors import WeightsError

STRIDES = (8, 16, 32)
BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True, kw_only=True)
class YoloxConfig:
    """Sizes of a `Yolox`: multiples of YOLOX-l's depth and width."""

    depth: float
    width: float
    depthwise: bool = False
    num_classes: int = 80

    def channels(self, of_large: int) -> int:
        """Channels where YOLOX-l has `of_large`."""
        return int(of_large * self.width)

    def repeats(self, of_large: int) -> int:
        """Blocks where YOLOX-l has `of_large`."""
        return max(round(of_large * self.depth), 1)


NANO = YoloxConfig(depth=1 / 3, width=0.25, depthwise=True)
TINY = YoloxConfig(depth=1 / 3, width=0.375)
SMALL = YoloxConfig(depth=1 / 3, width=0.5)


class BaseConv(nn.Module):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPSILON, momentum=0.03)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return F.silu(self.bn(self.conv(x_NCHW)))


class DWConv(nn.Module):
    """Depthwise and pointwise convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = BaseConv(inputs, inputs, kernel, stride, groups=inputs)
        self.pconv = BaseConv(inputs, outputs, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.pconv(self.dconv(x_NCHW))


def _conv(config: YoloxConfig, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    kind = DWConv if config.depthwise else BaseConv
    return kind(inputs, outputs, kernel, stride)


class Bottleneck(nn.Module):
    """1x1 and 3x3 convolution, added to the input where `residual`."""

    def __init__(self, config: YoloxConfig, channels: int, *, residual: bool) -> None:
        super().__init__()
        self.conv1 = BaseConv(channels, channels, 1)
        self.conv2 = _conv(config, channels, channels, 3)
        self.residual = residual

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x_NCHW))
        return x_NCHW + y if self.residual else y


class CSPLayer(nn.Module):
    """Bottlenecks on one half of the channels, the other half passes by."""

    def __init__(
        self, config: YoloxConfig, inputs: int, outputs: int, repeats: int, *, residual: bool = True
    ) -> None:
        super().__init__()
        hidden = outputs // 2
        self.conv1 = BaseConv(inputs, hidden, 1)
        self.conv2 = BaseConv(inputs, hidden, 1)
        self.conv3 = BaseConv(2 * hidden, outputs, 1)
        self.m = nn.Sequential(*(Bottleneck(config, hidden, residual=residual) for _ in range(repeats)))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        first, second = self.conv1(x_NCHW), self.conv2(x_NCHW)
        return self.conv3(torch.cat((self.m(first), second), dim=1))


class SPPBottleneck(nn.Module):
    """Spatial pyramid pooling: max over 5x5, 9x9 and 13x13 beside the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = inputs // 2
        self.conv1 = BaseConv(inputs, hidden, 1)
        self.conv2 = BaseConv(4 * hidden, outputs, 1)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x = self.conv1(x_NCHW)
        return self.conv2(torch.cat([x, *(F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13))], dim=1))


class Focus(nn.Module):
    """2x2 pixels into channels, then a convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = BaseConv(4 * inputs, outputs, 3)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        corners = [x_NCHW[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(corners, dim=1))


class CSPDarknet(nn.Module):
    """Backbone; gives the maps of strides 8, 16 and 32."""

    def __init__(self, config: YoloxConfig) -> None:
        super().__init__()
        widths = [config.channels(c) for c in (64, 128, 256, 512, 1024)]
        self.stem = Focus(3, widths[0])
        for index, repeats in ((1, 3), (2, 9), (3, 9), (4, 3)):
            inputs, outputs, last = widths[index - 1], widths[index], index == 4
            layers: list[nn.Module] = [_conv(config, inputs, outputs, 3, 2)]
            if last:
                layers.append(SPPBottleneck(outputs, outputs))
            layers.append(CSPLayer(config, outputs, outputs, config.repeats(repeats), residual=not last))
            self.add_module(f"dark{index + 1}", nn.Sequential(*layers))

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        maps = []
        x = self.stem(x_NCHW)
        for name in ("dark2", "dark3", "dark4", "dark5"):
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps[1:]


class PathAggregation(nn.Module):
    """Backbone and neck: coarse maps flow to fine ones and back."""

    def __init__(self, config: YoloxConfig) -> None:
        super().__init__()
        fine, middle, coarse = (config.channels(c) for c in (256, 512, 1024))
        repeats = config.repeats(3)
        self.backbone = CSPDarknet(config)
        self.lateral_conv0 = BaseConv(coarse, middle, 1)
        self.C3_p4 = CSPLayer(config, 2 * middle, middle, repeats, residual=False)
        self.reduce_conv1 = BaseConv(middle, fine, 1)
        self.C3_p3 = CSPLayer(config, 2 * fine, fine, repeats, residual=False)
        self.bu_conv2 = _conv(config, fine, fine, 3, 2)
        self.C3_n3 = CSPLayer(config, 2 * fine, middle, repeats, residual=False)
        self.bu_conv1 = _conv(config, middle, middle, 3, 2)
        self.C3_n4 = CSPLayer(config, 2 * middle, coarse, repeats, residual=False)

    def forward(self, x_NCHW: Tensor) -> list[Tensor]:
        fine, middle, coarse = self.backbone(x_NCHW)
        top = self.lateral_conv0(coarse)
        middle = self.C3_p4(torch.cat([_upsample(top), middle], dim=1))
        side = self.reduce_conv1(middle)
        fine = self.C3_p3(torch.cat([_upsample(side), fine], dim=1))
        middle = self.C3_n3(torch.cat([self.bu_conv2(fine), side], dim=1))
        coarse = self.C3_n4(torch.cat([self.bu_conv1(middle), top], dim=1))
        return [fine, middle, coarse]


def _upsample(x_NCHW: Tensor) -> Tensor:
    return F.interpolate(x_NCHW, scale_factor=2, mode="nearest")


class Head(nn.Module):
    """Decoupled head: classes on one branch, boxes and objectness on the other, for each stride."""

    def __init__(self, config: YoloxConfig) -> None:
        super().__init__()
        hidden = config.channels(256)
        inputs = [config.channels(c) for c in (256, 512, 1024)]
        self.stems = nn.ModuleList(BaseConv(c, hidden, 1) for c in inputs)
        for branch in ("cls", "reg"):
            branches = (
                nn.Sequential(_conv(config, hidden, hidden, 3), _conv(config, hidden, hidden, 3))
                for _ in inputs
            )
            self.add_module(f"{branch}_convs", nn.ModuleList(branches))
        for kind, outputs in (("cls", config.num_classes), ("reg", 4), ("obj", 1)):
            self.add_module(f"{kind}_preds", nn.ModuleList(nn.Conv2d(hidden, outputs, 1) for _ in inputs))
        # The paper's prior: 1 % of the locations hold an object.
        for name, parameter in self.named_parameters():
            if name.startswith(("cls_preds", "obj_preds")) and name.endswith("bias"):
                nn.init.constant_(parameter, -math.log(0.99 / 0.01))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Per stride [N, 4 + 1 + K, H, W]: box offsets, objectness, class probabilities."""
        return [
            torch.cat([offsets, objects.sigmoid(), classes.sigmoid()], dim=1)
            for offsets, objects, classes in self._raw(maps)
        ]

    def logits(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """As `forward`, before the sigmoids: what losses take."""
        return [torch.cat(found, dim=1) for found in self._raw(maps)]

    def _raw(self, maps: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for level, x in enumerate(maps):
            x = self.get_submodule(f"stems.{level}")(x)
            classes = self._branch("cls_convs", level, x)
            classes = self._branch("cls_preds", level, classes)
            boxes = self._branch("reg_convs", level, x)
            offsets = self._branch("reg_preds", level, boxes)
            objects = self._branch("obj_preds", level, boxes)
            yield offsets, objects, classes

    def _branch(self, name: str, level: int, x: Tensor) -> Tensor:
        branch: Tensor = self.get_submodule(f"{name}.{level}")(x)
        return branch


class Yolox(nn.Module):
    """YOLOX, randomly initialised.

    Args:
        config: `NANO`, `TINY`, `SMALL`, or your own.
        decode: whether boxes come out as (centre x, centre y, width, height) in pixels of the input, or as
            the head's offsets, which quantise better and are decoded outside (`decode_boxes`).
    """

    def __init__(self, config: YoloxConfig, *, decode: bool = False) -> None:
        super().__init__()
        self.config, self.decode = config, decode
        self.backbone = PathAggregation(config)
        self.head = Head(config)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Float32 [N, A, 4 + 1 + K] of BGR float32 [N,3,H,W] in 0..255; H and W divisible by 32."""
        found_NAC = _locations(self.head(self.backbone(x_NCHW)))
        return decode_boxes(found_NAC, (x_NCHW.shape[2], x_NCHW.shape[3])) if self.decode else found_NAC

    def logits(self, x_NCHW: Tensor) -> Tensor:
        """As `forward` without decoding, objectness and classes as logits."""
        return _locations(self.head.logits(self.backbone(x_NCHW)))


def _locations(maps: Sequence[Tensor]) -> Tensor:
    """Maps of all strides as one list of locations, [N, A, C]."""
    return torch.cat([x_NCHW.flatten(2) for x_NCHW in maps], dim=2).transpose(1, 2)


def locations(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the locations lie in an input of this height and width.

    Returns:
        Their cells (column, row) float32 [A,2] and strides float32 [A,1], both in the order of the output.
    """
    cells, strides = [], []
    for stride in STRIDES:
        rows, columns = torch.meshgrid(
            torch.arange(size[0] // stride), torch.arange(size[1] // stride), indexing="ij"
        )
        cells.append(torch.stack((columns, rows), dim=2).reshape(-1, 2))
        strides.append(torch.full((cells[-1].shape[0], 1), stride))
    return torch.cat(cells).float(), torch.cat(strides).float()


def decode_boxes(found_NAC: Tensor, size: tuple[int, int]) -> Tensor:
    """Box offsets to (centre x, centre y, width, height) in pixels; the rest stays.

    Source: the YOLOX paper, section 2.1 ("anchor-free"): an offset from the cell's corner and a log size,
    both in strides.

    Args:
        found_NAC: what `Yolox` gives with ``decode=False``.
        size: (H, W) of the input.
    """
    cells_A2, strides_A1 = (x.to(found_NAC) for x in locations(size))
    centres = (found_NAC[..., :2] + cells_A2) * strides_A1
    sizes = found_NAC[..., 2:4].exp() * strides_A1
    return torch.cat([centres, sizes, found_NAC[..., 4:]], dim=-1)


def load_folded_onnx(model: Yolox, path: Path) -> Yolox:
    """Load the weights of a published ONNX export, whose BatchNorm is folded into the convolutions.

    Convolutions are matched in the order in which both graphs run them; BatchNorm keeps the folded bias only.

    Args:
        model: of the file's sizes.
        path: the ONNX file.

    Returns:
        The model, in evaluation mode.

    Raises:
        WeightsError: the file has other convolutions than the model.
    """
    graph = onnx.load(path).graph
    tensors = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer
    }
    stored = [[tensors[name] for name in node.input[1:]] for node in graph.node if node.op_type == "Conv"]
    names = {module: name for name, module in model.named_modules()}
    order: list[nn.Conv2d] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: order.append(module))
        for module in names
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, 64, 64))
    finally:
        for hook in hooks:
            hook.remove()
    state = model.state_dict()
    shapes = [tuple(conv.weight.shape) for conv in order]
    if shapes != [tuple(weights[0].shape) for weights in stored]:
        raise WeightsError("The file has other convolutions than this YOLOX.", value=path.name)
    for conv, (weight, bias) in zip(order, stored, strict=True):
        name = names[conv]
        state[f"{name}.weight"] = weight
        if conv.bias is not None:
            state[f"{name}.bias"] = bias
            continue
        norm = name.removesuffix("conv") + "bn"
        state[f"{norm}.weight"] = torch.ones_like(bias)
        state[f"{norm}.bias"] = bias
        state[f"{norm}.running_mean"] = torch.zeros_like(bias)
        state[f"{norm}.running_var"] = torch.full_like(bias, 1 - BATCH_NORM_EPSILON)
    model.load_state_dict(state)
    return model


def yolox_nano(*, num_classes: int = 80, decode: bool = False) -> Yolox:
    """YOLOX-nano (0.91 M parameters), randomly initialised."""
    return Yolox(replace(NANO, num_classes=num_classes), decode=decode)


def yolox_tiny(*, num_classes: int = 80, decode: bool = False) -> Yolox:
    """YOLOX-tiny (5.06 M parameters), randomly initialised."""
    return Yolox(replace(TINY, num_classes=num_classes), decode=decode)


def yolox_s(*, num_classes: int = 80, decode: bool = False) -> Yolox:
    """YOLOX-s (8.97 M parameters), randomly initialised."""
    return Yolox(replace(SMALL, num_classes=num_classes), decode=decode)
