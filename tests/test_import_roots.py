"""Where an admin has named folders to import from, nothing outside of them is read: not by another
spelling of its path, not through a link, not through one that is put there after the scan."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine
from sqlmodel import select
from web_world import client_of, drawn

from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Image, SkippedFile
from tastemaker.errors import BadImage, Invalid
from tastemaker.files import roots as allowed
from tastemaker.importing import archives, folders, imports, requests, sources
from tastemaker.pages.app import create_app
from tastemaker.pictures.pictures import Limits, ingest
from tests.conftest import work_on
from tests.desk import request_import


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A folder that may be imported, with a picture in it, and one that may not."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for number, folder in enumerate((inside / "cats", outside)):
        folder.mkdir(parents=True)
        drawn(number).save(folder / "a.jpg")
        (folder / "a.txt").write_text(f"tag of {folder.name}")
        np.save(folder / "a.npy", np.arange(8, dtype=np.float32))
        with zipfile.ZipFile(folder / "more.zip", "w") as archive:
            archive.write(folder / "a.jpg", "b.jpg")
    return inside, outside


@pytest.fixture
def settings(tmp_path: Path, places: tuple[Path, Path]) -> Settings:
    home = tmp_path / "home"
    return Settings(_env_file=None, home=home, min_free_gb=0, import_roots=str(places[0]))


SPELLINGS = [
    "{outside}", "{outside}/a.jpg", "{inside}/../outside", "{inside}/cats/../../outside/a.jpg",
    "{inside}/link", "{inside}/link/a.jpg", "{inside}-beside", "/", "/etc/passwd", "~", "..",
    "{inside}/%2e%2e/outside", "{inside}/%252e%252e/outside", "{inside}\\..\\outside",
    "{inside}/a\0b", "{inside}\0/../../outside",
]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_path_leads_out_of_the_roots(
    settings: Settings, engine: Engine, places: tuple[Path, Path], spelling: str
) -> None:
    inside, outside = places
    (inside / "link").symlink_to(outside)
    shutil.copytree(outside, f"{inside}-beside")
    typed = spelling.format(inside=inside, outside=outside)
    with pytest.raises((Invalid, requests.NotFound)) as refused:
        requests.validate_paths(settings, [typed], with_vectors=True)
    with pytest.raises((Invalid, requests.NotFound)):
        folders.look_into(settings, typed)
    if not any(odd in spelling for odd in ("%", "\\", "\0")):  # those are names of nothing
        assert str(inside) in refused.value.hint and "may be imported" in refused.value.message


def test_the_api_and_the_chooser_stay_within_the_roots(
    settings: Settings, engine: Engine, places: tuple[Path, Path]
) -> None:
    inside, outside = places
    (inside / "link").symlink_to(outside)
    client = client_of(create_app(settings))
    client.post("/projects", data={"name": "P"})
    begun = client.get("/api/v1/folders").json()
    assert (begun["path"], begun["parent"]) == (str(inside), None)
    assert begun["folders"] == [str(inside / "cats")], "a link out of the roots is not listed"
    for at in ("%252e%252e", f"{inside}/..", f"{inside}/%252e%252e/outside", "/"):
        assert client.get(f"/api/v1/folders?at={at}").status_code in (404, 422), at
    for typed in (f"{inside}/../outside", str(outside)):
        answer = client.post("/api/v1/projects/1/imports", json={"folder": typed})
        assert answer.status_code == 422 and str(inside) in answer.json()["hint"], answer.text
        shown = client.post("/projects/1/add/folder", data={"folder": typed})
        assert shown.status_code == 422 and "may be imported" in shown.text
    run = {"version": 1, "source": "folder", "folder": str(outside)}
    assert client.post("/projects/1/test-runs", data=run).status_code in (404, 409, 422)


def test_of_several_roots_the_chooser_lists_them_and_nothing_beside(
    settings: Settings, places: tuple[Path, Path], tmp_path: Path
) -> None:
    inside, _ = places
    (second := tmp_path / "second").mkdir()
    both = Settings(_env_file=None, home=settings.home, import_roots=f"{inside}, {second}")
    top = folders.look_into(both)
    assert (top.path, top.parent, top.folders) == (tmp_path, None, (inside, second))
    assert folders.look_into(both, str(second)).parent == tmp_path
    assert folders.look_into(both, str(inside / "cats")).parent == inside


def test_a_link_out_of_the_roots_is_skipped_with_its_reason_and_the_rest_comes_in(
    settings: Settings, engine: Engine, places: tuple[Path, Path]
) -> None:
    inside, outside = places
    (inside / "cats" / "z.jpg").symlink_to(outside / "a.jpg")
    with writing(engine) as session:
        job = request_import(session, settings, [inside / "cats"])
    imports.run(work_on(settings, engine, job.id))
    with reading(engine) as session:
        assert len(session.exec(select(Image)).all()) == 1
        (skipped,) = session.exec(select(SkippedFile)).all()
    assert skipped.path.endswith("z.jpg") and "outside" in skipped.reason


def test_what_is_swapped_for_a_link_after_the_scan_is_not_read(
    settings: Settings, places: tuple[Path, Path], tmp_path: Path
) -> None:
    inside, outside = places
    limits, cats = Limits.of(settings), inside / "cats"
    beside = sources.SidecarsOnDisk().of(cats / "a.jpg")
    assert sources.read_sidecars(beside, limits.roots).tags == ("tag of cats",)
    shutil.rmtree(cats)
    cats.symlink_to(outside)  # and every path that was noted leads elsewhere now
    picture = ingest(cats / "a.jpg", thumbs_root=settings.thumbs, limits=limits.anywhere())
    assert picture.format == "JPEG", "else this test shows nothing"
    with pytest.raises(BadImage, match="outside of the folders"):
        ingest(cats / "a.jpg", thumbs_root=settings.thumbs, limits=limits)
    assert sources.read_sidecars(beside, limits.roots).tags == ()
    with pytest.raises(Invalid, match="outside of the folders"):
        sources.read_vector(cats / "a.npy", limits.roots)
    with pytest.raises(Invalid, match="outside of the folders"):
        archives.unpack(cats / "more.zip", tmp_path / "into", roots=limits.roots)
    request = requests.ImportRequest(collection="c", paths=(str(cats),))
    seen = sources.Seen()
    found = list(
        sources.find_items(
            request, tmp_path, tmp_path / "u", settings.root, print, seen, settings.roots
        )
    )
    assert [type(item) for item in found] == [sources.Skipped] and seen.unreadable == {cats}


def test_without_proc_an_open_file_is_known_by_the_name_that_still_names_it(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = places
    real = Path.readlink
    monkeypatch.setattr(Path, "readlink", lambda path: real(path.with_name("none")))
    with allowed.open_within(inside / "cats" / "a.txt", [inside]) as file:
        assert file.read() == b"tag of cats"
    with pytest.raises(Invalid):
        allowed.open_within(outside / "a.txt", [inside])
