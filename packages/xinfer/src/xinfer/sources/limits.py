"""What a source model may ask of the machine that reads it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

HAS_FORK = sys.platform == "linux"
"""Whether the reading process forks for each model. macOS can, but its own libraries do not survive it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on a source model; what exceeds one is refused with ``build.source_model.too_large``.

    Attributes:
        max_file_bytes: Of the ONNX file itself; protobuf ends at 2 GiB.
        max_external_bytes: Of all weights outside the file together.
        max_tensor_bytes: Of one weight, input or output with a fixed shape.
        max_nodes: Operators, subgraphs and the bodies of called functions included.
        max_tensors: Weights.
        max_depth: Graphs within graphs (bodies of If, Loop and Scan).
        max_name_chars: Of one name.
        inline_bytes: Weights up to this size are gathered into the file; more stay in a file beside it.
        memory_bytes: Of the reading process; None: 4 GiB and five times the model,
            but not more than the machine has for weights outside the file.
        max_log_chars: How much of a runtime's message is kept.
    """

    max_file_bytes: int = 2 << 30
    max_external_bytes: int = 64 << 30
    max_tensor_bytes: int = 16 << 30
    max_nodes: int = 100_000
    max_tensors: int = 100_000
    max_depth: int = 16
    max_name_chars: int = 1024
    inline_bytes: int = 1900 << 20
    memory_bytes: int | None = None
    max_log_chars: int = 500
