"""The templates that the Foundry knows, and what each asks people before a run."""

from __future__ import annotations

import json
from typing import Any

from ignition_client import wire
from ignition_hub.errors import BadRequestError

_MAX_SETTINGS_BYTES = 16_384

TEMPLATES: tuple[wire.Template, ...] = (
    wire.Template(
        id="visual-anomaly-detection",
        name="Visual Anomaly Detection",
        summary="Finds defects in pictures of parts, surfaces and products, and shows where they are.",
        data="A folder of images with `ok/` and, if you have them, `defective/`; a few dozen good ones are "
        "enough to start.",
        learns="What good parts look like; defective examples set the threshold and measure the result.",
        returns="ok or defective, a score, and a heat map of where the defect is.",
        icon="scan",
        input="image",
        questions=[
            wire.Question(
                id="operating-point",
                title="Which mistake costs more?",
                help="The threshold between ok and defective is set by this, on images that training did not "
                "see; the report says what the other mistake becomes.",
                choices=[
                    wire.SettingChoice(title="Balanced", note="fewest mistakes of both kinds"),
                    wire.SettingChoice(
                        title="At most 1 % false alarms",
                        note="good parts are rarely rejected",
                        settings={"max_false_alarm_rate": 0.01},
                    ),
                    wire.SettingChoice(
                        title="At most 5 % false alarms", settings={"max_false_alarm_rate": 0.05}
                    ),
                    wire.SettingChoice(
                        title="Miss at most 2 %",
                        note="needs defective images",
                        settings={"max_miss_rate": 0.02},
                    ),
                ],
            ),
        ],
    ),
    wire.Template(
        id="image-classification",
        name="Image Classification",
        summary="Sorts pictures into your own classes: which product, which plant, which document.",
        data="A folder of images with one folder per class, named as the class.",
        learns="To tell your classes apart, starting from a network that knows how pictures look.",
        returns="The class and the probability of each.",
        icon="grid",
        input="image",
        questions=[
            wire.Question(
                id="review",
                title="How much does it cost when a person looks at a picture?",
                help="Compared with a wrong answer. It decides from which confidence on answers need no "
                "review; the report says how many are left for review.",
                choices=[
                    wire.SettingChoice(title="A fifth of a wrong answer", note="the usual"),
                    wire.SettingChoice(
                        title="A twentieth", note="reviews more", settings={"review_cost": 0.05}
                    ),
                    wire.SettingChoice(title="Half", note="reviews less", settings={"review_cost": 0.5}),
                ],
            ),
        ],
    ),
    wire.Template(
        id="object-detection",
        name="Object Detection",
        summary="Finds and counts things in pictures, and draws a box around each.",
        data="Images with boxes drawn in a labelling tool: COCO, YOLO, Pascal VOC or a CSV file.",
        learns="What your objects look like and where they are in a picture.",
        returns="A box, a class and a score for every object.",
        icon="box",
        input="image",
        budget_s=420,
        questions=[
            wire.Question(
                id="operating-point",
                title="Which mistake costs more?",
                help="From which score on a box is shown, for each class by itself; the report says how many "
                "objects are then missed.",
                choices=[
                    wire.SettingChoice(title="Balanced", note="fewest mistakes of both kinds"),
                    wire.SettingChoice(
                        title="9 of 10 boxes are right",
                        note="more is missed",
                        settings={"min_precision": 0.9},
                    ),
                    wire.SettingChoice(title="19 of 20 boxes are right", settings={"min_precision": 0.95}),
                ],
            ),
            wire.Question(
                id="direction",
                title="Is there an up and a down in your images?",
                choices=[
                    wire.SettingChoice(title="Yes", note="streets, shelves, portraits"),
                    wire.SettingChoice(
                        title="No",
                        note="satellites, microscopes, conveyor belts: learned upside down too",
                        settings={"any_direction": True},
                    ),
                ],
            ),
            wire.Question(
                id="network",
                title="How large a network?",
                choices=[
                    wire.SettingChoice(title="Nano", note="fastest"),
                    wire.SettingChoice(
                        title="Tiny", note="finds more, slower", settings={"architecture": "tiny"}
                    ),
                ],
            ),
        ],
    ),
    wire.Template(
        id="image-segmentation",
        name="Image Segmentation",
        summary="Marks which pixels belong to what: cracks, leaves, roads, cells.",
        data="Images and, for each, a mask of the same name that paints every pixel with the value or colour "
        "of its class.",
        learns="The outline of your classes, pixel by pixel, starting from a network that knows how pictures "
        "look.",
        returns="A mask of classes and the share of the picture that each covers.",
        icon="scan",
        input="image",
        budget_s=420,
        questions=[
            wire.Question(
                id="operating-point",
                title="Which mistake costs more?",
                help="With two classes: from which probability on a pixel is marked; the report says how "
                "much is then missed. With more, the most likely class wins.",
                choices=[
                    wire.SettingChoice(title="Balanced", note="the best overlap"),
                    wire.SettingChoice(
                        title="A missed pixel, three times as much",
                        note="marks more",
                        settings={"miss_cost": 3.0},
                    ),
                    wire.SettingChoice(
                        title="A false one, three times as much",
                        note="marks less",
                        settings={"miss_cost": 0.33},
                    ),
                ],
            ),
            wire.Question(
                id="direction",
                title="Is there an up and a down in your images?",
                choices=[
                    wire.SettingChoice(title="Yes", note="streets, shelves, portraits"),
                    wire.SettingChoice(
                        title="No",
                        note="surfaces, satellites, microscopes: learned in all directions",
                        settings={"any_direction": True},
                    ),
                ],
            ),
            wire.Question(
                id="detail",
                title="How fine are the things to mark?",
                help="Images are scaled before the network sees them; what is then smaller than two pixels "
                "is lost.",
                choices=[
                    wire.SettingChoice(title="Usual", note="longer side of 256 pixels, fastest"),
                    wire.SettingChoice(
                        title="Fine", note="384 pixels, twice the time", settings={"input_size": 384}
                    ),
                    wire.SettingChoice(
                        title="Very fine", note="512 pixels, four times", settings={"input_size": 512}
                    ),
                ],
            ),
        ],
    ),
    wire.Template(
        id="text-classification",
        name="Text Classification",
        summary="Sorts messages, tickets and reviews: by topic, urgency, mood or anything you label.",
        data="A table (CSV, TSV, JSON lines, Parquet) with a text and a label column, or a folder of text "
        "files per label; a few examples of each label are enough to start.",
        learns="What the texts of a label have in common, beyond the words themselves.",
        returns="The label and the probability of each.",
        icon="text",
        input="text",
        questions=[
            wire.Question(
                id="operating-point",
                title="May it say that it is not sure?",
                help="Then texts that it is unsure about get no label, so that few of the labels are wrong; "
                "the report says how many are left over.",
                choices=[
                    wire.SettingChoice(title="No", note="every text gets a label"),
                    wire.SettingChoice(title="At most 5 % wrong", settings={"max_wrong": 0.05}),
                    wire.SettingChoice(title="At most 2 % wrong", settings={"max_wrong": 0.02}),
                ],
            ),
        ],
    ),
    wire.Template(
        id="sales-forecasting",
        name="Sales Forecasting",
        summary="Predicts sales, demand, load and other numbers over time, and how sure it is.",
        data="A table (CSV or Parquet) with a time column and numbers: one column per series, or a column "
        "that names the series.",
        learns="Seasons, trends and what your series have in common; simple methods compete with it.",
        returns="The next values of a series, with intervals.",
        icon="chart",
        input="series",
        questions=[
            wire.Question(
                id="horizon",
                title="How far ahead?",
                help="Number of future values, in steps of your data: 14 for two weeks of daily data. "
                "Empty: what fits the data's frequency.",
                setting="horizon",
                kind="number",
                low=1,
                high=1000,
                placeholder="by the frequency",
            ),
            wire.Question(
                id="gaps",
                title="A period without a row means",
                choices=[
                    wire.SettingChoice(title="Find out", note="by the data"),
                    wire.SettingChoice(title="Nothing was sold", settings={"gaps": "zero"}),
                    wire.SettingChoice(title="It is not known", settings={"gaps": "missing"}),
                ],
            ),
        ],
    ),
)


def require_template(template_id: str) -> wire.Template:
    """
    Raises:
        BadRequestError: There is no such template, or not yet.
    """
    found = next((template for template in TEMPLATES if template.id == template_id), None)
    if found is None or not found.available:
        names = ", ".join(template.id for template in TEMPLATES if template.available)
        what = "There is no such template." if found is None else "This template is not available yet."
        raise BadRequestError(what, value=template_id, hint=f"Available: {names}.")
    return found


def check_settings(template: wire.Template, settings: dict[str, Any]) -> None:
    """Refuses what a template's questions exclude. The recipe judges its other settings.

    Raises:
        BadRequestError: A value is not what its question asks for, or there is too much of it.
    """
    if len(json.dumps(settings)) > _MAX_SETTINGS_BYTES:
        raise BadRequestError(f"Settings may have at most {_MAX_SETTINGS_BYTES:,} bytes.")
    for question in template.questions:
        if question.setting in settings:
            _check_answer(question, settings[question.setting])


def _check_answer(question: wire.Question, value: Any) -> None:
    if question.kind == "text":
        if not isinstance(value, str):
            raise BadRequestError(f"'{question.setting}' is text.", value=value)
        return
    low, high = question.low, question.high
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequestError(f"'{question.setting}' is a whole number.", value=value)
    if (low is not None and value < low) or (high is not None and value > high):
        raise BadRequestError(f"'{question.setting}' is between {low} and {high}.", value=value)


def settings_of_answers(template: wire.Template, answers: dict[str, str]) -> dict[str, Any]:
    """What a form's fields say, as settings.

    Args:
        answers: Question id -> number of the choice, or what was typed in.

    Raises:
        BadRequestError: An answer is none of the choices, or no number.
    """
    settings: dict[str, Any] = {}
    for question in template.questions:
        answer = answers.get(question.id, "").strip()
        if not answer:
            continue
        if question.choices:
            chosen = int(answer) if answer.isascii() and answer.isdecimal() else -1
            if not 0 <= chosen < len(question.choices):
                raise BadRequestError(f"{question.title} There is no such choice.", value=answer)
            settings.update(question.choices[chosen].settings)
        elif question.setting is not None:
            settings[question.setting] = _number(question, answer) if question.kind == "number" else answer
    return settings


def _number(question: wire.Question, answer: str) -> int:
    try:
        return int(answer)
    except ValueError:
        raise BadRequestError(f"{question.title} A whole number is needed.", value=answer[:40]) from None
