"""The pages in a real Chromium: keys, the outbox, no script at all, the CSP, axe."""

import shutil
from pathlib import Path

import pytest
from in_browser import PHONE, browsing, saved, serving, shown_image
from playwright.sync_api import Browser, Route, expect
from sqlmodel import select
from web_world import World, add_version, embed_all, events, full_world, make_world, score_some

from tastemaker import projects, scores
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Image, Job, RemovedImage, ScoreEvent
from tastemaker.encoding.encoder_specs import known_encoders
from tastemaker.pages import keymap, review

pytestmark = pytest.mark.browser


def not_said(world: World, image_id: int) -> bool:
    return all(image_id != said for said, _, _ in events(world))


def test_each_key_scores_the_image_that_is_seen(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path, images=18)
    keys = ["0", "1", "5", "9", "-", "Shift+Digit0", "7", "NumpadSubtract", "4"]
    values = [0, 1, 5, 9, 10, 10, 7, 10, 4]
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        seen = []
        for key in keys:
            seen.append(shown_image(page))
            page.keyboard.press(key)
        stored = saved(page, world, len(keys))
        assert stored == [(i, "set", v) for i, v in zip(seen, values, strict=True)]
        assert len(set(seen)) == len(keys)
        expect(page.locator("#previous-score")).to_contain_text("4")
        expect(page.locator("#strip")).to_contain_text("9")
        expect(page.locator("#told")).to_contain_text("Saved 4. Next image, 10 of 18: picture-")


def test_undo_brings_the_image_back_and_skip_moves_on(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path, images=10)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        first = shown_image(page)
        page.keyboard.press("3")
        assert shown_image(page) != first
        expect(page.locator("#previous")).to_be_visible()
        page.keyboard.press("Backspace")
        expect(page.locator("#previous")).to_be_hidden()  # blind again for the image on the stage
        assert shown_image(page) == first
        page.keyboard.press("8")
        second = shown_image(page)
        page.keyboard.press("Space")
        assert shown_image(page) not in (first, second)
        stored = saved(page, world, 4)
        assert stored == [(first, "set", 3), (first, "undo", None), (first, "set", 8),
                          (second, "skip", None)]  # fmt: skip
        page.reload()
        shown_image(page)
        page.keyboard.press("Control+z")  # what was said before the page was opened
        expect(page.locator(f"#stage [data-image='{second}']")).to_be_visible()
        assert saved(page, world, 5)[-1] == (second, "undo", None)


def test_a_control_image_taken_back_after_a_reload_stays_control(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=8)
    with serving(world) as address, browsing(chromium) as page:
        with writing(world.engine) as session:
            person = projects.annotator(session, world.settings.annotator)
            control = scores.Offer(scores.Origin.CONTROL)
            offer = scores.sign_offer(session, world.project_id, 5, person.id, control)
        page.request.post(
            f"{address}/api/v1{world.at}/scores",
            data={"image_id": 5, "kind": "set", "value": 3, "offer": offer},
        )
        page.goto(f"{address}{world.at}/score")
        assert shown_image(page) != 5
        page.keyboard.press("Backspace")
        expect(page.locator("#stage [data-image='5']")).to_be_visible()
        assert shown_image(page) == 5
        page.keyboard.press("8")
        assert saved(page, world, 3)[-1] == (5, "set", 8)
    with reading(world.engine) as session:
        assert set(session.exec(select(ScoreEvent.origin))) == {"control"}


def test_a_key_too_early_held_down_or_with_ctrl_scores_nothing(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=8)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")

        def press_at_once(*keys: str) -> list[bool]:
            """Whether each is seen to be ignored: nobody has seen the image after the first."""
            ignored: list[bool] = page.evaluate(
                "keys => keys.map(key => { document.body.dispatchEvent("
                "new KeyboardEvent('keydown', { key, bubbles: true }));"
                "return document.querySelector('#scale').classList.contains('ignored'); })",
                list(keys),
            )
            return ignored

        first = shown_image(page)
        assert press_at_once("7", "3") == [False, True]
        second = shown_image(page)
        for _ in range(4):
            page.keyboard.down("6")  # without a key up in between: repeats
        page.keyboard.up("6")
        third = shown_image(page)
        page.keyboard.press("Control+7")
        press_at_once(" ", " ")
        fourth = shown_image(page)
        page.keyboard.press("5")
        assert saved(page, world, 4) == [
            (first, "set", 7), (second, "set", 6), (third, "skip", None), (fourth, "set", 5),
        ]  # fmt: skip


def test_scores_wait_while_the_server_does_not_answer_and_survive_a_reload(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=14)
    lost: list[str] = []

    def lose_the_answer(route: Route) -> None:
        """The worst case for a resend: the server did save it, and the answer never came."""
        if not lost:
            lost.append(str(route.fetch().status))
        route.abort()

    with serving(world) as address, browsing(chromium) as page:
        page.clock.install()
        page.goto(f"{address}{world.at}/score")
        page.route("**/api/v1/**/scores", lose_the_answer)
        seen = []
        for key in "258":
            seen.append(shown_image(page))
            page.keyboard.press(key)
        expect(page.locator("#outbox")).to_contain_text("3 scores waiting to be saved")
        page.reload()
        expect(page.locator("#outbox")).to_contain_text("3 scores waiting to be saved")
        assert shown_image(page) not in seen
        page.unroute("**/api/v1/**/scores")
        page.evaluate("dispatchEvent(new Event('online'))")
        expect(page.locator("#outbox")).to_contain_text("Everything is saved")
        page.clock.fast_forward(2500)  # time to read it
        expect(page.locator("#outbox")).to_be_hidden()
        assert lost == ["200"]
        assert events(world) == [(i, "set", v) for i, v in zip(seen, (2, 5, 8), strict=True)]


def test_a_score_made_elsewhere_meanwhile_is_kept_and_both_are_told(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=6)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        image_id = shown_image(page)
        score_some(world, [9], first=image_id)
        page.keyboard.press("2")
        expect(page.locator("#toast")).to_contain_text("9 there, 2 here")
        assert events(world) == [(image_id, "set", 9)]
        expect(page.locator("#previous")).to_be_hidden()  # nothing of it was saved
        expect(page.locator("#score")).to_have_attribute("data-ready", str(image_id))
        page.keyboard.press("2")  # again, and now on purpose
        assert saved(page, world, 2)[-1] == (image_id, "set", 2)
        expect(page.locator("#toast")).to_be_empty()


def test_a_refusal_says_why_and_leaves_the_page_as_it_was(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=6)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        removed = shown_image(page)
        with writing(world.engine) as session:
            session.add(RemovedImage(project_id=world.project_id, image_id=removed))
        page.keyboard.press("5")
        expect(page.locator("#toast")).to_contain_text("taken out of the project meanwhile")
        second = shown_image(page)
        page.keyboard.press("4")
        following = shown_image(page)
        assert saved(page, world, 1) == [(second, "set", 4)]
        untouched = next(i for i in range(1, 7) if i != removed and not_said(world, i))
        score_some(world, [9], first=untouched)
        page.keyboard.press("Backspace")
        expect(page.locator("#toast")).to_contain_text("Something newer was scored")
        assert shown_image(page) == following
        assert [kind for _, kind, _ in events(world)] == ["set", "set"]
        page.get_by_role("button", name="Close").click()
        expect(page.locator("#toast")).to_be_empty()


def test_the_prediction_comes_after_the_key_unless_the_project_says_otherwise(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=6)
    add_version(world, 1, dict.fromkeys(range(1, 7), 0.78))
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        shown_image(page)
        assert "78" not in page.locator("main").inner_text()
        page.keyboard.press("5")
        expect(page.locator("#previous-said")).to_contain_text("7.8")
        page.goto(f"{address}{world.at}/settings")
        page.get_by_label("Show the prediction before I score").check()
        page.get_by_role("button", name="Save", exact=True).click()
        page.goto(f"{address}{world.at}/score")
        expect(page.locator("#this-said")).to_contain_text("7.8")


def test_scoring_works_without_a_script(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path, images=5)
    with serving(world) as address, browsing(chromium, java_script_enabled=False) as page:
        page.goto(f"{address}{world.at}/score")

        def shown() -> int:
            return int(page.locator("#stage [data-image]").get_attribute("data-image") or 0)

        first = shown()
        page.get_by_role("button", name="Score 7").click()
        second = shown()
        assert second != first
        page.get_by_role("button", name="Skip").click()
        assert shown() not in (first, second)
        page.get_by_role("button", name="Undo").click()
        assert shown() == second
        assert events(world) == [(first, "set", 7), (second, "skip", None), (second, "undo", None)]
        page.locator("#flagging summary").click()
        page.get_by_label("Note").fill("odd")
        page.locator("#flag button").click()
        assert shown() == second
        page.get_by_role("button", name="Score 4").click()
        assert events(world)[3:] == [(second, "flag", None), (second, "set", 4)]


def test_a_mistake_is_corrected_in_place_with_the_keyboard_and_taken_back(
    chromium: Browser, tmp_path: Path
) -> None:
    world = full_world(tmp_path)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/review/false-positives")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        card = page.locator("[data-card]:focus")
        image_id = int((card.get_attribute("id") or "").removeprefix("card-"))
        page.keyboard.press("8")
        expect(page.locator("#toast")).to_contain_text("Saved 8")
        expect(page.locator(f"#card-{image_id} .verdict")).to_contain_text("Saved: 8")
        expect(page.locator("[data-card]").nth(3)).to_be_focused()
        assert events(world)[-1] == (image_id, "set", 8)
        expect(page.locator("#counts")).to_contain_text("7 among your labels")
        page.keyboard.press("Backspace")
        expect(page.locator("#toast")).to_contain_text("Taken back")
        expect(page.locator("#counts")).to_contain_text("8 among your labels")
        assert events(world)[-1] == (image_id, "undo", None)
        expect(page.locator(f"#card-{image_id} .verdict")).not_to_contain_text("8")
        expect(page.locator(f"#card-{image_id}")).to_be_focused()


def test_every_card_of_a_review_costs_one_key(chromium: Browser, tmp_path: Path) -> None:
    world = full_world(tmp_path)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/review/false-positives?order=confidence")
        cards = page.locator("[data-card]")
        expect(cards.first).to_be_focused()
        ids = [
            int(card.removeprefix("card-")) for card in cards.evaluate_all("c => c.map(e => e.id)")
        ]
        labelled = sum(
            "said" in text for text in page.locator("[data-card] .verdict").all_inner_texts()
        )
        cards.first.locator("button[aria-pressed=true]").evaluate("b => b.ariaPressed = 'false'")
        page.keyboard.press("Enter")  # as of an image that nobody scored: nothing to agree with
        expect(page.locator("#toast")).to_contain_text("This image has no label yet.")
        keys = ["Enter" if n < labelled and n % 2 else "3" for n in range(len(ids))]
        for key in keys:
            page.keyboard.press(key)
        expect(page.locator("[data-card]:has(.verdict.changed)")).to_have_count(len(ids))
        written = events(world)[-len(ids) :]
        assert sorted(image_id for image_id, _, _ in written) == sorted(ids), (
            "each once, on its own"
        )
        assert {kind for _, kind, _ in written} == {"set"}
        for n in range(3):  # as far back as one likes
            page.keyboard.press("Backspace")
            expect(page.locator("[data-card]:has(.verdict.changed)")).to_have_count(
                len(ids) - n - 1
            )
        assert [kind for _, kind, _ in events(world)[-3:]] == ["undo"] * 3


def test_below_the_encoders_stands_what_the_chosen_one_is_for(
    chromium: Browser, tmp_path: Path
) -> None:
    world = full_world(tmp_path)
    one, other = known_encoders()[0], known_encoders()[7]
    with serving(world) as address:
        with browsing(chromium) as page:
            for path, closed in ((f"{world.at}/settings", "#duplicate"), ("/", "")):
                page.goto(address + path)
                if closed:
                    page.locator(f"{closed} > summary").click()
                about = page.locator("#about-encoder")
                page.locator("select[name=encoder]").select_option(other.name)
                expect(about).to_have_text(f"{other.name}: {other.description}")
            page.locator("select[name=encoder]").select_option(one.name)
            expect(about).to_have_text(f"{one.name}: {one.description}")
        with browsing(chromium, java_script_enabled=False) as page:
            page.goto(address)
            expect(page.locator("#about-encoder")).to_have_text(f"{one.name}: {one.description}")
            page.locator(".about-encoders > summary").click()
            expect(
                page.get_by_role("definition").filter(has_text=other.description)
            ).to_be_visible()


def test_a_correction_that_reaches_no_server_says_so_and_can_be_made_again(
    chromium: Browser, tmp_path: Path
) -> None:
    world = full_world(tmp_path)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/review/false-positives")
        card = page.locator("[data-card]").first
        expect(card).to_be_focused()
        before = events(world)
        page.route(
            "**/*",
            lambda route: route.abort() if route.request.method == "POST" else route.continue_(),
        )
        page.keyboard.press("8")
        expect(page.locator("#toast")).to_contain_text("cannot be reached; this is not saved.")
        assert events(world) == before
        page.unroute("**/*")
        card.focus()
        page.keyboard.press("8")
        expect(page.locator("#toast")).to_contain_text("Saved 8")


def test_the_next_page_of_a_review_comes_by_itself_once_all_is_saved(
    chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "PER_PAGE", 3)
    world = full_world(tmp_path)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/review/false-positives")
        first = page.locator("[data-card]").evaluate_all("c => c.map(e => e.id)")
        for _ in first:
            page.keyboard.press("2")
        page.wait_for_url("**/false-positives?after=*")
        second = page.locator("[data-card]").evaluate_all("c => c.map(e => e.id)")
        assert len(first) == len(second) == 3 and not {*first} & {*second}
        expect(page.locator("[data-card]").first).to_be_focused()
        assert {f"card-{image_id}" for image_id, _, _ in events(world)[-3:]} == {*first}


def test_a_correction_takes_the_persons_own_keys_and_a_second_press_after_a_conflict(
    chromium: Browser, tmp_path: Path
) -> None:
    world = full_world(tmp_path)
    with writing(world.engine) as session:
        me = projects.annotator(session, world.settings.annotator)
        keymap.change(session, me, {"score-8": "j", "undo": "u"})
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/review/false-positives")
        card = page.locator("[data-card]").first
        image_id = int((card.get_attribute("id") or "").removeprefix("card-"))
        score_some(world, [1], first=image_id)  # elsewhere, meanwhile
        card.focus()
        page.keyboard.press("8")  # no longer means anything
        page.keyboard.press("j")
        expect(page.locator("#toast")).to_contain_text("1 there, 8 here")
        card.focus()
        page.keyboard.press("j")  # again, and now on purpose
        expect(page.locator("#toast")).to_contain_text("Saved 8")
        assert events(world)[-1] == (image_id, "set", 8)
        page.keyboard.press("u")
        expect(page.locator("#toast")).to_contain_text("Taken back")


def test_two_clicks_are_one_training(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path, images=6)
    embed_all(world)
    score_some(world, [1, 9, 5, 3])
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/versions")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate(
            "() => { const train = document.querySelector('.train-form button');"
            " train.click(); train.click(); }"
        )
        expect(page.locator("#training")).to_contain_text("waiting for the worker")
        with page.expect_response("**/training*"):  # what the page asks next comes after both
            pass
        assert sum(url.endswith("/train") for url in asked) == 1
        with reading(world.engine) as session:
            assert len(session.exec(select(Job)).all()) == 1


def test_the_last_image_of_a_queue_can_be_taken_back(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path, images=1)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        image_id = shown_image(page)
        page.keyboard.press("4")
        expect(page.get_by_role("heading", name="Everything here is scored")).to_be_visible()
        page.keyboard.press("Backspace")
        assert shown_image(page) == image_id
        assert [kind for _, kind, _ in events(world)] == ["set", "undo"]


def test_pictures_are_sent_with_a_bar_and_a_refusal_keeps_the_page(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path / "home", images=0, max_upload_mb=1)
    small, big = tmp_path / "small.png", tmp_path / "big.png"
    small.write_bytes(b"x" * 1000)
    big.write_bytes(b"x" * (2**20 + 1))
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/add")
        page.set_input_files("input[type=file]", big)
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#toast")).to_contain_text("larger than the 1 MB allowed")
        page.set_input_files("input[type=file]", small)
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_text("The first images are on their way")).to_be_visible()


def test_names_with_markup_are_inert(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path, images=2)
    with writing(world.engine) as session:
        for image_id in (1, 2):
            image = session.get(Image, image_id)
            assert image is not None
            image.name = '"><img src=x onerror=window.hit=1><b hx-get="/jobs" hx-trigger="load">'
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        shown_image(page)
        page.keyboard.press("5")
        saved(page, world, 1)
        assert page.evaluate("window.hit") is None
        assert page.locator("b[hx-get]").count() == 0
        expect(page.locator("#this-name")).to_contain_text("onerror")


def test_the_past_is_walked_with_the_arrows_and_corrected_with_one_key(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=10)
    score_some(world, [2, 9])
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        third = shown_image(page)
        page.keyboard.press("4")
        fourth = shown_image(page)
        page.keyboard.press("ArrowLeft")
        assert shown_image(page) == third
        expect(page.locator("#place")).to_contain_text("1 back · you said 4")
        expect(page.locator("#scale [aria-pressed=true]")).to_have_text("4")
        page.keyboard.press("ArrowLeft")  # said before this page was opened
        assert shown_image(page) == 2
        page.keyboard.press("ArrowLeft")
        assert shown_image(page) == 1
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#told")).to_contain_text("nothing before")
        page.keyboard.press("7")
        assert shown_image(page) == 2  # and on to the next, as after every key
        assert saved(page, world, 4)[-1] == (1, "set", 7)
        page.keyboard.press("Backspace")
        assert shown_image(page) == 1
        expect(page.locator("#place")).to_contain_text("you said 2")
        assert saved(page, world, 5)[-1] == (1, "undo", None)
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        assert shown_image(page) == fourth
        expect(page.locator("#place")).to_be_hidden()


def test_an_image_is_flagged_with_a_note_and_still_scored(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=5)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        image_id = shown_image(page)
        page.keyboard.press("f")
        page.keyboard.type("7 hands? 3")  # no key scores while typing
        page.keyboard.press("Escape")
        expect(page.locator("#flag")).to_be_hidden()
        page.get_by_text("Flag", exact=False).first.click()  # by mouse: what follows is a note too
        expect(page.get_by_label("Note, if you like")).to_be_focused()
        page.keyboard.type("look again, 8")
        page.keyboard.press("Enter")
        expect(page.locator("#place")).to_contain_text("flagged")
        page.keyboard.press("6")
        saved(page, world, 2)
        assert events(world) == [(image_id, "flag", None), (image_id, "set", 6)]
        page.goto(f"{address}{world.at}/score?queue=flagged")
        assert shown_image(page) == image_id
        page.keyboard.press("7")
        expect(page.locator("#previous-reason")).to_contain_text("look again")


def test_an_old_error_goes_with_the_next_key_and_covers_no_keys(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=5)
    with serving(world) as address, browsing(chromium) as page:
        page.clock.install()
        page.goto(f"{address}{world.at}/score")
        shown_image(page)
        page.keyboard.press("Backspace")
        toast = page.locator("#toast .wrong")
        expect(toast).to_contain_text("Nothing more to take back.")
        said, keys = toast.bounding_box(), page.locator(".legend").bounding_box()
        scale = page.locator("#scale").bounding_box()
        assert said and keys and scale
        assert said["x"] + said["width"] <= keys["x"]
        assert said["y"] + said["height"] <= scale["y"]
        page.clock.fast_forward(1200)  # time to read it
        page.keyboard.press("ArrowLeft")
        expect(toast).to_have_count(0)


def test_zooming_shows_more_and_the_arrows_move_the_picture(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=4)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        image_id = shown_image(page)
        before = page.locator("#stage img").bounding_box()
        page.keyboard.press("z")
        zoomed = page.locator("#stage img").bounding_box()
        assert before and zoomed and zoomed["height"] > before["height"]
        page.keyboard.press("ArrowDown")
        moved = page.locator("#stage img").bounding_box()
        assert moved and moved["y"] < zoomed["y"]
        assert shown_image(page) == image_id
        page.keyboard.press("Escape")
        assert page.locator("#stage img").bounding_box() == before
        page.locator("#stage").hover()
        page.mouse.wheel(0, -100)
        expect(page.locator("#zoom")).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("5")  # scoring works while zoomed in, and the next one fits again
        shown_image(page)
        expect(page.locator("#zoom")).to_have_attribute("aria-pressed", "false")


def test_keys_are_a_matter_of_taste(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path, images=5)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/settings")
        page.get_by_label("Skip").press("s")
        page.get_by_label("Score 7").press("j")
        page.get_by_role("button", name="Save the keys").click()
        page.goto(f"{address}{world.at}/score")
        expect(page.locator("#skip kbd")).to_have_text("S")
        first = shown_image(page)
        page.keyboard.press("s")
        second = shown_image(page)
        page.keyboard.press("j")
        shown_image(page)
        page.keyboard.press("7")  # no longer means anything
        assert saved(page, world, 2) == [(first, "skip", None), (second, "set", 7)]
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keys")).to_contain_text("Score 7")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()


def test_the_back_button_shows_no_image_that_was_scored_meanwhile(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=8)
    with serving(world) as url, browsing(chromium) as page:
        page.goto(f"{url}{world.at}/score")
        for value in "374":
            shown_image(page)
            page.keyboard.press(value)
        saved(page, world, 3)
        page.goto(f"{url}{world.at}/library")
        page.go_back()
        image = shown_image(page)
        assert not_said(world, image)
        page.keyboard.press("9")
        assert saved(page, world, 4)[-1] == (image, "set", 9)
        assert page.locator("#toast .wrong").count() == 0


def test_a_picture_that_is_gone_says_so_and_can_be_skipped(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=3)
    shutil.rmtree(world.settings.thumbs)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        expect(page.locator("#stage")).to_contain_text("no picture to show for this image any more")
        page.keyboard.press("5")
        page.locator("#score[data-unseen]").wait_for(state="attached")
        page.keyboard.press("Space")
        assert [kind for _, kind, _ in saved(page, world, 1)] == ["skip"]


def test_a_thumb_swipes_to_skip_and_back(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path, images=5)

    def swipe(dx: int) -> None:
        page.locator("#stage").evaluate(
            """(stage, dx) => {
              const at = (name, x) => stage.dispatchEvent(new PointerEvent(name, {
                pointerType: "touch", isPrimary: true, clientX: x, clientY: 300, bubbles: true }));
              at("pointerdown", 200); at("pointermove", 200 + dx); at("pointerup", 200 + dx);
            }""",
            dx,
        )

    with serving(world) as address, browsing(chromium, has_touch=True) as page:
        page.set_viewport_size(PHONE)
        page.goto(f"{address}{world.at}/score")
        first = shown_image(page)
        swipe(-30)  # too short to be meant
        assert shown_image(page) == first
        swipe(-120)
        assert saved(page, world, 1) == [(first, "skip", None)]
        shown_image(page)
        swipe(120)
        assert shown_image(page) == first
        page.locator("#scale button[value='9']").tap()
        assert saved(page, world, 2)[-1] == (first, "set", 9)


def test_the_figures_are_hidden_for_good_and_nothing_jumps(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=3)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        page.get_by_role("button", name="Hide statistics").click()
        expect(page.locator("#strip")).to_be_hidden()
        page.reload()
        assert page.evaluate("document.documentElement.dataset.strip") == "hidden"
        expect(page.locator("#strip")).to_be_hidden()
        page.get_by_role("button", name="Show statistics").click()
        expect(page.locator("#strip")).to_be_visible()


def test_a_picture_that_does_not_load_cannot_be_scored_until_it_does(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=3)
    with serving(world) as address, browsing(chromium) as page:
        page.clock.install()
        page.route("**/view*", lambda route: route.abort())
        page.goto(f"{address}{world.at}/score")
        expect(page.locator("#stage")).to_contain_text("cannot be loaded")
        page.keyboard.press("5")
        page.unroute("**/view*")
        page.clock.fast_forward(2000)
        image_id = shown_image(page)  # it is tried again
        page.keyboard.press("6")
        assert saved(page, world, 1) == [(image_id, "set", 6)]
