"""Build `former-home.zip`: a home folder as the program of commit 3cd7960 made it.

    git worktree add /tmp/former 3cd7960
    PYTHONPATH=/tmp/former python tests/data/make_former_home.py

Only that program writes into the home, by its own commands and functions, so the file says what a
person who used it has on disk. `former-outputs.json` holds what the same program printed about it.
Pictures are drawn and tiny, and of the trained versions those of many numbers are ridge heads,
which are mostly zeros: all of it stays small.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw

HERE = Path(__file__).parent
WORK = Path(tempfile.gettempdir()) / "tastemaker-former"  # its folders are named in the database
HOME = WORK / "home"
os.environ |= {"TASTEMAKER_HOME": str(HOME), "TASTEMAKER_MIN_FREE_GB": "0"}

from app.cli.terminal import finish_jobs  # noqa: E402
from app.config import Settings  # noqa: E402
from app.library import bulk, expectations, saved_filters, slices, tags  # noqa: E402
from app.library.filters import Filter  # noqa: E402
from app.migrate import migrate  # noqa: E402
from app.reviewing import test_run_cards, test_runs  # noqa: E402
from app.scoring import comparisons, scores  # noqa: E402
from app.tables import Annotator, Collection, Project, TestRun  # noqa: E402
from app.versioning import versions  # noqa: E402
from sqlmodel import Session, select  # noqa: E402

from app import accounts, db, jobs, keymap, projects  # noqa: E402

DIM = 16
ENCODER = "ViT-B-32/of_unknown_width"  # the vectors come from outside; nothing is embedded by it
SHAPES = ("ellipse", "rectangle")


def command(*words: str) -> str:
    """Run a command of the former program; gives what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *words], check=True, capture_output=True, text=True
    )
    return done.stdout


def draw(path: Path, number: int, hue: int) -> None:
    """A small picture in a colour of its own: an ellipse or a rectangle before a horizon."""
    picture = Picture.new("RGB", (48, 32), f"hsl({hue}, 60%, 60%)")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 22, 48, 32), fill=f"hsl({(hue + 90) % 360}, 40%, {20 + number % 30}%)")
    corner = (4 + number % 20, 4 + number % 9)
    shape = pen.ellipse if number % 2 else pen.rectangle
    shape((*corner, corner[0] + 16, corner[1] + 12), fill=f"hsl({(hue + 180) % 360}, 70%, 70%)")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=80)


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def make_pictures(folder: Path) -> tuple[Path, Path, Path]:
    """A zip in the original's layout (30 pictures with scores), a folder of 8 without, and a zip
    of 8 for a test run. Scores follow the hue, so that there is something to learn."""
    for number in range(30):
        score = number % 11
        name = f"scored/{score:02d}_hue/{SHAPES[number % 2]}/picture-{number:02d}.jpg"
        draw(folder / name, number, hue=30 * score + number % 5)
    for number in range(30, 38):
        draw(folder / f"Scans/{SHAPES[number % 2]}/scan-{number}.jpg", number, hue=9 * number)
    for number in range(40, 48):
        draw(folder / f"tried/try-{number}.jpg", number, hue=37 * number % 360)
    return zipped(folder / "scored"), folder / "Scans", zipped(folder / "tried")


def make_vectors(folder: Path) -> Path:
    """48 vectors in folders that give their scores, and the name of their encoder."""
    random = np.random.default_rng(3)
    taste = random.normal(size=DIM)
    for number, x in enumerate(random.normal(size=(48, DIM)).astype(np.float32)):
        score = int(np.clip(np.round(5 + 3 * (x @ taste) / np.linalg.norm(taste)), 0, 10))
        path = folder / f"data/{ENCODER.replace('/', '_')}/{score:02d}/vector-{number:02d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, x)
    return folder / "data"


def score_by_hand(session: Session, project: Project, people: list[Annotator]) -> None:
    """Everything that one can say about an image, from every place one can say it."""
    me, ada = people
    ids = sorted(session.exec(projects.image_ids(project.id)).all())
    record = scores.record
    for number, image_id in enumerate(ids[:12]):
        record(session, project, image_id, me, "set", number % 11, origin="control",
               reason="random sample (for evaluation)", key=f"control-{number}")  # fmt: skip
    record(session, project, ids[12], me, "set", 3, origin="queue", reason="near the threshold")
    scores.undo(session, project, me, key="undo-1")
    record(session, project, ids[12], me, "set", 4, origin="queue")
    record(session, project, ids[13], me, "skip")
    record(session, project, ids[14], me, "flag", note="is this a picture at all?")
    record(session, project, ids[2], me, "set", 3, origin="re-ask")
    record(session, project, ids[5], me, "set", 7, origin="review", reason="predicted far off")
    for image_id in ids[3:9]:
        record(session, project, image_id, ada, "set", 6, origin="queue")
    bulk.score(session, project, ada, ids[30:33], 2, group="a-grid")
    scores.undo(session, project, ada)
    bulk.score(session, project, ada, ids[30:33], 1, group="another-grid")


def describe(session: Session, project: Project, people: list[Annotator]) -> None:
    """Tags, filters, slices, expectations, pairs, an image taken out, keys of one's own."""
    me, ada = people
    ids = sorted(session.exec(projects.image_ids(project.id)).all())
    tags.add(session, ids[:10], ["street", "à la carte"])
    saved_filters.save(session, project, "Low streets", Filter(tags=("street",), label_max=4))
    row = slices.add(session, project, "tag", {"tag": "street"})
    expectations.expect(session, project, row.id, "mean", "at most", 0.9)
    expectations.expect(session, project, row.id, "pass_rate", "at least", 0.01, blocks=True)
    pairs = ((0, 1, "first"), (1, 2, "second"), (0, 2, "equal"), (3, 4, "first"))
    for number, (one, other, verdict) in enumerate(pairs):
        comparisons.record(session, project, me, ids[one], ids[other], verdict, f"pair-{number}")
    comparisons.undo(session, project, me)
    bulk.remove(session, project, ids[33:34])
    keymap.change(session, me, {"skip": "x"})
    projects.change(session, project, aggregate="mean")
    project.card = {"goals": "Warm colours first."}
    session.add(project)
    accounts.set_password(session, ada, "a former password")


def score_in_a_test_run(session: Session, settings: Settings, project: Project) -> None:
    run = session.exec(select(TestRun)).one()
    person = projects.annotator(session, settings.annotator)
    image_id = run.summary["grids"]["top"][0][0]
    told = test_run_cards.get(session, project, run.id)
    test_run_cards.correct(session, project, told, image_id, person, 8)


def build() -> None:
    scored, scans, tried = make_pictures(WORK)
    command("project", "create", "Colours")
    for path, *more in ((scored, "--scores-from-folders"), (scans,)):
        command("import", str(path), "--project", "Colours", *more)
    command("project", "create", "Vectors", "--encoder", ENCODER)
    command("import", str(make_vectors(WORK)), "--project", "Vectors", "--scores-from-folders")

    settings = Settings(_env_file=None)
    engine = migrate(settings)
    with db.writing(engine) as session:
        project = projects.named(session, "Colours")
        people = [projects.annotator(session, name) for name in (settings.annotator, "ada")]
        score_by_hand(session, project, people)
    command("train", "-p", "Colours", "--recipe", "ridge", "--note", "the first")
    with db.writing(engine) as session:
        describe(session, project, people)
    command("train", "-p", "Colours", "--recipe", "ridge", "--note", "after a look")
    command("train", "-p", "Vectors", "--recipe", "mlp")
    command("import", str(tried), "--collection", "Tried")
    with db.writing(engine) as session:
        collection = session.exec(select(Collection).where(Collection.name == "Tried")).one()
        version = versions.active(session, project)
        run = test_runs.request_run(
            session, settings, project, version, test_runs.Source(collection.id)
        )
        job_id = run.job_id
    finish_jobs(settings, engine, [job_id])
    with db.writing(engine) as session:
        score_in_a_test_run(session, settings, project)
        jobs.cancel(session, jobs.enqueue(session, "embed", "Never done", {}, project.id).id)
    command("versions", "export", "Colours", "v1.0", str(WORK / "exported"))
    head = next((WORK / "exported").glob("*.safetensors"))
    command("versions", "import", "Colours", str(head), "--note", "came back")
    engine.dispose()


def outputs() -> dict[str, Any]:
    """What the former program says of this home, with {home} where the folder's name was."""

    def printed(*words: str) -> Any:
        return json.loads(command(*words).replace(str(HOME), "{home}"))

    names = ("Colours", "Vectors")
    return {
        "project list": printed("project", "list", "--json"),
        "scores export": {n: printed("scores", "export", "-p", n, "--json") for n in names},
        "versions list": {n: printed("versions", "list", "-p", n, "--json") for n in names},
        "stats": {n: printed("stats", "-p", n, "--json") for n in names},
        "sha256": {
            str(path.relative_to(HOME)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(HOME.glob("checkpoints/**/*"))
            if path.is_file()
        },
    }


def compact(database: Path) -> None:
    with closing(db.sqlite.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("VACUUM")


def write_zip(target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as archive:
        for path in sorted(HOME.rglob("*")):
            if path.is_file() and path.suffix != ".lock":
                archive.write(path, path.relative_to(HOME))


if __name__ == "__main__":
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    build()
    said = json.dumps(outputs(), indent=1, ensure_ascii=False)
    (HERE / "former-outputs.json").write_text(said + "\n")
    compact(HOME / "tastemaker.db")
    write_zip(HERE / "former-home.zip")
