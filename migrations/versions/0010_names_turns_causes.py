"""An image keeps every name that it was sent under, not only the first one's. A job knows who
asked for it, and the kind of cause that it failed for."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

# Jobs that failed before were told by their sentences: how one begins or what it holds → its cause.
CAUSES = {
    "%(signal 9)%": "memory",
    "%MemoryError%": "memory",
    "%out of memory%": "memory",
    "%allocate memory%": "memory",
    "The worker stopped%": "stopped",
    "%ended from outside%": "killed",
    "%ended unexpectedly%": "killed",
    "%disk is full%": "disk-full",
    "%GB are free%": "disk-full",
    "%No space left%": "disk-full",
    "%home folder cannot be written%": "not-writable",
    "%Read-only file system%": "not-writable",
    "%weights%": "no-weights",
    "%could not be downloaded%": "no-weights",
    "There is no folder%": "gone",
    "There is no file or folder%": "gone",
    "%share connected%": "gone",
    "%FileNotFoundError%": "gone",
    "%NotADirectoryError%": "gone",
    "%of this upload are no longer kept%": "gone",
    "It stopped with an error%": "fault",
}


def upgrade() -> None:
    op.create_table(
        "image_name",
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["image.id"], name=op.f("fk_image_name_image_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("image_id", "name", name=op.f("pk_image_name")),
    )
    op.create_index("ix_image_name_other", "image_name", ["name", "image_id"])
    op.add_column("job", sa.Column("asked_by", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("cause", sa.String(), nullable=False, server_default=""))
    for sentence, cause in CAUSES.items():
        op.execute(
            sa.text(
                "UPDATE job SET cause = :cause"
                " WHERE state = 'failed' AND cause = '' AND error LIKE :sentence"
            ).bindparams(cause=cause, sentence=sentence)
        )
