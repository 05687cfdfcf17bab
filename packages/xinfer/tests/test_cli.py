"""The xinfer command: exit codes, and output that people and scripts can read."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xinfer import schema
from xinfer.cli import loading, main, output, verify
from xinfer.cli.app import COMMANDS, parser
from xinfer.cli.command import duration_s, share, sizes
from xinfer.cli.progress import Progress
from xinfer.errors import HubError
from xinfer.hub import Hub
from xinfer.manifest import Latency, Manifest, Receipt
from xinfer.package import EnginePackage
from xinfer.signing import generate_key
from xinfer.targets import HardwareTarget

ROOT = Path(__file__).parents[3]
HOW_TO = ROOT / "docs" / "how-to" / "xinfer.md"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a trust policy of the test's own, and no Hub."""
    monkeypatch.setenv("XINFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XINFER_TRUST", str(tmp_path / "trust.toml"))
    for name in ("IGNITION_URL", "IGNITION_API_KEY", "XINFER_WEIGHTS", "XINFER_MAX_ISA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def doctored(
    package_folder: Path, path: Path, *, p50_ms: float = 1.0, isa: tuple[str, ...] = (), metric: str = ""
) -> Path:
    """The tiny engine, unsigned, with another receipt or manifest."""
    folder = path.with_suffix(".folder")
    shutil.copytree(package_folder, folder)
    (folder / "model.sig").unlink()
    manifest = Manifest.from_json((folder / "manifest.json").read_bytes())
    receipt = Receipt.from_json((folder / "receipt.json").read_bytes())
    row = dataclasses.replace(
        receipt.candidates[0], latency_ms=Latency(p50=p50_ms, p95=p50_ms, p99=p50_ms), throughput_per_s=1e-3
    )
    receipt = dataclasses.replace(receipt, candidates=(row,))
    if metric and receipt.accuracy:
        receipt = dataclasses.replace(receipt, accuracy=dataclasses.replace(receipt.accuracy, metric=metric))
    needs = dataclasses.replace(manifest.compatibility, isa=isa)
    (folder / "manifest.json").write_bytes(schema.dumps(dataclasses.replace(manifest, compatibility=needs)))
    (folder / "receipt.json").write_bytes(schema.dumps(receipt))
    EnginePackage.write(path, folder)
    return path


def answer(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


# ------------------------------------------------------------------------------- the command itself


def test_an_error_is_one_line_and_a_hint_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "x.engine").write_bytes(b"x")
    command = [sys.executable, "-m", "xinfer.cli", "inspect", str(tmp_path / "x.engine")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert result.stderr.startswith("error: x.engine is not an engine file")
    assert "Traceback" not in result.stderr


def test_wrong_use_exits_with_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["verify"])
    assert caught.value.code == 2


def test_unknown_command_exits_with_2_and_names_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmrak", "x.engine"]) == 2
    assert "did you mean benchmark?" in capsys.readouterr().err


def test_interrupt_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "doctor", dataclasses.replace(COMMANDS["doctor"], run=interrupted))
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


TERMINATED = """
import dataclasses, signal
from xinfer.cli import main
from xinfer.cli.app import COMMANDS

def terminated(_):
    signal.raise_signal(signal.SIGTERM)
    return 0

before = signal.getsignal(signal.SIGTERM)
COMMANDS["doctor"] = dataclasses.replace(COMMANDS["doctor"], run=terminated)
status = main(["doctor"])
assert signal.getsignal(signal.SIGTERM) is before
raise SystemExit(status)
"""


def test_termination_ends_a_command_as_an_interrupt_does() -> None:
    # In a process of its own: pytest's may run tests beside the main thread, which alone handles signals.
    ended = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")


def test_system_error_exits_with_3_and_names_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: argparse.Namespace) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "out.engine")

    monkeypatch.setitem(COMMANDS, "doctor", dataclasses.replace(COMMANDS["doctor"], run=full))
    assert main(["doctor"]) == 3
    assert "out.engine: No space left on device" in capsys.readouterr().err


def options_of(root: argparse.ArgumentParser) -> set[tuple[str, str]]:
    """Every command (with its actions) and long option."""
    found = set()
    for action in root._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                found.add((name, name))
                found |= {(f"{name} {owner}", option) for owner, option in options_of(child)}
        else:
            found |= {("", option) for option in action.option_strings if option.startswith("--")}
    return found


def test_every_command_and_option_stands_in_the_how_to() -> None:
    if not HOW_TO.is_file():
        pytest.skip("the documentation is not beside this package")
    text = HOW_TO.read_text()
    missing = sorted(
        f"{owner} {option}"
        for owner, option in options_of(parser())
        if option not in ("--help",) and f"{option}" not in text
    )
    assert missing == []
    assert [name for name in COMMANDS if f"xinfer {name}" not in text] == []


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("120s", 120), ("10m", 600), ("1.5h", 5400), ("30d", 2592000)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ("read", "text"),
    [(duration_s, "soon"), (duration_s, "-1s"), (sizes, "0"), (sizes, "a"), (share, "2"), (share, "x")],
)
def test_bad_arguments_are_refused(read: Any, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        read(text)


def test_shares_and_sizes_are_read() -> None:
    assert (share("1%"), share("0.02"), sizes("1,4,8")) == (0.01, 0.02, (1, 4, 8))


def test_json_has_no_numbers_that_json_lacks() -> None:
    assert output.plain({"a": float("nan"), "b": Path("x"), "c": (1, 2.5)}) == {
        "a": None,
        "b": "x",
        "c": [1, 2.5],
    }


# ------------------------------------------------------------------------------------------ progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_line_per_step_in_a_pipe() -> None:
    stream, now = io.StringIO(), [0.0]
    with Progress(stream, clock=lambda: now[0]) as progress:
        progress("Measuring", 0.0, "8 samples")
        now[0] = 30.0
        progress("Building", 0.25, "openvino/fp32")
        progress("Built", 1.0, "x.engine")
    assert stream.getvalue().splitlines() == [
        "  0% Measuring, 8 samples",
        " 25% Building, openvino/fp32, about 1:30 left",
        "100% Built, x.engine",
    ]


def test_progress_writes_over_its_line_on_a_terminal_and_leaves_it_empty() -> None:
    stream, now = Terminal(), [0.0]
    with Progress(stream, clock=lambda: now[0]) as progress:
        now[0] = 10.0
        progress("Building", 0.5, "a long message")
        progress("Built", 1.0)
    text = stream.getvalue()
    assert "\n" not in text
    assert "about 10 s left" in text
    assert text.endswith("\r")
    assert text.rsplit("\r", 2)[-2].strip() == ""


def test_time_left_goes_down_between_steps() -> None:
    now = [0.0]
    progress = Progress(io.StringIO(), clock=lambda: now[0])
    assert progress.left_s() is None
    now[0] = 20.0
    progress("Building", 0.5)
    assert progress.left_s() == 20
    now[0] = 35.0
    assert progress.left_s() == 5
    now[0] = 60.0
    assert progress.left_s() == 0


# ---------------------------------------------------------------------------------- engines in files


def test_inspect_shows_the_candidate_table(engine_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(engine_file)]) == 0
    text = capsys.readouterr().out
    assert "tiny version 1" in text
    assert any(line.split()[:2] == ["only", "selected"] for line in text.splitlines())


def test_inspect_json_is_both_documents(engine_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(engine_file), "--json"]) == 0
    document = answer(capsys)
    assert document["manifest"]["identity"]["name"] == "tiny"
    assert document["receipt"]["candidates"][0]["status"] == "selected"


def test_unpack_prints_the_command_that_verifies(
    engine_file: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unpack", str(engine_file), str(tmp_path / "u")]) == 0
    command = capsys.readouterr().out.strip().replace("PUBLIC_KEY", str(keys[1])).split()
    result = subprocess.run([sys.executable, "-m", *command], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert main(["unpack", str(engine_file), str(tmp_path / "u")]) == 2


def test_report_says_what_is_known_about_the_signature(
    engine_file: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "r.html"
    assert main(["report", str(engine_file), "-o", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert "signed, not checked here" in page.read_text()
    assert main(["report", str(engine_file), "-o", str(page), "--public-key", str(keys[1])]) == 0
    assert "signature verified" in page.read_text()
    main(["trust", "add", "acme", str(keys[1]), "--models", "tiny"])
    assert main(["report", str(engine_file), "-o", str(page)]) == 0
    assert "signature verified: acme" in page.read_text()


def test_report_is_not_written_when_the_signature_is_bad(engine_file: Path, tmp_path: Path) -> None:
    generate_key(tmp_path / "k.pem", tmp_path / "k.pub.pem")
    page = tmp_path / "r.html"
    assert (
        main(["report", str(engine_file), "-o", str(page), "--public-key", str(tmp_path / "k.pub.pem")]) == 1
    )
    assert not page.exists()


def test_benchmark_says_latency_and_throughput(engine_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["benchmark", str(engine_file), "--no-signature", "--seconds", "50ms", "--batch", "2"]
    assert main([*arguments, "--json"]) == 0
    document = answer(capsys)
    assert document["batch"] == 2
    assert document["throughput_per_s"] > 0
    assert main(arguments) == 0
    assert "for a batch of 2" in capsys.readouterr().out


def test_profile_lists_the_costliest_layers_first(
    engine_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["profile", str(engine_file), "--no-signature", "--repeats", "3"]
    assert main([*arguments, "--json"]) == 0
    times = [layer["time_ms"] for layer in answer(capsys)]
    assert times == sorted(times, reverse=True)
    assert main([*arguments, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "type", "executes", "ms", "share"]
    assert lines[-1].startswith(f"and {len(times) - 2} more")


# -------------------------------------------------------------------------------------------- verify


def test_verify_succeeds_with_the_key_and_fails_with_another(
    engine_file: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(engine_file), "--public-key", str(keys[1]), "--seconds", "50ms"]) == 0
    assert "reproduced" in capsys.readouterr().out
    generate_key(tmp_path / "k.pem", tmp_path / "k.pub.pem")
    assert main(["verify", str(engine_file), "--public-key", str(tmp_path / "k.pub.pem")]) == 1
    assert "signature.invalid" in capsys.readouterr().err


def test_verify_refuses_an_engine_of_nobody_unless_told(
    engine_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(engine_file)]) == 1
    error = capsys.readouterr().err
    assert "signature.no_key" in error
    assert "--no-signature" in error
    assert main(["verify", str(engine_file), "--no-signature", "--seconds", "50ms", "--json"]) == 0
    document = answer(capsys)
    assert (document["verdict"], document["signature"]) == ("verified", "not checked")
    assert document["golden_cosine"] > 0.999


def test_verify_asks_the_trust_policy(
    engine_file: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "other.toml"
    assert main(["trust", "add", "acme", str(keys[1]), "--models", "bolts", "--policy", str(policy)]) == 0
    assert main(["verify", str(engine_file), "--trust", str(policy)]) == 1
    assert "acme may not sign 'tiny'" in capsys.readouterr().err
    assert main(["trust", "add", "acme", str(keys[1]), "--models", "tiny"]) == 0
    assert main(["verify", str(engine_file), "--seconds", "50ms"]) == 0


def test_an_engine_that_was_built_here_needs_no_signature_until_it_changes(
    package_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = doctored(package_folder, tmp_path / "a.engine")
    loading.remember_built(EnginePackage.open(path))
    assert main(["verify", str(path), "--seconds", "50ms"]) == 0
    assert "built here" in capsys.readouterr().out
    other = doctored(package_folder, tmp_path / "b.engine", p50_ms=2.0)
    assert main(["verify", str(other)]) == 1


def test_engines_of_the_local_cache_need_no_signature(
    package_folder: Path, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = doctored(package_folder, tmp_path / "a.engine")
    kept = home / "engines" / "yolox-nano-coco" / f"{HardwareTarget.detect().name}.engine"
    kept.parent.mkdir(parents=True)
    path.rename(kept)
    assert main(["verify", "yolox-nano-coco", "--seconds", "50ms", "--json"]) == 0
    assert answer(capsys)["signature"] == "built here"


def test_verify_names_missing_instruction_sets_as_incompatible(
    package_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = doctored(package_folder, tmp_path / "a.engine", isa=("no_such_set",))
    assert main(["verify", str(path), "--no-signature", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["verdict"] == "incompatible"
    assert "this CPU lacks no_such_set" in captured.err
    assert "engine.incompatible" in captured.err


def test_verify_warns_when_slower_and_fails_only_when_strict(
    package_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = doctored(package_folder, tmp_path / "a.engine", p50_ms=1e-6)
    arguments = ["verify", str(path), "--no-signature", "--seconds", "50ms"]
    assert main(arguments) == 0
    assert "warning: it is" in capsys.readouterr().err
    assert main([*arguments, "--strict-speed"]) == 1
    assert "times slower here" in capsys.readouterr().err


def test_verify_measures_accuracy_again_on_an_anomaly_detectors_images(
    engine_file: Path, images: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from .conftest import encode

    values, codes = [], []
    for folder, ok, defective in (("one", images[1], images[2]), ("other", images[2], images[1])):
        for name, pixels in (("ok/a.png", ok), ("defective/b.png", defective)):
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True)
            file.write_bytes(encode(pixels))
        arguments = ["verify", str(engine_file), "--no-signature", "--seconds", "50ms", "--json"]
        codes.append(main([*arguments, "--data", str(tmp_path / folder)]))
        accuracy = answer(capsys)["accuracy"]
        assert (accuracy["metric"], accuracy["num_samples"]) == ("image_auroc", 2)
        values.append(accuracy["here"])
    # Two images stand in one order; the other one loses the budget.
    assert sorted(zip(values, codes, strict=True)) == [(0.0, 1), (1.0, 0)]


def test_verify_compares_with_the_source_model_only_when_it_is_the_right_one(
    package_folder: Path, anomaly_onnx: Path, tmp_path: Path, png: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = doctored(package_folder, tmp_path / "a.engine", metric="cosine")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(png)
    arguments = ["verify", str(path), "--no-signature", "--data", str(tmp_path / "data")]
    assert main(arguments) == 2
    assert "--onnx" in capsys.readouterr().err
    assert main([*arguments, "--onnx", str(anomaly_onnx)]) == 2
    assert "is not the model that this engine was built from" in capsys.readouterr().err


def test_verify_runs_itself_again_under_a_lower_instruction_set(
    engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], str]] = []

    def run(command: list[str], *, env: dict[str, str], check: bool) -> subprocess.CompletedProcess[bytes]:
        del check
        calls.append((command, env["XINFER_MAX_ISA"]))
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(verify.subprocess, "run", run)
    arguments = ["verify", str(engine_file), "--isa", "avx2", "--no-signature", "--json", "--seconds", "1"]
    assert main(arguments) == 1
    ((command, level),) = calls
    assert level == "avx2"
    assert command[1:3] == ["-m", "xinfer.cli"]
    again = parser().parse_args(command[3:])
    assert (again.isa, again.no_signature, again.json, again.seconds) == (None, True, True, 1.0)


# ------------------------------------------------------------------------------ keys, trust and doctor


def test_keygen_refuses_to_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["keygen", str(tmp_path / "k.pem"), str(tmp_path / "k.pub.pem")]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err


def test_trust_is_given_listed_and_taken_away(
    keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trust", "list"]) == 0
    assert "nobody is trusted" in capsys.readouterr().out
    assert main(["trust", "add", "acme", str(keys[1]), "--models", "a-*,b", "--until", "2099-01-31"]) == 0
    capsys.readouterr()
    assert main(["trust", "list", "--json"]) == 0
    (publisher,) = answer(capsys)["publishers"]
    assert publisher["models"] == ["a-*", "b"]
    assert publisher["not_after"].startswith("2099-01-31T23:59:59")
    assert main(["trust", "remove", "acmee"]) == 2
    assert "did you mean acme?" in capsys.readouterr().err
    assert main(["trust", "remove", "acme"]) == 0
    assert main(["trust", "revoke", str(keys[1])]) == 0
    assert main(["trust", "add", "acme", str(keys[1])]) == 1
    assert "signature.revoked" in capsys.readouterr().err


def test_doctor_names_the_target_and_each_backend(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    text = capsys.readouterr().out
    assert "target" in text
    assert main(["doctor", "--json"]) == code
    document = answer(capsys)
    assert code == int(bool(document["missing"]))
    states = {state["name"]: state for state in document["backends"]}
    assert "fp32" in states["onnxruntime"]["builds"]
    for state in states.values():
        assert state["builds"] or state["reasons"], state["name"]


# ----------------------------------------------------------------------------------------- cache, hub


def test_cache_is_listed_measured_and_cleared_by_age(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = home / "builds" / "old.engine", home / "hub" / "new.engine"
    for path, size in ((old, 1000), (new, 500)):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size))
    (home / "trusted-by-nobody").write_text("kept")
    os.utime(old, (1_000_000, 1_000_000))
    assert main(["cache", "list"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:3]] == [
        "old.engine",
        "new.engine",
    ]
    assert main(["cache", "size", "--json"]) == 0
    assert answer(capsys)["bytes"] == 1500
    assert main(["cache", "clear", "--older-than", "30d"]) == 0
    assert (old.exists(), new.exists()) == (False, True)
    assert main(["cache", "clear", "--part", "builds"]) == 0
    assert new.exists()
    assert main(["cache", "clear"]) == 0
    assert not new.exists()
    assert (home / "trusted-by-nobody").exists()


def test_hub_needs_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hub", "pull", "acme/bolts"]) == 3
    assert "hub.not_configured" in capsys.readouterr().err


def test_hub_build_comes_with_the_farm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hub", "build", "acme/bolts"]) == 3
    assert "hub.no_farm" in capsys.readouterr().err


def test_hub_pull_puts_the_engine_where_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pulled = tmp_path / "cached.engine"
    pulled.write_bytes(b"engine")

    def download(model: str, target: str, *, progress: Any) -> Path:
        assert (model, target) == ("acme/bolts", "cpu-x86_64-avx2")
        progress(1 << 20, 2 << 20)
        return pulled

    monkeypatch.setattr("xinfer.hub.download_engine", download)
    wanted = tmp_path / "out" / "bolts.engine"
    arguments = ["hub", "pull", "acme/bolts", "--target", "cpu-x86_64-avx2", "-o", str(wanted), "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert wanted.read_bytes() == b"engine"
    assert json.loads(captured.out)["engine"] == str(wanted)
    assert "50% Pulling acme/bolts, 1.0 MiB of 2.0 MiB" in captured.err


def test_hub_pull_names_the_closest_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: Any, **__: Any) -> Path:
        raise HubError("the Hub has no engine", code="hub.no_engine", hint="check the model's name")

    monkeypatch.setenv("IGNITION_URL", "https://hub.example")
    monkeypatch.setattr("xinfer.hub.download_engine", missing)
    monkeypatch.setattr(Hub, "engines", lambda _: [{"model": "acme/bolts"}, {"model": "acme/gravel"}])
    assert main(["hub", "pull", "acme/bolds"]) == 3
    assert "did you mean acme/bolts" in capsys.readouterr().err
