"""people with passwords, comparisons, slices and expectations, test runs, questions"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("ix_image_name", "image", ["name", "id"])
    op.create_index(
        "ix_score_event_aside", "score_event", ["project_id", "kind", "image_id"],
        sqlite_where=sa.text("kind IN ('skip', 'flag')"),
        postgresql_where=sa.text("kind IN ('skip', 'flag')"),
    )  # fmt: skip
    op.create_index(
        "ix_prediction_honest", "prediction",
        ["version_id", sa.text("coalesce(out_of_fold, score)"), "image_id"],
    )  # fmt: skip
    with op.batch_alter_table("project") as batch:
        batch.add_column(
            sa.Column("aggregate", sa.String(), server_default="median", nullable=False)
        )
        batch.add_column(
            sa.Column("auto_train_every", sa.Integer(), server_default="0", nullable=False)
        )
        batch.add_column(
            sa.Column("auto_train_drift", sa.Float(), server_default="0", nullable=False)
        )
        batch.add_column(sa.Column("card", sa.JSON(), server_default="{}", nullable=False))
        batch.create_check_constraint(
            op.f("ck_project_aggregate"),
            "aggregate IN ('median', 'mean', 'lowest', 'highest', 'newest')",
        )
        batch.create_check_constraint(op.f("ck_project_auto_train_every"), "auto_train_every >= 0")
        batch.create_check_constraint(op.f("ck_project_auto_train_drift"), "auto_train_drift >= 0")
    with op.batch_alter_table("annotator") as batch:
        batch.add_column(sa.Column("role", sa.String(), server_default="annotator", nullable=False))
        batch.add_column(sa.Column("password_hash", sa.String(), server_default="", nullable=False))
        batch.add_column(
            sa.Column("disabled", sa.Boolean(), server_default=sa.false(), nullable=False)
        )
        batch.add_column(sa.Column("keys", sa.JSON(), server_default="{}", nullable=False))
        batch.create_check_constraint(op.f("ck_annotator_role"), "role IN ('admin', 'annotator')")
    with op.batch_alter_table("login_session") as batch:
        batch.add_column(sa.Column("annotator_id", sa.Integer(), nullable=True))
        batch.create_foreign_key(
            op.f("fk_login_session_annotator_id"),
            "annotator", ["annotator_id"], ["id"], ondelete="CASCADE",
        )  # fmt: skip
    op.create_table(
        "removed_image",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        _to("removed_image", "project_id", "project", ondelete="CASCADE"),
        _to("removed_image", "image_id", "image", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("project_id", "image_id", name=op.f("pk_removed_image")),
    )
    op.create_table(
        "comparison",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), nullable=False),
        sa.Column("first_id", sa.Integer(), nullable=False),
        sa.Column("second_id", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("undoes", sa.Integer(), nullable=True),
        sa.Column("key", sa.String(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "verdict IN ('first', 'second', 'equal', 'undo')", name=op.f("ck_comparison_verdict")
        ),
        sa.CheckConstraint(
            "(verdict = 'undo') = (undoes IS NOT NULL)", name=op.f("ck_comparison_undoes")
        ),
        sa.CheckConstraint("first_id <> second_id", name=op.f("ck_comparison_two_images")),
        _to("comparison", "project_id", "project", ondelete="CASCADE"),
        _to("comparison", "annotator_id", "annotator"),
        _to("comparison", "first_id", "image"),
        _to("comparison", "second_id", "image"),
        _to("comparison", "undoes", "comparison"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparison")),
        sa.UniqueConstraint("undoes", name=op.f("uq_comparison_undoes")),
        sa.UniqueConstraint("key", name=op.f("uq_comparison_key")),
    )
    op.create_index("ix_comparison_project", "comparison", ["project_id", "annotator_id", "id"])
    op.create_table(
        "slice",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('tag', 'filter', 'prompt')", name=op.f("ck_slice_kind")),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 120", name=op.f("ck_slice_name")),
        _to("slice", "project_id", "project", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slice")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_slice_project_id")),
    )
    op.create_table(
        "expectation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("slice_id", sa.Integer(), nullable=False),
        sa.Column("measure", sa.String(), nullable=False),
        sa.Column("bound", sa.String(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("blocks", sa.Boolean(), nullable=False),
        sa.CheckConstraint("measure IN ('mean', 'pass_rate')", name=op.f("ck_expectation_measure")),
        sa.CheckConstraint("bound IN ('at most', 'at least')", name=op.f("ck_expectation_bound")),
        sa.CheckConstraint("value BETWEEN 0 AND 1", name=op.f("ck_expectation_value")),
        _to("expectation", "project_id", "project", ondelete="CASCADE"),
        _to("expectation", "slice_id", "slice", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_expectation")),
    )
    op.create_table(
        "test_run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        _to("test_run", "project_id", "project", ondelete="CASCADE"),
        _to("test_run", "version_id", "version", ondelete="CASCADE"),
        _to("test_run", "collection_id", "collection", ondelete="CASCADE"),
        _to("test_run", "job_id", "job", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_test_run")),
    )
    op.create_index("ix_test_run_project", "test_run", ["project_id", "id"])
    op.create_table(
        "test_run_score",
        sa.Column("test_run_id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=False),
        _to("test_run_score", "test_run_id", "test_run", ondelete="CASCADE"),
        _to("test_run_score", "event_id", "score_event", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("test_run_id", "event_id", name=op.f("pk_test_run_score")),
    )
    op.create_table(
        "question",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=True),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state IN ('asked', 'taken', 'answered', 'failed')", name=op.f("ck_question_state")
        ),
        _to("question", "project_id", "project", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_question")),
    )
    op.create_index("ix_question_state", "question", ["state", "id"])


def _to(table: str, column: str, target: str, **rule: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}")
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=name, **rule)
