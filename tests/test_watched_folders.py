"""A watched folder brings in what is new by itself, finds what was moved, and deletes nothing."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from tastemaker import projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import Collection, Image, Job, Label, ProjectCollection
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.importing import requests, watching
from tastemaker.importing.watching import PATIENCE, Watcher
from tastemaker.pages.app import create_app
from tests.command_line import Run
from tests.desk import Desk, png
from tests.web_world import client_of


class Post:
    """A desk whose folder is watched, and the clock that looks."""

    def __init__(self, desk: Desk, **rules: Any) -> None:
        self.desk = desk
        self.watcher = Watcher(desk.settings, desk.engine, start=lambda do: do())
        with sessions.writing(desk.engine) as session:
            project = projects.get(session, desk.project.id)
            watching.watch(session, desk.settings, project, desk.folder, **rules)

    def tick(self) -> list[int]:
        """One look; the ids of the imports that it asked for, which are done."""
        self.watcher.tick()
        asked = [job.id for job in self.desk.all(Job, Job.state == "queued", Job.kind == "import")]
        for job_id in asked:
            self.desk.run(job_id)
        return asked

    def ticks(self, count: int = 4) -> int:
        return sum(len(self.tick()) for _ in range(count))

    @property
    def trouble(self) -> str:
        with sessions.reading(self.desk.engine) as session:
            project = projects.get(session, self.desk.project.id)
            return watching.of_project(session, project)[0].trouble


@pytest.fixture
def post(desk: Desk) -> Post:
    return Post(desk)


def test_what_is_new_comes_in_once_it_is_whole(post: Post) -> None:
    assert post.ticks() == 0, "an empty folder may be watched"
    post.desk.put("a.png", png(1))
    assert post.tick() == [] and post.tick() == [], "seen once, it may still be growing"
    assert len(post.tick()) == 1 and len(post.desk.all(Image)) == 1
    assert post.ticks() == 0, "nothing changed since"
    post.desk.put("deep/b.png", png(2))
    post.tick()
    post.desk.put("deep/b.png", png(3))  # it is another one by now
    assert post.ticks() == 1 and len(post.desk.all(Image)) == 2
    post.desk.put("notes.txt", "no picture")
    assert post.ticks() == 0


def test_what_was_moved_is_found_again_and_what_is_gone_is_shown(post: Post, run: Run) -> None:
    post.desk.put("a.png", png(1))
    post.desk.put("b.png", png(2))
    assert post.ticks() == 1
    with sessions.writing(post.desk.engine) as session:
        project = projects.get(session, post.desk.project.id)
        person = projects.annotator(session, "me")
        scores.record(session, project, post.desk.image(png(1)).id, person, "set", 9)
    (post.desk.folder / "best").mkdir()
    shutil.move(post.desk.folder / "a.png", post.desk.folder / "best" / "moved.png")
    (post.desk.folder / "b.png").unlink()
    assert post.ticks() == 1
    states = {"a.png": "missing", "moved.png": "present", "b.png": "missing"}
    assert post.desk.paths() == states
    assert len(post.desk.all(Image)) == 2 and len(post.desk.all(Label)) == 1
    at = f"/projects/{post.desk.project.id}"
    client = client_of(create_app(post.desk.settings))
    assert client.get(f"/api/v1{at}/watched").json()[0]["gone"] == 1, "the moved one is not"
    assert "1 of its images is gone: moved away or deleted." in client.get(f"{at}/add").text
    assert "(pool) – 1 moved away or deleted" in run("watch", "Desk").out


def test_a_folder_that_vanishes_says_so_and_nothing_is_taken_for_deleted(post: Post) -> None:
    post.desk.put("a.png", png(1))
    assert post.ticks() == 1
    away = post.desk.folder.with_name("away")
    post.desk.folder.rename(away)
    assert post.ticks() == 0 and "Is its disk or share connected" in post.trouble
    post.desk.folder.mkdir()  # where a disk is put in when it is connected
    assert post.ticks() == 0 and "No picture is in it any more" in post.trouble
    assert post.desk.paths() == {"a.png": "present"}
    post.desk.folder.rmdir()
    away.rename(post.desk.folder)
    assert post.ticks() == 0 and post.trouble == ""


def test_one_that_does_not_answer_holds_up_no_other(desk: Desk, tmp_path: Path) -> None:
    post = Post(desk)
    other = tmp_path / "other"
    other.mkdir()
    with sessions.writing(desk.engine) as session:
        project = projects.get(session, desk.project.id)
        watching.watch(session, desk.settings, project, other)
    held: list[Callable[[], None]] = []

    def start(do: Callable[[], None]) -> None:
        if post.watcher._looks or held:  # the second folder's
            do()
        else:
            held.append(do)

    post.watcher.start = start
    (other / "b.png").write_bytes(png(2))
    assert post.ticks(PATIENCE + 1) == 1 and "does not answer" in post.trouble
    held[0]()
    post.ticks(2)
    assert post.trouble == ""


def test_a_project_has_its_own_rules_for_a_folder(desk: Desk) -> None:
    post = Post(desk, collection="Inbox", role="test-run")
    desk.put("a.png", png(1))
    assert post.ticks() == 1
    with sessions.reading(desk.engine) as session:
        [(name, role)] = session.execute(
            select(Collection.name, ProjectCollection.role).join(
                ProjectCollection,
                ProjectCollection.collection_id == Collection.id,  # type: ignore[arg-type]
            )
        ).all()
    assert (name, role) == ("Inbox", "test-run")


def test_what_cannot_be_watched_is_refused(post: Post, tmp_path: Path) -> None:
    table = post.desk
    inside = table.folder / "inside"
    inside.mkdir()
    with sessions.writing(table.engine) as session:
        project = projects.get(session, table.project.id)
        for folder in (table.folder, inside, table.folder.parent):
            with pytest.raises(Conflict, match=r"watched already") as caught:
                watching.watch(session, table.settings, project, folder)
            assert caught.value.hint
        with pytest.raises(NotFound):
            watching.watch(session, table.settings, project, tmp_path / "nothing")
        with pytest.raises(Invalid, match="is no folder"):
            watching.watch(session, table.settings, project, table.put("a.png", png(1)))
        assert watching.stop(session, project, table.folder) == str(table.folder)
        with pytest.raises(NotFound):
            watching.stop(session, project, table.folder)
    assert post.ticks() == 0


class NobodyWaits:
    """Looks for a picture, which may take seconds, and fails where others are held up meanwhile."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.look, self.done = desk, requests._require_any, 0

    def __call__(self, *words: Any) -> None:
        file = self.desk.engine.url.database
        with contextlib.closing(sqlite3.connect(str(file), timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE").connection.rollback()
        self.done += 1
        self.look(*words)


@pytest.mark.sqlite
def test_the_page_the_api_and_the_command_name_the_same_folders(
    desk: Desk, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(create_app(desk.settings))
    at = f"/projects/{desk.project.id}"
    form = {"folder": str(desk.folder), "watch": "true"}
    assert client.post(f"{at}/add/folder", data=form).status_code == 303
    assert client.post(f"{at}/add/folder", data=form).status_code == 409
    assert str(desk.folder) in client.get(f"{at}/add").text
    [watched] = client.get(f"/api/v1{at}/watched").json()
    assert watched["path"] == str(desk.folder) and watched["trouble"] == ""
    assert str(desk.folder) in run("watch", "Desk").out
    assert "No folder is watched" in run("watch", "Desk", desk.folder, "--stop").out
    assert f"→ “{desk.folder.name}” (pool)" in run("watch", "Desk", desk.folder).out
    [watched] = client.get(f"/api/v1{at}/watched").json()
    assert client.post(f"{at}/watched/{watched['id']}/stop").status_code == 303
    body = {"folder": str(desk.folder), "watch": True}
    monkeypatch.setattr(requests, "_require_any", look := NobodyWaits(desk))
    assert client.post(f"/api/v1{at}/imports", json=body).json() == {}
    assert look.done == 1
    [watched] = client.get(f"/api/v1{at}/watched").json()
    assert client.delete(f"/api/v1{at}/watched/{watched['id']}").json()["path"] == watched["path"]
    assert client.delete(f"/api/v1{at}/watched/{watched['id']}").status_code == 404
