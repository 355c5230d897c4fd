"""Programs come with tokens of their own, and there are people who only look."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    role = op.f("ck_annotator_role")
    with op.batch_alter_table("annotator") as batch:
        batch.drop_constraint(role, type_="check")
        batch.create_check_constraint(role, "role IN ('admin', 'annotator', 'viewer')")
    op.create_table(
        "api_token",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("token_sha256", sa.String(), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=True),
        sa.Column("credential", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("last_used_at", sa.DateTime(), nullable=True),
        sa.CheckConstraint(
            "scope IN ('read', 'score', 'admin')", name=op.f("ck_api_token_scope")
        ),
        sa.CheckConstraint("who IN ('owner', 'person')", name=op.f("ck_api_token_who")),
        sa.CheckConstraint(
            "who = 'owner' OR annotator_id IS NOT NULL", name=op.f("ck_api_token_whose")
        ),
        sa.ForeignKeyConstraint(
            ["annotator_id"], ["annotator.id"], name=op.f("fk_api_token_annotator_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_api_token_token_sha256")),
    )  # fmt: skip
