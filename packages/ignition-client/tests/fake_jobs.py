"""Stands in for ``python -m ignition_client.jobs``: what it does is said by the job's spec.

spec: {"do": "succeed" | "fail" | "crash" | "sleep" | "stubborn" | "orphan" | "bad_result"}
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ignition_client.jobs import guard
from ignition_client.jobs.runner import JobContext, run_folder


def job(context: JobContext) -> dict[str, object]:
    spec = context.job.spec
    do = spec.get("do", "succeed")
    print(f"doing: {do} — größer", flush=True)
    context.progress("Working", 0.5, metrics={"loss": 0.25})
    if do == "fail":
        from ignition_client.errors import InputError

        raise InputError("Too few images.", code="data.too_few", hint="Add some.")
    if do == "crash":
        raise ZeroDivisionError("division by zero")
    if do == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if do == "orphan":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(spec["pid_file"]).write_text(f"{os.getpid()} {child.pid}")
    if do in ("sleep", "stubborn", "orphan"):
        while True:
            time.sleep(0.05)
    if do == "bad_result":
        return {"value": float("nan")}
    listing = {
        str(path.relative_to(context.inputs)): path.stat().st_size
        for path in sorted(context.inputs.rglob("*"))
        if path.is_file()
    }
    for name, text in spec.get("outputs", {"listing.json": json.dumps(listing)}).items():
        path = context.outputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    context.progress("Done", 1.0)
    return {"listing": listing, "cache_dir_exists": context.job.cache_dir.is_dir()}


def main() -> int:
    if sys.argv[1] == "--describe":
        print(
            json.dumps(
                {"target": "cpu-test", "machine": {"cpu": "test"}, "kinds": ["check", "train", "build"]}
            )
        )
        return 0
    if sys.argv[1] == "--keygen":
        Path(sys.argv[2]).write_text("private")
        Path(sys.argv[3]).write_text("public")
        return 0
    guard.install()
    return run_folder(Path(sys.argv[2] if sys.argv[1] == "run" else sys.argv[1]), lambda _kind: job)


if __name__ == "__main__":
    sys.exit(main())
