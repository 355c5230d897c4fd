"""A project may label by classes or tags: what they are, what a version of it measured, and what it
says of every image. An event of such a project holds the number of a class, or a set of tags."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

APART = {"resolve_fks": False}  # the table alone, not those that it refers to


def upgrade() -> None:
    labelling = op.f("ck_project_labelling")
    with op.batch_alter_table("project", reflect_kwargs=APART) as batch:
        batch.add_column(
            sa.Column("labelling", sa.String(), server_default="scores", nullable=False)
        )
        batch.create_check_constraint(labelling, "labelling IN ('scores', 'classes', 'tags')")
    value = op.f("ck_score_event_value")
    with op.batch_alter_table("score_event", reflect_kwargs=APART) as batch:
        batch.alter_column("value", type_=sa.BigInteger(), existing_nullable=True)
        batch.drop_constraint(value, type_="check")
        batch.create_check_constraint(
            value,
            "(kind IN ('set', 'at_least', 'below', 'rated')) = (value IS NOT NULL) "
            "AND coalesce(value, 0) >= 0 AND (kind = 'set' OR coalesce(value, 0) <= 10)",
        )
    value = op.f("ck_label_value")
    with op.batch_alter_table("label", reflect_kwargs=APART) as batch:
        batch.drop_constraint(value, type_="check")
        batch.create_check_constraint(value, "value >= 0")
    with op.batch_alter_table("version", reflect_kwargs=APART) as batch:
        batch.add_column(sa.Column("classes", sa.JSON(), server_default="{}", nullable=False))
    op.create_table(
        "project_class",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("colour", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("became", sa.Integer(), nullable=True),
        sa.Column("gone", sa.Boolean(), nullable=False),
        sa.CheckConstraint("number >= 0", name=op.f("ck_project_class_number")),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 60", name=op.f("ck_project_class_name")),
        sa.CheckConstraint("weight > 0 AND weight <= 100", name=op.f("ck_project_class_weight")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["project.id"], name=op.f("fk_project_class_project_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_project_class")),
        sa.UniqueConstraint("project_id", "number", name=op.f("uq_project_class_project_id")),
    )  # fmt: skip
    op.create_table(
        "class_prediction",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("predicted", sa.BigInteger(), nullable=False),
        sa.Column("margin", sa.Float(), nullable=False),
        sa.Column("probabilities", sa.LargeBinary(), nullable=False),
        sa.Column("out_of_fold", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["image_id"], ["image.id"], name=op.f("fk_class_prediction_image_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["version.id"], name=op.f("fk_class_prediction_version_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "image_id", name=op.f("pk_class_prediction")),
    )  # fmt: skip
    op.create_index(
        "ix_class_prediction_predicted", "class_prediction",
        ["version_id", "predicted", "image_id"],
    )  # fmt: skip
    op.create_index("ix_class_prediction_margin", "class_prediction", ["version_id", "margin"])
