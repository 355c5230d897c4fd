"""API tokens: what a program signs in with, in place of a person's password.

    Authorization: Bearer tmk_…

A token is 256 random bits. Nobody can guess or try so many, so its SHA-256 is stored: a slow hash,
which makes short passwords hard to try, would add nothing but a wait to every request. It is shown
once, when it is made; its beginning tells programs that look for lost secrets what it is.

It is bound to whose it is: it may do no more than its scope and they may at that moment, and it
ends with the password it was made under, as a session does.
"""

import hmac
import logging
import secrets
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from fastapi import Request
from sqlalchemy import Engine
from sqlmodel import Session, col, delete, select, update

from tastemaker.auth import accounts
from tastemaker.auth.identity import NOBODY, Identity, Who, credential, digest, owner, person
from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Annotator, ApiToken, in_utc, now
from tastemaker.errors import Conflict, Forbidden, Invalid, NotFound, TastemakerError
from tastemaker.files import is_text

log = logging.getLogger(__name__)

BEGINNING = "tmk_"
SCOPES = {"read": "viewer", "score": "annotator", "admin": "admin"}  # the role each gives at most
DAYS, MOST_DAYS = 90, 366
MOST = 50  # tokens of one person
USE_SHOWN = timedelta(minutes=1)  # how exact the last use is


def bearer(request: Request) -> str | None:
    """The token that a request comes with, empty for a malformed one; None where it has none."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


# --- made, listed, revoked -----------------------------------------------------------------------


@dataclass(frozen=True)
class TokenFacts:
    """What may be shown of a token. `person` is None for the owner of the server."""

    id: int
    name: str
    scope: str
    person: str | None
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    expired: bool

    def as_json(self) -> dict[str, Any]:
        """For programs: times in ISO 8601."""
        times = {k: v.isoformat() for k, v in asdict(self).items() if isinstance(v, datetime)}
        return asdict(self) | times


def create(
    session: Session, settings: Settings, user: Identity, name: str, scope: str, days: int = DAYS
) -> tuple[str, TokenFacts]:
    """A token of `user`, which only this answer holds, and what may be shown of it. Raises
    `Invalid`, `Forbidden` for a scope beyond their rights, and `Conflict` where they have `MOST`.
    """
    name = " ".join(name.split())
    if not 1 <= len(name) <= 80 or not name.isprintable() or not is_text(name):
        raise Invalid("A token has a name of 1 to 80 characters.", "Say what it is for.")
    if scope not in SCOPES:
        raise Invalid(f"There is no scope “{scope[:40]}”.", f"Use {', '.join(SCOPES)}.")
    if not 1 <= days <= MOST_DAYS:
        raise Invalid(f"A token lasts 1 to {MOST_DAYS} days.", "Make a new one when it ends.")
    if user.by_token:
        raise Forbidden("A token cannot make another; nothing was changed.", "Sign in yourself.")
    if not grants(user, scope):
        raise Forbidden(
            f"A token of yours cannot have the scope “{scope}”; nothing was changed.",
            "It may do no more than you.",
        )
    long_over = col(ApiToken.expires_at) <= now() - timedelta(days=30)
    session.execute(delete(ApiToken).where(long_over))
    if len(_rows(session, user)) >= MOST:
        raise Conflict(f"There are {MOST} tokens already.", "Revoke one that is not used.")
    token = BEGINNING + secrets.token_urlsafe(32)
    chosen = user.annotator_id if user.annotator_id != user.fallback_id else None
    row = ApiToken(
        name=name,
        scope=scope,
        token_sha256=digest(token).hex(),
        who=user.who.value,
        annotator_id=user.annotator_id if user.who == Who.PERSON else chosen,
        credential=credential(session, settings, token, user),
        expires_at=now() + timedelta(days=days),
    )
    session.add(row)
    session.flush()
    return token, _facts(session, row)


def list_all(session: Session, user: Identity) -> list[TokenFacts]:
    """A person's own tokens, the oldest first; an admin's list holds everybody's."""
    return [_facts(session, row) for row in _rows(session, None if user.is_admin else user)]


def revoke(session: Session, user: Identity, token_id: int) -> None:
    """End a token, at once. Raises `NotFound`, also for one that is not theirs to revoke."""
    for row in _rows(session, None if user.is_admin else user):
        if row.id == token_id:
            session.delete(row)
            return
    raise NotFound("There is no such token.", "It may have been revoked; look at the list again.")


def _rows(session: Session, user: Identity | None) -> Sequence[ApiToken]:
    query = select(ApiToken).order_by(col(ApiToken.id))
    if user is not None:
        query = query.where(col(ApiToken.who) == user.who.value)
        if user.who == Who.PERSON:
            query = query.where(col(ApiToken.annotator_id) == user.annotator_id)
    return session.exec(query).all()


def _facts(session: Session, row: ApiToken) -> TokenFacts:
    whose = session.get(Annotator, row.annotator_id) if row.who == Who.PERSON else None
    used = row.last_used_at
    return TokenFacts(
        id=row.id,
        name=row.name,
        scope=row.scope,
        person=whose.name if whose is not None else None,
        created_at=in_utc(row.created_at),
        expires_at=in_utc(row.expires_at),
        last_used_at=in_utc(used) if used else None,
        expired=in_utc(row.expires_at) <= now(),
    )


def grants(user: Identity, scope: str) -> bool:
    """Whether a person may do all that the scope lets a token do."""
    return _lesser(SCOPES[scope], user.role) == SCOPES[scope]


def _lesser(one: str, other: str) -> str:
    """Of two roles the one that may less."""
    return max(one, other, key=accounts.ROLES.index)


# --- whose a request is --------------------------------------------------------------------------


class Tokens:
    """Looks up the tokens of requests. A wrong one counts as a wrong password does, and one that
    was right a moment ago is not counted while it is looked up: programs send many at once."""

    def __init__(self) -> None:
        self._right: set[str] = set()
        self._turn = threading.Lock()

    def identity(self, request: Request, engine: Engine, token: str) -> Identity:
        """Whose token it is, with what it may do; nobody's where it is unknown, expired, revoked,
        or its person may not come. Raises `TooManyAttempts`."""
        state, hashed = request.app.state, digest(token).hex()
        if hashed in self._right:
            user = _owner_of(engine, state.settings, state.annotator_id, token, hashed)
            if user.who != Who.NOBODY:
                return user
            self._right.discard(hashed)
        address = request.client.host if request.client else ""
        with self._turn:
            was_right = state.failed_logins.begin(address)
            user = _owner_of(engine, state.settings, state.annotator_id, token, hashed)
            if user.who != Who.NOBODY:
                was_right()
                if len(self._right) >= 1000:
                    self._right.clear()
                self._right.add(hashed)
        return user


def _owner_of(
    engine: Engine, settings: Settings, installation_id: int, token: str, hashed: str
) -> Identity:
    with reading(engine) as session:
        row = session.exec(select(ApiToken).where(ApiToken.token_sha256 == hashed)).first()
        if row is None or in_utc(row.expires_at) <= now():
            return NOBODY
        found = owner(installation_id, row.annotator_id)
        if row.who == Who.PERSON:
            whose = session.get(Annotator, row.annotator_id)
            if whose is None or whose.disabled or whose.proxy:
                return NOBODY
            found = person(whose)
        if not hmac.compare_digest(row.credential, credential(session, settings, token, found)):
            return NOBODY
    used = row.last_used_at
    if used is None or in_utc(used) < now() - USE_SHOWN:
        _note_use(engine, row.id)
    return replace(found, role=_lesser(SCOPES[row.scope], found.role), by_token=True)


def _note_use(engine: Engine, token_id: int) -> None:
    """Whoever reads need not wait for whoever writes: a use that cannot be noted at once is not."""
    used = update(ApiToken).where(col(ApiToken.id) == token_id).values(last_used_at=now())
    try:
        with writing(engine, wait=0.05) as session:
            session.execute(used)
    except TastemakerError as error:
        log.debug("the use of token %d was not noted: %s", token_id, error)
