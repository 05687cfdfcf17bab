"""The `check` job: looks at a dataset's files. Imports no torch: the answer is wanted in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignition_client.errors import InputError
from ignition_client.jobs.runner import JobContext
from ignition_client.jobs.train import recipe_module
from ignition_client.wire import CheckReport, CheckSpec


def run(context: JobContext) -> dict[str, Any]:
    """The check of the template that was asked for, else of the one that the files suit best.

    Returns:
        A `wire.CheckReport`.

    Raises:
        InputError: This agent does not know the template.
    """
    from xtorch.data import detect

    spec = CheckSpec.model_validate(context.job.spec)
    dataset_dir = context.inputs / "dataset"
    suits = detect.suits(dataset_dir)
    template = spec.template or _first_known(suits)
    if template is None:
        found = detect.describe_unsuited(dataset_dir).to_dict()
    else:
        found = _checked(template, dataset_dir, context)
    report = CheckReport.model_validate({**found, "template": template, "suits": suits})
    for finding in report.findings:
        print(f"{finding.severity}: {finding.title} ({finding.num})")
    print(f"{report.num_items} {report.item} in {report.duration_s:.1f} s")
    return report.model_dump(mode="json")


def _first_known(templates: list[str]) -> str | None:
    for template in templates:
        try:
            recipe_module(template)
        except InputError as error:
            print(error.message)
        else:
            return template
    return None


def _checked(template: str, dataset_dir: Path, context: JobContext) -> dict[str, Any]:
    found: dict[str, Any] = recipe_module(template).check(dataset_dir, progress=context.progress)
    return found
