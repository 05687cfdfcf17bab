"""The anomaly recipe: check, split, features, candidates, threshold, test, export, report.

Everything is decided on the training and validation parts. The test part is scored once, at the end, for
every candidate, so that the leaderboard can show what each would have given.

Shapes: N images, C channels, h and w rows and columns of the patch grid, S side of a map.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xtorch.callbacks import ReportProgress
from xtorch.data.check import Inspection, UsableImage, inspect_images
from xtorch.data.findings import refuse
from xtorch.data.layout import LABELS, scan_image_folder
from xtorch.data.splits import Split, split
from xtorch.export import export_image_model, score_parity
from xtorch.metrics import auroc
from xtorch.models.anomaly import AnomalyConfig, AnomalyModel, Patches
from xtorch.picks import evenly
from xtorch.progress import Progress, Stages
from xtorch.tasks.anomaly import TEMPLATE, operating_point
from xtorch.tasks.anomaly.candidates import Candidate, fit_gaussian, fit_head, fit_memory, score_patches
from xtorch.tasks.anomaly.features import FeatureExtractor
from xtorch.tasks.anomaly.files import save_model
from xtorch.tasks.anomaly.operating_point import MIN_DEFECTIVE, OperatingPoint
from xtorch.tasks.anomaly.outputs import Outcome, figures, write_spec
from xtorch.tasks.anomaly.selection import MAX_SYNTHETIC, SYNTHETIC, damaged_maps, select
from xtorch.tasks.anomaly.settings import AnomalySettings
from xtorch.tasks.images import read_pixels
from xtorch.tasks.recipe import Run
from xtorch.tasks.report import parity

_CHECK, _FEATURES, _DAMAGE, _CANDIDATES, _HEAD, _EXPORT, _REPORT = (
    "Checking images",
    "Extracting features",
    "Drawing damage to choose by",
    "Fitting candidates",
    "Training the head",
    "Exporting",
    "Writing the report",
)
#: A supervised head needs at least this many defective images to train on.
_MIN_DEFECTIVE_TRAIN = 12
#: Statistics of descriptors come from at most this many good images.
_STATISTICS_IMAGES = 400
_PARITY_TOLERANCE = 1e-3
_PARITY_IMAGES = 48
#: The memory is chosen from this many times as many random patches.
_POOL_FACTOR = 8


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
    with _Run.begin(
        TEMPLATE,
        AnomalySettings,
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


class _Run(Run[AnomalySettings]):
    """The steps."""

    def execute(self) -> dict[str, Any]:
        scanned = scan_image_folder(self.dataset_dir)
        num = len(scanned.images)
        self.stages = Stages(
            self.progress,
            {
                _CHECK: 0.003 * num,
                _FEATURES: 0.04 * num,
                _DAMAGE: 0.04 * min(num / 5, MAX_SYNTHETIC),
                _CANDIDATES: 5,
                _HEAD: 8,
                _EXPORT: 10,
                _REPORT: 1,
            },
        )
        self.stages.report(_CHECK, 0.0)
        inspection = inspect_images(scanned, self.stages.within(_CHECK))
        refuse(inspection.errors)
        parts = split(inspection.usable, seed=self.seed)
        labels = {
            part: np.array([image.label for image in images], dtype=np.int64)
            for part, images in parts.parts.items()
        }
        operating_point.require_defects(self.settings.max_miss_rate, int(labels["validation"].sum()))
        config = AnomalyConfig(input_size=self.settings.input_size)
        patches, descriptors = self._descriptors(config, parts, labels)
        candidates = self._candidates(descriptors, labels)
        selection = select(candidates, labels["validation"])
        choose_point = partial(
            operating_point.choose,
            max_false_alarm_rate=self.settings.max_false_alarm_rate,
            max_miss_rate=self.settings.max_miss_rate,
            num_compared=selection.num_compared,
        )
        winner = selection.winner
        point = choose_point(labels["validation"], winner.scores("validation"))

        # From here on nothing is decided any more.
        for candidate in candidates:
            candidate.values["test"] = score_patches(candidate.scorer, descriptors["test"])
        model = self._assemble(config, patches, winner)
        compared = self._export(model, parts.test, point)
        outcome = Outcome(
            dataset_dir=self.dataset_dir,
            parts=parts,
            labels=labels,
            candidates=candidates,
            selection=selection,
            choose_point=choose_point,
            point=point,
            model=model,
            seed=self.seed,
        )
        return self._write(inspection, outcome, compared)

    # --------------------------------------------------------------------------------------- steps

    def _descriptors(
        self, config: AnomalyConfig, parts: Split, labels: Mapping[str, np.ndarray]
    ) -> tuple[Patches, dict[str, Tensor]]:
        """Fit the descriptors' statistics on good training images, and describe every part (float16)."""
        extractor = FeatureExtractor(config, cache_dir=self.cache_dir)
        images = [image for part in parts.parts.values() for image in part]
        described = extractor.maps(self.dataset_dir, images, self.stages.counter(_FEATURES, "images"))
        sizes = [len(part) for part in parts.parts.values()]
        by_part = zip(*(each.split(sizes) for each in described), strict=True)
        maps: dict[str, Sequence[Tensor]] = dict(zip(parts.parts, by_part, strict=True))
        if labels["validation"].sum() < MIN_DEFECTIVE and self.left_s > 0:
            maps[SYNTHETIC] = damaged_maps(
                extractor,
                self.dataset_dir,
                [image for image in parts.validation if image.label == 0],
                seed=self.seed,
                report=self.stages.counter(_DAMAGE, "images"),
            )
        patches = Patches([m.shape[1] for m in maps["train"]])
        good = torch.from_numpy(np.flatnonzero(labels["train"] == 0))
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
            if candidates and self.left_s <= 0:
                break
            candidates.append(fits[kind](good_NChw))
        self.stages.report(_CANDIDATES, 1.0)
        if (
            "head" in self.settings.candidates
            and labels["train"].sum() >= _MIN_DEFECTIVE_TRAIN
            and labels["validation"].sum() >= MIN_DEFECTIVE
            and self.left_s > 0
        ):
            candidates.append(self._fit_head(descriptors, labels))
        for candidate in candidates:
            for part in {"validation", SYNTHETIC} & descriptors.keys():
                candidate.values[part] = score_patches(candidate.scorer, descriptors[part])
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
            top_fractions=self.settings.top_fractions,
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
            top_fractions=self.settings.top_fractions,
            fit_s=time.monotonic() - start,
            settings={},
        )

    def _fit_head(self, descriptors: Mapping[str, Tensor], labels: Mapping[str, np.ndarray]) -> Candidate:
        start = time.monotonic()
        max_epochs, top_fractions, hidden = 40, (0.03,), 64
        scorer, fitted = fit_head(
            descriptors["train"],
            torch.from_numpy(labels["train"]),
            descriptors["validation"],
            torch.from_numpy(labels["validation"]),
            hidden=hidden,
            top_fractions=top_fractions,
            seed=self.seed,
            limit_s=max(5.0, min(60.0, self.left_s)),
            max_epochs=max_epochs,
            callbacks=[ReportProgress(self.stages.within(_HEAD), _HEAD, max_epochs=max_epochs)],
        )
        return Candidate(
            name="head",
            title="Supervised head on frozen features",
            scorer_kind="head",
            scorer=scorer,
            scorer_size=hidden,
            top_fractions=top_fractions,
            fit_s=time.monotonic() - start,
            settings={"hidden": hidden, "epochs": fitted.epochs},
            note=f"Stopped because {fitted.stop_reason}.",
            num_fits=fitted.epochs,
        )

    def _assemble(self, config: AnomalyConfig, patches: Patches, winner: Candidate) -> AnomalyModel:
        full = AnomalyConfig(
            input_size=config.input_size,
            strides=config.strides,
            map_size=config.map_size,
            scorer=winner.scorer_kind,
            scorer_size=winner.scorer_size,
            top_fractions=winner.top_fractions,
        )
        model = AnomalyModel(full, pretrained=True)
        model.patches.load_state_dict(patches.state_dict())
        model.scorer.load_state_dict(winner.scorer.state_dict())
        return model.eval().requires_grad_(False)

    def _export(
        self, model: AnomalyModel, test: Sequence[UsableImage], point: OperatingPoint
    ) -> dict[str, Any]:
        """Write the model in both forms; gate the ONNX file on held-out images of several sizes."""
        self.stages.report(_EXPORT, 0.0)
        save_model(model, self.folder)
        export_image_model(model, self.folder / "model.onnx", output_names=["score", "anomaly_map"])
        self.stages.report(_EXPORT, 0.7, message="comparing with the source model")
        picked = [
            image
            for label in range(len(LABELS))
            for image in evenly([each for each in test if each.label == label], _PARITY_IMAGES // 2)
        ]
        images = [read_pixels(self.dataset_dir, image.path, model.config.input_size) for image in picked]
        source_N, onnx_N = score_parity(
            model, self.folder / "model.onnx", images, tolerance=_PARITY_TOLERANCE
        )
        labels_N = np.array([image.label for image in picked])

        def metric(scores_N: np.ndarray) -> float:
            if labels_N.any():
                return auroc(labels_N, scores_N)
            return float((scores_N >= point.threshold).mean())

        return parity(source_N, onnx_N, metric)

    def _write(self, inspection: Inspection, outcome: Outcome, compared: Mapping[str, Any]) -> dict[str, Any]:
        self.stages.report(_REPORT, 0.0)
        write_spec(outcome, self.folder)
        return self.finish(
            num_test=len(outcome.parts.test),
            candidate=outcome.winner.name,
            check=inspection.report,
            protocol=outcome.parts.protocol,
            parity=compared,
            **figures(outcome, self.folder),
        )
