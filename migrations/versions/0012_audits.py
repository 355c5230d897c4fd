"""Audits of what a version keeps: images drawn at random, to be scored blind."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("target", sa.JSON(), nullable=False),
        sa.Column("cut", sa.Float(), nullable=False),
        sa.Column("good_from", sa.Integer(), nullable=False),
        sa.Column("goal", sa.Float(), nullable=False),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column("share_below", sa.Float(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=False),
        sa.Column("population", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('test-run', 'library', 'table')", name=op.f("ck_audit_kind")),
        sa.CheckConstraint("cut BETWEEN 0 AND 1", name=op.f("ck_audit_cut")),
        sa.CheckConstraint("good_from BETWEEN 1 AND 10", name=op.f("ck_audit_good_from")),
        sa.CheckConstraint("goal > 0 AND goal < 1", name=op.f("ck_audit_goal")),
        sa.CheckConstraint("confidence > 0 AND confidence < 1", name=op.f("ck_audit_confidence")),
        sa.CheckConstraint(
            "share_below > 0 AND share_below < 1", name=op.f("ck_audit_share_below")
        ),
        _to("audit", "project_id", "project", ondelete="CASCADE"),
        _to("audit", "version_id", "version", ondelete="CASCADE"),
        _to("audit", "annotator_id", "annotator"),
        _to("audit", "job_id", "job", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_project", "audit", ["project_id", "id"])
    op.create_table(
        "audit_image",
        sa.Column("audit_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("expected", sa.Float(), nullable=False),
        _to("audit_image", "audit_id", "audit", ondelete="CASCADE"),
        _to("audit_image", "image_id", "image"),
        sa.PrimaryKeyConstraint("audit_id", "position", name=op.f("pk_audit_image")),
        sa.UniqueConstraint("audit_id", "image_id", name=op.f("uq_audit_image_audit_id")),
    )
    op.create_index("ix_audit_image_image", "audit_image", ["image_id"])


def _to(table: str, column: str, target: str, **rule: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}")
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=name, **rule)
