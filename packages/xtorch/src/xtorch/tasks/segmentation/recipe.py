"""The segmentation recipe: check, split, train, decide, test, export, report.

Everything is decided on the training and validation parts. The test part is answered once, at the end, for
every row of the leaderboard.

Shapes: N images, L logits of a pixel, h and w rows and columns of logits.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xtorch.data.check_segmentation import inspect_segmentation
from xtorch.data.findings import refuse
from xtorch.data.splits_segmentation import SegmentationSplit, split_segmentation
from xtorch.errors import TooFewImagesError
from xtorch.export import export_image_model, score_parity
from xtorch.models.segmenter import Segmenter
from xtorch.picks import evenly
from xtorch.progress import Progress, Stages
from xtorch.tasks.recipe import Feeds, Run, write_json
from xtorch.tasks.report import LeaderboardRow, parity
from xtorch.tasks.segmentation import TEMPLATE, leaderboard
from xtorch.tasks.segmentation.decisions import Threshold, choose_threshold
from xtorch.tasks.segmentation.files import METRIC, OUTPUT, save_model, segmentation_task
from xtorch.tasks.segmentation.fitting import PREPARE, TRAIN, Fitted, checkpoint_folder, fit, training_s
from xtorch.tasks.segmentation.judge import HeldOutImages, torch_outputs
from xtorch.tasks.segmentation.report import Evaluation, training_chart
from xtorch.tasks.segmentation.samples import Masks, TrainingImages, split_items
from xtorch.tasks.segmentation.settings import SegmentationSettings

DEFAULT_BUDGET_S = 420.0
"""As the Foundry has it."""
_CHECK, _EVALUATE, _EXPORT, _REPORT = "Checking images", "Evaluating", "Exporting", "Writing the report"
_PARITY_IMAGES = 24
_PARITY_TOLERANCE = 5e-3


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
    """Trains a segmenter on images with masks and writes all that a build needs.

    Args:
        dataset_dir: Images and masks, laid out as `xtorch.data.mask_pairs` says.
        output_dir: Gets the files of ARCHITECTURE.md, 10.3; all of them or none.
        name: The model's name, for the report.
        budget_s: Training is planned such that all is done in about so many seconds; with `epochs` in the
            settings it does not matter.
        seed: Decides splits, samples and new weights.
        settings: Fields of `SegmentationSettings`.
        progress: Told about progress.
        cache_dir: Keeps checkpoints: a run that was killed goes on from there when it is started again with
            the same data, settings, budget and seed. None: nothing is kept.

    Returns:
        The fields of `wire.TrainResult`.

    Raises:
        LayoutError, TooFewImagesError, DataError: The data check found an error.
        SettingsError: A setting is unknown or out of range.
        WeightsError: Pretrained weights were asked for and are not installed.
        TrainingError: The loss is not finite.
        ExportError: The model could not be exported, or the export gives other answers.
    """
    with _Run.begin(
        TEMPLATE,
        SegmentationSettings,
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


class _Run(Run[SegmentationSettings]):
    """One run's steps."""

    checkpoints: Path | None = None

    def execute(self) -> dict[str, Any]:
        self.stages = Stages(
            self.progress,
            {
                _CHECK: 10,
                PREPARE: 10,
                TRAIN: training_s(self.budget_s),
                _EVALUATE: 15,
                _EXPORT: 15,
                _REPORT: 5,
            },
        )
        self.stages.report(_CHECK, 0.0)
        self.data = inspect_segmentation(self.dataset_dir, self.stages.within(_CHECK))
        refuse(self.data.errors)
        self.labels = self.data.labels
        self.split = split_segmentation(self.data.usable, num_classes=len(self.labels), seed=self.seed)
        _refuse_split(self.split)
        self.stages.report(PREPARE, 0.0)
        self.checkpoints = checkpoint_folder(self, self.data, self.split)
        fitted = fit(self, self.data, self.split, self.checkpoints)
        return self._finish(fitted)

    def _finish(self, fitted: Fitted) -> dict[str, Any]:
        self.stages.report(_EVALUATE, 0.0)
        model, background = fitted.segmenter, self.data.background
        items = {part: split_items(images) for part, images in self.split.parts.items()}
        masks = Masks(self.dataset_dir, self.data.legend, background)
        task = segmentation_task(model.config, self.labels, background=background)
        validation = HeldOutImages(self.dataset_dir, task, masks, items["validation"])
        outputs = _answers(model, validation)
        self.stages.report(_EVALUATE, 0.3)
        threshold: Threshold | None = None
        if len(self.labels) == 2:
            threshold = choose_threshold(validation, outputs, miss_cost=self.settings.miss_cost)
            task = segmentation_task(
                model.config, self.labels, background=background, threshold=threshold.value
            )
            validation.task = task
        on_validation = validation.counts(validation.answers(outputs)).sum(axis=0)

        # From here on nothing is decided any more.
        test = HeldOutImages(self.dataset_dir, task, masks, items["test"])
        test_outputs = _answers(model, test)
        evaluation = Evaluation(self.labels, background, test, test.answers(test_outputs), seed=self.seed)
        self.stages.report(_EVALUATE, 0.7)
        trivial = [
            leaderboard.majority(self.split, self.labels, validation=validation, test=test),
            leaderboard.by_colour(
                TrainingImages(self.dataset_dir, masks, self.split.train, model.config.size),
                len(self.labels),
                validation=validation,
                test=test,
            ),
        ]
        row = leaderboard.trained(
            fitted,
            self.settings,
            validation=on_validation,
            test=evaluation.totals,
            baselines=trivial,
            seed=self.seed,
        )
        agreement = self._export(model, test)
        write_json(self.folder / "task.json", task.to_json())
        write_json(self.folder / "labels.json", list(self.labels))
        write_json(self.folder / "splits.json", items)
        return self._report(evaluation, [*trivial, row], agreement, fitted, threshold)

    def _export(self, model: Segmenter, test: HeldOutImages) -> dict[str, Any]:
        """Writes the model in both forms; gates the ONNX file on held-out images of several sizes."""
        self.stages.report(_EXPORT, 0.0)
        save_model(model, self.folder, self.data.legend)
        path = self.folder / "model.onnx"
        export_image_model(model, path, output_names=[OUTPUT])
        self.stages.report(_EXPORT, 0.7, message="comparing with the source model")
        picked = evenly(range(len(test.feeds)), _PARITY_IMAGES)
        images = [test.feeds[index][test.task.input.name][0] for index in picked]
        source_NLhw, onnx_NLhw = score_parity(model, path, images, tolerance=_PARITY_TOLERANCE)
        part = test.part(picked)
        return parity(
            source_NLhw,
            onnx_NLhw,
            lambda logits_NLhw: part.mean_iou([{OUTPUT: logits_Lhw[None]} for logits_Lhw in logits_NLhw]),
        )

    def _report(
        self,
        evaluation: Evaluation,
        rows: Sequence[LeaderboardRow],
        agreement: Mapping[str, Any],
        fitted: Fitted,
        threshold: Threshold | None,
    ) -> dict[str, Any]:
        self.stages.report(_REPORT, 0.0)
        point: dict[str, Any] | None = None
        charts = [training_chart(fitted.training.fit.history), evaluation.overlap_chart()]
        if threshold is not None:
            point = {
                "threshold": threshold.value,
                "rule": threshold.rule,
                "chosen_on": "validation",
                **evaluation.operating_figures(),
            }
            charts.append(threshold.chart(self.labels[1]))
        tables = [evaluation.class_table(), evaluation.confused_table()]
        return self.finish(
            num_test=len(evaluation.images.items),
            candidate=rows[-1].name,
            check=self.data.report.to_dict(),
            protocol=self._protocol(evaluation.images),
            counts=self.split.counts(self.labels),
            metric=METRIC,
            metrics=evaluation.metrics(),
            leaderboard=rows,
            operating_point=point,
            confusion=evaluation.confusion(),
            charts=charts,
            tables=[table for table in tables if table is not None],
            gallery=evaluation.gallery(self.dataset_dir, self.folder),
            parity=agreement,
            held_out=evaluation.held_out(),
        )

    def _protocol(self, test: HeldOutImages) -> str:
        measured, there = len(test.items), len(self.split.test)
        if measured == there:
            return self.split.protocol
        return (
            f"{self.split.protocol} Of its {there} images {measured}, evenly spread, were measured: more do "
            "not fit into memory."
        )


def _refuse_split(split: SegmentationSplit) -> None:
    for name, images in split.parts.items():
        shown = np.sum([image.pixels for image in images], axis=0) if images else np.zeros(0)
        if np.count_nonzero(shown) < 2:
            raise TooFewImagesError(
                f"The {name} part shows fewer than two classes.",
                value=name,
                hint="add images with masks, or leave the division into parts to us: one folder for all",
            )


def _answers(model: Segmenter, images: HeldOutImages) -> list[Feeds]:
    return [torch_outputs(model, images.task, feeds) for feeds in images.feeds]
