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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xtorch.class_metrics import softmax
from xtorch.data.check import UsableImage
from xtorch.data.check_classification import ClassInspection, inspect_classes
from xtorch.data.class_splits import folds, split_classes
from xtorch.data.classes import scan_classes
from xtorch.data.findings import refuse
from xtorch.errors import DataError, TuningStorageError
from xtorch.export import export_image_model, score_parity
from xtorch.models import efficientnet
from xtorch.models.classifier import Classifier, ClassifierConfig
from xtorch.picks import evenly
from xtorch.progress import Progress, Stages
from xtorch.tasks.classification import TEMPLATE, finetune, operating_point
from xtorch.tasks.classification.features import FeatureExtractor, Features
from xtorch.tasks.classification.files import save_model
from xtorch.tasks.classification.head import LinearHead, TunedHead, fit_head, tune_head
from xtorch.tasks.classification.outputs import (
    Candidate,
    Outcome,
    leaderboard_figures,
    measure,
    write_spec,
)
from xtorch.tasks.classification.settings import ClassificationSettings
from xtorch.tasks.images import read_pixels
from xtorch.tasks.recipe import Run
from xtorch.tasks.report import LeaderboardRow, parity
from xtorch.tune import TrialRow

_CHECK, _FEATURES, _HEAD, _TUNE, _EXPORT, _REPORT = (
    "Checking images",
    "Extracting features",
    "Tuning the classifier",
    "Fine-tuning the network",
    "Exporting",
    "Writing the report",
)
_FOLDS = 5
_SEARCH_VERSION = 2
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
_MAX_FINE_TUNE_IMAGES = 10_000
"""Their maps are held in memory, 88 KB an image."""
_PARITY_IMAGES = 32
_PARITY_TOLERANCE = 5e-3


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
    with _Run.begin(
        TEMPLATE,
        ClassificationSettings,
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


class _Run(Run[ClassificationSettings]):
    """The steps."""

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
        self.stages.report(_CHECK, 0.0)
        inspection = inspect_classes(scanned, self.stages.within(_CHECK))
        refuse(inspection.errors)
        self.labels = inspection.labels
        self.parts = split_classes(inspection.usable, seed=self.seed)
        if not self.parts.test:
            raise DataError("No test part could be set aside.", value=len(inspection.usable))
        self.truth = {
            part: np.array([image.label for image in images], dtype=np.int64)
            for part, images in self.parts.parts.items()
        }
        self.config = ClassifierConfig(num_classes=len(self.labels), input_size=self.settings.input_size)
        features = self._features()
        tuned, candidates = self._candidates(features)
        winner = candidates[0]
        for candidate in candidates[1:]:
            if candidate.validation_log_loss < winner.validation_log_loss - _CLEAR_GAIN:
                winner = candidate
        confidence_N = winner.unseen.max(axis=1)
        right_N = winner.unseen.argmax(axis=1) == winner.unseen_labels
        point = operating_point.choose(
            confidence_N, right_N, review_cost=self.settings.review_cost, seed=self.seed
        )
        # From here on nothing is decided any more.
        outcome = Outcome(
            dataset_dir=self.dataset_dir,
            labels=self.labels,
            parts=self.parts,
            truth=self.truth,
            config=self.config,
            tuned=tuned,
            candidates=candidates,
            winner=winner,
            point=point,
            seed=self.seed,
        )
        return self._write(inspection, outcome)

    # ------------------------------------------------------------------------------------------- steps

    def _features(self) -> Features:
        """Of training and validation images; the test part waits."""
        extractor = FeatureExtractor(self.config, cache_dir=self.cache_dir, with_maps=self._may_fine_tune)
        report = self.stages.counter(_FEATURES, "images")
        return extractor.features(self.dataset_dir, self._learned, report)

    @property
    def _learned(self) -> list[UsableImage]:
        return [*self.parts.train, *self.parts.validation]

    def _candidates(self, features: Features) -> tuple[TunedHead, list[Candidate]]:
        """The tuned classifier on frozen features and, where time and data allow, the fine-tuned network."""
        left_s = self.left_s - _EXPORT_S
        pooled_NVF, images = features.pooled, self._learned
        labels_N = np.concatenate([self.truth[part] for part in ("train", "validation")])
        start_s = time.monotonic()
        search = partial(
            tune_head,
            pooled_NVF,
            labels_N,
            folds(images, _FOLDS, seed=self.seed),
            len(self.labels),
            budget_s=max(1.0, left_s * (_HEAD_SHARE if self._may_fine_tune else 1.0)),
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
        left_s = self.left_s - _EXPORT_S
        if self._may_fine_tune and left_s > _MIN_FINE_TUNE_S:
            candidates.append(self._fine_tuned(features, tuned, left_s))
        return tuned, candidates

    @property
    def _may_fine_tune(self) -> bool:
        return (
            self.settings.fine_tune
            and len(self.parts.validation) >= _MIN_VALIDATION
            and len(self._learned) <= _MAX_FINE_TUNE_IMAGES
        )

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
    ) -> Candidate:
        # Judged on the validation images alone, by heads that did not see them: as the others are.
        unseen_NC = tuned.probabilities
        validation_NC = unseen_NC[len(self.parts.train) :]
        return Candidate(
            row=LeaderboardRow(
                name="frozen_head",
                title="Classifier on the frozen network's features",
                kind="model",
                kept=False,
                validation=leaderboard_figures(self.truth["validation"], validation_NC),
                test={},
                fit_s=round(fit_s, 3),
                settings=dict(tuned.params),
                note="Validated in cross-validation, then fitted on training and validation images.",
            ),
            model=self._model(finetune.efficientnet_with_head(head)),
            unseen=unseen_NC,
            unseen_labels=labels_N,
        )

    def _fine_tuned(self, features: Features, tuned: TunedHead, left_s: float) -> Candidate:
        start_s = time.monotonic()
        num = len(self.parts.train)
        train, validation = features[:num], features[num:]
        head = fit_head(train.pooled, self.truth["train"], len(self.labels), tuned.params)
        found = finetune.fine_tune(
            train,
            self.truth["train"],
            validation,
            self.truth["validation"],
            head.tempered(tuned.temperature),
            budget_s=left_s,
            seed=self.seed,
            on_trial=lambda row: self._report_trial(_TUNE, row, finetune.MAX_TRIALS),
        )
        with torch.no_grad():
            found.net._fc.weight.div_(found.temperature)
            found.net._fc.bias.div_(found.temperature)
        best = found.search.best
        assert best is not None
        unseen_NC = softmax(found.validation_logits / found.temperature)
        return Candidate(
            row=LeaderboardRow(
                name="fine_tuned",
                title="Last blocks of the network trained too",
                kind="model",
                kept=False,
                validation=leaderboard_figures(self.truth["validation"], unseen_NC),
                test={},
                fit_s=round(time.monotonic() - start_s, 3),
                settings={**best.params, **best.facts, "trials": len(found.search.trials)},
                note="Fitted on training images; validation chose setting, epoch and temperature.",
            ),
            model=self._model(found.net),
            unseen=unseen_NC,
            unseen_labels=self.truth["validation"],
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
        picked = evenly(self.parts.test, _PARITY_IMAGES)
        images = [read_pixels(self.dataset_dir, image.path, self.config.input_size) for image in picked]
        source_NC, onnx_NC = score_parity(
            model, self.folder / "model.onnx", images, tolerance=_PARITY_TOLERANCE
        )
        truth_N = np.array([image.label for image in picked])
        return parity(
            source_NC, onnx_NC, lambda logits_NC: float((logits_NC.argmax(axis=1) == truth_N).mean())
        )

    def _write(self, inspection: ClassInspection, outcome: Outcome) -> dict[str, Any]:
        compared = self._export(outcome.winner.model)
        self.stages.report(_REPORT, 0.0)
        write_spec(outcome, self.folder)
        return self.finish(
            num_test=len(self.parts.test),
            candidate=outcome.winner.row.name,
            check=inspection.report,
            protocol=self.parts.protocol,
            parity=compared,
            **measure(outcome, self.folder),
        )
