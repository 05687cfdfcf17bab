"""Thresholds carried over to an engine's own scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xinfer.tasks import parse_task
from xinfer.tasks.operating_point import carried_over, for_engine, verdict_agreement

TASK = parse_task(
    {
        "task": "anomaly-detection",
        "version": 1,
        "input": {"name": "image", "kind": "image", "color": "RGB", "min_side": 8},
        "outputs": {"score": "score", "map": "anomaly_map"},
        "labels": ["ok", "defective"],
        "threshold": 0.5,
        "map_threshold": 0.6,
        "score_range": [0.0, 1.0],
        "metric": "image_auroc",
    }
)


@given(
    scores=st.lists(st.integers(-1000, 1000), min_size=2, max_size=50, unique=True),
    position=st.floats(-0.2, 1.2),
    slope=st.floats(0.1, 10),
    shift=st.floats(-50, 50),
)
def test_carried_over_gives_every_sample_the_same_verdict_when_the_order_is_kept(
    scores: list[int], position: float, slope: float, shift: float
) -> None:
    source = np.array(scores, dtype=np.float64)
    engine = np.cbrt(source) * slope + shift
    threshold = float(np.quantile(source, np.clip(position, 0, 1)) + 0.37)
    moved = carried_over(threshold, source, engine)
    assert ((engine >= moved) == (source >= threshold)).all()


def test_for_engine_moves_thresholds_and_range_to_the_engines_scale() -> None:
    values = np.linspace(0, 1, 11, dtype=np.float32)
    source = [{"score": v[None], "anomaly_map": np.full((1, 2, 2), v)} for v in values]
    engine = [{"score": 3 * v[None] - 1, "anomaly_map": np.full((1, 2, 2), 2 * v)} for v in values]
    moved = for_engine(TASK, source, engine)
    np.testing.assert_allclose(moved.threshold, 0.5, atol=1e-6)  # 3 * 0.5 - 1
    np.testing.assert_allclose(moved.map_threshold, 1.2, atol=1e-6)
    np.testing.assert_allclose(moved.score_range, (-1, 2), atol=1e-6)


def test_for_engine_changes_nothing_when_the_scores_are_the_same() -> None:
    outputs = [{"score": np.array([v]), "anomaly_map": np.full((1, 2, 2), v)} for v in (0.1, 0.4, 0.9)]
    moved = for_engine(TASK, outputs, outputs)
    np.testing.assert_allclose(
        (moved.threshold, moved.map_threshold, *moved.score_range), (0.5, 0.6, 0.0, 1.0), atol=1e-12
    )


def test_verdict_agreement_counts_flips_near_the_threshold_but_gates_only_clear_ones() -> None:
    def outputs(*scores: float) -> list[dict[str, np.ndarray]]:
        return [{"score": np.array([score])} for score in scores]

    source = outputs(0.1, 0.49, 0.52, 0.9)
    assert verdict_agreement(TASK, source, TASK, outputs(0.1, 0.51, 0.48, 0.9)) == (0.5, 1.0)
    assert verdict_agreement(TASK, source, TASK, outputs(0.6, 0.49, 0.52, 0.9)) == (0.75, 0.5)
    assert verdict_agreement(TASK, outputs(0.5), TASK, outputs(0.4)) == (0.0, 0.0)
    assert verdict_agreement(TASK, source, TASK, outputs(*[np.nan] * 4))[1] == 0.5
