"""The command line is a contract: names, options, exit codes, JSON shapes."""

import csv
import errno
import gc
import hashlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer.main
from safetensors.numpy import load_file, save_file
from sqlalchemy import Engine
from sqlmodel import select
from trained_world import trained_home

from tastemaker import embeddings, images, projects
from tastemaker.cli import commands, doctor
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.migration import migrate
from tastemaker.database.tables import Image, Job, Label, ScoreEvent
from tastemaker.errors import Invalid, StorageFull
from tastemaker.files import placing
from tastemaker.files.placing import (
    Placement,
    copy_pictures,
    link_pictures,
    move_pictures,
    plan_targets,
)
from tastemaker.learning.city96 import layout
from tests.command_line import Run, Said, fails
from tests.conftest import add_images, forward
from tests.pictures import truncated, write


def every_command(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, below in getattr(command, "commands", {}).items():
        yield from every_command(below, (*words, name))


COMMANDS = list(every_command(typer.main.get_command(commands.app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_refuses_an_unknown_option(
    run: Run, words: tuple[str, ...]
) -> None:
    said = run(*words, "--help")
    assert said.code == 0 and "Usage:" in said.out
    refused = run(*words, "--no-such-option")
    assert refused.code == 2 and "No such option" in refused.err


def test_the_promised_commands_are_there() -> None:
    promised = (
        "serve", "worker", "demo", "project create", "project list", "project show", "import",
        "scores import", "scores export", "embed", "train", "versions list", "versions show",
        "versions activate", "versions export", "score", "stats", "doctor", "backup", "restore",
        "versions diff", "card", "replay", "user add", "user list", "user disable",
    )  # fmt: skip
    assert {tuple(name.split()) for name in promised} <= set(COMMANDS)


def test_a_child_that_imports_its_parents_command_loads_nothing_of_it() -> None:
    """Every decoding child of `tastemaker import` does, before its first picture: numpy and Pillow
    are all that it needs for that."""
    dear = "{'typer', 'sqlalchemy', 'pydantic', 'torch', 'tastemaker.database.tables'}"
    told = (
        "import sys, tastemaker.cli, tastemaker.encoding.preprocessing; "
        f"print({dear} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_command_in_a_process_that_goes_on_keeps_no_garbage(run: Run) -> None:
    run("--version")
    before = gc.get_freeze_count()
    run("--version")
    assert gc.get_freeze_count() == before and gc.isenabled()


def test_a_server_starts_without_what_its_first_pages_do_not_need() -> None:
    dear = "{'torch', 'pyarrow', 'markdown_it', 'alembic', 'scipy'}"
    told = (
        f"import sys, tastemaker.cli.server, tastemaker.pages.app; print({dear} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").out.startswith("tastemaker 0.")


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["stats"],
        ["project", "create"],
        ["score", "x"],
        ["serve", "--port", "many"],
        ["serve", "--port", "70000"],
        ["import", ".", "--scores-from-folders"],
        ["score", "x", "--model", "y", "--precision", "double"],
        ["score", "x", "--model", "y", "--top", "many"],
        ["versions", "export", "P", "v1.0", "x", "--format", "onnx"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(run: Run, words: list[str]) -> None:
    assert run(*words).code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["project", "show", "Nope"],
        ["stats", "-p", "Nope"],
        ["train", "-p", "Nope"],
        ["versions", "list", "-p", "Nope"],
        ["versions", "show", "Nope", "v1.0"],
        ["scores", "export", "-p", "Nope"],
        ["embed", "-p", "Nope"],
        ["score", "x.npy", "--model", "Nope@v1.0"],
    ],
    ids=" ".join,
)
def test_an_unknown_project_is_named_with_those_there_are(run: Run, words: list[str]) -> None:
    run("project", "create", "Ästhetik")
    fails(run(*words), "There is no project “Nope”.", "“Ästhetik”")


# --- projects ----------------------------------------------------------------------------------


def test_projects_are_made_listed_and_shown(run: Run) -> None:
    assert run("project", "list").out.startswith("There is no project yet")
    made = run("project", "create", " City  Ästhetics ", "--encoder", "ViT-L-14-quickgelu/openai")
    assert (made.code, made.err) == (0, "")
    listed = run("project", "list", "--json").json
    assert [project["name"] for project in listed] == ["City Ästhetics"]
    assert listed[0]["encoder"] == "ViT-L-14-quickgelu/openai" and listed[0]["kind"] == "score"
    for name in ("city ästhetics", "CITY ÄSTHETICS", "#1"):
        assert run("project", "show", name, "--json").json == listed[0] | {"priors": []}
    assert "City Ästhetics" in run("project", "list").out
    fails(run("project", "create", "CITY ästhetics"), "exists already")


@pytest.mark.parametrize(
    "words",
    [
        ["x" * 81], ["  "], ["a/b"], ["a@b"], ["a\nb\x00"], ["ok", "--encoder", "no slash"],
        ["ok", "--encoder", "ViT-L-14@/nope.safetensors"],
        ["ok", "--encoder", f"ViT-L-14/openai@/{'n' * 300}.safetensors"],
        ["ok", "--threshold", "1.5"], ["ok", "--kind", "class"],
    ],
)  # fmt: skip
def test_a_project_that_cannot_be_is_refused_and_none_is_made(run: Run, words: list[str]) -> None:
    fails(run("project", "create", *words))
    assert run("project", "list", "--json").json == []


def test_a_setting_that_is_nonsense_is_told_in_a_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASTEMAKER_MIN_FREE_GB", "lots")
    fails(run("project", "list"), "TASTEMAKER_MIN_FREE_GB")


def test_a_home_that_cannot_be_made_is_told_in_a_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path / "file", b"")
    monkeypatch.setenv("TASTEMAKER_HOME", str(tmp_path / "file" / "home"))
    fails(run("project", "list"), str(tmp_path / "file"))


# --- scores ------------------------------------------------------------------------------------


@pytest.fixture
def library(engine: Engine) -> Engine:
    """Five images, one with a name that a spreadsheet would take for a formula."""
    with sessions.writing(engine) as session:
        project = projects.create(session, "P", holdout_share=0)
        images = add_images(session, 5, project=project)
        images[0].name = '=cmd|"/c calc"!A1.png'
        images[1].name = images[2].name = "double.png"
        session.add_all(images)
    return engine


def events(engine: Any) -> int:
    with sessions.reading(engine) as session:
        return len(session.exec(select(ScoreEvent)).all())


def hashes(engine: Any) -> list[str]:
    with sessions.reading(engine) as session:
        return list(session.exec(select(Image.sha256).order_by(Image.id)))  # type: ignore[arg-type]


def test_scores_go_out_and_come_back_the_same_as_csv_and_as_json_lines(
    run: Run, library: Any, tmp_path: Path
) -> None:
    known = hashes(library)
    rows = [(known[0], 3, "me"), (known[0], 8, "=evil()"), (known[1], 0, "me"), (known[4], 10, "")]
    lines = "".join(f"{sha},{score},{name}\n" for sha, score, name in rows)
    write(tmp_path / "in.csv", ("\ufeffsha256,score,annotator\n" + lines).encode())
    told = run("scores", "import", "in.csv", "-p", "P", "--json").json
    assert told.pop("table") > 0 and told == {
        "recorded": 4, "unchanged": 0, "overruled": 0, "lowest": 0, "highest": 10, "by_ending": 0,
        "nameless": 0, "between": False, "bad": [], "shown": [],
    }  # fmt: skip
    again = run("scores", "import", "in.csv", "-p", "P", "--json").json
    assert (again["unchanged"], again["table"]) == (4, 0)
    twice = lines + f"{known[2]},0,me\n{known[2]},10,me\n{known[2]},9,you\n"
    write(tmp_path / "twice.csv", ("sha256,score,annotator\n" + twice).encode())
    run("project", "create", "Said twice")
    told = run("scores", "import", "twice.csv", "-p", "Said twice")
    assert "7 scores recorded" in told.out
    assert "To take them back: tastemaker scores tables 'Said twice' --undo" in told.out
    assert "1 score contradicts a later row for the same image" in told.err
    with sessions.reading(library) as session:
        twice_id = projects.by_name(session, "Said twice").id
        joined = select(Image.sha256).where(projects.is_member(twice_id, Image.id))
        assert set(session.exec(joined)) == {known[0], known[1], known[2], known[4]}

    printed = run("scores", "export", "-p", "P")
    table = list(csv.DictReader(printed.out.splitlines()))
    assert list(table[0]) == ["sha256", "path", "score", "annotator", "scored_at"]
    assert len(table) == 4 and table[0]["path"].startswith("'=cmd")
    assert table[1]["annotator"] == "'=evil()"
    as_json = run("scores", "export", "-p", "P", "--json").json
    assert as_json[0]["path"].startswith("=cmd") and as_json[0]["score"] == 3

    for name in ("out.csv", "out.jsonl"):
        assert run("scores", "export", "-p", "P", "--out", name).code == 0
        run("project", "create", f"Copy of {name}")
        back = run("scores", "import", name, "-p", f"Copy of {name}", "--json")
        assert (back.json["recorded"], back.json["bad"]) == (4, [])
        again = run("scores", "export", "-p", f"Copy of {name}", "--json").json
        for one, other in zip(as_json, again, strict=True):
            for key in ("sha256", "path", "score", "annotator"):
                assert one[key] == other[key]


def test_a_table_is_listed_and_taken_back_by_its_number(
    run: Run, library: Any, tmp_path: Path
) -> None:
    assert "No table of scores" in run("scores", "tables", "P").out
    (tmp_path / "mine.csv").write_text(f"sha256,score\n{hashes(library)[0]},3\n")
    table = run("scores", "import", "mine.csv", "-p", "P", "--json").json["table"]
    (listed,) = run("scores", "tables", "-p", "P", "--json").json
    assert (listed["id"], listed["file"], listed["recorded"]) == (table, "mine.csv", 1)
    assert "mine.csv  1 score" in run("scores", "tables", "P").out
    fails(run("scores", "tables", "P", "--undo", str(table + 1)), "no such imported table")
    assert run("scores", "tables", "P", "--undo", str(table)).out == "1 taken back.\n"
    again = run("scores", "tables", "P", "--undo", str(table), "--json").json
    assert again == {"undone": 0, "corrected": 0}
    assert "1 score, taken back" in run("scores", "tables", "P").out
    line = f"at_least,{hashes(library)[1]},5,Ada\n"
    (tmp_path / "answers.csv").write_text(f"said,sha256,bound,annotator\n{line}")
    for told in (True, False):  # the second time nothing is recorded, and nothing to be taken back
        said = run("scores", "import", "answers.csv", "-p", "P", "--answers")
        assert said.code == 0 and ("cannot be taken back as one" in said.out) is told
    assert len(run("scores", "tables", "P", "--json").json) == 1, "as the help says"
    assert run("scores", "export", "-p", "P", "--json").json == []


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "sha256,score\n{0},5\n{1},11\n", "Row 2 of a.csv: “11” is not a score."),
        ("a.csv", "sha256,score\n{0},5\n{1},\n", "Row 2 of a.csv: It holds no score."),
        ("a.csv", "sha256,score\n{0},5\n,5\n", "Row 2 of a.csv: It names no image"),
        ("a.csv", "sha256,score\n{0},5\nnope,5\n", "Row 2 of a.csv: There is no image “nope”"),
        ("a.csv", "name,score\ndouble.png,5\n", "Several images are called “double.png”."),
        ("a.csv", "", "a.csv holds no row"),
        ("a.csv", "sha256,score\n", "a.csv holds no row"),
        ("a.csv", b"\xff\xfe\x00", "a.csv is damaged: it is not in UTF-16."),
        ("a.csv", 'sha256,score\n{0},"' + "x" * 200_000, "cannot be read as CSV"),
        (
            "a.jsonl",
            '{"sha256": "{0}", "score": 5}\n{broken\n',
            "Line 2 of a.jsonl: It is not",
        ),
        (
            "a.jsonl",
            '{"sha256": "{0}", "score": 5}\n[5]\n',
            "Line 2 of a.jsonl: It is not an o",
        ),
        ("a.jsonl", '{"sha256": "{0}", "score": true}\n', "“True” is not a score."),
        ("a.jsonl", '{"sha256": "{0}", "score": 3.5}\n', "“3.5” is not a score."),
        ("a.jsonl", '{"sha256": "\\ud800", "score": 5}\n', "Line 1 of a.jsonl: It is not JSON."),
        ("a.jsonl", "[" * 100_000, "Line 1 of a.jsonl: It is not JSON."),
        ("a.txt", "sha256,score\n{0},5\n", "a.txt has no known ending."),
    ],
)
def test_with_one_bad_row_nothing_is_recorded(
    run: Run, library: Any, tmp_path: Path, name: str, content: Any, sentence: str
) -> None:
    if isinstance(content, str):
        known = hashes(library)
        content = content.replace("{0}", known[0]).replace("{1}", known[1]).encode()
    write(tmp_path / name, content)
    fails(run("scores", "import", name, "-p", "P"), sentence)
    assert events(library) == 0
    fails(run("scores", "import", "nowhere.csv", "-p", "P"), "no file")


def test_scores_without_a_name_are_a_proxy_s_and_give_way_to_a_person(
    run: Run, library: Any, tmp_path: Path
) -> None:
    known = hashes(library)
    write(tmp_path / "a.csv", f"sha256,score\n{known[0]},2\n{known[1]},2\n".encode())
    write(tmp_path / "b.csv", f"sha256,score,annotator\n{known[0]},9,me\n".encode())
    run("scores", "import", "a.csv", "-p", "P")
    run("scores", "import", "b.csv", "-p", "P")
    with sessions.reading(library) as session:
        values = {label.image_id: label.value for label in session.exec(select(Label))}
    assert sorted(values.values()) == [2, 9]


def test_stats_draws_the_histogram(run: Run, library: Any, tmp_path: Path) -> None:
    known = hashes(library)
    lines = [f"{sha},{score}" for sha, score in zip(known, (3, 3, 10), strict=False)]
    write(tmp_path / "a.csv", "\n".join(["sha256,score", *lines]).encode())
    run("scores", "import", "a.csv", "-p", "P")
    text = run("stats", "-p", "P").out.splitlines()
    assert text[0] == "5 images in dataset." and text[-1] == "raw -    2 " + "|" * 40
    assert text[4] == "  3 -    2 " + "|" * 40 and text[1] == "  0 -    0"
    shown = run("stats", "-p", "P", "--json").json
    assert (shown["scores"]["3"], shown["raw"]) == (2, 2)


# --- serving -----------------------------------------------------------------------------------


def test_a_taken_port_is_told_with_another_to_choose(run: Run) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]
        fails(run("serve", "--port", port), f"Port {port}", f"--port {port + 1}")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::"])
def test_an_address_for_others_needs_a_password(run: Run, host: str) -> None:
    fails(run("serve", "--host", host), "no password is set", "TASTEMAKER_ADMIN_PASSWORD")


# --- bad imports and encoders that are not there -------------------------------------------------


def test_an_import_of_nothing_usable_is_one_sentence(run: Run, tmp_path: Path) -> None:
    run("project", "create", "P")
    (tmp_path / "empty").mkdir()
    fails(run("import", "empty", "-p", "P"), "There is no picture in “empty”.")
    fails(run("import", "nowhere", "-p", "P"), "There is no file or folder “nowhere”.")
    fails(run("import", "home", "-p", "P"), "own folder")
    fails(run("embed", "--collection", "nope"), "no collection")


def test_an_import_that_could_not_read_an_archive_or_a_folder_keeps_the_rest_and_ends_with_1(
    run: Run, tmp_path: Path
) -> None:
    from tests.test_imports import png

    run("project", "create", "P")
    write(tmp_path / "a.png", png(1))
    write(tmp_path / "cut.zip", b"PK" + png(2))
    write(tmp_path / "no picture.png", b"text")
    said = run("import", "no picture.png", "a.png", "cut.zip", "-p", "P")
    assert said.code == 1 and "1 new image" in said.out and "2 skipped" in said.out
    assert "could not be read, and nothing of it was imported: cut.zip: " in said.err
    told = run("import", "a.png", "cut.zip", "-p", "P", "--json")
    assert told.code == 1 and json.loads(told.out)["unread"] == 1
    assert run("import", "a.png", "no picture.png", "-p", "P").code == 0, "a picture is a picture"


@pytest.mark.slow
def test_weights_that_are_not_here_are_told_once_and_the_images_are_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    made = run("project", "create", "P", "--encoder", "ViT-B-32-quickgelu/openai")
    assert made.code == 0, "making a project loads nothing"
    from tests.test_imports import png

    for seed in range(3):
        write(tmp_path / "pictures" / f"{seed}.png", png(seed))
    said = run("import", "pictures", "-p", "P")
    assert said.code == 1 and said.out.startswith("3 new images, none known already, 0 skipped")
    settings = Settings(home=tmp_path / "home", _env_file=None)  # type: ignore[call-arg]
    engine = migrate(settings)
    with sessions.reading(engine) as session:
        assert len(session.exec(select(Image)).all()) == 3
        assert session.exec(select(embeddings.Embedding)).all() == []
        assert session.exec(select(embeddings.EncoderRow)).all() == []
        (embed,) = session.exec(select(Job).where(Job.kind == "embed")).all()
        assert (embed.state, embed.attempts) == ("failed", 1)
        assert embed.error in said.sentence
    engine.dispose()


@pytest.mark.slow
def test_a_project_on_the_default_encoder_is_embedded_trained_and_scored_with(
    run: Run, tmp_path: Path
) -> None:
    from tests.test_imports import png

    name = "efficientnet_lite0+stages+whole/bundled"
    fails(run("project", "create", "P", "--encoder", "efficientnet_lite0+eyes/bundled"), "“eyes”")
    made = run("project", "create", "P", "--json")  # which is the default one
    assert (made.code, made.json["encoder"], made.json["weights"]["state"]) == (0, name, "here")
    for seed in range(20):
        write(tmp_path / "pictures" / f"{seed % 5 * 2:02}" / f"{seed}.png", png(seed))
    assert run("import", "pictures", "-p", "P", "--scores-from-folders").code == 0
    trained = run("train", "-p", "P", "--recipe", "ridge", "--json")
    assert (trained.code, trained.json["version"]) == (0, "v1.0"), trained.err
    scored = run("score", "pictures", "--model", "P@v1.0", "--json")
    assert len(scored.json) == 20, scored.err
    scores = {row["path"]: row["aesthetic_score"] for row in scored.json}
    file = run("versions", "show", "P", "v1.0", "--json").json["file"]
    assert load_file(file)["up.0.weight"].shape[1] == 4128
    assert len(set(scores.values())) == 20 and all(0 <= score <= 1 for score in scores.values())


# --- versions ----------------------------------------------------------------------------------


@pytest.fixture
def done(sample: Path, run: Run) -> Run:
    """The command line in a copy of the sample project's home."""
    return run


def test_versions_are_listed_with_the_promised_keys(done: Run, tmp_path: Path) -> None:
    listed = done("versions", "list", "-p", "sample", "--json").json
    assert [version["version"] for version in listed] == ["v1.0", "v1.1"]
    assert [version["active"] for version in listed].count(True) == 1
    for version in listed:
        assert {"version", "active", "images", "mae", "fp_rate", "fn_rate", "file", "sha256"} <= (
            version.keys()
        )
        assert 0 < version["mae"] < 10 and 0 <= version["fn_rate"] <= 1
        # null exactly where the version passes no hold-out image: a rate over nothing
        passed = version["metrics"]["holdout"]["fp_rate_n"]
        assert (0 <= version["fp_rate"] <= 1) if passed else version["fp_rate"] is None
        assert Path(version["file"]).is_file() and len(version["sha256"]) == 64
    shown = done("versions", "show", "Sample", "1.1", "--json").json
    assert shown == listed[1]
    table = done("versions", "list", "-p", "Sample").out
    assert "v1.0" in table and "v1.1" in table
    fails(done("versions", "show", "Sample", "v9.9"), "There are: v1.1, v1.0.")

    assert done("versions", "activate", "Sample", "v1.0").code == 0
    assert done("versions", "show", "Sample", "active", "--json").json["version"] == "v1.0"
    assert done("versions", "export", "Sample", "v1.1", tmp_path / "out").code == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["Sample-v1.1.config.json", "Sample-v1.1.safetensors"]
    exported = load_file(tmp_path / "out" / "Sample-v1.1.safetensors")
    assert {name: value.shape for name, value in exported.items()} == layout(1280)


def test_doctor_is_content_with_the_sample_and_fails_when_something_is_damaged(
    done: Run, sample: Path
) -> None:
    sound = done("doctor", "--json")
    assert sound.code == 0
    assert {finding["level"] for finding in sound.json} <= {"ok", "warning"}
    (sample / "checkpoints" / "1" / "Sample-v1.0.safetensors").write_bytes(b"not it")
    hurt = done("doctor", "--json")
    assert hurt.code == 1
    (damage,) = [finding for finding in hurt.json if finding["level"] == "damage"]
    assert "v1.0 was cut short" in damage["what"] and damage["hint"]
    assert done("doctor").code == 1
    fails(done("versions", "export", "Sample", "v1.0", "out"), "altered")
    assert not Path("out").exists()


def test_doctor_finds_an_upload_that_was_cut(settings: Settings, engine: Engine) -> None:
    content = b"all that was uploaded"
    with sessions.writing(engine) as session:
        image = Image(
            sha256=hashlib.sha256(content).hexdigest(), kind="upload", name="mine.png",
            format="PNG", bytes=len(content), source_group="g",
        )  # fmt: skip
        session.add(image)
        session.flush()
        path = images.stored_path(settings, image)
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        assert [found.level for found in doctor._uploads(session, settings)] == ["ok"]
        path.write_bytes(content[:5])
        (found,) = doctor._uploads(session, settings)
        assert found.level == "damage" and "mine.png" in found.what


@pytest.mark.sqlite
def test_a_database_that_is_none_is_told_in_a_sentence(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "home" / "tastemaker.db", b"this is no database" * 1000)
    fails(run("project", "list"), "not a database")
    told = run("doctor")
    assert told.code == 1 and "not a database" in told.out


# --- scoring -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "off"), [("fp32", 1e-5), ("fast", 2e-3)])
def test_scores_agree_with_an_independent_forward_pass(
    run: Run, head: Path, vectors: Path, precision: str, off: float
) -> None:
    said = run("score", vectors, "--model", head, "--precision", precision, "--json")
    assert said.code == 0
    rows = {int(row["path"]): row["aesthetic_score"] for row in said.json}
    truth = forward(load_file(head), np.load(vectors))
    assert sorted(rows) == list(range(300)) and truth.std() > 0.05
    assert max(abs(rows[i] - truth[i]) for i in rows) < off
    best_first = [row["aesthetic_score"] for row in said.json]
    assert best_first == sorted(best_first, reverse=True)


@pytest.mark.parametrize("number", ["v1.0", "active"])
def test_a_published_version_scores_stored_vectors_as_its_file_says(
    done: Run, sample: Path, tmp_path: Path, number: str
) -> None:
    settings = Settings(home=sample, min_free_gb=0, _env_file=None)  # type: ignore[call-arg]
    engine = migrate(settings)
    with sessions.reading(engine) as session:
        _, x = embeddings.project_matrix(session, projects.by_name(session, "Sample"))
    np.save(tmp_path / "x.npy", x)
    file = done("versions", "show", "Sample", number, "--json").json["file"]
    truth = forward(load_file(file), x)
    for precision, off in (("fp32", 1e-5), ("fast", 2e-3)):
        words = ("--model", f"sample@{number}", "--precision", precision, "--json")
        for row in done("score", "x.npy", *words).json:
            assert abs(row["aesthetic_score"] - truth[int(row["path"])]) < off
            assert row["percent"] == round(100 * row["aesthetic_score"], 2)
    engine.dispose()


def test_results_are_filtered_and_written_in_three_forms(
    run: Run, head: Path, vectors: Path, tmp_path: Path
) -> None:
    truth = 100 * forward(load_file(head), np.load(vectors))
    low, high = np.quantile(truth, [0.3, 0.8]).tolist()
    words = ("score", vectors, "--model", head, "--min", low, "--max", high)
    passed = run(*words, "--json").json
    assert {int(row["path"]) for row in passed} == set(
        np.flatnonzero((truth >= low) & (truth <= high)).tolist()
    )
    best = run(*words, "--top", 5, "--json").json
    assert best == passed[:5]
    printed = run(*words, "--top", 2).out.splitlines()
    assert len(printed) == 2 and printed[0].split() == [
        f"{best[0]['percent']:.2f}", "%", best[0]["path"],
    ]  # fmt: skip

    for ending in ("parquet", "csv", "jsonl"):
        assert run(*words, "--top", 5, "--out", f"deep/er/o.{ending}").code == 0
    table = pq.read_table(tmp_path / "deep/er/o.parquet")
    assert table.column_names == ["path", "aesthetic_score", "percent"]
    assert table.schema.metadata[b"model"] == b"strange"
    assert table["path"].to_pylist() == [row["path"] for row in best]
    rows = list(csv.DictReader((tmp_path / "deep/er/o.csv").open()))
    lines = [json.loads(line) for line in (tmp_path / "deep/er/o.jsonl").open()]
    for rows_of_a_form in (rows, lines, table.to_pylist()):
        assert [row["path"] for row in rows_of_a_form] == [row["path"] for row in best]
        assert [float(row["aesthetic_score"]) for row in rows_of_a_form] == pytest.approx(
            [row["aesthetic_score"] for row in best], abs=1e-6
        )
    assert {row["model"] for row in (*rows, *lines)} == {"strange"}
    fails(run(*words, "--out", "o.xlsx"), "no known ending")
    assert run(*words, "--top", 1, "--out", "o.csv").out == "1 row written to o.csv.\n"
    assert run(*words, "--top", 2, "--out", "o.csv").out == "2 rows written to o.csv.\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--min", 60, "--max", 40], "min ≤ max"),
        (["--min", -1], "0 ≤ min"),
        (["--max", 101], "max ≤ 100"),
        (["--top", 0], "at least 1"),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    run: Run, head: Path, vectors: Path, words: list[Any], sentence: str
) -> None:
    fails(run("score", vectors, "--model", head, *words), sentence)


def test_vectors_that_cannot_be_scored_are_told_and_the_others_are_scored(
    run: Run, head: Path, tmp_path: Path
) -> None:
    def scored(array: Any, **options: Any) -> Said:
        np.save(tmp_path / "x.npy", array, **options)
        return run("score", "x.npy", "--model", head, "--json")

    fails(scored(np.ones((3, 25), np.float32)), "vectors of 25 values; this head reads 24")
    fails(scored(np.ones((3, 24), int)), "type int64")
    fails(scored(np.ones((0, 24))), "x.npy is empty: it holds no embedding.")
    fails(scored(np.ones((2, 3, 24), np.float32)), "shape (2, 3, 24)")
    fails(scored(np.array([{}], object), allow_pickle=True), "holds Python objects")
    write(tmp_path / "x.npy", b"")
    fails(run("score", "x.npy", "--model", head), "x.npy is empty: it holds no byte.")
    rows = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float16)
    rows[1, 3], rows[4, 0] = np.nan, np.inf
    said = scored(rows)
    assert [row["path"] for row in sorted(said.json, key=lambda row: row["path"])] == [
        "0", "2", "3",
    ]  # fmt: skip
    assert "skipped 1:" in said.err and "skipped 4:" in said.err
    assert "3 of 3 pass; 2 were skipped." in said.sentence
    folder = run("score", "x.npy", "--model", head, "--out", tmp_path / "parts")
    assert "3 of 3 pass; 2 were skipped." in folder.sentence
    assert len(scored(rows[0]).json) == 1, "a single vector may come without its axis"


def test_a_file_that_is_no_head_is_refused(
    run: Run, head: Path, vectors: Path, tmp_path: Path
) -> None:
    write(tmp_path / "pickle.safetensors", pickle.dumps({"up.0.weight": Bomb()}))
    Bomb.went_off = False
    tensors = load_file(head)
    del tensors["down.5.bias"]
    save_file(tensors, tmp_path / "short.safetensors")
    for name, sentence in {
        "pickle": "safetensors",
        "short": "lacks 1 of the 16 tensors",
        "nowhere": "There is no file",
    }.items():
        fails(run("score", vectors, "--model", f"{name}.safetensors"), sentence)
    assert not Bomb.went_off
    fails(run("score", "nowhere", "--model", head), "There is no file or folder nowhere.")
    write(tmp_path / "notes.txt", b"text")
    fails(run("score", "notes.txt", "--model", head), "not a picture")
    write(tmp_path / "a.png", b"bad")
    fails(run("score", "a.png", "--model", head), "does not say which encoder", "--encoder")
    assert run("score", vectors, "--model", head, "--copy", "out").code == 2


class Bomb:
    went_off = False

    def __reduce__(self) -> Any:
        return (setattr, (Bomb, "went_off", True))


@pytest.mark.slow
def test_a_folder_is_scored_filtered_and_copied_and_its_bad_files_are_told(
    done: Run, sample: Path, tmp_path: Path
) -> None:
    stored = sorted(path for path in (sample / "images").rglob("*") if path.is_file())[:6]
    source = tmp_path / "pictures"
    for number, path in enumerate(stored):
        place = source / ("deep/er" if number % 2 else "") / f"same{path.suffix}"
        place = place.with_stem("same" if number < 2 else f"=n{number}")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    write(source / "bad.jpg", truncated())
    with open(os.fsencode(source) + b"/\xff.png", "wb") as file:  # noqa: PTH123
        file.write(stored[0].read_bytes())
    words = ("score", source, "--model", "Sample@v1.1", "--json", "--out", "o.csv")
    said = done(*words, "--copy", "kept", "--keep")
    assert said.code == 0
    assert "skipped bad.jpg" in said.err and "not in UTF-8" in said.err
    rows = {row["path"]: row["aesthetic_score"] for row in said.json}
    assert len(rows) == 6 and all(not Path(path).is_absolute() for path in rows)
    assert {str(p.relative_to("kept")) for p in Path("kept").rglob("*.*")} == set(rows)
    with (tmp_path / "o.csv").open() as file:
        table = list(csv.DictReader(file))
    assert all(row["path"][0] != "=" and row["model"] == "Sample@v1.1" for row in table)

    # the same pictures, as the library knows them: embedded then, scored by the file
    settings = Settings(home=sample, min_free_gb=0, _env_file=None)  # type: ignore[call-arg]
    engine = migrate(settings)
    file_of = done("versions", "show", "Sample", "v1.1", "--json").json["file"]
    with sessions.reading(engine) as session:
        project = projects.by_name(session, "Sample")
        assert project.encoder_id is not None
        by_hash = {path.parent.name + path.stem: number for number, path in enumerate(stored)}
        known = {
            by_hash[image.sha256]: image.id
            for image in session.exec(select(Image))
            if image.sha256 in by_hash
        }
        _, x = embeddings.matrix(session, project.encoder_id, [known[n] for n in range(6)])
        order = sorted(range(6), key=lambda n: known[n])
    truth = dict(zip(order, forward(load_file(file_of), x).tolist(), strict=True))
    for path, score in rows.items():
        number = int(Path(path).stem[2:]) if "=n" in path else int("deep" in path)
        assert abs(score - truth[number]) < 0.01, "the stored vector is rounded to float16"
    engine.dispose()

    # the wrong encoder, by its fingerprint
    changed = load_file(file_of)
    metadata = {"encoder": "efficientnet_lite0/bundled", "encoder_fingerprint": "f" * 64}
    save_file(changed, tmp_path / "other.safetensors", metadata=metadata)
    fails(done("score", source, "--model", "other.safetensors"), "its scores would be wrong")


def test_copies_never_overwrite_and_never_land_in_their_own_source(tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    for name in ("a/x.png", "b/x.png", "x.png"):
        write(source / name, name.encode())
    paths = ["a/x.png", "b/x.png", "x.png"]

    def copy(into: Path, keep: bool = False) -> tuple[int, int]:
        plan = plan_targets(paths, source, into, keep=keep)
        return copy_pictures(plan), sum(item.there for item in plan)

    assert copy(tmp_path / "flat") == (3, 0)
    assert copy(tmp_path / "flat") == (0, 3), "the same files"
    kept = {path.name: path.read_text() for path in (tmp_path / "flat").iterdir()}
    assert sorted(kept) == ["x-1.png", "x-2.png", "x.png"]
    assert sorted(kept.values()) == ["a/x.png", "b/x.png", "x.png"]
    write(source / "x.png", b"another now")
    assert copy(tmp_path / "flat") == (1, 2)
    assert (tmp_path / "flat" / "x-3.png").read_bytes() == b"another now"
    for into in (source, source / "deeper"):
        with pytest.raises(Invalid, match="inside the source"):
            copy(into, keep=True)


WAYS = {"copied": copy_pictures, "moved": move_pictures, "linked": link_pictures}


@pytest.mark.parametrize("done", WAYS)
def test_placing_goes_on_past_a_file_that_is_gone_and_a_name_that_cannot_be(
    tmp_path: Path, done: str
) -> None:
    source, into = tmp_path / "pictures", tmp_path / "kept"
    for name in ("a.png", "b.png", "c.png"):
        write(source / name, name.encode())
    plan = plan_targets(["a.png", "before.png", "b.png", "c.png"], source, into, keep=False)
    (source / "b.png").unlink()  # after it was planned
    plan.append(Placement("a.png", source / "c.png", into / ("n" * 300)))
    told: list[str] = []
    placed = WAYS[done](plan, lambda path, reason: told.append(f"{path}: {reason}"))
    assert placed == 2 and sorted(p.name for p in into.iterdir()) == ["a.png", "c.png"]
    assert told[:2] == [
        f"before.png: It was not {done}: it is not there any more.",
        f"b.png: It was not {done}: no such file or directory.",
    ]
    assert len(told) == 3 and (done == "moved" or "too long" in told[2])
    assert (into / "a.png").read_bytes() == b"a.png"


@pytest.mark.parametrize("done", ["copied", "moved"])
def test_a_full_disk_leaves_whole_files_and_a_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: str
) -> None:
    source, into = tmp_path / "pictures", tmp_path / "kept"
    for name in "abcd":
        write(source / f"{name}.png", name.encode() * 1000)
    plan = plan_targets([f"{name}.png" for name in "abcd"], source, into, keep=False)
    synced: list[int] = []

    def full_at_the_third(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    def no_links(origin: Any, target: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(placing.os, "fsync", full_at_the_third)
    monkeypatch.setattr(placing.os, "link", no_links)  # as on a stick
    with pytest.raises(StorageFull, match=f"2 of 4 pictures were {done}, each whole"):
        WAYS[done](plan)
    assert {path.name: path.stat().st_size for path in into.iterdir()} == {
        "a.png": 1000, "b.png": 1000,
    }  # fmt: skip
    kept = "abcd" if done == "copied" else "cd"
    assert {path.name for path in source.iterdir()} == {f"{name}.png" for name in kept}


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("/proc/x.csv", "/proc/x.csv cannot be written: no such file or directory."),
        ("file.py/x.csv", "file.py is a file"),
        ("file.py/deep/er/x.csv", "file.py is a file"),
        ("folder.csv", "folder.csv is a folder."),
        ("n" * 300 + ".csv", "cannot be written: file name too long."),
        ("n" * 300 + "/x.csv", "cannot be written: file name too long."),
    ],
    ids=lambda text: text[:14],
)
def test_a_place_that_cannot_be_written_is_told_in_a_sentence_before_any_work(
    run: Run, head: Path, library: Any, tmp_path: Path, place: str, why: str
) -> None:
    write(tmp_path / "file.py", b"mine")
    (tmp_path / "folder.csv").mkdir()
    np.save(tmp_path / "wrong.npy", np.ones((2, 5)))  # scoring it would fail in other words
    fails(run("score", "wrong.npy", "--model", head, "--out", place), why)
    fails(run("scores", "export", "-p", "P", "--out", place), why)
    fails(run("versions", "predictions", "P", "v9.9", "--out", place), why)
    fails(run("replay", "nowhere.npz", "--out", place), why)
    fails(run("backup", place), why)
    assert (tmp_path / "file.py").read_bytes() == b"mine"


def test_a_name_without_a_known_ending_is_told_as_it_was_typed(run: Run, library: Any) -> None:
    for words in (("scores", "export", "-p", "P"), ("versions", "predictions", "P", "v1.0")):
        fails(run(*words, "--out", "x.txt"), "x.txt has no known ending. Use .csv, .jsonl")


@pytest.mark.parametrize("place", ["/proc/q", "file.py", "file.py/deep", "n" * 300])
def test_a_folder_that_cannot_be_written_is_told_in_a_sentence_before_any_work(
    run: Run, head: Path, tmp_path: Path, place: str
) -> None:
    write(tmp_path / "file.py", b"mine")
    (tmp_path / "pictures").mkdir()
    fails(run("score", "pictures", "--model", head, "--copy", place), "cannot be written: ")
    fails(run("versions", "export", "P", "v1.0", place), "cannot be written: ")
    fails(run("scores", "folders", "-p", "P", place), "cannot be written: ")
    assert (tmp_path / "file.py").read_bytes() == b"mine"


def test_what_nobody_foresaw_of_a_file_is_a_sentence_too(
    run: Run, library: Any, tmp_path: Path
) -> None:
    fails(run("scores", "import", "/proc/self/mem", "-p", "P"), "has no known ending")
    (tmp_path / "mem.csv").symlink_to("/proc/self/mem")
    fails(run("scores", "import", "mem.csv", "-p", "P"), "cannot be read: input/output error.")


# --- the loop by hand --------------------------------------------------------------------------


@pytest.mark.slow
def test_training_needs_no_worker_and_tells_what_it_published(run: Run, tmp_path: Path) -> None:
    trained_home(tmp_path / "home")
    made = run("train", "-p", "Anime", "--note", "by hand", "--recipe", "ridge", "--json")
    assert made.code == 0
    assert (made.json["version"], made.json["note"], made.json["parent"]) == (
        "v1.1", "by hand", "v1.0",
    )  # fmt: skip
    fails(run("train", "-p", "Anime", "--recipe", "magic"), "There is no recipe “magic”.")
    assert run("project", "create", "Empty").code == 0
    fails(run("train", "-p", "Empty"), "No image is scored yet")
