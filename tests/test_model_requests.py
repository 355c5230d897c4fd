"""Requests to the model process: submitted, claimed, answered once, swept."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlmodel import select
from try_world import answers

from tastemaker.config import Settings
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import ModelRequestRow, now
from tastemaker.errors import Invalid, NotFound, TastemakerError, Unavailable
from tastemaker.live import model_requests


def rows(engine: Engine) -> list[ModelRequestRow]:
    with reading(engine) as session:
        return list(session.exec(select(ModelRequestRow)))


def model_process(
    engine: Engine, answer: Callable[[model_requests.ModelRequest], dict[str, Any]]
) -> AbstractContextManager[None]:
    """A thread that claims requests and answers them as `answer` does."""

    def handle(request: model_requests.ModelRequest) -> None:
        try:
            model_requests.resolve(engine, request.id, answer(request))
        except TastemakerError as error:
            model_requests.reject(engine, request.id, error)

    return answers(engine, handle)


def test_an_answer_comes_back_and_nothing_of_the_request_stays(engine: Engine) -> None:
    with model_process(engine, lambda q: {"said": q.payload["x"] * 2, "bytes": len(q.blob or b"")}):
        answer = model_requests.call(engine, "double", {"x": 21}, blob=b"abc")
    assert answer == {"said": 42, "bytes": 3}
    assert rows(engine) == []


def test_a_refusal_keeps_its_sentence_its_hint_and_its_status(engine: Engine) -> None:
    def refuse(request: model_requests.ModelRequest) -> dict[str, Any]:
        raise NotFound("There is no such picture.", "Choose another.")

    with (
        model_process(engine, refuse),
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

    def slowly(request: model_requests.ModelRequest) -> dict[str, Any]:
        held.wait(10)
        return {}

    with model_process(engine, slowly):
        with pytest.raises(Unavailable, match="did not answer within"):
            model_requests.call(engine, "predict", {}, timeout=0.3)
        held.set()
    assert rows(engine) == []


def test_a_restart_in_the_middle_answers_after_all(engine: Engine) -> None:
    answers: list[dict[str, Any]] = []
    caller = threading.Thread(
        target=lambda: answers.append(model_requests.call(engine, "x", {"n": 1}))
    )
    caller.start()
    claimed: list[model_requests.ModelRequest] = []
    while not claimed:
        claimed = model_requests.claim(engine)  # and then this process dies
    assert model_requests.claim(engine) == [], "nobody else takes it meanwhile"
    model_requests.requeue_claimed(engine)  # the next one begins
    with model_process(engine, lambda q: {"n": q.payload["n"]}):
        caller.join(10)
    assert answers == [{"n": 1}]


def test_a_request_is_answered_at_most_once(engine: Engine) -> None:
    request_id = model_requests.submit(engine, "x", {})
    (claimed,) = model_requests.claim(engine)
    assert claimed.id == request_id
    assert model_requests.resolve(engine, request_id, {"first": True})
    assert not model_requests.resolve(engine, request_id, {"second": True})
    assert not model_requests.reject(engine, request_id, Invalid("Too late."))
    assert rows(engine)[0].answer == {"first": True}


def test_an_answer_that_nobody_waits_for_is_dropped(engine: Engine) -> None:
    request_id = model_requests.submit(engine, "x", {})
    model_requests.claim(engine)
    with writing(engine) as session:
        session.delete(session.get(ModelRequestRow, request_id))
    assert not model_requests.resolve(engine, request_id, {})


def test_what_callers_left_behind_is_swept_and_nothing_newer(engine: Engine) -> None:
    model_requests.submit(engine, "old", {})
    model_requests.submit(engine, "new", {})
    with writing(engine) as session:
        old = session.exec(select(ModelRequestRow).where(ModelRequestRow.kind == "old")).one()
        old.asked_at = now() - timedelta(minutes=6)
        session.add(old)
    with writing(engine) as session:
        assert model_requests.sweep(session) == 1
    assert [row.kind for row in rows(engine)] == ["new"]


def test_too_many_waiting_requests_are_refused_at_once(engine: Engine) -> None:
    for _ in range(model_requests.MOST_WAITING):
        model_requests.submit(engine, "x", {})
    with pytest.raises(Unavailable, match="Too many"):
        model_requests.call(engine, "x", {})


def test_the_blob_of_an_answered_request_is_gone_even_before_its_caller_looks(
    engine: Engine,
) -> None:
    request_id = model_requests.submit(engine, "x", {}, blob=b"picture")
    model_requests.claim(engine)
    model_requests.resolve(engine, request_id, {})
    assert rows(engine)[0].blob is None


def test_many_callers_each_get_their_own_answer(engine: Engine, settings: Settings) -> None:
    answers: dict[int, int] = {}

    def ask(n: int) -> None:
        answers[n] = model_requests.call(engine, "x", {"n": n}, timeout=20)["n"]

    with model_process(engine, lambda q: {"n": q.payload["n"]}):
        callers = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(20)
    assert answers == {n: n for n in range(12)}
    assert rows(engine) == []


def test_looking_for_requests_takes_no_write_lock(engine: Engine) -> None:
    with writing(engine):
        began = time.monotonic()
        assert model_requests.claim(engine) == []
    assert time.monotonic() - began < 1
