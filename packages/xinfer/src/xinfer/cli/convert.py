"""``xinfer convert``: a model into another format, without a search."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from xinfer.cli import output
from xinfer.cli.command import Command, UsageError
from xinfer.cli.samples import NUM_RANDOM_CALIBRATION, random_samples, read_samples
from xinfer.package import EnginePackage

FORMATS = {
    "openvino-ir": "a folder with model.xml and model.bin",
    "onnx-fp16": "ONNX with weights and arithmetic in fp16",
    "onnx-int8": "ONNX with explicit quantisation (QDQ), for every runtime; needs --calib",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("source", metavar="IN", help="ONNX file, URL, reference, or FILE.engine")
    parser.add_argument("destination", metavar="OUT", type=Path, help="must not exist")
    parser.add_argument(
        "--to",
        choices=tuple(FORMATS),
        help="; ".join(f"{name}: {text}" for name, text in FORMATS.items())
        + ". An engine gives its artifact.",
    )
    parser.add_argument("--calib", metavar="DIR|FILE.npz|random", help="training samples, for onnx-int8")
    parser.add_argument("--seed", type=int, default=0, help="of random samples; default: 0")


def run(arguments: argparse.Namespace) -> int:
    """Converts."""
    destination: Path = arguments.destination
    if destination.exists():
        raise UsageError(f"{destination} exists already", value=str(destination))
    is_engine = Path(arguments.source).suffix == ".engine"
    if is_engine == (arguments.to is not None):
        raise UsageError(
            "an engine gives its artifact: leave --to out" if is_engine else "say what to convert to",
            hint=None if is_engine else f"--to {'|'.join(FORMATS)}",
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    # Next to where it goes, so that it appears whole or not at all.
    with tempfile.TemporaryDirectory(prefix=".xinfer-", dir=destination.parent) as folder:
        work = Path(folder)
        made = work / "made"
        if is_engine:
            package = EnginePackage.open(arguments.source).extract(work / "engine")
            shutil.move(package / "artifact", made)
        else:
            _convert(arguments, work, made)
        made.rename(destination)
    output.note(f"{arguments.to or 'artifact'}: {destination}")
    return 0


def _convert(arguments: argparse.Namespace, work: Path, made: Path) -> None:
    from xinfer.sources import read_onnx
    from xinfer.sources.reference import resolve_source

    source = read_onnx(resolve_source(arguments.source), folder=work / "source")
    if arguments.to == "openvino-ir":
        from xinfer.builders import openvino_ir

        openvino_ir.convert(source.path, made)
        return
    from xinfer.builders import quantise

    if arguments.to == "onnx-fp16":
        quantise.to_fp16(source.path, made)
        return
    if arguments.calib is None:
        raise UsageError("INT8 needs samples to be fitted to", hint="give --calib FOLDER of training samples")
    from xinfer.cli.plan import random_shapes, source_tensors

    tensors = source_tensors(source.facts.inputs)
    if arguments.calib == "random":
        shapes = random_shapes(tensors, {})
        samples = random_samples(tensors, shapes, num=NUM_RANDOM_CALIBRATION, seed=arguments.seed)
        output.warn("fitted to random inputs: good for timing, not for use")
    else:
        samples = read_samples(Path(arguments.calib), tensors, None)
    quantise.portable_qdq(source.path, made, samples)


COMMANDS = (
    Command(
        name="convert",
        help="convert a model to OpenVINO IR, fp16 or INT8 ONNX, or an engine to its artifact",
        configure=configure,
        run=run,
    ),
)
