"""Model families, one per file; `create` builds one by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xtorch.errors import SettingsError

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURES = {
    "bert": "bert:Bert",
    "efficientnet_lite0": "efficientnet:EfficientNetLite0",
    "mobilenet_v2": "mobilenet:MobileNetV2",
    "nhits": "nhits:NHiTS",
    "resnet18": "resnet:resnet18",
    "resnet50": "resnet:resnet50",
    "unet": "unet:UNet",
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
