"""Alembic's entry point. `tastemaker.database.migration` opens the transaction and hands the
connection over."""

from alembic import context
from sqlmodel import SQLModel

import tastemaker.database.tables  # noqa: F401  registers every table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    transactional_ddl=False,  # the caller's transaction spans all revisions
)
context.run_migrations()
