"""`tastemaker user …`: the people who sign in."""

import sys
from typing import Annotated, Any

import typer
from rich.table import Table

from tastemaker.cli.help import Commands
from tastemaker.cli.terminal import AsJson, database, out, print_json
from tastemaker.database import sessions
from tastemaker.database.tables import Annotator
from tastemaker.errors import Invalid

app = Commands(help="People who sign in and score.", no_args_is_help=True)


@app.command("add")
def user_add(
    name: str,
    role: Annotated[str, typer.Option(help="annotator, or admin.")] = "annotator",
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
