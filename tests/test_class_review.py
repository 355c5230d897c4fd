"""What the live model and Review know of a project with classes, before and after a version."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from class_world import CENTRES, DIM, Classes, class_home, looks, open_classes
from sqlmodel import select

from tastemaker import projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import Image
from tastemaker.live import live_model, model_process
from tastemaker.live.live_model import LiveModel
from tastemaker.live.project_state import ProjectState, stamp_of
from tastemaker.pages import formats
from tastemaker.scores import class_changes, classes

API = "/api/v1/projects/1"


@pytest.fixture
def made(tmp_path: Path) -> Classes:
    return open_classes(class_home(tmp_path / "home"))


@pytest.fixture
def trained(tmp_path: Path) -> Classes:
    return open_classes(class_home(tmp_path / "home", train=True))


def refitted(made: Classes) -> LiveModel:
    model_process.refit(made.settings, made.engine, made.project_id)
    live = live_model.read_live(made.settings, made.project_id)
    assert live is not None
    return live


def review(made: Classes, kind: str, query: str = "") -> dict:
    answer = made.world.client.get(f"{API}/review/{kind}?{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def listed(made: Classes, kind: str, query: str = "") -> list[int]:
    return [card["image_id"] for card in review(made, kind, query)["cards"]]


def outside(made: Classes, *, labelled: bool) -> list[int]:
    """The images outside the hold-out that have a label, or have none."""
    with sessions.reading(made.engine) as session:
        project = made.project(session)
        groups = dict(session.execute(select(Image.id, Image.source_group)).all())
        known = scores.values_of(session, project.id, list(made.kinds))
    return [
        i for i in made.kinds
        if (i in known) == labelled and not projects.on_holdout_side(project, groups[i])
    ]  # fmt: skip


def held_out(made: Classes) -> set[int]:
    free = {*outside(made, labelled=True), *outside(made, labelled=False)}
    return made.kinds.keys() - free


def wrongly_labelled(made: Classes, count: int) -> list[int]:
    """Labels outside the hold-out that are made wrong."""
    free = outside(made, labelled=True)
    slips = free[:: len(free) // count][:count]
    made.label({i: (made.kinds[i] + 1) % 3 for i in slips}, origin="queue")
    return slips


# --- the live model ------------------------------------------------------------------------------


def test_the_live_model_tells_classes_apart_before_the_first_training(made) -> None:
    live = refitted(made)
    new = [image for image in made.kinds if made.labelled(image) is None]
    assert np.mean([live.says(image) == made.kinds[image] for image in new]) > 0.8
    assert live.fit.classes == (0, 1, 2) and live.says(10**9) is None
    cards = made.world.client.get(f"{API}/queue?queue=mixed&n=20").json()
    assert {card["predicted_by"] for card in cards} == {"live model"}
    assert {card["origin"] for card in cards} == {"control", "queue"}
    picked = [card for card in cards if card["origin"] == "queue"]
    assert all(re.match(r"(near a|the least)", card["reason"]) for card in picked)
    near = made.world.client.get(f"{API}/queue?queue=boundary&n=20").json()
    assert near and held_out(made).isdisjoint(card["image_id"] for card in near)
    assert all(card["label"] is None for card in near)


@pytest.mark.parametrize("several", [False, True])
def test_the_strip_tells_how_often_the_live_model_is_right_on_the_random_sample(
    tmp_path: Path, several
) -> None:
    made = open_classes(class_home(tmp_path / "home", several=several))
    picked = [i for i in made.kinds if made.labelled(i) is None][:12]
    made.label(dict.fromkeys(picked, 1), origin="queue")  # of what a queue picked nothing is told
    live = refitted(made)
    assert live.fit.accuracy is not None
    drawn = [i for i in outside(made, labelled=True) if i not in picked]
    right = np.mean([live.says(i) == made.labelled(i) for i in drawn])
    told = live.fit.accuracy.right
    assert (told.n, told.value) == (len(drawn), pytest.approx(right))
    assert told.low < told.value < told.high
    labels = [made.labelled(i) for i in drawn]
    assert live.fit.accuracy.always_commonest < told.value
    if not several:
        most = max(labels.count(number) for number in range(3))
        assert live.fit.accuracy.always_commonest == pytest.approx(most / len(drawn))
    strip = made.world.client.get("/projects/1/score/strip").text.replace("\u202f", "")
    assert f"<b>{told.value:.0%}" in strip and f"right of {told.n} random" in strip
    assert f"always the commonest: {live.fit.accuracy.always_commonest:.0%}" in strip
    assert live_model.read_live(made.settings, 1).fit == live.fit


def test_of_fewer_than_ten_random_labels_the_strip_tells_no_accuracy(tmp_path: Path) -> None:
    made = open_classes(class_home(tmp_path / "home", labels=9))
    assert refitted(made).fit.accuracy is None
    assert "random" not in made.world.client.get("/projects/1/score/strip").text


def test_what_is_shown_of_a_labelled_image_never_saw_its_label(made) -> None:
    """A slip is predicted to be what it is, not what was said."""
    before = refitted(made)
    image = next(i for i in outside(made, labelled=False)
                 if before.says(i) == made.kinds[i] and before.of(i)[0] > 0.9)  # fmt: skip
    made.label({image: (made.kinds[image] + 1) % 3}, origin="queue")
    after = refitted(made)
    assert after.says(image) == made.kinds[image]
    assert after.of(image)[0] == pytest.approx(before.of(image)[0], abs=0.05)


def test_the_order_follows_the_keys(made) -> None:
    """A few labels that say otherwise turn the predictions, and with them what is near."""
    before = refitted(made)
    made.label({i: 1 for i, kind in made.kinds.items() if kind == 0 and i % 2}, origin="queue")
    after = refitted(made)
    assert after.fit.event_high > before.fit.event_high
    photos = [i for i, kind in made.kinds.items() if kind == 0 and made.labelled(i) is None]
    assert np.mean([after.of(i)[1] for i in photos]) > np.mean([before.of(i)[1] for i in photos])
    assert after.lists.near_threshold != before.lists.near_threshold


def test_the_page_of_an_image_and_the_library_tell_what_the_live_model_says(made) -> None:
    live, client = refitted(made), made.world.client
    image = next(i for i in made.kinds if live.says(i) == 2)
    sure = html.escape("".join(formats.probability(live.of(image)[0]).split()))
    page = client.get(f"/projects/1/images/{image}").text
    told = re.search(r"<dt>Live model</dt><dd>(.*?)</dd>", page)
    assert told and re.sub(r"<[^>]*>|\s", "", told[1]) == f"logo{sure}"
    shelf = client.get("/projects/1/library?version=live").text
    assert re.search(r'title="predicted[^"]*"[^>]*>\s*logo', shelf)
    with sessions.writing(made.engine) as session:
        class_changes.delete(session, made.project(session), 2)
    assert "a class that is gone" in client.get(f"/projects/1/images/{image}").text


def test_the_library_is_filtered_by_what_the_live_model_says(made) -> None:
    live, client = refitted(made), made.world.client
    of = {kind: {i for i in made.kinds if live.says(i) == kind} for kind in range(3)}

    def shown(kind: int, query: str = "") -> set[int]:
        at = f"{API}/library?version=live&predicted_as={kind}&n=100{query}"
        return {tile["image_id"] for tile in client.get(at).json()["images"]}

    assert min(map(len, of.values())) > 5
    for order in ("", "&sort=predicted-high", "&sort=name"):
        assert [shown(kind, order) for kind in range(3)] == list(of.values()), order
    few = sorted(i for i in of[2] if made.labelled(i) == 2)
    assert shown(2, "&labelled=2") == set(few), "beside another filter"
    with sessions.writing(made.engine) as session:
        class_changes.merge(session, made.project(session), 1, into=2)
    assert shown(2) == of[1] | of[2] and shown(0) == of[0]
    assert ">The live model<" in client.get("/projects/1/library").text
    lasting = {"kind": "filter", "name": "x", "filter": {"version": "live", "predicted_as": 0}}
    refused = client.post(f"{API}/slices", json=lasting)
    assert refused.status_code == 422 and "live model changes" in refused.text


def test_the_prediction_is_not_on_the_page_before_the_label(made) -> None:
    refitted(made)
    page = made.world.client.get("/projects/1/score").text
    told = re.search(r'<section class="this-one">(.*?)</section>', page, re.S)
    assert told and "sure by" not in told[1]


@pytest.mark.parametrize("labels", [{}, {1: 0}, {1: 0, 4: 0, 7: 0}])
def test_labels_of_no_class_or_of_one_teach_nothing_and_every_page_opens(tmp_path, labels) -> None:
    made = open_classes(class_home(tmp_path / "home", labels=0))
    made.label(labels)
    live = refitted(made)
    assert live.fit.classes == () and live.of(1) is None and live.lists.near_threshold == ()
    assert live.lists.start, "images come all the same"
    client = made.world.client
    assert len(client.get(f"{API}/queue?queue=mixed&n=5").json()) == 5
    for kind in ("confused", "no-class", "doubtful", "contradictions"):
        page = client.get(f"/projects/1/review/{kind}")
        assert page.status_code == 200 and 'id="card-' not in page.text, kind
    assert "Nothing to review yet" in client.get("/projects/1/review/doubtful").text


def test_two_hundred_classes_have_a_live_model_and_a_review(tmp_path: Path) -> None:
    made = open_classes(class_home(tmp_path / "home", labels=0))
    with sessions.writing(made.engine) as session:
        for number in range(3, 200):
            class_changes.add(session, made.project(session), f"class {number}")
    made.label({image: n for n, image in enumerate(sorted(made.kinds))})
    live = refitted(made)
    assert len(live.fit.classes) > 60 and live.lists.no_class, "one image each: none is likely"
    assert review(made, "no-class")["labelled"] > 0
    assert listed(made, "doubtful") == []


def test_a_merged_or_a_deleted_class_refits_the_live_model_and_is_told_as_it_is_by_now(
    made,
) -> None:
    refitted(made)
    with sessions.writing(made.engine) as session:
        before = stamp_of(session, made.project(session))
        class_changes.merge(session, made.project(session), 2, into=1)
        after = stamp_of(session, made.project(session))
    state = ProjectState(stamp=before)
    assert before != after and state.is_due(after)
    client = made.world.client
    for queue in ("mixed", "boundary"):  # the lists are from before
        cards = client.get(f"{API}/queue?queue={queue}&n=20").json()
        assert {card["says"] for card in cards} <= {0, 1}
        assert not any("logo" in card["reason"] for card in cards)
    assert refitted(made).fit.classes == (0, 1)
    with sessions.writing(made.engine) as session:
        class_changes.add(session, made.project(session), "sketch")
        class_changes.change(session, made.project(session), 1, name="picture")
        class_changes.delete(session, made.project(session), 0)
    cards = client.get(f"{API}/queue?queue=boundary&n=20").json()
    assert cards and not any("photo" in card["reason"] for card in cards)
    assert {card["says"] for card in cards} <= {1, None}


# --- possible label errors -----------------------------------------------------------------------


def test_wrong_labels_head_the_list_and_are_corrected_by_the_key_of_a_class(made) -> None:
    kinds = np.arange(240) % 3
    more = sorted(made.add(240, "More", "pool", seed=21, x=looks(kinds, seed=21)))
    made.kinds |= dict(zip(more, kinds.tolist(), strict=True))
    made.label({image: made.kinds[image] for image in more})
    slips = wrongly_labelled(made, 12)  # of 240 outside the hold-out: one in twenty
    refitted(made)
    found = review(made, "doubtful")
    first = [card["image_id"] for card in found["cards"][: len(slips)]]
    assert len(set(first) & set(slips)) >= 8, "a random order would have 0.6 there"
    card = next(card for card in found["cards"] if card["image_id"] in slips)
    truth = made.kinds[card["image_id"]]
    name = classes_of(made)[truth]
    assert f"what resembles it points to {name}" in card["reason"] and card["origin"] == "review"
    page = made.world.client.get("/projects/1/review/doubtful").text
    assert card["reason"].split(",")[0] in page and "labels that disagree" in page
    corrected = score(made, card, truth, "doubtful")
    assert f"Saved {name} for" in corrected and 'id="counts"' in corrected
    after = review(made, "doubtful")
    assert card["image_id"] not in [one["image_id"] for one in after["cards"]]
    assert (after["labelled"], after["reviewed"]) == (found["labelled"] - 1, 1)


def classes_of(made: Classes) -> dict[int, str]:
    with sessions.reading(made.engine) as session:
        return {row.number: row.name for row in classes.of(session, 1).alive}


def score(made: Classes, card: dict, value: int, kind: str, **place: object) -> str:
    """Correct a card as the page does."""
    answer = made.world.client.post(
        f"/projects/1/images/{card['image_id']}/score",
        data={
            "value": str(value), "offer": card["offer"],
            "place": json.dumps({"kind": "review", "review": kind, **place}),
        },
        headers={"HX-Request": "true"},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    return answer.text


def test_a_label_that_is_kept_is_settled_until_the_next_version_and_undo_brings_it_back(
    trained,
) -> None:
    client = trained.world.client
    slips = wrongly_labelled(trained, 3)
    refitted(trained)
    card = next(c for c in review(trained, "doubtful")["cards"] if c["image_id"] in slips)
    score(trained, card, int(card["label"]), "doubtful")
    refitted(trained)
    assert card["image_id"] not in listed(trained, "doubtful")
    assert client.post("/projects/1/undo", data={}).status_code == 303
    assert card["image_id"] in listed(trained, "doubtful")
    score(trained, card | {"offer": card["offer"]}, int(card["label"]), "doubtful")
    trained.train()
    refitted(trained)
    assert card["image_id"] in listed(trained, "doubtful"), "a newer version is newer evidence"


def test_a_skip_in_review_says_nothing_of_the_label_and_settles_it(made) -> None:
    wrongly_labelled(made, 3)
    refitted(made)
    card = review(made, "doubtful")["cards"][0]
    body = {"image_id": card["image_id"], "kind": "skip", "offer": card["offer"]}
    assert made.world.client.post(f"{API}/scores", json=body).status_code == 200
    assert made.labelled(card["image_id"]) == card["label"]
    assert card["image_id"] not in listed(made, "doubtful")


@pytest.mark.parametrize("change", ["merge", "delete", "rename"])
def test_a_list_that_was_made_before_a_class_changed_shows_nothing_of_what_is_gone(
    made, change
) -> None:
    slips = wrongly_labelled(made, 3)
    refitted(made)
    before = review(made, "doubtful")["cards"]
    with sessions.writing(made.engine) as session:
        project = made.project(session)
        if change == "merge":
            class_changes.merge(session, project, 1, into=0)
        elif change == "delete":
            class_changes.delete(session, project, 1)
        else:
            class_changes.change(session, project, 1, name="sketch")
    cards = review(made, "doubtful")["cards"]
    assert made.world.client.get("/projects/1/review/doubtful").status_code == 200
    assert not any("drawing" in card["reason"] for card in cards)
    stale = next(card for card in before if card["image_id"] in slips)
    assert "Saved photo for" in score(made, stale, 0, "doubtful"), "on a page opened before"
    if change == "rename":
        assert len(cards) == len(before)
        assert any("sketch" in card["reason"] for card in cards)


def test_near_twins_of_two_classes_are_a_pair(made) -> None:
    x = np.repeat(looks(np.array([0]), seed=8), 2, axis=0)
    x[1] += 1e-3
    one, two = sorted(made.add(2, "Twins", "pool", seed=7, x=x))
    made.label({one: 0, two: 2}, origin="queue")
    refitted(made)
    found = review(made, "contradictions")
    assert found["labelled"] == 1 and [c["image_id"] for c in found["cards"]] == [one, two]
    assert found["cards"][0]["reason"] == "you said photo, and logo for its near-twin"
    assert "labelled differently" in made.world.client.get("/projects/1/review/contradictions").text


# --- what no class fits --------------------------------------------------------------------------


def test_images_that_no_class_is_likely_for_are_listed_the_unlikeliest_first(made) -> None:
    amid = np.repeat(CENTRES.mean(axis=0, keepdims=True), 3, axis=0).astype(np.float32)
    amid += np.random.default_rng(2).normal(size=(3, DIM)).astype(np.float32) * 0.05
    strange = made.add(3, "Strange", "pool", seed=11, x=amid)
    live = refitted(made)
    found = review(made, "no-class")
    unlabelled = [c["image_id"] for c in found["cards"] if c["label"] is None]
    assert set(strange) - held_out(made) <= set(unlabelled) and found["suspected"] >= 1
    highest = [live.of(image)[0] for image in unlabelled]
    assert highest == sorted(highest) and max(highest) < 2 / 3
    assert found["cards"][0]["label"] is not None or not found["labelled"], "labelled ones first"
    assert all(card["reason"].startswith("no class fits; ") for card in found["cards"])
    card = next(card for card in found["cards"] if card["image_id"] in strange)
    score(made, card, 2, "no-class")
    assert card["image_id"] not in listed(made, "no-class")
    queue = made.world.client.get(f"{API}/queue?queue=no-class&n=20").json()
    assert {c["image_id"] for c in queue} == set(unlabelled) - {card["image_id"]}


# --- confused classes ----------------------------------------------------------------------------


def test_of_many_classes_each_has_a_row_and_what_it_is_most_often_taken_for(
    tmp_path: Path,
) -> None:
    """A matrix of 23 classes has 529 numbers, nearly all of them 0."""
    made = open_classes(class_home(tmp_path / "home", labels=0))
    with sessions.writing(made.engine) as session:
        for number in range(3, 23):
            class_changes.add(session, made.project(session), f"class {number}")
    made.label({image: n % 23 for n, image in enumerate(sorted(made.kinds))})
    version = made.train()
    told = made.world.client.get(f"{API}/confusion").json()
    counts = np.array(told["counts"])
    place = int(np.argmax(counts.sum(1)))
    wrong = np.where(np.arange(23) == place, 0, counts[place])
    page = made.world.client.get("/projects/1/confusion").text
    (row,) = re.findall(
        rf"<tr><th[^>]*>{told['classes'][place]['name']}</th>(.*?)</tr>", page, re.S
    )
    assert f'data-of="images">{counts[place].sum()}<' in row
    links = re.findall(r"labelled=(\d+)&amp;predicted=(\d+).*?> (\d+)</a>", row)
    assert {(int(a), counts[int(a), int(b)]) for a, b, _ in links} == {
        (place, int(n)) for *_, n in links
    }
    assert [int(n) for *_, n in links] == sorted(wrong[wrong > 0].tolist(), reverse=True)[:3] != []
    assert page.count("<td") < 23 * 5 and "Columns: predicted" not in page
    at = f"/projects/1/review/confused?labelled={links[0][0]}&predicted={links[0][1]}"
    assert made.world.client.get(at).text.count('id="card-') == int(links[0][2])

    of_version = made.world.client.get(f"/versions/{version.id}").text
    assert "most often taken for" in of_version and "Columns: predicted" not in of_version
    card = made.world.client.get(f"/versions/{version.id}/card.md").text
    assert "What each class is most often taken for:" in card


def test_the_cells_of_the_matrix_lead_to_the_labels_behind_them(trained) -> None:
    client = trained.world.client
    wrong = [image for image, kind in trained.kinds.items() if kind == 0][:3]
    trained.label(dict.fromkeys(wrong, 1))
    told = client.get(f"{API}/confusion").json()
    assert told["version"] == "v1.0" and told["classes"][1] == {"number": 1, "name": "drawing"}
    assert sum(map(sum, told["counts"])) == told["labelled"]
    matrix = client.get("/projects/1/confusion").text
    assert 'href="/projects/1/review/confused?labelled=1&amp;predicted=0"' in matrix
    old = client.get("/projects/1/confusion?labelled=1&predicted=0", follow_redirects=False)
    assert old.headers["location"] == "/projects/1/review/confused?labelled=1&predicted=0"

    cell = review(trained, "confused", "labelled=1&predicted=0")
    assert cell["labelled"] == told["counts"][1][0] >= 1 and cell["version"] == "v1.0"
    card = cell["cards"][0]
    assert card["image_id"] in wrong and card["reason"] == "predicted photo, you said drawing"
    everything = review(trained, "confused")
    assert everything["labelled"] == told["labelled"] - told["right"]
    right = review(trained, "confused", "labelled=0&predicted=0")
    assert right["labelled"] == told["counts"][0][0]
    page = client.get("/projects/1/review/confused?labelled=1&predicted=0").text
    assert f'id="card-{card["image_id"]}"' in page and "drawing → photo" in page
    swapped = score(trained, card, 0, "confused", labelled=1, predicted=0)
    assert f'id="verdict-{card["image_id"]}"' in swapped and "Saved photo for" in swapped
    assert f"<b>{cell['labelled'] - 1}</b> to look at" in swapped
    after = review(trained, "confused", "labelled=1&predicted=0")
    assert after["labelled"] == cell["labelled"] - 1
    kept = after["cards"][0] if after["cards"] else review(trained, "confused")["cards"][0]
    score(trained, kept, int(kept["label"]), "confused")
    left = review(trained, "confused")
    assert (left["labelled"], left["reviewed"]) == (everything["labelled"] - 2, 1)


def test_the_confused_are_walked_page_by_page_the_surest_first(trained) -> None:
    wrongly_labelled(trained, 12)
    seen, after = [], ""
    while True:
        page = review(trained, "confused", f"n=4&after={after}")
        seen += [(card["prediction"], card["image_id"]) for card in page["cards"]]
        after = page["next"]
        if not after:
            break
    assert len(seen) == len(set(seen)) == page["labelled"] > 8
    assert {image for _, image in seen} & held_out(trained) == set()


def test_a_class_that_the_version_never_learned_is_no_disagreement_but_a_row_of_the_matrix(
    trained,
) -> None:
    """What it cannot say it does not say otherwise."""
    with sessions.writing(trained.engine) as session:
        new = class_changes.add(session, trained.project(session), "stamp").number
    free = outside(trained, labelled=False)
    stamps = free[:4]
    trained.label(dict.fromkeys(stamps, new), origin="queue")
    assert set(stamps).isdisjoint(listed(trained, "confused"))
    queue = trained.world.client.get(f"{API}/queue?queue=confused&n=50").json()
    assert set(stamps).isdisjoint(card["image_id"] for card in queue)
    cells = [listed(trained, "confused", f"labelled={new}&predicted={k}") for k in range(3)]
    assert sorted(i for cell in cells for i in cell) == sorted(stamps)


def test_a_cell_whose_class_is_gone_is_refused_and_a_page_of_it_loses_nothing(trained) -> None:
    client = trained.world.client
    wrongly_labelled(trained, 6)
    card = review(trained, "confused", "labelled=1&predicted=0")["cards"][0]
    with sessions.writing(trained.engine) as session:
        class_changes.delete(session, trained.project(session), 2)
    gone = client.get(f"{API}/review/confused?labelled=2&predicted=0")
    assert gone.status_code == 404 and "no such class" in gone.json()["error"]
    for half in ("labelled=77", "labelled=1", "predicted=1"):
        assert client.get(f"{API}/review/confused?{half}").status_code == 404, half
        assert "names no pair" in client.get(f"/projects/1/review/confused?{half}").text
    assert "names no pair" not in client.get("/projects/1/review/confused").text
    for query in ("labelled=2&predicted=0", "labelled=77&predicted=0"):
        page = client.get(f"/projects/1/review/confused?{query}")
        assert page.status_code == 200 and 'id="cards"' in page.text, "the whole list"
        assert "names no pair of classes" in page.text, "and it says so"
    assert "Saved photo for" in score(trained, card, 0, "confused", labelled=2, predicted=0)
    assert trained.labelled(card["image_id"]) == 0
    with sessions.writing(trained.engine) as session:
        class_changes.add(session, trained.project(session), "sketch")
        class_changes.merge(session, trained.project(session), 1, into=0)
    merged = review(trained, "confused", "labelled=1&predicted=0")
    assert merged["labelled"] == review(trained, "confused", "labelled=0&predicted=0")["labelled"]


# --- tags ----------------------------------------------------------------------------------------


def test_of_tags_what_is_missed_and_what_is_too_many_is_listed_tag_by_tag(tmp_path: Path) -> None:
    made = open_classes(class_home(tmp_path / "home", train=True, several=True))
    live = refitted(made)
    assert review(made, "doubtful")["labelled"] == 1
    page = made.world.client.get("/projects/1/review/doubtful").text
    assert "<b>1</b> label that disagrees with similar images" in page
    truth = {0: 0b001, 1: 0b010, 2: 0b110}
    new = [image for image in made.kinds if made.labelled(image) is None]
    assert np.mean([live.says(image) == truth[made.kinds[image]] for image in new]) > 0.7
    free = outside(made, labelled=True)
    slip = next(i for i in free if made.kinds[i] == 0 and live.says(i) == 0b001)
    made.label({slip: 0b011}, origin="queue")  # a photo that is no drawing
    refitted(made)
    cell = review(made, "confused", "labelled=1&predicted=0")
    assert slip in [card["image_id"] for card in cell["cards"]], "has the tag, is not said to"
    page = made.world.client.get("/projects/1/review/confused?labelled=1&predicted=0").text
    assert "drawing, missed" in page and 'type="checkbox" name="tag"' in page
    assert made.world.client.get(f"{API}/review/confused?labelled=1").status_code == 404, "half"
    assert ">Confused tags<" in page and ">No tag fits<" in page and "No class" not in page
    doubtful = review(made, "doubtful")["cards"]
    reason = next(card["reason"] for card in doubtful if card["image_id"] == slip)
    assert reason.startswith("you said drawing; going by what resembles it that is ")
    assert made.world.client.get("/projects/1/review/no-class").status_code == 200
    near = made.world.client.get(f"{API}/queue?queue=boundary&n=5").json()
    assert near and all(re.search(r"(photo|drawing|logo) \d", card["reason"]) for card in near)
