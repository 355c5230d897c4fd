"""Who sends a request: the owner of the server, or whoever signed in.

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
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from fastapi import Request
from sqlalchemy import Engine
from sqlmodel import Session, col, delete, select

from tastemaker.auth import accounts
from tastemaker.config import Settings
from tastemaker.database.sessions import reading
from tastemaker.database.tables import Annotator, LoginSession, now
from tastemaker.errors import TooManyAttempts, UserMismatch

SESSION_COOKIE = "tastemaker_session"
PERSON_COOKIE = "tastemaker_person"  # who scores, on a server without a password
SESSION_LIFETIME = timedelta(days=30)
BASIC_SECONDS = 300.0  # a login stays known: argon2 is slow by design, programs ask often

Clock = Callable[[], float]  # seconds, as `time.monotonic`


@dataclass(frozen=True)
class Identity:
    """The person behind a request: the row their scores go under, and what they may do."""

    annotator_id: int
    role: str  # admin or annotator
    owner_id: int  # the installation's own annotator
    page_user_id: int | None = None  # whose page it came from, where the request says so

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    def person(self, session: Session) -> Annotator:
        """Their row; the installation's own where the chosen one is gone or disabled. Raises
        `UserMismatch` where the page was opened for another."""
        person = session.get(Annotator, self.annotator_id)
        if person is None or person.proxy or person.disabled:
            person = session.get(Annotator, self.owner_id)
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
    owner_id = request.app.state.annotator_id
    chosen = request.cookies.get(PERSON_COOKIE, "")
    return Identity(int(chosen) if is_id(chosen) else owner_id, "admin", owner_id)


def session_identity(engine: Engine, token: str, owner_id: int) -> Identity | None:
    """Whose session a cookie's value names; None if it has ended or they were disabled."""
    if not token:
        return None
    with reading(engine) as session:
        login = session.exec(
            select(LoginSession).where(
                LoginSession.token_sha256 == _digest(token).hex(),
                col(LoginSession.expires_at) > now(),
            )
        ).first()
        if login is None:
            return None
        if login.annotator_id is None:
            return Identity(owner_id, "admin", owner_id)
        person = session.get(Annotator, login.annotator_id)
        if person is None or person.disabled:
            return None
        return Identity(person.id, person.role, owner_id)


def sign_in(session: Session, user: Identity) -> str:
    """A new session. Returns the cookie's value, which is stored only as a hash."""
    token = secrets.token_urlsafe(32)
    session.execute(delete(LoginSession).where(col(LoginSession.expires_at) <= now()))
    session.add(
        LoginSession(
            token_sha256=_digest(token).hex(),
            annotator_id=None if user.annotator_id == user.owner_id else user.annotator_id,
            expires_at=now() + SESSION_LIFETIME,
        )
    )
    return token


def sign_out(session: Session, token: str) -> None:
    ended = col(LoginSession.token_sha256) == _digest(token).hex()
    session.execute(delete(LoginSession).where(ended))


# --- passwords -----------------------------------------------------------------------------------


class FailedLogins:
    """Wrong passwords by address, and by name. After `limit` of them from an address within
    `window` seconds, no further attempt from there is looked at. For a name, from wherever, five
    times as many are: one stranger shall not lock others out."""

    def __init__(
        self, limit: int = 10, window: float = 600.0, clock: Clock = time.monotonic
    ) -> None:
        self.limit, self.window, self.clock = limit, window, clock
        self._lock = threading.Lock()
        self._failed: dict[tuple[str, str], deque[float]] = {}

    def check(self, address: str, name: str = "") -> None:
        """Raises `TooManyAttempts`."""
        with self._lock:
            self._forget()
            by_address = len(self._failed.get(("address", address), ()))
            by_name = len(self._failed.get(("name", name), ()))
            if by_address >= self.limit or by_name >= 5 * self.limit:
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
    `TooManyAttempts`."""
    state = request.app.state
    settings: Settings = state.settings
    failed: FailedLogins = state.failed_logins
    name = name.strip() or accounts.ADMIN
    address = request.client.host if request.client else ""
    failed.check(address, name.casefold())
    if name.casefold() == accounts.ADMIN:
        typed, right = (_digest(text) for text in (password, settings.admin_password))
        if settings.admin_password and hmac.compare_digest(typed, right):
            return Identity(state.annotator_id, "admin", state.annotator_id)
    else:
        with reading(state.engine) as session:
            person = accounts.check_password(session, name, password)
        if person is not None:
            return Identity(person.id, person.role, state.annotator_id)
    failed.add(address, name.casefold())
    return None


class BasicLogins:
    """HTTP Basic for programs: name and password with every request. A pair that was right stays
    known for five minutes by its hash, then it is checked again; a person who was disabled or has
    a new password, at once."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._known: dict[bytes, tuple[float, Identity, str]] = {}  # until when, who, as what

    def identity(self, request: Request, authorization: str) -> Identity | None:
        """Who sends this Authorization header; None if it is wrong. Raises `TooManyAttempts`."""
        kind, _, encoded = authorization.partition(" ")
        if kind.lower() != "basic":
            return None
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        key = _digest(authorization)
        until, user, state = self._known.get(key, (0.0, None, ""))
        if user is not None and until > self.clock() and self._state_of(request, user) == state:
            return user
        user = password_identity(request, name, password)
        self._known.pop(key, None)
        if user is not None:
            if len(self._known) >= 1000:
                self._known.clear()
            until = self.clock() + BASIC_SECONDS
            self._known[key] = (until, user, self._state_of(request, user))
        return user

    def _state_of(self, request: Request, user: Identity) -> str:
        """What must not have changed since: a person's password, role, and that they may come."""
        if user.annotator_id == user.owner_id:
            return ""
        with reading(request.app.state.engine) as session:
            person = session.get(Annotator, user.annotator_id)
            if person is None:
                return ""
            return f"{person.disabled} {person.role} {person.password_hash}"


def is_id(text: str) -> bool:
    return text.isdecimal() and 0 < len(text) < 19


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
