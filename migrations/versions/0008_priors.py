"""A project may start from other heads, and a version remembers which it started from."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def line() -> tuple[sa.Column[Any], ...]:
    """What a project's and a version's priors have in common."""
    return (
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("encoder", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("normalised", sa.Boolean(), nullable=False),
        sa.Column("features", sa.Integer(), nullable=False),
        sa.Column("weights", sa.LargeBinary(), nullable=True),
        sa.Column("bias", sa.Float(), nullable=False),
        sa.Column("line_error", sa.Float(), nullable=True),
        sa.Column("source_id", sa.Integer(), nullable=True),
    )


def upgrade() -> None:
    op.create_table(
        "project_prior",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        *line(),
        sa.Column("followed_on", sa.Integer(), nullable=True),
        sa.Column("head", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_project_prior_project_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["version.id"], name=op.f("fk_project_prior_source_id"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_project_prior")),
        sa.UniqueConstraint("project_id", "sha256", name=op.f("uq_project_prior_project_id")),
    )  # fmt: skip
    op.create_table(
        "version_prior",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        *line(),
        sa.Column("probability", sa.Float(), nullable=True),
        sa.Column("slope", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["version.id"], name=op.f("fk_version_prior_version_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["version.id"], name=op.f("fk_version_prior_source_id"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("version_id", "position", name=op.f("pk_version_prior")),
    )  # fmt: skip
