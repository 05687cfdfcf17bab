"""Which layers suffer from quantisation, and mixed precision that returns those to float.

A layer is judged by the signal-to-quantisation-noise ratio of the model's outputs when it alone is quantised.
The cheaper measure, the noise of the layer's own output, does not know how much of that noise arrives: it
puts layers before a normalisation or beside a residual sum in the wrong places. The price is one run per
layer and sample, of one float graph in which each layer's quantisers can be switched on, so nothing is
quantised or compiled anew.

Source: Nagel et al., "A White Paper on Neural Network Quantization" (2021), section 3.6, debugging: each
quantiser alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from xinfer._extras import require
from xinfer.builders.quantise.onnx_graph import Graph
from xinfer.builders.quantise.onnxruntime_recipes import QUANTISED_OPERATORS, prepare, prepared_names
from xinfer.errors import CalibrationError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    Feeds = dict[str, np.ndarray]

T = TypeVar("T")

_SWITCHES = "xinfer.switches"
_SAME_WEIGHTS = 0.05
"""A quantised weight's error is far below this part of its energy; more means that it is another weight."""


@dataclass(frozen=True, kw_only=True)
class LayerSensitivity:
    """What quantising one layer costs.

    Attributes:
        name: The node's name in the float model.
        op_type: Its operator.
        sqnr_db: Signal over noise of the model's outputs, in decibels, with this layer alone quantised; the
            worst output counts. Infinite where nothing changes.
    """

    name: str
    op_type: str
    sqnr_db: float


@dataclass(frozen=True, kw_only=True)
class MixedStep:
    """One attempt: so many of the most sensitive layers in float."""

    num_float: int
    holds: bool
    reason: str | None = None
    """Why there is no answer, where making the candidate failed."""


@dataclass(frozen=True, kw_only=True)
class MixedPrecision(Generic[T]):
    """The end of a search.

    Attributes:
        float_nodes: The smallest set found that holds the budget, None where none does.
        made: What `make` returned for it.
        steps: All attempts, in order.
    """

    float_nodes: tuple[str, ...] | None
    made: T | None
    steps: tuple[MixedStep, ...]


def rank_layers(
    float_model: Path,
    quantised_model: Path,
    samples: Sequence[Feeds],
    *,
    layers: Collection[str] | None = None,
    max_samples: int = 4,
    deadline: float | None = None,
) -> list[LayerSensitivity]:
    """Ranks layers by what quantising each alone does to the outputs.

    Args:
        float_model: The source, ONNX.
        quantised_model: QDQ ONNX made from it, by any recipe. The ranking holds for other recipes too.
        samples: Inputs, from calibration data.
        layers: Names of nodes in the float model; all that the quantised model quantises when left out.
        max_samples: How many samples are used. Few are enough: the ratio hardly varies between them.
        deadline: A time of `time.monotonic`; no further sample is begun then, and layers that no sample has
            reached come last.

    Returns:
        The layers that are quantised, the most sensitive first.

    Raises:
        CalibrationError: There are no samples.
        InputError: Nothing is quantised, or no output is a float.
    """
    if not samples:
        raise CalibrationError("ranking layers needs at least one sample")
    with tempfile.TemporaryDirectory(prefix="xinfer-rank-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        prepare(float_model, prepared)
        source, quantised = Graph(float_model), Graph(quantised_model)
        # ONNX Runtime's recipes quantise the prepared graph, NNCF's the source itself.
        prepared_graph = Graph(prepared)
        quantised.refuse_control_flow()
        wanted = [name for name in source.nodes if layers is None or name in layers]
        names = prepared_names(float_model, prepared, wanted)
        op_types = {name: source.nodes[name].op_type for name in source.nodes}
        bases = [_Switched(prepared_graph, quantised), _Switched(source, quantised)]
        switched = max(bases, key=_Switched.count_same_weights)
        switches = switched.build(names)
    if not switches:
        raise InputError("none of the layers is quantised", value=str(quantised_model))
    noise = _noise(switched.base, len(switches), samples[:max_samples], deadline)
    ranked = [
        LayerSensitivity(name=name, op_type=op_types[name], sqnr_db=_decibels(ratio))
        for name, ratio in zip(switches, noise, strict=True)
    ]
    # Equal ones (several infinite) keep the graph's order.
    order = {name: index for index, name in enumerate(op_types)}
    return sorted(ranked, key=lambda item: (np.nan_to_num(item.sqnr_db, nan=np.inf), order[item.name]))


class _Switched:
    """The float graph with another recipe's quantisers behind one switch per layer."""

    def __init__(self, base: Graph, quantised: Graph) -> None:
        self.base, self.quantised = base, quantised
        self._onnx = require("onnx", "build")
        self._insert: dict[str, list[Any]] = {}
        """New nodes, by the name of the node that they stand before."""

    def count_same_weights(self) -> int:
        """How many weights of the quantised model are the float graph's own."""
        return sum(
            _is_same(value, self._float_constant(node.name, index))
            for node in self.quantised.sequence
            for index, value in self._weights(node).items()
        )

    def build(self, layers: Mapping[str, Collection[str]]) -> list[str]:
        """Adds the switches; gives the layers that have one, in the order of the switches' input.

        Args:
            layers: Names of layers, with the nodes of the quantised graph that each became.
        """
        owner: dict[str, str] = {}
        # A product fused with its bias is the product, which gave it its name.
        for is_named in (True, False):
            for name, nodes in layers.items():
                for made in nodes:
                    if (made == name or made.startswith(f"{name}/")) >= is_named:
                        owner.setdefault(made, name)
        switches: dict[str, int] = {}
        for node in self.quantised.sequence:
            twin = self.base.nodes.get(node.name)
            if twin is None:
                continue
            for index, tensor in self._noisy_inputs(node, twin).items():
                layer = self._layer(twin, index, owner)
                if layer is not None:
                    switch = switches.setdefault(layer, len(switches))
                    twin.input[index] = self._mix(twin, index, tensor, switch)
        make, kind = self._onnx.helper.make_tensor_value_info, self._onnx.TensorProto.FLOAT
        self.base.graph.input.append(make(_SWITCHES, kind, [max(1, len(switches))]))
        self.base.sequence = [
            item for node in self.base.sequence for item in (*self._insert.get(node.name, ()), node)
        ]
        return list(switches)

    def _layer(self, twin: Any, index: int, owner: Mapping[str, str]) -> str | None:
        """The layer that must be float for an input to be."""
        if twin.op_type in QUANTISED_OPERATORS:
            return owner.get(twin.name)
        # No recipe quantises a softmax or a normalisation: what they read was quantised as a layer's output.
        producer = self.base.producers.get(twin.input[index])
        return None if producer is None else owner.get(producer.name)

    def _noisy_inputs(self, node: Any, twin: Any) -> dict[int, str]:
        """The layer's inputs as the recipe quantises them, by their place."""
        noisy, rescaled = {}, False
        for index, value in self._weights(node).items():
            plain = self._float_constant(twin.name, index)
            if plain is None or value.shape != plain.shape:
                continue
            constant = self.base.add_constant(f"{twin.name}.{index}.weight", value)
            if _is_same(value, plain):
                noisy[index] = constant
            elif value.ndim > 1:
                # The recipe moved scales into this weight (SmoothQuant): it stays, and the noise of the
                # activation that it is made for is measured.
                twin.input[index], rescaled = constant, True
        for index, name in enumerate(node.input):
            pair = self._pair(name)
            if pair is None or index >= len(twin.input):
                continue
            if rescaled:
                self._repeat_scaling(pair[0], twin, index)
            noisy[index] = self._repeat_pair(pair, twin, index)
        return noisy

    def _pair(self, name: str) -> tuple[Any, Any] | None:
        """The quantiser and dequantiser that make an activation."""
        dequantise = self.quantised.producers.get(name)
        if dequantise is None or dequantise.op_type != "DequantizeLinear":
            return None
        quantise = self.quantised.producers.get(dequantise.input[0])
        return None if quantise is None or quantise.op_type != "QuantizeLinear" else (quantise, dequantise)

    def _repeat_pair(self, pair: tuple[Any, Any], twin: Any, index: int) -> str:
        tensor = str(twin.input[index])
        for source in pair:
            constants = [self._copy_constant(name) for name in source.input[1:]]
            output = self.base.fresh(f"{twin.name}.{index}.{source.op_type}")
            node = self._onnx.NodeProto()
            node.CopyFrom(source)
            del node.input[:], node.output[:]
            node.input.extend([tensor, *constants])
            node.output.append(output)
            node.name = output
            self._insert.setdefault(twin.name, []).append(node)
            tensor = output
        return tensor

    def _repeat_scaling(self, quantise: Any, twin: Any, index: int) -> None:
        above = self.quantised.producers.get(quantise.input[0])
        if above is None or above.op_type != "Mul":
            return
        for name in above.input:
            if self.quantised.constant(name) is not None:
                output = self.base.fresh(f"{twin.name}.{index}.scaled")
                inputs = [twin.input[index], self._copy_constant(name)]
                node = self._onnx.helper.make_node("Mul", inputs, [output], output)
                self._insert.setdefault(twin.name, []).append(node)
                twin.input[index] = output

    def _copy_constant(self, name: str) -> str:
        value = self.quantised.constant(name)
        return self.base.add_constant(name, value) if value is not None else ""

    def _mix(self, twin: Any, index: int, noisy: str, switch: int) -> str:
        """plain + switch * (noisy - plain): exactly `plain` where the switch is 0."""
        make, prefix, plain = self._onnx.helper.make_node, f"{twin.name}.{index}", twin.input[index]
        place = self.base.add_constant(f"{prefix}.place", np.array(switch, np.int64))
        parts = [self.base.fresh(f"{prefix}.{part}") for part in ("switch", "noise", "part", "mixed")]
        self._insert.setdefault(twin.name, []).extend(
            [
                make("Gather", [_SWITCHES, place], [parts[0]], parts[0]),
                make("Sub", [noisy, plain], [parts[1]], parts[1]),
                make("Mul", [parts[0], parts[1]], [parts[2]], parts[2]),
                make("Add", [plain, parts[2]], [parts[3]], parts[3]),
            ]
        )
        return parts[3]

    def _weights(self, node: Any) -> dict[int, np.ndarray]:
        """What a node's dequantised constants are, by their place."""
        found = {}
        for index, name in enumerate(node.input):
            dequantise = self.quantised.producers.get(name)
            if dequantise is not None and dequantise.op_type == "DequantizeLinear":
                value = self._dequantised(dequantise)
                if value is not None:
                    found[index] = value
        return found

    def _dequantised(self, node: Any) -> np.ndarray | None:
        values = [self.quantised.constant(name) for name in node.input if name]
        if any(value is None for value in values):
            return None
        data, scale, *zero = (np.asarray(value) for value in values)
        shape = [1] * data.ndim
        if scale.size > 1:
            shape[_axis(node)] = scale.size
        point = zero[0].astype(np.float32).reshape(shape) if zero else np.float32(0)
        dequantised: np.ndarray = (data.astype(np.float32) - point) * scale.reshape(shape)
        return dequantised

    def _float_constant(self, node: str, index: int) -> np.ndarray | None:
        twin = self.base.nodes.get(node)
        return None if twin is None or index >= len(twin.input) else self.base.constant(twin.input[index])


def _is_same(quantised: np.ndarray, plain: np.ndarray | None) -> bool:
    if plain is None or plain.shape != quantised.shape:
        return False
    return float(np.square(quantised - plain).sum()) <= _SAME_WEIGHTS * float(np.square(plain).sum())


def _axis(node: Any) -> int:
    return next((int(item.i) for item in node.attribute if item.name == "axis"), 1)


def _noise(graph: Graph, num_layers: int, samples: Sequence[Feeds], deadline: float | None) -> np.ndarray:
    """Noise over signal of the worst output, per layer; NaN where a layer was not reached."""
    ort = require("onnxruntime", "onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        graph.finish().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = [item.name for item in session.get_outputs() if item.type == "tensor(float)"]
    if not outputs:
        raise InputError("no output of the model is a float")
    shape = (num_layers, len(outputs))
    noise, signal, reached = np.zeros(shape), np.zeros(shape), np.zeros(num_layers, bool)
    for feeds in samples:
        off = np.zeros(max(1, num_layers), np.float32)
        expected = session.run(outputs, {**feeds, _SWITCHES: off})
        power = [float(np.square(value, dtype=np.float64).sum()) for value in expected]
        for layer in range(num_layers):
            if deadline is not None and time.monotonic() > deadline:
                break
            on = off.copy()
            on[layer] = 1
            for index, value in enumerate(session.run(outputs, {**feeds, _SWITCHES: on})):
                error = float(np.square(value - expected[index], dtype=np.float64).sum())
                noise[layer, index] += error if np.isfinite(error) else np.inf
                signal[layer, index] += power[index]
            reached[layer] = True
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(noise == 0, 0, noise / signal)
    return np.where(reached, ratio.max(axis=1), np.nan)


def _decibels(noise_over_signal: float) -> float:
    with np.errstate(divide="ignore"):
        return float(-10 * np.log10(noise_over_signal))


def mixed_precision(
    make: Callable[[frozenset[str]], T],
    gate: Callable[[T], bool],
    ranking: Iterable[LayerSensitivity | str],
    *,
    max_steps: int = 8,
    deadline: float | None = None,
    max_float: int | None = None,
) -> MixedPrecision[T]:
    """Looks for the fewest of the most sensitive layers that must be float for the budget to hold.

    Bisects the number of layers, at geometric middles, because few are usually enough and few is what is
    wanted. That no layers at all do not hold is taken as known.

    Args:
        make: Quantises all but the given nodes and probes the result. What it raises counts as a candidate
            that does not hold.
        gate: Whether the budget holds for what was made.
        ranking: Layers, the most sensitive first.
        max_steps: Most attempts.
        deadline: A time of `time.monotonic`, after which no attempt is begun.
        max_float: Most layers in float; all but one when left out, as all is the float model.

    Returns:
        The smallest set that was found to hold, and all steps.
    """
    names = [item if isinstance(item, str) else item.name for item in ranking]
    most = max(0, len(names) - 1) if max_float is None else min(max_float, len(names))
    # `fails` does not hold, `holds` does or is past the end.
    fails, holds = 0, most + 1
    best: MixedPrecision[T] = MixedPrecision(float_nodes=None, made=None, steps=())
    steps: list[MixedStep] = []
    while holds - fails > 1 and len(steps) < max_steps:
        if deadline is not None and time.monotonic() > deadline:
            break
        num = min(max(fails + 1, round((max(fails, 1) * holds) ** 0.5)), holds - 1)
        chosen = tuple(names[:num])
        try:
            made = make(frozenset(chosen))
            step = MixedStep(num_float=num, holds=gate(made))
        except Exception as error:
            # A quantiser that trips over one set says nothing about the next.
            steps.append(
                MixedStep(num_float=num, holds=False, reason=f"{type(error).__name__}: {error}"[:300])
            )
            fails = num
            continue
        steps.append(step)
        if step.holds:
            holds = num
            best = MixedPrecision(float_nodes=chosen, made=made, steps=())
        else:
            fails = num
    return replace(best, steps=tuple(steps))
