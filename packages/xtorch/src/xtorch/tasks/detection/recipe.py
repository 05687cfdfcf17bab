"""The detection recipe: check, split, fine-tune, decide, test, export, report.

Everything is decided on the training and validation parts. The test part is scored once, at the end, for
every row of the leaderboard.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtorch.data.check_detection import inspect_detection
from xtorch.data.findings import refuse
from xtorch.data.splits_detection import DetectionSplit, split_detection
from xtorch.detection_metrics import coco_metrics
from xtorch.errors import TooFewImagesError
from xtorch.export import export_image_model
from xtorch.models.detector import Detector, DetectorConfig
from xtorch.progress import Progress, Stages
from xtorch.tasks.detection import TEMPLATE, leaderboard
from xtorch.tasks.detection.decisions import best_suppression, choose_thresholds
from xtorch.tasks.detection.files import METRIC, detection_task, save_model
from xtorch.tasks.detection.fitting import PREPARE, TRAIN, Fitted, checkpoint_folder, fit, training_s
from xtorch.tasks.detection.items import input_size, split_items
from xtorch.tasks.detection.judge import HeldOutImages, torch_outputs
from xtorch.tasks.detection.parity import check_parity
from xtorch.tasks.detection.report import Evaluation, training_chart
from xtorch.tasks.detection.settings import DetectionSettings
from xtorch.tasks.detection.weights import published
from xtorch.tasks.recipe import Feeds, Run, write_json
from xtorch.tasks.report import LeaderboardRow

DEFAULT_BUDGET_S = 420.0
"""As the Foundry has it: with the build after it, all is done within ten minutes."""
_CHECK, _EVALUATE, _EXPORT, _REPORT = "Checking images", "Evaluating", "Exporting", "Writing the report"


def run(
    dataset_dir: str | Path,
    output_dir: str | Path,
    *,
    name: str,
    budget_s: float = DEFAULT_BUDGET_S,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Train a detector on images with boxes and write all that a build needs.

    Args:
        dataset_dir: images and annotations in a format of `xtorch.data.annotations`.
        output_dir: gets the files of ARCHITECTURE.md, 10.3; all of them or none.
        name: the model's name, for the report.
        budget_s: training is planned such that all is done in about so many seconds; with `epochs` in the
            settings it does not matter.
        seed: decides splits, scenes and new weights.
        settings: fields of `DetectionSettings`.
        progress: told about progress.
        cache_dir: keeps downloaded weights, and checkpoints: a run that was killed goes on from there when it
            is started again with the same data, settings, budget and seed. None: nothing is kept.

    Returns:
        The fields of `wire.TrainResult`.

    Raises:
        LayoutError, TooFewImagesError, DataError: the data check found an error.
        SettingsError: a setting is unknown or out of range.
        WeightsError: the named weights cannot be read.
        TrainingError: the loss is not finite.
        ExportError: the model could not be exported, or the export gives other answers.
    """
    with _Run.begin(
        TEMPLATE,
        DetectionSettings,
        dataset_dir,
        output_dir,
        name=name,
        budget_s=budget_s,
        seed=seed,
        settings=settings,
        progress=progress,
        cache_dir=cache_dir,
    ) as this:
        result = this.execute()
    # Not before the outputs are in their place.
    if this.checkpoints is not None:
        shutil.rmtree(this.checkpoints, ignore_errors=True)
    return result


class _Run(Run[DetectionSettings]):
    """One run's steps."""

    checkpoints: Path | None = None

    def execute(self) -> dict[str, Any]:
        self.stages = Stages(
            self.progress,
            {
                _CHECK: 5,
                PREPARE: 15,
                TRAIN: training_s(self.budget_s),
                _EVALUATE: 15,
                _EXPORT: 20,
                _REPORT: 5,
            },
        )
        self.stages.report(_CHECK, 0.0)
        self.data = inspect_detection(self.dataset_dir, self.stages.within(_CHECK))
        refuse(self.data.errors)
        self.labels = self.data.labels
        self.split = split_detection(self.data.usable, num_classes=len(self.labels), seed=self.seed)
        _refuse_split(self.split)
        height, width = input_size(self.split.train, self.settings.input_size)
        self.config = DetectorConfig(
            architecture=self.settings.architecture,
            height=height,
            width=width,
            num_classes=len(self.labels),
        )
        self.stages.report(PREPARE, 0.0)
        self.given = published(
            self.settings.architecture,
            self.settings.weights,
            None if self.cache_dir is None else self.cache_dir / "weights",
        )
        self.checkpoints = checkpoint_folder(self, self.split, self.config, self.labels, self.given)
        fitted = fit(self, self.split, self.config, self.labels, self.given, checkpoints=self.checkpoints)
        return self._finish(fitted)

    def _finish(self, fitted: Fitted) -> dict[str, Any]:
        self.stages.report(_EVALUATE, 0.0)
        detector = fitted.detector
        items = {part: split_items(images) for part, images in self.split.parts.items()}
        validation = HeldOutImages(
            self.dataset_dir, detection_task(self.config, self.labels), items["validation"]
        )
        outputs = _answers(detector, validation)
        self.stages.report(_EVALUATE, 0.3)
        iou_threshold = best_suppression(validation, outputs, self.config, self.labels)
        on_validation = validation.found(
            outputs, detection_task(self.config, self.labels, iou_threshold=iou_threshold)
        )
        thresholds, rule = choose_thresholds(
            on_validation, validation.truth, len(self.labels), min_precision=self.settings.min_precision
        )
        task = detection_task(
            self.config, self.labels, class_thresholds=thresholds, iou_threshold=iou_threshold
        )

        # From here on nothing is decided any more.
        test = HeldOutImages(self.dataset_dir, task, items["test"])
        test_outputs = _answers(detector, test)
        found = test.found(test_outputs)
        scored = coco_metrics(found, test.truth, len(self.labels))
        evaluation = Evaluation(self.labels, found, test.truth, scored, thresholds, seed=self.seed)
        self.stages.report(_EVALUATE, 0.8)
        rows = [
            leaderboard.usual_places(
                self.split, len(self.labels), validation=validation, test=test, seed=self.seed
            ),
            *leaderboard.published_as_it_is(
                self.config, self.labels, self.given, validation=validation, test=test
            ),
            leaderboard.fine_tuned(
                fitted,
                self.given,
                self.settings,
                validation=coco_metrics(on_validation, validation.truth, len(self.labels)),
                test=scored,
                iou_threshold=iou_threshold,
                seed=self.seed,
            ),
        ]
        self.stages.report(_EXPORT, 0.0)
        save_model(detector, self.folder)
        export_image_model(detector, self.folder / "model.onnx", output_names=["boxes", "scores"])
        self.stages.report(_EXPORT, 0.7, message="comparing with the source model")
        parity = check_parity(self.folder / "model.onnx", test, test_outputs)
        write_json(self.folder / "task.json", task.to_json())
        write_json(self.folder / "labels.json", list(self.labels))
        write_json(self.folder / "splits.json", items)
        return self._report(evaluation, test, rows, parity, fitted, rule)

    def _report(
        self,
        evaluation: Evaluation,
        test: HeldOutImages,
        rows: Sequence[LeaderboardRow],
        parity: Mapping[str, Any],
        fitted: Fitted,
        rule: str,
    ) -> dict[str, Any]:
        self.stages.report(_REPORT, 0.0)
        right, false, missed = evaluation.counts()
        return self.finish(
            num_test=len(test.items),
            candidate=rows[-1].name,
            check=self.data.report.to_dict(),
            protocol=self._protocol(test),
            counts=self.split.counts(self.labels),
            metric=METRIC,
            metrics=evaluation.metrics(),
            leaderboard=rows,
            operating_point={
                "threshold": dict(zip(self.labels, evaluation.thresholds, strict=True)),
                "rule": rule,
                "chosen_on": "validation",
                "test_right": right,
                "test_false": false,
                "test_missed": missed,
            },
            confusion=evaluation.confusion(),
            charts=[
                evaluation.precision_recall_chart(),
                evaluation.error_chart(),
                training_chart(fitted.trained.fit.history),
            ],
            tables=[evaluation.class_table(), evaluation.size_table()],
            gallery=evaluation.gallery(self.dataset_dir, self.folder, test.items),
            parity=parity,
            held_out=[
                {"path": item["path"], "right": right, "false": false, "missed": missed}
                for item, (right, false, missed) in zip(test.items, evaluation.mistakes, strict=True)
            ],
        )

    def _protocol(self, test: HeldOutImages) -> str:
        measured, there = len(test.items), len(self.split.test)
        if measured == there:
            return self.split.protocol
        return (
            f"{self.split.protocol} Of its {there} images {measured}, evenly spread, were measured: more do "
            "not fit into memory."
        )


def _refuse_split(split: DetectionSplit) -> None:
    for name, images in split.parts.items():
        if not any((~image.ignored).any() for image in images):
            raise TooFewImagesError(
                f"The {name} part has no objects.",
                value=name,
                hint="add annotated images, or leave the division into parts to us: one folder for all",
            )


def _answers(detector: Detector, images: HeldOutImages) -> list[Feeds]:
    return [torch_outputs(detector, images.task, feeds) for feeds in images.feeds]
