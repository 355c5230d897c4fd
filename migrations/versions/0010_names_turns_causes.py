"""An image keeps every name that it was sent under, not only the first one's. A job knows who
asked for it, and the kind of cause that it failed for."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


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
