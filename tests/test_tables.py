"""Tables of scores as people have them: every spelling of a path, every make of a file, all bad
rows in one answer."""

import io
import json
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlmodel import Session, select

from tastemaker import images, projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import Image, Label, ScoreEvent
from tastemaker.errors import Conflict, Invalid, NotFound, TastemakerError
from tastemaker.images import FileStamp
from tastemaker.scores import imported_tables, row_files, score_files
from tastemaker.scores.references import References
from tastemaker.scores.scales import Scale, parse_scale
from tastemaker.scores.score_files import BadRows, ImportedScores, import_scores
from tests.conftest import add_images
from tests.pictures import write

ROOT = Path("/photos/set")
FILES = ("img0.png", "img1.png", "sub/img7.png", "other/img7.png", "Café/é.png", "a\u2028b.png")


@pytest.fixture
def library(engine: Engine) -> Engine:
    """Project P over the files above: images 1, 2, … in their order."""
    with sessions.writing(engine) as session:
        project = projects.create(session, "P")
        for image, name in zip(
            add_images(session, len(FILES), project=project), FILES, strict=True
        ):
            image.name = Path(name).name
            images.note_file(session, image, ROOT / name, FileStamp(1, 1))
    return engine


def bring_in(engine: Engine, file: Path, content: str | bytes, **options: Any) -> ImportedScores:
    write(file, content if isinstance(content, bytes) else content.encode())
    return import_scores(engine, "P", file, **options)


def recorded(engine: Engine) -> dict[int, int | None]:
    with sessions.reading(engine) as session:
        events = session.exec(select(ScoreEvent).order_by(ScoreEvent.id))
        return {event.image_id: event.value for event in events}


# --- forms ---------------------------------------------------------------------------------------

IMG0, IMG1 = f"{ROOT}/img0.png", f"{ROOT}/img1.png"
PLAIN = f"path,score\n{IMG0},7\n{IMG1},0\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.csv", PLAIN),
        ("s.csv", "\ufeff" + PLAIN.replace("\n", "\r\n")),
        ("s.csv", PLAIN.replace("\n", "\r")),
        ("s.csv", PLAIN.replace(",", ";")),
        ("s.csv", PLAIN.replace(",", "\t")),
        ("s.tsv", PLAIN.replace(",", "\t")),
        ("s.csv", PLAIN.replace(",", ", ").replace("path", " Path").replace("score", "SCORE ")),
        ("s.csv", PLAIN.replace("path", "filename").replace("score", "rating")),
        ("s.csv", PLAIN.encode("utf-16")),
        ("s.csv", PLAIN.encode("utf-16-le")),
        ("s.csv", PLAIN + "\n,\n , \n"),
        ("s.csv", "\n \n" + PLAIN.replace("\n", "\n\n")),
        ("s.csv", "sep=;\r\n" + PLAIN.replace(",", ";")),
        ("s.csv", "sep=#\n\n" + PLAIN.replace(",", "#")),
        ("s.csv", PLAIN.replace(",7", ',"7.0"')),
        ("s.csv", f"id,path,note,score\n1,{IMG0},,7\n2,{IMG1},x,0\n"),
        (
            "s.jsonl",
            f'{{"path": "{IMG0}", "score": 7.0}}\n\n{{"Path": "{IMG1}", "score": "0"}}\r\n',
        ),
        ("s.json", json.dumps([{"path": IMG0, "score": 7}, {"path": IMG1, "score": 0}])),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_table_is_read_whatever_program_wrote_it(
    library: Engine, tmp_path: Path, name: str, content: str | bytes
) -> None:
    told = bring_in(library, tmp_path / name, content)
    assert (told.recorded, told.bad) == (2, [])
    assert recorded(library) == {1: 7, 2: 0}


def parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def test_an_open_quotation_mark_swallows_no_rows(library: Engine, tmp_path: Path) -> None:
    """Everything beneath it would be one cell, and left out as one bad row."""
    swallowed = f'path,score\n{IMG0},7\n"{IMG1},0\n{ROOT}/sub/img7.png,5\n'
    with pytest.raises(Invalid, match=r"In row 2 of s\.csv a quotation mark is opened and never"):
        bring_in(library, tmp_path / "s.csv", swallowed)
    header = f'"path,score\n{IMG0},7\n'
    with pytest.raises(Invalid, match=r"In row 1 of s\.csv a quotation mark"):
        bring_in(library, tmp_path / "s.csv", header)
    several = f'path,score,note\n{IMG0},7,"two\nlines, ""so"""\n'
    assert bring_in(library, tmp_path / "s.csv", several).recorded == 1


def test_a_table_without_a_header_is_told_what_it_lacks(library: Engine, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no row beneath its first line") as refused:
        bring_in(library, tmp_path / "s.csv", f"{IMG0},7\n")
    assert "names the columns" in refused.value.hint


@pytest.mark.parametrize(
    "columns",
    [
        {"path": [IMG0, IMG1], "score": [7, 0]},
        {"path": pa.array([IMG0.encode(), IMG1.encode()]), "score": [7.0, 0.0]},
        {"path": pa.array([IMG0, IMG1], pa.large_string()), "score": pa.array([7, 0], pa.uint8())},
        {"path": pa.array([None, IMG0, IMG1]), "score": pa.array([None, 7, 0])},
        {"path": pa.array([IMG0, IMG1]).dictionary_encode(), "score": ["7", "0"]},
        {
            "Path": [IMG0, IMG1], "score": [7, 0],
            "scored_at": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")),
            "embedding": pa.array([[0.5], [0.5]], pa.large_list(pa.float32())),
        },
        {
            "path": [IMG0, IMG1], "score": [7, 0],
            "scored_at": pa.array([1_700_000_000_123_456_789] * 2, pa.timestamp("ns", "+05:30")),
        },
    ],
)  # fmt: skip
def test_parquet_of_other_makes_is_read(
    library: Engine, tmp_path: Path, columns: dict[str, Any]
) -> None:
    told = bring_in(library, tmp_path / "s.parquet", parquet(columns))
    assert (told.recorded, told.bad) == (2, [])
    assert recorded(library) == {1: 7, 2: 0}
    if "scored_at" in columns:
        with sessions.reading(library) as session:
            at = session.exec(select(ScoreEvent.at).where(ScoreEvent.image_id == 1)).one()
        assert at.replace(tzinfo=UTC) == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)


def test_numbers_for_paths_name_no_image_and_no_number_is_no_score(
    library: Engine, tmp_path: Path
) -> None:
    content = parquet({"path": [1, 2], "score": [7.0, float("nan")]})
    with pytest.raises(BadRows) as told:
        bring_in(library, tmp_path / "s.parquet", content)
    assert [bad.reason for bad in told.value.bad] == [
        "There is no image “1” in the library.", "It holds no score.",
    ]  # fmt: skip


def test_a_name_with_a_line_separator_goes_out_and_comes_back(
    library: Engine, tmp_path: Path
) -> None:
    bring_in(library, tmp_path / "s.csv", f"path,score,annotator\n{ROOT}/{FILES[5]},9,Jo\u2028\n")
    rows = score_files.export_scores(library, "P")
    assert rows[0]["path"] == f"{ROOT}/a\u2028b.png"
    for ending in row_files.ENDINGS:
        score_files.write_scores(rows, tmp_path / f"out{ending}")
        told = import_scores(library, "P", tmp_path / f"out{ending}")
        assert (told.recorded, told.unchanged, told.bad) == (0, 1, [])


def test_a_column_that_is_there_twice_is_refused(library: Engine, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="the column “path” twice"):
        bring_in(library, tmp_path / "s.csv", "path,score,Path\na,1,b\n")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("s.xlsx", "as CSV"), ("head.safetensors", "versions import"), ("s.md", "Use .csv")],
)
def test_what_is_no_table_gets_a_pointer(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(Invalid, match=hint):
        row_files.read_rows(write(tmp_path / name, b"x"))


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "image"),
    [
        (str(ROOT / "img0.png"), 1),
        ("img0.png", 1),
        ("./img0.png", 1),
        ("sub/img7.png", 3),
        ("set/other/img7.png", 4),
        (f"{ROOT}/../set/./img1.png", 2),
        (unicodedata.normalize("NFD", f"{ROOT}/Café/é.png"), 5),
        (unicodedata.normalize("NFD", "é.png"), 5),
        (unicodedata.normalize("NFD", "Café/é.png"), 5),
        ("C:\\pics\\img0.png", 1),
        ("C:\\\\pics\\\\img0.png", 1),
        ("D:/pics/sub/img7.png", 3),
        ("\\\\nas\\photos\\SET\\Other\\img7.png", 4),
        ("sub\\img7.png", 3),
        (f"file://{ROOT}/sub/img7.png", 3),
        (f"file://localhost{ROOT}/sub/img%37.png", 3),
    ],
)
def test_a_path_of_any_make_is_found_under_the_imported_folders(
    library: Engine, tmp_path: Path, typed: str, image: int
) -> None:
    with sessions.reading(library) as session:
        assert References(session, tmp_path).find(typed).id == image


def test_a_hash_is_found_in_capitals_and_a_home_folder_by_its_sign(
    library: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(ROOT))
    with sessions.reading(library) as session:
        references = References(session, ROOT / "sub")
        first = session.get_one(Image, 1)
        assert references.find(first.sha256.upper() + " ").id == 1
        assert references.find("~/img1.png").id == 2
        assert references.find("../img1.png").id == 2, "relative to the file"
        assert references.find("img7.png").id == 3, "the one beside the file"
        assert references.by_ending == 0


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        ("img7.png", Conflict),
        ("C:\\img7.png", Conflict),
        ("/elsewhere/img0.png", NotFound),
        ("else/img0.png", NotFound),
        ("C:\\gone.png", NotFound),
        ("../img0.png", NotFound),
        ("img0.png\0", NotFound),
        ("\ud800", NotFound),
        ("n" * 5000, NotFound),
        ("\\", NotFound),
        ("0" * 64, NotFound),
    ],
)
def test_nothing_is_guessed(
    library: Engine, tmp_path: Path, typed: str, error: type[TastemakerError]
) -> None:
    with sessions.reading(library) as session, pytest.raises(error):
        References(session, tmp_path).find(typed)


def test_a_double_is_found_under_its_other_name(library: Engine, tmp_path: Path) -> None:
    with sessions.writing(library) as session:
        first = session.get_one(Image, 1)
        images.note_file(session, first, ROOT / "deep" / "again.png", FileStamp(1, 1))
    with sessions.reading(library) as session:
        references = References(session, tmp_path)
        assert references.find("deep/again.png").id == references.find("P:\\again.png").id == 1
        assert references.by_ending == 2


# --- bad rows ------------------------------------------------------------------------------------

BAD = f"""path,score
{IMG0},7
nope.png,5
{IMG1},11
gone.png,5
,5
{ROOT}/sub/img7.png,
"""


def test_all_bad_rows_are_told_in_one_answer_and_the_others_recorded_on_demand(
    library: Engine, tmp_path: Path
) -> None:
    with pytest.raises(BadRows) as told:
        bring_in(library, tmp_path / "s.csv", BAD)
    error = told.value
    assert [bad.where for bad in error.bad] == ["Row 2", "Row 3", "Row 4", "Row 5", "Row 6"]
    assert error.message.splitlines() == [
        "5 of the 6 rows of s.csv cannot be used, so nothing was recorded:",
        "Row 2: There is no image “nope.png” in the library.",
        "Row 3: “11” is not a score.",
        "Row 4: There is no image “gone.png” in the library.",
        "Row 5: It names no image; its columns are path, score.",
        "Row 6: It holds no score.",
    ]
    assert "--skip-bad-rows" in error.hint and "go from 5 to 11" in error.hint
    assert recorded(library) == {}
    good = import_scores(library, "P", tmp_path / "s.csv", skip_bad_rows=True)
    assert (good.recorded, good.bad) == (1, error.bad)
    assert recorded(library) == {1: 7}
    with pytest.raises(BadRows, match="Nothing was recorded"):
        bring_in(library, tmp_path / "s.csv", "path,score\nnope,5\n", skip_bad_rows=True)


def test_rows_with_the_same_fault_share_a_line(library: Engine, tmp_path: Path) -> None:
    with pytest.raises(BadRows) as told:
        bring_in(library, tmp_path / "s.csv", "path,stern\n" + f"{IMG0},5\n" * 500)
    assert len(told.value.message.splitlines()) == 2
    assert "Row 10 and 490 more: It holds no score." in told.value.message


# --- scales --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "values", "scores"),
    [
        ("1-5", "12345", [0, 2, 5, 8, 10]),
        ("0–100", ["0", "85%", "54", "100"], [0, 9, 5, 10]),
        ("0-1", ["0", "0.85", "0,3", "1.0"], [0, 9, 3, 10]),
        ("5-1", "15", [10, 0]),
        ("-1 to 1", ["-1", "0", "1"], [0, 5, 10]),
        ("0-10", range(11), list(range(11))),
    ],
)
def test_a_scale_maps_its_ends_to_the_ends(typed: str, values: Any, scores: list[int]) -> None:
    assert [parse_scale(typed).score(value) for value in values] == scores


@hypothesis.given(st.floats(0, 1), st.floats(-100, 100), st.floats(0.5, 100))
def test_a_scale_treats_both_its_ends_alike(share: float, worst: float, width: float) -> None:
    value = worst + share * width
    scale, turned = Scale(worst, worst + width), Scale(worst + width, worst)
    hypothesis.assume(worst <= value <= worst + width)
    assert scale.score(value) + turned.score(value) == 10


@pytest.mark.parametrize("typed", ["", "5", "1-1", "a-b", "1-5-9", "nan-1", "1-inf"])
def test_what_is_no_scale_is_refused(typed: str) -> None:
    with pytest.raises(Invalid, match="is not a scale"):
        parse_scale(typed)


@pytest.mark.parametrize("value", ["6", "0", True, None, "", "x", "1_0", float("nan")])
def test_what_is_not_on_the_scale_is_a_bad_row(value: Any) -> None:
    with pytest.raises(Invalid, match="not on the scale 1–5"):
        Scale(1, 5).score(value)


def test_the_range_found_is_told_and_mapped(library: Engine, tmp_path: Path) -> None:
    content = f"path,score\n{IMG0},4\n{IMG1},1\n{ROOT}/sub/img7.png,5\n"
    told = bring_in(library, tmp_path / "s.csv", content)
    assert told.range_line(False).startswith("The scores in the file go from 1 to 5.")
    assert told.range_line(False).endswith("say so (--scale 1-5).")
    again = import_scores(library, "P", tmp_path / "s.csv", scale=parse_scale("1-5"))
    assert again.recorded == 3 and recorded(library) == {1: 8, 2: 0, 3: 10}
    assert again.range_line(True) == "The scores in the file go from 1 to 5."
    halves = f"path,score\n{IMG0},7.5\n{IMG1},2\n"
    with pytest.raises(BadRows, match=r"not a score") as refused:
        bring_in(library, tmp_path / "s.csv", halves)
    assert "To round them to whole scores, say so (--scale 0-10)." in refused.value.hint
    percent = f"path,score\n{IMG0},85\n{IMG1},40\n"
    with pytest.raises(BadRows, match=r"--scale 0-100"):
        bring_in(library, tmp_path / "s.csv", percent)


# --- damage --------------------------------------------------------------------------------------


def damaged(seed: int) -> tuple[str, bytes]:
    """A table of scores with some of its bytes cut out, doubled or replaced."""
    random = np.random.default_rng(seed)
    rows = {"path": [IMG0, IMG1] * 5, "score": [3, 4] * 5}
    ending = ("csv", "jsonl", "json", "parquet", "tsv")[seed % 5]
    listed = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    whole = {
        "csv": PLAIN.encode(), "tsv": PLAIN.replace(",", "\t").encode("utf-16"),
        "json": json.dumps(listed).encode(),
        "jsonl": "\n".join(map(json.dumps, listed)).encode(), "parquet": parquet(rows),
    }[ending]  # fmt: skip
    content = bytearray(whole)
    for _ in range(random.integers(1, 4)):
        start = int(random.integers(len(content)))
        stop = start + int(random.integers(1, 12))
        with_what = [b"", bytes(content[start:stop]) * 2, random.bytes(stop - start), b"\0\n\"'"]
        content[start:stop] = with_what[random.integers(4)]
    return f"s.{ending}", bytes(content)


def test_damaged_tables_are_read_or_refused_in_a_sentence(library: Engine, tmp_path: Path) -> None:
    outcomes = set()
    for seed in range(250):
        name, content = damaged(seed)
        file = write(tmp_path / name, content)
        try:
            rows = row_files.read_rows(file)
        except TastemakerError as error:
            assert error.message.endswith("."), (seed, error.message)
            outcomes.add("refused")
            continue
        outcomes.add("read")
        assert all(isinstance(key, str) for row in rows for key in row.cells)
        try:
            import_scores(library, "P", file)
        except TastemakerError:
            outcomes.add("bad rows")
    assert outcomes == {"read", "refused", "bad rows"}


def test_the_session_of_a_refused_file_leaves_nothing(library: Engine, tmp_path: Path) -> None:
    with pytest.raises(BadRows):
        bring_in(library, tmp_path / "s.csv", f"path,score,annotator\n{IMG0},5,New\nx,5,New\n")
    with sessions.reading(library) as session:
        assert _people(session) == []


def _people(session: Session) -> list[str]:
    from tastemaker.database.tables import Annotator

    return list(session.exec(select(Annotator.name).where(Annotator.name == "New")))


# --- taking a table back -------------------------------------------------------------------------


def labelled(engine: Engine) -> dict[int, float]:
    with sessions.reading(engine) as session:
        return {label.image_id: label.value for label in session.exec(select(Label))}


def say(engine: Engine, name: str, image_id: int, value: int) -> int:
    with sessions.writing(engine) as session:
        project, person = projects.by_name(session, "P"), projects.annotator(session, name)
        return scores.record(session, project, image_id, person, "set", value).id


def test_a_table_is_taken_back_as_one_and_what_stood_before_or_came_since_counts(
    library: Engine, tmp_path: Path
) -> None:
    say(library, "Ada", 1, 2)
    rows = f"{IMG0},7,Ada\n{IMG1},8,Ada\n{IMG1},4,Bob\n{ROOT}/sub/img7.png,5,\n"
    told = bring_in(library, tmp_path / "t.csv", f"path,score,annotator\n{rows}")
    other = bring_in(library, tmp_path / "u.csv", f"path,score\n{ROOT}/other/img7.png,6\n")
    assert labelled(library) == {1: 7.0, 2: 6.0, 3: 5.0, 4: 6.0} and told.recorded == 4
    say(library, "Cleo", 3, 1)  # somebody else's counts too
    with sessions.reading(library) as session:
        tables = imported_tables.listed(session, projects.by_name(session, "P"))
        project_id = projects.by_name(session, "P").id
    assert [(t.file, t.recorded, t.images) for t in tables] == [("u.csv", 1, 1), ("t.csv", 4, 3)]
    assert [t.id for t in tables] == [other.table, told.table]

    back = imported_tables.take_back(library, project_id, told.table)
    assert (back.undone, back.corrected) == (4, 1)
    assert labelled(library) == {1: 2.0, 3: 1.0, 4: 6.0}
    before = recorded_events(library)
    again = imported_tables.take_back(library, project_id, told.table)
    assert (again.undone, again.corrected) == (0, 1) and recorded_events(library) == before
    with sessions.writing(library) as session:
        project = projects.by_name(session, "P")
        assert scores.rebuild_labels(session, project) == 3
        elsewhere = projects.create(session, "Elsewhere").id
    assert labelled(library) == {1: 2.0, 3: 1.0, 4: 6.0}
    for place, table in ((elsewhere, other.table), (project_id, 4711)):
        with pytest.raises(NotFound, match="no such imported table"):
            imported_tables.take_back(library, place, table)
    assert bring_in(library, tmp_path / "t.csv", f"path,score,annotator\n{rows}").recorded == 4


def recorded_events(engine: Engine) -> int:
    with sessions.reading(engine) as session:
        return len(session.exec(select(ScoreEvent)).all())


def test_a_key_press_takes_back_what_a_person_gave_and_no_table_under_their_name(
    library: Engine, tmp_path: Path
) -> None:
    say(library, "Ada", 1, 2)
    table = f"path,score,annotator\n{IMG0},7,Ada\n{IMG1},8,Ada\n"
    bring_in(library, tmp_path / "t.csv", table)
    with sessions.writing(library) as session:
        project, ada = projects.by_name(session, "P"), projects.annotator(session, "Ada")
        assert scores.undo(session, project, ada).columns["undoes"] == 1
        with pytest.raises(NotFound, match="Nothing more to take back"):
            scores.undo(session, project, ada)
    assert labelled(library) == {1: 7.0, 2: 8.0}


def test_hints_of_a_table_are_taken_back_like_its_scores(library: Engine, tmp_path: Path) -> None:
    told = bring_in(library, tmp_path / "t.csv", PLAIN, as_hints=True)
    with sessions.reading(library) as session:
        project = projects.by_name(session, "P")
        (table,) = imported_tables.listed(session, project)
    assert table.hints and table.id == told.table
    assert imported_tables.take_back(library, project.id, table.id).undone == 2
    with sessions.reading(library) as session:
        assert not session.exec(scores.standing_events()).all()


def test_a_table_that_was_half_taken_back_is_taken_back_to_its_end(
    library: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = bring_in(library, tmp_path / "t.csv", PLAIN)
    monkeypatch.setattr(imported_tables, "IDS_AT_ONCE", 1)
    undo, calls = scores.undo_recorded, []

    def killed(*arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return undo(*arguments)

    monkeypatch.setattr(scores, "undo_recorded", killed)
    with pytest.raises(KeyboardInterrupt):
        imported_tables.take_back(library, 1, told.table)
    assert labelled(library) == {2: 0.0}
    assert imported_tables.take_back(library, 1, told.table).undone == 1
    assert labelled(library) == {}


def test_a_score_of_a_table_that_a_rewritten_file_took_over_is_taken_back_too(
    library: Engine, tmp_path: Path
) -> None:
    told = bring_in(library, tmp_path / "t.csv", PLAIN)
    with sessions.writing(library) as session:
        project = projects.by_name(session, "P")
        assert scores.carry_over(session, project, 1, 5) == 1
    assert labelled(library) == {1: 7.0, 2: 0.0, 5: 7.0}
    assert imported_tables.take_back(library, 1, told.table).undone == 3
    assert labelled(library) == {}
