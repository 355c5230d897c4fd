"""Sweeps are events beside scores, and a version keeps the answers it was trained on."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    kind, value = op.f("ck_score_event_kind"), op.f("ck_score_event_value")
    apart = {"resolve_fks": False}  # the table alone, not those that it refers to
    with op.batch_alter_table("score_event", reflect_kwargs=apart) as batch:
        batch.drop_constraint(kind, type_="check")
        batch.drop_constraint(value, type_="check")
        batch.create_check_constraint(
            kind, "kind IN ('set', 'undo', 'skip', 'flag', 'at_least', 'below')"
        )
        batch.create_check_constraint(
            value,
            "(kind IN ('set', 'at_least', 'below')) = (value IS NOT NULL) "
            "AND coalesce(value, 0) BETWEEN 0 AND 10",
        )
    op.create_table(
        "version_answer",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("first_id", sa.Integer(), nullable=False),
        sa.Column("second_id", sa.Integer(), nullable=True),
        sa.Column("share", sa.Float(), nullable=True),
        sa.Column("bound", sa.Float(), nullable=True),
        sa.CheckConstraint(
            "(second_id IS NULL) = (bound IS NOT NULL)", name=op.f("ck_version_answer_bound")
        ),
        sa.CheckConstraint(
            "second_id IS NULL OR share IS NOT NULL", name=op.f("ck_version_answer_share")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["version.id"], name=op.f("fk_version_answer_version_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["first_id"], ["image.id"], name=op.f("fk_version_answer_first_id")
        ),
        sa.ForeignKeyConstraint(
            ["second_id"], ["image.id"], name=op.f("fk_version_answer_second_id")
        ),
        sa.PrimaryKeyConstraint("version_id", "number", name=op.f("pk_version_answer")),
    )  # fmt: skip
