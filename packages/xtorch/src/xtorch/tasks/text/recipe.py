"""The text recipe: check, split, rungs, choice, calibration, test, export, report.

Everything is decided on the training and validation parts, or by cross-validation where texts are few. The
test part is scored once, at the end, for every candidate, so that the leaderboard can show what each would
have given.

Shapes: N texts, C labels.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xinfer.preproc.text import Tokenizer
from xtorch.data.check_text import TextInspection, inspect_texts
from xtorch.data.findings import Finding
from xtorch.errors import ColumnsError, DataError, TableError
from xtorch.progress import Progress, Stages, silent
from xtorch.tasks.feature_cache import FeatureCache
from xtorch.tasks.recipe import all_or_nothing, parse_settings, write_json
from xtorch.tasks.text import TEMPLATE
from xtorch.tasks.text.candidates import (
    Contrastive,
    Corpus,
    FineTuned,
    Fitted,
    Frozen,
    Majority,
    Rung,
    Tfidf,
)
from xtorch.tasks.text.figures import macro_f1
from xtorch.tasks.text.files import (
    export_model,
    logits_parity,
    published_encoder,
    save_model,
    task_spec,
    tokenizer_bytes,
)
from xtorch.tasks.text.model import TextModel
from xtorch.tasks.text.operating import (
    OperatingPoint,
    answers,
    calibrate,
    label_thresholds,
    operating_point,
    probabilities,
)
from xtorch.tasks.text.outcome import Entry, Outcome, write_report
from xtorch.tasks.text.settings import SERVABLE, TextSettings
from xtorch.tasks.text.split import TextSplit, split_texts
from xtorch.tasks.text.tokens import Tokens, outputs_of, tokenise

_CHECK, _EMBED, _LINEAR, _TUNE, _TEST, _EXPORT, _REPORT = (
    "Checking texts",
    "Embedding texts",
    "Fitting linear rungs",
    "Tuning the encoder",
    "Testing",
    "Exporting",
    "Writing the report",
)
_STRENGTHS = (1.0, 10.0, 100.0)
_MAX_CONTRASTIVE = 2000
"""With more texts to learn from, full fine-tuning does as well in less time."""
_MIN_FULL = 150
"""With fewer, full fine-tuning has nothing to go by."""
_PARITY_TEXTS = 200
_TOKEN_STEP = 16
_MIN_TUNE_S = 8.0


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
        budget_s: Tuning the encoder makes so many steps as fit into it; the linear rungs, test, export and
            report always happen.
        seed: Decides splits, batches and hidden tokens.
        settings: Fields of `TextSettings`.
        progress: Told about progress.
        cache_dir: Keeps embeddings of texts between runs; None: nothing is kept.

    Returns:
        The fields of `wire.TrainResult`.

    Raises:
        DataError: The data check found an error.
        SettingsError: A setting is unknown or out of range.
        WeightsError: The package with the encoder's weights is not installed.
        ExportError: The model could not be exported, or the export gives other answers.
    """
    started = time.monotonic()
    chosen = parse_settings(TextSettings, settings or {})
    with all_or_nothing(Path(output_dir)) as partial:
        return _Run(
            dataset_dir=Path(dataset_dir),
            folder=partial,
            name=name,
            deadline=started + budget_s,
            seed=seed,
            settings=chosen,
            progress=progress or silent,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            started=started,
        ).execute()


def _refuse(errors: Sequence[Finding]) -> None:
    """Turn the data check's first error into an exception."""
    kinds = {"columns.unclear": ColumnsError, "file.unreadable": TableError}
    for finding in errors:
        raise kinds.get(finding.code, DataError)(f"{finding.title}.", value=finding.num, hint=finding.hint)


@dataclass(kw_only=True)
class _Run:
    """One run's inputs and steps."""

    dataset_dir: Path
    folder: Path
    name: str
    deadline: float
    seed: int
    settings: TextSettings
    progress: Progress
    cache_dir: Path | None
    started: float
    stages: Stages = field(init=False)

    def execute(self) -> dict[str, Any]:
        weights = {_CHECK: 2, _EMBED: 10, _LINEAR: 10, _TUNE: 60, _TEST: 5, _EXPORT: 15, _REPORT: 3}
        self.stages = Stages(self.progress, weights)
        self.stages.report(_CHECK, 0.0)
        inspection = inspect_texts(
            self.dataset_dir,
            text_columns=self.settings.text_columns,
            label_columns=self.settings.label_columns,
        )
        _refuse(inspection.errors)
        targets_NC = np.array(
            [[label in row.labels for label in inspection.labels] for row in inspection.usable],
            dtype=np.int64,
        )
        parts = split_texts(inspection.usable, targets_NC, seed=self.seed)
        if not len(parts.test):
            raise DataError(
                "Nothing is left to test on.",
                value=len(inspection.usable),
                hint="add texts, or fewer near duplicates: these must not be in two parts",
            )
        corpus, max_length = self._corpus(inspection, targets_NC)
        entries = self._entries(corpus, parts)
        winner = max(
            (entry for entry in entries if entry.servable),
            key=lambda entry: entry.validation["macro_f1"] or 0.0,
        )
        self._refit(entries, parts)
        calibrated = self._calibrated(winner, corpus)

        # From here on nothing is decided any more.
        self._test(entries, parts)
        assert winner.fitted is not None
        assert winner.fitted.model is not None
        model = winner.fitted.model()
        outcome = Outcome(
            inspection=inspection,
            parts=parts,
            corpus=corpus,
            entries=entries,
            winner=winner,
            model=model,
            max_length=max_length,
            seed=self.seed,
            **calibrated,
        )
        parity = self._export(outcome, model)
        return self._write(outcome, parity)

    # --------------------------------------------------------------------------------------- steps

    def _corpus(self, inspection: TextInspection, targets_NC: np.ndarray) -> tuple[Corpus, int]:
        """Tokens and embeddings of all texts, and the longest text that the model will see, in tokens."""
        texts = [row.text for row in inspection.usable]
        self.stages.report(_EMBED, 0.0, message=f"{len(texts)} texts")
        data = tokenizer_bytes()
        long = tokenise(texts, Tokenizer.from_bytes(data, max_length=self.settings.max_tokens))
        wanted = -(-int(np.quantile(long.lengths, 0.99)) // _TOKEN_STEP) * _TOKEN_STEP
        max_length = min(self.settings.max_tokens, max(32, wanted))
        tokenizer = Tokenizer.from_bytes(data, max_length=max_length)
        tokens = tokenise(texts, tokenizer)
        encoder = published_encoder()
        digest = hashlib.sha256("\0".join([str(max_length), *texts]).encode()).hexdigest()
        shape = (len(texts), encoder.bert.config.channels)
        cache = FeatureCache(self.cache_dir, {"kind": "all-MiniLM-L6-v2", "version": 1}, shape)
        frozen = cache.load(digest)
        if frozen is None:

            def report(done: int, of: int) -> None:
                self.stages.report(_EMBED, done / of, message=f"{done} of {of} texts")

            frozen = outputs_of(encoder, tokens, report=report).astype(np.float16)
            cache.save(digest, frozen)
        corpus = Corpus(
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
        return corpus, max_length

    def _entries(self, corpus: Corpus, parts: TextSplit) -> list[Entry]:
        """Fit what is asked for and what there is time for, and judge it by the folds."""
        entries = [self._judged([Majority(corpus=corpus)], "baseline", corpus, parts)]
        wanted = self.settings.candidates
        linear: dict[str, list[Rung]] = {
            "tfidf": [Tfidf(corpus=corpus, strength=s) for s in _STRENGTHS],
            "frozen": [Frozen(corpus=corpus, strength=s) for s in _STRENGTHS],
        }
        # What can be served must exist even if the tuned ones find no time.
        kept = [kind for kind in linear if kind in wanted or kind == "frozen"]
        for index, kind in enumerate(kept):
            self.stages.report(_LINEAR, index / len(kept), message=linear[kind][0].title)
            entries.append(self._judged(linear[kind], "model", corpus, parts))
        self.stages.report(_LINEAR, 1.0)
        num = len(parts.development)
        tuned: list[Rung] = []
        if "contrastive" in wanted and num <= _MAX_CONTRASTIVE:
            tuned.append(Contrastive(corpus=corpus))
        if "fine_tuned" in wanted and num >= _MIN_FULL:
            tuned.append(FineTuned(corpus=corpus))
        for index, rung in enumerate(tuned):
            rounds = len(parts.folds) + parts.is_cross_validated
            share_s = (self.deadline - time.monotonic()) / (len(tuned) - index)
            if share_s / rounds < _MIN_TUNE_S:
                entries[-1].notes.append(f"{rung.title} was left out: no time was left for it.")
                continue
            entries.append(
                self._judged(
                    [rung], "model", corpus, parts, limit_s=share_s / rounds, part=(index, len(tuned))
                )
            )
        served = max(entry.validation["macro_f1"] or 0.0 for entry in entries if entry.servable)
        for entry in entries:
            if entry.kind == "model" and (entry.validation["macro_f1"] or 0.0) > served:
                entry.notes.append(
                    "Better on validation than what is kept, but it cannot be served: engines take the "
                    "encoder's tokens."
                )
        return entries

    def _judged(
        self,
        rungs: Sequence[Rung],
        kind: Any,
        corpus: Corpus,
        parts: TextSplit,
        *,
        limit_s: float = 0.0,
        part: tuple[int, int] = (0, 1),
    ) -> Entry:
        """The best of some variants of a rung, with its logits for all texts that folds held back."""
        started = time.monotonic()
        held = np.concatenate([judge for _, judge in parts.folds])
        best: Entry | None = None
        for rung in rungs:
            logits: list[np.ndarray] = []
            fitted: Fitted | None = None
            for number, (rows, judge) in enumerate(parts.folds):

                def report(share: float, message: str, number: int = number) -> None:
                    done = (part[0] + (number + share) / len(parts.folds)) / part[1]
                    if limit_s:
                        self.stages.report(_TUNE, min(done, 0.999), message=f"{rungs[0].title}: {message}")

                fitted = rung.fit(rows, seed=self.seed, limit_s=limit_s, report=report)
                logits.append(fitted.logits(judge))
            assert fitted is not None
            entry = Entry(
                rung=rung,
                kind=kind,
                fitted=None if parts.is_cross_validated else fitted,
                settings=fitted.settings,
                servable=rung.name in SERVABLE,
                held=held,
                held_logits=np.concatenate(logits),
                limit_s=limit_s,
            )
            entry.validation = _scores(entry.held_logits, corpus.targets[held], corpus.multi_label)
            if (
                best is None
                or (entry.validation["macro_f1"] or 0) > (best.validation["macro_f1"] or 0) + 1e-9
            ):
                best = entry
        assert best is not None
        best.fit_s = time.monotonic() - started
        return best

    def _refit(self, entries: Sequence[Entry], parts: TextSplit) -> None:
        """After cross-validation, every rung learns from all texts but the test's."""
        for entry in entries:
            if entry.fitted is None:
                started = time.monotonic()
                entry.fitted = entry.rung.fit(
                    parts.development, seed=self.seed, limit_s=entry.limit_s or 1.0, report=lambda *_: None
                )
                entry.settings = entry.fitted.settings
                entry.fit_s += time.monotonic() - started

    def _calibrated(self, winner: Entry, corpus: Corpus) -> dict[str, Any]:
        """Temperature, thresholds and where to abstain, from texts that the logits' models did not see."""
        truth_NC = corpus.targets[winner.held]
        multi_label = corpus.multi_label
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

    def _test(self, entries: Sequence[Entry], parts: TextSplit) -> None:
        for index, entry in enumerate(entries):
            self.stages.report(_TEST, index / len(entries), message=entry.rung.title)
            assert entry.fitted is not None
            entry.test_logits = entry.fitted.logits(parts.test)

    def _export(self, outcome: Outcome, model: TextModel) -> dict[str, Any]:
        """Write the model in both forms; gate the ONNX file on held-out texts."""
        self.stages.report(_EXPORT, 0.0)
        columns = {
            "text": list(self.settings.text_columns),
            "label": list(self.settings.label_columns),
        }
        save_model(model, self.folder, columns=columns)
        export_model(model, self.folder / "model.onnx")
        self.stages.report(_EXPORT, 0.7, message="comparing with the source model")
        test = outcome.parts.test
        picked = test[np.linspace(0, len(test) - 1, min(len(test), _PARITY_TEXTS)).round().astype(int)]
        tokens: Tokens = outcome.corpus.tokens.take(picked)
        source_NC, onnx_NC = logits_parity(model, self.folder / "model.onnx", tokens)
        truth_NC = outcome.corpus.targets[picked]
        metric = [macro_f1(truth_NC, outcome.given(logits_NC)) for logits_NC in (source_NC, onnx_NC)]
        return {
            "num_samples": len(picked),
            "metric_source": metric[0],
            "metric_onnx": metric[1],
            "max_abs_diff": float(np.abs(source_NC - onnx_NC).max()),
        }

    def _write(self, outcome: Outcome, parity: Mapping[str, Any]) -> dict[str, Any]:
        self.stages.report(_REPORT, 0.0)
        labels = outcome.inspection.labels
        write_json(
            self.folder / "task.json",
            task_spec(
                labels,
                max_length=outcome.max_length,
                multi_label=outcome.corpus.multi_label,
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
        report = write_report(
            outcome,
            self.folder,
            template=TEMPLATE,
            name=self.name,
            parity=parity,
            stages=self.stages,
            last_stage=_REPORT,
            started=self.started,
        )
        return {
            "metric": report.metric,
            "value": report.metrics[report.metric]["value"],
            "num_test": len(outcome.parts.test),
            "candidate": outcome.winner.rung.name,
            "duration_s": report.duration_s,
        }


def _scores(logits_NC: np.ndarray, truth_NC: np.ndarray, multi_label: bool) -> dict[str, float | None]:
    """Figures to choose by; with several labels a text, each label at its best threshold."""
    found_NC = probabilities(logits_NC, 1.0, multi_label=multi_label)
    thresholds = label_thresholds(found_NC, truth_NC) if multi_label else ()
    given_NC = answers(found_NC, thresholds, multi_label=multi_label)
    return {
        "macro_f1": macro_f1(truth_NC, given_NC),
        "accuracy": float((truth_NC == given_NC).all(axis=1).mean()),
    }
