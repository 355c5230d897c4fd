"""Class labels and class files that leave and come back: tables, folders, cards, a file per tag."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pictures
import pytest
from class_world import Classes, class_home, open_classes
from sqlmodel import select
from test_classifier import strict_forward
from test_scoring import clip_retrieval

import tastemaker
from tastemaker import embeddings, jobs, versions
from tastemaker.database import sessions
from tastemaker.database.tables import ClassPrediction, Image, Label, Tag
from tastemaker.errors import CheckpointError, Conflict, Invalid
from tastemaker.importing import imports
from tastemaker.learning.checkpoints import save_checkpoint
from tastemaker.learning.city96 import linear_head
from tastemaker.publishing import card_blocks, exports, model_card
from tastemaker.publishing.foreign_files import read_foreign_head
from tastemaker.scores import class_changes, classes
from tastemaker.scores.score_files import BadRows, import_scores, labels_of, score_bytes


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def labels(made: Classes) -> dict[int, float]:
    with sessions.reading(made.engine) as session:
        return dict(session.exec(select(Label.image_id, Label.value)).all())


@pytest.mark.parametrize(
    ("ending", "several"), [(".csv", False), (".csv", True), (".jsonl", False), (".parquet", True)]
)
def test_labels_leave_and_come_back_as_they_were(home, tmp_path, several, ending):
    made = open_classes(class_home(home, labels=12, several=several))
    ids = list(made.kinds)
    made.label({ids[0]: "photo" if not several else 0}, name="bob")
    before = labels(made)
    with sessions.reading(made.engine) as session:
        rows = labels_of(session, made.project(session))
    assert {"class", "sha256", "annotator"} <= rows[0].keys() and "score" not in rows[0]
    file = tmp_path / f"labels{ending}"
    file.write_bytes(score_bytes(rows, ending))
    copy = open_classes(class_home(tmp_path / "other", labels=0, several=several))
    told = import_scores(copy.engine, "Kinds", file)
    assert told.recorded == len(rows) == 13
    assert labels(copy) == before
    assert import_scores(copy.engine, "Kinds", file).unchanged == 13


def test_a_table_of_names_or_numbers_is_read_and_bad_rows_are_named(home, tmp_path):
    made = open_classes(class_home(home, labels=0))
    with sessions.reading(made.engine) as session:
        hashes = session.exec(select(Image.sha256).order_by(Image.id)).all()
    file = tmp_path / "labels.csv"
    file.write_text(f"sha256,label\n{hashes[0]},Drawing\n{hashes[1]},2\n{hashes[2]},statue\n")
    with pytest.raises(BadRows, match="“statue” is no class of this project"):
        import_scores(made.engine, "Kinds", file)
    assert labels(made) == {}
    assert import_scores(made.engine, "Kinds", file, skip_bad_rows=True).recorded == 2
    assert list(labels(made).values()) == [1, 2]


def test_labels_of_a_class_that_is_gone_are_not_exported_and_merged_ones_under_the_new_name(home):
    made = open_classes(class_home(home, labels=6))
    with sessions.writing(made.engine) as session:
        project = made.project(session)
        class_changes.add(session, project, "sketch")
        class_changes.merge(session, project, 1, into=3)
        class_changes.delete(session, project, 2)
        told = [row["class"] for row in labels_of(session, project)]
    assert sorted(told) == ["photo", "photo", "sketch", "sketch"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("0_photo/a.png", 0), ("1_drawing/x/a.png", 1), ("02_logo/a.png", 2), ("logo/a.png", 2),
        ("LOGO/a.png", 2), ("1_photo/a.png", 0), ("2/a.png", 2), ("7_else/a.png", None),
        ("a.png", None), ("holiday/a.png", None), ("outer/1_drawing/0_photo/a.png", 0),
    ],
)  # fmt: skip
def test_a_folder_gives_the_class_it_is_called_by_and_else_its_number(home, path, expected):
    made = open_classes(class_home(home, labels=0))
    with sessions.reading(made.engine) as session:
        told = classes.of(session, 1).of_folder(path)
        assert (told and told[0]) == expected


def test_labels_are_written_as_folders_that_are_read_again(home, tmp_path):
    made = open_classes(class_home(home, labels=6))
    with sessions.reading(made.engine) as session:
        told = exports.write_folders(session, made.project(session), tmp_path / "out")
        known = classes.of(session, 1)
    written = sorted(
        path.relative_to(told["folder"]) for path in Path(told["folder"]).rglob("*.npy")
    )
    assert {path.parts[0] for path in written} == {"00_photo", "01_drawing", "02_logo"}
    assert sorted(known.of_folder(str(path))[0] for path in written) == [0, 0, 1, 1, 2, 2]
    tags = open_classes(class_home(tmp_path / "tags", labels=6, several=True))
    with sessions.reading(tags.engine) as session, pytest.raises(Conflict, match="several tags"):
        exports.write_folders(session, tags.project(session), tmp_path / "no")


def test_the_card_tells_the_ratios_the_figures_and_the_outputs(home):
    made = open_classes(class_home(home, train=True))
    version = made.version()
    with sessions.reading(made.engine) as session:
        text = card_blocks.markdown(model_card.card_of(session, made.settings, version))
    assert "Sorts images into 3 classes: photo, drawing, logo." in text
    assert "photo   -   20  33 % ||||||||" in text, "a bar for every 2.5 % of the 90 images"
    assert "| class | precision | recall | F1 | average precision | n |" in text.replace("  ", " ")
    assert "threshold" not in text and "0 to 10" not in text
    assert "drawn at random" in text and "A softmax over the outputs" in text


def test_of_tags_a_file_for_each_is_exported_that_the_original_reads_as_a_score(home, tmp_path):
    made = open_classes(class_home(home, train=True, several=True))
    version = made.version()
    with sessions.reading(made.engine) as session:
        parts = {p.name: p for p in exports.export_all(session, made.settings, version)}
        rows = session.exec(select(ClassPrediction).order_by(ClassPrediction.image_id)).all()
        _, x = embeddings.matrix(session, version.encoder_id, [row.image_id for row in rows])
    own = np.stack([np.frombuffer(row.probabilities, "<f4") for row in rows])
    for place, name in enumerate(("photo", "drawing", "logo")):
        part = parts[f"Kinds-v1.0.tag-{place:02d}-{name}.safetensors"]
        file = tmp_path / "one.safetensors"
        file.write_bytes(part.content)
        told = strict_forward(file, x.astype(np.float32), softmax=False)
        assert told.shape[1] == 1 and np.abs(told[:, 0] - own[:, place]).max() < 1e-5
        about = json.loads(parts[part.name.replace("safetensors", "config.json")].content)
        assert (about["arch"], about["labels"], about["tag"]) == ("score", None, name)
        assert about["model_params"]["outputs"] == 1


def test_the_command_exports_a_file_for_each_tag(run, tmp_path):
    class_home(tmp_path / "home", train=True, several=True)
    files = run("versions", "export", "Kinds", "v1.0", tmp_path / "out", "--json").json
    names = [Path(file).name for file in files]
    assert len(names) == 8 and "Kinds-v1.0.tag-02-logo.safetensors" in names


def test_everything_leaves_in_one_zip(home):
    made = open_classes(class_home(home, train=True))
    zipped = made.world.client.get("/versions/1/download").content
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
        table = archive.read(next(n for n in archive.namelist() if n.endswith("labels.csv")))
    assert "README.md" in names and "top-100.png" not in names
    first = next(csv.DictReader(io.StringIO(table.decode())))
    assert first["class"] in ("photo", "drawing", "logo")


def test_predictions_leave_with_the_class_and_a_file_of_tags_is_no_head_to_import(home):
    made = open_classes(class_home(home, train=True, several=True))
    client = made.world.client
    rows = list(csv.DictReader(io.StringIO(client.get("/versions/1/predictions.csv").text)))
    assert {row["class"] for row in rows} >= {"photo", "drawing, logo"}
    version = made.version()
    config = json.loads(client.get("/versions/1/config").text)
    assert config["arch"] == "tags" and "score_range" not in config
    assert config["classes"]["classes"][0]["name"] == "photo"
    with pytest.raises(CheckpointError, match="3 tags in one file"):
        read_foreign_head(made.settings.checkpoints / version.file)


def test_labels_that_are_none_leave_with_the_columns_of_classes(run, tmp_path):
    made = open_classes(class_home(tmp_path / "home", labels=0))
    header = "sha256,path,class,annotator,scored_at"
    assert run("scores", "export", "Kinds").out.strip() == header
    answer = made.world.client.get("/projects/1/labels.csv")
    assert answer.text.strip() == header


def test_the_preview_of_a_table_names_the_classes(run, tmp_path):
    made = open_classes(class_home(tmp_path / "home", labels=0))
    with sessions.reading(made.engine) as session:
        sha256 = session.exec(select(Image.sha256).order_by(Image.id)).first()
    table = f"sha256,class\n{sha256},2\n"
    (tmp_path / "labels.csv").write_text(table)
    assert "2 → logo" in run("scores", "import", "Kinds", "labels.csv", "--preview").out
    page = made.world.client.post(
        "/projects/1/add/scores", files={"file": ("labels.csv", table)}, data={"preview": "true"}
    ).text
    assert re.search(r'data-of="class"><span class="chip kind k2"[^>]*>logo<', page)
    assert ">Record the labels<" in page and labels(made) == {}


def test_the_folder_that_gives_a_class_is_no_tag_and_a_class_that_is_gone_meanwhile_no_fault(
    tmp_path, monkeypatch
):
    made = open_classes(class_home(tmp_path / "home", labels=0))
    for folder, seed in (("12/photo", 1), ("1_drawing", 2), ("logo", 3)):
        path = tmp_path / "new" / folder / "a.png"
        pictures.write(path, pictures.encoded(pictures.scene(seed=seed)))
    asked = {
        "collection": "New", "role": "pool", "paths": [str(tmp_path / "new")],
        "scores_from_folders": True,
    }  # fmt: skip
    with sessions.writing(made.engine) as session:
        wanted = jobs.enqueue(session, "import", "Import", asked, 1)
    find_items = imports.find_items

    def then_one_is_deleted(*words, **named):
        yield from find_items(*words, **named)
        with sessions.writing(made.engine) as session:
            class_changes.delete(session, made.project(session), 2)

    monkeypatch.setattr(imports, "find_items", then_one_is_deleted)
    made.run(wanted, imports.run)
    with sessions.reading(made.engine) as session:
        new = session.exec(select(Image).where(Image.name == "a.png")).all()
        tags = {row.tag for row in session.exec(select(Tag))}
    assert len(new) == 3 and sorted(labels(made).values()) == [0, 1]
    assert tags == {"12"}


# --- class files as filters -----------------------------------------------------------------------


def class_file(made: Classes) -> tuple[Path, np.ndarray, list[dict[int, float]]]:
    """The file of the version, the vectors of all images, and what the version says of each."""
    version = made.version()
    with sessions.reading(made.engine) as session:
        ids, x = embeddings.project_matrix(session, made.project(session), version.encoder_id)
        rows = {row.image_id: row for row in session.exec(select(ClassPrediction))}
    own = [
        dict(
            zip(
                version.classes.numbers,
                np.frombuffer(rows[i].probabilities, "<f4").tolist(),
                strict=True,
            )
        )
        for i in ids.tolist()
    ]
    return versions.checkpoint_path(made.settings, version), x.astype(np.float32), own


@pytest.mark.parametrize("several", [False, True])
def test_a_program_loads_a_class_file_and_gets_the_probability_of_each_class(home, several):
    path, x, own = class_file(open_classes(class_home(home, train=True, several=several)))
    scorer = tastemaker.load(path)
    assert scorer.labels == ("photo", "drawing", "logo")
    expected = np.array([list(row.values()) for row in own])
    told = scorer.classify(x)
    assert told.shape == expected.shape and np.abs(told - expected).max() < 1e-5
    assert scorer.classify(x[0]).tolist() == pytest.approx(expected[0].tolist(), abs=1e-5)
    broken = np.concatenate([x[:2], np.zeros_like(x[:1])])
    assert np.isnan(scorer.classify(broken, errors="skip")).any(axis=1).tolist() == [0, 0, 1]
    with pytest.raises(Invalid, match="gives no score"):
        scorer.score(x)


def test_the_command_tells_the_class_and_filters_by_one_of_them(run, tmp_path):
    path, x, own = class_file(open_classes(class_home(tmp_path / "home", train=True)))
    np.save(tmp_path / "x.npy", np.concatenate([x, np.full_like(x[:1], np.nan)]))
    score = ("score", tmp_path / "x.npy", "--model")
    rows = run(*score, path, "--json").json
    assert len(rows) == len(own) == 90
    names = ("photo", "drawing", "logo")
    for row in rows:
        shares = own[int(row["path"])]
        likeliest = max(shares, key=shares.__getitem__)
        assert row["class"] == names[likeliest]
        assert row["probability"] == pytest.approx(shares[likeliest], abs=1e-5)
        assert row["p_logo"] == pytest.approx(shares[2], abs=1e-5)
    assert [row["probability"] for row in rows] == sorted(
        (row["probability"] for row in rows), reverse=True
    )

    logos = run(*score, "Kinds@active", "--class", "Logo", "--json").json
    assert {int(row["path"]) for row in logos} == {
        n for n, shares in enumerate(own) if max(shares, key=shares.__getitem__) == 2
    }
    either = run(*score, path, "--class", "logo=40", "--class", "photo=90", "--top", 5, "--json")
    fits = sorted(
        (max(s[2] * (s[2] >= 0.4), s[0] * (s[0] >= 0.9)) for s in own), reverse=True
    )[:5]  # fmt: skip
    assert [row["probability"] for row in either.json] == pytest.approx(fits, abs=1e-5)
    told = run(*score, path, "--class", "logo", "--out", tmp_path / "out.csv")
    assert f"{len(logos)} of 90 pass" in told.err
    table = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert list(table[0]) == [
        "path", "class", "probability", "percent", "p_photo", "p_drawing", "p_logo", "model",
    ]  # fmt: skip
    assert {row["class"] for row in table} == {"logo"} and len(table) == len(logos)
    parts = ("--out", tmp_path / "parts", "--class")
    assert run(*score, path, *parts, "logo").code == 0
    assert "classes differs" in run(*score, path, *parts, "photo").err
    ones = np.ones(x.shape[1], np.float32)
    save_checkpoint(tmp_path / "Liked.safetensors", linear_head(ones, 0.0, 0 * ones, ones), {})
    both = [path, "--model", tmp_path / "Liked.safetensors"]
    (logo,) = run(*score, *both, "--class", "logo", "--top", 1, "--json").json
    (liked,) = run(*score, both[2], "--model", path, "--top", 1, "--json").json
    assert logo["class"] == "logo" and 0 <= logo["Liked"] <= 1
    assert liked["aesthetic_score"] == liked["Liked"]
    kinds = [liked[f"Kinds@v1.0 p_{name}"] for name in names]
    assert kinds == pytest.approx(list(own[int(liked["path"])].values()), abs=1e-5)
    refused = run(*score, path, "--columns", "laion", "--out", tmp_path / "l.csv")
    assert "holds scores, and this head tells classes apart" in refused.sentence


def test_scores_that_the_source_carries_along_are_not_taken_for_those_of_the_classes(run, tmp_path):
    path, x, _ = class_file(open_classes(class_home(tmp_path / "home", train=True)))
    own = tastemaker.load(path).classify(x.astype(np.float16))
    carried = np.linspace(0, 1, len(x), dtype=np.float32)
    clip_retrieval(
        tmp_path / "in", 0, x, image_path=[f"{n}.jpg" for n in range(len(x))],
        aesthetic_score=carried, percent=carried, p_hash=["=a1"] * len(x), p_logo=carried,
    )  # fmt: skip
    score = ("score", tmp_path / "in", "--model", path)
    for ending in (".csv", ".jsonl"):
        assert run(*score, "--min", 60, "--sort", "--out", tmp_path / f"o{ending}").code == 0
    with (tmp_path / "o.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    likeliest = np.sort(own.max(axis=1))[::-1]
    wanted = likeliest[likeliest >= 0.6]
    assert 0 < len(wanted) < len(own)
    assert [float(row["probability"]) for row in rows] == pytest.approx(wanted, abs=1e-4)
    for row in rows:
        at = int(row["path"].removesuffix(".jpg"))
        assert float(row["aesthetic_score"]) == pytest.approx(carried[at]), "as it was"
        assert float(row["p_logo"]) == pytest.approx(own[at, 2], abs=1e-4)
        assert float(row["percent"]) == pytest.approx(100 * own[at].max(), abs=0.01)
        assert row["p_hash"] == "'=a1"
    told = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["path"] for row in told] == [row["path"] for row in rows]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--pass",), "has no threshold"),
        (("--class", "statue"), "“statue” is no class of this head. There are: photo, drawing"),
        (("--class", "logo=much"), "no percentage"),
    ],
)
def test_a_filter_that_a_class_file_cannot_be_is_refused_in_words(run, tmp_path, words, error):
    path, x, _ = class_file(open_classes(class_home(tmp_path / "home", train=True)))
    np.save(tmp_path / "x.npy", x)
    said = run("score", tmp_path / "x.npy", "--model", path, *words)
    assert said.code != 0 and error in said.err
