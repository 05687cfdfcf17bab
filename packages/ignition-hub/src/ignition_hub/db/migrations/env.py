"""Runs migrations on the connection that `Database.migrate` hands over."""

from alembic import context

from ignition_hub.db import schema

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=schema.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
