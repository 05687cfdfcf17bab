"""``xinfer build``: from a model to its fastest engine that is still right."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from xinfer import schema
from xinfer.backends import BACKENDS
from xinfer.builders import metrics
from xinfer.builders.builder import PRECISIONS
from xinfer.cli import output
from xinfer.cli.command import Command, UsageError, add_json, duration_s, names, positive, share, sizes
from xinfer.cli.loading import remember_built
from xinfer.cli.progress import Progress
from xinfer.zoo import resolve

if TYPE_CHECKING:
    from xinfer.cli.plan import Plan
    from xinfer.package import EnginePackage

DEFAULT_BUDGET_S = 120.0

RANDOM_WARNING = """\
******************************************************************************************
*  No --data: accuracy is measured on RANDOM inputs, as agreement with the source model. *
*  It says nothing about how right the engine is on your data. Give --data FOLDER.       *
******************************************************************************************"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    what = parser.add_argument_group("what to build")
    what.add_argument(
        "source", nargs="?", help="catalogue id, ONNX file, https URL, or a reference such as xtorch:resnet50"
    )
    what.add_argument("--onnx", metavar="FILE", help="ONNX file")
    what.add_argument("--task", type=Path, metavar="task.json", help="task spec that goes into the engine")
    what.add_argument("--labels", type=Path, metavar="FILE", help="class names: one a line, or a JSON list")
    what.add_argument(
        "--minShapes", metavar="SPEC", default="", help="smallest shapes: input:1x3x224x224,..."
    )
    what.add_argument(
        "--optShapes", metavar="SPEC", default="", help="most common shapes; alone: the only ones"
    )
    what.add_argument("--maxShapes", metavar="SPEC", default="", help="largest shapes")

    how = parser.add_argument_group("what to try")
    how.add_argument("--fp16", action="store_true", help="try fp16")
    how.add_argument("--bf16", action="store_true", help="try bf16")
    how.add_argument("--int8", action="store_true", help="try INT8; needs --calib")
    how.add_argument("--best", action="store_true", help="try every precision; INT8 where there is --calib")
    how.add_argument("--precision", type=names, metavar="LIST", help=f"of {','.join(PRECISIONS)}")
    how.add_argument("--backend", type=names, metavar="LIST", help=f"of {','.join(BACKENDS)}; default: all")
    how.add_argument("--objective", choices=("latency", "throughput"), help="default: throughput")
    how.add_argument("--batch", type=sizes, metavar="LIST", help="batch sizes to try under load: 1,4,8")
    how.add_argument(
        "--budget", type=duration_s, default=DEFAULT_BUDGET_S, metavar="TIME", help="120s (default), 10m, ..."
    )
    how.add_argument("--seed", type=int, default=0, help="of quantisers and random inputs; default: 0")

    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, metavar="DIR", help="held-out samples: .npz, .npy or images")
    data.add_argument(
        "--calib", metavar="DIR|FILE.npz|random", help="training samples that INT8 is fitted to"
    )
    data.add_argument("--metric", choices=tuple(metrics.AGREEMENT), help="agreement with the source model")
    data.add_argument("--max-drop", type=share, metavar="SHARE", help="accepted loss of it; default: 0.01")
    data.add_argument("--samples", type=positive, metavar="N", help="take at most so many of --data")

    to = parser.add_argument_group("the result")
    to.add_argument("-o", "--output", "--saveEngine", type=Path, metavar="FILE", help="the engine file")
    to.add_argument("--sign", type=Path, metavar="KEY", help="private key (xinfer keygen)")
    to.add_argument("--name", help="the model's name; default: the source's")
    to.add_argument("--version", type=positive, default=1, metavar="N", help="of the model; default: 1")
    to.add_argument("--license", action="append", default=[], metavar="SPDX", help="may be given again")
    to.add_argument("--no-cache", action="store_true", help="build again what was built before")
    to.add_argument("--report", type=Path, metavar="FILE.html", help="write the receipt as a page")
    add_json(to, "the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Builds."""
    from xinfer.cli.plan import make_plan

    _check(arguments)
    with tempfile.TemporaryDirectory(prefix="xinfer-cli-") as scratch, Progress() as progress:
        plan = make_plan(arguments, Path(scratch))
        if plan.random_accuracy:
            output.note(RANDOM_WARNING)
        for remark in plan.remarks:
            output.note(f"note: {remark}")
        builder = plan.builder.with_budget(arguments.budget).with_seed(arguments.seed).on_progress(progress)
        if not arguments.no_cache:
            builder = builder.with_cache(resolve.home() / "builds")
        plan.output.parent.mkdir(parents=True, exist_ok=True)
        package = builder.build_and_save(plan.output, signing_key=arguments.sign)
    remember_built(package)
    if arguments.report:
        from xinfer.report import write_report

        write_report(package, arguments.report, signature="signed" if package.signed else "unsigned")
    if arguments.json:
        output.print_json(
            {
                "engine": plan.output,
                "digest": package.digest,
                "signed": package.signed,
                "accuracy_on": plan.accuracy_on,
                "manifest": schema.loads(schema.dumps(package.manifest), where="manifest"),
                "receipt": schema.loads(schema.dumps(package.receipt), where="receipt"),
            }
        )
    else:
        _show(package, plan, arguments)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.source is None) == (arguments.onnx is None):
        raise UsageError("say what to build: an id or a source, or --onnx FILE")
    for flag in ("precision", "backend"):
        known = PRECISIONS if flag == "precision" else BACKENDS
        wrong = [name for name in getattr(arguments, flag) or () if name not in known]
        if wrong:
            raise UsageError(
                f"--{flag} knows no {wrong[0]!r}", value=wrong, hint=f"choose of {', '.join(known)}"
            )
    wants_int8 = arguments.int8 or "int8" in (arguments.precision or ())
    if wants_int8 and arguments.calib is None and arguments.onnx is not None:
        raise UsageError(
            "INT8 needs samples to be fitted to",
            hint="give --calib FOLDER of training samples; --calib random is for timing only",
        )
    if arguments.sign is not None and not arguments.sign.is_file():
        raise UsageError(
            f"there is no key {arguments.sign}", hint="make one: xinfer keygen key.pem key.pub.pem"
        )


def _show(package: EnginePackage, plan: Plan, arguments: argparse.Namespace) -> None:
    from xinfer.report.facts import speedups

    manifest, receipt, row = package.manifest, package.receipt, package.receipt.selected
    accuracy = receipt.accuracy
    output.print_pairs(
        {
            "engine": plan.output,
            "winner": f"{row.id}, executes {manifest.precision.executed}",
            "latency": row.latency_ms
            and f"{row.latency_ms.p50:.3g} ms median, {row.latency_ms.p99:.3g} ms p99",
            "throughput": row.throughput_per_s and f"{row.throughput_per_s:,.1f} per s",
            "speed": [str(each) for each in speedups(receipt)],
            "accuracy": accuracy
            and f"{accuracy.metric} {accuracy.engine_value:.4f} against {accuracy.source_value:.4f} of the "
            f"source ({accuracy.num_samples} {'RANDOM ' * plan.random_accuracy}samples; "
            f"drop {accuracy.drop:.4f} of {accuracy.budget:.4f} allowed)",
            "signed": "yes" if package.signed else "no",
            "report": arguments.report,
        }
    )
    output.note(f"\nnext: xinfer inspect {plan.output}, xinfer verify {plan.output}")


COMMANDS = (
    Command(
        name="build",
        help="search for the fastest engine of a model that keeps its accuracy",
        configure=configure,
        run=run,
    ),
)
