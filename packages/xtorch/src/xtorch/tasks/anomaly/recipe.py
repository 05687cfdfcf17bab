"""The anomaly recipe: check, split, features, candidates, threshold, test, export, report.

Everything is decided on the training and validation parts. The test part is scored once, at the end, for
every candidate, so that the leaderboard can show what each would have given.

Shapes: N images, C channels, h and w rows and columns of the patch grid, S side of a map.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xinfer.preproc import decode_image
from xtorch.callbacks import ReportProgress
from xtorch.data.check import Inspection, UsableImage, inspect_images
from xtorch.data.layout import LABELS, scan_image_folder
from xtorch.data.splits import Split, split
from xtorch.errors import DataError, LayoutError, SettingsError, TooFewImagesError
from xtorch.export import export_image_model, score_parity
from xtorch.metrics import auroc, best_f1_threshold
from xtorch.models.anomaly import AnomalyConfig, AnomalyModel, Patches
from xtorch.progress import Progress, Stages, silent
from xtorch.tasks.anomaly.baseline import colour_scores, mean_colours
from xtorch.tasks.anomaly.candidates import (
    Candidate,
    fit_gaussian,
    fit_head,
    fit_memory,
    pooled,
    score_patches,
)
from xtorch.tasks.anomaly.features import FeatureExtractor
from xtorch.tasks.anomaly.files import save_model, task_spec
from xtorch.tasks.anomaly.gallery import worst_mistakes
from xtorch.tasks.anomaly.report import (
    confusion_matrix,
    cost_on_test,
    has_both,
    held_out,
    histogram_chart,
    kinds_table,
    metrics_with_intervals,
    roc_chart,
)
from xtorch.tasks.recipe import all_or_nothing, parse_settings, write_json
from xtorch.tasks.report import LeaderboardRow, Report

TEMPLATE = "anomaly-detection"
_CHECK, _FEATURES, _CANDIDATES, _HEAD, _EXPORT, _REPORT = (
    "Checking images",
    "Extracting features",
    "Fitting candidates",
    "Training the head",
    "Exporting",
    "Writing the report",
)
#: A supervised head needs at least this many defective images to train on, and these to choose it by.
_MIN_DEFECTIVE_TRAIN = 12
_MIN_DEFECTIVE_VALIDATION = 4
#: Statistics of descriptors come from at most this many good images.
_STATISTICS_IMAGES = 400
#: Scores are distances or log-odds of order 1; float32 sums in another order differ by about 1e-5.
_PARITY_TOLERANCE = 1e-3
_PARITY_IMAGES = 48
#: The memory is chosen from this many times as many random patches.
_POOL_FACTOR = 8


@dataclass(frozen=True, kw_only=True)
class AnomalySettings:
    """What a run may be asked to do differently."""

    input_size: int = 256
    """Side of the image that the backbone sees, in pixels; a multiple of 32."""
    memory_size: int = 4000
    """Descriptors of good patches that the memory keeps."""
    top_fraction: float = 0.2
    """Share of an image's patches whose mean is its score, where validation cannot choose."""
    candidates: tuple[str, ...] = ("memory", "gaussian", "head")
    """Which scorers compete."""

    def __post_init__(self) -> None:
        if self.input_size % 32 or not 128 <= self.input_size <= 512:
            raise SettingsError(
                "input_size must be a multiple of 32 between 128 and 512.", value=self.input_size
            )
        if not 64 <= self.memory_size <= 16_384:
            raise SettingsError("memory_size must be between 64 and 16384.", value=self.memory_size)
        if not 0 < self.top_fraction <= 1:
            raise SettingsError("top_fraction must be above 0 and at most 1.", value=self.top_fraction)
        unknown = set(self.candidates) - {"memory", "gaussian", "head"}
        if unknown or not set(self.candidates) & {"memory", "gaussian"}:
            raise SettingsError(
                "candidates must name memory or gaussian, and may name head.", value=list(self.candidates)
            )


def run(
    dataset_dir: str | Path,
    output_dir: str | Path,
    *,
    name: str,
    budget_s: float = 120.0,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Train an anomaly detector on a folder of images and write all that a build needs.

    Args:
        dataset_dir: images in a layout of `xtorch.data.layout`.
        output_dir: gets the files of ARCHITECTURE.md, 10.3; all of them or none.
        name: the model's name, for the report.
        budget_s: when this many seconds have passed, candidates that were not begun are left out. The
            first candidate, test, export and report always happen.
        seed: decides splits, samples and initial weights.
        settings: fields of `AnomalySettings`.
        progress: told about progress.
        cache_dir: keeps features of images between runs; None: nothing is kept.

    Returns:
        The fields of `wire.TrainResult`.

    Raises:
        LayoutError, TooFewImagesError, DataError: the data check found an error.
        SettingsError: a setting is unknown or out of range.
        ExportError: the model could not be exported, or the export gives other answers.
    """
    started = time.monotonic()
    chosen_settings = parse_settings(AnomalySettings, settings or {})
    dataset_dir, output_dir = Path(dataset_dir), Path(output_dir)
    with all_or_nothing(output_dir) as partial:
        return _Run(
            dataset_dir=dataset_dir,
            folder=partial,
            name=name,
            deadline=started + budget_s,
            budget_s=budget_s,
            seed=seed,
            settings=chosen_settings,
            progress=progress or silent,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            started=started,
        ).execute()


def _refuse(inspection: Inspection) -> None:
    """Turn the data check's first error into an exception."""
    for finding in inspection.errors:
        kind = {
            "layout.unknown": LayoutError,
            "ok.too_few": TooFewImagesError,
            "defective.too_few": TooFewImagesError,
        }.get(finding["code"], DataError)
        raise kind(f"{finding['title']}.", value=finding["num"], hint=finding["hint"])


@dataclass(kw_only=True)
class _Run:
    """One run's inputs and steps."""

    dataset_dir: Path
    folder: Path
    name: str
    deadline: float
    budget_s: float
    seed: int
    settings: AnomalySettings
    progress: Progress
    cache_dir: Path | None
    started: float

    def execute(self) -> dict[str, Any]:
        scanned = scan_image_folder(self.dataset_dir)
        num = len(scanned.images)
        self.stages = Stages(
            self.progress,
            {_CHECK: 0.003 * num, _FEATURES: 0.04 * num, _CANDIDATES: 5, _HEAD: 8, _EXPORT: 10, _REPORT: 1},
        )

        def checked(
            _stage: str, *, progress: float | None = None, message: str = "", **_details: Any
        ) -> None:
            self.stages.report(_CHECK, progress or 0.0, message=message)

        self.stages.report(_CHECK, 0.0)
        inspection = inspect_images(scanned, checked)
        _refuse(inspection)
        parts = split(inspection.usable, seed=self.seed)
        labels = {
            part: np.array([image.label for image in images], dtype=np.int64)
            for part, images in parts.parts.items()
        }
        config = AnomalyConfig(input_size=self.settings.input_size)
        patches, descriptors = self._descriptors(config, parts, labels["train"])
        candidates = self._candidates(descriptors, labels)
        winner = self._choose(candidates, labels["validation"])
        threshold, rule = _threshold(labels["validation"], winner.scores("validation"))

        # From here on nothing is decided any more.
        for candidate in candidates:
            candidate.values["test"] = score_patches(candidate.scorer, descriptors["test"])
        model = self._assemble(config, patches, winner)
        parity = self._export(model, parts.test)
        return self._write(
            inspection, parts, labels, candidates, winner, model, parity, threshold=threshold, rule=rule
        )

    # --------------------------------------------------------------------------------------- steps

    def _descriptors(
        self, config: AnomalyConfig, parts: Split, train_labels_N: np.ndarray
    ) -> tuple[Patches, dict[str, Tensor]]:
        """Fit the descriptors' statistics on good training images, and describe every part (float16)."""
        extractor = FeatureExtractor(config, cache_dir=self.cache_dir)
        total = sum(len(images) for images in parts.parts.values())
        before = 0
        maps: dict[str, list[Tensor]] = {}
        for part, images in parts.parts.items():

            def report(done: int, _: int, before: int = before) -> None:
                self.stages.report(
                    _FEATURES, (before + done) / total, message=f"{before + done} of {total} images"
                )

            maps[part] = extractor.maps(self.dataset_dir, images, report)
            before += len(images)
        patches = Patches([m.shape[1] for m in maps["train"]])
        good = torch.from_numpy(np.flatnonzero(train_labels_N == 0))
        generator = torch.Generator().manual_seed(self.seed)
        good = good[torch.randperm(len(good), generator=generator)[:_STATISTICS_IMAGES]]
        with torch.inference_mode():
            patches.fit(patches.aligned([m[good].float() for m in maps["train"]]))
            descriptors = {
                part: torch.cat(
                    [
                        patches([m[chunk].float() for m in part_maps]).half()
                        for chunk in torch.arange(len(part_maps[0])).split(64)
                    ]
                )
                if len(part_maps[0])
                else torch.empty((0, config.channels, config.grid_size, config.grid_size)).half()
                for part, part_maps in maps.items()
            }
        return patches, descriptors

    def _candidates(
        self, descriptors: Mapping[str, Tensor], labels: Mapping[str, np.ndarray]
    ) -> list[Candidate]:
        """Fit the scorers that are asked for, that the data allows and that there is time for."""
        good_NChw = descriptors["train"][torch.from_numpy(np.flatnonzero(labels["train"] == 0))]
        fits = {"memory": self._fit_memory, "gaussian": self._fit_gaussian}
        candidates: list[Candidate] = []
        wanted = [kind for kind in fits if kind in self.settings.candidates]
        for index, kind in enumerate(wanted):
            self.stages.report(_CANDIDATES, index / len(wanted), message=kind)
            if candidates and time.monotonic() > self.deadline:
                break
            candidates.append(fits[kind](good_NChw))
        self.stages.report(_CANDIDATES, 1.0)
        if (
            "head" in self.settings.candidates
            and labels["train"].sum() >= _MIN_DEFECTIVE_TRAIN
            and labels["validation"].sum() >= _MIN_DEFECTIVE_VALIDATION
            and time.monotonic() < self.deadline
        ):
            candidates.append(self._fit_head(descriptors, labels))
        for candidate in candidates:
            candidate.values["validation"] = score_patches(candidate.scorer, descriptors["validation"])
        return candidates

    def _fit_memory(self, good_NChw: Tensor) -> Candidate:
        start = time.monotonic()
        generator = torch.Generator().manual_seed(self.seed)
        scorer = fit_memory(
            good_NChw,
            self.settings.memory_size,
            pool=_POOL_FACTOR * self.settings.memory_size,
            generator=generator,
        )
        size = scorer.bank_CM.shape[1]
        return Candidate(
            name="memory",
            title="Nearest remembered patch (PatchCore)",
            scorer_kind="memory",
            scorer=scorer,
            scorer_size=size,
            top_fraction=self.settings.top_fraction,
            fit_s=time.monotonic() - start,
            settings={"memory_size": size},
        )

    def _fit_gaussian(self, good_NChw: Tensor) -> Candidate:
        start = time.monotonic()
        generator = torch.Generator().manual_seed(self.seed)
        scorer = fit_gaussian(good_NChw, pool=30_000, generator=generator)
        return Candidate(
            name="gaussian",
            title="Distance to the typical patch (Mahalanobis)",
            scorer_kind="gaussian",
            scorer=scorer,
            scorer_size=len(scorer.offset_R),
            top_fraction=self.settings.top_fraction,
            fit_s=time.monotonic() - start,
            settings={},
        )

    def _fit_head(self, descriptors: Mapping[str, Tensor], labels: Mapping[str, np.ndarray]) -> Candidate:
        start = time.monotonic()
        max_epochs, top_fraction, hidden = 40, 0.03, 64

        def report(stage: str, *, progress: float | None = None, **details: Any) -> None:
            self.stages.report(stage, progress or 0.0, **details)

        scorer, fitted = fit_head(
            descriptors["train"],
            torch.from_numpy(labels["train"]),
            descriptors["validation"],
            torch.from_numpy(labels["validation"]),
            hidden=hidden,
            top_fraction=top_fraction,
            seed=self.seed,
            limit_s=max(5.0, min(60.0, self.deadline - time.monotonic())),
            max_epochs=max_epochs,
            callbacks=[ReportProgress(report, _HEAD, max_epochs=max_epochs)],
        )
        return Candidate(
            name="head",
            title="Supervised head on frozen features",
            scorer_kind="head",
            scorer=scorer,
            scorer_size=hidden,
            top_fraction=top_fraction,
            fit_s=time.monotonic() - start,
            settings={"hidden": hidden, "epochs": fitted.epochs},
            note=f"Stopped because {fitted.stop_reason}.",
        )

    def _choose(self, candidates: Sequence[Candidate], labels_N: np.ndarray) -> Candidate:
        """The candidate, and how many patches make its score, by validation AUROC; else the first."""
        if labels_N.sum() < _MIN_DEFECTIVE_VALIDATION or (labels_N == 0).sum() < 1:
            for candidate in candidates:
                candidate.settings["top_fraction"] = candidate.top_fraction
            return candidates[0]
        for candidate in candidates:
            options = [candidate.top_fraction, 0.02, 0.1, 0.5]
            values = [
                auroc(labels_N, pooled(candidate.values["validation"], option).numpy()) for option in options
            ]
            # The default stays unless another is clearly better: validation parts are small.
            best = int(np.argmax([value + (0.01 if i == 0 else 0.0) for i, value in enumerate(values)]))
            candidate.top_fraction = options[best]
            candidate.settings["top_fraction"] = options[best]
            candidate.validation_auroc = values[best]
        return max(candidates, key=lambda candidate: candidate.validation_auroc or 0.0)

    def _assemble(self, config: AnomalyConfig, patches: Patches, winner: Candidate) -> AnomalyModel:
        full = AnomalyConfig(
            input_size=config.input_size,
            strides=config.strides,
            map_size=config.map_size,
            scorer=winner.scorer_kind,
            scorer_size=winner.scorer_size,
            top_fraction=winner.top_fraction,
        )
        model = AnomalyModel(full, pretrained=True)
        model.patches.load_state_dict(patches.state_dict())
        model.scorer.load_state_dict(winner.scorer.state_dict())
        return model.eval().requires_grad_(False)

    def _export(self, model: AnomalyModel, test: Sequence[UsableImage]) -> dict[str, Any]:
        """Write the model in both forms; gate the ONNX file on held-out images of several sizes."""
        self.stages.report(_EXPORT, 0.0)
        save_model(model, self.folder)
        export_image_model(model, self.folder / "model.onnx", output_names=["score", "anomaly_map"])
        self.stages.report(_EXPORT, 0.7, message="comparing with the source model")
        picked = _spread(test, _PARITY_IMAGES)
        images = [
            decode_image((self.dataset_dir / image.path).read_bytes(), min_side=model.config.input_size)
            for image in picked
        ]
        source_N, onnx_N = score_parity(
            model, self.folder / "model.onnx", images, tolerance=_PARITY_TOLERANCE
        )
        labels_N = np.array([image.label for image in picked])
        return {
            "num_samples": len(picked),
            "max_abs_diff": float(np.abs(source_N - onnx_N).max()),
            "metric_source": auroc(labels_N, source_N),
            "metric_onnx": auroc(labels_N, onnx_N),
        }

    def _write(
        self,
        inspection: Inspection,
        parts: Split,
        labels: Mapping[str, np.ndarray],
        candidates: Sequence[Candidate],
        winner: Candidate,
        model: AnomalyModel,
        parity: Mapping[str, Any],
        *,
        threshold: float,
        rule: str,
    ) -> dict[str, Any]:
        self.stages.report(_REPORT, 0.0)
        scores_N = winner.scores("test")
        with torch.inference_mode():
            maps_NSS = model.tail(winner.values["test"])[1].numpy()
            validation_NSS = model.tail(winner.values["validation"])[1].numpy()
        good_NSS = validation_NSS[labels["validation"] == 0]
        map_threshold = float(np.quantile(good_NSS, 0.995))
        known_N = np.concatenate([winner.scores("validation"), [threshold]])
        low, high = float(known_N.min()), float(known_N.max())
        score_range = (low, high + max(0.1 * (high - low), 1e-3))
        write_json(
            self.folder / "task.json",
            task_spec(
                model.config, threshold=threshold, map_threshold=map_threshold, score_range=score_range
            ),
        )
        write_json(self.folder / "labels.json", list(LABELS))
        write_json(
            self.folder / "splits.json",
            {
                part: [{"path": image.path, "label": image.label} for image in images]
                for part, images in parts.parts.items()
            },
        )
        gallery = worst_mistakes(
            self.dataset_dir,
            self.folder,
            parts.test,
            scores_N,
            maps_NSS,
            threshold=threshold,
            map_range=(float(np.median(good_NSS)), float(np.quantile(maps_NSS, 0.999))),
        )
        leaderboard = [
            *(self._row(candidate, labels["test"], kept=candidate is winner) for candidate in candidates),
            self._baseline_row(parts, labels),
        ]
        kinds = kinds_table(parts.test, scores_N, threshold)
        metrics = metrics_with_intervals(labels["test"], scores_N, threshold, seed=self.seed)
        self.stages.report(_REPORT, 1.0)
        self.stages.close()
        duration_s = round(time.monotonic() - self.started, 3)
        report = Report(
            template=TEMPLATE,
            name=self.name,
            seed=self.seed,
            duration_s=duration_s,
            timings_s=self.stages.timings_s,
            check=inspection.report,
            protocol=parts.protocol,
            counts=parts.counts(),
            metric="image_auroc",
            metrics=metrics,
            leaderboard=leaderboard,
            operating_point={
                "threshold": threshold,
                "rule": rule,
                "chosen_on": "validation",
                **cost_on_test(labels["test"], scores_N, threshold),
            },
            confusion=confusion_matrix(labels["test"], scores_N, threshold),
            charts=[
                roc_chart(labels["test"], scores_N, threshold),
                histogram_chart(labels["test"], scores_N, threshold),
            ],
            tables=[] if kinds is None else [kinds],
            gallery=gallery,
            parity=parity,
            held_out=held_out(parts.test, scores_N),
        )
        write_json(self.folder / "report.json", report.to_dict())
        return {
            "metric": "image_auroc",
            "value": metrics["image_auroc"]["value"],
            "num_test": len(parts.test),
            "candidate": winner.name,
            "duration_s": duration_s,
        }

    def _row(self, candidate: Candidate, test_labels_N: np.ndarray, *, kept: bool) -> LeaderboardRow:
        chosen = candidate.validation_auroc is not None
        return LeaderboardRow(
            name=candidate.name,
            title=candidate.title,
            kind="model",
            kept=kept,
            validation={"image_auroc": candidate.validation_auroc},
            test={"image_auroc": auroc(test_labels_N, candidate.scores("test"))},
            fit_s=round(candidate.fit_s, 3),
            settings=candidate.settings,
            note=candidate.note
            if chosen
            else "No defective validation images: the default candidate is kept.",
        )

    def _baseline_row(self, parts: Split, labels: Mapping[str, np.ndarray]) -> LeaderboardRow:
        start = time.monotonic()
        good = mean_colours(self.dataset_dir, [image for image in parts.train if image.label == 0])
        values: dict[str, float | None] = {}
        for part in ("validation", "test"):
            if has_both(labels[part]):
                colours = mean_colours(self.dataset_dir, parts.parts[part])
                values[part] = auroc(labels[part], colour_scores(good, colours))
        return LeaderboardRow(
            name="mean_colour",
            title="Distance to the mean colour of good images",
            kind="baseline",
            kept=False,
            validation={"image_auroc": values.get("validation")},
            test={"image_auroc": values.get("test")},
            fit_s=round(time.monotonic() - start, 3),
        )


def _threshold(labels_N: np.ndarray, scores_N: np.ndarray) -> tuple[float, str]:
    """Operating point and, in words, how it was chosen."""
    good = scores_N[labels_N == 0]
    num_defective = int(labels_N.sum())
    if num_defective >= _MIN_DEFECTIVE_VALIDATION:
        return (
            best_f1_threshold(labels_N, scores_N),
            f"highest F1 on {len(good)} good and {num_defective} defective validation images",
        )
    return (
        float(np.quantile(good, 0.95, method="higher")),
        f"95 % quantile of the scores of {len(good)} held-back good images: about 5 % false alarms",
    )


def _spread(images: Sequence[UsableImage], num: int) -> list[UsableImage]:
    """About `num` images, both labels, spread evenly over each label's list."""
    picked: list[UsableImage] = []
    for label in range(len(LABELS)):
        of_label = [image for image in images if image.label == label]
        steps = np.linspace(0, len(of_label) - 1, min(len(of_label), num // 2)).round().astype(int)
        picked += [of_label[int(step)] for step in np.unique(steps)]
    return picked
