"""Importing a folder of photographs, beside a plain Pillow loop that makes the same thumbnails.

    python -m bench importing [--photos 400] [--rounds 3]

Both take turns, round by round, on the same files. The loop is what one would write by hand: open,
shrink, save, in one process, and nothing else. An import also hashes every file, looks for damage,
for twins and near-twins, and writes what it knows to the database; it decodes in guarded processes,
whose start is part of its time.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image

from bench.keys import photographs
from tastemaker import jobs, projects
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.migration import migrate
from tastemaker.importing import imports, requests
from tastemaker.jobs.context import JobContext
from tastemaker.pictures.pictures import THUMB, VIEW, WEBP_QUALITY

GOAL = 1.7


def by_hand(photos: Path, to: Path) -> None:
    """Both thumbnails of every photograph."""
    for path in sorted(photos.iterdir()):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        for size in (VIEW, THUMB):
            picture.thumbnail((size, size))
            picture.save(to / f"{path.stem}-{size}.webp", quality=WEBP_QUALITY[size])


def imported(photos: Path, home: Path) -> float:
    """Seconds of an import into an empty library."""
    settings = Settings(home=home, min_free_gb=0, _env_file=None)
    engine = migrate(settings)
    with sessions.writing(engine) as session:
        project = projects.create(session, "Bench")
        paths = requests.validate_paths(settings, [photos])
        job = requests.enqueue_import(session, settings, paths, project=project)
    with sessions.writing(engine) as session:
        taken = jobs.claim_next(session, [job.id])
    assert taken is not None
    began = time.monotonic()
    result = imports.run(JobContext(settings, engine, *taken, lambda kind, value: None))
    took = time.monotonic() - began
    assert result["added"] == len(list(photos.iterdir())), result
    engine.dispose()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        photographs(folder / "photos", given.photos)
        ours, plain = [], []
        for number in range(given.rounds + 1):  # the first warms both up
            hand = folder / f"by-hand-{number}"
            hand.mkdir()
            began = time.monotonic()
            by_hand(folder / "photos", hand)
            plain.append(time.monotonic() - began)
            ours.append(imported(folder / "photos", folder / f"home-{number}"))
            shutil.rmtree(hand)
            shutil.rmtree(folder / f"home-{number}")
    rates = [given.photos / statistics.median(seconds[1:]) for seconds in (ours, plain)]
    ratios = [theirs / own for own, theirs in zip(ours[1:], plain[1:], strict=True)]
    print(
        f"{given.photos} photographs of about a megapixel, median of {given.rounds} rounds.\n\n"
        "| what | photographs/s | against the loop | goal |\n|---|--:|--:|--:|\n"
        f"| a plain Pillow loop, one process | {rates[1]:.1f} | 1 | |\n"
        f"| an import | {rates[0]:.1f} | {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f}) | {GOAL} |"
    )


if __name__ == "__main__":
    main()
