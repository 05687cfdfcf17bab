"""The detection recipe: check, split, fine-tune, thresholds, test, export, report.

Everything is decided on the training and validation parts. The test part is scored once, at the end, for
every row of the leaderboard.

Shapes: N images, A candidates, K classes.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xinfer.preproc import Geometry
from xinfer.tasks import ObjectDetection, parse_task
from xtorch.callbacks import Callback, TrainState
from xtorch.data.check_detection import DetectionData, UsableImage, inspect_detection
from xtorch.data.splits_detection import DetectionSplit, split_detection
from xtorch.detection_metrics import CocoMetrics, ImageBoxes, best_threshold, coco_metrics, match
from xtorch.errors import DataError, LayoutError, ParityError, TooFewImagesError
from xtorch.export import OnnxModel, export_image_model
from xtorch.models.detector import Decode, Detector, DetectorConfig
from xtorch.models.yolox import Yolox
from xtorch.progress import Progress, Stages, silent
from xtorch.tasks.detection import TEMPLATE
from xtorch.tasks.detection.baselines import UsualPlaces, untrained
from xtorch.tasks.detection.files import METRIC, save_model, task_spec
from xtorch.tasks.detection.judge import HeldOutImages, detections, torch_outputs
from xtorch.tasks.detection.report import Evaluation, training_chart
from xtorch.tasks.detection.samples import Augmentation, Sample, TrainingImages
from xtorch.tasks.detection.settings import DetectionSettings
from xtorch.tasks.detection.training import (
    Trained,
    TrainingOptions,
    collate,
    keep_plan,
    kept_plan,
    plan,
    prepare,
    train,
)
from xtorch.tasks.detection.weights import published, start_from
from xtorch.tasks.recipe import Feeds, all_or_nothing, parse_settings, write_json
from xtorch.tasks.report import LeaderboardRow, Report

DEFAULT_BUDGET_S = 480.0
_CHECK, _PREPARE, _TRAIN, _EVALUATE, _EXPORT, _REPORT = (
    "Checking images",
    "Preparing",
    "Training",
    "Evaluating",
    "Exporting",
    "Writing the report",
)
_RESERVED_SHARE, _MIN_RESERVED_S = 0.2, 20.0
"""Of the budget, for evaluation, export and report."""
_PARITY_IMAGES = 48
_PARITY_SCORE, _PARITY_BOX_PX, _PARITY_MAP50 = 1e-3, 0.5, 0.005
"""Largest accepted differences between torch and ONNX."""
_IOU_THRESHOLDS = (0.65, 0.45, 0.55, 0.75)
"""Of suppression; YOLOX's own comes first and stays unless another is clearly better on validation."""
_CLEARLY = 0.002
_MIN_VALIDATION_OBJECTS = 5
"""Of a class, to choose a threshold of its own by."""


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
            is started again with the same data, settings and seed. None: nothing is kept.

    Returns:
        The fields of `wire.TrainResult`.

    Raises:
        LayoutError, TooFewImagesError, DataError: the data check found an error.
        SettingsError: a setting is unknown or out of range.
        WeightsError: the named weights cannot be read.
        TrainingError: the loss is not finite.
        ExportError: the model could not be exported, or the export gives other answers.
    """
    started = time.monotonic()
    chosen = parse_settings(DetectionSettings, settings or {})
    dataset_dir, output_dir = Path(dataset_dir), Path(output_dir)
    with all_or_nothing(output_dir) as folder:
        this = _Run(
            dataset_dir=dataset_dir,
            folder=folder,
            name=name,
            started=started,
            budget_s=budget_s,
            seed=seed,
            settings=chosen,
            progress=progress or silent,
            cache_dir=None if cache_dir is None else Path(cache_dir),
        )
        result = this.execute()
    if this.checkpoints is not None:
        shutil.rmtree(this.checkpoints, ignore_errors=True)
    return result


def refuse(data: DetectionData) -> None:
    """Turns the data check's first error into an exception."""
    for finding in data.errors:
        kind = {
            "annotation.none": LayoutError,
            "image.none": LayoutError,
            "image.too_few": TooFewImagesError,
        }.get(finding.code, DataError)
        raise kind(f"{finding.title}.", value=finding.num, hint=finding.hint)


def input_size(images: Sequence[UsableImage], longer_side: int) -> tuple[int, int]:
    """Height and width of the network's input: of the images' shape where they have one, else square.

    Args:
        images: training images.
        longer_side: a multiple of 32.
    """
    ratio = float(np.median([image.height / image.width for image in images]))
    shorter = max(32, math.ceil(longer_side * min(ratio, 1 / ratio) / 32) * 32)
    size = (shorter, longer_side) if ratio <= 1 else (longer_side, shorter)
    # How much smaller an image becomes in it than in a square.
    smaller = [
        min(size[0] / image.height, size[1] / image.width) * max(image.height, image.width) / longer_side
        for image in images
    ]
    return size if np.mean(np.array(smaller) > 0.95) >= 0.9 else (longer_side, longer_side)


def samples(images: Sequence[UsableImage]) -> list[Sample]:
    """Images as training takes them: without the objects that are to be ignored."""
    return [
        Sample(path=image.path, boxes=image.boxes[~image.ignored], labels=image.labels[~image.ignored])
        for image in images
    ]


def split_items(images: Sequence[UsableImage]) -> list[dict[str, Any]]:
    """Images for ``splits.json``: boxes in pixels of the upright image."""
    return [
        {
            "path": image.path,
            "width": image.width,
            "height": image.height,
            "objects": [
                {
                    "label": int(label),
                    "box": [round(float(edge), 2) for edge in box],
                    "ignored": bool(ignored),
                }
                for label, box, ignored in zip(
                    image.labels,
                    image.boxes * np.array([image.width, image.height] * 2),
                    image.ignored,
                    strict=True,
                )
            ],
        }
        for image in images
    ]


@dataclass(kw_only=True)
class _Run:
    """One run's inputs and steps."""

    dataset_dir: Path
    folder: Path
    name: str
    started: float
    budget_s: float
    seed: int
    settings: DetectionSettings
    progress: Progress
    cache_dir: Path | None
    checkpoints: Path | None = None

    def execute(self) -> dict[str, Any]:
        training_s = self.budget_s * (1 - _RESERVED_SHARE)
        self.stages = Stages(
            self.progress,
            {_CHECK: 5, _PREPARE: 15, _TRAIN: training_s, _EVALUATE: 15, _EXPORT: 20, _REPORT: 5},
        )
        self.data = self._check()
        refuse(self.data)
        self.labels = self.data.labels
        self.split = split_detection(self.data.usable, num_classes=len(self.labels), seed=self.seed)
        self._refuse_split(self.split)
        size = input_size(self.split.train, self.settings.input_size)
        self.config = DetectorConfig(
            architecture=self.settings.architecture,
            height=size[0],
            width=size[1],
            num_classes=len(self.labels),
        )
        self.stages.report(_PREPARE, 0.0)
        self.given = published(
            self.settings.architecture,
            self.settings.weights,
            None if self.cache_dir is None else self.cache_dir / "weights",
        )
        detector, trained, training_s = self._train()
        return self._finish(detector, trained, training_s)

    def _check(self) -> DetectionData:
        def checked(
            _stage: str, *, progress: float | None = None, message: str = "", **_details: Any
        ) -> None:
            self.stages.report(_CHECK, progress or 0.0, message=message)

        self.stages.report(_CHECK, 0.0)
        return inspect_detection(self.dataset_dir, checked)

    def _refuse_split(self, parts: DetectionSplit) -> None:
        for name, images in parts.parts.items():
            if not any((~image.ignored).any() for image in images):
                raise TooFewImagesError(
                    f"The {name} part has no objects.",
                    value=name,
                    hint="add annotated images, or leave the division into parts to us: one folder for all",
                )

    # ------------------------------------------------------------------------------------------ training

    def _train(self) -> tuple[Detector, Trained, float]:
        start = time.monotonic()
        images = TrainingImages(self.dataset_dir, samples(self.split.train), self.config.size)
        validation = TrainingImages(self.dataset_dir, samples(self.split.validation), self.config.size)
        truth = [truth_of_image(image) for image in self.split.validation]
        options = TrainingOptions(
            batch_size=min(self.settings.batch_size, len(images)),
            learning_rate=self.settings.learning_rate,
            augmentation=Augmentation(mosaic=self.settings.mosaic),
        )
        detector = start_from(self.config, self.labels, self.given, seed=self.seed)
        if self.given is not None:
            prepare(detector, images)

        def validate(network: Yolox) -> dict[str, float]:
            found = self._found_in(network, validation, self.split.validation)
            return {METRIC: coco_metrics(found, truth, len(self.labels)).map50}

        def validate_s() -> float:
            begin = time.monotonic()
            with torch.inference_mode():
                validate(detector.network.eval())
            return time.monotonic() - begin

        if self.cache_dir is not None:
            self.checkpoints = self.cache_dir / "detection" / self._key()
        made = None if self.checkpoints is None else kept_plan(self.checkpoints)
        deadline = self.started + self.budget_s
        reserved_s = max(self.budget_s * _RESERVED_SHARE, _MIN_RESERVED_S)
        if made is None:
            made = plan(
                detector,
                images,
                options,
                epochs=self.settings.epochs,
                budget_s=deadline - reserved_s - time.monotonic(),
                validate_s=validate_s,
                seed=self.seed,
            )
            if self.checkpoints is not None:
                keep_plan(self.checkpoints, made)
        self.stages.report(_PREPARE, 1.0, message=f"{made.epochs} epochs in {made.execution}")
        limit_s = None
        if self.settings.epochs is None:
            limit_s = max(deadline - reserved_s - time.monotonic(), 1.0)
        trained = train(
            detector,
            images,
            options,
            plan=made,
            limit_s=limit_s,
            validate=validate,
            is_published=self.given is not None,
            seed=self.seed,
            checkpoints=None if self.checkpoints is None else self.checkpoints / "steps",
            callbacks=[_Told(self.stages)],
        )
        return detector, trained, time.monotonic() - start

    def _key(self) -> str:
        """Names what a checkpoint belongs to: data, settings, seed."""
        digest = hashlib.sha256()
        digest.update(
            json.dumps([asdict(self.settings), self.seed, self.config.to_dict(), self.labels]).encode()
        )
        for image in (*self.split.train, *self.split.validation):
            digest.update(image.digest.encode() + image.boxes.tobytes() + image.labels.tobytes())
        return digest.hexdigest()[:24]

    def _found_in(
        self, network: Yolox, images: TrainingImages, usable: Sequence[UsableImage]
    ) -> list[ImageBoxes]:
        """Detections of a network in training, on images at its input's size."""
        task = self._task([0.0] * len(self.labels))
        decode = Decode(self.config.size)
        found = []
        for start in range(0, len(images), 8):
            indices = range(start, min(start + 8, len(images)))
            batch = collate([images.plain(index) for index in indices])
            boxes, scores = decode(network(batch.images), torch.ones(1))
            for row, index in enumerate(indices):
                image = usable[index]
                # Image pixels per network pixel: the letterbox starts in the top left corner.
                scale = max(image.height / self.config.height, image.width / self.config.width)
                outputs = {
                    "boxes": boxes[row : row + 1].numpy() * scale,
                    "scores": scores[row : row + 1].numpy(),
                }
                found.append(detections(task, outputs, _as_it_is(image)))
        return found

    # ---------------------------------------------------------------------------------------- afterwards

    def _task(
        self, thresholds: Sequence[float], iou_threshold: float = _IOU_THRESHOLDS[0]
    ) -> ObjectDetection:
        document = task_spec(
            self.config,
            self.labels,
            score_threshold=min(thresholds),
            class_thresholds=thresholds,
            iou_threshold=iou_threshold,
        )
        task = parse_task(document)
        assert isinstance(task, ObjectDetection)
        return task

    def _finish(self, detector: Detector, trained: Trained, training_s: float) -> dict[str, Any]:
        self.stages.report(_EVALUATE, 0.0)
        items = {part: split_items(images) for part, images in self.split.parts.items()}
        any_task = self._task([0.0] * len(self.labels))
        held_back = HeldOutImages(self.dataset_dir, any_task, items["validation"])
        outputs = [torch_outputs(detector, any_task, feeds) for feeds in held_back.feeds]
        self.stages.report(_EVALUATE, 0.3)
        iou_threshold = self._best_suppression(held_back, outputs)
        held_back.task = self._task([0.0] * len(self.labels), iou_threshold)
        on_validation = held_back.found(outputs)
        thresholds, rule = self._thresholds(on_validation, held_back.truth)
        task = self._task(thresholds, iou_threshold)
        coco_validation = coco_metrics(on_validation, held_back.truth, len(self.labels))

        # From here on nothing is decided any more.
        test = HeldOutImages(self.dataset_dir, task, items["test"])
        test_outputs = [torch_outputs(detector, task, feeds) for feeds in test.feeds]
        found = test.found(test_outputs)
        coco_test = coco_metrics(found, test.truth, len(self.labels))
        evaluation = Evaluation(self.labels, found, test.truth, coco_test, thresholds, seed=self.seed)
        self.stages.report(_EVALUATE, 0.8)
        rows = [
            *self._baselines(held_back, test),
            LeaderboardRow(
                name=f"yolox_{self.config.architecture}",
                title=f"YOLOX-{self.config.architecture}, fine-tuned"
                if self.given
                else f"YOLOX-{self.config.architecture}, trained from nothing",
                kind="model",
                kept=True,
                validation=figures(coco_validation),
                test=figures(coco_test),
                fit_s=round(training_s, 3),
                settings={
                    "epochs": trained.fit.epochs,
                    "kept_epoch": trained.best_epoch,
                    "execution": str(trained.plan.execution),
                    "learning_rate": self.settings.learning_rate,
                    "batch_size": self.settings.batch_size,
                    "input": [self.config.height, self.config.width],
                    "weights": self.given.source if self.given else f"random, seed {self.seed}",
                    "iou_threshold": iou_threshold,
                },
                note=self._note(trained),
            ),
        ]
        parity = self._export(detector, test, test_outputs)
        write_json(self.folder / "task.json", task.to_json())
        write_json(self.folder / "labels.json", list(self.labels))
        write_json(self.folder / "splits.json", items)
        return self._write(evaluation, test, rows, parity, trained, rule)

    def _best_suppression(self, images: HeldOutImages, outputs: Sequence[Feeds]) -> float:
        """The overlap from which on the weaker of two boxes goes, by validation."""
        values = {}
        for option in _IOU_THRESHOLDS:
            images.task = self._task([0.0] * len(self.labels), option)
            values[option] = images.map50(outputs) + (_CLEARLY if option == _IOU_THRESHOLDS[0] else 0.0)
        return max(values, key=lambda option: values[option])

    def _thresholds(
        self, found: Sequence[ImageBoxes], truth: Sequence[ImageBoxes]
    ) -> tuple[list[float], str]:
        """A threshold for each class, and how it was chosen."""
        own: list[float | None] = []
        for index in range(len(self.labels)):
            matches = match(found, truth, index, overlaps=[0.5])
            enough = int(matches.num_true.sum()) >= _MIN_VALIDATION_OBJECTS
            own.append(best_threshold(matches, min_precision=self.settings.min_precision) if enough else None)
        known = [value for value in own if value is not None]
        common = float(np.median(known)) if known else 0.3
        wish = self.settings.min_precision
        rule = (
            "each class's highest F1 on validation"
            if wish is None
            else f"each class's lowest threshold with a precision of {wish:.0%} on validation"
        )
        if len(known) < len(own):
            rule += (
                f"; classes with fewer than {_MIN_VALIDATION_OBJECTS} objects there take the others' median"
            )
        return [common if value is None else value for value in own], rule

    def _baselines(self, validation: HeldOutImages, test: HeldOutImages) -> list[LeaderboardRow]:
        start = time.monotonic()
        usual = UsualPlaces(self.split.train, len(self.labels), seed=self.seed)
        num_classes = len(self.labels)

        def everywhere(images: HeldOutImages, part: Sequence[UsableImage]) -> dict[str, float | None]:
            return figures(coco_metrics(usual(part[: len(images.items)]), images.truth, num_classes))

        rows = [
            LeaderboardRow(
                name="usual_places",
                title="Where objects usually are",
                kind="baseline",
                kept=False,
                validation=everywhere(validation, self.split.validation),
                test=everywhere(test, self.split.test),
                fit_s=round(time.monotonic() - start, 3),
                note="The same boxes for every image.",
            )
        ]
        start = time.monotonic()
        detector = untrained(self.config, self.labels, self.given) if self.given is not None else None
        if detector is not None:

            def scored(images: HeldOutImages) -> dict[str, float | None]:
                outputs = [torch_outputs(detector, images.task, feeds) for feeds in images.feeds]
                return figures(coco_metrics(images.found(outputs), images.truth, num_classes))

            rows.append(
                LeaderboardRow(
                    name="coco",
                    title="Published weights, not trained on these images",
                    kind="baseline",
                    kept=False,
                    validation=scored(validation),
                    test=scored(test),
                    fit_s=round(time.monotonic() - start, 3),
                    note="Finds classes whose names are among COCO's.",
                )
            )
        return rows

    def _note(self, trained: Trained) -> str:
        notes = [f"Stopped because {trained.fit.stop_reason}."]
        if self.given is None and self.settings.weights != "none":
            notes.append(
                "Warning: the published weights could not be had, so training began from random ones, which "
                "is much worse. Put the catalogue's file into the folder that XINFER_WEIGHTS names, and "
                "train again."
            )
        elif self.given is None:
            notes.append("Warning: training began from random weights, as asked for.")
        if trained.fit.epochs < trained.plan.epochs:
            notes.append("Training ended before its plan: a larger budget would help.")
        return " ".join(notes)

    def _export(self, detector: Detector, test: HeldOutImages, outputs: Sequence[Feeds]) -> dict[str, Any]:
        """Writes the model in both forms; gates the ONNX file on held-out images."""
        self.stages.report(_EXPORT, 0.0)
        save_model(detector, self.folder)
        path = self.folder / "model.onnx"
        export_image_model(detector, path, output_names=["boxes", "scores"])
        self.stages.report(_EXPORT, 0.7, message="comparing with the source model")
        return check_parity(path, test, outputs)

    def _write(
        self,
        evaluation: Evaluation,
        test: HeldOutImages,
        rows: Sequence[LeaderboardRow],
        parity: Mapping[str, Any],
        trained: Trained,
        rule: str,
    ) -> dict[str, Any]:
        self.stages.report(_REPORT, 0.0)
        metrics = evaluation.metrics()
        gallery = evaluation.gallery(self.dataset_dir, self.folder, test.items)
        held_out = [
            {"path": item["path"], "right": right, "false": false, "missed": missed}
            for item, (right, false, missed) in zip(test.items, evaluation.mistakes, strict=True)
        ]
        right, false, missed = evaluation.counts()
        self.stages.report(_REPORT, 1.0)
        self.stages.close()
        duration_s = round(time.monotonic() - self.started, 3)
        report = Report(
            template=TEMPLATE,
            name=self.name,
            seed=self.seed,
            duration_s=duration_s,
            timings_s=self.stages.timings_s,
            check=self.data.report.to_dict(),
            protocol=self.split.protocol,
            counts=self.split.counts(self.labels),
            metric=METRIC,
            metrics=metrics,
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
                training_chart(trained.fit.history),
            ],
            tables=[evaluation.class_table(), evaluation.size_table()],
            gallery=gallery,
            parity=parity,
            held_out=held_out,
        )
        write_json(self.folder / "report.json", report.to_dict())
        return {
            "metric": METRIC,
            "value": metrics[METRIC]["value"],
            "num_test": len(test.items),
            "candidate": rows[-1].name,
            "duration_s": duration_s,
        }


def truth_of_image(image: UsableImage) -> ImageBoxes:
    """True objects in pixels of the upright image."""
    return ImageBoxes(
        boxes=image.boxes * np.array([image.width, image.height] * 2),
        labels=image.labels,
        ignored=image.ignored,
    )


def figures(coco: CocoMetrics) -> dict[str, float | None]:
    """What the leaderboard shows."""
    return {name: coco.overall[name] for name in ("map50", "map", "map75")}


def check_parity(path: Path, images: HeldOutImages, outputs: Sequence[Feeds]) -> dict[str, Any]:
    """Compares the ONNX file with the torch model on held-out images.

    Args:
        outputs: of the torch model.

    Returns:
        `Report.parity`.

    Raises:
        ParityError: scores, boxes of candidates that count, or mAP50 differ.
    """
    exported = OnnxModel(path)
    name = images.task.input.name
    boxes, scores = images.task.outputs["boxes"], images.task.outputs["scores"]
    score_diff = box_diff = 0.0
    onnx_outputs = []
    for feeds, source in list(zip(images.feeds, outputs, strict=True))[:_PARITY_IMAGES]:
        found_boxes, found_scores = exported(feeds[name])
        onnx_outputs.append({boxes: found_boxes, scores: found_scores})
        score_diff = max(score_diff, float(np.abs(found_scores - source[scores]).max()))
        counts = source[scores].max(axis=2) >= 0.1
        if counts.any():
            box_diff = max(box_diff, float(np.abs(found_boxes - source[boxes])[counts].max()))
    num = len(onnx_outputs)

    def map50(each: Sequence[Feeds]) -> float:
        pairs = zip(each, images.geometries[:num], strict=True)
        found = [detections(images.task, output, geometry) for output, geometry in pairs]
        return coco_metrics(found, images.truth[:num], len(images.task.labels)).map50

    source_value, onnx_value = map50(outputs[:num]), map50(onnx_outputs)
    # A NaN must not pass.
    same = score_diff <= _PARITY_SCORE and box_diff <= _PARITY_BOX_PX
    if not same or not abs(source_value - onnx_value) <= _PARITY_MAP50:
        raise ParityError(
            f"The exported model differs from its source: scores by up to {score_diff:.2g}, boxes by up to "
            f"{box_diff:.2g} pixels, mAP50 {source_value:.4f} against {onnx_value:.4f}.",
            value=score_diff,
            hint="this is a defect of the export: report it with the versions of torch and onnxscript",
        )
    return {
        "num_samples": num,
        "metric_source": source_value,
        "metric_onnx": onnx_value,
        "max_abs_diff": score_diff,
        "max_box_diff_px": box_diff,
    }


def _as_it_is(image: UsableImage) -> Geometry:
    return Geometry(
        original_height=image.height,
        original_width=image.width,
        height=image.height,
        width=image.width,
        scale_x=1.0,
        scale_y=1.0,
        offset_x=0.0,
        offset_y=0.0,
    )


class _Told(Callback):
    """Tells the stages of training's progress."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    def on_batch_end(self, state: TrainState) -> None:
        share = state.steps_in_epoch / (state.steps_per_epoch or 1)
        self._stages.report(
            _TRAIN,
            min((state.epoch + share) / state.max_epochs, 1.0),
            message=f"epoch {state.epoch + 1} of {state.max_epochs}",
        )

    def on_epoch_end(self, state: TrainState) -> None:
        metrics = {name: value for name, value in state.metrics.items() if math.isfinite(value)}
        self._stages.report(
            _TRAIN,
            min(state.epoch / state.max_epochs, 1.0),
            message=f"epoch {state.epoch} of {state.max_epochs}",
            metrics={"epoch": float(state.epoch), **metrics},
        )
