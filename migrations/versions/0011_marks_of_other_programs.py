"""What another program's stars mean is an event beside scores."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    kind, value = op.f("ck_score_event_kind"), op.f("ck_score_event_value")
    apart = {"resolve_fks": False}  # the table alone, not those that it refers to
    with op.batch_alter_table("score_event", reflect_kwargs=apart) as batch:
        batch.drop_constraint(kind, type_="check")
        batch.drop_constraint(value, type_="check")
        batch.create_check_constraint(
            kind, "kind IN ('set', 'undo', 'skip', 'flag', 'at_least', 'below', 'rated')"
        )
        batch.create_check_constraint(
            value,
            "(kind IN ('set', 'at_least', 'below', 'rated')) = (value IS NOT NULL) "
            "AND coalesce(value, 0) BETWEEN 0 AND 10",
        )
