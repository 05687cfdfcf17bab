"""Metrics against scikit-learn; the golden check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from xinfer import InferenceEngine, InputError, VerificationError
from xinfer.package import Golden
from xinfer.tasks import TaskSpec
from xinfer.verify import accuracy, anomaly_evaluator, check_golden, cosine_agreement, image_auroc


@pytest.mark.parametrize("seed", range(20))
def test_image_auroc_equals_scikit_learn_with_and_without_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 50)
    labels[:2] = 0, 1
    scores = rng.normal(size=50) + labels
    if seed % 2:
        scores = scores.round(1)
    assert image_auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_image_auroc_is_one_when_separated_and_half_when_constant() -> None:
    assert image_auroc(np.array([0.1, 0.2, 0.9]), np.array([0, 0, 1])) == 1
    assert image_auroc(np.zeros(4), np.array([0, 1, 0, 1])) == 0.5


@pytest.mark.parametrize(("scores", "labels"), [([1, 2], [0, 0]), ([1, 2], [1, 1]), ([np.nan, 1], [0, 1])])
def test_image_auroc_refuses_what_has_no_answer(scores: list[float], labels: list[int]) -> None:
    with pytest.raises(InputError):
        image_auroc(np.array(scores), np.array(labels))


def test_accuracy_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    assert accuracy(predicted, labels) == pytest.approx(accuracy_score(labels, predicted))
    with pytest.raises(InputError):
        accuracy(predicted[:3], labels)


def test_cosine_agreement_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4))
    expected = cosine_similarity(a.reshape(1, -1), b.reshape(1, -1))[0, 0]
    assert cosine_agreement(a, b) == pytest.approx(expected)
    assert cosine_agreement(np.zeros(2), np.zeros(2)) == 1
    assert cosine_agreement(np.zeros(2), np.ones(2)) == 0
    with pytest.raises(InputError):
        cosine_agreement(a, b.T)


def test_anomaly_evaluator_reads_the_task_score_output(task: TaskSpec) -> None:
    outputs = [{"score": np.array([value], np.float32)} for value in (0.1, 0.8, 0.3)]
    assert anomaly_evaluator(task, [0, 1, 0])(outputs) == 1
    assert anomaly_evaluator(task, [1, 0, 0])(outputs) == 0


def test_check_golden_fails_when_an_output_differs(engine_file: Path) -> None:
    with InferenceEngine.load(engine_file, require_signature=False) as engine:
        assert check_golden(engine) == pytest.approx(1)
        for name, change in [("score", 1.2), ("anomaly_map", np.linspace(0.8, 1.2, 64).reshape(8, 8))]:
            golden = engine.golden
            outputs = golden.outputs | {name: golden.outputs[name] * np.float32(change)}
            engine.golden = Golden(inputs=golden.inputs, outputs=outputs)
            with pytest.raises(VerificationError, match=name):
                check_golden(engine)
            engine.golden = golden


def test_golden_pair_survives_bytes() -> None:
    golden = Golden(inputs={"a.b": np.arange(3)}, outputs={"c": np.ones((1, 2), np.float32)})
    again = Golden.from_bytes(golden.to_bytes())
    np.testing.assert_array_equal(again.inputs["a.b"], golden.inputs["a.b"])
    np.testing.assert_array_equal(again.outputs["c"], golden.outputs["c"])
    assert golden.to_bytes() == replace(golden).to_bytes()
