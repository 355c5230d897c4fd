"""Images go out as folders: for trainers, with captions and repeats by score; or a folder for each
score. Files are copied or linked; nothing is overwritten, and no original is touched.

kohya's scripts read `REPEATS_NAME/` with a caption `image.txt` beside each image; OneTrainer takes
each of these folders as a concept. Score tags are those that people train with: `score_7_up` stands
on every image of at least 7 points.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tastemaker.errors import Invalid, NotWritable, TastemakerError
from tastemaker.files import require_writable_folder, write_atomic
from tastemaker.files.folders import is_system
from tastemaker.files.placing import Placement, copy_pictures, link_pictures, plan_files
from tastemaker.files.roots import Roots
from tastemaker.files.texts import read_text
from tastemaker.publishing.outgoing import Outgoing

LOWEST_TAG = 4  # score_4_up is the last one that is written
MOST_CAPTION = 2**18  # bytes
MOST_REPEATS = 1000
USUAL_REPEATS = ((5.0, 1), (7.0, 2), (9.0, 4))  # from this score on, so often; below, left out

Repeats = Sequence[tuple[float, int]]


@dataclass
class Placed:
    """How many pictures were put, were there already of a writing that was stopped, got a caption;
    what could not be, and why; how many of each folder."""

    placed: int = 0
    there: int = 0
    captions: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    folders: dict[str, int] = field(default_factory=dict)


def parse_repeats(typed: str) -> Repeats:
    """“5=1, 7=2, 9=4”: from which score on an image is repeated how often; 0 leaves it out. Raises
    `Invalid`."""
    found = []
    for part in filter(None, map(str.strip, typed.split(","))):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*=\s*(\d+)", part)
        if not match or float(match[1]) > 10 or int(match[2]) > MOST_REPEATS:
            raise Invalid(
                f"“{part[:40]}” says no repeats.", "Write from which score how often: 5=1,7=2,9=4."
            )
        found.append((float(match[1]), int(match[2])))
    if not any(times for _, times in found):
        raise Invalid("No image would be repeated at all.", "Write such as 5=1,7=2,9=4.")
    return sorted(found)


def repeats_of(score: float, repeats: Repeats) -> int:
    """How often an image of this score is repeated, 0: it is left out."""
    times = [times for border, times in repeats if score >= border]
    return times[-1] if times else 0


def score_tags(score: float) -> list[str]:
    """`score_9` from 9 points on, and `score_8_up`, `score_7_up` … down to `score_4_up` as far as
    the score reaches."""
    reached = [f"score_{n}_up" for n in range(8, LOWEST_TAG - 1, -1) if score >= n]
    return ["score_9", *reached] if score >= 9 else reached


def caption(score: float, said: str) -> str:
    """The caption with the tags of the score before it, in place of those that it had."""
    kept = [part.strip() for part in said.replace("\n", ",").split(",")]
    kept = [part for part in kept if part and not re.fullmatch(r"score_\d(_up)?", part)]
    return ", ".join([*score_tags(score), *kept])


def write_trainer_folders(
    rows: Iterable[Outgoing], into: Path, name: str, repeats: Repeats = USUAL_REPEATS, *,
    link: bool = False, dry_run: bool = False, roots: Roots = (),
) -> Placed:  # fmt: skip
    """`into/REPEATS_NAME/`, each image with the caption that lies beside it (`a.txt`, or
    `a.jpg.txt`) and the tags of its score. `into` is a new folder, or holds a part of just this.
    Raises `Invalid`, and `StorageFull`, after which the same goes on where it was."""
    due = [(row, times) for row in rows if (times := repeats_of(row.score, repeats))]
    folder = re.sub(r"[^\w-]+", "-", name).strip("-") or "images"
    placed, plan = _place(
        [(row, f"{times}_{folder}") for row, times in due], into, link=link, dry_run=dry_run
    )
    by_shown = {row.shown: row for row, _ in due}
    for item in plan:
        if item.target is None or dry_run:
            continue
        row = by_shown[item.path]
        beside = item.target.with_suffix(".txt")
        try:
            text = caption(row.score, _caption_beside(item.origin, roots)).encode()
            if beside.exists() and beside.read_bytes() != text:
                reason = "Another caption is there already; it was left as it is."
                placed.problems.append((str(beside), reason))
            elif item.target.exists() and not beside.exists():
                write_atomic(beside, text)
                placed.captions += 1
        except (NotWritable, OSError) as error:
            placed.problems.append((str(beside), str(error)))
    return placed


def write_score_folders(
    rows: Iterable[Outgoing], into: Path, *, link: bool = False, dry_run: bool = False
) -> Placed:
    """`into/NN/`, NN the nearest whole score: `import --scores-from-folders` reads it again. `into`
    is a new folder, or holds a part of just this. Raises `Invalid` and `StorageFull`."""
    placed, _ = _place(
        [(row, f"{round(row.score):02d}") for row in rows], into, link=link, dry_run=dry_run
    )
    return placed


def _place(
    due: Iterable[tuple[Outgoing, str]], into: Path, *, link: bool, dry_run: bool
) -> tuple[Placed, list[Placement]]:
    """Each picture into its folder, under its name, or with a number where that is taken: also by a
    picture that differs in its ending alone, as both would have one caption."""
    require_writable_folder(into)
    placed = Placed()
    files = []
    stems: dict[str, Path] = {}
    numbers: dict[str, int] = {}  # the last of those that share a stem
    for row, folder in due:
        if row.why or not row.paths:
            placed.problems.append((row.shown, row.why))
            continue
        origin = row.paths[0]
        stem = plain = f"{folder}/{origin.stem}"
        while stems.setdefault(stem.casefold(), origin) != origin:
            number = numbers[plain.casefold()] = numbers.get(plain.casefold(), 0) + 1
            stem = f"{plain}-{number}"
        files.append((row.shown, origin, stem + origin.suffix))
        placed.folders[folder] = placed.folders.get(folder, 0) + 1
    plan = plan_files(files, into)
    _require_nothing_else(into, plan, [into / name for _, _, name in files])
    placed.there = sum(item.there for item in plan)
    if not dry_run:
        put = link_pictures if link else copy_pictures
        placed.placed = put(plan, lambda path, why: placed.problems.append((path, why)))
    else:
        placed.placed = sum(item.due for item in plan)
    return placed, plan


def _require_nothing_else(into: Path, plan: list[Placement], wanted: list[Path]) -> None:
    """Of a writing that was stopped a part may lie there. What else does may be of other scores."""
    captions = {path.with_suffix(".txt") for path in wanted}
    others = [
        path for path in sorted(into.rglob("*"))
        if (path.is_symlink() or not path.is_dir()) and not is_system(path.name)
    ]  # fmt: skip
    others = [path for path in others if path not in {*wanted, *captions}]
    others += [
        path for item, path in zip(plan, wanted, strict=True) if item.target not in (None, path)
    ]
    if others:
        raise Invalid(
            f"{into} is not empty: {others[0].relative_to(into)} would not be written so now.",
            "Name a new folder; nothing is overwritten.",
        )


def _caption_beside(picture: Path, roots: Roots) -> str:
    for beside in (picture.with_suffix(".txt"), picture.with_name(picture.name + ".txt")):
        if beside.is_file() and not beside.is_symlink():
            try:
                return read_text(beside, MOST_CAPTION, roots)
            except TastemakerError:
                return ""
    return ""
