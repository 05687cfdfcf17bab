"""The four trainings of `training.py`: data, model, loss, and how users of plain PyTorch load the data.

Each workload gives the same model and loss to everyone. Its `plain_dataset` is written as one would without
xTorch (Pillow, full decode, float images), `tuned_dataset` as one would by hand for speed (reduced decode,
uint8), `xtorch_dataset` with xTorch's parts.

Shapes: N samples, C channels, H rows, W columns, S tokens.
"""

from __future__ import annotations

import csv
import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from xtorch.data.decode import ImageFiles, decode_image
from xtorch.models.bert import SentenceEncoder, minilm, minilm_folder
from xtorch.models.efficientnet import EfficientNetLite0, efficientnet_lite0
from xtorch.models.unet import UNet
from xtorch.transforms import (
    CenterCrop,
    Compose,
    HorizontalFlip,
    ImageSample,
    RandomResizedCrop,
    Resize,
)


class Workload(ABC):
    """One training: the same for everyone but in how it is executed and loaded."""

    name: str
    unit = "images"
    batch_size: int
    collate: Callable[[Sequence[Any]], Any] | None = None
    """Of the plain and the tuned loop; None: torch's default."""

    @abstractmethod
    def model(self) -> nn.Module:
        """The model at the start, always the same."""

    @abstractmethod
    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        """Of what `loss` gives gradients to."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Of a batch as any of the three datasets makes it."""

    @abstractmethod
    def plain_dataset(self) -> Dataset[Any]: ...

    @abstractmethod
    def tuned_dataset(self) -> Dataset[Any]: ...

    @abstractmethod
    def xtorch_dataset(self) -> Any: ...

    xtorch_collate: Callable[[Sequence[Any]], Any]

    def count(self, batch: Any) -> int:
        """Images, or tokens."""
        return len(batch[0])


def pixels_as_input(x_NCHW: Tensor, mean: float, std: float) -> Tensor:
    """Normalised float images of uint8 images [N,C,H,W]; float images are normalised already."""
    return (x_NCHW.float() - mean) / std if x_NCHW.dtype == torch.uint8 else x_NCHW


def tensor_of(image: Image.Image, mean: float, std: float) -> Tensor:
    """What most people write: float32 [C,H,W], normalised."""
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() - mean) / std


def crop_box(width: int, height: int, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """A random part as `RandomResizedCrop` draws it."""
    for _ in range(10):
        area = width * height * random.uniform(*scale)
        ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            x, y = random.randint(0, width - w), random.randint(0, height - h)
            return x, y, x + w, y + h
    return 0, 0, width, height


def image_pairs(samples: Sequence[ImageSample]) -> tuple[Tensor, Tensor]:
    """uint8 [N,C,H,W] in channels-last order, and targets: the loader's `collate`."""
    x_NHWC = torch.from_numpy(np.stack([sample.image_HWC for sample in samples]))
    return x_NHWC.permute(0, 3, 1, 2), torch.tensor([sample.target for sample in samples])


class FileDataset(Dataset[Any]):
    """Files and targets through a function, for torch's `DataLoader`."""

    def __init__(self, items: Sequence[Any], load: Callable[[Any], Any]) -> None:
        self.items, self.load = items, load

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.load(self.items[index])


def labelled_files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Files of a folder of folders, with the folder's number."""
    for label, name in enumerate(sorted(path.name for path in folder.iterdir())):
        for path in sorted((folder / name).iterdir()):
            yield path, label


class Clothing(Workload):
    """EfficientNet-lite0 from ImageNet weights, fine-tuned on JPEGs of ten kinds of clothing, at 224."""

    name = "EfficientNet-lite0"
    batch_size = 32
    size, mean, std = 224, 127.0, 128.0
    scale = (0.35, 1.0)
    xtorch_collate = staticmethod(image_pairs)

    def __init__(self, data: Path, num_samples: int) -> None:
        self.files = list(labelled_files(data / "clothing" / "train"))
        self.num_classes = len({label for _, label in self.files})
        random.Random(0).shuffle(self.files)
        self.files = self.files[:num_samples]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = EfficientNetLite0(num_classes=self.num_classes)
        own = model.state_dict()
        state = efficientnet_lite0().state_dict()
        model.load_state_dict(own | {k: v for k, v in state.items() if v.shape == own[k].shape})
        return model

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=3e-4)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(pixels_as_input(batch[0], self.mean, self.std)), batch[1])

    def plain_dataset(self) -> Dataset[Any]:
        return FileDataset(self.files, self._plain)

    def tuned_dataset(self) -> Dataset[Any]:
        return FileDataset(self.files, self._tuned)

    def xtorch_dataset(self) -> Any:
        paths, labels = [path for path, _ in self.files], [label for _, label in self.files]
        augment = Compose([RandomResizedCrop(self.size, self.size, scale=self.scale), HorizontalFlip()])
        return ImageFiles(paths, labels, min_side=self.size, transform=augment)

    def _augmented(self, image: Image.Image) -> Image.Image:
        box = crop_box(image.width, image.height, self.scale)
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image

    def _plain(self, item: tuple[Path, int]) -> Any:
        with Image.open(item[0]) as image:
            return tensor_of(self._augmented(image.convert("RGB")), self.mean, self.std), item[1]

    def _tuned(self, item: tuple[Path, int]) -> Any:
        with Image.open(item[0]) as image:
            image.draft("RGB", (self.size, self.size))
            pixels_HWC = np.array(self._augmented(image.convert("RGB")))
        return torch.from_numpy(pixels_HWC).permute(2, 0, 1), item[1]


class Generator(nn.Sequential):
    """Noise [N,100,1,1] -> images [N,3,64,64] in -1..1.

    Source: Radford, Metz and Chintala, "Unsupervised Representation Learning with DCGANs" (ICLR 2016),
    section 3; as PyTorch's example has it, width 64.
    """

    def __init__(self, width: int = 64) -> None:
        sizes = (100, width * 8, width * 4, width * 2, width)
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            stride, padding = (1, 0) if index == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        super().__init__(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())


class Discriminator(nn.Sequential):
    """Images [N,3,64,64] -> logits [N,1,1,1]. Source as of `Generator`."""

    def __init__(self, width: int = 64) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for inputs in (width, width * 2, width * 4):
            layers += [
                nn.Conv2d(inputs, inputs * 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(inputs * 2),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, nn.Conv2d(width * 8, 1, 4, 1, 0, bias=False))


class GAN(nn.Module):
    """Both networks, and the discriminator's optimiser: the generator's is the loop's."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = Generator(), Discriminator()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
        self.other: torch.optim.Optimizer | None = None

    def forward(self, noise_N: Tensor) -> Tensor:
        return self.generator(noise_N)

    def __deepcopy__(self, memo: dict[int, Any]) -> GAN:
        # A copy trains its own discriminator.
        other = GAN()
        other.load_state_dict(self.state_dict())
        return other.train(self.training)


class DCGAN(Workload):
    """DCGAN at 64 x 64 on the clothing JPEGs: centre crop, resize, -1..1; Adam 2e-4, beta .5, .999.

    The discriminator's step is taken where the generator's loss is computed, as in PyTorch's example.
    """

    name = "DCGAN 64x64"
    batch_size = 128
    size = 64
    xtorch_collate = staticmethod(image_pairs)

    def __init__(self, data: Path, num_samples: int) -> None:
        files = [path for path, _ in labelled_files(data / "clothing" / "train")]
        random.Random(0).shuffle(files)
        self.files = [files[index % len(files)] for index in range(num_samples)]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return GAN()

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        assert isinstance(model, GAN)
        return _adam(model.generator)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        assert isinstance(model, GAN)
        x_NCHW = pixels_as_input(batch[0], 127.5, 127.5)
        fake_NCHW = model(torch.randn(len(x_NCHW), 100, 1, 1))
        model.other = model.other or _adam(model.discriminator)
        model.other.zero_grad(set_to_none=True)
        real = _bce(model.discriminator(x_NCHW), 1.0)
        with_fake = _bce(model.discriminator(fake_NCHW.detach()), 0.0)
        (real + with_fake).backward()
        model.other.step()
        return _bce(model.discriminator(fake_NCHW), 1.0)

    def plain_dataset(self) -> Dataset[Any]:
        return FileDataset(self.files, self._plain)

    def tuned_dataset(self) -> Dataset[Any]:
        return FileDataset(self.files, self._tuned)

    def xtorch_dataset(self) -> Any:
        crop = CenterCrop(self.size, self.size)
        return ImageFiles(self.files, [0] * len(self.files), min_side=self.size, transform=crop)

    def _cropped(self, image: Image.Image) -> Image.Image:
        side = min(image.size)
        x, y = (image.width - side) / 2, (image.height - side) / 2
        size = (self.size, self.size)
        return image.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))

    def _plain(self, path: Path) -> Any:
        with Image.open(path) as image:
            return tensor_of(self._cropped(image.convert("RGB")), 127.5, 127.5), 0

    def _tuned(self, path: Path) -> Any:
        with Image.open(path) as image:
            image.draft("RGB", (self.size, self.size))
            return torch.from_numpy(np.array(self._cropped(image.convert("RGB")))).permute(2, 0, 1), 0


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.5, 0.999))


def _bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, target).float())


class SegmentationFiles:
    """Images and masks for `ExtendedDataLoader`."""

    def __init__(self, files: Sequence[tuple[Path, Path]], size: int) -> None:
        self.files = files
        self.transform = Compose([Resize(size, size), HorizontalFlip()])

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, index: int, rng: np.random.Generator) -> ImageSample:
        image, mask = (decode_image(path.read_bytes(), min_side=1 << 20) for path in self.files[index])
        sample = ImageSample(image_HWC=image, mask_HW=(mask[..., 0] > 127).astype(np.uint8))
        return self.transform(sample, rng)


def mask_pairs(samples: Sequence[ImageSample]) -> tuple[Tensor, Tensor]:
    """uint8 [N,C,H,W] in channels-last order, and masks uint8 [N,1,H,W]."""
    x_NHWC = torch.from_numpy(np.stack([sample.image_HWC for sample in samples]))
    masks = [sample.mask_HW for sample in samples if sample.mask_HW is not None]
    return x_NHWC.permute(0, 3, 1, 2), torch.from_numpy(np.stack(masks))[:, None]


class Tiles(Workload):
    """U-Net of width 32 at 256 x 256, on magnetic tiles with masks of their defects."""

    name = "U-Net 256"
    batch_size = 8
    size = 256
    xtorch_collate = staticmethod(mask_pairs)

    def __init__(self, data: Path, num_samples: int) -> None:
        images = sorted((data / "magnetic_tile").glob("MT_*/Imgs/*.jpg"))
        files = [(path, path.with_suffix(".png")) for path in images if "MT_Free" not in path.parts]
        random.Random(0).shuffle(files)
        self.files = files[:num_samples]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return UNet(in_channels=3, out_channels=1, width=32)

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        logits = model(pixels_as_input(batch[0], 127.5, 127.5))
        return F.binary_cross_entropy_with_logits(logits.float(), batch[1].float())

    def plain_dataset(self) -> Dataset[Any]:
        return FileDataset(self.files, self._plain)

    def tuned_dataset(self) -> Dataset[Any]:
        return FileDataset(self.files, self._tuned)

    def xtorch_dataset(self) -> Any:
        return SegmentationFiles(self.files, self.size)

    def _loaded(self, item: tuple[Path, Path]) -> tuple[Image.Image, Tensor]:
        size = (self.size, self.size)
        with Image.open(item[0]) as image_file, Image.open(item[1]) as mask_file:
            image = image_file.convert("RGB").resize(size, Image.Resampling.BILINEAR)
            mask = mask_file.convert("L").resize(size, Image.Resampling.NEAREST)
        if random.random() < 0.5:
            image, mask = (each.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for each in (image, mask))
        return image, torch.from_numpy(np.array(mask) > 127)[None].to(torch.uint8)

    def _plain(self, item: tuple[Path, Path]) -> Any:
        image, mask_1HW = self._loaded(item)
        return tensor_of(image, 127.5, 127.5), mask_1HW.float()

    def _tuned(self, item: tuple[Path, Path]) -> Any:
        image, mask_1HW = self._loaded(item)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), mask_1HW


class TextRows(Dataset[Any]):
    """Token ids and classes, for any loader."""

    def __init__(self, rows: Sequence[tuple[list[int], int]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[list[int], int]:
        return self.rows[index]


def padded(samples: Sequence[tuple[list[int], int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and mask int64 [N,S], padded to the longest; classes [N]."""
    length = max(len(ids) for ids, _ in samples)
    ids_NS = torch.zeros(len(samples), length, dtype=torch.int64)
    mask_NS = torch.zeros_like(ids_NS)
    for row, (ids, _) in enumerate(samples):
        ids_NS[row, : len(ids)] = torch.tensor(ids)
        mask_NS[row, : len(ids)] = 1
    return ids_NS, mask_NS, torch.tensor([label for _, label in samples])


class TextClassifier(nn.Module):
    """Sentence embedding and a linear layer."""

    def __init__(self, encoder: SentenceEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(384, num_classes)

    def forward(self, ids_NS: Tensor, mask_NS: Tensor) -> Tensor:
        return self.head(self.encoder(ids_NS, mask_NS) * 10)


class News(Workload):
    """all-MiniLM-L6-v2 fine-tuned on AG News, at most 128 tokens, padded to a batch's longest."""

    name = "MiniLM"
    unit = "tokens"
    batch_size = 32
    collate = staticmethod(padded)
    xtorch_collate = staticmethod(padded)

    def __init__(self, data: Path, num_samples: int) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(128)
        path = next((data / "ag_news").glob("*.csv"))
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        random.Random(0).shuffle(rows)
        rows = rows[:num_samples]
        encoded = tokenizer.encode_batch([f"{title}. {text}" for _, title, text in rows])
        self.rows = [(each.ids, int(row[0]) - 1) for each, row in zip(encoded, rows, strict=True)]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return TextClassifier(minilm(), 4)

    def optimiser(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=5e-5)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0], batch[1]).float(), batch[2])

    def count(self, batch: Any) -> int:
        return int(batch[1].sum())

    def plain_dataset(self) -> Dataset[Any]:
        return TextRows(self.rows)

    tuned_dataset = plain_dataset

    def xtorch_dataset(self) -> Any:
        return TextRows(self.rows)


WORKLOADS: dict[str, type[Clothing | DCGAN | Tiles | News]] = {
    "lite0": Clothing,
    "dcgan": DCGAN,
    "unet": Tiles,
    "minilm": News,
}
STEPS = {"lite0": 12, "dcgan": 6, "unet": 6, "minilm": 16}
"""Optimiser steps of one round."""
