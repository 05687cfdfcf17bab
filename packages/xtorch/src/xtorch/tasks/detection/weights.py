"""What training starts from: published COCO weights, where they can be had."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from xinfer import catalogue
from xinfer.errors import XInferError
from xtorch.errors import WeightsError
from xtorch.models.detector import SIZES, Detector, DetectorConfig, from_bgr
from xtorch.models.yolox import Yolox, load_folded_onnx

_ENTRIES = {"nano": "yolox-nano-coco", "tiny": "yolox-tiny-coco", "small": "yolox-s-coco"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A network with published weights, for RGB images.

    Attributes:
        network: of the published classes.
        labels: their names.
        source: where the weights came from, for the report.
    """

    network: Yolox
    labels: tuple[str, ...]
    source: str


def published(architecture: str, weights: str, folder: Path | None) -> Published | None:
    """The published network of an architecture.

    Args:
        architecture: of `xtorch.models.detector.SIZES`.
        weights: "auto": the catalogue's file, from the folders of ``XINFER_WEIGHTS``, an earlier download or
            the network; "none"; or a file: a published ONNX export, or a state dict (``.pth``,
            ``.safetensors``).
        folder: where a download is kept; None: nowhere.

    Returns:
        The network; None for "none", or where "auto" finds nothing (the log says why).

    Raises:
        WeightsError: the named file cannot be read or does not fit.
    """
    if weights == "none":
        return None
    entry = catalogue.get(_ENTRIES[architecture])
    labels = tuple(entry.spec["labels"])
    with tempfile.TemporaryDirectory() as temporary:
        if weights == "auto":
            assert entry.source is not None
            try:
                path = catalogue.fetch(entry.source, folder or Path(temporary))
            except XInferError as error:
                _log.warning("YOLOX-%s starts from random weights: %s (%s)", architecture, error, error.hint)
                return None
            source = f"{entry.title}, {path.name}"
        else:
            path = Path(weights)
            source = f"file {path.name}"
        network = Yolox(replace(SIZES[architecture], num_classes=len(labels)))
        return Published(network=from_bgr(_loaded(network, path)).eval(), labels=labels, source=source)


def _loaded(network: Yolox, path: Path) -> Yolox:
    try:
        if path.suffix == ".onnx":
            return load_folded_onnx(network, path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        inner = state.get("model")  # Megvii's files keep the optimiser beside it
        network.load_state_dict(inner if isinstance(inner, dict) else state)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(
            f"The weights cannot be loaded: {error}",
            value=path.name,
            hint="give a published YOLOX export of the same size",
        ) from error
    return network


def start_from(
    config: DetectorConfig, labels: tuple[str, ...], given: Published | None, *, seed: int
) -> Detector:
    """A detector of these classes: everything but the last class layers published, those where names agree.

    Args:
        given: of the same architecture; None: all weights are random.
        seed: of random weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector(config)
    if given is None:
        return detector
    state = {
        name: tensor
        for name, tensor in given.network.state_dict().items()
        if not name.startswith("head.cls_preds")
    }
    detector.network.load_state_dict(state, strict=False)
    known = {name.lower(): index for index, name in enumerate(given.labels)}
    own, theirs = detector.network.head, given.network.head
    with torch.no_grad():
        for index, label in enumerate(labels):
            if label.lower() in known:
                for layer, source in zip(
                    own.get_submodule("cls_preds").children(),
                    theirs.get_submodule("cls_preds").children(),
                    strict=True,
                ):
                    assert isinstance(layer, torch.nn.Conv2d)
                    assert isinstance(source, torch.nn.Conv2d)
                    assert layer.bias is not None
                    assert source.bias is not None
                    layer.weight[index] = source.weight[known[label.lower()]]
                    layer.bias[index] = source.bias[known[label.lower()]]
    return detector
