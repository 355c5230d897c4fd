"""`tastemaker.Client`, and the page about notebooks: every line of it is run here."""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from in_browser import serving
from PIL import Image as Picture
from sqlmodel import select
from test_people import SECRET, signed_in
from web_world import make_world

import tastemaker
from tastemaker import TastemakerError
from tastemaker.auth import accounts
from tastemaker.database import sessions
from tastemaker.database.tables import Job, ScoreEvent
from tastemaker.errors import Conflict, Invalid, NotFound, NotSignedIn, Unavailable
from tastemaker.live import model_requests
from tastemaker.training import retrain
from tests.conftest import until
from tests.trained_world import Trained, open_trained, trained_home, vectors

PAGE = (Path(__file__).parent.parent / "docs" / "notebooks.md").read_text("utf-8")


@dataclass
class Served:
    url: str
    trained: Trained

    def client(self, **how: Any) -> tastemaker.Client:
        return tastemaker.Client(self.url, **how)

    def work(self) -> None:
        """Do the next training that is asked for, as the worker would."""

        def queued() -> Job | None:
            with sessions.reading(self.trained.engine) as session:
                asked = select(Job).where(Job.kind == "train", Job.state == "queued")
                return session.exec(asked).first()

        self.trained.run(until(queued, 30, "for a training"), retrain.run)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    trained = open_trained(trained_home(tmp_path_factory.mktemp("client") / "home"))
    trained.add(20, "Pictures", "pool", seed=2)
    with sessions.writing(trained.engine) as session:
        trained.project(session).recipe = "ridge"  # the quickest
    with serving(trained.world) as url:
        yield Served(url, trained)


def blocks(chapter: str) -> list[str]:
    (text,) = re.findall(rf"^## {chapter}\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M)
    return re.findall(r"```python\n(.*?)```", text, re.S)


def test_every_line_of_the_page_about_notebooks_runs(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = served.trained.version()
    checkpoints = served.trained.settings.checkpoints
    shutil.copy(checkpoints / version.file, tmp_path / "Anime-v1.0.safetensors")
    monkeypatch.chdir(tmp_path)
    said: dict[str, Any] = {"embeddings": vectors(5, 3)}
    for block in blocks("A published file"):
        exec(block, said)
    assert said["scorer"].score(said["embeddings"]).shape == (5,)
    worker = threading.Thread(target=served.work)
    worker.start()
    for block in blocks("A running server"):
        exec(block.replace("http://127.0.0.1:8000", served.url), said)
    worker.join()
    assert said["labels"].num_rows == 80 and said["labels"].schema.names == [
        "sha256", "path", "score", "annotator", "scored_at",
    ]  # fmt: skip
    assert said["predictions"].num_rows >= 80
    assert said["version"]["version"] == "v1.1" and said["version"]["note"] == "from a notebook"
    assert tastemaker.load(tmp_path / "Anime.safetensors").project == "Anime"
    assert (tmp_path / "Anime-hub.zip").stat().st_size > 1000
    assert said["anime"].labels().num_rows == 81, "one of two was taken back"
    pytest.importorskip("datasets", reason="datasets and pandas are of the extra dev")
    for block in (*blocks("pandas"), *blocks("Hugging Face datasets")):
        exec(block, said)
    assert len(said["rows"]) == 81 and len(said["frame"]) >= 80


def test_a_score_of_a_card_counts_as_one_of_its_queue(served: Served) -> None:
    with served.client() as client:
        anime = client.project(1)
        (card,) = anime.queue(1)
        answer = anime.score(card, 4, key="a key of mine")
        again = anime.score(card, 4, key="a key of mine")
        assert answer["saved"] and again["event_id"] == answer["event_id"], "no second one"
        anime.skip(card["image_id"])
    with sessions.reading(served.trained.engine) as session:
        event = session.get(ScoreEvent, answer["event_id"])
        assert event is not None and event.origin in ("queue", "control")


def test_images_come_page_after_page_and_tables_go_both_ways(
    served: Served, tmp_path: Path
) -> None:
    with served.client() as client:
        anime = client.project("Anime")
        names = {one["image_id"] for one in anime.images(n=30)}
        assert len(names) == 100, "though a page holds 30"
        table: pa.Table = anime.labels()
        file = tmp_path / "labels.csv"
        file.write_text(f"sha256,score\n{table['sha256'][0]},3\n")
        assert anime.send_labels(file)
        sent = anime.labels().filter(pc.field("sha256") == table["sha256"][0])
        assert 3 in sent["score"].to_pylist()


def test_pictures_come_in_by_jobs_that_can_be_waited_for(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "a.png"
    Picture.new("RGB", (40, 30), "teal").save(picture)
    client = served.client()
    anime = client.project("Anime")
    sent = anime.upload([picture], "Sent", wait=False)
    folder = anime.import_folder(tmp_path, "A folder", wait=False)
    assert [sent["kind"], folder["kind"]] == ["import", "import"]
    with pytest.raises(Unavailable, match="is not done after 0 seconds"):
        client.wait(sent, seconds=0)
    for job in (sent, folder):
        client.call("POST", f"jobs/{job['id']}/cancel")
    with pytest.raises(TastemakerError, match="cancelled"):
        client.wait(folder["id"])
    assert {job["id"] for job in client.jobs()} >= {sent["id"], folder["id"]}
    monkeypatch.setattr(model_requests, "CLAIM_SECONDS", 0.05)
    with pytest.raises(Unavailable, match="worker is not running"):
        anime.predict(picture, "v1.0")


def test_what_the_server_refuses_is_the_error_it_tells(served: Served, tmp_path: Path) -> None:
    client = served.client()
    anime = client.project("Anime")
    with pytest.raises(NotFound, match="no project “Nobody” on"):
        client.project("Nobody")
    with pytest.raises(Invalid):
        anime.score(1, 11)
    with pytest.raises(Conflict):
        client.create_project("Anime")
    with pytest.raises(NotFound, match="has no version v9"):
        anime.version("v9.9")
    with pytest.raises(TastemakerError) as refused:
        anime.download(tmp_path, format="html")
    assert "only the bundled encoder" in str(refused.value)
    with pytest.raises(NotSignedIn, match="token is not known"):
        served.client(token="tm_wrong").projects()
    with pytest.raises(Unavailable, match="cannot be reached"):
        tastemaker.Client("http://127.0.0.1:1").projects()
    with pytest.raises(Invalid, match="no address of a server"):
        tastemaker.Client("localhost:8000")


def test_what_answers_in_its_place_is_no_crash_and_names_no_place_to_write(tmp_path: Path) -> None:
    def page(request: httpx.Request) -> httpx.Response:
        told = {"content-disposition": 'attachment; filename="../../b"'}
        return httpx.Response(200, text="<html>Sign in</html>", headers=told)

    with tastemaker.Client("http://box", transport=httpx.MockTransport(page)) as client:
        with pytest.raises(TastemakerError, match="answered 200 OK, and not as Tastemaker does"):
            client.projects()
        with pytest.raises(TastemakerError, match="not as Tastemaker does"):
            client._table("projects/1/labels")
        (tmp_path / "into").mkdir()
        assert client._saved("x", tmp_path / "into") == tmp_path / "into" / "file"
    assert [path.name for path in tmp_path.rglob("*")] == ["into", "file"]


def test_a_server_with_a_password_takes_a_token(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", images=3, admin_password="the server's own")
    with sessions.writing(world.engine) as session:
        accounts.add(session, "Ada", SECRET)
    made = (
        signed_in(world, "Ada")
        .post("/api/v1/tokens", json={"name": "notebook", "scope": "score"})
        .json()
    )
    with serving(world) as url:
        with tastemaker.Client(url, token=made["token"]) as client:
            assert [one["name"] for one in client.projects()] == ["Anime"]
            assert client.project("Anime").score(1, 5)["saved"]
        with pytest.raises(NotSignedIn):
            tastemaker.Client(url).projects()


def test_importing_the_client_loads_no_torch() -> None:
    program = "import sys, tastemaker; tastemaker.Client; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "False\n", run.stderr
