"""Image classifier: EfficientNet-lite0 with preprocessing in the graph.

Shapes: N images, H and W rows and columns, C classes, h and w rows and columns of a feature map.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtorch.models import efficientnet
from xtorch.models.resize import Preprocess

FEATURES = 1280
"""Length of the vector that the classifier sees."""
TAIL_START = 11
"""First block behind the feature map of stride 16: what fine-tuning trains."""
MAP_CHANNELS = 112
"""Of the feature map of stride 16."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Architecture of a `Classifier`; what ``model.json`` keeps."""

    num_classes: int
    backbone: str = "efficientnet_lite0"
    input_size: int = 224
    """Side of the image that the network sees, in pixels; a multiple of 32."""

    @property
    def map_size(self) -> int:
        """Rows (and columns) of the feature map of stride 16."""
        return self.input_size // 16

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return asdict(self)


class Classifier(nn.Module):
    """uint8 RGB [N,H,W,3] of any size -> logits float32 [N,C]."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocess = Preprocess(config.input_size, mean=efficientnet.MEAN, std=efficientnet.STD)
        self.backbone = efficientnet.EfficientNetLite0(num_classes=config.num_classes)

    def forward(self, image_NHWC: Tensor) -> Tensor:
        logits_NC: Tensor = self.backbone(self.preprocess(image_NHWC))
        return logits_NC

    def activation_maps(self, image_NHWC: Tensor, labels_N: Tensor) -> Tensor:
        """What each place of an image says for a class, float32 [N,h,w]; its mean is the logit less its bias.

        Source: Zhou et al., "Learning Deep Features for Discriminative Localization" (CVPR 2016), equation 2.
        """
        (x,) = self.backbone.features(self.preprocess(image_NHWC), [32])
        features_NFhw = head_map(self.backbone, x)
        return torch.einsum("nfhw,nf->nhw", features_NFhw, self.backbone._fc.weight[labels_N])


def head_map(net: efficientnet.EfficientNetLite, x_NChw: Tensor) -> Tensor:
    """The last feature map, float32 [N,1280,h,w], from that of stride 32; its mean goes to the classifier."""
    features_NFhw: Tensor = F.relu6(net._bn1(net._conv_head(x_NChw)))
    return features_NFhw


class Tail(nn.Module):
    """The last blocks of a network, from the feature map of stride 16 on: [N,112,h,w] -> logits [N,C].

    BatchNorm keeps its pretrained statistics: others would be those of a few images.

    Args:
        net: Whose blocks these are; they are shared, not copied.
        dropout: Share of the features that are left out in training.
    """

    def __init__(self, net: efficientnet.EfficientNetLite0, *, dropout: float) -> None:
        super().__init__()
        self.blocks = net._blocks[TAIL_START:]
        self.conv_head, self.bn1, self.fc = net._conv_head, net._bn1, net._fc
        self.dropout = dropout

    def train(self, mode: bool = True) -> Tail:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, x_NChw: Tensor) -> Tensor:
        x = x_NChw
        for block in self.blocks:
            x = block(x)
        x = F.relu6(self.bn1(self.conv_head(x))).mean(dim=(2, 3))
        logits_NC: Tensor = self.fc(F.dropout(x, self.dropout, self.training))
        return logits_NC
