"""The Open Inference Protocol's documents about a server and its models. Pure functions."""

from __future__ import annotations

from typing import Any

from xinfer.serve.host import Endpoint
from xinfer.serve.metrics import EndpointMetrics

EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics", "model_repository"]


def server_metadata(version: str) -> dict[str, Any]:
    return {"name": "xinfer", "version": version, "extensions": EXTENSIONS}


def model_metadata(endpoint: Endpoint) -> dict[str, Any]:
    manifest = endpoint.host.engine.manifest

    def tensors(specs: Any) -> list[dict[str, Any]]:
        return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]

    return {
        "name": endpoint.name,
        "versions": [endpoint.version],
        "platform": manifest.format,
        "inputs": tensors(manifest.io.inputs),
        "outputs": tensors(manifest.io.outputs),
    }


def model_config(endpoint: Endpoint) -> dict[str, Any]:
    """Triton's model configuration, as far as it says something here."""
    manifest = endpoint.host.engine.manifest

    def tensors(specs: Any) -> list[dict[str, Any]]:
        return [
            {"name": spec.name, "data_type": f"TYPE_{spec.datatype}", "dims": list(spec.shape)}
            for spec in specs
        ]

    return {
        "name": endpoint.name,
        "platform": manifest.format,
        "backend": manifest.backend,
        "version_policy": {"latest": {"num_versions": 1}},
        # 0: the batch is part of the shape.
        "max_batch_size": 0,
        "input": tensors(manifest.io.inputs),
        "output": tensors(manifest.io.outputs),
    }


def model_stats(endpoint: Endpoint, metrics: EndpointMetrics) -> dict[str, Any]:
    """One entry of Triton's `model_stats`; counts since the gateway started, of all routes."""
    successes, failures = metrics.num_successes, metrics.num_failures
    return {
        "name": endpoint.name,
        "version": endpoint.version,
        "last_inference": int(metrics.last_at_s * 1e3),
        "inference_count": successes,
        "execution_count": successes,
        "inference_stats": {
            "success": {"count": successes, "ns": int(metrics.success_s * 1e9)},
            "fail": {"count": failures, "ns": int(metrics.failure_s * 1e9)},
        },
        "batch_stats": [],
    }


def repository_entry(endpoint: Endpoint) -> dict[str, Any]:
    return {"name": endpoint.name, "version": endpoint.version, "state": "READY", "reason": ""}
