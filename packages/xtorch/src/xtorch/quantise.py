"""Quantisation-aware training: a model that computes as its INT8 engine will, and learns the scales.

    quantised = prepare(model)                    # batch norms folded, fake quantisers placed
    calibrate(quantised, batches)                 # where the scales start
    Trainer(config).fit(quantised, ...)           # weights and scales learn
    export_quantised(quantised, [example], path)  # QuantizeLinear / DequantizeLinear with those scales

Weights are INT8, symmetric, a scale per output channel; activations have a scale and a zero point per tensor.
Quantised are convolutions and linear layers, and additions in which one of them ends (residual connections).

Shapes: O output channels.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xtorch.errors import SettingsError

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ADDITIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add)
_SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, kw_only=True)
class QuantiseSettings:
    """What is quantised and how."""

    activations: Literal["u8", "s8"] = "u8"
    """u8 has a zero point and is fast on ONNX Runtime's CPU kernels; s8 is symmetric with zero point 0, as
    TensorRT requires."""
    skip: tuple[str, ...] = ()
    """Modules that stay in float, by their dotted names, with all that they hold."""

    def __post_init__(self) -> None:
        if self.activations not in ("u8", "s8"):
            raise SettingsError("activations must be u8 or s8.", value=self.activations)


class FakeQuantiser(nn.Module):
    """Rounds to what an integer type can hold, and lets gradients through; the scale is learned.

    The gradient of the scale is multiplied by ``1 / sqrt(n * q_max)``, where n numbers share it, so that it
    learns as fast as the weights.

    Args:
        low, high: the integers' range, as -128..127.
        scale: where it starts; None: `calibrate` decides.
        axis: of the numbers that share no scale; None: one scale for all.
        symmetric: the zero point is the integer 0.

    Source: Esser et al., "Learned Step Size Quantization" (ICLR 2020), equations 1 to 3 and section 2.2.
    Scales start at the observed range, not at 2 <|v|> / sqrt(q_max), which suits fewer bits than 8.
    """

    zero_point: Tensor
    constant_scale: Tensor | None
    constant_zero_point: Tensor | None

    def __init__(
        self,
        low: int,
        high: int,
        *,
        scale: Tensor | None = None,
        axis: int | None = None,
        symmetric: bool = True,
    ) -> None:
        super().__init__()
        self.low, self.high, self.axis, self.symmetric = low, high, axis, symmetric
        self.scale = nn.Parameter(torch.ones(()) if scale is None else scale.clamp_min(_SMALLEST_SCALE))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self.register_buffer("ready", torch.tensor(scale is not None))
        self.observed: tuple[float, float] | None = None
        self.observing = False
        self.register_buffer("constant_scale", None, persistent=False)
        self.register_buffer("constant_zero_point", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            seen = float(x.min()), float(x.max())
            before = self.observed or (0.0, 0.0)
            self.observed = min(seen[0], before[0]), max(seen[1], before[1])
            return x
        if self.constant_scale is not None and self.constant_zero_point is not None:
            return self._as_operators(x, self.constant_scale, self.constant_zero_point)
        scale = self.scale.clamp_min(_SMALLEST_SCALE)
        count = x.numel() / (len(scale) if self.axis is not None else max(1, x.shape[0]))
        scale = _scale_gradient(scale, (count * self.high) ** -0.5)
        if self.axis is not None:
            scale = scale.view([-1 if axis == self.axis else 1 for axis in range(x.ndim)])
        zero_point = self.zero_point
        integer = _round(x / scale).clamp(self.low - zero_point, self.high - zero_point)
        return integer * scale

    def start(self) -> None:
        """End observing: the scale and zero point of the range that was seen."""
        if self.observed is None:
            return
        least, most = self.observed
        if self.symmetric:
            scale, zero_point = max(-least, most) / self.high, 0
        else:
            scale = (most - least) / (self.high - self.low)
            zero_point = round(self.low - least / scale) if scale > 0 else self.low
        with torch.no_grad():
            self.scale.fill_(max(scale, _SMALLEST_SCALE))
            self.zero_point.fill_(zero_point)
            self.ready.fill_(True)  # type: ignore[operator]
        self.observed = None

    def freeze(self) -> None:
        """Take scale and zero point as constants and stand for two ONNX operators, until `unfreeze`."""
        zero_point = self.zero_point if self.axis is None else self.zero_point.expand(len(self.scale))
        self.constant_scale = self.scale.detach().clamp_min(_SMALLEST_SCALE)
        self.constant_zero_point = zero_point.to(torch.uint8 if self.low == 0 else torch.int8).contiguous()

    def unfreeze(self) -> None:
        """Compute again."""
        self.constant_scale = self.constant_zero_point = None

    def _as_operators(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """QuantizeLinear and DequantizeLinear: for the exporter, without values."""
        axis: dict[str, Any] = {} if self.axis is None else {"axis": self.axis}
        integers = torch.onnx.ops.symbolic(
            "QuantizeLinear", (x, scale, zero_point), axis, dtype=zero_point.dtype, shape=x.shape
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (integers, scale, zero_point), axis, dtype=x.dtype, shape=x.shape
        )


class QuantisedLayer(nn.Module):
    """A convolution or linear layer with fake-quantised weights."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, _LAYERS)
        self.layer = layer
        scale_O = layer.weight.detach().flatten(1).abs().amax(dim=1) / 127
        self.weight = FakeQuantiser(-128, 127, scale=scale_O, axis=0)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight(self.layer.weight)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, self.layer.bias)
        convolved: Tensor = self.layer._conv_forward(x, weight, self.layer.bias)
        return convolved


def prepare(model: nn.Module, settings: QuantiseSettings | None = None) -> fx.GraphModule:
    """A copy of a trained model for quantisation-aware training.

    Batch norms behind convolutions are folded into them, as engines do, and learn no more on their own.

    Args:
        model: trained, in float32. Its forward may not branch on values.
        settings: what is quantised.

    Returns:
        A graph in evaluation mode, to be calibrated, and trained in float32: bf16 is coarser than INT8.

    Raises:
        SettingsError: the model cannot be traced, or nothing in it can be quantised.
    """
    settings = settings or QuantiseSettings()
    try:
        graph_module = fx.symbolic_trace(copy.deepcopy(model).eval())
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"The model cannot be traced: {error}",
            value=type(model).__name__,
            hint="prepare the part that has no control flow, as the backbone",
        ) from error
    _fold_batch_norms(graph_module)
    layers = _quantise_layers(graph_module, settings.skip)
    if not layers:
        raise SettingsError("Nothing in the model can be quantised.", value=type(model).__name__)
    _quantise_inputs(graph_module, layers, settings)
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def quantisers(model: nn.Module) -> list[FakeQuantiser]:
    """All fake quantisers of a model."""
    return [module for module in model.modules() if isinstance(module, FakeQuantiser)]


@torch.no_grad()
def calibrate(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any] | None = None
) -> None:
    """Run the model in float and start each activation's scale at the range that it had.

    Args:
        model: from `prepare`.
        batches: a few hundred samples like those of training.
        forward: how to call the model with a batch; default: ``model(batch)``.

    Raises:
        SettingsError: there are no batches, or an activation is not finite.
    """
    watching = [module for module in quantisers(model) if module.axis is None]
    training = model.training
    model.eval()
    try:
        for module in watching:
            module.observing = True
        for batch in batches:
            forward(model, batch) if forward is not None else model(batch)
    finally:
        model.train(training)
        for module in watching:
            module.observing = False
    for module in watching:
        if module.observed is None:
            raise SettingsError("There are no batches to calibrate with.")
        if not all(abs(value) < float("inf") for value in module.observed):
            raise SettingsError("An activation is not finite.", value=module.observed)
    for module in watching:
        module.start()


def export_quantised(
    model: nn.Module,
    example: Sequence[Tensor],
    path: Path,
    *,
    input_names: Sequence[str] = ("input",),
    output_names: Sequence[str] = ("output",),
    free_axes: Sequence[int] = (),
    axis_names: str = "NCHW",
    tolerance: float = 0.02,
) -> None:
    """Write the model as QDQ ONNX: INT8 weights, and QuantizeLinear and DequantizeLinear with its scales.

    Args:
        model: from `prepare`, calibrated or trained; on the CPU.
        example: inputs that the exporter traces and parity is checked with.
        path: where to write.
        input_names, output_names, free_axes, axis_names: as for `export.export_tensor_model`.
        tolerance: largest accepted difference between the file's answers and the model's, as a share of the
            largest answer. Rounding may fall the other way where sums are added in another order.

    Raises:
        SettingsError: it has not been calibrated.
        ExportError: the exporter refuses.
        ParityError: the file answers something else than the model.
    """
    from xtorch.export import export_tensor_model
    from xtorch.qdq import check_parity, store_integers

    all_quantisers = quantisers(model)
    if not all(bool(module.ready) for module in all_quantisers):
        raise SettingsError("The model has not been calibrated.", hint="call calibrate first")
    training = model.training
    model.eval()
    try:
        for module in all_quantisers:
            module.freeze()
        export_tensor_model(
            model,
            example,
            path,
            input_names=input_names,
            output_names=output_names,
            free_axes=free_axes,
            axis_names=axis_names,
        )
    finally:
        for module in all_quantisers:
            module.unfreeze()
    store_integers(path)
    check_parity(model, example, path, tolerance=tolerance)
    model.train(training)


def _fold_batch_norms(graph_module: fx.GraphModule) -> None:
    """Each batch norm that alone reads a convolution goes into its weights.

    Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference" (2018), section
    3.2.2, with the statistics frozen from the start.
    """
    modules = dict(graph_module.named_modules())
    for node in list(graph_module.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], _NORMS):
            continue
        before = node.args[0]
        if (
            before.op != "call_module"
            or not isinstance(modules[before.target], nn.Conv1d | nn.Conv2d | nn.Conv3d)
            or len(before.users) > 1
        ):
            continue
        graph_module.set_submodule(
            before.target, fuse_conv_bn_eval(modules[before.target], modules[node.target])
        )
        node.replace_all_uses_with(before)
        graph_module.graph.erase_node(node)
    graph_module.delete_all_unused_submodules()


def _quantise_layers(graph_module: fx.GraphModule, skip: Sequence[str]) -> list[fx.Node]:
    """Wraps the layers; returns the nodes that call them."""
    modules = dict(graph_module.named_modules())
    found = []
    for node in graph_module.graph.nodes:
        if node.op != "call_module" or any(
            node.target == name or node.target.startswith(f"{name}.") for name in skip
        ):
            continue
        layer = graph_module.get_submodule(node.target)
        if isinstance(layer, QuantisedLayer):  # a layer that is called twice
            found.append(node)
        elif isinstance(modules[node.target], _LAYERS):
            graph_module.set_submodule(node.target, QuantisedLayer(layer))
            found.append(node)
    return found


def _quantise_inputs(
    graph_module: fx.GraphModule, layers: Sequence[fx.Node], settings: QuantiseSettings
) -> None:
    """Puts a quantiser behind every value that a layer or a residual addition reads; readers share it."""
    readers = list(layers)
    for node in graph_module.graph.nodes:
        adds = (node.op == "call_function" and node.target in _ADDITIONS) or (
            node.op == "call_method" and node.target in ("add", "add_")
        )
        both = len(node.args) == 2 and all(isinstance(value, fx.Node) for value in node.args)
        if adds and both and any(value in layers for value in node.args):
            readers.append(node)
    low, high = (0, 255) if settings.activations == "u8" else (-128, 127)
    placed: dict[fx.Node, fx.Node] = {}
    for reader in readers:
        for value in dict.fromkeys(v for v in reader.args if isinstance(v, fx.Node)):
            if value not in placed:
                name = f"quantise_{value.name}"
                graph_module.add_submodule(
                    name, FakeQuantiser(low, high, symmetric=settings.activations == "s8")
                )
                with graph_module.graph.inserting_after(value):
                    placed[value] = graph_module.graph.call_module(name, (value,))
            reader.replace_input_with(value, placed[value])


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x`, whose gradient is multiplied by `factor`."""
    return (x - x * factor).detach() + x * factor


def _round(x: Tensor) -> Tensor:
    """Rounds half to even, as ONNX does; the gradient passes as if it did not."""
    return (x.round() - x).detach() + x
