"""The pages about versions: one version, two compared, slices and expectations; by form and by
the API."""

import csv
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from in_browser import browsing, serving, troubles
from PIL import Image as Picture
from playwright.sync_api import Browser, expect
from sqlmodel import select
from trained_world import open_trained, trained_home
from web_world import World, add_job, add_version, embed_all, events, make_world, score_some

from tastemaker import images, jobs, scores, versions
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import (
    Expectation,
    Job,
    Prediction,
    Slice,
    Version,
    VersionLabel,
)
from tastemaker.errors import Unavailable
from tastemaker.evaluation import expectations, slices
from tastemaker.training import auto_train
from tastemaker.versions import version_report
from tests.flat_metrics import from_flat

HTMX = {"HX-Request": "true"}
API = "/api/v1"

OLD = {i: 0.2 + 0.02 * i for i in range(1, 21)}
NEW = OLD | {2: 0.9, 3: 0.8, 4: 0.7, 18: 0.1, 19: 0.2}

LEARNED = {
    "labels": [50, 100, 200], "mae": [2.0, 1.6, 1.3], "mae_low": [1.8, 1.4, 1.1],
    "mae_high": [2.2, 1.8, 1.5], "noise_floor": 0.8,
    "labels_saved": {"value": 120, "low": 60, "high": 180, "why": "against the random sample"},
    "forecast": {
        "labels": 200, "drawn": 90, "error": 1.3, "why": "",
        "measured": [{"labels": 25, "mae": 2.2}, {"labels": 180, "mae": 1.4}],
        "gains": [{"more": 50, "value": 0.03, "low": -0.01, "high": 0.07},
                  {"more": 100, "value": 0.05, "low": 0.01, "high": 0.09},
                  {"more": 200, "value": 0.08, "low": 0.02, "high": 0.14}],
    },
}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return filled(tmp_path)


def filled(home: Path) -> World:
    """Twenty images, two versions, tags on every image, labels on twelve."""
    world = make_world(home, images=20)
    score_some(world, [1, 9, 2, 8, 7, 3, 2, 5, 6, 9, 0, 4])
    add_version(world, 0, OLD)
    add_version(world, 1, NEW, note="corrected <b>slips</b>")
    with writing(world.engine) as session:
        for image_id in range(1, 21):
            images.add_tags(session, image_id, ["photo" if image_id < 9 else "drawing"])
        for image_id in range(1, 13):
            side = "holdout" if image_id > 4 else "train"
            for version_id in (1, 2):
                value = 5 if version_id == 1 and image_id == 1 else image_id % 11
                if version_id == 2 or image_id != 12:
                    session.add(
                        VersionLabel(
                            version_id=version_id, image_id=image_id, value=value, side=side
                        )
                    )
    return world


class Fields(HTMLParser):
    """The fields of the first form with that action, as a browser without a script sends them."""

    def __init__(self, page: str, action: str) -> None:
        super().__init__()
        self.action, self.inside, self.done = action, False, False
        self.select = ""
        self.fields: dict[str, str] = {}
        self.feed(page)
        assert self.done, f"no form goes to {action}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and given.get("action") == self.action and not self.done:
            self.inside = self.done = True
        elif (
            tag == "input"
            and self.inside
            and (given.get("type") != "checkbox" or "checked" in given)
        ):
            self.fields[given["name"]] = given.get("value", "")
        elif tag == "select" and self.inside:
            self.select = given["name"]
        elif tag == "option" and self.inside and "selected" in given:
            self.fields[self.select] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.inside = False


# --- one version ---------------------------------------------------------------------------------


def test_the_page_of_a_version_tells_what_it_is_and_how_good(world: World) -> None:
    page = world.client.get("/versions/2")
    assert page.status_code == 200
    for told in ("v1.1", "after", "Measured on 60 hold-out images", "1.22", "1.08 to 1.60",
                 "verified just now", "efficientnet_lite0/bundled", "4 trained, 8 measured",
                 "100 000 samples", "20 images at or above", "Around the threshold"):  # fmt: skip
        assert told in page.text, told
    assert "&lt;b&gt;slips&lt;/b&gt;" in page.text and "style=" not in page.text


def test_a_version_of_an_earlier_release_lacks_numbers_and_has_a_page(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=0)
    add_version(world, 0, {}, metrics={}, curve={}, recipe={}, event_high=0)
    page = world.client.get("/versions/1")
    assert page.status_code == 200
    assert "Nothing is measured yet" in page.text and "It has predicted nothing yet" in page.text
    assert world.client.get(f"{API}/versions/1").json()["figures"] == []


def test_every_number_that_training_may_store_is_shown(world: World) -> None:
    metrics = {
        "images": 200, "kind": "city96", "baseline_mae": 2.4, "learning_curve": LEARNED,
        "noise_floor": {"sigma": 1.1, "mae": 0.88, "mae_low": 0.8, "mae_high": 0.97, "n": 40},
        "versus_baseline": {"verdict": "better", "difference": -1.1, "n": 60, "on": "holdout"},
        "out_of_fold_baseline": {"verdict": "no difference shown", "mae": 2.4, "n": 140},
        "out_of_fold": {"n": 140, "mae": 2.38, "mae_low": 2.2, "mae_high": 2.6},
        "calibration": {"slope": 1.3, "intercept": -0.1, "kept": True, "why": "it helped"},
        "label_histogram": [1] * 11,
        "holdout": {
            "n": 60, "mae": 1.3, "mae_low": 1.1, "mae_high": 1.5, "auc": 0.9, "fp_rate": None,
            "coverage": {"50": 0.52, "80": 0.79, "95": 0.96},
            "brackets": [{"from": 0.0, "to": 0.5, "bias": 0.7,
                          "mae": {"value": 1.0, "low": None, "high": None, "n": 3}},
                         {"from": 0.5, "to": 1.0, "bias": None,
                          "mae": {"value": None, "low": None, "high": None, "n": 0}}],
            "calibration_curve": [{"from": 0, "to": 0.5, "predicted": 0.3, "labelled": 0.2,
                                   "n": 30},
                                  {"from": 0.5, "to": 1, "predicted": None, "labelled": None,
                                   "n": 0}],
        },
    }  # fmt: skip
    add_version(world, 2, {}, metrics=metrics)
    page = world.client.get("/versions/3").text
    expected = "100 more labels would lower the error by about 0.05"
    for address in ("versions", "results"):
        assert expected in world.client.get(f"{world.at}/{address}").text, address
    outlook = world.client.get(f"{API}/projects/1/results").json()["outlook"]
    assert outlook["times_own_noise"] == pytest.approx(1.3 / 0.88)
    strip = world.client.get(f"{world.at}/score/strip").text
    assert "−0.05 ± 0.04" in strip and "1.5 × your noise" in strip
    for told in ("baseline (always the median)", "2.40", "your test–retest noise",
                 "0.80 to 0.97", "Calibration",
                 "The 60 hold-out images may flatter it: on the 140 that trained",
                 "mean error, out-of-fold", "2.20 to 2.60", "intervals are well calibrated",
                 "Bias by label", "50\u202f% intervals contain 52",
                 "about 120 more labels (60 to 180)", "What more labels would bring",
                 "100 more labels would lower the error by about 0.05 points",
                 "(0.01 to 0.09 with 80\u202f% probability); 50 more by 0.03, 200 more by 0.08",
                 "It errs 1.5 × your own noise (1.3 to 1.6), which is 0.88 points, from 40",
                 "heads on 25 to 180 of its 200 labels, measured on 90 images drawn at random or "
                 "scored in files",
                 "part of the file", "learning rate"):  # fmt: skip
        assert told in page, told


@pytest.mark.slow
def test_what_a_real_training_measured_is_shown_on_every_page_about_it(tmp_path: Path) -> None:
    """Ten images were asked again, so that there is every number a training can store."""
    trained_home(tmp_path / "home")
    trained = open_trained(tmp_path / "home")
    again = {image_id: 3 + image_id % 4 for image_id in range(1, 11)}
    trained.score(again, origin="control")
    trained.score({image_id: value + 1 for image_id, value in again.items()}, origin="re-ask")
    version = trained.train()
    floor = version.metrics.noise_floor
    assert floor is not None and floor.sigma.n == 10
    world = trained.world
    page = world.client.get(f"/versions/{version.id}").text
    assert "your test–retest noise" in page and f"{floor.mae.value:.2f}" in page
    for address in ("versions", "compare", "publish"):
        assert world.client.get(f"{world.at}/{address}").status_code == 200, address
    assert world.client.get(f"/versions/{version.id}/card.md").status_code == 200


def test_a_damaged_file_is_told_on_both_pages_and_nothing_can_be_done_with_it(
    world: World,
) -> None:
    path = world.settings.checkpoints / "Anime-v1.0.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    for page in ("/versions/1", f"{world.at}/versions"):
        text = world.client.get(page).text
        assert "v1.0 was cut short" in text and "labels of every version" in text, page
        assert "Restore the file from a backup" in text, page
        assert "/versions/1/activate" not in text and "/versions/1/checkpoint" not in text, page
    assert world.client.get("/versions/1/checkpoint").status_code == 409
    assert world.client.post("/versions/1/activate").status_code == 409
    assert world.client.post(f"{API}/versions/1/activate").status_code == 409
    assert "v1.1" in world.client.get(f"{world.at}/versions").text
    path.unlink()
    assert world.client.get("/versions/1/checkpoint").status_code == 404
    assert "is missing" in world.client.get("/versions/1").text
    state = world.client.get(f"{API}/versions/1").json()
    assert state["file_state"]["state"] == "missing" and not state["format"]["holds"]


def test_the_training_set_is_frozen_and_downloads_in_two_forms(world: World) -> None:
    score_some(world, [10], first=5)  # said since
    answer = world.client.get("/versions/2/training-set.csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(rows[0]) == ["sha256", "path", "score", "side", "fold"]
    assert len(rows) == 12 and rows[4]["score"] == "5" and rows[4]["side"] == "holdout"
    assert 'filename="Anime-v1.1.training-set.csv"' in answer.headers["content-disposition"]
    lines = world.client.get("/versions/2/training-set.jsonl").text.splitlines()
    assert [json.loads(line) for line in lines] == world.client.get(
        f"{API}/versions/2/training-set"
    ).json()


def test_a_file_name_that_looks_like_a_formula_is_no_formula_in_the_csv(world: World) -> None:
    with writing(world.engine) as session:
        images.get(session, 1).name = "=1+1.jpg"
    assert ",'=1+1.jpg," in world.client.get("/versions/2/training-set.csv").text


def test_contact_sheets_prefer_what_the_version_never_learned_from(world: World) -> None:
    with writing(world.engine) as session:
        for image_id in (10, 11):
            seen = session.get(Prediction, (2, image_id))
            assert seen is not None and seen.out_of_fold is not None
            seen.out_of_fold = None
            session.add(seen)
    top = world.client.get(f"{API}/versions/2/sheets/top?n=3").json()
    assert {tile["image_id"]: tile["cross_validated"] for tile in top} == {
        2: True, 10: False, 11: False,
    }  # fmt: skip
    assert [tile["score"] for tile in top] == sorted((tile["score"] for tile in top), reverse=True)
    page = world.client.get("/versions/2").text
    assert '†<span class="unseen"> cross-validated</span>' in page
    assert page.count("† Cross-validated: the version trained on it") == 1, (
        "said where it first stands"
    )


def test_contact_sheets_show_the_extremes_and_the_threshold(world: World) -> None:
    top = world.client.get(f"{API}/versions/2/sheets/top?n=3").json()
    assert [tile["image_id"] for tile in top] == [2, 3, 4]
    bottom = world.client.get(f"{API}/versions/2/sheets/bottom?n=2").json()
    assert {tile["image_id"] for tile in bottom} == {18, 19} or bottom[-1]["image_id"] == 18
    near = world.client.get(f"{API}/versions/2/sheets/threshold?n=2").json()
    assert all(abs(tile["score"] - 0.5) <= 0.021 for tile in near)
    drawn = world.client.get("/versions/2/sheets/top")
    with Picture.open(io.BytesIO(drawn.content)) as picture:
        assert picture.format == "PNG" and picture.width > 1600
        colours = picture.convert("P").getcolors(256)
    assert colours is not None and len(colours) > 20, "the thumbnails are in it"
    assert world.client.get("/versions/2/sheets/middle").status_code == 404


def test_the_list_counts_what_was_expected_and_names_what_was_missed(world: World) -> None:
    check = {"id": 1, "slice_id": 1, "slice": "photo", "measure": "mean", "bound": "at most",
             "limit": 0.1, "blocks": True, "value": 0.14, "images": 9, "met": False}  # fmt: skip
    metrics = {"holdout": {"n": 9, "mae": 1.0}, "images": 1,
               "expectations": [check, check | {"id": 2, "met": True},
                                check | {"id": 3, "met": None}]}  # fmt: skip
    add_version(world, 2, {}, metrics=metrics, activation="not activated: “photo”: mean")
    page = world.client.get(f"{world.at}/versions").text
    assert "1 of 2" in page
    missed = "“photo”: mean prediction 1.4, expected at most 1 point"
    assert f"Missed when published: {missed}" in page
    assert "It was not made active: “photo”: mean." in page


def test_what_was_found_when_published_and_what_is_found_today_are_told_apart(
    world: World,
) -> None:
    with writing(world.engine) as session:
        project = world.project(session)
        photos = slices.add(session, project, "tag", {"tag": "photo"})
        for measure in ("mean", "pass_rate"):
            expectations.expect(session, project, photos.id, measure, "at most", 0.1)
        version = versions.get(session, 2)
        today = expectations.check(session, version).expectations
        then = today[0].model_copy(update={"value": 0.05, "met": True})
        version.metrics = version.metrics.model_copy(update={"expectations": (then,)})
        version.event_high = 9  # of twelve scores
    now = f"{10 * today[0].value:.3g}"
    listed = world.client.get(f"{world.at}/versions").text
    assert "1 of 1" in listed and "met when published" in listed
    for address in ("/versions/2", f"{world.at}/slices?version=v1.1"):
        page = html.unescape(world.client.get(address).text)
        assert f" {now} over 8 images" in page, address
        assert "when published: <span hx-ignore>0.5, met" in page, address
        assert "when published: <span hx-ignore>not stated yet" in page, address
    shelf = world.client.get(f"{world.at}/slices?version=v1.1").text
    assert "Versions when they were published: v1.1 met</span>" in shelf
    assert "3 labels newer than the version" in world.client.get("/versions/2").text
    told = world.client.get(f"{API}/versions/2").json()
    assert told["labels_since"] == 3 and told["expectations"][0]["met"] is False
    assert told["expectations"][0]["when_published"]["value"] == 0.05
    assert told["expectations"][1]["when_published"] is None
    card = world.client.get("/versions/2/card.md").text
    assert f"missed: {now} over 8 images" in card


# --- two versions --------------------------------------------------------------------------------


def test_comparing_tells_numbers_flips_slices_and_labels(world: World) -> None:
    opened = world.client.get(f"{world.at}/compare").text
    assert "<b>3</b> images went up to a pass" in opened, "it opens on what flipped"
    assert (
        "on 8 images drawn at random or scored in files, each predicted by heads that never saw it"
        in opened
    )
    page = world.client.get(f"{world.at}/compare?view=numbers").text
    assert (
        "on 8 images drawn at random or scored in files, each predicted by heads that never saw it"
        in page
    )
    assert "3 of 20 images went up to a pass" in page and "<svg" in page and "style=" not in page
    assert "drawing" in page and "photo" in page
    labels = world.client.get(f"{world.at}/compare?view=labels").text
    assert "1 added, 1 corrected, 0 taken back" in labels
    told = world.client.get(f"{API}{world.at}/compare?a=v1.0&b=v1.1").json()
    assert told["flips"]["up"]["images"] == 3 and told["labels"]["corrected"] == 1
    assert len(told["points"]) == 20


def test_a_head_from_elsewhere_is_not_said_to_be_new_to_the_images(world: World) -> None:
    assert "made elsewhere" not in world.client.get(f"{world.at}/compare").text
    add_version(world, 2, OLD, major=0)
    page = world.client.get(f"{world.at}/compare?a=v0.2&b=v1.1&view=numbers").text
    assert "v0.2 was made elsewhere and may have learned from these images" in page
    assert "v1.1 was made elsewhere" not in page


@pytest.mark.parametrize(
    ("query", "status"),
    [("a=v1.0&b=v1.0", 422), ("a=v9.9", 404), ("view=magic", 404), ("view=up&after=-1", 422),
     ("view=up&after=50", 200), ("a=v1.1&b=v1.0&view=down", 200)],
)  # fmt: skip
def test_odd_comparisons_are_answered_in_a_sentence(world: World, query: str, status: int) -> None:
    assert world.client.get(f"{world.at}/compare?{query}").status_code == status


@pytest.mark.parametrize(
    ("shares", "n", "verdict"),
    [((0.52, 0.79), 60, "well calibrated"), ((0.87, 0.95), 35, "too wide"),
     ((0.6, 0.85), 35, "well calibrated"), ((0.45, 0.6), 60, "too narrow"),
     ((0.3, 0.8), 60, "too narrow")],
)  # fmt: skip
def test_the_doubt_of_a_version_is_judged_by_how_often_its_intervals_hold(
    shares: tuple[float, float], n: int, verdict: str
) -> None:
    coverage = {"50": shares[0], "80": shares[1], "95": 1.0}

    def sentence(**more: Any) -> str:
        measured = {"n": n, "mae": 1.0, "coverage": coverage} | more
        version = Version(project_id=1, metrics=from_flat({"holdout": measured}))
        return version_report.calibration_sentence(version)

    assert f"intervals are {verdict}" in sentence()
    assert "intervals are well calibrated" in sentence(groups=3), "three photographs prove little"
    assert sentence(coverage={}) == ""


def test_beside_the_button_stands_what_a_training_would_do(world: World) -> None:
    at = f"{world.at}/versions"
    embed_all(world)
    assert "Learns from" not in world.client.get(at).text, "twelve scores are few"
    score_some(world, [3, 8] * 4, first=13)
    page = world.client.get(at).text
    assert "Learns from 20 scores." in page
    assert "No new labels since" not in page
    with writing(world.engine) as session:
        version = session.get(Version, 2)
        assert version is not None
        version.event_high = scores.highest_event(session, world.project(session))
        session.add(version)
    assert "No new labels since v1.1" in world.client.get(at).text
    assert "was cancelled" not in page
    add_job(world, "cancelled")
    assert "The training was cancelled. Nothing was published" in world.client.get(at).text


def test_a_version_beside_itself_leaves_the_choice_open(world: World) -> None:
    page = world.client.get(f"{world.at}/compare?a=v1.0&b=v1.0&view=up").text
    assert "v1.0 differs in nothing from itself" in page
    assert page.count("<option selected>v1.0</option>") == 2
    assert page.count("<option >v1.1</option>") == 2


def test_with_fewer_than_two_versions_the_page_says_what_to_do(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=0)
    assert "Add images" in world.client.get(f"{world.at}/compare").text
    add_version(world, 0, {})
    assert "There is only v1.0" in world.client.get(f"{world.at}/compare").text
    assert world.client.get(f"{API}{world.at}/compare").status_code == 422


def test_a_flip_is_corrected_where_it_is_seen_and_the_correction_taken_back(world: World) -> None:
    page = world.client.get(f"{world.at}/compare?view=up").text
    action = f"{world.at}/images/3/score"
    data = Fields(page, action).fields | {"value": "9"}
    before = len(events(world))
    saved = world.client.post(action, data=data)
    assert saved.status_code == 303 and events(world)[-1] == (3, "set", 9)
    page = world.client.get(saved.headers["location"]).text
    assert "Saved 9 for" in page and "you said 9" in page
    undo = Fields(page, f"{world.at}/undo").fields
    back = world.client.post(f"{world.at}/undo", data=undo)
    assert "Taken back." in world.client.get(back.headers["location"]).text
    assert len(events(world)) == before + 2 and events(world)[-1][1] == "undo"


def test_with_htmx_only_the_card_and_the_counts_change(world: World) -> None:
    page = world.client.get(f"{world.at}/compare?view=up").text
    action = f"{world.at}/images/3/score"
    data = Fields(page, action).fields | {"value": "9"}
    answer = world.client.post(action, data=data, headers=HTMX).text
    assert "<html" not in answer and answer.count("hx-swap-oob") == 4
    assert 'id="verdict-3"' in answer and 'id="counts"' in answer and "Saved: 9" in answer
    stale = world.client.post(action, data=data | {"value": "1"}, headers=HTMX)
    assert stale.status_code == 409 and events(world)[-1] == (3, "set", 9)


def test_the_queue_of_flips_has_pages_and_an_api(world: World) -> None:
    first = world.client.get(f"{API}{world.at}/compare/flips?n=2").json()
    rest = world.client.get(f"{API}{world.at}/compare/flips?n=2&after=2").json()
    assert [f["image_id"] for f in first["flips"] + rest["flips"]] == [2, 3, 4]
    assert first["images"] == 3 and (first["a"], first["b"]) == ("v1.0", "v1.1")
    assert world.client.get(f"{API}{world.at}/compare/flips?direction=x").status_code == 422


# --- slices --------------------------------------------------------------------------------------


def test_a_slice_and_what_is_expected_of_it_by_forms_alone(world: World) -> None:
    at = f"{world.at}/slices"
    assert "No slice" not in world.client.get(at).text
    assert world.client.post(at, data={"kind": "tag", "tag": "photo"}).status_code == 303
    page = world.client.get(at).text
    assert "tagged “photo”" in page and "40\u202f%" in page
    data = {"slice_id": "1", "measure": "mean", "bound": "at most", "value": "1,25",
            "blocks": "true"}  # fmt: skip
    assert world.client.post(f"{world.at}/expectations", data=data).status_code == 303
    page = world.client.get(at).text
    assert "mean prediction at most 1.25 points" in page and ">fail<" in page
    assert "blocks activation" in page
    assert "mean prediction at most 1.25 points" in world.client.get("/versions/2").text
    assert 'value="1.25"' in page and "Points, or %" in page, "typed in the unit it is shown in"
    with reading(world.engine) as session:
        assert session.exec(select(Expectation.value)).one() == 0.125
    changed = data | {"expectation_id": "1", "value": "95 %"}
    assert world.client.post(f"{world.at}/expectations", data=changed).status_code == 303
    page = world.client.get(at).text
    assert "at most 9.5 points" in page and ">pass<" in page and ">fail<" not in page
    assert world.client.post(f"{world.at}/expectations/1/remove").status_code == 303
    assert world.client.post(f"{world.at}/slices/1/remove").status_code == 303
    with reading(world.engine) as session:
        assert session.exec(select(Slice)).all() == session.exec(select(Expectation)).all() == []


def test_a_refused_slice_or_expectation_keeps_what_was_typed(world: World) -> None:
    data = {"kind": "tag", "tag": "unknown tag", "name": "My name"}
    refused = world.client.post(f"{world.at}/slices", data=data)
    assert refused.status_code == 422 and "No image carries the tag" in refused.text
    assert 'value="unknown tag"' in refused.text and 'value="My name"' in refused.text
    world.client.post(f"{world.at}/slices", data={"kind": "tag", "tag": "photo"})
    data = {"slice_id": "1", "value": "two hundred", "measure": "pass_rate"}
    refused = world.client.post(f"{world.at}/expectations", data=data)
    assert refused.status_code == 422 and "is not a share" in refused.text
    assert 'value="two hundred"' in refused.text
    data = {"slice_id": "1", "value": "35", "measure": "mean"}
    refused = world.client.post(f"{world.at}/expectations", data=data)
    assert refused.status_code == 422 and "35 % are 3.5 points" in refused.text
    assert world.client.post(f"{world.at}/expectations/7/remove").status_code == 404


def test_an_encoder_without_words_says_so_instead_of_searching(world: World) -> None:
    page = world.client.get(f"{world.at}/slices").text
    assert "reads none" in page and 'name="prompt"' not in page
    data = {"kind": "prompt", "prompt": "a castle", "share": "5"}
    refused = world.client.post(f"{world.at}/slices", data=data)
    assert refused.status_code == 409 and "reads no text" in refused.text


def test_a_slice_by_text_asks_for_its_share_of_the_library(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def answer(engine: Any, kind: str, payload: dict[str, Any], **rest: Any) -> dict[str, Any]:
        asked.append(payload | {"kind": kind})
        return {"images": [{"image_id": i, "similarity": 0.3} for i in (4, 2)]}

    for module in ("evaluation", "pages"):
        monkeypatch.setattr(f"tastemaker.{module}.slices.reads_text", lambda name: True)
    monkeypatch.setattr("tastemaker.evaluation.slices.embeddings.count", lambda *_: 20)
    monkeypatch.setattr("tastemaker.evaluation.slices.model_requests.call", answer)
    data = {"kind": "prompt", "prompt": "a castle", "share": "10"}
    assert world.client.post(f"{world.at}/slices", data=data).status_code == 303
    assert asked == [{"text": "a castle", "limit": 2, "kind": "text"}]
    page = world.client.get(f"{world.at}/slices").text
    assert "the 10 % nearest to “a castle”" in page and "Search again" in page
    assert world.client.post(f"{world.at}/slices/1/search").status_code == 303

    def nobody(*_: Any, **__: Any) -> None:
        raise Unavailable("The worker is not running.", "Start it.")

    monkeypatch.setattr("tastemaker.evaluation.slices.model_requests.call", nobody)
    refused = world.client.post(f"{world.at}/slices", data=data | {"prompt": "a tower"})
    assert refused.status_code == 503 and "The worker is not running" in refused.text
    assert 'value="a tower"' in refused.text


def test_slices_and_expectations_by_the_api(world: World) -> None:
    at = f"{API}{world.at}"
    made = world.client.post(f"{at}/slices", json={"tag": "photo"})
    assert made.status_code == 201 and made.json()["what"] == "tagged “photo”"
    stated = {"slice_id": made.json()["id"], "value": 0.9, "measure": "pass_rate"}
    answer = world.client.post(f"{at}/expectations", json=stated)
    assert answer.status_code == 201
    told = world.client.get(f"{at}/slices").json()
    assert told["version"] == "v1.1" and told["expectations"][0]["met"] is True
    assert told["slices"][0]["images"] == 8
    changed = world.client.put(f"{at}/expectations/1", json=stated | {"bound": "at least"})
    assert changed.json()["bound"] == "at least"
    older = world.client.get(f"{at}/slices?version=v1.0").json()
    assert older["version"] == "v1.0"
    assert world.client.post(f"{at}/expectations", json=stated | {"value": 3}).status_code == 422
    assert world.client.post(f"{at}/slices", json={"kind": "filter"}).status_code == 422
    assert world.client.delete(f"{at}/expectations/1").status_code == 204
    assert world.client.delete(f"{at}/slices/1").status_code == 204
    assert world.client.get(f"{at}/slices").json()["slices"] == []


def test_before_the_first_version_slices_can_be_defined(tmp_path: Path) -> None:
    world = make_world(tmp_path, images=2)
    assert "No image has a tag yet" in world.client.get(f"{world.at}/slices").text
    with writing(world.engine) as session:
        images.add_tags(session, 1, ["photo"])
    world.client.post(f"{world.at}/slices", data={"kind": "tag", "tag": "photo"})
    page = world.client.get(f"{world.at}/slices").text
    assert "There is no version yet" in page and "tagged “photo”" in page
    data = {"slice_id": "1", "value": "10"}
    world.client.post(f"{world.at}/expectations", data=data)
    assert "1 is stated" in world.client.get(f"{world.at}/slices").text
    assert world.client.get(f"{API}{world.at}/slices").json()["version"] is None


def test_names_and_tags_of_people_are_text_and_nothing_else(world: World) -> None:
    evil = '"><img src=x onerror=alert(1)>'
    with writing(world.engine) as session:
        images.add_tags(session, 1, [evil])
    world.client.post(f"{world.at}/slices", data={"kind": "tag", "tag": evil})
    data = {"slice_id": "1", "value": "10"}
    world.client.post(f"{world.at}/expectations", data=data)
    for page in (f"{world.at}/slices", "/versions/2", f"{world.at}/compare"):
        assert not re.search(r"<img[^>]*onerror", world.client.get(page).text), page


def test_a_training_may_have_another_recipe_than_the_project(world: World) -> None:
    embed_all(world)
    form = Fields(world.client.get(f"{world.at}/versions").text, f"{world.at}/train").fields
    assert form["recipe"] == "auto"
    assert world.client.post(f"{world.at}/train", data={"recipe": "best"}).status_code == 422
    assert "major" not in form
    world.client.post(f"{world.at}/train", data=form | {"recipe": "mlp", "major": "true"})
    with writing(world.engine) as session:
        (job,) = session.exec(select(Job).where(Job.kind == "train")).all()
        assert job.payload["recipe"] == "mlp"
        assert world.project(session).recipe == "auto"
        jobs.cancel(session, job.id)
    page = world.client.get(f"{world.at}/versions").text
    kept = Fields(page, f"{world.at}/train").fields
    assert kept["recipe"] == "mlp" and kept["major"] == "true", "for the next try"


def test_a_major_version_is_asked_for_with_a_tick(world: World) -> None:
    embed_all(world)
    world.client.post(f"{world.at}/train", data={"major": "true"})
    with reading(world.engine) as session:
        (job,) = session.exec(select(Job).where(Job.kind == "train")).all()
    assert job.payload["major"] is True


# --- in a browser --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["cancelled", "failed"])
def test_the_note_of_a_training_that_ended_without_a_version_is_kept(
    world: World, state: str
) -> None:
    def typed() -> str:
        page = world.client.get(f"{world.at}/versions").text
        return html.unescape(re.search(r'name="note"[^>]* value="([^"]*)"', page)[1])

    assert typed() == ""
    add_job(world, state, payload={"note": "slips <mended> & more"})
    assert typed() == "slips <mended> & more"
    add_job(world, state, payload={"note": f"{auto_train.BY_ITSELF}50 new scores"})
    assert typed() == "", "nobody wrote that one"
    add_job(world, state, payload={"note": "another"})
    add_job(world, "done", payload={"note": "another"})
    assert typed() == "", "it is a version's now"


@pytest.mark.browser
def test_flips_are_corrected_and_taken_back_by_keyboard_alone(
    world: World, chromium: Browser
) -> None:
    before = len(events(world))
    with serving(world) as url, browsing(chromium) as page:
        page.goto(f"{url}{world.at}/compare?view=up")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#card-2")).to_be_focused()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("8")
        expect(page.locator("#verdict-3")).to_contain_text("Saved: 8")
        expect(page.locator("#counts")).to_contain_text("Of 3 with a label, 3 are")
        assert events(world)[before:] == [(3, "set", 8)]
        page.keyboard.press("Backspace")
        expect(page.locator("#verdict-3")).to_contain_text("you said 2")
        assert len(events(world)) == before + 2


@pytest.mark.browser
def test_axe_finds_nothing_on_the_pages_about_versions(world: World, chromium: Browser) -> None:
    with writing(world.engine) as session:
        project = world.project(session)
        row = slices.add(session, project, "tag", {"tag": "photo"})
        expectations.expect(session, project, row.id, "mean", "at most", 0.1, blocks=True)
    at = world.at
    pages = [f"{at}/versions", "/versions/2", f"{at}/compare", f"{at}/compare?view=up",
             f"{at}/compare?view=labels", f"{at}/slices"]  # fmt: skip
    with serving(world) as url, browsing(chromium) as page:
        for path in pages:
            page.goto(url + path)
            assert troubles(page) == [], path
