"""The xinfer command: exit codes, and output that people and scripts can read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from xinfer.cli import main
from xinfer.signing import generate_key


def test_inspect_shows_the_candidate_table(engine_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(engine_file)]) == 0
    text = capsys.readouterr().out
    assert "tiny version 1" in text
    assert any(line.split()[:2] == ["only", "selected"] for line in text.splitlines())


def test_inspect_json_is_both_documents(engine_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(engine_file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["manifest"]["identity"]["name"] == "tiny"
    assert document["receipt"]["candidates"][0]["status"] == "selected"


def test_verify_succeeds_with_the_key_and_fails_with_another(
    engine_file: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(engine_file), "--public-key", str(keys[1])]) == 0
    assert "reproduced" in capsys.readouterr().out
    generate_key(tmp_path / "k.pem", tmp_path / "k.pub.pem")
    assert main(["verify", str(engine_file), "--public-key", str(tmp_path / "k.pub.pem")]) == 1
    assert "signature.invalid" in capsys.readouterr().err


def test_unpack_prints_the_command_that_verifies(
    engine_file: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["unpack", str(engine_file), str(tmp_path / "u")]) == 0
    command = capsys.readouterr().out.strip().replace("PUBLIC_KEY", str(keys[1])).split()
    result = subprocess.run([sys.executable, "-m", *command], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert main(["unpack", str(engine_file), str(tmp_path / "u")]) == 2


def test_run_answers_one_json_line_per_image(
    engine_file: Path, png: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(png)
    bad.write_bytes(b"x")
    assert main(["run", str(engine_file), str(good), str(bad), "--no-signature", "--json"]) == 3
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert answers[0]["verdict"] in ("ok", "defective")
    assert answers[1]["code"] == "image.unreadable"


def test_doctor_names_the_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "target" in capsys.readouterr().out


def test_keygen_refuses_to_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["keygen", str(tmp_path / "k.pem"), str(tmp_path / "k.pub.pem")]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err


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
