"""The classification recipe: check, split, features, head, fine-tuning, threshold, export, test, report.

Everything is decided on the training and validation parts. The test part is answered once, at the end, for
every candidate, so that the leaderboard can show what each would have given.

Shapes: N images, C classes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtorch.class_metrics import class_metrics, log_loss, softmax
from xtorch.data.check import UsableImage
from xtorch.data.check_classification import ClassInspection, inspect_classes
from xtorch.data.class_splits import folds, split_classes
from xtorch.data.classes import scan_classes
from xtorch.errors import DataError, LayoutError, TooFewImagesError, TuningStorageError
from xtorch.export import export_image_model
from xtorch.models import efficientnet
from xtorch.models.classifier import Classifier, ClassifierConfig
from xtorch.progress import Progress, Stages, silent
from xtorch.tasks.classification import finetune, operating_point
from xtorch.tasks.classification.answers import answers, check_parity
from xtorch.tasks.classification.features import FeatureExtractor, Features, read_pixels
from xtorch.tasks.classification.figures import (
    class_table,
    confused_table,
    confusion,
    reliability_chart,
    review_chart,
)
from xtorch.tasks.classification.files import save_model, task_spec
from xtorch.tasks.classification.gallery import doubtful_labels, worst_mistakes
from xtorch.tasks.classification.head import LinearHead, TunedHead, fit_head, tune_head
from xtorch.tasks.classification.settings import ClassificationSettings
from xtorch.tasks.recipe import all_or_nothing, parse_settings, write_json
from xtorch.tasks.report import LeaderboardRow, Report
from xtorch.tasks.tuning import progress_chart, trials_table, tuning_facts
from xtorch.tune import TrialRow

TEMPLATE = "image-classification"
_CHECK, _FEATURES, _HEAD, _TUNE, _EXPORT, _REPORT = (
    "Checking images",
    "Extracting features",
    "Tuning the classifier",
    "Fine-tuning the network",
    "Exporting",
    "Writing the report",
)
_FOLDS = 5
_SEARCH_VERSION = 1
"""Raised when the same settings of the classifier would give other values."""
_HEAD_SHARE = 0.35
"""Of the time that is left when features are there."""
_EXPORT_S = 40.0
"""Kept for export, test and report."""
_MIN_FINE_TUNE_S = 20.0
_CLEAR_GAIN = 0.02
"""Nats of log loss by which fine-tuning has to win: validation chose its epoch and setting as well."""
_MIN_VALIDATION = 20
"""Fewer validation images cannot tell whether fine-tuning helps."""
_PARITY_IMAGES = 32


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
    """Trains an image classifier and writes all that a build needs.

    Args:
        dataset_dir: Images in a layout of `xtorch.data.classes`.
        output_dir: Gets the files of ARCHITECTURE.md, 10.3; all of them or none.
        name: The model's name, for the report.
        budget_s: For searching and training: what was not begun by then is left out. Features, one setting of
            the classifier, test, export and report always happen.
        seed: Decides splits, draws and orders.
        settings: Fields of `ClassificationSettings`.
        progress: Told about progress.
        cache_dir: Keeps features and an interrupted search between runs; None: nothing is kept.

    Returns:
        The fields of `wire.TrainResult`.

    Raises:
        LayoutError, TooFewImagesError, DataError: The data check found an error.
        SettingsError: A setting is unknown or out of range.
        WeightsError: The pretrained weights are missing.
        ExportError: The model could not be exported, or the export gives other answers.
    """
    started_s = time.monotonic()
    chosen = parse_settings(ClassificationSettings, settings or {})
    with all_or_nothing(Path(output_dir)) as partial:
        return _Run(
            dataset_dir=Path(dataset_dir),
            folder=partial,
            name=name,
            deadline_s=started_s + budget_s,
            seed=seed,
            settings=chosen,
            progress=progress or silent,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            started_s=started_s,
        ).execute()


def _refuse(inspection: ClassInspection) -> None:
    """Turns the data check's first error into an exception."""
    for finding in inspection.errors:
        kind = {"image.none": LayoutError, "class.one": TooFewImagesError}.get(finding["code"], DataError)
        raise kind(f"{finding['title']}.", value=finding["num"], hint=finding["hint"])


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A classifier that competes.

    Attributes:
        row: Of the leaderboard, but for the test part.
        unseen, unseen_labels: Calibrated probabilities [N,C] of images that it did not see, and their labels
            [N]: what the operating point is chosen by.
    """

    row: LeaderboardRow
    model: Classifier
    unseen: np.ndarray
    unseen_labels: np.ndarray
    log_loss: float


@dataclass(kw_only=True)
class _Run:
    """One run's inputs and steps."""

    dataset_dir: Path
    folder: Path
    name: str
    deadline_s: float
    seed: int
    settings: ClassificationSettings
    progress: Progress
    cache_dir: Path | None
    started_s: float

    def execute(self) -> dict[str, Any]:
        scanned = scan_classes(self.dataset_dir)
        num = len(scanned.images)
        self.stages = Stages(
            self.progress,
            {
                _CHECK: 0.01 * num,
                _FEATURES: 0.08 * num,
                _HEAD: 40,
                _TUNE: 60,
                _EXPORT: 20,
                _REPORT: 0.03 * num,
            },
        )

        def checked(_: str, /, *, progress: float | None = None, message: str = "", **_details: Any) -> None:
            self.stages.report(_CHECK, progress or 0.0, message=message)

        self.stages.report(_CHECK, 0.0)
        inspection = inspect_classes(scanned, checked)
        _refuse(inspection)
        self.labels = inspection.labels
        self.parts = split_classes(inspection.usable, seed=self.seed)
        self.truth = {
            part: np.array([image.label for image in images], dtype=np.int64)
            for part, images in self.parts.parts.items()
        }
        self.config = ClassifierConfig(num_classes=len(self.labels), input_size=self.settings.input_size)
        features = self._features()
        tuned, candidates = self._candidates(features)
        winner = candidates[0]
        for candidate in candidates[1:]:
            if candidate.log_loss < winner.log_loss - _CLEAR_GAIN:
                winner = candidate
        confidence_N = winner.unseen.max(axis=1)
        right_N = winner.unseen.argmax(axis=1) == winner.unseen_labels
        point = operating_point.choose(
            confidence_N, right_N, review_cost=self.settings.review_cost, seed=self.seed
        )
        # From here on nothing is decided any more.
        return self._write(inspection, tuned, candidates, winner, point)

    # ------------------------------------------------------------------------------------------- steps

    def _features(self) -> dict[str, Features]:
        """Of the training and validation part; the test part waits."""
        extractor = FeatureExtractor(self.config, cache_dir=self.cache_dir)
        total = len(self.parts.train) + len(self.parts.validation)
        found: dict[str, Features] = {}
        before = 0
        for part in ("train", "validation"):
            images = self.parts.parts[part]

            def report(done: int, _: int, before: int = before) -> None:
                self.stages.report(
                    _FEATURES, (before + done) / total, message=f"{before + done} of {total} images"
                )

            found[part] = extractor.features(self.dataset_dir, images, report)
            before += len(images)
        return found

    def _candidates(self, features: Mapping[str, Features]) -> tuple[TunedHead, list[_Candidate]]:
        """The tuned classifier on frozen features and, where time and data allow, the fine-tuned network."""
        left_s = self.deadline_s - time.monotonic() - _EXPORT_S
        pooled_NVF = np.concatenate([features[part].pooled for part in ("train", "validation")])
        labels_N = np.concatenate([self.truth[part] for part in ("train", "validation")])
        images = [*self.parts.train, *self.parts.validation]
        may_tune = self.settings.fine_tune and len(self.parts.validation) >= _MIN_VALIDATION
        start_s = time.monotonic()
        search = partial(
            tune_head,
            pooled_NVF,
            labels_N,
            folds(images, _FOLDS, seed=self.seed),
            len(self.labels),
            budget_s=max(1.0, left_s * (_HEAD_SHARE if may_tune else 1.0)),
            max_trials=self.settings.max_trials,
            seed=self.seed,
            on_trial=lambda row: self._report_trial(_HEAD, row, self.settings.max_trials),
        )
        identity = self._identity(images)
        try:
            tuned = search(storage=self._journal(identity), identity=identity)
        except TuningStorageError:
            # Another run has the same search, or its journal is damaged: a search can do without.
            tuned = search()
        head = fit_head(pooled_NVF, labels_N, len(self.labels), tuned.params).tempered(tuned.temperature)
        candidates = [self._head_candidate(tuned, head, labels_N, time.monotonic() - start_s)]
        left_s = self.deadline_s - time.monotonic() - _EXPORT_S
        if may_tune and left_s > _MIN_FINE_TUNE_S:
            candidates.append(self._fine_tuned(features, tuned, left_s))
        return tuned, candidates

    def _identity(self, images: Sequence[UsableImage]) -> str:
        """Of everything that the search for the classifier depends on besides its settings."""
        content = [[image.digest, image.label, image.group] for image in images]
        text = json.dumps([_SEARCH_VERSION, content, self.config.to_dict(), self.seed])
        return hashlib.sha256(text.encode()).hexdigest()

    def _journal(self, identity: str) -> Path | None:
        """Where the search is kept, to go on after an interruption."""
        return None if self.cache_dir is None else self.cache_dir / "searches" / f"{identity[:32]}.jsonl"

    def _head_candidate(
        self, tuned: TunedHead, head: LinearHead, labels_N: np.ndarray, fit_s: float
    ) -> _Candidate:
        # Judged on the validation images alone, by heads that did not see them: as the others are.
        of_validation = slice(len(self.parts.train), None)
        unseen_NC = tuned.probabilities
        return _Candidate(
            row=LeaderboardRow(
                name="frozen_head",
                title="Classifier on the frozen network's features",
                kind="model",
                kept=False,
                validation=_figures(self.truth["validation"], unseen_NC[of_validation]),
                test={},
                fit_s=round(fit_s, 3),
                settings=dict(tuned.params),
                note="Validated in cross-validation, then fitted on training and validation images.",
            ),
            model=self._model(finetune.efficientnet_with_head(head)),
            unseen=unseen_NC,
            unseen_labels=labels_N,
            log_loss=log_loss(self.truth["validation"], unseen_NC[of_validation]),
        )

    def _fine_tuned(self, features: Mapping[str, Features], tuned: TunedHead, left_s: float) -> _Candidate:
        start_s = time.monotonic()
        head = fit_head(features["train"].pooled, self.truth["train"], len(self.labels), tuned.params)
        found = finetune.fine_tune(
            features["train"],
            self.truth["train"],
            features["validation"],
            self.truth["validation"],
            head.tempered(tuned.temperature),
            budget_s=left_s,
            seed=self.seed,
            on_trial=lambda row: self._report_trial(_TUNE, row, finetune.MAX_TRIALS),
        )
        with torch.no_grad():
            found.net._fc.weight /= found.temperature
            found.net._fc.bias /= found.temperature
        best = found.search.best
        assert best is not None
        unseen_NC = softmax(found.validation_logits / found.temperature)
        return _Candidate(
            row=LeaderboardRow(
                name="fine_tuned",
                title="Last blocks of the network trained too",
                kind="model",
                kept=False,
                validation=_figures(self.truth["validation"], unseen_NC),
                test={},
                fit_s=round(time.monotonic() - start_s, 3),
                settings={**best.params, **best.facts, "trials": len(found.search.trials)},
                note="Fitted on training images; validation chose setting, epoch and temperature.",
            ),
            model=self._model(found.net),
            unseen=unseen_NC,
            unseen_labels=self.truth["validation"],
            log_loss=found.validation_log_loss,
        )

    def _model(self, net: efficientnet.EfficientNetLite0) -> Classifier:
        model = Classifier(self.config)
        model.backbone.load_state_dict(net.state_dict())
        return model.eval().requires_grad_(False)

    def _report_trial(self, stage: str, row: TrialRow, num: int) -> None:
        figures = {} if row.value is None else {"log_loss": row.value, **row.measured}
        self.stages.report(
            stage,
            min(1.0, (row.number + 1) / num),
            message=f"trial {row.number + 1}",
            metrics={"trial": float(row.number + 1), **figures},
        )

    def _export(self, model: Classifier) -> dict[str, Any]:
        """Writes the model in both forms; gates the ONNX file on held-out images of several sizes."""
        self.stages.report(_EXPORT, 0.0)
        save_model(model, self.folder)
        export_image_model(model, self.folder / "model.onnx", output_names=["logits"])
        self.stages.report(_EXPORT, 0.7, message="comparing with the source model")
        picked = _spread(self.parts.test, _PARITY_IMAGES)
        images = [read_pixels(self.dataset_dir, image.path, self.config) for image in picked]
        source_NC, onnx_NC = check_parity(model, self.folder / "model.onnx", images)
        truth_N = np.array([image.label for image in picked])
        return {
            "num_samples": len(picked),
            "max_abs_diff": float(np.abs(source_NC - onnx_NC).max()),
            "metric_source": float((source_NC.argmax(axis=1) == truth_N).mean()),
            "metric_onnx": float((onnx_NC.argmax(axis=1) == truth_N).mean()),
        }

    def _write(
        self,
        inspection: ClassInspection,
        tuned: TunedHead,
        candidates: Sequence[_Candidate],
        winner: _Candidate,
        point: operating_point.ReviewPoint,
    ) -> dict[str, Any]:
        parity = self._export(winner.model)
        self.stages.report(_REPORT, 0.0)
        test, truth_N = self.parts.test, self.truth["test"]
        logits = answers([each.model for each in candidates], self.dataset_dir, test, self.config)
        tested = [softmax(logits_NC) for logits_NC in logits]
        probabilities_NC = tested[candidates.index(winner)]
        answers_N = probabilities_NC.argmax(axis=1)
        confidence_N, right_N = probabilities_NC.max(axis=1), answers_N == truth_N
        metrics = class_metrics(truth_N, probabilities_NC, seed=self.seed)
        self.stages.report(_REPORT, 0.6, message="drawing the worst mistakes")
        gallery = worst_mistakes(
            self.dataset_dir, self.folder, test, self.labels, probabilities_NC, winner.model
        )
        learned = [*self.parts.train, *self.parts.validation]
        doubtful, doubtful_table = doubtful_labels(
            self.dataset_dir, self.folder, learned, self.labels, tuned.probabilities, winner.model
        )
        write_json(self.folder / "task.json", task_spec(self.config, self.labels))
        write_json(self.folder / "labels.json", list(self.labels))
        splits = {
            part: [{"path": image.path, "label": image.label} for image in images]
            for part, images in self.parts.parts.items()
        }
        write_json(self.folder / "splits.json", splits)
        self.stages.report(_REPORT, 1.0)
        self.stages.close()
        tables = [
            class_table(self.labels, truth_N, answers_N),
            confused_table(self.labels, truth_N, answers_N),
            doubtful_table,
            trials_table(tuned.search, "log_loss", title="Settings of the classifier that were tried"),
        ]
        duration_s = round(time.monotonic() - self.started_s, 3)
        report = Report(
            template=TEMPLATE,
            name=self.name,
            seed=self.seed,
            duration_s=duration_s,
            timings_s=self.stages.timings_s,
            check=inspection.report,
            protocol=self.parts.protocol,
            counts=self.parts.counts(self.labels),
            metric="top1",
            metrics=metrics,
            leaderboard=[
                *(
                    replace(each.row, kept=each is winner, test=_figures(truth_N, given_NC))
                    for each, given_NC in zip(candidates, tested, strict=True)
                ),
                self._majority(),
            ],
            operating_point=point.to_dict(confidence_N, right_N),
            confusion=confusion(self.labels, truth_N, answers_N),
            charts=[
                reliability_chart(truth_N, probabilities_NC),
                review_chart(confidence_N, right_N, point.threshold),
                progress_chart(tuned.search, "log loss", lower_is_better=True),
            ],
            tables=[table for table in tables if table is not None],
            gallery=[*gallery, *doubtful],
            tuning=tuning_facts(tuned.search),
            parity=parity,
            held_out=[
                {
                    "path": image.path,
                    "label": self.labels[image.label],
                    "answer": self.labels[answer],
                    "confidence": float(confidence),
                }
                for image, answer, confidence in zip(test, answers_N, confidence_N, strict=True)
            ],
        )
        write_json(self.folder / "report.json", report.to_dict())
        return {
            "metric": "top1",
            "value": metrics["top1"]["value"],
            "num_test": len(test),
            "candidate": winner.row.name,
            "duration_s": duration_s,
        }

    def _majority(self) -> LeaderboardRow:
        """What always answering the most frequent class gives; the classes' shares are its probabilities."""
        known_N = np.concatenate([self.truth["train"], self.truth["validation"]])
        shares_C = np.bincount(known_N, minlength=len(self.labels)) / len(known_N)

        def guessed(part: str) -> dict[str, float | None]:
            return _figures(self.truth[part], np.tile(shares_C, (len(self.truth[part]), 1)))

        return LeaderboardRow(
            name="majority",
            title="Always the most frequent class",
            kind="baseline",
            kept=False,
            validation=guessed("validation"),
            test=guessed("test"),
            fit_s=0.0,
        )


def _figures(truth_N: np.ndarray, probabilities_NC: np.ndarray) -> dict[str, float | None]:
    """The leaderboard's figures; None where there are no images."""
    if not len(truth_N):
        return {"top1": None, "log_loss": None}
    return {
        "top1": float((probabilities_NC.argmax(axis=1) == truth_N).mean()),
        "log_loss": log_loss(truth_N, probabilities_NC),
    }


def _spread(images: Sequence[UsableImage], num: int) -> list[UsableImage]:
    """About `num` images, evenly over the list."""
    picks = np.unique(np.linspace(0, len(images) - 1, min(len(images), num)).round().astype(int))
    return [images[int(pick)] for pick in picks]
