"""Runtimes that execute engines, each in a module of its own that is imported when it is needed."""

from xinfer.backends.base import (
    BACKENDS,
    Backend,
    CompiledModel,
    LayerProfile,
    RuntimeSettings,
    get_backend,
)

__all__ = ["BACKENDS", "Backend", "CompiledModel", "LayerProfile", "RuntimeSettings", "get_backend"]
