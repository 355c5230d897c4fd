"""The page of results: what a version likes most and least of what it never saw, how far it errs
beside the one before it, and the way there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import col, select
from trained_world import Trained, open_trained, taste, trained_home, vectors
from web_world import World, add_job, add_version, make_world, score_some

from tastemaker import jobs
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Image, Label, Prediction, VersionLabel
from tastemaker.learning.version_metrics import Estimate
from tastemaker.pages.results import finding

HTMX = {"HX-Request": "true"}
API = "/api/v1"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Trained]:
    made = open_trained(trained_home(tmp_path / "home"))
    yield made
    made.engine.dispose()


def results(made: Trained, query: str = "") -> dict:
    return made.world.client.get(f"{API}/projects/{made.project_id}/results{query}").json()


def page_of(made: Trained, query: str = "") -> str:
    return made.world.client.get(f"/projects/{made.project_id}/results{query}").text


def second_version(made: Trained, waiting: int = 40) -> None:
    """30 more scores of images drawn at random, `waiting` images without a score, and v1.1."""
    ids = made.add(30, "More", "pool", seed=2)
    made.score(dict(zip(ids, taste(vectors(30, 2)).tolist(), strict=True)))
    if waiting:
        made.add(waiting, "Waiting", "pool", seed=3)
    made.train()


def shown_ids(ends: dict) -> list[int]:
    return [tile["image_id"] for tile in ends["best"] + ends["worst"]]


# --- what is shown -------------------------------------------------------------------------------


def test_both_ends_are_images_that_nobody_scored_and_neither_version_saw(made: Trained) -> None:
    second_version(made)
    made.world.client.post(f"/versions/{made.version('v1.0').id}/activate")
    told = results(made)
    assert (told["version"], told["before"], told["never_scored"]) == ("v1.1", "v1.0", True)
    newer = told["shown"][0]
    with reading(made.engine) as session:
        labelled = set(session.exec(select(Label.image_id)))
    assert len(set(shown_ids(newer))) == 24 and not labelled & set(shown_ids(newer))
    best, worst = ([tile["score"] for tile in newer[end]] for end in ("best", "worst"))
    assert best == sorted(best, reverse=True) and worst == sorted(worst)
    assert min(best) > max(worst)
    assert "nobody has scored" in page_of(made)


def test_of_a_burst_one_is_shown_so_that_it_does_not_fill_the_page(made: Trained) -> None:
    second_version(made, waiting=60)
    before = results(made)["shown"][0]
    burst = shown_ids({"best": before["best"][:8], "worst": before["worst"][:2]})
    with writing(made.engine) as session:
        for image in session.exec(select(Image).where(col(Image.id).in_(burst))):
            image.source_group = "burst"
            session.add(image)
    version = made.version("v1.1").id
    ends = results(made)["shown"][0]
    assert len(ends["best"]) == len(ends["worst"]) == 12 and len(set(shown_ids(ends))) == 24
    assert len(set(burst) & set(shown_ids(ends))) == 1
    assert ends["best"][0] == before["best"][0]
    for name in ("top", "threshold", "bottom"):
        sheet = made.world.client.get(f"{API}/versions/{version}/sheets/{name}?n=50").json()
        assert len({tile["image_id"] for tile in sheet} & set(burst)) <= 1
    assert "of near-duplicates one" in page_of(made)


def test_an_image_stands_where_the_number_below_it_puts_it(made: Trained) -> None:
    """Of an image whose relative trained, that is what a head says that saw neither."""
    second_version(made)
    made.world.client.post(f"/versions/{made.version('v1.0').id}/activate")
    newer = results(made)["shown"][0]
    highest, lowest = newer["best"][0]["image_id"], newer["worst"][0]["image_id"]
    with writing(made.engine) as session:
        for image_id, says in ((highest, 0.0), (lowest, 1.0)):
            seen = session.get(Prediction, (made.version("v1.1").id, image_id))
            assert seen is not None
            seen.out_of_fold = says
            session.add(seen)
    newer = results(made)["shown"][0]
    assert newer["worst"][0]["image_id"] == highest and newer["best"][0]["image_id"] == lowest
    assert newer["best"][0]["cross_validated"] and newer["best"][0]["score"] == 1.0


def test_where_everything_is_scored_it_shows_what_did_not_train_and_nothing_twice(
    made: Trained,
) -> None:
    told = results(made)
    with reading(made.engine) as session:
        version_id = made.version("v1.0").id
        sides = select(VersionLabel.image_id, VersionLabel.side)
        side = dict(session.exec(sides.where(VersionLabel.version_id == version_id)).all())
    ids = shown_ids(told["shown"][0])
    assert ids and len(set(ids)) == len(ids) and not told["never_scored"]
    assert {side[image_id] for image_id in ids} == {"holdout"}
    assert "did not train" in page_of(made)


def test_an_image_taken_out_of_the_project_is_not_shown(made: Trained) -> None:
    second_version(made)
    gone = shown_ids(results(made)["shown"][0])[0]
    change = {"action": "remove", "images": [gone]}
    answer = made.world.client.post(f"{API}/projects/{made.project_id}/library", json=change)
    assert answer.status_code == 200, answer.text
    assert gone not in shown_ids(results(made)["shown"][0])


def test_an_older_version_is_shown_beside_the_one_before_it_alone(made: Trained) -> None:
    second_version(made)
    told = results(made, "?version=v1.0")
    assert (told["version"], told["before"], len(told["shown"])) == ("v1.0", "", 1)
    page = page_of(made, "?version=v1.0")
    assert "Results of v1.0" in page and "the version before" not in page
    assert (
        made.world.client.get(f"/projects/{made.project_id}/results?version=v9").status_code == 404
    )


def test_a_project_without_a_version_says_what_is_first(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=3)
    page = world.client.get(f"{world.at}/results")
    assert page.status_code == 200 and "Nothing to show yet" in page.text
    assert "Score images" in page.text
    assert world.client.get(f"{API}{world.at}/results").json()["version"] == ""


# --- the sentence --------------------------------------------------------------------------------


def test_two_versions_are_told_on_the_images_that_judge_both(made: Trained) -> None:
    second_version(made)
    told = results(made)["summary"]
    both = made.world.client.get(f"{API}/projects/{made.project_id}/compare").json()
    mae, n = both["holdout"]["metrics"]["mae"], both["holdout"]["n"]
    assert told["headline"].startswith(
        f"v1.1 errs {mae['new']:.1f} points where v1.0 erred {mae['old']:.1f}; "
        "always guessing the middle errs "
    )
    assert told["verdict"] == mae["verdict"] and f"On {n} images" in told["rests_on"]
    then = made.version("v1.0").metrics.measured.mae.value
    same = f"{then:.1f}" == f"{mae['old']:.1f}"
    assert ("was published with" in told["rests_on"]) != same
    page = page_of(made)
    assert told["headline"] in page and told["finding"] in page


def test_an_error_that_reads_otherwise_than_when_it_was_published_is_explained(
    made: Trained,
) -> None:
    """On Versions stands what was measured then; here what both err by the scores of now."""
    then = made.version("v1.0").metrics.measured.mae.value
    assert then is not None
    with reading(made.engine) as session:
        held = {label.image_id: label.value for label in session.exec(select(Label)).all()}
    made.score({image_id: int(10 - held[image_id]) for image_id in sorted(held)[::3]})
    made.train()
    told = results(made)["summary"]
    assert f"where v1.0 erred {then:.1f}" not in told["headline"]
    assert f"v1.0 was published with an error of {then:.1f}, by the" in told["rests_on"]
    listed = made.world.client.get(f"/projects/{made.project_id}/versions").text
    assert "images and scores)" in listed


def test_a_first_version_is_told_beside_one_answer_for_all(made: Trained) -> None:
    told = results(made)["summary"]
    assert re.fullmatch(
        r"v1\.0 errs \d\.\d points where always guessing the middle errs \d\.\d\.", told["headline"]
    )
    assert told["verdict"] == "better" and told["finding"].startswith("Better than that by ")
    page = page_of(made)
    assert re.search(r'class="button primary"[^>]*>Review false positives', page)
    assert f'href="/versions/{made.version("v1.0").id}/checkpoint"' in page


@pytest.mark.parametrize(
    ("verdict", "value", "low", "high", "said"),
    [
        ("better", -0.65, -0.94, -0.37, "Better than v1.0 by 0.65 points (0.37 to 0.94)."),
        ("worse", 0.4, 0.1, 0.7, "Worse than v1.0 by 0.40 points (0.10 to 0.70)."),
        ("no difference shown", -0.2, -0.5, 0.1,
         "Not yet shown to be better than v1.0: −0.20 points of error (−0.50 to +0.10)."),
        ("no difference shown", 0.3, None, None,
         "Not yet shown to be better than v1.0: +0.30 points of error."),
    ],
)  # fmt: skip
def test_better_is_said_only_where_the_interval_leaves_nought_out(
    verdict: str, value: float, low: float | None, high: float | None, said: str
) -> None:
    assert finding(verdict, Estimate(value=value, low=low, high=high, n=100), "v1.0") == said


def test_a_version_without_a_measure_is_told_to_be_one_and_to_score_more(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=6)
    add_version(world, 0, {i: i / 10 for i in range(1, 7)}, metrics={})
    page = world.client.get(f"{world.at}/results").text
    assert "Nothing is measured yet" in page
    assert re.search(r'class="button primary"[^>]*>Score more', page)


def test_a_version_that_has_predicted_nothing_says_so_under_each_heading(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=6)
    add_version(world, 0, {})
    add_version(world, 1, {i: i / 10 for i in range(1, 7)})
    page = world.client.get(f"{world.at}/results").text
    assert page.count("It has predicted none of them.") == 2


def test_versions_that_no_image_can_judge_say_so(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=6)
    for minor in (0, 1):
        add_version(world, minor, {i: i / 10 for i in range(1, 7)})
    told = world.client.get(f"{API}{world.at}/results").json()["summary"]
    assert told["headline"].startswith("v1.1 errs 1.2 points")
    assert "which of them errs less cannot be known" in told["rests_on"]


# --- the way there -------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path, images=6)
    score_some(world, [1, 9, 2, 8, 7, 3])
    return world


def ended(world: World, kind: str, state: str = "done") -> int:
    job_id = add_job(world, "running", kind)
    with writing(world.engine) as session:
        job = jobs.get(session, job_id)
        job.state, job.result = state, {"project_id": world.project_id, "version": "v1.0"}
    return job_id


def test_the_first_training_leads_to_its_results_and_a_later_one_stays(world: World) -> None:
    job_id = ended(world, "train")
    watched = f"{world.at}/versions/training?job_id={job_id}"
    add_version(world, 0, {1: 0.5})
    first = world.client.get(watched, headers=HTMX).headers
    assert first["hx-redirect"] == f"{world.at}/results" and "hx-refresh" not in first
    add_version(world, 1, {1: 0.6})
    later = world.client.get(watched, headers=HTMX).headers
    assert later["hx-refresh"] == "true" and "hx-redirect" not in later
    page = world.client.get(f"{world.at}/versions").text
    assert all(f'{world.at}/results?version=v1.{minor}"' in page for minor in (0, 1))


def test_a_training_that_was_cancelled_or_failed_leads_nowhere_else(world: World) -> None:
    add_version(world, 0, {1: 0.5})
    for state in ("cancelled", "failed"):
        watched = f"{world.at}/versions/training?job_id={ended(world, 'train', state)}"
        assert "hx-redirect" not in world.client.get(watched, headers=HTMX).headers


def test_the_job_of_the_sample_project_leads_to_its_results(world: World) -> None:
    job_id = ended(world, "demo")
    answer = world.client.get(f"/jobs/{job_id}/progress", headers=HTMX)
    assert answer.headers["hx-redirect"] == f"{world.at}/results"
    page = world.client.get(f"/jobs/{job_id}").text
    assert page.index("See the results") < page.index("Score images")
