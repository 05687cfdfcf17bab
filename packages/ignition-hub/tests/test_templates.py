"""Templates and their questions: as the recipes have them, and as forms and requests answer them."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest

from ignition_client.jobs.train import RECIPES
from ignition_hub.errors import BadRequestError
from ignition_hub.foundry.templates import (
    TEMPLATES,
    check_settings,
    require_template,
    settings_of_answers,
)

BY_ID = {template.id: template for template in TEMPLATES}
SETTINGS = {
    "visual-anomaly-detection": "xtorch.tasks.anomaly.settings:AnomalySettings",
    "object-detection": "xtorch.tasks.detection.settings:DetectionSettings",
    "text-classification": "xtorch.tasks.text.settings:TextSettings",
    "sales-forecasting": "xtorch.tasks.forecasting.plan:ForecastSettings",
    "image-classification": "xtorch.tasks.classification.settings:ClassificationSettings",
    "image-segmentation": "xtorch.tasks.segmentation.settings:SegmentationSettings",
}


def test_every_template_has_a_recipe_that_agents_know() -> None:
    assert BY_ID.keys() == RECIPES.keys()


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.id)
def test_template_is_available_exactly_when_its_recipe_is_there(template: Any) -> None:
    tasks = pytest.importorskip("xtorch.tasks", reason="xTorch is not installed")
    package = RECIPES[template.id].rpartition(".")[2]
    there = package in {found.name for found in pkgutil.iter_modules(tasks.__path__)}
    assert template.available == there
    if there:
        assert template.id == importlib.import_module(RECIPES[template.id]).TEMPLATE


@pytest.mark.parametrize("template_id", SETTINGS)
def test_every_answer_is_settings_that_the_recipe_takes(template_id: str) -> None:
    recipe = pytest.importorskip("xtorch.tasks.recipe", reason="xTorch is not installed")
    module, _, name = SETTINGS[template_id].partition(":")
    kind = getattr(importlib.import_module(module), name)
    for question in BY_ID[template_id].questions:
        for choice in question.choices:
            recipe.parse_settings(kind, choice.settings)
        if question.setting is not None:
            for value in (question.low, question.high):
                recipe.parse_settings(kind, {question.setting: value})


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.id)
def test_first_choice_is_the_recipes_own_default(template: Any) -> None:
    for question in template.questions:
        if question.choices:
            assert question.choices[0].settings == {}
    assert settings_of_answers(template, {question.id: "0" for question in template.questions[:1]}) in (
        {},
        {"horizon": 0},
    )


def test_answers_of_a_form_become_settings() -> None:
    anomaly, forecasting = BY_ID["visual-anomaly-detection"], BY_ID["sales-forecasting"]
    assert settings_of_answers(anomaly, {"operating-point": "1"}) == {"max_false_alarm_rate": 0.01}
    assert settings_of_answers(anomaly, {"horizon": "7"}) == {}, "another template's question"
    assert settings_of_answers(forecasting, {"horizon": " 14 ", "gaps": "1"}) == {
        "horizon": 14,
        "gaps": "zero",
    }
    assert settings_of_answers(forecasting, {"horizon": "", "gaps": "0"}) == {}


@pytest.mark.parametrize("answer", ["4", "-1", "x", "١", "1.0"])
def test_choice_that_is_none_is_refused(answer: str) -> None:
    with pytest.raises(BadRequestError):
        settings_of_answers(BY_ID["visual-anomaly-detection"], {"operating-point": answer})


@pytest.mark.parametrize("answer", ["x", "1.5", "1e3"])
def test_number_that_is_none_is_refused(answer: str) -> None:
    with pytest.raises(BadRequestError):
        settings_of_answers(BY_ID["sales-forecasting"], {"horizon": answer})


def test_settings_that_no_question_names_are_the_recipes_to_judge() -> None:
    check_settings(BY_ID["sales-forecasting"], {"num_seeds": 3, "horizon": 7})
    with pytest.raises(BadRequestError):
        check_settings(BY_ID["sales-forecasting"], {"note": "x" * 20_000})


def test_unknown_template_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadRequestError) as caught:
        require_template("astrology")
    assert caught.value.hint is not None
    assert "visual-anomaly-detection" in caught.value.hint
