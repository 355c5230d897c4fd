"""ModelRequestRows to the resident process: asked, taken, answered once, swept."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import ModelRequestRow, now
from tastemaker.errors import Invalid, NotFound, TastemakerError, Unavailable
from tastemaker.live import model_requests


def rows(engine: Engine) -> list[ModelRequestRow]:
    with reading(engine) as session:
        return list(session.exec(select(ModelRequestRow)))


@contextmanager
def somebody(
    engine: Engine, say: Callable[[model_requests.ModelRequest], dict[str, Any]]
) -> Iterator[None]:
    """Somebody who takes questions and answers them as `say` does, as the resident would."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.005):
            for question in model_requests.claim(engine):
                try:
                    model_requests.resolve(engine, question.id, say(question))
                except TastemakerError as error:
                    model_requests.reject(engine, question.id, error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_an_answer_comes_back_and_nothing_of_the_question_stays(engine: Engine) -> None:
    with somebody(engine, lambda q: {"said": q.payload["x"] * 2, "bytes": len(q.blob or b"")}):
        told = model_requests.call(engine, "double", {"x": 21}, blob=b"abc")
    assert told == {"said": 42, "bytes": 3}
    assert rows(engine) == []


def test_a_refusal_keeps_its_sentence_its_hint_and_its_status(engine: Engine) -> None:
    def refuse(question: model_requests.ModelRequest) -> dict[str, Any]:
        raise NotFound("There is no such picture.", "Choose another.")

    with (
        somebody(engine, refuse),
        pytest.raises(TastemakerError, match="no such picture") as caught,
    ):
        model_requests.call(engine, "predict", {})
    assert (caught.value.status, caught.value.hint) == (404, "Choose another.")
    assert rows(engine) == []


def test_without_a_worker_the_sentence_says_how_to_start_one(engine: Engine) -> None:
    with pytest.raises(Unavailable, match="worker is not running") as caught:
        model_requests.call(engine, "predict", {}, timeout=0.1)
    assert "tastemaker worker" in caught.value.hint
    assert rows(engine) == []


def test_a_slow_answer_is_told_apart_from_an_absent_worker(engine: Engine) -> None:
    held = threading.Event()

    def slowly(question: model_requests.ModelRequest) -> dict[str, Any]:
        held.wait(10)
        return {}

    with somebody(engine, slowly):
        with pytest.raises(Unavailable, match="did not answer within"):
            model_requests.call(engine, "predict", {}, timeout=0.3)
        held.set()
    assert rows(engine) == []


def test_a_restart_in_the_middle_answers_after_all(engine: Engine) -> None:
    told: list[dict[str, Any]] = []
    asker = threading.Thread(target=lambda: told.append(model_requests.call(engine, "x", {"n": 1})))
    asker.start()
    taken: list[model_requests.ModelRequest] = []
    while not taken:
        taken = model_requests.claim(engine)  # and then this process dies
    assert model_requests.claim(engine) == [], "nobody else takes it meanwhile"
    model_requests.requeue_claimed(engine)  # the next one begins
    with somebody(engine, lambda q: {"n": q.payload["n"]}):
        asker.join(10)
    assert told == [{"n": 1}]


def test_a_question_is_answered_at_most_once(engine: Engine) -> None:
    question_id = model_requests.submit(engine, "x", {})
    (taken,) = model_requests.claim(engine)
    assert taken.id == question_id
    assert model_requests.resolve(engine, question_id, {"first": True})
    assert not model_requests.resolve(engine, question_id, {"second": True})
    assert not model_requests.reject(engine, question_id, Invalid("Too late."))
    assert rows(engine)[0].answer == {"first": True}


def test_an_answer_that_nobody_waits_for_is_dropped(engine: Engine) -> None:
    question_id = model_requests.submit(engine, "x", {})
    model_requests.claim(engine)
    with writing(engine) as session:
        session.delete(session.get(ModelRequestRow, question_id))
    assert not model_requests.resolve(engine, question_id, {})


def test_what_askers_left_behind_is_swept_and_nothing_newer(engine: Engine) -> None:
    model_requests.submit(engine, "old", {})
    model_requests.submit(engine, "new", {})
    with writing(engine) as session:
        old = session.exec(select(ModelRequestRow).where(ModelRequestRow.kind == "old")).one()
        old.asked_at = now() - timedelta(minutes=6)
        session.add(old)
    with writing(engine) as session:
        assert model_requests.sweep(session) == 1
    assert [row.kind for row in rows(engine)] == ["new"]


def test_too_many_waiting_questions_are_refused_at_once(engine: Engine) -> None:
    for _ in range(model_requests.MOST_WAITING):
        model_requests.submit(engine, "x", {})
    with pytest.raises(Unavailable, match="Too many"):
        model_requests.call(engine, "x", {})


def test_the_blob_of_an_answered_question_is_gone_even_before_its_asker_looks(
    engine: Engine,
) -> None:
    question_id = model_requests.submit(engine, "x", {}, blob=b"picture")
    model_requests.claim(engine)
    model_requests.resolve(engine, question_id, {})
    assert rows(engine)[0].blob is None


def test_many_askers_each_get_their_own_answer(engine: Engine, settings: Settings) -> None:
    told: dict[int, int] = {}

    def ask(n: int) -> None:
        told[n] = model_requests.call(engine, "x", {"n": n}, timeout=20)["n"]

    with somebody(engine, lambda q: {"n": q.payload["n"]}):
        askers = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(20)
    assert told == {n: n for n in range(12)}
    assert rows(engine) == []


def test_looking_for_questions_takes_no_write_lock(engine: Engine) -> None:
    with writing(engine):
        began = time.monotonic()
        assert model_requests.claim(engine) == []
    assert time.monotonic() - began < 1
