"""Where what passed goes: planned first, then linked or moved; nothing is overwritten.

    plan = plan_targets(paths, source, into, keep=False)
    moved = move_pictures(plan)

A plan writes nothing, so it is also what a dry run tells. A name that is taken in the folder gets a
number; where the same file lies there already, it is left as it is.
"""

import contextlib
import filecmp
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tastemaker.errors import Invalid
from tastemaker.filtering.sources import check_target


@dataclass(frozen=True)
class Placement:
    """A picture, and where it goes. `target` is None where it vanished meanwhile; `there` says that
    the same file lies at the target already."""

    path: str
    origin: Path
    target: Path | None
    there: bool = False

    @property
    def due(self) -> bool:
        """Whether something is to be done for it."""
        return self.target is not None and not self.there


def plan_targets(paths: Iterable[str], source: Path, into: Path, *, keep: bool) -> list[Placement]:
    """The place of each picture, named by its path under the source, in a folder, keeping the
    folder structure or not. Raises `Invalid` where the folder lies inside the source."""
    check_target(source, into)
    base = source if source.is_dir() else source.parent
    taken: dict[Path, Path] = {}  # target -> what goes there
    plan = []
    for path in paths:
        origin = base / path
        if not origin.is_file():
            plan.append(Placement(path, origin, None))
            continue
        wanted = into / (path if keep else origin.name)
        target, number = wanted, 0
        while (there := target in taken or os.path.lexists(target)) and not _same(
            origin, taken.get(target, target)
        ):
            number += 1
            target = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        taken.setdefault(target, origin)
        plan.append(Placement(path, origin, target, there))
    return plan


def _same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:  # a folder, a link to nowhere
        return False


def move_pictures(plan: Sequence[Placement]) -> int:
    """Move what is due, also to another disk. Returns how many were."""
    return _place(plan, _move)


def link_pictures(plan: Sequence[Placement]) -> int:
    """Put symbolic links to what is due in its place. Returns how many were."""
    return _place(plan, lambda origin, target: target.symlink_to(origin.resolve()))


def _place(plan: Sequence[Placement], put: Callable[[Path, Path], object]) -> int:
    placed = 0
    for item in plan:
        if item.target is None or item.there:
            continue
        try:
            item.target.parent.mkdir(parents=True, exist_ok=True)
            put(item.origin, item.target)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise Invalid(
                f"{item.target} cannot be made: {reason}. {placed} pictures were placed before.",
                "Choose another folder, or free the name; those that are placed stay.",
            ) from error
        placed += 1
    return placed


def _move(origin: Path, target: Path) -> None:
    """Never onto something: a hard link and an exclusive copy both refuse a name that is taken."""
    if origin.is_symlink():
        target.symlink_to(origin.resolve())
    else:
        try:
            os.link(origin, target)
        except FileExistsError:
            raise
        except OSError:  # another disk, or one without hard links
            _copy_new(origin, target)
    origin.unlink()


def _copy_new(origin: Path, target: Path) -> None:
    with origin.open("rb") as read, target.open("xb") as write:
        try:
            shutil.copyfileobj(read, write)
            write.flush()
            os.fsync(write.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                target.unlink()
            raise
    shutil.copystat(origin, target)
