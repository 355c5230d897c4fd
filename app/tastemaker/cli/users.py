"""`tastemaker user …`: the people who sign in."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from sqlmodel import Session

from tastemaker.cli.help import Commands
from tastemaker.cli.terminal import AsJson, database, err, out, print_json
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Annotator
from tastemaker.errors import Invalid

if TYPE_CHECKING:
    from tastemaker.auth.identity import Identity

app = Commands(help="People who sign in and score.", no_args_is_help=True)
token_app = Commands(help="API tokens: what programs sign in with.", no_args_is_help=True)
app.add_typer(token_app, name="token")


@app.command("add")
def user_add(
    name: str,
    role: Annotated[str, typer.Option(help="viewer, annotator or admin.")] = "annotator",
    stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    without: Annotated[
        bool, typer.Option("--no-password", help="Can be chosen here, but not sign in.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add a person, or give one who scores here already a password."""
    from tastemaker.auth import accounts

    password = "" if without else _password(stdin)
    with database() as (_, engine), sessions.writing(engine) as session:
        person = about(accounts.add(session, name, password, role))
    if as_json:
        return print_json(person)
    may = "sign in" if password else "be chosen"
    out.print(f"{person['name']} may {may} as {person['role']}.")
    return None


@app.command("list")
def user_list(as_json: AsJson = False) -> None:
    """List everybody."""
    from tastemaker.auth import accounts

    with database() as (_, engine), sessions.reading(engine) as session:
        people = [about(person) for person in accounts.list_all(session)]
    if as_json:
        return print_json(people)
    table = Table("name", "role", "signs in", "")
    for person in people:
        table.add_row(
            person["name"], person["role"], "yes" if person["signs_in"] else "no",
            "disabled" if person["disabled"] else "",
        )  # fmt: skip
    out.print(table)
    return None


@app.command("role")
def user_role(
    name: str,
    role: Annotated[str, typer.Argument(help="viewer, annotator or admin.")],
    as_json: AsJson = False,
) -> None:
    """Change what a person may do, at once; what their tokens may, with it."""
    from tastemaker.auth import accounts

    with database() as (_, engine), sessions.writing(engine) as session:
        changed = accounts.by_name(session, name)
        accounts.set_role(session, changed, role)
        person = about(changed)
    if as_json:
        return print_json(person)
    out.print(f"{name} is {role} from now on.")
    return None


@app.command("disable")
def user_disable(
    name: str,
    undo: Annotated[bool, typer.Option("--undo", help="Let them in again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Shut a person out, at once. Their scores stay and count."""
    from tastemaker.auth import accounts

    with database() as (_, engine), sessions.writing(engine) as session:
        changed = accounts.by_name(session, name)
        accounts.disable(session, changed, not undo)
        person = about(changed)
    if as_json:
        return print_json(person)
    out.print(f"{name} {'may sign in again' if undo else 'is shut out; all scores are kept'}.")
    return None


# --- their API tokens ----------------------------------------------------------------------------


@token_app.command("create")
def token_create(
    person: Annotated[str, typer.Argument(help="Whose it is; “admin” for the server's owner.")],
    name: Annotated[str, typer.Option(help="What it is for.")],
    scope: Annotated[
        str, typer.Option(help="read, score or admin; at most their rights.")
    ] = "read",
    days: Annotated[int, typer.Option(help="Days until it ends, at most 366.")] = 90,
    as_json: AsJson = False,
) -> None:
    """Make a token, printed this once, by which a program signs in as a person."""
    from tastemaker.auth import tokens

    with database() as (settings, engine), sessions.writing(engine) as session:
        user = _identity(session, settings, person)
        token, facts = tokens.create(session, settings, user, name, scope, days)
    if as_json:
        return print_json(facts.as_json() | {"token": token})
    err.print(f"“{facts.name}” ends {facts.expires_at.date()}. Keep it: it is shown this once.")
    print(token)
    return None


@token_app.command("list")
def token_list(as_json: AsJson = False) -> None:
    """List everybody's tokens, without the tokens themselves."""
    from tastemaker.auth import tokens

    with database() as (settings, engine), sessions.reading(engine) as session:
        listed = tokens.list_all(session, _identity(session, settings, "admin"))
    if as_json:
        return print_json([token.as_json() for token in listed])
    table = Table("id", "name", "person", "scope", "ends", "last used")
    for token in listed:
        table.add_row(
            str(token.id), token.name, token.person or "admin", token.scope,
            "expired" if token.expired else str(token.expires_at.date()),
            f"{token.last_used_at:%Y-%m-%d %H:%M}" if token.last_used_at else "never",
        )  # fmt: skip
    out.print(table)
    return None


@token_app.command("revoke")
def token_revoke(token_id: Annotated[int, typer.Argument(help="As listed.")]) -> None:
    """End a token, at once."""
    from tastemaker.auth import tokens

    with database() as (settings, engine), sessions.writing(engine) as session:
        tokens.revoke(session, _identity(session, settings, "admin"), token_id)
    out.print("The token is revoked.")


def _identity(session: Session, settings: Settings, name: str) -> "Identity":
    """The person of that name, or the owner of the server, whom the command line acts for."""
    from tastemaker import projects
    from tastemaker.auth import accounts, identity

    if name.casefold() == accounts.ADMIN:
        return identity.owner(projects.annotator(session, settings.annotator).id)
    return identity.person(accounts.by_name(session, name))


def about(person: Annotator) -> dict[str, Any]:
    return {
        "name": person.name, "role": person.role, "signs_in": bool(person.password_hash),
        "disabled": person.disabled, "id": person.id,
    }  # fmt: skip


def _password(stdin: bool) -> str:
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise Invalid(
            "There is no terminal to ask for a password.", "Use --password-stdin or --no-password."
        )
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
