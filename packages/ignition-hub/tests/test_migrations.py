from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from ignition_client import wire
from ignition_hub.db import Database, schema


def test_migrations_make_exactly_the_models_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_migrations_go_down_to_nothing_and_up_again(database: Database) -> None:
    database.migrate("base", down=True)
    assert set(sa.inspect(database.engine).get_table_names()) <= {"alembic_version"}
    database.migrate()
    assert "jobs" in sa.inspect(database.engine).get_table_names()


def test_checks_of_before_are_read_after_the_migration(database: Database) -> None:
    """And go back: a Hub that was upgraded by mistake."""
    old = {
        "layout": "ok_defective",
        "num_files": 3,
        "num_images": 2,
        "size_bytes": 10,
        "classes": [{"name": "ok", "num_images": 2, "examples": ["ok/a.png"]}],
        "image_sizes": {"8x9": 2},
        "findings": [],
        "duration_s": 0.1,
    }
    database.migrate("0001", down=True)
    jobs = sa.Table("jobs", sa.MetaData(), autoload_with=database.engine)
    organisations = sa.Table("organisations", sa.MetaData(), autoload_with=database.engine)
    moment = datetime(2026, 1, 1)
    with database.engine.begin() as connection:
        connection.execute(organisations.insert().values(id="o", name="o", created_at=moment))
        shared = {"organisation_id": "o", "spec": {}, "attempt": 1, "epoch": 1, "cancel_requested": False}
        for job_id, kind, result in (
            ("a", "check", old),
            ("b", "check", None),
            ("c", "train", {"num_images": 1}),
        ):
            connection.execute(
                jobs.insert().values(
                    id=job_id, kind=kind, status="succeeded", result=result, created_at=moment, **shared
                )
            )

    def results() -> dict[str, Any]:
        with database.engine.connect() as connection:
            return {row.id: row.result for row in connection.execute(sa.select(jobs.c.id, jobs.c.result))}

    database.migrate()
    report = wire.CheckReport.model_validate(results()["a"])
    assert (report.item, report.num_items, report.classes[0].num_items) == ("images", 2, 2)
    assert report.facts == {"Image sizes": "8 × 9 (2)"}
    assert results()["c"] == {"num_images": 1}
    database.migrate("0001", down=True)
    assert results()["a"] == {**old, "image_sizes": {}}
