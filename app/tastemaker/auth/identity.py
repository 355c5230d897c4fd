"""Who is asking, and how they came to be known.

Without a password on this server, whoever reaches it is its owner, and scores under the name they
chose last. With one, everybody signs in: the admin with the server's password, other people with
their own. A session lives in the database under the hash of its cookie, so it can be ended.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from sqlalchemy import Engine
from sqlmodel import Session, col, delete, select

from tastemaker.auth import accounts
from tastemaker.config import Settings
from tastemaker.database.sessions import reading
from tastemaker.database.tables import Annotator, LoginSession, now
from tastemaker.errors import TooManyAttempts, UserMismatch

COOKIE = "tastemaker_session"
CHOSEN = "tastemaker_person"  # who scores, on a server without a password
SIGNED_IN_FOR = timedelta(days=30)
BASIC_GOOD_FOR = 300.0  # seconds; argon2 is slow by design, programs ask often


@dataclass(frozen=True)
class Identity:
    """The person behind a request: the row their scores go under, and what they may do."""

    annotator_id: int
    role: str  # admin or annotator
    fallback_id: int  # the installation's own annotator
    page_user_id: int | None = None  # whose page it came from, where the request says so

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    def person(self, session: Session) -> Annotator:
        """Their row; the installation's own where the chosen one is gone or disabled. Raises
        `SomebodyElse` where the page was opened for another."""
        person = session.get(Annotator, self.annotator_id)
        if person is None or person.stand_in or person.disabled:
            person = session.get(Annotator, self.fallback_id)
        assert person is not None, "create_app made sure of it"
        if self.page_user_id not in (None, person.id):
            opener = session.get(Annotator, self.page_user_id)
            name = opener.name if opener is not None else "somebody else"
            raise UserMismatch(
                f"This page was opened by {name}; you score as {person.name} now. Nothing was"
                " saved.",
                f"Reload the page to score as {person.name}, or become {name} again (People).",
            )
        return person


def owner_identity(request: Request) -> Identity:
    """Who asks a server without a password."""
    own = request.app.state.annotator_id
    chosen = request.cookies.get(CHOSEN, "")
    return Identity(int(chosen) if is_id(chosen) else own, "admin", own)


def session_identity(engine: Engine, token: str, own: int) -> Identity | None:
    """Whose session a cookie's value names; None if it has ended or they were shut out."""
    if not token:
        return None
    with reading(engine) as session:
        found = session.exec(
            select(LoginSession).where(
                LoginSession.token_sha256 == _digest(token).hex(),
                col(LoginSession.expires_at) > now(),
            )
        ).first()
        if found is None:
            return None
        if found.annotator_id is None:
            return Identity(own, "admin", own)
        person = session.get(Annotator, found.annotator_id)
        if person is None or person.disabled:
            return None
        return Identity(person.id, person.role, own)


def sign_in(session: Session, user: Identity) -> str:
    """A new session. Returns the cookie's value, which is stored only as a hash."""
    token = secrets.token_urlsafe(32)
    session.execute(delete(LoginSession).where(col(LoginSession.expires_at) <= now()))
    session.add(
        LoginSession(
            token_sha256=_digest(token).hex(),
            annotator_id=None if user.annotator_id == user.fallback_id else user.annotator_id,
            expires_at=now() + SIGNED_IN_FOR,
        )
    )
    return token


def sign_out(session: Session, token: str) -> None:
    gone = col(LoginSession.token_sha256) == _digest(token).hex()
    session.execute(delete(LoginSession).where(gone))


# --- passwords -----------------------------------------------------------------------------------


class FailedLogins:
    """Wrong passwords by address, and by name. After `limit` of them from an address within
    `window` seconds, no further try from there is looked at. For a name, from wherever, five times
    as many are: one stranger shall not lock others out."""

    def __init__(self, limit: int = 10, window: float = 600.0, clock: Any = time.monotonic) -> None:
        self.limit, self.window, self.clock = limit, window, clock
        self._lock = threading.Lock()
        self._failed: dict[tuple[str, str], deque[float]] = {}

    def check(self, address: str, name: str = "") -> None:
        """Raises `TooManyTries`."""
        with self._lock:
            self._forget()
            from_there = len(self._failed.get(("address", address), ()))
            for_name = len(self._failed.get(("name", name), ()))
            if from_there >= self.limit or for_name >= 5 * self.limit:
                raise TooManyAttempts(
                    "Too many wrong passwords from this address or for this name.",
                    "Wait ten minutes, then try again.",
                )

    def add(self, address: str, name: str = "") -> None:
        with self._lock:
            for key in (("address", address), ("name", name)):
                self._failed.setdefault(key, deque(maxlen=5 * self.limit)).append(self.clock())

    def _forget(self) -> None:
        oldest = self.clock() - self.window
        for key, times in list(self._failed.items()):
            while times and times[0] < oldest:
                times.popleft()
            if not times:
                del self._failed[key]


def password_identity(request: Request, name: str, password: str) -> Identity | None:
    """Who signs in with this name (empty: the admin) and password; None if it is wrong. Raises
    `TooManyTries`."""
    state = request.app.state
    settings: Settings = state.settings
    tries: FailedLogins = state.failed_tries
    name = name.strip() or accounts.ADMIN
    address = request.client.host if request.client else ""
    tries.check(address, name.casefold())
    if name.casefold() == accounts.ADMIN:
        given, kept = (_digest(p) for p in (password, settings.admin_password))
        if settings.admin_password and hmac.compare_digest(given, kept):
            return Identity(state.annotator_id, "admin", state.annotator_id)
    else:
        with reading(state.engine) as session:
            person = accounts.check_password(session, name, password)
        if person is not None:
            return Identity(person.id, person.role, state.annotator_id)
    tries.add(address, name.casefold())
    return None


class BasicLogins:
    """HTTP Basic for programs: name and password with every request. A pair that was right is
    known for five minutes by its hash, then checked again; a person who was shut out, at once."""

    def __init__(self, clock: Any = time.monotonic) -> None:
        self.clock = clock
        self._known: dict[bytes, tuple[float, Identity, str]] = {}

    def user(self, request: Request, authorization: str) -> Identity | None:
        """Raises `TooManyTries`."""
        kind, _, encoded = authorization.partition(" ")
        if kind.lower() != "basic":
            return None
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        key = _digest(authorization)
        until, user, kept = self._known.get(key, (0.0, None, ""))
        if user is not None and until > self.clock() and self._hash(request, user) == kept:
            return user
        user = password_identity(request, name, password)
        self._known.pop(key, None)
        if user is not None:
            if len(self._known) >= 1000:
                self._known.clear()
            self._known[key] = (self.clock() + BASIC_GOOD_FOR, user, self._hash(request, user))
        return user

    def _hash(self, request: Request, user: Identity) -> str:
        """What must not have changed since: the person's password and that they are welcome."""
        if user.annotator_id == user.fallback_id:
            return ""
        with reading(request.app.state.engine) as session:
            person = session.get(Annotator, user.annotator_id)
            return (
                "" if person is None else f"{person.disabled} {person.role} {person.password_hash}"
            )


def safe_redirect_path(path: str) -> str:
    """A page of this site to go on to after signing in, and nothing else."""
    parts = urlsplit(path)
    plain = not parts.scheme and not parts.netloc and "\\" not in path and path.isprintable()
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"


def is_id(text: str) -> bool:
    return text.isdecimal() and 0 < len(text) < 19


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
