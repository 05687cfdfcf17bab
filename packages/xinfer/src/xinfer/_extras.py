"""Lazy imports of optional packages."""

from __future__ import annotations

import importlib
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
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A missing dependency of an installed package is another fault and must show as itself.
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise MissingExtraError(error.name, extra) from error
        raise
