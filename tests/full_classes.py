"""A project with classes in which every page has something to show."""

from pathlib import Path

import numpy as np
from class_world import Classes, draw_all, looks
from router_world import make, router_home
from sqlmodel import select
from web_world import thumbnails

from tastemaker import jobs
from tastemaker.database import sessions
from tastemaker.database.tables import Collection, Tag
from tastemaker.evaluation import expectations, slices, test_runs
from tastemaker.live import model_process, preview_uploads
from tastemaker.pictures.pictures import VIEW

TRIED = ("a" * 32, "b" * 32)  # one picture, and several of which one could not be read
PAGES = (
    "score", "score/grid", "library", "library?labelled=1", "review/doubtful", "review/confused",
    "review/no-class", "review/contradictions", "confusion", "classes", "slices", "versions",
    "compare?a=v1.0&b=v1.1", "compare?a=v1.0&b=v1.1&before=0&after=1", "test-runs", "test-runs/1",
    "routers", "settings", "publish", f"try/{TRIED[0]}", f"try/{TRIED[1]}", "try",
)  # fmt: skip
EMPTY = (
    "score", "review/doubtful", "confusion", "slices", "compare", "test-runs", "try", "routers",
)  # fmt: skip
OTHERS = ("/projects/1/images/1", "/versions/4")


def full_classes(home: Path) -> Classes:
    """Three classes with two versions, a live model that some labels contradict, slices, what is
    expected of them, a test run, two routers, and pictures that were tried."""
    made = router_home(home)
    make(made)
    make(made, "Strict", mode="soft", abstain=0.999)
    labelled = [i for i in made.kinds if made.labelled(i) is not None]
    with sessions.writing(made.engine) as session:
        session.add_all(Tag(image_id=i, tag="scan", source="user") for i in sorted(made.kinds)[:45])
        session.flush()
        project = made.project(session)
        row = slices.add(session, project, "tag", {"tag": "scan"}, "Scans")
        slices.add(session, project, "filter", {"filter": {"labelled": 2}}, "Labelled logos")
        expectations.expect(session, project, row.id, "recall:photo", "at least", 0.9995)
        expectations.expect(session, project, row.id, "share:logo", "at most", 0.05)
    slips = set(labelled[::9])
    made.label({i: (kind + (i in slips)) % 3 for i, kind in list(made.kinds.items())[:80]})
    made.train("more labels")
    made.label({i: (made.kinds[i] + 1) % 3 for i in labelled[5::11]}, origin="queue")
    run_a_test(made)
    model_process.refit(made.settings, made.engine, made.project_id)
    draw_all(made)
    try_pictures(made)
    return made


def run_a_test(made: Classes) -> None:
    kinds = np.arange(30) % 3
    ids = made.add(30, "Others", None, seed=9, x=looks(kinds, seed=9))
    made.kinds |= dict(zip(ids, kinds.tolist(), strict=True))
    with sessions.reading(made.engine) as session:
        others = session.exec(select(Collection.id).where(Collection.name == "Others")).one()
    body = {"version_id": made.version().id, "collection_id": others}
    answer = made.world.client.post("/api/v1/projects/1/test-runs", json=body)
    with sessions.reading(made.engine) as session:
        job = jobs.get(session, answer.json()["job_id"])
    made.run(job, test_runs.run)


def try_pictures(made: Classes) -> None:
    """What “Try it” keeps once the live model, a version and routers have answered."""
    colours = ("photo", 0, 0.712), ("drawing", 1, 0.2), ("logo", 2, 0.088)
    shares = [
        {"number": k, "name": name, "colour": k, "gone": False, "probability": p,
         "out_of_fold": None} for name, k, p in colours
    ]  # fmt: skip
    plain = {"active": False, "score": None, "bracket": "", "uncertainty": None,
             "out_of_fold": None, "several": False}  # fmt: skip
    routed = [
        one | {"scorer": None if one["number"] == 2 else f"{one['name']}s@v1.0",
               "score": 0.0 if one["number"] == 2 else 0.61} for one in shares
    ]  # fmt: skip
    said = [
        plain | {"by": "live model", "version_id": None, "classes": shares},
        plain | {"by": "v1.1", "version_id": 4, "active": True, "classes": shares},
        plain | {"by": "Strict", "version_id": None, "router": "Strict", "threshold": 0.5,
                 "mode": "soft", "scale": "percentile", "abstain": 0.999, "outcome": "abstained",
                 "taken_for": "photo", "scored_by": None, "classes": routed},
    ]  # fmt: skip
    picture = {"image_id": None, "width": 960, "height": 640, "format": "JPEG", "sha256": "0" * 64}
    near = [{"image_id": 4, "name": "a.jpg", "has_pixels": True, "label": 0, "similarity": 0.83}]
    whole = {"picture": picture, "said": said, "neighbours": near, "project_id": 1}
    for token in TRIED:
        preview_uploads.folder(made.settings, token).mkdir(parents=True)
        preview_uploads.view_path(made.settings, token).write_bytes(dict(thumbnails(1))[VIEW])
    one, several = TRIED
    preview_uploads.store_answer(made.settings, one, whole | {"name": "mine.jpg"})
    why = "This file ends too early."
    broken = {"name": "cut short.jpg", "error": why, "hint": "Save it anew."}
    group = [whole | {"name": "mine.jpg", "token": one}, broken]
    preview_uploads.store_answer(
        made.settings, several, {"several": group, "project_id": 1, "name": ""}
    )
