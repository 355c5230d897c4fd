"""Images of the schema that did not know when they were taken, and what becomes of them."""

from datetime import datetime

from sqlalchemy import DateTime, Engine, column, insert, select, table
from sqlmodel import select as select_rows

from tastemaker import images
from tastemaker.database import sessions
from tastemaker.database.tables import Image, ImagePath
from tastemaker.pictures.pictures import Examined

FORMER = "0016"
ROWS = [
    {
        "id": number, "sha256": str(number) * 64, "kind": kind, "name": f"{number}.jpg",
        "format": "JPEG", "width": 4000, "height": 3000, "bytes": 2**33, "phash": phash,
        "source_group": str(number) * 16, "added_at": datetime(2026, 1, number),
    }
    for number, kind, phash in ((1, "file", -(2**62)), (2, "upload", 2**61), (3, "vector", None))
]  # fmt: skip


def fill(engine: Engine) -> None:
    """A file, an upload and a vector, and where the file lies, in a database of that schema."""
    place = {"path": "/1.jpg", "image_id": 1, "size": 2**33, "mtime_ns": 2**60, "state": "present"}
    with sessions.writing(engine) as session:
        for name, rows in (("image", ROWS), ("image_path", [place])):
            columns = [column(key, DateTime if key == "added_at" else None) for key in rows[0]]
            session.execute(insert(table(name, *columns)), rows)


def check(engine: Engine) -> None:
    """Every value is as it was, nobody has asked when they were taken, and that can be kept."""
    former = [getattr(Image, name) for name in ROWS[0]]
    with sessions.writing(engine) as session:
        rows = session.execute(select(*former).order_by(Image.id)).all()
        kept = [{**row._mapping, "added_at": row.added_at.replace(tzinfo=None)} for row in rows]
        assert kept == ROWS
        assert session.exec(select_rows(Image.taken_at)).all() == [None] * len(ROWS)
        assert session.exec(select_rows(ImagePath.image_id)).all() == [1]
        facts = Examined("1" * 64, 2**33, 0, "JPEG", 4000, 3000, 0, "2024-05-03T14:22:05+02:00")
        known, is_new = images.add_picture(session, facts, "1.jpg", None, uploaded=False)
        assert not is_new and known.id == 1
    with sessions.reading(engine) as session:
        taken = session.exec(select_rows(Image.taken_at).order_by(Image.id)).all()
        assert taken == ["2024-05-03T14:22:05+02:00", None, None]
