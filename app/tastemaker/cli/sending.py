"""`--out` of an address: what a command writes here is sent there once it is whole."""

import functools
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import typer

from tastemaker.cli.options import path_or_address, refuse_stream
from tastemaker.cli.terminal import counted, err, out, plain
from tastemaker.errors import Incomplete, TastemakerError
from tastemaker.files.addresses import Address

Command = Callable[..., None]


def out_option() -> Any:
    def place(typed: Any) -> Path | Address:
        refuse_stream(typed)
        return path_or_address(typed)

    return typer.Option(
        "--out", parser=place, metavar="FILE",
        help=".parquet, .csv or .jsonl; without an ending a folder of parts, where a run that was "
        "stopped goes on. Also an address (s3://…), where it is sent once it is whole.",
    )  # fmt: skip


def sent_to_its_address(command: Command) -> Command:
    """The command, whose option `to` may be an address: it writes to a place of this machine then.
    What is not whole, or cannot be sent, stays there."""

    @functools.wraps(command)
    def run(*source: Any, **given: Any) -> None:
        address = given.get("to")
        if not isinstance(address, Address):
            return command(*source, **given)
        if given.get("engine") == "ray":
            raise typer.BadParameter(
                "a cluster writes into a folder that all of its machines reach", param_hint="--out"
            )
        from tastemaker.filtering import outgoing, score_tables

        suffix = PurePosixPath(address.name).suffix.lower()
        going = outgoing.begin(address, in_parts=suffix not in score_tables.FORMS)
        unread: Incomplete | None = None
        try:
            command(*source, **given | {"to": going.place})
        except Incomplete as error:  # told last: all that could be read is there
            unread = error
        except TastemakerError as error:
            lies = f" What there is of it lies in {going.place}." if going.place.exists() else ""
            raise type(error)(f"{error.message} Nothing was sent.{lies}", error.hint) from error
        if not given.get("dry_run"):
            err.print(f"Sending to {plain(str(address))} …")
            sent = going.send()
            out.print(f"{counted(sent, 'file')} sent to {plain(str(address))}.")
        if unread is not None:
            raise unread
        return None

    return run
