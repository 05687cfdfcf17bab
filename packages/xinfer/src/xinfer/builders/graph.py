"""Reading a source model in this process; `xinfer.sources` does it in one of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xinfer._extras import require
from xinfer.errors import SourceModelError
from xinfer.sources.facts import SourceGraph, inspect_graph

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SourceGraph", "inspect_graph", "load_onnx"]

MAX_ONNX_BYTES = 2 << 30


def load_onnx(path: Path) -> Any:
    """Reads and checks a source model.

    Raises:
        SourceModelError: Not ONNX, too large, or with weights outside the file.
    """
    onnx = require("onnx", "build")
    try:
        if path.stat().st_size > MAX_ONNX_BYTES:
            raise SourceModelError("the model is larger than 2 GiB", value=path.stat().st_size)
        model = onnx.load(str(path), load_external_data=False)
        if any(tensor.external_data for tensor in model.graph.initializer):
            raise SourceModelError(
                "the model keeps weights outside its file",
                value=path.name,
                hint="export with the weights inside (external_data=False)",
            )
        onnx.checker.check_model(model)
    except OSError as error:
        raise SourceModelError(f"cannot read {path.name}: {error.strerror}", value=str(path)) from error
    except SourceModelError:
        raise
    except Exception as error:
        # protobuf's DecodeError and onnx's ValidationError share no base class.
        raise SourceModelError(f"{path.name} is not a valid ONNX model: {error}", value=str(path)) from error
    return model
