"""Runtimes that execute engines, each in a module of its own that is imported when it is needed."""

from xinfer.backends.base import Backend, CompiledModel, LayerProfile, RuntimeSettings
from xinfer.backends.registry import BACKENDS, BackendInfo, check_settings, get_backend, required_target

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendInfo",
    "CompiledModel",
    "LayerProfile",
    "RuntimeSettings",
    "check_settings",
    "get_backend",
    "required_target",
]
