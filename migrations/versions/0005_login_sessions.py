"""A session names whether it is the owner's or a person's, and the password that opened it.

Whose the sessions of before are cannot be told for sure, so they end: everybody signs in again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(sa.delete(sa.table("login_session")))
    with op.batch_alter_table("login_session") as batch:
        batch.add_column(sa.Column("who", sa.String(), nullable=False))
        batch.add_column(sa.Column("credential", sa.String(), nullable=False))
        batch.create_check_constraint(op.f("ck_login_session_who"), "who IN ('owner', 'person')")
        batch.create_check_constraint(
            op.f("ck_login_session_whose"), "(who = 'person') = (annotator_id IS NOT NULL)"
        )
