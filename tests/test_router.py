"""Routers: made of versions, scored with, carried away and brought back, and every way in which
their members can be wrong."""

import errno
import json
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from class_world import IMAGES, class_home, open_classes
from router_world import X, make, router_home, version
from sqlalchemy import event
from trained_world import Trained

import tastemaker
from tastemaker import projects, versions
from tastemaker.cli.models import model_path
from tastemaker.database import sessions
from tastemaker.database.tables import EncoderRow
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.errors import CheckpointError, Conflict, Invalid, NotFound, TastemakerError
from tastemaker.filtering.panel import Panel
from tastemaker.filtering.parts import Terms
from tastemaker.filtering.ray_engine import _Packed
from tastemaker.filtering.router import Router, comparable, load_model
from tastemaker.filtering.score_tables import within
from tastemaker.filtering.scorer import Scorer
from tastemaker.learning import router_files
from tastemaker.learning.router_files import MANIFEST
from tastemaker.pages.downloads import attachment
from tastemaker.publishing import routers
from tests.command_line import Run, fails


@pytest.fixture
def made(tmp_path: Path) -> Trained:
    return router_home(tmp_path / "home")


def test_each_image_is_scored_by_the_version_of_its_class_and_a_rejected_one_never_passes(
    made,
) -> None:
    router = tastemaker.load(make(made))
    assert isinstance(router, Router) and (router.name, router.threshold) == ("Mixed", 0.5)
    heads = {head.project: head for head in router.members.values()}
    p = heads["Kinds"].classify(X)
    each = [comparable(heads[n].score(X), heads[n].percentiles, heads[n].threshold)
            for n in ("Photos", "Drawings")]  # fmt: skip
    expected = np.choose(p.argmax(axis=1), [*each, np.zeros(IMAGES)])
    scores = router.score(X)
    assert scores == pytest.approx(expected, abs=1e-6)
    told = router.explain(X[:3])
    assert [row.name for row in told] == [("photo", "drawing", "logo")[k] for k in p[:3].argmax(1)]
    assert {row.scorer for row in told} <= {"Photos@v1.0", "Drawings@v1.0", None}
    passing = router.score(X) >= 0.5
    drawn = p.argmax(axis=1) == 1
    assert (passing[drawn] == (heads["Drawings"].score(X[drawn]) >= 0.6)).all(), "its threshold"


def test_soft_weighs_all_scorers_and_an_undecided_image_gets_no_score_and_is_named(made) -> None:
    hard = Router(make(made, "Hard"))
    soft = Router(make(made, "Soft", mode="soft", abstain=0.75))
    p = soft.classifier.classify(X)
    sure = p.max(axis=1) >= 0.75
    assert 5 < sure.sum() < IMAGES
    by_route = soft._by_route(X)
    assert soft.score(X[sure]) == pytest.approx((p * by_route).sum(axis=1)[sure], abs=1e-5)
    scores = soft.score(X, errors="skip")
    assert (np.isnan(scores) == ~sure).all() and not np.isnan(hard.score(X)).any()
    with pytest.raises(Invalid, match="Undecided: "):
        soft.score(X)
    row = int(np.flatnonzero(~sure)[0])
    assert soft.explain(X[row : row + 1])[0].score is None


def test_weights_that_add_up_to_a_little_more_than_one_give_no_score_above_it(made, monkeypatch):
    soft = Router(make(made, "Soft", mode="soft"))
    weights = np.full((IMAGES, 3), np.float32(1 / 3) + np.float32(1e-7), np.float32)
    assert weights.sum(axis=1).min() > 1
    weights[-1] = np.nan
    monkeypatch.setattr(soft, "_probabilities", lambda x: weights[: len(x)])
    monkeypatch.setattr(soft, "_by_route", lambda x: np.ones((len(x), 3), np.float32))
    blocks = [(pa.array([f"{n}.jpg" for n in range(IMAGES)]), X, None)]
    skipped: dict[str, str] = {}
    every = Panel(soft).tables(blocks, "x", skipped.__setitem__, lambda line: None, encoded=False)
    (rows,) = within(every, 0, 100)
    assert rows["aesthetic_score"].to_pylist() == [1.0] * (IMAGES - 1)
    assert list(skipped) == [f"{IMAGES - 1}.jpg"], "what is no number stays none"


@pytest.mark.parametrize("named", [".", "../Mixed", "./sub/..", "odd \xe4 name"])
def test_a_router_travels_to_a_cluster_whatever_its_folder_is_called(
    made, tmp_path, monkeypatch, named
) -> None:
    folder = make(made)
    (folder / "sub").mkdir()
    (folder / "large.bin").write_bytes(b"not a part of it")
    monkeypatch.chdir(folder)
    if not Path(named).is_dir():
        Path(named).symlink_to(folder)
    panel = Panel(load_model(named))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("{}")
    packed = _Packed.of(panel, Terms(tmp_path / "out"))
    there = tmp_path / "machine"
    there.mkdir()
    again = packed.panel(there).first
    assert (again.name, again.sha256) == ("Mixed", panel.first.sha256)
    assert again.score(X) == pytest.approx(panel.first.score(X))
    assert len(list(there.rglob("*"))) == 1 + 7, "a folder, with the router and nothing else"


def told_by(head: Scorer, encoder: str | None, fingerprint: str | None) -> Scorer:
    head.encoder, head.fingerprint = encoder, fingerprint
    return head


@pytest.mark.parametrize(
    ("known", "fits"),
    [
        ([("ViT-L-14/openai", None), ("openai/clip-vit-large-patch14", None)], True),
        ([("ViT-L-14", None), ("ViT-L-14/laion2b_s32b_b82k", None)], True),
        ([("ViT-L-14/openai", "a"), (None, None), ("ViT-L-14/openai", "a")], True),
        ([("ViT-L-14/openai", "a"), ("ViT-L-14/openai", "b")], False),
        ([(None, None), ("ViT-L-14/openai", None), ("ViT-B-32/openai", None)], False),
        ([("ViT-L-14/openai", "a"), ("ViT-B-32/openai", None)], False),
    ],
)
def test_a_pass_and_a_router_have_one_rule_of_what_one_encoder_is(made, known, fits) -> None:
    router = Router(make(made))
    heads = list(router.members.values())[: len(known)]
    for head, each in zip(heads, known, strict=True):
        told_by(head, *each)
    router.members = dict(enumerate(heads))
    for check in (router._check_encoders, lambda: Panel(heads)):
        if fits:
            check()
        else:
            with pytest.raises(Conflict, match=r"was trained on .*, and .* on "):
                check()


def test_comparable_scores_rise_and_have_the_threshold_in_the_middle() -> None:
    percentiles = np.sort(np.random.default_rng(0).beta(2, 5, 101)).tolist()
    scores = np.linspace(0, 1, 1001, dtype=np.float32)
    told = comparable(scores, percentiles, 0.4)
    assert (np.diff(told) >= 0).all() and told.min() >= 0 and told.max() <= 1
    assert (told[scores >= np.float32(0.4)] >= 0.5).all()
    assert (told[scores < np.float32(0.4)] < 0.5).all()
    passing = np.array(percentiles)[np.array(percentiles) >= 0.4]
    half = comparable(np.array([np.median(passing)], np.float32), percentiles, 0.4)
    assert half[0] == pytest.approx(0.75, abs=0.02), "half of what passes lies below it"
    flat = comparable(np.array([0.2, 0.3, 0.9], np.float32), [0.3] * 101, 0.5)
    assert (np.diff(flat) >= 0).all() and flat[2] >= 0.5 > flat[1]
    assert np.isnan(comparable(np.array([np.nan], np.float32), percentiles, 0.4)[0])


def test_it_leaves_as_a_folder_or_a_zip_and_comes_back_the_same_to_the_byte(
    made, tmp_path, run: Run
) -> None:
    folder = make(made)
    original = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {MANIFEST, "README.md"} <= set(original) and len(original) == 8
    assert "never passes" in original["README.md"].decode()
    listed = run("router", "list", "--json").json
    assert [(one["name"], one["mode"], one["trouble"]) for one in listed] == [("Mixed", "hard", "")]
    out = tmp_path / "out"
    assert run("router", "export", "mixed", out).code == 0
    unasked = run("router", "delete", "Mixed")
    assert (unasked.code, "Say it with --yes" in unasked.err, folder.exists()) == (1, True, True)
    assert run("router", "delete", "Mixed", "--yes").code == 0 and not folder.exists()
    shutil.make_archive(str(tmp_path / "packed"), "zip", out)
    for source in (out / "Mixed", tmp_path / "packed.zip"):
        assert run("router", "import", source).code == 0
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == original
        fails(run("router", "import", source), "There is a router “Mixed” already")
        assert run("router", "delete", "Mixed", "--yes").code == 0
    assert [path.name for path in folder.parent.iterdir()] == [], "nothing is left over"


def test_a_zip_that_is_damaged_or_holds_an_odd_name_is_no_router_and_leaves_nothing(
    made, tmp_path
) -> None:
    whole = Path(shutil.make_archive(str(tmp_path / "whole"), "zip", make(made))).read_bytes()
    routers.delete(made.settings, "Mixed")
    with zipfile.ZipFile(tmp_path / "whole.zip") as archive:
        large = max(archive.infolist(), key=lambda entry: entry.compress_size)
    begin = large.header_offset + 100
    (tmp_path / "torn.zip").write_bytes(whole[:begin] + b"\xff" * 200 + whole[begin + 200 :])
    for name in ("x" * 300, "..", "a\\b"):
        with zipfile.ZipFile(tmp_path / f"{len(name)}.zip", "w") as archive:
            archive.writestr(f"deep/{name}", b"{}")
    for file in ("torn", "300", "2", "3"):
        with pytest.raises(
            Invalid,
            match=r"cannot be unpacked|holds a file that no router has|it holds no router.json",
        ):
            routers.bring_in(made.settings, tmp_path / f"{file}.zip")
    assert list(made.settings.routers.iterdir()) == []


def test_the_command_line_makes_one_and_scores_with_it_by_name_or_by_folder(
    made, tmp_path, run: Run
) -> None:
    words = ["router", "create", "Mixed", "--classifier", "Kinds@v1.0", "--send",
             "photo=Photos@v1.0", "--send", "drawing=Drawings"]  # fmt: skip
    fails(run(*words), "goes nowhere")
    told = run(*words, "--send", "logo=reject", "--abstain", "75%", "--json").json
    assert (told["abstain"], told["classes"][2]) == (0.75, {"name": "logo", "scorer": None})
    np.save(tmp_path / "x.npy", X)
    rows = {}
    for model in ("router:Mixed", made.settings.routers / "Mixed"):
        said = run("score", tmp_path / "x.npy", "--model", model, "--pass", "--json")
        assert "Undecided" in said.err
        rows[model] = [(row["path"], row["aesthetic_score"]) for row in said.json]
        assert min(score for _, score in rows[model]) >= 0.5
    assert len({json.dumps(one) for one in rows.values()}) == 1
    fails(run("score", tmp_path / "x.npy", "--model", "router:None"), "There is no router", "Mixed")


def test_a_router_stays_as_it_is_when_its_versions_are_deleted(made) -> None:
    folder = make(made)
    before = Router(folder).score(X)
    shutil.rmtree(made.settings.checkpoints)
    assert (Router(folder).score(X) == before).all()
    assert [one.trouble for one in routers.kept(made.settings)] == [""]


def test_a_member_that_is_gone_or_altered_is_named(made) -> None:
    folder = make(made)
    heads = sorted(folder.glob("*.safetensors"))
    sidecar = sorted(folder.glob("*.config.json"))[1]
    content = heads[0].read_bytes()
    heads[0].unlink()
    with pytest.raises(CheckpointError, match=f"lacks a member: {heads[0].name}"):
        Router(folder)
    heads[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="not the file that the router was made with"):
        Router(folder)
    heads[0].write_bytes(content)
    told = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(told | {"percentiles": None}))
    with pytest.raises(CheckpointError, match=sidecar.name):
        Router(folder)
    (kept,) = routers.kept(made.settings)
    assert sidecar.name in kept.trouble
    with pytest.raises(Conflict, match=sidecar.name):
        routers.parts_of(kept)


@pytest.mark.parametrize("broken", ["sha256_of", "read_text"])
def test_a_router_on_a_disk_that_does_not_answer_is_told_and_the_page_stays(
    made, broken, monkeypatch
) -> None:
    folder = make(made)
    sound = getattr(router_files, broken)

    def read(path: Path, *most: int) -> object:
        if path.parent == folder:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return sound(path, *most)

    monkeypatch.setattr(router_files, broken, read)
    with pytest.raises(TastemakerError, match="Input/output error"):
        Router(folder)
    (kept,) = routers.kept(made.settings)
    assert "Input/output error" in kept.trouble
    page = made.world.client.get("/projects/1/routers")
    assert page.status_code == 200 and "Input/output error" in page.text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": []}, "classes"),
        ({"format": "other"}, "format"),
        ({"abstain": 2}, "abstain"),
        ({"mode": "some"}, "mode"),
        ("not json", "not JSON"),
        ("[]", "it is no JSON object"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_told_where(made, change, sentence) -> None:
    folder = make(made)
    path = folder / MANIFEST
    told = json.loads(path.read_text())
    path.write_text(change if isinstance(change, str) else json.dumps(told | change))
    with pytest.raises(Invalid, match=sentence):
        Router(folder)


def test_a_manifest_may_name_no_file_elsewhere_and_no_other_classes(made, tmp_path) -> None:
    folder = make(made)
    path = folder / MANIFEST
    told = json.loads(path.read_text())
    elsewhere = told["classifier"] | {"file": "../../secret.safetensors"}
    path.write_text(json.dumps(told | {"classifier": elsewhere}))
    with pytest.raises(Invalid, match="no file of this folder"):
        Router(folder)
    for classes, sentence in (
        ([*told["classes"][:2], {"name": "sketch"}], "its classifier tells"),
        ([{"name": row["name"]} for row in told["classes"]], "Every class is rejected"),
        ([row | {"scorer": told["classifier"]} for row in told["classes"]], "gives no score"),
    ):
        path.write_text(json.dumps(told | {"classes": classes}))
        with pytest.raises(Invalid, match=sentence):
            Router(folder)
    with pytest.raises(NotFound, match="no router"):
        tastemaker.load(tmp_path)


def test_versions_that_do_not_go_together_are_refused_before_anything_is_written(made) -> None:
    kinds, photos = version(made, "Kinds"), version(made, "Photos")
    drawings = version(made, "Drawings")
    every = {"photo": photos, "drawing": drawings, "logo": None}
    with sessions.writing(made.engine) as session:
        other = EncoderRow(fingerprint="f" * 16, name="ViT-B-32-quickgelu/openai", dim=24)
        session.add(other)
        session.flush()
        stranger = photos.model_copy(update={"encoder_id": other.id})
        for error, sentence, classifier, scorers, options in (
            (Invalid, "does not sort", photos, every, {}),
            (Invalid, "no class of", kinds, every | {"cat": photos}, {}),
            (Invalid, "goes nowhere", kinds, {"photo": photos}, {}),
            (Invalid, "Every class is rejected", kinds, dict.fromkeys(every), {}),
            (Invalid, "gives no score", kinds, every | {"logo": kinds}, {}),
            (Conflict, "encodes each picture once", kinds, every | {"logo": stranger}, {}),
            (Invalid, "50 % and 60 %", kinds, every, {"scale": "score"}),
            (Invalid, "below 100 %", kinds, every, {"abstain": 1.0}),
            (Invalid, "hard or soft", kinds, every, {"mode": "both"}),
        ):
            with pytest.raises(error, match=sentence):
                routers.make(session, made.settings, "Mixed", classifier, scorers, **options)
        with pytest.raises(Invalid, match="needs a name"):
            routers.make(session, made.settings, "  ", kinds, every)
    assert routers.kept(made.settings) == []


def test_members_of_different_encoders_in_a_folder_are_refused(made) -> None:
    from tastemaker.files import sha256_of
    from tastemaker.learning.checkpoints import checkpoint_bytes, load_checkpoint

    folder = make(made)
    path = folder / MANIFEST
    told = json.loads(path.read_text())
    file = told["classes"][0]["scorer"]["file"]
    read = load_checkpoint(folder / file)
    about = read.metadata | {
        "encoder": "ViT-B-32-quickgelu/openai",
        "encoder_fingerprint": "f" * 16,
    }
    (folder / file).write_bytes(checkpoint_bytes(read.tensors, about))
    sidecar = folder / file.replace(".safetensors", ".config.json")
    sha256 = sha256_of(folder / file)
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"sha256": sha256}))
    told["classes"][0]["scorer"] |= {"sha256": sha256, "config_sha256": sha256_of(sidecar)}
    path.write_text(json.dumps(told))
    with pytest.raises(Conflict, match="ViT-B-32"):
        Router(folder)
    assert Scorer(folder / file).encoder == "ViT-B-32-quickgelu/openai"


# --- two at once, and zips of strangers ----------------------------------------------------------


def at_once(*acts: Callable[[], object]) -> list[object]:
    """What each gives, or the error that it raises, done side by side."""
    found: list[object] = [None] * len(acts)

    def do(number: int) -> None:
        try:
            found[number] = acts[number]()
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=do, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def meeting(two: threading.Barrier, act: Callable[..., object]) -> Callable[..., object]:
    """The act, after which both have to have arrived."""

    def met(*given: object) -> object:
        result = act(*given)
        two.wait(timeout=20)
        return result

    return met


def test_of_two_who_make_a_router_of_one_name_one_is_told(made, monkeypatch) -> None:
    two = threading.Barrier(2)
    monkeypatch.setattr(routers, "_free_folder", meeting(two, routers._free_folder))
    monkeypatch.setattr(routers.exports, "write", meeting(two, routers.exports.write))
    found = at_once(lambda: make(made), lambda: make(made))
    (told,) = [one for one in found if isinstance(one, Exception)]
    assert isinstance(told, Conflict) and "already" in told.message
    assert [path.name for path in made.settings.routers.iterdir()] == ["Mixed"]
    assert routers.find(made.settings, "Mixed").trouble == ""


def test_of_two_who_delete_a_router_one_is_told(made, monkeypatch) -> None:
    make(made)
    two = threading.Barrier(2)
    monkeypatch.setattr(routers, "find_folder", meeting(two, routers.find_folder))
    found = at_once(*[lambda: routers.delete(made.settings, "Mixed")] * 2)
    (told,) = [one for one in found if isinstance(one, Exception)]
    assert isinstance(told, NotFound) and "deleted already" in told.message
    assert list(made.settings.routers.iterdir()) == []


def test_what_needs_no_member_reads_none(made, monkeypatch, run: Run) -> None:
    """Files of heads are large, and a home may hold many routers."""
    for name in ("One", "Two", "Three"):
        make(made, name)
    read = []
    look = routers.member_path
    monkeypatch.setattr(
        routers, "member_path", lambda folder, m: read.append(folder.name) or look(folder, m)
    )
    assert set(routers.find(made.settings, "two").folder.parts[-1:]) == set(read) == {"Two"}
    read.clear()
    assert model_path(made.settings, "router:One") == made.settings.routers / "One"
    routers.delete(made.settings, "Three")
    assert read == []


def test_what_a_killed_process_left_is_gone_after_a_day(made) -> None:
    made.settings.routers.mkdir(parents=True, exist_ok=True)
    for name, age in (("old", 2 * 86400), ("new", 60)):
        left = made.settings.routers / f".{name}.part"
        left.mkdir()
        os.utime(left, (time.time() - age,) * 2)
    theirs = made.settings.routers / ".git"  # hidden, and nobody's to remove
    theirs.mkdir()
    os.utime(theirs, (0, 0))
    make(made)
    there = {path.name for path in made.settings.routers.iterdir()}
    assert there == {".new.part", ".git", "Mixed"}


def zip_with(path: Path, *entries: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def broken_inside(path: Path) -> Path:
    whole = bytearray(zip_with(path, ("router.json", b"{" + bytes(range(256)) * 40)).read_bytes())
    whole[60:90] = bytes([255]) * 30
    path.write_bytes(whole)
    return path


ZIPS = {
    "no zip": lambda path: path.write_bytes(b"not a zip at all") and path,
    "empty": lambda path: path.write_bytes(b"") or path,
    "empty zip": lambda path: zip_with(path),
    "another's": lambda path: zip_with(path, ("a.txt", b"x")),
    "cut short": lambda path: (
        path.write_bytes(zip_with(path, ("router.json", bytes(5000))).read_bytes()[:-30]) and path
    ),
    "damaged": broken_inside,
    "one name twice": lambda path: zip_with(path, ("a/x.json", b"1"), ("b/x.json", b"2")),
    "no name": lambda path: zip_with(path, ("a/..", b"1"), ("router.json", b"{}")),
    "a path outside": lambda path: zip_with(path, ("../../outside.txt", b"1")),
    "a hundred thousand": lambda path: zip_with(path, *((f"{n}", b"") for n in range(100_000))),
}


@pytest.mark.parametrize("what", ZIPS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_is_no_router_is_refused_and_nothing_is_left(made, tmp_path, what) -> None:
    source = ZIPS[what](tmp_path / "some.zip")
    with pytest.raises((Invalid, NotFound)) as raised:
        routers.bring_in(made.settings, source)
    assert raised.value.message.endswith(".")
    assert list(made.settings.routers.iterdir()) == []
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_zip_that_unpacks_to_more_than_a_router_is_refused(made, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(routers, "MOST_UNPACKED", 2**20)
    source = zip_with(tmp_path / "bomb.zip", ("a.safetensors", bytes(2**21)))
    with pytest.raises(Invalid, match="more than a router does"):
        routers.bring_in(made.settings, source)


def test_a_version_is_named_in_one_way_also_where_a_project_has_an_at_in_its_name(made) -> None:
    with sessions.writing(made.engine) as session:
        projects.by_name(session, "Drawings").name = "me@home"
    with sessions.reading(made.engine) as session:
        active = versions.named(session, "me@home")
        assert active.number == "v1.0"
        assert versions.named(session, "me@home@v1.0").id == active.id
        assert versions.named(session, "Photos@1.0").project_id != active.project_id
        for wrong in ("me@home@v9.9", "Nobody", "Nobody@v1.0"):
            with pytest.raises(NotFound):
                versions.named(session, wrong)
    body = {
        "name": "R", "classes": {"photo": "Photos", "drawing": "me@home", "logo": None}
    }  # fmt: skip
    assert made.world.client.post("/api/v1/projects/1/routers", json=body).status_code == 201


def test_a_project_with_tags_is_told_that_routers_need_classes_and_not_to_train(tmp_path) -> None:
    tags = open_classes(class_home(tmp_path / "tags", train=True, several=True))
    page = tags.world.client.get("/projects/1/routers").text
    assert "whose classes exclude each other" in page and "Go to training" not in page


def test_the_page_asks_as_much_for_ten_projects_as_for_three(made) -> None:
    def asked() -> int:
        statements = []
        event.listen(made.engine, "before_cursor_execute", note := lambda *a: statements.append(a))
        assert made.world.client.get("/projects/1/routers").status_code == 200
        event.remove(made.engine, "before_cursor_execute", note)
        return len(statements)

    before = asked()
    with sessions.writing(made.engine) as session:
        for number in range(7):
            projects.create(session, f"More {number}", encoder=BUNDLED)
    assert asked() == before


# --- the page and the API ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Москва", "猫 と 犬", "Größe “x”", "猫" * 120])
def test_a_router_of_any_name_is_downloaded_under_it(made, tmp_path, name: str) -> None:
    folder = make(made, name)
    assert len(os.fsencode(f"{folder.name}.zip")) <= 255, "as disks have it"
    assert routers.find(made.settings, name).folder == folder
    client = made.world.client
    answer = client.get(f"/routers/{quote(folder.name)}/download")
    assert answer.status_code == 200
    header = answer.headers["content-disposition"]
    assert f"filename*=UTF-8''{quote(folder.name)}.zip" in header and header.isascii()
    assert client.get(f"/api/v1/routers/{quote(folder.name)}/file").content == answer.content


def test_every_download_goes_through_one_header() -> None:
    pages = Path(routers.__file__).parents[1] / "pages"
    holding = {path.name for path in pages.glob("*.py") if "attachment;" in path.read_text()}
    assert holding == {"downloads.py"}
    plain = attachment("a.zip")["Content-Disposition"]
    assert plain == 'attachment; filename="a.zip"'
    odd = attachment('a"b\r\nc.zip')["Content-Disposition"]
    assert "\n" not in odd and odd.count('"') == 2


def test_a_router_is_made_and_given_out_on_the_page_and_by_the_api(made, tmp_path) -> None:
    client, at = made.world.client, "/projects/1/routers"
    page = client.get(at).text
    assert "Photos v1.0, active" in page and "None yet" in page
    ids = [str(version(made, name).id) for name in ("Photos", "Drawings")]
    form = {"name": "Mixed", "version": "v1.0", "to": [*ids, ""], "mode": "soft", "abstain": "60 %"}
    for change, sentence in (
        ({"to": ids}, "Every class needs a version"),
        ({"to": ["", "", ""]}, "Every class is rejected"),
        ({"to": ["x", *ids]}, "is no version"),
        ({"abstain": "most"}, "is no percentage"),
    ):
        refused = client.post(at, data=form | change)
        assert refused.status_code == 422 and sentence in refused.text
        assert 'value="Mixed"' in refused.text, "as it was filled in"
    assert client.post(at, data=form).headers["location"] == at
    page = client.get(at).text
    assert "router:Mixed" in page and "no score below 60" in page
    body = {
        "name": "More", "classes": {"photo": "Photos@v1.0", "drawing": "Drawings", "logo": None}
    }  # fmt: skip
    assert client.post("/api/v1/projects/1/routers", json=body).status_code == 201
    again = client.post("/api/v1/projects/1/routers", json=body)
    assert again.status_code == 409 and "already" in again.text
    listed = client.get("/api/v1/routers").json()
    assert [(one["name"], one["mode"]) for one in listed] == [("Mixed", "soft"), ("More", "hard")]
    packed = tmp_path / "router.zip"
    packed.write_bytes(client.get("/routers/Mixed/download").content)
    assert client.get("/api/v1/routers/Mixed/file").content == packed.read_bytes()
    assert client.post(f"{at}/Mixed/delete").status_code == 303
    assert client.delete("/api/v1/routers/More").status_code == 200
    assert client.get("/api/v1/routers").json() == []
    back = Router(routers.bring_in(made.settings, packed).folder)
    assert back.manifest.abstain == 0.6
    assert client.get("/routers/Other/download").status_code == 404


def test_what_is_undecided_among_pictures_is_named_and_the_others_are_scored(made) -> None:
    router = Router(make(made, abstain=0.75))
    skipped: dict[str, TastemakerError] = {}
    blocks = [(pa.array([f"{n}.jpg" for n in range(IMAGES)]), X, None)]
    (rows,) = Panel(router).tables(
        blocks, "pictures", skipped.__setitem__, lambda line: None, encoded=True
    )
    assert len(rows) + len(skipped) == IMAGES and len(skipped) > 0
    assert all(reason.message.startswith("Undecided: ") for reason in skipped.values())
    known = router.score(X, errors="skip")
    scores = rows["aesthetic_score"].to_numpy()
    assert scores == pytest.approx(known[~np.isnan(known)])
