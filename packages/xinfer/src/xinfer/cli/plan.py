"""From the arguments of ``xinfer build`` to an `EngineBuilder`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xinfer import catalogue
from xinfer.builders import EngineBuilder
from xinfer.builders.samples import samples_digest
from xinfer.cli.command import UsageError
from xinfer.cli.samples import (
    MAX_SAMPLES,
    NUM_RANDOM,
    NUM_RANDOM_CALIBRATION,
    Feeds,
    Tensor,
    image_spec,
    random_samples,
    read_samples,
)
from xinfer.errors import InputError
from xinfer.package import read_labels
from xinfer.tasks import TaskSpec, parse_task
from xinfer.zoo import resolve

if TYPE_CHECKING:
    from xinfer.sources.shapes import ShapeProfile

FREE_IMAGE_SIDE = 256
"""Pixels of a random image where the model takes any size."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be built.

    Attributes:
        builder: Knows everything but time, seed, cache and progress.
        output: The engine file.
        accuracy_on: What accuracy is measured on.
        remarks: What a person should know before.
    """

    builder: EngineBuilder
    output: Path
    accuracy_on: Literal["data", "catalogue samples", "random inputs"]
    remarks: tuple[str, ...] = ()

    @property
    def random_accuracy(self) -> bool:
        """Whether accuracy is measured on random inputs."""
        return self.accuracy_on == "random inputs"


@dataclass(frozen=True, kw_only=True)
class _Model:
    """The model to build, and what is known about it besides the arguments."""

    onnx: Path
    name: str
    tensors: tuple[Tensor, ...]
    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    """What random inputs look like."""
    profiles: Mapping[str, ShapeProfile] = field(default_factory=dict)
    task: TaskSpec | None
    licences: tuple[str, ...] = ()
    samples: tuple[Feeds, ...] = ()
    calibration: tuple[Feeds, ...] = ()
    metric: str = "cosine"
    max_drop: float = 0.01
    assets: Mapping[str, Path] | None = None
    float_nodes: tuple[str, ...] = ()
    default_output: Path


def make_plan(arguments: argparse.Namespace, scratch: Path) -> Plan:
    """Reads the source, the data and the task.

    Args:
        arguments: Of ``xinfer build``.
        scratch: For intermediate files; outlives the build.

    Raises:
        UsageError: The arguments do not go together.
        XInferError: The source, the data or the task cannot be used.
    """
    text = arguments.source if arguments.onnx is None else arguments.onnx
    is_id = arguments.onnx is None and resolve.is_id(text) and not text.endswith(".onnx")
    model = _catalogued(text, arguments) if is_id else _from_source(text, arguments, scratch)
    samples, accuracy_on = _held_out(model, arguments)
    calibration, remarks = _calibration(model, arguments)
    builder = EngineBuilder.from_onnx(model.onnx).named(
        arguments.name or model.name,
        arguments.version,
        licences=tuple(arguments.license) or model.licences,
        # Only what someone brought is a data set.
        dataset_digest=samples_digest(samples) if accuracy_on == "data" else None,
    )
    builder = builder.with_accuracy_budget(
        metric=arguments.metric or model.metric,
        samples=samples,
        max_drop=model.max_drop if arguments.max_drop is None else arguments.max_drop,
    )
    labels = None if arguments.labels is None else _labels(arguments.labels)
    if model.task is not None:
        builder = builder.with_task(model.task, labels)
    elif labels is not None:
        raise UsageError("--labels are part of a task", hint="give --task task.json too")
    if model.profiles:
        builder = builder.with_shapes(model.profiles)
    if model.assets:
        builder = builder.with_assets(model.assets)
    builder = builder.with_precision(*_precisions(arguments))
    if calibration:
        builder = builder.with_int8(calibration)
    if model.float_nodes:
        builder = builder.with_float_nodes(*model.float_nodes)
    if arguments.backend:
        builder = builder.with_backends(*arguments.backend)
    if arguments.objective or arguments.batch:
        builder = builder.optimize_for(arguments.objective or "throughput", batch=arguments.batch or (1,))
    return Plan(
        builder=builder,
        output=arguments.output or model.default_output,
        accuracy_on=accuracy_on,
        remarks=tuple(remarks),
    )


def source_tensors(values: Sequence[Any]) -> tuple[Tensor, ...]:
    """A source model's inputs, from its facts.

    Raises:
        InputError: One has no type or shape that NumPy knows.
    """
    for value in values:
        if value.shape is None or value.dtype in ("", "string", "bfloat16"):
            raise InputError(
                f"input {value.name!r} is {value.dtype or 'of no type'} {value.shape}: it cannot be fed",
                value=value.name,
            )
    return tuple(Tensor(name=value.name, dtype=value.dtype, shape=value.shape) for value in values)


def _catalogued(text: str, arguments: argparse.Namespace) -> _Model:
    from xinfer.targets import HardwareTarget
    from xinfer.zoo.registry import runner_for

    entry = catalogue.get(text)
    if entry.parts:
        parts = ", ".join(sorted(entry.parts.values()))
        raise UsageError(f"{text} consists of {parts}", value=text, hint="build these one by one")
    given_shapes = arguments.minShapes or arguments.optShapes or arguments.maxShapes
    if given_shapes or arguments.task is not None:
        raise UsageError("shapes and the task of a catalogue entry are the catalogue's", value=text)
    folder = resolve.home() / "sources" / entry.id
    folder.mkdir(parents=True, exist_ok=True)
    given = runner_for(entry.task).build_input(entry, folder)
    tensors = tuple(
        Tensor(name=name, dtype=str(array.dtype), shape=tuple(array.shape))
        for name, array in given.samples[0].items()
    )
    return _Model(
        onnx=given.onnx,
        name=entry.id,
        tensors=tensors,
        shapes=({tensor.name: tensor.shape for tensor in tensors},),
        task=given.task,
        licences=(entry.licence,),
        samples=given.samples,
        calibration=given.calibration,
        metric=given.metric,
        max_drop=given.max_drop,
        assets=given.assets,
        float_nodes=given.float_nodes,
        default_output=resolve.engine_path(entry.id, HardwareTarget.detect()),
    )


def _from_source(text: str, arguments: argparse.Namespace, scratch: Path) -> _Model:
    from xinfer.sources import read_onnx
    from xinfer.sources.reference import resolve_source

    path = resolve_source(text)
    source = read_onnx(path, folder=scratch / "source")
    tensors = source_tensors(source.facts.inputs)
    profiles = _profiles(arguments, tensors)
    fixed = {name: profile.opt for name, profile in profiles.items() if profile.is_fixed}
    tensors = tuple(replace(each, shape=fixed.get(each.name, each.shape)) for each in tensors)
    name = (
        path.stem
        if path.suffix == ".onnx" and ":" not in text
        else text.rpartition(":")[2].rpartition("/")[2]
    )
    return _Model(
        onnx=path,
        name=name or "model",
        tensors=tensors,
        shapes=random_shapes(tensors, profiles),
        profiles=profiles,
        task=None if arguments.task is None else parse_task(arguments.task),
        default_output=Path(f"{name or 'model'}.engine"),
    )


def _profiles(arguments: argparse.Namespace, tensors: Sequence[Tensor]) -> dict[str, ShapeProfile]:
    from xinfer.sources.shapes import parse_profiles

    low, opt, high = arguments.minShapes, arguments.optShapes, arguments.maxShapes
    if not (low or opt or high):
        return {}
    profiles = parse_profiles(min_shapes=low, opt_shapes=opt or high or low, max_shapes=high)
    by_name = {tensor.name: tensor for tensor in tensors}
    for name, profile in profiles.items():
        if name not in by_name:
            raise InputError(
                f"the model has no input {name!r}", value=name, hint=f"it has {', '.join(sorted(by_name))}"
            )
        own = by_name[name].shape
        fits = len(own) == len(profile.min) and all(
            size in (-1, small) and size in (-1, large)
            for size, small, large in zip(own, profile.min, profile.max, strict=True)
        )
        if not fits:
            raise InputError(
                f"input {name!r} is {list(own)} (-1 is free), given was {list(profile.opt)}",
                code="input.shape",
                value=list(profile.opt),
            )
    return profiles


def random_shapes(
    tensors: Sequence[Tensor], profiles: Mapping[str, ShapeProfile]
) -> tuple[dict[str, tuple[int, ...]], ...]:
    """The most common shape first, then the smallest and the largest."""
    shapes: list[dict[str, tuple[int, ...]]] = []
    for which in ("opt", "min", "max"):
        shape = {
            tensor.name: getattr(profiles[tensor.name], which)
            if tensor.name in profiles
            else _default(tensor)
            for tensor in tensors
        }
        if shape not in shapes:
            shapes.append(shape)
    return tuple(shapes)


def _default(tensor: Tensor) -> tuple[int, ...]:
    """One sample; pictures of a fair size. Other free axes stay free: nobody could guess them."""
    is_image = tensor.dtype == "uint8" and len(tensor.shape) == 4 and tensor.shape[3] == 3
    sides = (1, 2) if is_image else ()
    return tuple(
        size if size > 0 else 1 if axis == 0 else FREE_IMAGE_SIDE if axis in sides else -1
        for axis, size in enumerate(tensor.shape)
    )


def _held_out(
    model: _Model, arguments: argparse.Namespace
) -> tuple[tuple[Feeds, ...], Literal["data", "catalogue samples", "random inputs"]]:
    if arguments.data is not None:
        limit = arguments.samples or MAX_SAMPLES
        return read_samples(arguments.data, model.tensors, model.task, limit=limit), "data"
    if model.samples:
        return model.samples, "catalogue samples"
    return _random(model, NUM_RANDOM, arguments.seed), "random inputs"


def _calibration(model: _Model, arguments: argparse.Namespace) -> tuple[tuple[Feeds, ...], list[str]]:
    asked = arguments.int8 or "int8" in (arguments.precision or ())
    if arguments.calib == "random":
        remark = "INT8 is fitted to random inputs: good for timing, not for an engine that is used"
        return _random(model, NUM_RANDOM_CALIBRATION, arguments.seed + 1), [remark]
    if arguments.calib is not None:
        path = Path(arguments.calib)
        remarks = []
        if arguments.data is not None and path.resolve() == arguments.data.resolve():
            remarks.append("--calib and --data are the same: the accuracy that is measured is too good")
        return read_samples(path, model.tensors, model.task), remarks
    if model.calibration and (asked or arguments.best or not _chosen(arguments)):
        return model.calibration, []
    if asked:
        raise UsageError("INT8 needs samples to be fitted to", hint="give --calib FOLDER of training samples")
    return (), ["INT8 is not tried: give --calib FOLDER of training samples"] if arguments.best else []


def _chosen(arguments: argparse.Namespace) -> bool:
    return bool(arguments.precision or arguments.fp16 or arguments.bf16 or arguments.int8)


def _precisions(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Without INT8, which comes with its samples. fp32 is always there to compare with."""
    chosen = {"fp32", *(name for name in arguments.precision or () if name != "int8")}
    chosen |= {name for name in ("fp16", "bf16") if getattr(arguments, name)}
    if arguments.best:
        chosen |= {"fp16", "bf16"}
    elif not _chosen(arguments):
        chosen |= {"bf16"}
    return tuple(sorted(chosen))


def _random(model: _Model, num: int, seed: int) -> tuple[Feeds, ...]:
    for shape in model.shapes:
        for name, sizes in shape.items():
            if -1 in sizes:
                dims = "x".join("?" if size < 0 else str(size) for size in sizes)
                raise InputError(
                    f"input {name!r} is {dims}: random inputs need all sizes",
                    code="input.shape",
                    value=list(sizes),
                    hint=f"give --optShapes {name}:{dims.replace('?', 'N')} with numbers for N, or --data",
                )
    if image_spec(model.tensors, model.task) is not None and len(model.shapes) == 1:
        return _pictures(model, num, seed)
    return random_samples(model.tensors, model.shapes, num=num, seed=seed)


def _pictures(model: _Model, num: int, seed: int) -> tuple[Feeds, ...]:
    """Noise is unlike anything that a camera sees; generated pictures are a little closer."""
    from xinfer.zoo.images import image_feeds, sample_images

    spec = image_spec(model.tensors, model.task)
    assert spec is not None
    height, width = model.shapes[0][spec.name][1:3]
    images = sample_images(num, size=(height, width), seed=seed)
    return tuple(image_feeds(spec, image)[0] for image in images)


def _labels(path: Path) -> tuple[str, ...]:
    data = path.read_bytes()
    if data.lstrip().startswith(b"["):
        return read_labels(data)
    try:
        return tuple(line.strip() for line in data.decode().splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not text", value=str(path)) from error
