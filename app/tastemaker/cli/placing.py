"""What passes, put into a folder: `--copy`, `--symlink` and `--move`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tastemaker.cli.terminal import counted, err, plain, skipped_files, were

if TYPE_CHECKING:  # help does not wait for what scoring needs
    from tastemaker.files.placing import Placement

ALREADY = "the source is embeddings already"
DONE = {"copy": "copied into", "symlink": "linked in", "move": "moved into"}


def chosen_way(
    copy: Path | None, symlink: Path | None, move: Path | None
) -> tuple[str, Path | None]:
    """How what passes is put into which folder, if it is at all."""
    chosen = [
        (way, folder)
        for way, folder in (("copy", copy), ("symlink", symlink), ("move", move))
        if folder is not None
    ]
    if len(chosen) > 1:
        raise typer.BadParameter("one of --copy, --symlink and --move", param_hint=chosen[1][0])
    return chosen[0] if chosen else ("copy", None)


def place(plan: list["Placement"], way: str, into: Path, dry_run: bool) -> None:
    """Put the pictures where the plan says, or only tell, and say how many were."""
    from tastemaker.files import placing

    ways = {
        "copy": placing.copy_pictures, "move": placing.move_pictures,
        "symlink": placing.link_pictures,
    }  # fmt: skip
    with skipped_files() as skip:
        if dry_run:
            placed = sum(item.due for item in plan)
            for item in plan:
                if item.target is None:
                    skip(item.path, "it is not there any more")
        else:
            placed = ways[way](plan, skip)
    there = sum(item.there for item in plan)
    already = f"; {there:,} {were(there)} there already" if there else ""
    what = f"{'would be ' if dry_run else ''}{DONE[way]} {plain(str(into))}"
    err.print(f"{counted(placed, 'picture')} {what}{already}.")


def check_target(source: Path, into: Path) -> None:
    """Raises as `placing.check_target`; what a list names lies anywhere, so no folder is in it."""
    from tastemaker.files import placing, require_writable_folder
    from tastemaker.filtering.file_lists import is_list

    if is_list(source):
        require_writable_folder(into)
    else:
        placing.check_target(source, into)


def planned(paths: Sequence[str], source: Path, into: Path, *, keep: bool) -> list["Placement"]:
    """The place of each picture that passes: of a list, under the name that its file has."""
    from tastemaker.files import placing, typed_path
    from tastemaker.filtering.file_lists import is_list

    if is_list(source):
        return placing.plan_files(((path, file := typed_path(path), file.name) for path in paths),
                                  into)  # fmt: skip
    return placing.plan_targets(paths, source, into, keep=keep)


def check_kind(
    source: Path, way: str, into: Path | None, embeddings_out: Path | None, *, keep: bool
) -> None:
    """Raises where what passes of such a source cannot be put into a folder, or not be embedded."""
    from tastemaker.encoding.embedding_files import EMBEDDING_SUFFIXES
    from tastemaker.filtering import sources
    from tastemaker.filtering.file_lists import is_list

    of_embeddings = (
        source.suffix.lower() in EMBEDDING_SUFFIXES or sources.embeddings_in(source) is not None
    )
    if embeddings_out is not None and of_embeddings:
        raise typer.BadParameter(ALREADY, param_hint="--embeddings-out")
    if into is None:
        return
    why = ""
    if of_embeddings:
        why = f"embeddings are no pictures to {way}"
    elif is_list(source) and keep:
        raise typer.BadParameter("a list has no folders to keep", param_hint="--keep")
    elif sources.archives_in(source):
        why = f"pictures in an archive stay there: --out writes their names, not --{way}"
    if why:
        raise typer.BadParameter(why, param_hint=f"--{way}")
