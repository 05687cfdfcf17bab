"""The templates that the Foundry knows."""

from __future__ import annotations

from ignition_client import wire
from ignition_hub.errors import BadRequestError

TEMPLATES: tuple[wire.Template, ...] = (
    wire.Template(
        id="visual-anomaly-detection",
        name="Visual Anomaly Detection",
        summary="Finds defects in pictures of parts, surfaces and products, and shows where they are.",
        data="A folder of images with `ok/` and `defective/`; a few dozen good ones are enough to start.",
        learns="What good parts look like; defective examples set the threshold and measure the result.",
        returns="ok or defective, a score, and a heat map of where the defect is.",
        icon="scan",
    ),
    wire.Template(
        id="image-classification",
        name="Image Classification",
        summary="Sorts pictures into your own classes.",
        data="A folder of images with one folder per class.",
        learns="To tell your classes apart, starting from a pretrained network.",
        returns="The class and its probability.",
        icon="grid",
        available=False,
    ),
    wire.Template(
        id="object-detection",
        name="Object Detection",
        summary="Finds and counts things in pictures.",
        data="Images with boxes in COCO, YOLO or Pascal VOC format.",
        learns="Where your objects are and what they are.",
        returns="Boxes, classes and scores.",
        icon="box",
        available=False,
    ),
    wire.Template(
        id="text-classification",
        name="Text Classification",
        summary="Sorts messages, tickets and reviews.",
        data="A CSV or Parquet file with a text and a label column.",
        learns="Your labels from a few examples each.",
        returns="The label and its probability.",
        icon="text",
        available=False,
    ),
    wire.Template(
        id="time-series-forecasting",
        name="Time Series Forecasting",
        summary="Predicts demand, load and sensor values.",
        data="A CSV or Parquet file with time, series and value columns.",
        learns="Seasons, trends and what your series have in common.",
        returns="The next values with intervals.",
        icon="chart",
        available=False,
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
