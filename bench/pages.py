"""Pages at a million images: p50 and p95 of each library page, filter, order and search.

The floor of the same run is `/healthz`: what the server and the connection cost without a page.
"""

import hashlib
import http.client
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection
from sqlmodel import Session

from bench.library import serving
from tastemaker import projects
from tastemaker.config import Settings
from tastemaker.database.migration import migrate
from tastemaker.database.sessions import writing
from tastemaker.database.tables import (
    Collection,
    CollectionImage,
    Embedding,
    EncoderRow,
    Image,
    Label,
    Prediction,
    ScoreEvent,
    Tag,
    Version,
    now,
)
from tastemaker.live.live_model import (
    LISTED,
    LIVE_ROW,
    PAIRS,
    ErrorLists,
    FitSummary,
    LiveModel,
    Pick,
    PickLists,
    Why,
    write_live,
)
from tastemaker.pictures.pictures import Limits, ingest
from tastemaker.queues.reviews import REVIEWS
from tastemaker.sample.samples import make_sample_library

COUNT, LABELS, ROUNDS, GOAL = 1_000_000, 20_000, 20, 150.0
DIM = 768  # of the vectors, which only the labelled images have here
WORDS_WRITTEN = (
    "anime beach bridge castle cat city cloud desert dog door field fire flower forest garden "
    "girl harbour hill house island lake lamp mountain night ocean park portrait rain river road "
    "roof sky snow spring street sun sunset tower train window"
)
WORDS = WORDS_WRITTEN.split()


def main() -> None:
    kept = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as folder:
        home = kept or Path(folder)
        if not (home / "tastemaker.db").exists():
            began = time.monotonic()
            make(home, COUNT, LABELS)
            print(f"made {COUNT:,} rows in {time.monotonic() - began:.0f} s", file=sys.stderr)
        with serving(home, 8317, "--no-worker") as (_, _, _):
            print(report(measure(8317, COUNT)))


# --- a large library in two minutes --------------------------------------------------------------


def make(home: Path, count: int, labels: int) -> None:
    """One project with three collections, forty tags of very different size, near-duplicates,
    scores, flags, skips, a version with predictions for every image, and a live model."""
    settings = Settings(home=home, min_free_gb=0, _env_file=None)
    engine = migrate(settings)
    samples = make_sample_library(home / "pictures", 60)
    for sample in samples:
        ingest(sample.path, settings.thumbs, Limits())
    real = [hashlib.sha256(s.path.read_bytes()).hexdigest() for s in samples]
    random = np.random.default_rng(0)
    said = np.round(random.beta(2, 3, count), 4)
    value = np.clip(np.round(10 * said + random.normal(0, 1.5, count)), 0, 10)
    with writing(engine) as session:
        project = projects.create(session, f"{count:,} images")
        encoder = EncoderRow(fingerprint="bench", name=project.encoder, dim=DIM)
        homes = [Collection(name=name) for name in ("Old", "Photos", "Drawings")]
        session.add_all([encoder, *homes])
        session.flush()
        for one in homes:
            projects.add_collection(session, project, one)
        projects.pin_encoder(session, project, encoder)
        person = projects.annotator(session, settings.annotator)
        version = Version(
            project_id=project.id, state="ready", active=True, made_by="bench", event_high=0,
            encoder_id=encoder.id, file="none.safetensors", activation="the first",
        )  # fmt: skip
        session.add(version)
        session.flush()
        project_id, person_id, version_id = project.id, person.id, version.id
        collections = [one.id for one in homes]
    labelled = random.permutation(count)[:labels]
    is_labelled = np.zeros(count, bool)
    is_labelled[labelled] = True
    for start in range(0, count, 20_000):
        at = range(start, min(start + 20_000, count))
        with writing(engine) as session:
            _images(session, at, real, random, collections)
            _insert(
                session, Prediction,
                (
                    {
                        "version_id": version_id, "image_id": i + 1, "score": float(said[i]),
                        "out_of_fold": float(min(1, said[i] + 0.02)) if is_labelled[i] else None,
                        "uncertainty": 0.1,
                    }
                    for i in at
                ),
            )  # fmt: skip
    events: list[tuple[int, str, int | None]] = [(int(i), "set", int(value[i])) for i in labelled]
    events += [(int(i), "flag", None) for i in random.permutation(count)[:300]]
    events += [(int(i), "skip", None) for i in random.permutation(count)[:15_000]]
    with writing(engine) as session:
        _insert(
            session, ScoreEvent,
            (
                {
                    "project_id": project_id, "image_id": i + 1, "annotator_id": person_id,
                    "kind": kind, "value": v, "origin": "queue", "reason": "", "note": "",
                    "at": now(),
                }
                for i, kind, v in events
            ),
        )  # fmt: skip
        _insert(
            session, Label,
            (
                {
                    "project_id": project_id, "image_id": i + 1, "value": float(v),
                    "annotators": 1, "event_id": event, "holdout": False, "measures": False,
                }
                for event, (i, _, v) in enumerate(events, 1)
                if v is not None
            ),
        )  # fmt: skip
    rows = np.zeros(count, LIVE_ROW)
    rows["image_id"], rows["labelled"] = np.arange(1, count + 1), is_labelled
    rows["score"] = np.clip(said + random.normal(0, 0.05, count), 0, 1)
    rows["uncertainty"] = 0.1
    fit = FitSummary(event_high=len(events), labels=len(labelled))
    write_live(settings, project_id, LiveModel(rows, fit, lists(rows, labelled, value)))
    with writing(engine) as session:
        vectors = random.normal(size=(labels, DIM)).astype("<f2")
        _insert(
            session, Embedding,
            (
                {"image_id": int(i) + 1, "encoder_id": 1, "vector": vector.tobytes()}
                for i, vector in zip(labelled, vectors, strict=True)
            ),
        )  # fmt: skip
    engine.dispose()


def lists(rows: np.ndarray, labelled: np.ndarray, value: np.ndarray) -> PickLists:
    """The live model's lists for Review, as long as the model process makes them."""
    ids = (labelled + 1).tolist()
    predicted = [round(float(score), 4) for score in rows["score"][labelled]]
    labels = value[labelled].tolist()
    label_issues = [
        Pick(i, "doubtful", score=score, label=label, quality=n / LISTED)
        for n, (i, score, label) in enumerate(zip(ids, predicted, labels, strict=True))
    ]
    pairs = [
        Pick(
            ids[n], "contradiction", label=labels[n], twin=ids[-1 - n], twin_label=labels[-1 - n],
            gap=10 - n / PAIRS,
        )
        for n in range(PAIRS)
    ]  # fmt: skip
    new = np.flatnonzero(~rows["labelled"])
    passes = rows["score"][new] >= 0.5

    def suspects(why: Why, side: np.ndarray) -> tuple[Pick, ...]:
        return tuple(
            Pick(
                int(i) + 1, why, score=round(float(rows["score"][i]), 4),
                probability=0.9 - n / 1000, twin=ids[n], twin_label=labels[n],
            )
            for n, i in enumerate(new[side][:LISTED])
        )  # fmt: skip

    return PickLists(
        suspected=ErrorLists(suspects("suspected_fp", passes), suspects("suspected_fn", ~passes)),
        label_issues=tuple(label_issues[:LISTED]),
        contradictions=tuple(pairs),
    )


def _images(
    session: Session, at: range, real: list[str], random: np.random.Generator, homes: list[int]
) -> None:
    """Images that arrive one after the other, in one collection or two; the newest are those with
    real thumbnails, and every fiftieth has a near-duplicate."""
    newest = COUNT - len(real)
    hashes = [
        real[i - newest] if i >= newest else hashlib.sha256(str(i).encode()).hexdigest() for i in at
    ]
    words = random.integers(len(WORDS), size=(len(at), 2))
    added = now()
    _insert(
        session, Image,
        (
            {
                "id": i + 1, "sha256": sha256, "kind": "file", "format": "JPEG",
                "name": f"{WORDS[a]}_{WORDS[b]}_{i:07d}.jpg", "width": 640, "height": 480,
                "bytes": 100_000, "phash": None, "added_at": added,
                "source_group": sha256[:16] if i % 50 else f"kin-{i // 100}",
            }
            for i, sha256, (a, b) in zip(at, hashes, words, strict=True)
        ),
    )  # fmt: skip
    _insert(
        session, CollectionImage,
        (
            {"collection_id": home, "image_id": i + 1}
            for i in at
            for home in {homes[0] if i < COUNT // 2 else homes[1], homes[2] if i % 100 == 0 else 0}
            if home
        ),
    )  # fmt: skip
    # The n-th tag is on one image in n², so they range from half a million to a few hundred.
    drawn = random.random((len(at), len(WORDS)))
    share = 0.5 / np.arange(1, len(WORDS) + 1) ** 2
    _insert(
        session, Tag,
        (
            {"image_id": i + 1, "tag": WORDS[tag]}
            for i, row in zip(at, drawn < share, strict=True)
            for tag in np.flatnonzero(row)
        ),
    )  # fmt: skip


def _insert(session: Session, table: Any, rows: Any) -> None:
    connection: Connection = session.connection()
    connection.execute(table.__table__.insert(), list(rows))


# --- measuring -----------------------------------------------------------------------------------


def pages(count: int) -> dict[str, str]:
    """Name -> address below the project."""
    library = {
        "library, newest first": "",
        "… oldest first": "sort=oldest",
        "… half-way down": f"after={count // 2}",
        "one collection": "collection=2",
        "a small collection": "collection=3",
        "common tag (every 2nd)": "tag=anime",
        "middling tag (1 in 200)": "tag=city",
        "rare tag (1 in 3,000)": "tag=window",
        "two tags that seldom meet": "tag=castle&tag=cloud",
        "scored": "scored=yes",
        "not scored": "scored=no",
        "score 8–10": "label_min=8&label_max=10",
        "flagged": "said=flagged",
        "skipped": "said=skipped",
        "predicted ≥ 60 %": "predicted_min=60",
        "predicted 49–51 %": "predicted_min=49&predicted_max=51",
        "predicted ≥ 98 % (few)": "predicted_min=98",
        "live model ≥ 60 %": "predicted_min=60&version=live",
        "live model ≥ 99.9 %": "predicted_min=99.9&version=live",
        "tag × predicted × not scored": "tag=anime&predicted_min=70&scored=no",
        "taken out": "removed=yes",
        "by prediction": "sort=predicted-high",
        "by prediction, deep": "sort=predicted-high&after=0.3~1",
        "by prediction, rare tag": "sort=predicted-high&tag=window",
        "by live prediction": "sort=predicted-high&version=live",
        "by live prediction, deep": "sort=predicted-high&version=live&after=0.3~1",
        "by score": "sort=score-high",
        "by disagreement": "sort=disagreement",
        "by name": "sort=name",
        "by name, deep": "sort=name&after=park_rain~1",
        "name contains, many": "name=sunset_r&sort=name",
        "name contains, one": "name=0512345&sort=name",
        "name contains, by date, many": "name=sunset",
        "name contains, by date, one": "name=0512345",
        "near-duplicates apart": "apart=yes",
    }
    there = {name: f"/library?{query}" for name, query in library.items()}
    there |= {f"review: {name.lower()}": f"/review/{kind}" for kind, name in REVIEWS.items()}
    return there | {
        "review: false positives, deep": "/review/false-positives?after=0_2.0_1",
        "one image": f"/images/{count // 2}",
        "the Score page": "/score",
        "the grid to score in": "/score/grid",
        "the Versions page": "/versions",
    }


def measure(port: int, count: int, rounds: int = ROUNDS) -> dict[str, np.ndarray]:
    """Milliseconds from request to the last byte, by page, after one visit to warm up."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    addresses = {"floor: /healthz": "/healthz"}
    addresses |= {name: f"/projects/1{there}" for name, there in pages(count).items()}
    measured = {}
    for name, address in addresses.items():
        times = []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            client.request("GET", address)
            answer = client.getresponse()
            answer.read()
            times.append(1000 * (time.perf_counter() - began))
            if answer.status != 200:
                raise RuntimeError(f"{address} answered {answer.status}")
        measured[name] = np.array(times[1:])
        print(f"{name}: {np.median(times):.0f} ms", file=sys.stderr)
    return measured


def report(measured: dict[str, np.ndarray]) -> str:
    met = sum(float(np.percentile(times, 95)) < GOAL for times in measured.values())
    lines = [
        f"{COUNT:,} images, {LABELS:,} labels, one client, {ROUNDS} visits each; goal: p95 below "
        f"{GOAL:.0f} ms, met by {met} of {len(measured)}. The first row is the floor: a page that "
        "says nothing.",
        "",
        "| page | p50 ms | p95 ms | goal |",
        "|---|---:|---:|---|",
    ]
    for name, times in measured.items():
        p50, p95 = np.percentile(times, [50, 95])
        lines.append(f"| {name} | {p50:.0f} | {p95:.0f} | {'met' if p95 < GOAL else 'missed'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
