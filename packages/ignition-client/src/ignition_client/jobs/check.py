"""The `check` job: looks at a dataset's images. Imports no torch: the answer is wanted in seconds."""

from __future__ import annotations

from typing import Any

from ignition_client.jobs.runner import JobContext
from ignition_client.wire import CheckReport


def run(context: JobContext) -> dict[str, Any]:
    """
    Returns:
        A `wire.CheckReport`.
    """
    from xtorch.data.check import check_image_folder

    report = CheckReport.model_validate(
        check_image_folder(context.inputs / "dataset", progress=context.progress)
    )
    for finding in report.findings:
        print(f"{finding.severity}: {finding.title} ({finding.num})")
    print(f"{report.num_images} images in {report.duration_s:.1f} s")
    return report.model_dump(mode="json")
