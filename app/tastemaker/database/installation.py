"""What one database is known by: a random id, and the secret that its web servers sign with."""

import secrets
from typing import NamedTuple

from sqlmodel import Session, select, update

from tastemaker.database.sessions import engine_of, is_writing, writing
from tastemaker.database.statements import insert_missing
from tastemaker.database.tables import Installation


class Identity(NamedTuple):
    """`library` names the database to browsers; `secret` never leaves the server."""

    library: str
    secret: str

    def __repr__(self) -> str:
        return f"Identity(library={self.library!r})"


_known: dict[str, Identity] = {}


def identity(session: Session) -> Identity:
    """The identity of the session's database, made on first use. All processes on one database
    share it."""
    engine = engine_of(session)
    address = engine.url.render_as_string(hide_password=False)
    if (known := _known.get(address)) is not None:
        return known
    found = _read(session)
    if found is None and is_writing(session):
        _make(session)
        found = _read(session)
    elif found is None:
        with writing(engine) as own:
            _make(own)
            found = _read(own)
    assert found is not None, "made a statement ago"
    if not is_writing(session):  # what an open transaction wrote may not come to stay
        _known[address] = found
    return found


def renew(session: Session) -> Identity:
    """Another id and another secret, for a copy that is used beside its original. Pages and entries
    of before belong to the former id: no server may be running."""
    new = {"library_id": secrets.token_hex(8), "secret": secrets.token_urlsafe(32)}
    identity(session)  # there is one to be replaced
    session.execute(update(Installation).values(new))
    _known.pop(engine_of(session).url.render_as_string(hide_password=False), None)
    return Identity(new["library_id"], new["secret"])


def _read(session: Session) -> Identity | None:
    row = session.execute(select(Installation.library_id, Installation.secret)).one_or_none()
    return None if row is None else Identity(*row)


def _make(session: Session) -> None:
    """Of several processes that do so at once, the first one's row stays."""
    row = {"id": 1, "library_id": secrets.token_hex(8), "secret": secrets.token_urlsafe(32)}
    insert_missing(session, Installation, [row])
