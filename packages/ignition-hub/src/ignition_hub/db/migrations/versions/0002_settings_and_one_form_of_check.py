"""Settings of runs; results of data checks in the form that all templates share."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_jobs = sa.table(
    "jobs", sa.column("id", sa.String), sa.column("kind", sa.String), sa.column("result", sa.JSON)
)


def upgrade() -> None:
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("settings", sa.JSON(), nullable=False, server_default="{}"))
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.alter_column("settings", server_default=None)
    _convert("num_images", _of_any_items)


def downgrade() -> None:
    _convert("num_items", _of_images)
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_column("settings")


def _convert(old_field: str, converted: Any) -> None:
    connection = op.get_bind()
    for job_id, result in connection.execute(
        sa.select(_jobs.c.id, _jobs.c.result).where(_jobs.c.kind == "check")
    ).all():
        if isinstance(result, dict) and old_field in result:
            connection.execute(
                sa.update(_jobs).where(_jobs.c.id == job_id).values(result=converted(dict(result)))
            )


def _of_any_items(result: dict[str, Any]) -> dict[str, Any]:
    sizes, num_images = result.pop("image_sizes", {}), result.pop("num_images")
    shown = ", ".join(f"{size.replace('x', ' × ')} ({num})" for size, num in list(sizes.items())[:5])
    classes = [
        {"name": found["name"], "num_items": found["num_images"], "examples": found["examples"]}
        for found in result.get("classes", [])
    ]
    return {
        **result,
        "template": "visual-anomaly-detection",
        "item": "images",
        "num_items": num_images,
        "classes": classes,
        "facts": {"Image sizes": shown} if shown else {},
        "charts": [],
        "suits": ["visual-anomaly-detection"],
    }


def _of_images(result: dict[str, Any]) -> dict[str, Any]:
    num_images = result.pop("num_items")
    for name in ("template", "item", "facts", "charts", "suits"):
        result.pop(name, None)
    classes = [
        {"name": found["name"], "num_images": found["num_items"], "examples": found["examples"]}
        for found in result.get("classes", [])
    ]
    return {**result, "num_images": num_images, "classes": classes, "image_sizes": {}}
