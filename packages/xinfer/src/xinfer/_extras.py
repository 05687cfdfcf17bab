"""Lazy imports of optional packages."""

from __future__ import annotations

import importlib
import os
from typing import Any

from xinfer.errors import MissingExtraError


def require(module: str, extra: str) -> Any:
    """Imports `module`, or says which extra of this package provides it.

    Args:
        module: Dotted module name.
        extra: Name of the extra of `ignition-xinfer` that installs it.

    Returns:
        The module.

    Raises:
        MissingExtraError: It is not installed.
    """
    if module.split(".")[0] == "onnxruntime":
        # From 1.29 on it reports models and machine to its maker, and keeps a database in the user's home.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A missing dependency of an installed package is another fault and must show as itself.
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise MissingExtraError(error.name, extra) from error
        raise
