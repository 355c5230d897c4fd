"""When images were taken, by the clock of the camera. Nobody has asked those that are there."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("image", sa.Column("taken_at", sa.String(), nullable=True))
