"""The text recipe: check, split, rungs, choice, calibration, test, export, report.

Everything is decided on the training and validation parts, or by cross-validation where texts are few. The
test part is scored once, at the end, for every candidate, so that the leaderboard can show what each would
have given.

Shapes: N texts, C labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xinfer.preproc.text import Tokenizer
from xtorch.data.check_text import TextInspection, inspect_texts
from xtorch.data.findings import refuse
from xtorch.picks import evenly
from xtorch.progress import Progress, Stages
from xtorch.tasks.feature_cache import FeatureCache
from xtorch.tasks.recipe import Run, write_json
from xtorch.tasks.report import parity
from xtorch.tasks.text import TEMPLATE
from xtorch.tasks.text.candidates import Corpus
from xtorch.tasks.text.competition import LINEAR, TUNE, Competition, Entry
from xtorch.tasks.text.figures import macro_f1
from xtorch.tasks.text.files import (
    export_model,
    logits_parity,
    published_encoder,
    save_model,
    task_spec,
    tokenizer_bytes,
)
from xtorch.tasks.text.kept import Kept
from xtorch.tasks.text.operating import (
    OperatingPoint,
    calibrate,
    label_thresholds,
    operating_point,
    probabilities,
)
from xtorch.tasks.text.outcome import Outcome, report_figures
from xtorch.tasks.text.settings import TextSettings
from xtorch.tasks.text.split import TextSplit, split_texts
from xtorch.tasks.text.tokens import outputs_of, tokenise

_CHECK, _EMBED, _TEST, _EXPORT, _REPORT = (
    "Checking texts",
    "Embedding texts",
    "Testing",
    "Exporting",
    "Writing the report",
)
_PARITY_TEXTS = 200
_TOKEN_STEP = 16
_VERSION = 1
"""Raised when a run with the same texts, settings and seed would tune in another way."""


def run(
    dataset_dir: str | Path,
    output_dir: str | Path,
    *,
    name: str,
    budget_s: float = 300.0,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Train a text classifier and write all that a build needs.

    Args:
        dataset_dir: Labelled texts in a form of `xtorch.data.texts`.
        output_dir: Gets the files of ARCHITECTURE.md, 10.3; all of them or none.
        name: The model's name, for the report.
        budget_s: Tuning the encoder makes so many steps as fit into it, by the time that a few of them take
            at first; the linear rungs, test, export and report always happen.
        seed: Decides splits, batches and hidden tokens.
        settings: Fields of `TextSettings`.
        progress: Told about progress.
        cache_dir: Keeps embeddings of texts between runs, and checkpoints: a run that was killed goes on from
            there when it is run again. None: nothing is kept.

    Returns:
        The fields of `wire.TrainResult`.

    Raises:
        DataError: The data check found an error, or the texts cannot be divided.
        SettingsError: A setting is unknown or out of range.
        WeightsError: The package with the encoder's weights is not installed.
        ExportError: The model could not be exported, or the export gives other answers.
    """
    with _TextRun.begin(
        TEMPLATE,
        TextSettings,
        dataset_dir,
        output_dir,
        name=name,
        budget_s=budget_s,
        seed=seed,
        settings=settings,
        progress=progress,
        cache_dir=cache_dir,
    ) as this:
        return this.execute()


@dataclass(kw_only=True)
class _TextRun(Run[TextSettings]):
    """One run's steps, and what they leave for each other."""

    parts: TextSplit = field(init=False)
    corpus: Corpus = field(init=False)
    max_length: int = field(init=False)

    def execute(self) -> dict[str, Any]:
        weights = {_CHECK: 3, _EMBED: 30, LINEAR: 15, TUNE: 120, _TEST: 10, _EXPORT: 20, _REPORT: 5}
        self.stages = Stages(self.progress, weights)
        inspection = inspect_texts(
            self.dataset_dir,
            text_columns=self.settings.text_columns,
            label_columns=self.settings.label_columns,
            progress=self.stages.within(_CHECK),
        )
        refuse(inspection.errors)
        targets_NC = np.array(
            [[label in row.labels for label in inspection.labels] for row in inspection.usable],
            dtype=np.int64,
        )
        self.parts = split_texts(inspection.usable, targets_NC, seed=self.seed)
        self.corpus = self._corpus(inspection, targets_NC)
        kept = Kept(None if self.cache_dir is None else self.cache_dir / "text" / self._key())
        competition = Competition(
            corpus=self.corpus,
            parts=self.parts,
            settings=self.settings,
            kept=kept,
            stages=self.stages,
            seed=self.seed,
            left_s=lambda: self.left_s,
        )
        entries = competition.entries()
        winner = max(
            (entry for entry in entries if entry.servable),
            key=lambda entry: entry.validation["macro_f1"],
        )
        competition.refit(entries)
        calibrated = self._calibrated(winner)

        # From here on nothing is decided any more.
        self._test(entries)
        assert winner.fitted is not None
        assert winner.fitted.model is not None
        outcome = Outcome(
            inspection=inspection,
            parts=self.parts,
            corpus=self.corpus,
            entries=entries,
            winner=winner,
            model=winner.fitted.model(),
            max_length=self.max_length,
            seed=self.seed,
            **calibrated,
        )
        result = self._write(outcome, self._export(outcome))
        kept.clear()
        return result

    # --------------------------------------------------------------------------------------- steps

    def _corpus(self, inspection: TextInspection, targets_NC: np.ndarray) -> Corpus:
        """Tokens and embeddings of all texts; sets the longest text that the model will see, in tokens."""
        texts = [row.text for row in inspection.usable]
        self.stages.report(_EMBED, 0.0, message=f"{len(texts)} texts")
        data = tokenizer_bytes()
        known = [texts[i] for i in self.parts.development]
        long = tokenise(known, Tokenizer.from_bytes(data, max_length=self.settings.max_tokens))
        wanted = -(-int(np.quantile(long.lengths, 0.99)) // _TOKEN_STEP) * _TOKEN_STEP
        self.max_length = min(self.settings.max_tokens, max(32, wanted))
        tokenizer = Tokenizer.from_bytes(data, max_length=self.max_length)
        tokens = tokenise(texts, tokenizer)
        encoder = published_encoder()
        digest = hashlib.sha256("\0".join([str(self.max_length), *texts]).encode()).hexdigest()
        shape = (len(texts), encoder.bert.config.channels)
        cache = FeatureCache(self.cache_dir, {"kind": "all-MiniLM-L6-v2", "version": 1}, shape)
        frozen = cache.load(digest)
        if frozen is None:
            frozen = outputs_of(encoder, tokens, report=self.stages.counter(_EMBED, "texts"))
            frozen = frozen.astype(np.float16)
            cache.save(digest, frozen)
        return Corpus(
            texts=texts,
            tokens=tokens,
            frozen=frozen.astype(np.float32),
            targets=targets_NC,
            labels=inspection.labels,
            multi_label=inspection.multi_label,
            encoder=encoder,
            tokenise=lambda sentences: tokenise(sentences, tokenizer),
            use_label_names=self.settings.label_names,
        )

    def _key(self) -> str:
        """Names what kept fits belong to."""
        told = [_VERSION, asdict(self.settings), self.seed, self.budget_s, self.max_length]
        digest = hashlib.sha256(json.dumps([told, self.corpus.labels, list(self.corpus.texts)]).encode())
        for rows in (self.corpus.targets, self.parts.test, *(judge for _, judge in self.parts.folds)):
            digest.update(rows.tobytes())
        return digest.hexdigest()[:24]

    def _calibrated(self, winner: Entry) -> dict[str, Any]:
        """Temperature, thresholds and where to abstain, from texts that the logits' models did not see."""
        truth_NC = self.corpus.targets[winner.held]
        multi_label = self.corpus.multi_label
        temperature = calibrate(winner.held_logits, truth_NC, multi_label=multi_label)
        found_NC = probabilities(winner.held_logits, temperature, multi_label=multi_label)
        thresholds = label_thresholds(found_NC, truth_NC) if multi_label else ()
        point: OperatingPoint | None = None
        if not multi_label:
            confidence_N = found_NC.max(axis=1)
            right_N = found_NC.argmax(axis=1) == truth_NC.argmax(axis=1)
            # Any share of wrong answers is at most 1: then every text is answered.
            point = operating_point(confidence_N, right_N, self.settings.max_wrong or 1.0)
        return {
            "temperature": temperature,
            "thresholds": thresholds,
            "point": point,
            "abstains": self.settings.max_wrong is not None and not multi_label,
        }

    def _test(self, entries: Sequence[Entry]) -> None:
        for index, entry in enumerate(entries):
            self.stages.report(_TEST, index / len(entries), message=entry.rung.title)
            assert entry.fitted is not None
            entry.test_logits = entry.fitted.logits(self.parts.test)

    def _export(self, outcome: Outcome) -> dict[str, Any]:
        """Write the model in both forms; gate the ONNX file on held-out texts."""
        self.stages.report(_EXPORT, 0.0)
        columns = {
            "text": list(self.settings.text_columns),
            "label": list(self.settings.label_columns),
        }
        save_model(outcome.model, self.folder, columns=columns)
        export_model(outcome.model, self.folder / "model.onnx")
        self.stages.report(_EXPORT, 0.7, message="comparing with the source model")
        picked = evenly(self.parts.test.tolist(), _PARITY_TEXTS)
        source_NC, onnx_NC = logits_parity(
            outcome.model, self.folder / "model.onnx", self.corpus.tokens.take(picked)
        )
        truth_NC = self.corpus.targets[picked]
        return parity(source_NC, onnx_NC, lambda logits_NC: macro_f1(truth_NC, outcome.given(logits_NC)))

    def _write(self, outcome: Outcome, compared: Mapping[str, Any]) -> dict[str, Any]:
        self.stages.report(_REPORT, 0.0)
        labels = self.corpus.labels
        write_json(
            self.folder / "task.json",
            task_spec(
                labels,
                max_length=self.max_length,
                multi_label=self.corpus.multi_label,
                temperature=outcome.temperature,
                thresholds=outcome.thresholds,
                abstain_below=outcome.point.threshold if outcome.abstains and outcome.point else None,
            ),
        )
        write_json(self.folder / "labels.json", list(labels))
        rows = outcome.inspection.usable
        write_json(
            self.folder / "splits.json",
            {
                part: [{"row": rows[i].place, "labels": list(rows[i].labels)} for i in indices]
                for part, indices in outcome.indices.items()
            },
        )
        return self.finish(
            num_test=len(self.parts.test),
            candidate=outcome.winner.rung.name,
            parity=compared,
            **report_figures(outcome),
        )
