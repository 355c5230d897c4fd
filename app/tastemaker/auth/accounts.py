"""People who sign in: names, passwords, roles.

A person scores under their own name. With a password set on this server everybody signs in; the
admin with the server's password, everybody else with their own. Passwords are kept as argon2id
hashes only. Nobody is ever deleted, since their scores stay theirs; they are disabled.
"""

from functools import lru_cache

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlmodel import Session, col, delete, select

from tastemaker.database.tables import Annotator, ApiToken, LoginSession
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.files import is_text

ROLES = ("admin", "annotator", "viewer")  # of what each may, the next may a part
SHORTEST_PASSWORD = 8
FEWEST_CHARACTERS = 4  # different ones
ADMIN = "admin"  # the name under which the server's own password signs in


def list_all(session: Session) -> list[Annotator]:
    """Everybody who scores or may, in the order they came; proxies left out."""
    people = select(Annotator).where(~col(Annotator.proxy)).order_by(col(Annotator.id))
    return list(session.exec(people))


def by_name(session: Session, name: str) -> Annotator:
    """The person of that name. Raises `NotFound`."""
    person = session.exec(select(Annotator).where(Annotator.name == name.strip())).first()
    if person is None or person.proxy:
        raise NotFound(f"Nobody here is called “{name.strip()[:80]}”.", "tastemaker user list")
    return person


def add(session: Session, name: str, password: str = "", role: str = "annotator") -> Annotator:
    """A new person; or, for one who has scored here without a password, the password.

    Without a password they can be chosen on this machine, but cannot sign in. Raises `Conflict`
    for a name that has a password already, `Invalid` for a name or password that will not do.
    """
    name = _validate_name(name)
    _validate_role(role)
    person = session.exec(select(Annotator).where(Annotator.name == name)).first()
    if person is not None and (person.proxy or person.password_hash or not password):
        raise Conflict(f"“{name}” is a name in use.", "Choose another name.")
    if person is None:
        # Nobody who reads a list of people tells “Anna” from “anna”.
        for taken in session.exec(select(Annotator.name)):
            if taken.casefold() == name.casefold():
                raise Conflict(f"“{taken}” is a name in use.", "Choose another name.")
    person = person or Annotator(name=name)
    person.role = role
    if password:
        person.password_hash = hash_password(password)
    session.add(person)
    session.flush()
    return person


def set_password(session: Session, person: Annotator, password: str) -> None:
    """Replace the password; every session that the old one opened ends, and every token."""
    person.password_hash = hash_password(password)
    session.add(person)
    _end_sessions(session, person)


def set_role(session: Session, person: Annotator, role: str) -> None:
    """What a person may do from now on, their sessions and tokens too. Raises `Invalid`."""
    _validate_role(role)
    person.role = role
    session.add(person)


def disable(session: Session, person: Annotator, disabled: bool = True) -> None:
    """Shut a person out, at once, or let them in again. Their scores stay and count."""
    person.disabled = disabled
    session.add(person)
    if disabled:
        _end_sessions(session, person)


def check_password(session: Session, name: str, password: str) -> Annotator | None:
    """The person, if the password is theirs and they are not disabled. Takes as long for a name
    that nobody has, so that names cannot be guessed by the clock."""
    person = session.exec(select(Annotator).where(Annotator.name == name.strip())).first()
    stored = person.password_hash if person is not None else ""
    right = _hasher().verify(password[:1024], stored or _hash_of_nobody())
    welcome = person is not None and bool(stored) and not person.disabled and not person.proxy
    return person if right and welcome else None


def hash_password(password: str) -> str:
    validate_password(password)
    return _hasher().hash(password)


def validate_password(password: str) -> None:
    """Raises `Invalid` for what anybody would guess: too short, or hardly more than one key."""
    words = "A few words in a row are easy to remember and hard to guess."
    if not SHORTEST_PASSWORD <= len(password.strip()) <= 1024:
        raise Invalid(f"A password has at least {SHORTEST_PASSWORD} characters.", words)
    if len(set(password.casefold())) < FEWEST_CHARACTERS:
        raise Invalid(f"A password has at least {FEWEST_CHARACTERS} different characters.", words)
    if not is_text(password):
        raise Invalid("This password is not text.", words)


def _validate_role(role: str) -> None:
    if role not in ROLES:
        raise Invalid(f"There is no role “{role[:40]}”.", f"Use {', '.join(ROLES)}.")


def _validate_name(name: str) -> str:
    name = " ".join(name.split())
    if not 1 <= len(name) <= 80 or not name.isprintable() or ":" in name:  # nor a lone surrogate
        raise Invalid("A name has 1 to 80 characters, and no colon.")
    if name.casefold() == ADMIN:
        raise Invalid("“admin” is who signs in with the server's own password.", "Use another.")
    return name


def _end_sessions(session: Session, person: Annotator) -> None:
    for table in (LoginSession, ApiToken):
        session.execute(delete(table).where(col(table.annotator_id) == person.id))


@lru_cache(maxsize=1)
def _hasher() -> PasswordHash:
    return PasswordHash((Argon2Hasher(),))


@lru_cache(maxsize=1)
def _hash_of_nobody() -> str:
    """A hash to compare with where there is nobody."""
    return _hasher().hash("nobody has this password")
