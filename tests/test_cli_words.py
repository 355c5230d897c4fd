"""What is typed: units, the order of arguments, home folders; and what `--help` calls them."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from trained_world import open_trained, trained_home
from web_world import drawn

from tastemaker import projects, scores
from tastemaker.cli.terminal import RateColumn
from tastemaker.database.sessions import reading, writing
from tastemaker.errors import Invalid
from tastemaker.files.placing import Placement, move_pictures, plan_targets
from tastemaker.learning.checkpoints import load_checkpoint, save_checkpoint
from tastemaker.learning.city96 import linear_head
from tests.command_line import Run, Said, fails
from tests.conftest import forward
from tests.pictures import write
from tests.test_cli import COMMANDS


@pytest.fixture
def anime(tmp_path: Path, run: Run) -> Run:
    trained_home(tmp_path / "home")
    return run


def test_a_bar_tells_how_many_a_second_or_how_long_each_takes() -> None:
    def told(speed: float | None) -> str:
        return RateColumn().render(SimpleNamespace(finished_speed=None, speed=speed)).plain

    assert [told(speed) for speed in (None, 0, 0.04, 0.5, 1234)] == [
        "", "", "25 s each", "0.5/s", "1,234/s",
    ]  # fmt: skip


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_names_what_is_typed_in_words(run: Run, words: tuple[str, ...]) -> None:
    shown = run(*words, "--help").out
    assert "<" not in shown.replace("<=x<=", "").replace("x>=", ""), shown
    assert "{" not in shown and "list[" not in shown and "FunctionType" not in shown


def test_help_and_reference_name_every_kind_of_source(run: Run) -> None:
    shown = " ".join(run("score", "--help").out.replace("│", " ").split())
    told = (Path(__file__).parent.parent / "docs" / "reference.md").read_text()
    for text in (shown, told):
        assert "@list.txt, or - for standard input" in text and ".npy, .npz, .parquet" in text
        assert "as clip-retrieval (img_emb, metadata) or --embeddings-out made them" in text


# --- the order of arguments ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        (["project", "show"], []), (["stats"], []), (["versions", "list"], []),
        (["versions", "show"], ["v1.0"]), (["versions", "activate"], ["v1.0"]),
        (["versions", "predictions"], ["v1.0"]), (["card"], ["v1.0"]), (["card"], []),
        (["scores", "export"], []), (["slices", "list"], []), (["test-run", "list"], []),
        (["jobs", "list"], []), (["versions", "export"], ["v1.0", "out"]),
    ],
    ids=str,
)  # fmt: skip
def test_the_project_comes_first_or_as_an_option_and_means_the_same(
    anime: Run, words: list[str], rest: list[str]
) -> None:
    first = anime(*words, "Anime", *rest, "--json")
    assert (first.code, first.err) == (0, "") and first.json is not None
    for named in (["-p", "anime"], ["--project", "Anime"]):
        assert anime(*words, *rest, *named, "--json").json == first.json
        assert anime(*words, *named, *rest, "--json").json == first.json


def test_files_and_folders_follow_the_project_too(anime: Run, tmp_path: Path) -> None:
    anime("scores", "export", "Anime", "--out", "s.csv")
    both = [anime("scores", "import", *words, "--json").json for words in (
        ["Anime", "s.csv"], ["s.csv", "-p", "Anime"],
    )]  # fmt: skip
    assert both[0] == both[1] and both[0]["unchanged"] > 0
    for words in (["Anime", "a"], ["b", "--project", "Anime"]):
        assert anime("scores", "folders", *words, "--json").json["written"] == 80
    file = anime("versions", "show", "Anime", "v1.0", "--json").json["file"]
    shutil.copy(file, tmp_path / "h.safetensors")
    for words in (["New", "h.safetensors"], ["h.safetensors", "-p", "Newer"]):
        said = anime("versions", "import", *words, "--encoder", "no slash")
        assert said.code == 1 and "not the name of an encoder" in said.sentence
    replayed = [
        anime("replay", *words, "--seeds", 1, "--budget", 55, "--strategies", "random", "--json")
        for words in (["Anime", "Pictures"], ["Pictures", "-p", "Anime"])
    ]
    assert [said.code for said in replayed] == [0, 0]
    assert replayed[0].json["strategies"] == replayed[1].json["strategies"]


@pytest.mark.parametrize(
    "words",
    [
        ["versions", "show", "Anime"], ["versions", "show", "v1.0", "x", "-p", "Anime"],
        ["versions", "diff", "Anime", "v1.0"], ["stats"], ["stats", "Anime", "Anime"],
        ["stats", "Anime", "-p", "Anime"], ["embed", "Anime", "-p", "Anime"],
        ["scores", "import", "x.csv"], ["replay", "a", "b", "c"], ["card"],
        ["project", "set", "Anime"], ["slices", "add", "Anime"], ["test-run", "start", "Anime"],
        ["slices", "add", "Anime", "--tag", "a", "--text", "b"], ["jobs", "show", "many"],
        ["score", "x", "--model", "y", "--copy", "a", "--move", "b"],
        ["score", "x", "--model", "y", "--symlink", "a", "--move", "b"],
        ["score", "x", "--model", "y", "--pass", "--min", "50"],
        ["score", "x", "--model", "y", "--batch-size", "0"],
        ["score", "x.npy", "--model", "y", "--move", "b"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_too_few_words_and_too_many_are_wrong_usage(anime: Run, words: list[str]) -> None:
    said = anime(*words)
    assert said.code == 2 and "Traceback" not in said.err


@pytest.mark.usefixtures("jobs_here")
def test_a_word_that_is_a_file_stays_one_whatever_the_project_is_called(
    anime: Run, tmp_path: Path
) -> None:
    for folder in ("Anime", "more"):
        (tmp_path / folder).mkdir()
        drawn(len(folder)).save(tmp_path / folder / "a.png")
    anime("import", "Anime", "more", "--collection", "Both")
    listed = anime("project", "show", "Anime", "--json").json
    assert listed["images"] == 80, "both are folders, and no project was named"
    fails(anime("import", "Anmie", "more"), "no file or folder “Anmie”, and no project", "“Anime”")


# --- units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "readings"),
    [
        (["--min", "0.6"], ["0.6 % or 60 %?", "write 60", "0.6%"]),
        (["--max", "1"], ["1 % or 100 %?", "write 100", "1%"]),
        (["--min", "80", "--max", "20"], ["Nothing lies between --min 80 and --max 20"]),
        (["--min", "120"], ["percentages"]),
        (["--top", "0%"], ["above 0 %"]),
        (["--top", "120%"], ["at most 100 %"]),
    ],
    ids=str,
)
def test_a_percentage_that_reads_two_ways_is_refused_with_both(
    run: Run,
    head: Path,
    vectors: Path,
    typed: list[str],
    readings: list[str],
) -> None:
    fails(run("score", vectors, "--model", head, *typed), *readings)


@pytest.mark.parametrize(
    ("option", "typed", "such_as"),
    [
        ("--min", "sixty", "60, or 60%"),
        ("--max", "nan", "60, or 60%"),
        ("--max", "inf%", "60, or 60%"),
        ("--top", "many", "100, or 10%"),
        ("--top", "2.5", "100, or 10%"),
    ],
)
def test_what_is_no_number_is_told_in_plain_words(
    run: Run, head: Path, vectors: Path, option: str, typed: str, such_as: str
) -> None:
    refused = run("score", vectors, "--model", head, option, typed)
    assert refused.code == 2 and f"“{typed}” is no number; write {such_as}" in unboxed(refused)


def unboxed(said: Said) -> str:
    return " ".join(said.err.replace("│", " ").split())


@pytest.mark.parametrize("option", ["--out", "--copy", "--embeddings-out", "--sheet"])
def test_a_lone_dash_is_no_place_to_write_to(
    run: Run, head: Path, pictures: Path, option: str
) -> None:
    """Who writes it wants the rows on standard output, and would find a folder called “-”."""
    refused = run("score", pictures, "--model", head, option, "-")
    assert refused.code == 2 and f"'{option}': a file or a folder is meant" in unboxed(refused)
    assert not Path("-").exists() and not refused.out


def test_a_percent_sign_settles_which_of_the_two_is_meant(
    run: Run,
    head: Path,
    vectors: Path,
) -> None:
    few = run("score", vectors, "--model", head, "--max", "1%", "--json").json
    assert all(row["percent"] <= 1 for row in few)
    same = [run("score", vectors, "--model", head, "--min", text, "--json").json
            for text in ("40", "40%", "40.0")]  # fmt: skip
    assert same[0] == same[1] == same[2] and same[0]


def test_a_share_given_in_percent_is_refused_and_its_sign_is_understood(run: Run) -> None:
    for typed in ("60", "1.5"):
        fails(run("project", "create", "P", "--threshold", typed), "a share from 0 to 1 is meant")
    assert run("project", "create", "P", "--threshold", "60%", "--json").json["threshold"] == 0.6
    fails(run("project", "set", "P", "--threshold", "70"), "reads as 70 %", "0.7")
    assert run("project", "set", "P", "--threshold", "0.7", "--json").json["threshold"] == 0.7
    assert run("project", "set", "P", "--threshold", "many").code == 2
    fails(run("replay", "x", "--threshold", "0.5"), "0.5 % or 50 %?")
    fails(run("slices", "add", "P", "--text", "a", "--share", "0.5"), "0.5 % or 50 %?")


def test_the_api_refuses_a_percentage_where_it_takes_a_share(tmp_path: Path) -> None:
    home = open_trained(trained_home(tmp_path / "home"))
    answer = home.world.client.post("/api/v1/projects/1/settings", json={"threshold": 60})
    assert answer.status_code == 422 and "60 % is 0.6" in answer.text
    home.engine.dispose()


# --- what passes ---------------------------------------------------------------------------------


def passing(said: Said) -> str:
    return next(line for line in said.err.splitlines() if " pass" in line)


def test_it_is_said_how_many_of_how_many_pass(
    run: Run,
    head: Path,
    vectors: Path,
    tmp_path: Path,
) -> None:
    truth = 100 * forward(load_file(head), np.load(vectors))
    words = ("score", vectors, "--model", head)
    assert passing(run(*words)) == "300 of 300 pass."
    n = int((truth >= 40).sum())
    assert passing(run(*words, "--min", 40)) == f"{n} of 300 pass (40–100 %)." and n > 9
    assert passing(run(*words, "--top", 10)) == "10 of 300 pass."
    best = run(*words, "--top", "10%", "--json")
    assert passing(best) == "30 of 300 pass." and len(best.json) == 30
    assert best.json == run(*words, "--top", 30, "--json").json
    assert len(run(*words, "--top", "0.1%", "--json").json) == 1
    assert run(*words, "--top", "10%", "--out", "o.jsonl").out.startswith("30 rows written")
    nothing = run(*words, "--min", "99.9999", "--json")
    assert (nothing.code, nothing.json) == (0, []) and passing(nothing).startswith("0 of 300 pass")
    assert run(*words, "--min", "99.9999", "--out", "o.csv").code == 0
    assert Path("o.csv").read_text().splitlines() == ["path,aesthetic_score,percent,model"]


def test_pass_means_the_threshold_in_the_file_of_the_version(
    run: Run,
    head: Path,
    vectors: Path,
    tmp_path: Path,
) -> None:
    save_file(load_file(head), tmp_path / "t.safetensors", metadata={"threshold": "0.4"})
    scored = run("score", vectors, "--model", "t.safetensors", "--pass", "--json")
    assert all(row["percent"] >= 40 for row in scored.json) and scored.json
    assert passing(scored).endswith("pass (40–100 %).")
    assert passing(run("score", vectors, "--model", head, "--pass")).endswith("(50–100 %).")


# --- copying, linking, moving --------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures, two of a name, and a head that reads them."""
    for name in ("a.png", "b.png", "c.png", "deep/a.png", "deep/d.png"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn(sum(name.encode())).save(path)
    features = np.ones(1280, np.float32)
    tensors = linear_head(features / 1280, 0.0, 0 * features, features)
    save_checkpoint(tmp_path / "h.safetensors", tensors, {"encoder": "efficientnet_lite0/bundled"})
    assert load_checkpoint(tmp_path / "h.safetensors").features == 1280
    return tmp_path / "pictures"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


@pytest.mark.slow
def test_what_passes_is_linked_or_moved_and_a_dry_run_writes_nothing(
    run: Run, pictures: Path, tmp_path: Path
) -> None:
    words = ("score", pictures, "--model", "h.safetensors", "--device", "cpu", "--batch-size", 2)
    before = contents(tmp_path)
    for way in ("copy", "symlink", "move"):
        said = run(*words, f"--{way}", "good", "--out", "o.csv", "--dry-run", "--json")
        assert said.code == 0 and "Nothing was written." in said.err
        assert "5 pictures would be" in said.err
        assert sorted(Path(row["target"]).name for row in said.json) == [
            "a-1.png", "a.png", "b.png", "c.png", "d.png",
        ]  # fmt: skip
    assert contents(tmp_path) == before | {
        name: content for name, content in contents(tmp_path).items() if name.startswith("home/")
    }
    assert not (tmp_path / "good").exists()
    text = run(*words, "--move", "good", "--keep", "--dry-run").out
    assert "→ good/deep/a.png" in text

    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "b.png").write_bytes(b"another one")
    assert run(*words, "--symlink", "good", "--top", 5).code == 0
    links = {path.name: path for path in (tmp_path / "good").iterdir() if path.is_symlink()}
    assert sorted(links) == ["a-1.png", "a.png", "b-1.png", "c.png", "d.png"]
    assert all(path.resolve().is_relative_to(pictures.resolve()) for path in links.values())
    assert (tmp_path / "good" / "b.png").read_bytes() == b"another one"
    again = run(*words, "--symlink", "good")
    assert "0 pictures linked in good; 5 were there already." in again.err

    was = contents(pictures)
    (tmp_path / "moved" / "deep").mkdir(parents=True)
    (tmp_path / "moved" / "deep" / "d.png").write_bytes(b"another one")
    (tmp_path / "moved" / "c.png").write_bytes(was["c.png"])
    moved = run(*words, "--move", "moved", "--keep")
    assert moved.code == 0 and "4 pictures moved into moved; 1 was there already." in moved.err
    now = contents(tmp_path / "moved")
    assert now.pop("deep/d.png") == b"another one"
    assert now == {name.replace("deep/d", "deep/d-1"): content for name, content in was.items()}
    assert contents(pictures) == {"c.png": was["c.png"]}, "what lay there already was left"
    for way in ("symlink", "move"):
        fails(run(*words, f"--{way}", pictures / "in"), "inside the source")
    fails(run(*words, "--device", "tpu"), "There is no device “tpu” here.", "cpu")
    (tmp_path / "flat").write_bytes(b"a file")
    fails(
        run(*words, "--move", "flat"),
        "flat cannot be written: it is a file, and a folder is needed",
        "Name a folder",
    )
    assert contents(pictures) == {"c.png": was["c.png"]}


def test_a_plan_knows_what_vanished_what_is_the_same_and_what_has_the_name(tmp_path: Path) -> None:
    source, into = tmp_path / "pictures", tmp_path / "good"
    for name in ("x.png", "a/x.png", "b/x.png", "y.png", "z.png"):
        write(source / name, name[-5:].encode() if name != "b/x.png" else b"another")
    write(into / "y.png", b"y.png")
    (into / "z.png").mkdir()
    (into / "gone.png").symlink_to(tmp_path / "nowhere")
    paths = ["x.png", "a/x.png", "b/x.png", "y.png", "z.png", "gone.png"]
    plan = plan_targets(paths, source, into, keep=False)
    goes = {item.path: (item.target and item.target.name, item.there) for item in plan}
    assert goes == {
        "x.png": ("x.png", False), "a/x.png": ("x.png", True), "b/x.png": ("x-1.png", False),
        "y.png": ("y.png", True), "z.png": ("z-1.png", False), "gone.png": (None, False),
    }  # fmt: skip
    assert move_pictures(plan) == 3
    assert (into / "x-1.png").read_bytes() == b"another" and (into / "z.png").is_dir()
    assert {path.name for path in source.rglob("*.png")} == {"x.png", "y.png"}, "the same stay"
    with pytest.raises(Invalid, match="cannot be made"):
        move_pictures([Placement("y.png", source / "y.png", into / "y.png")])
    assert (source / "y.png").exists() and (into / "y.png").read_bytes() == b"y.png"


# --- ~ -------------------------------------------------------------------------------------------


def test_a_home_folder_is_meant_wherever_a_path_is_typed(
    run: Run,
    head: Path,
    vectors: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.setenv("HOME", str(mine))
    shutil.copy(head, mine / "h.safetensors")
    shutil.copy(vectors, mine / "x.npy")
    said = run("score", "~/x.npy", "--model", "~/h.safetensors", "--out", "~/o.csv")
    assert said.code == 0 and (mine / "o.csv").is_file()
    assert not (tmp_path / "~").exists()
    fails(run("score", "~nobody-here/x.npy", "--model", "~/h.safetensors"), "~nobody-here/x.npy")

    home = open_trained(trained_home(tmp_path / "home"))
    rows = run("scores", "export", "Anime", "--out", "~/s.csv")
    assert rows.code == 0 and (mine / "s.csv").is_file()
    assert run("scores", "import", "Anime", "~/s.csv", "--json").json["recorded"] == 0
    assert run("versions", "export", "Anime", "v1.0", "~/out").code == 0
    assert (mine / "out").is_dir()
    (mine / "new").mkdir()
    drawn(1).save(mine / "new" / "a.png")
    by_form = home.world.client.post("/projects/1/add/folder", data={"folder": "~/new"})
    assert by_form.status_code == 303
    answer = home.world.client.post("/api/v1/projects/1/imports", json={"folder": "~/new"})
    assert answer.status_code == 202, answer.text
    gone = home.world.client.post("/api/v1/projects/1/imports", json={"folder": "~nobody-here"})
    assert gone.status_code == 404, gone.text
    home.engine.dispose()


# --- counts --------------------------------------------------------------------------------------


def test_stats_and_the_list_of_projects_count_the_same(anime: Run, tmp_path: Path) -> None:
    home = open_trained(tmp_path / "home")
    tried = home.add(3, "Tried", "test-run", seed=9)
    home.score({tried[0]: 4})
    with writing(home.engine) as session:
        session.add(projects.RemovedImage(project_id=1, image_id=5))
    listed = anime("project", "list", "--json").json[0]
    told = anime("stats", "Anime", "--json").json
    assert (listed["images"], listed["labels"]) == (79, 80) == (told["images"], told["labels"])
    assert sum(told["scores"].values()) == 80 and told["raw"] == 0
    text = anime("stats", "Anime").out.splitlines()
    assert text[0] == "79 images in dataset. 1 more, from outside the pool, are scored."
    with reading(home.engine) as session:
        assert scores.count_labels(session, 1) == 80
    home.engine.dispose()


def test_json_is_the_same_shape_as_before(anime: Run) -> None:
    told: Any = json.loads(anime("stats", "-p", "Anime", "--json").out)
    assert set(told["scores"]) == {str(n) for n in range(11)} and "raw" in told
