"""From a folder of images to a live endpoint, on this machine: what `make demo` runs.

    python examples/demo.py                      # sample photographs, see make_samples.py
    python examples/demo.py --data FOLDER        # your own, in ok/ and (if there are some) defective/
    python examples/demo.py --detach             # leave the Hub running at the end

Everything goes through the public SDK and the `ignition` command's own pieces.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from ignition_client import ClientError, Ignition, Prediction
from ignition_client.cli import local, summary
from ignition_client.cli.live import push_progress, watch_run
from ignition_client.cli.output import ExitCode, Output, exit_code_of, parse_duration_s
from ignition_client.config import LocalHub, ignition_home, read_local_hub
from ignition_client.wire import RunStatus

TEMPLATE = "visual-anomaly-detection"
SAMPLES = Path(__file__).parents[1] / ".demo" / "samples"


def sample_images() -> Path:
    """The demo's own images, made at the first call."""
    from make_samples import make_samples

    if not SAMPLES.exists():
        partial = SAMPLES.with_name("samples.partial")
        shutil.rmtree(partial, ignore_errors=True)
        make_samples(partial)
        partial.rename(SAMPLES)
    return SAMPLES


def running_hub(out: Output) -> LocalHub:
    """The Hub of this home, started where it does not run."""
    home = ignition_home()
    hub = read_local_hub(home) if local.hub_is_running(home) else None
    if hub is not None:
        out.say(f"The Hub runs already: {hub.url}")
        return hub
    out.say("Starting the Hub, its gateway and an agent ...")
    return local.wait_until_up(home, local.start_hub(home, [], detach=True))


def unseen_image(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An image of the test part, which nothing was trained or tuned on; a defective one if there is one."""
    held_out = sorted(report["held_out"], key=lambda item: (-item["label"], -item["score"]))
    return next(item for item in held_out if (folder / item["path"]).is_file())


def run_demo(folder: Path, name: str, budget: str, out: Output) -> tuple[LocalHub, list[str]]:
    """Train, optimise, deploy and call.

    Returns:
        The Hub, and the lines to end with: URL, key, verdict.

    Raises:
        ClientError: The Hub cannot be started, refuses the data, or the run fails; with a hint.
    """
    local_hub = running_hub(out)
    with Ignition() as hub:
        out.say(f"\nTrain & Optimize {folder} as {name!r}:")
        with push_progress(out) as progress:
            run = hub.train(
                TEMPLATE, data=folder, name=name, budget_s=parse_duration_s(budget), progress=progress
            )
        out.say(f"Watch it in the browser: {hub.url}/runs/{run.id}")
        run = watch_run(hub, run.id, out)
        if run.status is not RunStatus.SUCCEEDED:
            reason = run.error.message if run.error else run.status.value
            raise ClientError(
                f"The run did not succeed: {reason}", hint=run.error.hint if run.error else None
            )
        story = summary.gather(hub, run, data=folder, new_key=True)
        out.console.print(summary.show(story), highlight=False)

        image = unseen_image(story.report, folder)
        answer: Prediction = hub.predict(story.endpoint.url, folder / image["path"], key=story.key)
    assert answer.score is not None, "anomaly detectors answer with a score"
    assert answer.threshold is not None
    truth = "defective" if image["label"] else "ok"
    ending = [
        f"Image    {image['path']} (labelled {truth}; not used in training)",
        f"URL      {story.endpoint.url}",
        f"Key      {story.key}",
        f"Verdict  {answer.verdict}   score {answer.score:.3f}, threshold {answer.threshold:.3f}, "
        f"{answer.timing_ms['total']:.1f} ms",
    ]
    return local_hub, ending


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with ok/ and defective/; default: samples")
    parser.add_argument("--name", help="of the model and endpoint; default: the folder's name")
    parser.add_argument("--budget", default="2m", help="for training (default: %(default)s)")
    parser.add_argument("--detach", action="store_true", help="leave the Hub running and return")
    arguments = parser.parse_args()

    out = Output()
    started_here = not local.hub_is_running(ignition_home())
    try:
        if arguments.data is not None and not arguments.data.is_dir():
            raise ClientError(f"{arguments.data} is not a folder.", hint="make demo DATA=path/to/folder")
        folder = (arguments.data or sample_images()).absolute()
        default_name = folder.name if arguments.data else "surfaces"
        name = arguments.name or re.sub(r"[^a-z0-9]+", "-", default_name.lower()).strip("-")[:63] or "demo"
        hub, ending = run_demo(folder, name, arguments.budget, out)
    except ClientError as error:
        out.error(error)
        if started_here:
            local.stop_hub(ignition_home())
        return exit_code_of(error)
    except KeyboardInterrupt:
        out.note("\nThe run goes on in the background: `make up` prints where, `make down` stops everything.")
        return ExitCode.INTERRUPTED

    out.say("")
    if hub.setup_url:
        out.say(f"Set your password for the browser, once: {hub.setup_url}")
    if arguments.detach:
        out.say("The Hub runs in the background; `make down` stops it.\n")
        print("\n".join(ending), flush=True)
        return ExitCode.OK
    print("\n".join(ending), flush=True)
    out.say("\nThe Hub stays up until Ctrl-C.")
    try:
        signal.pause()
    except KeyboardInterrupt:
        out.say(f"\nHub {local.stop_hub(ignition_home())}.")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
