"""What is expected of a class stands in the table of expectations, no longer beside the slice."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

KEY = "figures"  # in the definition of a slice: expectation id → “accuracy” or “recall:3”

slices = sa.table("slice", sa.column("id", sa.Integer), sa.column("definition", sa.JSON))
expectations = sa.table(
    "expectation", sa.column("id", sa.Integer), sa.column("slice_id", sa.Integer),
    sa.column("measure", sa.String), sa.column("class_number", sa.Integer),
)  # fmt: skip


def upgrade() -> None:
    measure, class_number = op.f("ck_expectation_measure"), op.f("ck_expectation_class_number")
    apart = {"resolve_fks": False}  # the table alone, not those that it refers to
    with op.batch_alter_table("expectation", reflect_kwargs=apart) as batch:
        batch.add_column(sa.Column("class_number", sa.Integer(), nullable=True))
        batch.drop_constraint(measure, type_="check")
        batch.create_check_constraint(
            measure,
            "measure IN ('mean', 'pass_rate', 'accuracy', 'recall', 'precision', 'f1', 'share')",
        )
        batch.create_check_constraint(
            class_number,
            "(measure IN ('recall', 'precision', 'f1', 'share')) = (class_number IS NOT NULL) "
            "AND coalesce(class_number, 0) >= 0",
        )
    connection = op.get_bind()
    for row in connection.execute(sa.select(slices.c.id, slices.c.definition)).all():
        if KEY in row.definition:
            _move(connection, row.id, row.definition)


def _move(connection: sa.Connection, slice_id: int, definition: dict[str, Any]) -> None:
    for expectation_id, figure in definition[KEY].items():
        kind, _, number = figure.partition(":")
        connection.execute(
            sa.update(expectations)
            .where(
                expectations.c.id == int(expectation_id), expectations.c.slice_id == slice_id
            )
            .values(measure=kind, class_number=int(number) if number else None)
        )  # fmt: skip
    rest = {key: value for key, value in definition.items() if key != KEY}
    connection.execute(sa.update(slices).where(slices.c.id == slice_id).values(definition=rest))
