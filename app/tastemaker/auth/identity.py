"""Who sends a request: the owner of the server, a person who signed in, or nobody.

Without a password on this server, whoever reaches it is its owner, and scores under the name they
chose last. With one, everybody signs in: the owner with the server's password, other people with
their own, even one who scores under the same name as the owner. A session lives in the database
under the hash of its cookie, so it can be ended, and ends with the password that opened it.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from fastapi import Request
from itsdangerous import BadData, URLSafeSerializer
from sqlalchemy import Engine
from sqlmodel import Session, col, delete, select

from tastemaker.auth import accounts
from tastemaker.auth.failed_logins import FailedLogins
from tastemaker.auth.lanes import PASSWORDS, SESSIONS
from tastemaker.config import Settings
from tastemaker.database import installation
from tastemaker.database.sessions import reading
from tastemaker.database.tables import Annotator, LoginSession, now
from tastemaker.errors import Forbidden, NotSignedIn, UserMismatch

SESSION_COOKIE = "tastemaker_session"
PERSON_COOKIE = "tastemaker_person"  # who scores, on a server without a password
DEVICE_COOKIE = "tastemaker_device"  # a browser in which somebody has signed in before
SESSION_LIFETIME = timedelta(days=30)
DEVICE_LIFETIME = timedelta(days=365)
BASIC_SECONDS = 300.0  # a login stays known: argon2 is slow by design, programs ask often

Clock = Callable[[], float]  # seconds, as `time.monotonic`


class Who(StrEnum):
    """What an identity is. Never to be told from the row that scores go under: a person may have
    the owner's name."""

    OWNER = "owner"  # has the server's password, or reaches a server that has none
    PERSON = "person"  # signed in with a password of their own
    NOBODY = "nobody"


@dataclass(frozen=True)
class Identity:
    """Who is behind a request: the row their scores go under, and what they may do."""

    who: Who
    annotator_id: int
    role: str  # one of `accounts.ROLES`; nobody has none
    fallback_id: int  # the row where that one is gone: the installation's for the owner, else none
    page_user_id: int | None = None  # whose page it came from, where the request says so
    by_token: bool = False  # whether an API token let them in, not a password
    by_proxy: bool = False  # whether a trusted proxy says who they are

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    @property
    def may_score(self) -> bool:
        return self.role in ("admin", "annotator")

    def person(self, session: Session) -> Annotator:
        """Their row; for the owner the installation's own where the chosen one is gone or
        disabled. Raises `NotSignedIn` for whom that happened to since they were let in, and
        `UserMismatch` where the page was opened for another."""
        person = session.get(Annotator, self.annotator_id)
        if person is None or person.proxy or person.disabled:
            if self.who != Who.OWNER:
                raise not_signed_in()
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


NOBODY = Identity(Who.NOBODY, 0, "", 0)


def not_signed_in() -> NotSignedIn:
    return NotSignedIn("You are not signed in.", "Sign in; nothing was changed.")


def owner(installation_id: int, chosen_id: int | None = None) -> Identity:
    """The owner of the server, who scores under the installation's own name or a chosen one."""
    return Identity(Who.OWNER, chosen_id or installation_id, "admin", installation_id)


def person(row: Annotator) -> Identity:
    """A person who has shown that they are the one of this row."""
    return Identity(Who.PERSON, row.id, row.role, row.id)


def owner_identity(request: Request) -> Identity:
    """Who asks a server without a password."""
    chosen = request.cookies.get(PERSON_COOKIE, "")
    return owner(request.app.state.annotator_id, int(chosen) if is_id(chosen) else None)


def proxy_identity(engine: Engine, name: str, owner_id: int) -> Identity:
    """The person who a trusted proxy says has signed in. Raises `Forbidden` where nobody here has
    that name, or they were disabled. The owner, `owner_id`, comes in by the password alone: their
    usual name is “me”, which anybody may be called there."""
    with reading(engine) as session:
        row = session.exec(select(Annotator).where(Annotator.name == name)).first()
        if row is not None and row.id == owner_id:
            raise Forbidden(
                f"The proxy says that you are “{name[:80]}”, which is the owner’s name here.",
                "The owner signs in by the password, at this program’s own address.",
            )
        if row is None or row.proxy or row.disabled:
            state = (
                "scores here no more" if row is not None and row.disabled else "is not known here"
            )
            raise Forbidden(
                f"The proxy says that you are “{name[:80]}”, who {state}.",
                "An admin can let you in under exactly that name (People).",
            )
        return replace(person(row), by_proxy=True)


# --- sessions ------------------------------------------------------------------------------------


def session_identity(engine: Engine, settings: Settings, token: str, owner_id: int) -> Identity:
    """Whose session a cookie's value names; nobody's if it has ended, its password is no longer the
    one that opened it, or they were disabled."""
    if not token:
        return NOBODY
    with reading(engine) as session:
        login = session.exec(
            select(LoginSession).where(
                LoginSession.token_sha256 == digest(token).hex(),
                col(LoginSession.expires_at) > now(),
            )
        ).first()
        if login is None:
            return NOBODY
        found = owner(owner_id)
        if login.who == Who.PERSON:
            row = session.get(Annotator, login.annotator_id)
            if row is None or row.disabled or row.proxy:
                return NOBODY
            found = person(row)
        opened_with = credential(session, settings, token, found)
        return found if hmac.compare_digest(login.credential, opened_with) else NOBODY


def sign_in(session: Session, settings: Settings, user: Identity) -> str:
    """A new session. Returns the cookie's value, which is stored only as a hash."""
    token = secrets.token_urlsafe(32)
    session.execute(delete(LoginSession).where(col(LoginSession.expires_at) <= now()))
    session.add(
        LoginSession(
            token_sha256=digest(token).hex(),
            who=user.who.value,
            annotator_id=user.annotator_id if user.who == Who.PERSON else None,
            credential=credential(session, settings, token, user),
            expires_at=now() + SESSION_LIFETIME,
        )
    )
    return token


def credential(session: Session, settings: Settings, token: str, user: Identity) -> str:
    """What ties a session or an API token to the password it was made under. Keyed by the value
    that its holder sends, which is stored nowhere: whoever reads the database cannot try passwords
    on it."""
    secret = settings.admin_password
    if user.who == Who.PERSON:
        secret = session.get_one(Annotator, user.annotator_id).password_hash
    return hmac.new(token.encode(), secret.encode("utf-8", "surrogatepass"), "sha256").hexdigest()


def sign_out(session: Session, token: str) -> None:
    ended = col(LoginSession.token_sha256) == digest(token).hex()
    session.execute(delete(LoginSession).where(ended))


# --- passwords -----------------------------------------------------------------------------------


def password_identity(request: Request, name: str, password: str) -> Identity:
    """Who signs in with this name (empty: the owner) and password; nobody if it is wrong. Raises
    `TooManyAttempts`."""
    state = request.app.state
    settings: Settings = state.settings
    failed: FailedLogins = state.failed_logins
    name = name.strip() or accounts.ADMIN
    address = request.client.host if request.client else ""
    with reading(state.engine) as session:
        device = _known_device(session, request, name)
        was_right = failed.begin(address, name.casefold(), device)
        if name.casefold() == accounts.ADMIN:
            typed, right = (digest(text) for text in (password, settings.admin_password))
            found = bool(settings.admin_password) and hmac.compare_digest(typed, right)
            user = owner(state.annotator_id) if found else NOBODY
        else:
            row = accounts.check_password(session, name, password)
            user = person(row) if row is not None else NOBODY
    if user.who != Who.NOBODY:
        was_right()
    return user


def device_cookie(session: Session, name: str) -> str:
    """The value of the cookie by which a browser is known in which this name has signed in."""
    about = [(name.strip() or accounts.ADMIN).casefold(), secrets.token_urlsafe(8)]
    return str(_devices(session).dumps(about))


def _known_device(session: Session, request: Request, name: str) -> str:
    """What tells a browser in which this name has signed in before from all others; else empty."""
    token = request.cookies.get(DEVICE_COOKIE, "")
    try:
        signed_in, device = _devices(session).loads(token)
    except (BadData, ValueError, TypeError):
        return ""
    return str(device) if signed_in == name.casefold() else ""


def _devices(session: Session) -> URLSafeSerializer:
    how = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    secret = installation.identity(session).secret
    return URLSafeSerializer(secret, salt="device", signer_kwargs=how)


class BasicLogins:
    """HTTP Basic for programs: name and password with every request. A pair that was right stays
    known for five minutes by its hash, then it is checked again; a person who was disabled or has
    a new password or role, at once. Of many requests at once with the same pair, one is checked."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._known: dict[bytes, tuple[float, Identity, str]] = {}  # until when, who, as what
        self._turns: dict[bytes, threading.Lock] = {}
        self._lock = threading.Lock()

    async def identity(self, request: Request, authorization: str) -> Identity:
        """Who sends this Authorization header; nobody if it is wrong. Raises `TooManyAttempts`."""
        kind, _, encoded = authorization.partition(" ")
        if kind.lower() != "basic":
            return NOBODY
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):  # also of another alphabet, or no UTF-8
            return NOBODY
        key = digest(authorization)
        known = await SESSIONS.run(self._still_known, request, key)
        if known is not None:
            return known
        return await PASSWORDS.run(self._checked, request, key, name, password)

    def _checked(self, request: Request, key: bytes, name: str, password: str) -> Identity:
        with self._lock:
            if len(self._turns) >= 1000:
                self._turns.clear()
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            if (user := self._still_known(request, key)) is not None:
                return user
            user = password_identity(request, name, password)
            self._known.pop(key, None)
            if user.who != Who.NOBODY:
                if len(self._known) >= 1000:
                    self._known.clear()
                until = self.clock() + BASIC_SECONDS
                self._known[key] = (until, user, self._state_of(request, user))
            return user

    def _still_known(self, request: Request, key: bytes) -> Identity | None:
        until, user, state = self._known.get(key, (0.0, NOBODY, ""))
        known = until > self.clock() and self._state_of(request, user) == state
        return user if known and user.who != Who.NOBODY else None

    def _state_of(self, request: Request, user: Identity) -> str:
        """What must not have changed since: the server's password; a person's password, role, and
        that they may come."""
        if user.who != Who.PERSON:
            return digest(request.app.state.settings.admin_password).hex()
        with reading(request.app.state.engine) as session:
            row = session.get(Annotator, user.annotator_id)
            return "" if row is None else f"{row.disabled} {row.role} {row.password_hash}"


def is_id(text: str) -> bool:
    return text.isdecimal() and 0 < len(text) < 19


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
