"""Tags and names of images are kept in one normal form (NFC), in which they are looked for: a Mac's
file system gives letters taken apart from their marks."""

import unicodedata
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

IMAGE = sa.table("image", sa.column("id", sa.Integer), sa.column("name", sa.String))
TAG = sa.table("image_tag", sa.column("image_id", sa.Integer), sa.column("tag", sa.String))
AT_ONCE = 10_000


def upgrade() -> None:
    connection = op.get_bind()
    for image_id, name in list(_apart(connection, sa.select(IMAGE.c.id, IMAGE.c.name))):
        changed = sa.update(IMAGE).where(IMAGE.c.id == image_id).values(name=_composed(name))
        connection.execute(changed)
    for _, tag in list(_apart(connection, sa.select(sa.null(), TAG.c.tag).distinct())):
        other = TAG.alias()
        there = sa.select(other.c.image_id).where(other.c.tag == _composed(tag))
        connection.execute(sa.delete(TAG).where(TAG.c.tag == tag, TAG.c.image_id.in_(there)))
        connection.execute(sa.update(TAG).where(TAG.c.tag == tag).values(tag=_composed(tag)))


def _apart(connection: sa.Connection, query: sa.Select) -> Iterator[tuple[int, str]]:
    """The rows whose text is not composed."""
    for rows in connection.execute(query).partitions(AT_ONCE):
        for key, text in rows:
            if not text.isascii() and text != _composed(text):
                yield key, text


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)
