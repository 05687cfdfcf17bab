"""Parts of the text recipe against references: losses, splits, thresholds, linear heads, training plans."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from xtorch.data.texts import UsableText
from xtorch.errors import DataError, SettingsError
from xtorch.models.bert import Bert, BertConfig, SentenceEncoder
from xtorch.tasks.recipe import parse_settings
from xtorch.tasks.text.contrastive import (
    balanced_batches,
    contrastive_tuning,
    cosine_pair_loss,
    likeness,
    name_sentences,
)
from xtorch.tasks.text.figures import macro_f1
from xtorch.tasks.text.full import full_tuning
from xtorch.tasks.text.kept import Kept
from xtorch.tasks.text.linear import fit_linear
from xtorch.tasks.text.model import TextModel, TextModelConfig
from xtorch.tasks.text.operating import (
    calibrate,
    label_thresholds,
    operating_point,
    probabilities,
    upper_bound,
)
from xtorch.tasks.text.settings import TextSettings
from xtorch.tasks.text.split import deal, split_texts
from xtorch.tasks.text.tokens import Tokens, drop_tokens, outputs_of
from xtorch.tasks.text.training import Plan

SMALL = BertConfig(vocabulary=50, channels=16, layers=2, heads=2, intermediate=32, max_length=32)


def encoder(seed: int = 0) -> SentenceEncoder:
    torch.manual_seed(seed)
    return SentenceEncoder(Bert(SMALL)).eval()


def word_texts(num: int = 60, seed: int = 0) -> tuple[Tokens, np.ndarray]:
    """Texts of three labels, each with words of its own among common ones; and targets [N,3]."""
    rng = np.random.default_rng(seed)
    ids, labels = [], []
    for index in range(num):
        label = index % 3
        own = rng.integers(10 + 10 * label, 20 + 10 * label, 4)
        ids.append(np.array([1, *own, *rng.integers(3, 9, int(rng.integers(1, 6))), 2], dtype=np.int64))
        labels.append(label)
    return Tokens(ids), np.eye(3, dtype=np.int64)[labels]


# ----------------------------------------------------------------------------------------- contrastive


def test_cosine_pair_loss_is_the_balanced_squared_error_of_all_pairs() -> None:
    torch.manual_seed(0)
    x_ND = torch.nn.functional.normalize(torch.randn(7, 5), dim=1)
    labels = [0, 0, 1, 2, 1, 0, 2]
    same_NN = likeness(np.eye(3)[labels])
    like: list[float] = []
    unlike: list[float] = []
    for a, b in itertools.combinations(range(7), 2):
        cosine = float(x_ND[a] @ x_ND[b])
        (like if labels[a] == labels[b] else unlike).append(
            (cosine - (1.0 if labels[a] == labels[b] else 0.0)) ** 2
        )
    expected = (np.mean(like) + np.mean(unlike)) / 2
    assert float(cosine_pair_loss(x_ND, same_NN)) == pytest.approx(expected, abs=1e-6)


def test_likeness_of_label_sets_is_their_overlap() -> None:
    targets = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    expected = np.array([[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(likeness(targets).numpy(), expected)


def test_balanced_batches_hold_every_label_and_no_text_twice() -> None:
    targets = np.zeros((40, 3), dtype=int)
    targets[:30, 0] = targets[30:38, 1] = targets[38:, 2] = 1
    batches = list(itertools.islice(balanced_batches(targets, 9, np.random.default_rng(0)), 40))
    for batch in batches:
        assert len(batch) == len(set(batch.tolist())) == 9
        assert targets[batch].sum(axis=0).min() >= 1
    assert set(np.concatenate(batches).tolist()) == set(range(40))


def test_balanced_batches_of_many_labels_hold_pairs_and_any_two_labels_meet() -> None:
    targets = np.repeat(np.eye(20, dtype=int), 6, axis=0)
    together = np.zeros((20, 20), dtype=int)
    for batch in itertools.islice(balanced_batches(targets, 8, np.random.default_rng(0)), 400):
        counts = targets[batch].sum(axis=0)
        assert counts.sum() == 8
        assert counts.max() >= 2
        together += (counts[:, None] > 0) & (counts[None, :] > 0)
    assert together.min() > 0
    assert np.diag(together).max() < 1.3 * np.diag(together).min()


def test_balanced_batches_end_when_texts_are_fewer_than_a_batch() -> None:
    targets = np.array([[1, 0], [0, 1], [0, 0]])
    assert sorted(next(balanced_batches(targets, 32, np.random.default_rng(0))).tolist()) == [0, 1]


def test_contrastive_tuning_draws_labels_apart_and_repeats_with_its_seed() -> None:
    tokens, targets = word_texts()

    def gap(model: SentenceEncoder) -> float:
        x = outputs_of(model, tokens)
        cosines, same = x @ x.T, targets @ targets.T == 1
        return float(cosines[same].mean() - cosines[~same].mean())

    plan = Plan(steps=40, batch_size=24, learning_rate=3e-3)
    first, second = encoder(), encoder()
    before = gap(first)
    for model in (first, second):
        contrastive_tuning(model, tokens, targets, plan).run(seed=3)
    assert gap(first) > before + 0.08
    assert not first.training
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(
        first.bert.embeddings.word_embeddings.weight, encoder().bert.embeddings.word_embeddings.weight
    )


def test_label_names_become_sentences_where_they_say_something() -> None:
    assert name_sentences(["card_arrival", "Sci/Tech", "lostOrStolen", "3", "a"]) == [
        "This is about card arrival.",
        "This is about Sci Tech.",
        "This is about lost Or Stolen.",
        None,
        None,
    ]


def test_hidden_tokens_are_masked_but_never_the_first() -> None:
    ids, mask = torch.ones(50, 20, dtype=torch.int64), torch.ones(50, 20, dtype=torch.int64)
    mask[:, 15:] = 0
    same_ids, hidden = drop_tokens(ids, mask, 0.3, torch.Generator().manual_seed(0))
    assert same_ids is ids
    assert bool((hidden[:, 0] == 1).all())
    assert bool((hidden[:, 15:] == 0).all())
    assert 0.6 < float(hidden[:, 1:15].float().mean()) < 0.8


# ---------------------------------------------------------------------------------------- full tuning


@pytest.mark.parametrize("multi_label", [False, True])
def test_full_tuning_lowers_the_loss_and_learns(multi_label: bool) -> None:
    tokens, targets = word_texts()
    model = TextModel(TextModelConfig(num_labels=3, bert=SMALL), encoder())
    losses: list[float] = []
    plan = Plan(steps=160, batch_size=16, learning_rate=3e-3, layer_decay=0.9)
    full_tuning(model, tokens, targets, plan, multi_label=multi_label).run(
        seed=0, report=lambda done, of, loss: losses.append(loss)
    )
    assert len(losses) == 160
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])
    assert (outputs_of(model, tokens).argmax(axis=1) == targets.argmax(axis=1)).mean() > 0.85


def test_a_plan_is_shortened_but_not_below_the_least_steps() -> None:
    plan = Plan(steps=200, least_steps=30)
    assert [plan.shortened(share).steps for share in (1.0, 0.5, 0.01)] == [200, 100, 30]
    assert Plan(steps=20, least_steps=30).shortened(0.1).steps == 20


def test_measuring_a_step_leaves_the_model_as_it_is() -> None:
    tokens, targets = word_texts()
    model = TextModel(TextModelConfig(num_labels=3, bert=SMALL), encoder())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert full_tuning(model, tokens, targets, Plan(steps=9), multi_label=False).step_s() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


class KilledError(Exception):
    """Stands for a process that ends in the middle of a step."""


def test_tuning_that_was_killed_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xtorch.tasks.text.training._CHECKPOINT_EVERY_S", 0.0)
    tokens, targets = word_texts()
    plan = Plan(steps=12, batch_size=8, learning_rate=3e-3)

    def model() -> TextModel:
        torch.manual_seed(0)
        return TextModel(TextModelConfig(num_labels=3, bert=SMALL), encoder())

    whole = model()
    full_tuning(whole, tokens, targets, plan, multi_label=False).run(seed=1)

    def killed(done: int, of: int, loss: float) -> None:
        if done == 7:
            raise KilledError

    first, steps = model(), []
    with pytest.raises(KilledError):
        full_tuning(first, tokens, targets, plan, multi_label=False).run(
            seed=1, checkpoints=tmp_path / "fit", report=killed
        )
    second = model()
    full_tuning(second, tokens, targets, plan, multi_label=False).run(
        seed=1, checkpoints=tmp_path / "fit", report=lambda done, of, loss: steps.append(done)
    )
    assert steps == list(range(7, 13))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_kept_decisions_and_logits_come_back_and_go_with_the_run(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "run")
    assert kept.share("contrastive", lambda: 0.25) == 0.25
    assert Kept(tmp_path / "run").share("contrastive", lambda: 1.0) == 0.25
    assert kept.logits("contrastive-0") is None
    steps = kept.checkpoints("contrastive-0")
    assert steps is not None
    steps.mkdir()
    logits = np.arange(6.0).reshape(3, 2)
    kept.keep_logits("contrastive-0", logits)
    assert not steps.exists()
    found = Kept(tmp_path / "run").logits("contrastive-0")
    assert found is not None
    np.testing.assert_array_equal(found, logits)
    (tmp_path / "run/contrastive.json").write_text("{")
    assert kept.share("contrastive", lambda: 0.5) == 0.5
    kept.clear()
    assert list(tmp_path.iterdir()) == []
    nothing = Kept(None)
    assert (nothing.share("x", lambda: 1.0), nothing.checkpoints("x"), nothing.logits("x")) == (
        1.0,
        None,
        None,
    )


def test_outputs_come_back_in_the_texts_order_and_padding_changes_nothing() -> None:
    tokens, _ = word_texts(20)
    together = outputs_of(encoder(), tokens, batch_size=7)
    alone = np.concatenate([outputs_of(encoder(), tokens.take([i])) for i in range(20)])
    np.testing.assert_allclose(together, alone, atol=0.03)


# --------------------------------------------------------------------------------------------- splits


def test_deal_keeps_groups_whole_and_labels_in_proportion() -> None:
    rng = np.random.default_rng(0)
    targets = np.eye(4, dtype=int)[rng.choice(4, 400, p=[0.55, 0.3, 0.1, 0.05])]
    groups = np.arange(400)
    groups[100:130] = 100  # a group of thirty
    parts = deal(targets, groups.tolist(), (0.6, 0.2, 0.2), np.random.default_rng(1))
    assert sorted(np.concatenate(parts).tolist()) == list(range(400))
    assert sum(bool(set(part.tolist()) & set(range(100, 130))) for part in parts) == 1
    for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
        expected = share * targets.sum(axis=0)
        assert np.all(np.abs(targets[part].sum(axis=0) - expected) <= np.maximum(2, 0.25 * expected))


def _texts(parts: list[str | None], labels: list[str]) -> tuple[list[UsableText], np.ndarray]:
    texts = [
        UsableText(text=f"t{i}", labels=(label,), place=f"d.csv:{i}", part=part, group=i)  # type: ignore[arg-type]
        for i, (part, label) in enumerate(zip(parts, labels, strict=True))
    ]
    names = sorted(set(labels))
    return texts, np.array([[label == name for name in names] for label in labels], dtype=int)


def test_split_uses_given_parts_exactly() -> None:
    parts: list[str | None] = [*["train"] * 60, *["test"] * 20, *["validation"] * 20]
    texts, targets = _texts(parts, ["a", "b"] * 50)
    split = split_texts(texts, targets, seed=0)
    assert split.test.tolist() == list(range(60, 80))
    assert split.validation.tolist() == list(range(80, 100))
    assert split.train.tolist() == list(range(60))
    assert not split.is_cross_validated


def test_split_cross_validates_where_texts_are_few_and_holds_back_where_not() -> None:
    few = split_texts(*_texts([None] * 40, ["a", "b"] * 20), seed=0)
    assert few.is_cross_validated
    assert len(few.validation) == 0
    judged = np.concatenate([judge for _, judge in few.folds])
    assert sorted(judged.tolist()) == few.development.tolist()
    assert all(not set(fit.tolist()) & set(judge.tolist()) for fit, judge in few.folds)
    assert "cross-validation" in few.protocol
    many = _texts([None] * 1200, ["a", "b", "c"] * 400)
    split = split_texts(*many, seed=0)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [780, 180, 240]
    assert not split.is_cross_validated
    assert split_texts(*many, seed=0).test.tolist() == split.test.tolist()
    assert split_texts(*many, seed=1).test.tolist() != split.test.tolist()


def test_a_rare_label_among_many_texts_does_not_call_for_cross_validation() -> None:
    split = split_texts(*_texts([None] * 1200, [*["rare"] * 8, *["a", "b"] * 596]), seed=0)
    assert not split.is_cross_validated


def test_split_refuses_texts_that_are_all_alike() -> None:
    texts, targets = _texts([None] * 12, ["a", "b"] * 6)
    alike = [dataclasses.replace(text, group=0) for text in texts]
    with pytest.raises(DataError) as caught:
        split_texts(alike, targets, seed=0)
    assert caught.value.hint


# ------------------------------------------------------------------------------- probabilities, thresholds


@pytest.mark.parametrize("num_labels", [2, 3])
def test_linear_head_gives_scikit_learns_probabilities(num_labels: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_labels, 90)
    x = rng.normal(size=(90, 5)) + labels[:, None]
    head = fit_linear(x, np.eye(num_labels)[labels], multi_label=False, strength=2.0)
    expected = LogisticRegression(C=2.0, max_iter=500).fit(x, labels).predict_proba(x)
    np.testing.assert_allclose(probabilities(head.logits(x), 1.0, multi_label=False), expected, atol=1e-6)


def test_linear_head_never_says_what_it_never_saw() -> None:
    rng = np.random.default_rng(0)
    labels = np.eye(3)[rng.integers(0, 2, 40)]
    x = rng.normal(size=(40, 4)) + labels[:, :1]
    single = fit_linear(x, labels, multi_label=False, strength=1.0)
    assert set(single.logits(x).argmax(axis=1)) == {0, 1}
    several = fit_linear(
        x, np.stack([labels[:, 0], np.zeros(40), np.ones(40)], axis=1), multi_label=True, strength=1.0
    )
    found = probabilities(several.logits(x), 1.0, multi_label=True)
    assert found[:, 1].max() < 0.01
    assert found[:, 2].min() > 0.99


def test_macro_f1_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, given = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    expected = f1_score(truth, given, average="macro")
    assert macro_f1(np.eye(4)[truth], np.eye(4)[given]) == pytest.approx(expected)


def test_calibration_finds_the_temperature_that_logits_were_scaled_by() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    labels = np.array([rng.choice(3, p=p) for p in probabilities(logits, 1.0, multi_label=False)])
    assert calibrate(logits * 4, np.eye(3)[labels], multi_label=False) == pytest.approx(4, rel=0.1)
    applies = (rng.random(logits.shape) < probabilities(logits, 1.0, multi_label=True)).astype(int)
    assert calibrate(logits * 4, applies, multi_label=True) == pytest.approx(4, rel=0.1)


def test_calibration_is_never_certain_where_all_answers_are_right() -> None:
    logits = np.eye(3)[np.arange(30) % 3] * 2.0
    temperature = calibrate(logits, np.eye(3)[np.arange(30) % 3], multi_label=False)
    best = probabilities(logits, temperature, multi_label=False).max(axis=1)
    assert 0.9 < best.min() < 0.98


def test_label_thresholds_reach_the_best_f1_there_is() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 2)) < 0.2).astype(int)
    found = np.clip(0.3 * truth + rng.random((80, 2)) * 0.5, 0, 1)
    for column, threshold in enumerate(label_thresholds(found, truth)):
        reached = f1_score(truth[:, column], found[:, column] >= threshold)
        best = max(f1_score(truth[:, column], found[:, column] >= t) for t in np.unique(found[:, column]))
        assert reached == pytest.approx(best)


def test_operating_point_is_safe_and_no_stricter_than_needed() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(3000)
    right = rng.random(3000) < confidence
    point = operating_point(confidence, right, 0.1)
    assert point.guaranteed
    answered = confidence >= point.threshold
    assert answered.mean() == pytest.approx(point.coverage)
    assert upper_bound(int((~right[answered]).sum()), int(answered.sum()), 1 - 0.05 / 20) <= 0.1
    more = confidence >= point.threshold - 0.1
    assert upper_bound(int((~right[more]).sum()), int(more.sum())) > 0.1


def test_operating_points_promise_is_kept_in_nineteen_of_twenty_draws() -> None:
    """Of texts whose confidence says nothing, a fifth wrong: many thresholds are compared, and one that looks
    safe by luck must be rare."""
    rng = np.random.default_rng(0)
    broken = sum(operating_point(rng.random(400), rng.random(400) < 0.8, 0.19).guaranteed for _ in range(300))
    assert broken <= 0.05 * 300 + 2 * np.sqrt(0.05 * 0.95 * 300)


def test_operating_point_answers_everything_where_all_is_right_and_says_when_it_cannot_be_sure() -> None:
    confidence = np.linspace(0.1, 0.9, 400)
    assert operating_point(confidence, np.ones(400, bool), 0.05).threshold == 0.0
    few = operating_point(np.array([0.9, 0.8, 0.3]), np.array([True, True, False]), 0.05)
    assert not few.guaranteed
    assert 0.3 < few.threshold < 0.8
    hopeless = operating_point(np.array([0.9, 0.8]), np.array([False, False]), 0.05)
    assert not hopeless.guaranteed
    assert hopeless.threshold > 0.8


def test_upper_bound_is_clopper_pearsons() -> None:
    assert upper_bound(0, 59) == pytest.approx(0.0495, abs=1e-3)  # the rule of three
    assert upper_bound(5, 5) == 1.0


@pytest.mark.parametrize(
    "settings",
    [
        {"unknown": 1},
        {"candidates": ["magic"]},
        {"candidates": ["tfidf"]},
        {"candidates": "frozen"},
        {"max_tokens": 4},
        {"max_tokens": "128"},
        {"max_wrong": 0},
        {"max_wrong": 1.5},
    ],
)
def test_settings_are_refused_when_unknown_or_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(TextSettings, settings)
    assert caught.value.code == "settings.invalid"
