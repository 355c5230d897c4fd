"""What is typed after a command: units, paths, and the project, which comes first or as `-p`.

People score from 0 to 10, filters speak percent, and a project keeps its threshold as a share of 1.
A number that would be read both ways is refused with both readings; a percent sign settles it.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tastemaker.errors import Invalid
from tastemaker.files.addresses import Address, is_address, local_path, parse

# --- units ---------------------------------------------------------------------------------------


def percent_option(name: str, about: str, **more: Any) -> Any:
    """An option in percent, 0–100: `60`, or `60%`."""
    return typer.Option(name, parser=percent_of(name), metavar="PERCENT", help=about, **more)


def share_option(name: str, about: str, **more: Any) -> Any:
    """An option that is a share of 1: `0.6`, or `60%`."""
    return typer.Option(name, parser=share_of(name), metavar="SHARE", help=about, **more)


def percent_of(name: str) -> Callable[[Any], float]:
    def percent(typed: Any) -> float:
        number, signed = _number(str(typed), "60, or 60%")
        if 0 < number <= 1 and not signed:
            raise Invalid(
                f"{name} {typed}: {number:g} % or {100 * number:g} %? It is in percent.",
                f"For {100 * number:g} % write {100 * number:g}, for {number:g} % write "
                f"{number:g}%, with its sign.",
            )
        return number

    return percent


def share_of(name: str) -> Callable[[Any], float]:
    def share(typed: Any) -> float:
        number, signed = _number(str(typed), "0.6, or 60%")
        if signed:
            return number / 100
        if 1 < number <= 100:
            raise Invalid(
                f"{name} {typed}: that reads as {number:g} %, and a share from 0 to 1 is meant.",
                f"For {number:g} % write {number / 100:g}, or {number:g}% with its sign.",
            )
        return number

    return share


def _number(text: str, such_as: str) -> tuple[float, bool]:
    """The number, and whether a percent sign stands behind it. Raises `BadParameter` for none."""
    bare = text.strip()
    signed = bare.endswith("%")
    try:
        number = float(bare.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise no_number(text, such_as)
    return number, signed


def no_number(text: str, such_as: str) -> typer.BadParameter:
    return typer.BadParameter(f"“{text}” is no number; write {such_as}")


# --- paths ---------------------------------------------------------------------------------------


def path_option(*names: str, about: str, metavar: str = "FILE", **more: Any) -> Any:
    """An option that is a path; `~` is one's home, also where the shell does not say so. A lone `-`
    is refused: who writes it means a stream, and would get a file or folder of that name."""

    def path(typed: Any) -> Path:
        refuse_stream(typed)
        return local_path(typed)

    return typer.Option(*names, parser=path, metavar=metavar, help=about, **more)


def refuse_stream(typed: Any) -> None:
    if str(typed) == "-":
        raise typer.BadParameter(
            "a file or a folder is meant, no stream; write ./- for one so called"
        )


def source_argument(metavar: str, about: str) -> Any:
    """What is read: a path, or an address, parsed."""
    return typer.Argument(parser=path_or_address, metavar=metavar, help=about)


def path_or_address(typed: Any) -> Path | Address:
    return parse(typed) if is_address(typed) else local_path(typed)


def path_argument(metavar: str, about: str) -> Any:
    return typer.Argument(parser=local_path, metavar=metavar, help=about)


# --- the project, first or as -p -----------------------------------------------------------------

InProject = Annotated[
    str | None,
    typer.Option("--project", "-p", metavar="PROJECT", help="The project, if it is not first."),
]


def words(order: str, about: str = "") -> Any:
    """The arguments of a command, as `in_order` takes them: “PROJECT VERSION”."""
    return typer.Argument(metavar=order, help=about or "The project comes first, or as -p.")


ProjectWords = Annotated[list[str] | None, words("PROJECT")]
VersionWords = Annotated[
    list[str] | None, words("PROJECT [VERSION]", "v1.3; left out: the active one.")
]


def in_order(typed: Sequence[str] | None, project: str | None, *names: str) -> tuple[str, ...]:
    """The project and what else was typed, one text for each name: `PROJECT VERSION`, or `VERSION
    -p PROJECT`. A name in brackets may be left out, and is empty then."""
    given = [*([] if project is None else [project]), *(typed or [])]
    needed = 1 + sum(not name.startswith("[") for name in names)
    order = " ".join(("PROJECT", *names))
    if len(given) < needed:
        missing = ("PROJECT", *names)[len(given)]
        raise typer.BadParameter(f"{missing} is missing: {order}, or the project as -p PROJECT.")
    if len(given) > 1 + len(names):
        raise typer.BadParameter(f"“{given[-1]}” is too many: {order}, or the project as -p.")
    return (*given, *[""] * (1 + len(names) - len(given)))


def either(first: str | None, project: str | None) -> str | None:
    """The project, where one may be named: as the argument or as `-p`."""
    if first is not None and project is not None:
        raise typer.BadParameter(f"“{first}” and -p “{project}” both name a project.")
    return first if project is None else project
