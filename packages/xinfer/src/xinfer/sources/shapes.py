"""Shapes of inputs: profiles of free axes, their text form, fixing them, and inputs to try them with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xinfer._extras import require
from xinfer.errors import InputError, SourceModelError
from xinfer.sources.facts import value_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ELEMENTS = 1 << 33
"""Of one input: more is a slip of the pen."""

_ENTRY = re.compile(
    r"""\s*(?:'(?P<single>[^']+)'|"(?P<double>[^"]+)"|(?P<plain>[^,'"]+?)):(?P<dims>[^:,]*)\s*(?:,|$)"""
)
_DIMS = re.compile(r"\d{1,9}(x\d{1,9})*")


@dataclass(frozen=True)
class ShapeProfile:
    """The shapes that an input will have: smallest, most common, largest.

    Args:
        min, opt, max: Dimensions, each at least 1, ascending in this order on every axis.

    Raises:
        InputError: They are not (``input.shape``).
    """

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("min", "opt", "max"):
            shape = tuple(getattr(self, name))
            object.__setattr__(self, name, shape)
            if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape):
                raise _fault(f"{name} shape {list(shape)} has a dimension below 1", list(shape))
            if np.prod(shape, dtype=object) > MAX_ELEMENTS:
                raise _fault(f"{name} shape {list(shape)} is too large", list(shape))
        if not len(self.min) == len(self.opt) == len(self.max):
            raise _fault(
                f"min, opt and max have {len(self.min)}, {len(self.opt)} and {len(self.max)} dimensions",
                [list(self.min), list(self.opt), list(self.max)],
            )
        for axis, sizes in enumerate(zip(self.min, self.opt, self.max, strict=True)):
            if not sizes[0] <= sizes[1] <= sizes[2]:
                raise _fault(
                    f"axis {axis} has min {sizes[0]}, opt {sizes[1]}, max {sizes[2]}: they must ascend", sizes
                )

    @classmethod
    def fixed(cls, shape: tuple[int, ...]) -> ShapeProfile:
        """The profile of an input that always has this shape."""
        return cls(shape, shape, shape)

    @property
    def is_fixed(self) -> bool:
        """Whether only one shape fits."""
        return self.min == self.max

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape lies within the profile."""
        return len(shape) == len(self.min) and all(
            low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True)
        )


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Reads shapes as trtexec writes them: ``input:1x3x224x224,mask:1x128``.

    Args:
        text: One entry per input. A name with a comma or quotes in it is put in quotes; what follows the
            last colon is the shape, nothing for a single number.

    Returns:
        Input -> dimensions.

    Raises:
        InputError: ``input.shape``; `value` is the entry.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    position = 0
    while position < len(text):
        match = _ENTRY.match(text, position)
        rest = text[position : position + 80]
        if match is None:
            raise _fault(f"{rest!r} is no shape", rest)
        name = (match["single"] or match["double"] or match["plain"]).strip()
        dims = match["dims"].strip()
        if not name or (dims and not _DIMS.fullmatch(dims)):
            raise _fault(f"{match[0].rstrip(',')[:80]!r} is no shape", rest)
        shape = tuple(int(size) for size in dims.split("x")) if dims else ()
        if 0 in shape or np.prod(shape, dtype=object) > MAX_ELEMENTS:
            raise _fault(f"{match[0].rstrip(',')[:80]!r} has a dimension of 0, or is too large", rest)
        if name in shapes:
            raise _fault(f"input {name!r} is given twice", name)
        shapes[name] = shape
        position = match.end()
    if not shapes or text.rstrip().endswith(","):
        raise _fault("a shape is missing", text[-80:])
    return shapes


def parse_profiles(*, min_shapes: str, opt_shapes: str, max_shapes: str) -> dict[str, ShapeProfile]:
    """Profiles from the three texts of trtexec's ``--minShapes``, ``--optShapes`` and ``--maxShapes``.

    An empty text takes the place of ``opt_shapes``.

    Raises:
        InputError: ``input.shape``.
    """
    opt = parse_shapes(opt_shapes)
    low = parse_shapes(min_shapes) if min_shapes else opt
    high = parse_shapes(max_shapes) if max_shapes else opt
    if not low.keys() == opt.keys() == high.keys():
        names = sorted((low.keys() | opt.keys() | high.keys()) - (low.keys() & opt.keys() & high.keys()))
        raise _fault(f"min, opt and max name different inputs: {names}", names)
    return {name: ShapeProfile(low[name], opt[name], high[name]) for name in opt}


def apply_static(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Fixes the free axes of a model's inputs, and what follows from them.

    Args:
        model: An `onnx.ModelProto` that `read_onnx` wrote; it is not changed.
        shapes: Input -> dimensions; inputs that are not named keep their free axes.

    Returns:
        A new `onnx.ModelProto`. Axes of one name get one size everywhere.

    Raises:
        SourceModelError: ``build.source_model.shape``: no such input, another number of axes, another size
            than the model's own, or two sizes for axes of one name.
    """
    onnx = require("onnx", "build")
    static = onnx.ModelProto()
    static.CopyFrom(model)
    inputs = {value.name: value for value in static.graph.input}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            raise _refuse(f"the model has no input {name!r}, it has {sorted(inputs)}", name)
        facts = value_facts(inputs[name])
        if facts.shape is None:
            kind = inputs[name].type.tensor_type
            for _ in shape:
                kind.shape.dim.add()
            facts = value_facts(inputs[name])
        assert facts.shape is not None
        if len(facts.shape) != len(shape):
            raise _refuse(f"input {name!r} has {len(facts.shape)} axes, given was {list(shape)}", name)
        for axis, (own, size) in enumerate(zip(facts.shape, shape, strict=True)):
            if size < 1 or own not in (-1, size):
                raise _refuse(f"axis {axis} of input {name!r} is {own}, given was {size}", name)
            dim = inputs[name].type.tensor_type.shape.dim[axis]
            if dim.dim_param and sizes.setdefault(dim.dim_param, size) != size:
                raise _refuse(
                    f"axis {dim.dim_param!r} gets {sizes[dim.dim_param]} and, from input {name!r}, {size}",
                    name,
                )
            dim.dim_value = size
    for value in (*static.graph.input, *static.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    # Written for free axes; runtimes infer them again.
    del static.graph.value_info[:]
    return static


def feeds_for(
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, str],
    seed: int = 0,
    *,
    high: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Random inputs, the same for the same seed.

    Args:
        shapes: Input -> dimensions.
        dtypes: Input -> NumPy's name of its type.
        seed: Of the generator.
        high: Input -> one more than its largest whole number. Default: 256 for uint8, else 2, which
            suits masks, segments and any vocabulary.

    Returns:
        Input -> array: normal numbers, whole numbers from 0, or truth values.

    Raises:
        InputError: A type is missing or not one that NumPy has (``input.dtype``).
    """
    feeds = {}
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        # A generator each: an input's numbers do not depend on the others.
        rng = np.random.default_rng((seed, index))
        try:
            dtype = np.dtype(dtypes[name])
        except (KeyError, TypeError):
            raise InputError(
                f"input {name!r} has no type that NumPy knows: {dtypes.get(name)!r}",
                code="input.dtype",
                value=name,
            ) from None
        if dtype.kind == "f":
            feeds[name] = rng.standard_normal(shape, np.float32).astype(dtype)
        elif dtype.kind in "iu":
            top = (high or {}).get(name, 256 if dtype == np.uint8 else 2)
            feeds[name] = rng.integers(0, top, shape).astype(dtype)
        elif dtype.kind == "b":
            feeds[name] = rng.integers(0, 2, shape).astype(bool)
        else:
            raise InputError(f"input {name!r} is {dtype}: nothing to draw", code="input.dtype", value=name)
    return feeds


def _fault(message: str, value: Any) -> InputError:
    return InputError(message, code="input.shape", value=value, hint="write input:1x3x224x224,mask:1x128")


def _refuse(message: str, value: Any) -> SourceModelError:
    return SourceModelError(message, code="build.source_model.shape", value=value)
