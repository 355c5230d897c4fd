"""A project's settings: what the form takes, what it refuses, keys of one's own, deleting."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import Session, select
from web_world import World, add_job, add_version, events, full_world, make_world, score_some

from tastemaker import projects, scores
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Annotator, Image, Label, Project
from tastemaker.errors import TastemakerError
from tastemaker.pages import keymap
from tastemaker.pages.score import steps

FORM = {"name": "Anime", "threshold": "5", "recipe": "auto"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, images=6)


def project(world: World) -> Project:
    with reading(world.engine) as session:
        return world.project(session)


# --- brackets ------------------------------------------------------------------------------------


def test_brackets_are_typed_in_percent_and_empty_lines_go(world: World) -> None:
    typed = FORM | {
        "bracket_from": ["0", "40", "", "85,5", ""],
        "bracket_name": ["bad", "flat shading, TV screenshots", "", "superb", ""],
    }
    assert world.client.post(f"{world.at}/settings", data=typed).status_code == 303
    assert project(world).brackets == [
        [0.0, "bad"], [0.4, "flat shading, TV screenshots"], [0.855, "superb"]
    ]  # fmt: skip
    page = world.client.get(f"{world.at}/score").text
    assert "flat shading, TV screenshots" in page and "4–8" in page


@pytest.mark.parametrize("starts", [["0", "60", "40"], ["10", "50"], ["0", "x"], ["0", "120"]])
def test_brackets_that_make_no_scale_are_refused_and_kept_on_the_page(
    world: World, starts: list[str]
) -> None:
    before = project(world).brackets
    names = [f"the {n}th" for n in range(len(starts))]
    answer = world.client.post(
        f"{world.at}/settings", data=FORM | {"bracket_from": starts, "bracket_name": names}
    )
    assert answer.status_code == 422
    assert all(name in answer.text for name in names)
    assert project(world).brackets == before


def test_the_percentiles_of_the_active_version_are_only_suggested(world: World) -> None:
    at = f"{world.at}/settings"
    refused = world.client.post(at, data=FORM | {"suggest": "true"})
    assert refused.status_code == 409 and "Train first" in refused.text
    add_version(world, 1, {i: 0.1 * i for i in range(1, 7)})
    before = project(world).brackets
    answer = world.client.post(at, data=FORM | {"suggest": "true"})
    assert answer.status_code == 200 and "Nothing is saved yet" in answer.text
    assert "best tenth" in answer.text
    assert project(world).brackets == before


@given(st.lists(st.integers(1, 99), unique=True, max_size=12))
def test_every_score_stands_under_exactly_one_step_of_the_scale(cuts: list[int]) -> None:
    starts = [0, *sorted(cuts)]
    scale = steps([[start / 100, str(start)] for start in starts])
    assert [v for step in scale for v in range(step.first, step.last + 1)] == list(range(11))
    for step in scale:
        for value in range(step.first, step.last + 1):
            assert int(step.name) == max(start for start in starts if start <= 10 * value)


def test_the_scale_is_told_in_words_until_the_project_has_its_own(world: World) -> None:
    page = world.client.get(f"{world.at}/score").text
    for word in ("reject", "poor", "acceptable", "good", "best"):
        assert f">{word}</span>" in page
    assert "5 and above passes." in page
    world.client.post(f"{world.at}/settings", data=FORM | {"threshold": "6.2"})
    assert "7 and above passes." in world.client.get(f"{world.at}/score").text
    own = FORM | {"bracket_from": ["0", "50"], "bracket_name": ["flat shading", "city at night"]}
    world.client.post(f"{world.at}/settings", data=own)
    page = world.client.get(f"{world.at}/score").text
    assert "city at night" in page and "acceptable" not in page


# --- labels and training -------------------------------------------------------------------------


def test_another_rule_for_several_people_changes_the_labels_at_once(world: World) -> None:
    score_some(world, [2])
    from tastemaker import scores

    with writing(world.engine) as session:
        other = projects.annotator(session, "Ada")
        scores.record(session, world.project(session), 1, other, "set", 9)
    assert label(world, 1) == 5.5
    world.client.post(f"{world.at}/settings", data=FORM | {"aggregate": "lowest"})
    assert label(world, 1) == 2


def label(world: World, image_id: int) -> float:
    with reading(world.engine) as session:
        found = session.get(Label, (world.project_id, image_id))
        assert found is not None
        return found.value


@pytest.mark.parametrize(
    "fields", [{"auto_train_every": "-1"}, {"auto_train_every": "many"},
               {"auto_train_drift": "11"}, {"aggregate": "loudest"}, {"name": ""}],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_what_was_typed(
    world: World, fields: dict[str, str]
) -> None:
    answer = world.client.post(f"{world.at}/settings", data=FORM | fields)
    assert answer.status_code == 422
    assert project(world).auto_train_every == 0 and project(world).name == "Anime"


def test_programs_change_settings_by_name(world: World) -> None:
    answer = world.client.post(
        f"/api/v1{world.at}/settings",
        json={"auto_train_every": 50, "brackets": [[0, "low"], [0.5, "high"]]},
    )
    assert answer.status_code == 200 and answer.json()["auto_train_every"] == 50
    assert answer.json()["threshold"] == 0.5
    assert project(world).brackets == [[0.0, "low"], [0.5, "high"]]
    assert world.client.post(f"/api/v1{world.at}/settings", json={"x": 1}).status_code == 422


# --- keys ----------------------------------------------------------------------------------------


def test_one_key_cannot_mean_two_things(world: World) -> None:
    answer = world.client.post(f"{world.at}/keys", data={"action": ["skip"], "key": ["7"]})
    assert answer.status_code == 409
    assert "“7” cannot mean both “Score 7” and “Skip”" in answer.text
    assert world.client.get("/api/v1/keys").json()["skip"] == ["Space"]
    swapped = {"action": ["skip", "score-7"], "key": ["7", "Space"]}
    assert world.client.post(f"{world.at}/keys", data=swapped).status_code == 303
    assert world.client.get("/api/v1/keys").json()["score-7"] == ["Space"]


def test_an_emptied_field_gives_the_key_back(world: World) -> None:
    at = "/api/v1/keys"
    assert world.client.post(at, json={"keys": {"undo": "u"}}).json()["undo"] == ["u"]
    assert world.client.post(at, json={"keys": {"undo": ""}}).json()["undo"][0] == "Backspace"
    assert world.client.post(at, json={"keys": {"fly": "u"}}).status_code == 422
    assert world.client.post(at, json={"keys": {"undo": "Ctrl+Q"}}).status_code == 422


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(sorted(keymap.DEFAULTS)),
            st.sampled_from(["", "a", "s", "7", "-", "Space", "Home", "f"]),
            max_size=4,
        ),
        max_size=6,
    )
)
def test_whatever_is_chosen_every_key_means_one_thing(choices: list[dict[str, str]]) -> None:
    person = Annotator(name="Ada", keys={})
    session = Session()
    for chosen in choices:
        before = keymap.of(person)
        try:
            keymap.change(session, person, chosen)
        except TastemakerError:
            assert keymap.of(person) == before
        keys = [key for keys in keymap.of(person).values() for key in keys]
        assert len(keys) == len(set(keys))
        assert set(keymap.of(person)) == set(keymap.DEFAULTS)


# --- history and flags ---------------------------------------------------------------------------


def test_the_history_goes_back_in_pages_and_lists_an_image_once(world: World) -> None:
    score_some(world, [1, 2, 3, 4, 5, 6])
    score_some(world, [8], first=2)
    at = f"/api/v1{world.at}/history"
    first = world.client.get(at, params={"n": 3}).json()
    assert [(one["card"]["image_id"], one["value"]) for one in first] == [(2, 8), (6, 6), (5, 5)]
    rest = world.client.get(at, params={"n": 9, "before": first[-1]["event_id"]}).json()
    assert [one["card"]["image_id"] for one in rest] == [4, 3, 2, 1]


def test_what_was_scored_last_brings_the_reason_but_no_estimate_of_that_time(world: World) -> None:
    then = "most informative near the threshold: 4.4 ± 2.5"
    with writing(world.engine) as session:
        project = world.project(session)
        person = projects.annotator(session, world.settings.annotator)
        scores.record(session, project, 1, person, "set", 4, origin="queue", reason=then)
    (was,) = world.client.get(f"/api/v1{world.at}/history").json()
    page = world.client.get(f"{world.at}/score").text
    assert was["card"]["reason"] == "most informative near the threshold"
    assert "most informative near the threshold</p>" in page and "4.4 ± 2.5" not in page


def test_a_flag_carries_its_note_and_goes_back_to_its_image(world: World) -> None:
    answer = world.client.post(f"{world.at}/images/3/flag", data={"note": " look at the hands "})
    back = answer.headers["location"]
    assert back == f"{world.at}/score?queue=mixed&image=3&flagged=1"
    assert "You can still score it." in world.client.get(back).text
    assert events(world) == [(3, "flag", None)]
    page = world.client.get(f"{world.at}/score?queue=flagged")
    assert "picture-002.jpg" in page.text


# --- deleting ------------------------------------------------------------------------------------


def test_a_project_goes_only_by_its_name_and_leaves_its_scores_and_images(tmp_path: Path) -> None:
    world = full_world(tmp_path)
    at = f"{world.at}/delete"
    wrong = world.client.post(at, data={"name": "Amine"})
    assert wrong.status_code == 422 and "nothing was deleted" in wrong.text
    running = add_job(world, "running")
    assert world.client.post(at, data={"name": "Anime"}).status_code == 409
    finish(world, running)
    assert world.client.post(at, data={"name": "Anime"}).status_code == 303
    assert world.client.get(f"{world.at}/score").status_code == 404
    [kept] = world.settings.backups.glob("scores-of-project-*.csv")
    assert len(kept.read_text().splitlines()) == 1 + 21
    with reading(world.engine) as session:
        assert len(session.exec(select(Image)).all()) == 30
        assert session.exec(select(Label)).all() == []


def finish(world: World, job_id: int) -> None:
    from tastemaker.database.tables import Job

    with writing(world.engine) as session:
        job = session.get(Job, job_id)
        assert job is not None
        job.state = "done"
