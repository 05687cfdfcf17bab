"""``python -m ignition_client.jobs <folder> | --describe | --keygen PRIVATE PUBLIC``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ignition_client.jobs", description="Runs one job.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("folder", nargs="?", type=Path, help="the job's folder")
    action.add_argument("--describe", action="store_true", help="print this machine's target as JSON")
    action.add_argument(
        "--keygen", nargs=2, type=Path, metavar=("PRIVATE", "PUBLIC"), help="make a signing key"
    )
    options = parser.parse_args()

    if options.describe:
        from ignition_client.jobs.machine import describe

        print(json.dumps(describe()))
        return 0
    if options.keygen:
        from ignition_client.jobs.machine import generate_signing_key

        generate_signing_key(*options.keygen)
        return 0

    from ignition_client.jobs import guard, runner

    guard.install()
    return runner.run_folder(options.folder.absolute())


if __name__ == "__main__":
    sys.exit(main())
