"""Uploads: streamed to the incoming folder, never decoded, never trusted with a path."""

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import select
from web_world import World, make_world

from tastemaker import projects
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Collection, EncoderRow, Image, Job, Label, ScoreEvent
from tastemaker.errors import TastemakerError
from tastemaker.pages.uploads import MAX_FIELDS, MultipartWriter, Upload


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "home", images=0, max_upload_mb=1)


def the_jobs(world: World) -> list[Job]:
    with reading(world.engine) as session:
        return list(session.exec(select(Job)).all())


def incoming(world: World) -> list[Path]:
    return sorted(path for path in world.settings.incoming.rglob("*"))


def test_files_arrive_byte_for_byte_under_numbers_of_our_own(world: World) -> None:
    contents = [secrets.token_bytes(70_000), b"", b"not a picture at all"]
    names = ["a.jpg", "../../evil.png", "c\\d:e.zip"]
    files = [("files", (n, c)) for n, c in zip(names, contents, strict=True)]
    answer = world.client.post(f"{world.at}/add/files", files=files, data={"collection": "Holiday"})
    assert answer.status_code == 303 and answer.headers["location"] == f"{world.at}/score"
    (job,) = the_jobs(world)
    folder = world.settings.incoming / job.payload["staging"]
    stored = [(folder / number).read_bytes() for number, _ in job.payload["files"]]
    assert stored == contents
    assert [number for number, _ in job.payload["files"]] == ["000000", "000001", "000002"]
    assert job.payload["collection"] == "Holiday" and job.project_id == world.project_id
    assert not list(world.settings.root.parent.glob("evil*"))


def test_with_a_script_the_answer_is_where_to_go(world: World) -> None:
    answer = world.client.post(
        f"{world.at}/add/files", files={"files": ("a.png", b"x")}, headers={"HX-Request": "true"}
    )
    assert answer.headers["hx-redirect"] == f"{world.at}/score"


def test_an_upload_above_the_cap_leaves_nothing_behind(world: World) -> None:
    big = {"files": ("a.png", b"x" * (2**20 + 1))}
    answer = world.client.post(f"{world.at}/add/files", files=big)
    assert answer.status_code == 413 and "1 MB" in answer.text

    def unannounced() -> Iterator[bytes]:  # chunked: no Content-Length to believe
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 65536
        yield b"\r\n--b--\r\n"

    answer = world.client.post(
        f"{world.at}/add/files", content=unannounced(),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )  # fmt: skip
    assert answer.status_code == 413
    assert the_jobs(world) == [] and incoming(world) == []


def test_a_full_disk_refuses_with_507_before_anything_is_taken(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=0)
    world.settings.min_free_gb = 10**9
    answer = world.client.post(f"{world.at}/add/files", files={"files": ("a.png", b"x")})
    assert answer.status_code == 507
    assert the_jobs(world) == [] and incoming(world) == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"--b\r\nnonsense"),
        ("multipart/form-data; boundary=b",
         b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\ncut sho'),
        ("multipart/form-data; boundary=b",
         b'--b\r\nContent-Disposition: form-data; name="f"; filename=""\r\n\r\n\r\n--b--\r\n'),
        ("multipart/form-data", b"x"),
        ("application/x-www-form-urlencoded", b"files=x"),
    ],
)  # fmt: skip
def test_a_broken_or_empty_upload_is_refused_and_leaves_nothing(
    world: World, kind: str, body: bytes
) -> None:
    answer = world.client.post(
        f"{world.at}/add/files", content=body, headers={"Content-Type": kind}
    )
    assert answer.status_code == 422
    assert the_jobs(world) == [] and incoming(world) == []


def test_an_upload_to_a_project_that_is_not_there_is_refused(world: World) -> None:
    answer = world.client.post("/projects/99/add/files", files={"files": ("a.png", b"x")})
    assert answer.status_code == 404 and incoming(world) == []


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.binary(max_size=400), st.lists(st.integers(1, 60), max_size=12))
def test_however_the_body_is_cut_into_pieces_the_file_is_the_same(
    tmp_path: Path, content: bytes, cuts: list[int]
) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'
    body += content.replace(b"\r\n--b", b"") + b"\r\n--b--\r\n"
    here = tmp_path / secrets.token_hex(8)
    upload = Upload(here)
    writer = MultipartWriter("multipart/form-data; boundary=b", upload)
    for cut in cuts:
        writer.write(body[:cut])
        body = body[cut:]
    writer.write(body)
    writer.finish()
    assert upload.files == [("000000", "a")]
    assert (here / "000000").read_bytes() == content.replace(b"\r\n--b", b"")


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.binary(max_size=300))
def test_any_bytes_at_all_give_files_or_one_sentence(tmp_path: Path, body: bytes) -> None:
    upload = Upload(tmp_path / secrets.token_hex(8))
    writer = MultipartWriter("multipart/form-data; boundary=b", upload)
    try:
        writer.write(b"--b\r\n" + body)
        writer.finish()
    except TastemakerError as error:
        assert str(error)
    writer.close()
    upload.discard()
    assert not upload.staging.exists()


def test_uploads_at_the_same_time_keep_their_files_apart(world: World) -> None:
    contents = [secrets.token_bytes(200_000) for _ in range(4)]

    def send(content: bytes) -> int:
        files = [("files", ("same.png", content)), ("files", ("same.png", content[::-1]))]
        return world.client.post(f"{world.at}/add/files", files=files).status_code

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(send, contents)) == [303] * 4
    folders = [world.settings.incoming / job.payload["staging"] for job in the_jobs(world)]
    arrived = [tuple((folder / n).read_bytes() for n in ("000000", "000001")) for folder in folders]
    assert sorted(arrived) == sorted((content, content[::-1]) for content in contents)


def test_a_form_of_endless_fields_is_refused(world: World) -> None:
    fields = {f"field-{n}": "x" for n in range(MAX_FIELDS + 1)}
    files = {"files": ("a.png", b"x")}
    answer = world.client.post(f"{world.at}/add/files", files=files, data=fields)
    assert answer.status_code == 422 and "too many fields" in answer.text
    assert the_jobs(world) == [] and incoming(world) == []


def test_what_is_announced_to_be_too_large_is_refused_before_it_is_read(world: World) -> None:
    def body() -> Iterator[bytes]:
        yield from [b"x" * 2**16] * 64

    kind = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(2**22)}
    for path in ("/add/files", "/test-runs"):
        answer = world.client.post(f"{world.at}{path}", content=body(), headers=kind)
        assert answer.status_code == 413
        assert path == "/test-runs" or "1 MB allowed at once" in answer.text  # no version: no form
    assert incoming(world) == []


def test_a_folder_is_added_by_its_path(world: World, tmp_path: Path) -> None:
    from web_world import drawn

    folder = tmp_path / "pictures"
    folder.mkdir()
    drawn(1).save(folder / "one.png")
    answer = world.client.post(f"{world.at}/add/folder", data={"folder": f" {folder} "})
    assert answer.status_code == 303
    (job,) = the_jobs(world)
    assert job.kind == "import" and job.project_id == world.project_id
    page = world.client.get(f"{world.at}/score").text
    assert "The first images are on their way" in page


@pytest.mark.parametrize("folder", ["", "/nowhere/at/all", "a\0b", "relative/none"])
def test_a_folder_that_is_not_there_is_refused_in_one_sentence(world: World, folder: str) -> None:
    answer = world.client.post(f"{world.at}/add/folder", data={"folder": folder})
    assert 400 <= answer.status_code < 500 and 'role="alert"' in answer.text
    assert f'href="{world.at}/score"' in answer.text  # the page is still the project's
    if folder.isprintable():
        assert f'name="folder" value="{folder}"' in answer.text
    assert the_jobs(world) == []


# --- scores from a table -------------------------------------------------------------------------


def scores_in(world: World) -> list[int | None]:
    return [event.value for event in events_of(world)]


def events_of(world: World) -> list[ScoreEvent]:
    with reading(world.engine) as session:
        return list(session.exec(select(ScoreEvent).order_by(ScoreEvent.id)))


def test_a_table_of_scores_tells_all_its_bad_rows_and_records_the_others_on_demand(
    tmp_path: Path,
) -> None:
    world = make_world(tmp_path / "home", images=2)
    with reading(world.engine) as session:
        first, second = session.exec(select(Image.sha256).order_by(Image.id)).all()
    table = f"sha256,score\n{first},5\n<i>gone</i>,3\n{second},11\n"
    files = {"file": ("../my scores.CSV", table.encode("utf-16"))}
    at = f"{world.at}/add/scores"
    refused = world.client.post(at, files=files, data={"scale": ""})
    assert refused.status_code == 422 and scores_in(world) == []
    for told in (
        "2 of the 3 rows",
        "Row 2: There is no image “&lt;i&gt;gone",
        "Row 3: “11” is not",
    ):
        assert told in refused.text
    taken = world.client.post(at, files=files, data={"skip_bad_rows": "true"})
    assert taken.status_code == 200 and scores_in(world) == [5]
    assert "1 recorded, 0 there already." in taken.text and "2 left out:" in taken.text
    stars = {"file": ("s.jsonl", f'{{"sha256": "{second}", "score": 4}}')}
    other = {"file": ("s.csv", f"Picture,Liked,score\n{second},4,9\ngone,5,9\n")}
    named = {"scale": "1-5", "image_column": "Picture", "score_column": "liked", "preview": "true"}
    shown = world.client.post(at, files=other, data=named)
    assert (
        shown.status_code == 200 and "Nothing was recorded yet. 1 row cannot be used." in shown.text
    )
    assert 'class="chip r8">8<' in shown.text and "There is no image “gone" in shown.text
    assert 'name="image_column" value="Picture"' in shown.text and scores_in(world) == [5]
    missing = world.client.post(
        at, files=other, data=named | {"score_column": "none", "preview": ""}
    )
    assert "A column none is needed" in missing.text
    hints = world.client.post(at, files=other, data=named | {"preview": "", "as_hints": "true",
                                                             "skip_bad_rows": "true"})  # fmt: skip
    assert "1 recorded" in hints.text and "1 hint of 1 image" in hints.text
    assert 'name="as_hints" value="true" checked' in hints.text
    kinds = [event.kind for event in events_of(world)]
    assert kinds == ["set", "rated"] and "checked> As hints" not in taken.text
    unnamed = world.client.delete(f"/api/v1{world.at}/stars").json()
    table = unnamed["hint"].removeprefix("The newest is ").rstrip(".")
    undone = world.client.delete(f"/api/v1{world.at}/stars?of={table}")
    assert undone.json() == {"undone": 1}
    mapped = world.client.post(at, files=stars, data={"scale": "1-5"})
    assert mapped.status_code == 200 and scores_in(world) == [5, 8, None, 8]
    assert not list(world.settings.incoming.iterdir()), "nothing is left of an upload"

    address = f"/api/v1/projects/{world.project_id}/labels"
    answer = world.client.post(address, files=files)
    assert answer.status_code == 422 and "Row 3" in answer.json()["error"]
    answer = world.client.post(address, files=files, data={"skip_bad_rows": "true"})
    assert answer.json()["unchanged"] == 1
    assert [bad["where"] for bad in answer.json()["bad"]] == ["Row 2", "Row 3"]


def test_a_table_is_listed_where_it_was_brought_in_and_taken_back_as_one(tmp_path: Path) -> None:
    world = make_world(tmp_path / "home", images=3)
    with reading(world.engine) as session:
        hashes = session.exec(select(Image.sha256).order_by(Image.id)).all()
    table = "\n".join(["sha256,score", *(f"{name},3" for name in hashes)])
    api = f"/api/v1{world.at}/labels"
    assert "Tables that were recorded" not in world.client.get(f"{world.at}/add").text
    files = {"file": ("C:\\mine\\<b>first.csv", table)}
    page = world.client.post(f"{world.at}/add/scores", files=files)
    assert "&lt;b&gt;first.csv" in page.text and "3 scores of 3 images" in page.text
    again = world.client.post(api, files={"file": ("again.csv", table)}).json()
    assert (again["unchanged"], again["table"]) == (3, 0)
    (listed,) = world.client.get(f"{api}/tables").json()
    assert (listed["file"], listed["recorded"]) == ("<b>first.csv", 3)
    assert not listed["taken_back"] and not listed["hints"]
    jobs = world.client.get("/jobs").text
    assert "Import of scores from &lt;b&gt;first" in jobs
    assert world.client.get(f"/jobs/{listed['id']}").status_code == 200
    body = {"image_id": 1, "value": 9}
    assert world.client.post(f"/api/v1{world.at}/scores", json=body).status_code == 200

    back = world.client.post(f"{world.at}/add/scores/{listed['id']}/undo")
    assert "3 taken back." in back.text and "1 of its images was scored after it" in back.text
    assert ">taken back</span>" in back.text and f"{listed['id']}/undo" in back.text
    assert world.client.delete(f"{api}/tables/{listed['id']}").json() == {
        "undone": 0, "corrected": 1,
    }  # fmt: skip
    assert world.client.get(f"{api}/tables").json()[0]["taken_back"]
    for unknown in (listed["id"] + 1, 2**62):
        assert world.client.delete(f"{api}/tables/{unknown}").status_code == 404
    with reading(world.engine) as session:
        labels = session.exec(select(Label)).all()
        assert [(label.image_id, label.value) for label in labels] == [(1, 9.0)]


@pytest.mark.parametrize(
    ("files", "data", "sentence"),
    [
        ([("file", ("s.csv", b"sha256,score\n" + b"x,1\n" * 2001))], {}, "at most 2,000"),
        ([("file", ("s.xlsx", b"PK"))], {}, "Save the sheet as CSV"),
        ([("file", ("s.csv", b"x"))] * 2, {}, "One file of scores"),
        ([("file", ("s.csv", b"sha256,score\nx,1\n"))], {"scale": "stars"}, "is not a scale"),
        ([("file", ("s.csv", b"x" * (4 * 2**20)))], {}, "at most 4 MB"),
        ([("file", ("", b"x"))], {}, "One file of scores"),
    ],
    ids=["rows", "sheet", "two", "scale", "large", "none"],
)
def test_what_is_no_table_of_scores_is_refused_beside_its_form(
    tmp_path: Path, files: list[tuple[str, tuple[str, bytes]]], data: dict[str, str], sentence: str
) -> None:
    world = make_world(tmp_path / "home", images=0)
    answer = world.client.post(f"{world.at}/add/scores", files=files, data=data)
    assert answer.status_code in (413, 422) and sentence in answer.text
    assert "Scores from a file" in answer.text


def test_a_project_whose_weights_cannot_be_had_says_so_before_anything_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    large = "ViT-L-14-quickgelu/openai"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    world = make_world(tmp_path / "home", images=2)
    client = world.client
    bundled = client.get("/encoders/weights", params={"encoder": "efficientnet_lite0/bundled"})
    assert "come with this program" in bundled.text
    line = client.get("/encoders/weights", params={"encoder": large}).text
    assert "are not on this machine" in line and "Choose a weights file" in line
    made = client.post("/api/v1/projects", json={"name": "Large", "encoder": large}).json()
    assert made["weights"]["state"] == "missing" and made["weights"]["remedy"]
    listed = {row["name"]: row["weights"]["state"] for row in client.get("/api/v1/encoders").json()}
    assert listed[large] == "missing" and listed["efficientnet_lite0/bundled"] == "here"

    at = f"/projects/{made['id']}"
    page = client.get(f"{at}/add").text
    assert "Before you score" in page and "no score is lost" in page
    with writing(world.engine) as session:
        project = projects.get(session, made["id"])
        projects.add_collection(session, project, session.exec(select(Collection)).first())
        session.add(
            Job(kind="embed", title="E", state="failed", project_id=project.id, error="No.")
        )
    page = client.get(f"{at}/add").text
    assert page.count('class="banner') == 1 and "Try again" in page, "both are said in one"
    assert 'class="banner' in client.get(f"{at}/settings").text, "elsewhere the failure has its own"
    refused = client.post(f"{at}/encoder", data={"encoder": large, "file": "/none.safetensors"})
    assert refused.status_code >= 400 and "is not there" in refused.text
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"weights")
    answer = client.post(f"{at}/encoder", data={"encoder": large, "file": str(file)})
    assert answer.headers["location"] == f"{at}/add"
    assert client.get(f"/api/v1{at}").json()["encoder"] == f"{large}@{file}"
    assert "Before you score" not in client.get(f"{at}/add").text


def test_while_the_weights_are_fetched_the_add_page_says_how_far_that_is(world: World) -> None:
    with writing(world.engine) as session:
        project = world.project(session)
        project.encoder = "ViT-B-32-quickgelu/openai"
        job = Job(
            project_id=project.id, kind="embed", title="Embed", state="running", done=412,
            total=605, rate=23.4, message=f"Fetching the weights of {project.encoder}, in MB",
        )  # fmt: skip
        session.add_all([project, job])
        session.flush()
        job_id = job.id
    for path in (f"{world.at}/add", f"{world.at}/add/encoder", f"/jobs/{job_id}"):
        page = world.client.get(path).text
        assert all(told in page for told in ("412 of 605 MB", "23 MB a second", " left")), path
        assert "in MB" not in page
    with writing(world.engine) as session:
        session.get_one(Job, job_id).state = "done"
    assert "hx-get" not in world.client.get(f"{world.at}/add/encoder").text


def test_the_encoder_may_change_until_an_image_is_embedded(world: World, tmp_path: Path) -> None:
    base = "ViT-B-32-quickgelu/openai"
    full = make_world(tmp_path / "full", images=2)
    assert full.client.post(f"{full.at}/encoder", data={"encoder": base}).status_code == 303
    with reading(full.engine) as session:
        assert [(job.kind, job.state) for job in session.exec(select(Job))] == [("embed", "queued")]
    assert world.client.post(f"{world.at}/encoder", data={"encoder": base}).status_code == 303
    assert not the_jobs(world)  # no image yet
    with writing(world.engine) as session:
        encoder = EncoderRow(fingerprint="f", name=base, dim=4)
        session.add(encoder)
        session.flush()
        projects.pin_encoder(session, world.project(session), encoder)
    refused = world.client.post(f"/api/v1{world.at}/encoder", json={"encoder": base})
    assert refused.status_code == 409 and "Settings, Encoders" in refused.json()["hint"]


# --- choosing a folder ---------------------------------------------------------------------------


def test_a_folder_is_chosen_by_walking_to_it(world: World, tmp_path: Path) -> None:
    for name in ("photos/sea", "photos/.hidden", "photos/a & b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "photos" / "one.JPG").write_bytes(b"x")
    answer = world.client.get("/api/v1/folders", params={"at": str(tmp_path / "photos")}).json()
    assert answer == {
        "path": str(tmp_path / "photos"), "parent": str(tmp_path), "more": 0, "pictures": 1,
        "folders": [str(tmp_path / "photos" / name) for name in ("a & b", "sea")],
    }  # fmt: skip
    above = world.client.get("/api/v1/folders", params={"at": str(tmp_path)}).json()
    assert str(world.settings.root) not in above["folders"]  # its own folder is never offered

    page = world.client.get(f"{world.at}/folders", params={"at": str(tmp_path / "photos")}).text
    assert "1 picture in it" in page and "a &amp; b" in page
    assert "/add/folder" in page
    tried = world.client.get(f"{world.at}/folders?to=test-runs").text
    assert "Try a version on this folder" in tried
    assert world.client.get("/api/v1/folders").json()["path"] == str(Path.home().resolve())


@pytest.mark.parametrize("at", ["/nowhere/at/all", "a\0b", "x" * 5000, "/etc/hosts"])
def test_a_folder_that_is_none_is_told_in_words(world: World, at: str) -> None:
    page = world.client.get(f"{world.at}/folders", params={"at": at})
    assert page.status_code == 404 and "There is no folder" in page.text
    assert "Begin where folders may be chosen" in page.text


def test_the_programs_own_folder_cannot_be_chosen(world: World) -> None:
    for at in (world.settings.root, world.settings.incoming):
        answer = world.client.get("/api/v1/folders", params={"at": str(at)})
        assert answer.status_code == 422 and "own folder" in answer.json()["error"]
