"""Model families, one per file; `create` builds one by name, `from_hub` one with its published weights."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xtorch.errors import SettingsError

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURES = {
    "bert": "bert:Bert",
    "efficientnet_b0": "efficientnet_b:EfficientNetB0",
    "dlinear": "linear_forecasters:DLinear",
    "efficientnet_lite0": "efficientnet:EfficientNetLite0",
    "efficientnet_lite1": "efficientnet:EfficientNetLite1",
    "efficientnet_lite2": "efficientnet:EfficientNetLite2",
    "mobilenet_v2": "mobilenet:MobileNetV2",
    "mobilenet_v3_large": "mobilenet_v3:mobilenet_v3_large",
    "mobilenet_v3_small": "mobilenet_v3:mobilenet_v3_small",
    "nhits": "nhits:NHiTS",
    "nlinear": "linear_forecasters:NLinear",
    "resnet18": "resnet:resnet18",
    "resnet50": "resnet:resnet50",
    "unet": "unet:UNet",
    "vit_base": "vit:vit_base",
    "vit_small": "vit:vit_small",
    "vit_tiny": "vit:vit_tiny",
    "yolox_nano": "yolox:yolox_nano",
    "yolox_s": "yolox:yolox_s",
    "yolox_tiny": "yolox:yolox_tiny",
}
"""Architecture -> "module:callable" in this package; imported when built."""


def create(name: str, **options: Any) -> nn.Module:
    """A randomly initialised model.

    Args:
        name: of `ARCHITECTURES`.
        options: what its callable takes, such as ``num_classes``.

    Raises:
        SettingsError: there is no such architecture.
    """
    if name not in ARCHITECTURES:
        raise SettingsError(
            f"There is no architecture {name!r}.", value=name, hint=f"known: {', '.join(ARCHITECTURES)}"
        )
    module, _, attribute = ARCHITECTURES[name].partition(":")
    model: nn.Module = getattr(import_module(f"xtorch.models.{module}"), attribute)(**options)
    return model


def from_hub(model_id: str, **options: Any) -> nn.Module:
    """A model with the weights of a repository on the Hugging Face hub: see `xtorch.models.hub.from_hub`."""
    model: nn.Module = import_module("xtorch.models.hub").from_hub(model_id, **options)
    return model
