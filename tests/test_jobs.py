"""The job table: who may work on what, and who may write."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine

from tastemaker import jobs, projects
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Job
from tastemaker.errors import Conflict
from tastemaker.jobs import lanes, progress, records
from tastemaker.jobs.failures import Failure
from tastemaker.jobs.lanes import Place
from tastemaker.worker import Running, Worker
from tests.conftest import work_on


def enqueue(engine: Engine, kind: str = "train", **payload: Any) -> int:
    with sessions.writing(engine) as session:
        return jobs.enqueue(session, kind, kind, payload).id


def seen(engine: Engine, job_id: int) -> Job:
    with sessions.reading(engine) as session:
        return jobs.get(session, job_id)


def claim(engine: Engine, among: list[int] | None = None) -> jobs.Claim | None:
    with sessions.writing(engine) as session:
        taken = jobs.claim_next(session, among)
    return taken[1] if taken else None


def must_claim(engine: Engine) -> jobs.Claim:
    taken = claim(engine)
    assert taken is not None
    return taken


# --- claiming ----------------------------------------------------------------------------------


def test_jobs_are_taken_in_the_order_they_came_and_each_once(engine: Engine) -> None:
    ids = [enqueue(engine, n=n) for n in range(5)]
    taken = [must_claim(engine).job_id for _ in ids]
    assert taken == ids
    assert claim(engine) is None


def test_only_the_named_are_taken_and_only_while_they_are_queued(engine: Engine) -> None:
    enqueue(engine)
    wanted = enqueue(engine)
    assert claim(engine, [99]) is None and claim(engine, []) is None
    assert claim(engine, [wanted, 99]) == jobs.Claim(wanted, 1)
    assert claim(engine, [wanted]) is None


def test_twenty_claimers_at_once_never_get_the_same_job(engine: Engine, settings: Settings) -> None:
    ids = {enqueue(engine, n=n) for n in range(12)}
    start, got = threading.Barrier(20), []

    def work() -> None:
        own = sessions.make_engine(settings)  # as another process would
        start.wait(10)
        while (taken := claim(own)) is not None:
            got.append(taken)
        own.dispose()

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(taken.job_id for taken in got) == sorted(ids)
    assert {taken.fence for taken in got} == {1}
    assert {seen(engine, job_id).attempts for job_id in ids} == {1}


def test_once_gives_the_waiting_job_again_but_only_for_the_same_work(engine: Engine) -> None:
    with sessions.writing(engine) as session:
        project = projects.create(session, "P")
        first = jobs.enqueue(session, "embed", "E", {"a": 1}, project.id, once=True).id
        assert jobs.enqueue(session, "embed", "E", {"a": 1}, project.id, once=True).id == first
        others = [
            jobs.enqueue(session, "embed", "E", {"a": 2}, project.id, once=True).id,
            jobs.enqueue(session, "embed", "E", {"a": 1}, None, once=True).id,
            jobs.enqueue(session, "train", "E", {"a": 1}, project.id, once=True).id,
            jobs.enqueue(session, "embed", "E", {"a": 1}, project.id).id,
        ]
        assert len({first, *others}) == 5
        jobs.claim_next(session, [first])
        running_is_no_longer_waiting = jobs.enqueue(
            session, "train", "E", {"a": 1}, project.id, once=True
        )
        assert running_is_no_longer_waiting.id == others[2]
    with sessions.writing(engine) as session:
        again = jobs.enqueue(session, "embed", "E", {"a": 1}, project.id, once=True).id
        assert again == others[3], "what runs may have looked already; what waits has not"


# --- the fence ---------------------------------------------------------------------------------


def test_a_worker_that_lost_its_job_can_write_nothing(engine: Engine) -> None:
    job_id = enqueue(engine)
    stale = must_claim(engine)
    with sessions.writing(engine) as session:
        jobs.requeue_orphans(session)
    fresh = must_claim(engine)
    assert (fresh.job_id, fresh.fence) == (job_id, stale.fence + 1)
    for attempt in (
        lambda s: jobs.guard(s, stale),
        lambda s: jobs.report(s, stale, done=5),
        lambda s: jobs.finish(s, stale, {"from": "the grave"}),
        lambda s: jobs.fail(s, stale, Failure("no")),
        lambda s: jobs.cancelled(s, stale),
        lambda s: jobs.give_back(s, stale, Failure("no")),
    ):
        with pytest.raises(jobs.LostJob), sessions.writing(engine) as session:
            projects.create(session, "half-done")  # in the same transaction: it must vanish too
            attempt(session)
    job = seen(engine, job_id)
    assert (job.state, job.done, job.result, job.error) == ("running", 0, {}, "")
    with sessions.reading(engine) as session:
        assert projects.list_all(session) == []
    with sessions.writing(engine) as session:
        jobs.finish(session, fresh, {"from": "the living"})
    assert seen(engine, job_id).result == {"from": "the living"}


@pytest.mark.parametrize("end", ["done", "failed", "cancelled"])
def test_an_ended_job_takes_no_more_writes_even_from_its_own_worker(
    engine: Engine, end: str
) -> None:
    job_id = enqueue(engine)
    ours = must_claim(engine)
    with sessions.writing(engine) as session:
        if end == "done":
            jobs.finish(session, ours, {})
        elif end == "failed":
            jobs.fail(session, ours, Failure("broken"))
        else:
            jobs.cancelled(session, ours)
    with pytest.raises(jobs.LostJob), sessions.writing(engine) as session:
        jobs.report(session, ours, done=1)
    job = seen(engine, job_id)
    assert job.state == end and job.finished_at is not None


# --- ending ------------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once_and_never_claimed(engine: Engine) -> None:
    job_id = enqueue(engine)
    with sessions.writing(engine) as session:
        jobs.cancel(session, job_id)
    assert seen(engine, job_id).state == "cancelled"
    assert claim(engine) is None


def test_a_running_job_hears_of_its_cancelling_and_is_not_queued_again(engine: Engine) -> None:
    job_id = enqueue(engine)
    ours = must_claim(engine)
    with sessions.writing(engine) as session:
        assert jobs.report(session, ours) is False
        jobs.cancel(session, job_id)
    assert seen(engine, job_id).state == "running"
    with sessions.writing(engine) as session:
        assert jobs.report(session, ours) is True
        assert jobs.give_back(session, ours, Failure("killed")) == "cancelled"
    assert seen(engine, job_id).state == "cancelled"


def test_a_cancelled_job_whose_worker_died_is_not_taken_up_again(engine: Engine) -> None:
    job_id = enqueue(engine)
    must_claim(engine)
    with sessions.writing(engine) as session:
        jobs.cancel(session, job_id)
    with sessions.writing(engine) as session:
        assert jobs.requeue_orphans(session) == [job_id]
    assert seen(engine, job_id).state == "cancelled"


@pytest.mark.parametrize("end", ["done", "failed", "cancelled"])
def test_an_ended_job_cannot_be_cancelled(engine: Engine, end: str) -> None:
    job_id = enqueue(engine)
    ours = must_claim(engine)
    with sessions.writing(engine) as session:
        records._update(session, ours, state=end)
    with (
        pytest.raises(Conflict, match=f"already ended \\({end}\\)"),
        sessions.writing(engine) as session,
    ):
        jobs.cancel(session, job_id)
    assert seen(engine, job_id).cancel_requested is False


def test_only_a_failed_or_cancelled_job_is_tried_again_and_with_a_clean_slate(
    engine: Engine,
) -> None:
    job_id = enqueue(engine)
    for state in ("queued", "running", "done"):
        if state == "running":
            ours = must_claim(engine)
        if state == "done":
            with sessions.writing(engine) as session:
                jobs.finish(session, ours, {})
        with pytest.raises(Conflict, match=state), sessions.writing(engine) as session:
            jobs.retry(session, job_id)
    other = enqueue(engine)
    ours = must_claim(engine)
    with sessions.writing(engine) as session:
        jobs.cancel(session, other)
        jobs.cancelled(session, ours)
        jobs.retry(session, other)
    job = seen(engine, other)
    assert (job.state, job.attempts, job.error, job.cancel_requested) == ("queued", 0, "", False)
    assert must_claim(engine).fence == ours.fence + 1, "an old worker stays locked out"
    again = seen(engine, other)
    assert (again.attempts, again.fence) == (1, 2), "the first of its new attempts, the second ever"
    with sessions.reading(engine) as session:
        assert [e.line for e in jobs.log_of(session, other)] == ["queued again by hand"]


def test_the_third_death_is_the_last_and_says_so(engine: Engine) -> None:
    job_id = enqueue(engine)
    for attempt in (1, 2, 3):
        must_claim(engine)
        assert seen(engine, job_id).attempts == attempt
        with sessions.writing(engine) as session:
            jobs.requeue_orphans(session)
    job = seen(engine, job_id)
    assert job.state == "failed"
    assert job.error == "The worker stopped while it ran. It was tried 3 times."
    assert claim(engine) is None
    with sessions.reading(engine) as session:
        lines = [entry.line for entry in jobs.log_of(session, job_id)]
    assert len(lines) == 3


def test_a_killed_try_blames_what_it_had_in_hand_and_does_not_count(
    engine: Engine, settings: Settings
) -> None:
    with sessions.writing(engine) as session:
        job_id = jobs.enqueue(session, "embed", "Embed").id
    for item in range(1, 6):  # more than the attempts there are
        work = work_on(settings, engine, job_id)
        assert work.died_on == list(range(1, item))
        with work.in_hand(99):
            pass
        with sessions.writing(engine) as session:
            assert not jobs.blame(session, work.claim), "nothing is in hand between two"
        holding = work.in_hand(item)
        holding.__enter__()
        killed = Running(
            work.claim, SimpleNamespace(kind="embed"), SimpleNamespace(exitcode=-9), None
        )
        Worker(settings, engine)._conclude(killed)
    with sessions.reading(engine) as session:
        job = jobs.get(session, job_id)
    assert (job.state, job.attempts) == ("queued", 0)
    # Tried again by hand, perhaps with more memory, it leaves nothing out.
    work = work_on(settings, engine, job_id)
    with sessions.writing(engine) as session:
        jobs.fail(session, work.claim, Failure("enough"))
        jobs.retry(session, job_id)
    assert work_on(settings, engine, job_id).died_on == []


def test_a_job_that_was_cancelled_while_it_gave_way_says_so(
    engine: Engine, settings: Settings
) -> None:
    told = []
    for cancelled in (False, True):
        job_id = enqueue(engine, n=int(cancelled))
        work = work_on(settings, engine, job_id)
        with sessions.writing(engine) as session:
            jobs.get(session, job_id).cancel_requested = cancelled
        running = Running(work.claim, SimpleNamespace(kind="embed"), SimpleNamespace(), None)
        running.ending = ("gave way", None)
        Worker(settings, engine)._conclude(running)
        with sessions.reading(engine) as session:
            told += [entry.line for entry in jobs.log_of(session, job_id)]
    assert told == [
        "others had waited: it goes on after them", "others had waited: and it was cancelled",
    ]  # fmt: skip


def test_an_orderly_stop_is_no_fault_of_the_job(engine: Engine) -> None:
    job_id = enqueue(engine)
    for _ in range(10):
        must_claim(engine)
        with sessions.writing(engine) as session:
            jobs.requeue_orphans(session, [job_id], counts=False)
    assert (seen(engine, job_id).state, seen(engine, job_id).attempts) == ("queued", 0)


def test_only_the_named_orphans_are_given_back(engine: Engine) -> None:
    first, second = enqueue(engine, n=1), enqueue(engine, n=2)
    must_claim(engine)
    must_claim(engine)
    with sessions.writing(engine) as session:
        assert jobs.requeue_orphans(session, [second]) == [second]
    assert (seen(engine, first).state, seen(engine, second).state) == ("running", "queued")


# --- what the pages show -----------------------------------------------------------------------


def test_a_new_attempt_begins_its_count_anew_and_clears_the_old_error(engine: Engine) -> None:
    job_id = enqueue(engine)
    ours = must_claim(engine)
    with sessions.writing(engine) as session:
        jobs.report(session, ours, done=50, total=100, rate=10.0, message="half-way")
    job = seen(engine, job_id)
    assert (jobs.seconds_left(job), job.heartbeat) == (5.0, 2)
    with sessions.writing(engine) as session:
        jobs.give_back(session, ours, Failure("killed"))
    assert jobs.seconds_left(seen(engine, job_id)) is None
    must_claim(engine)
    job = seen(engine, job_id)
    assert (job.done, job.total, job.error, job.rate) == (0, 0, "", 0.0)


def test_unfinished_jobs_come_first_then_the_newest(engine: Engine) -> None:
    ids = [enqueue(engine, n=n) for n in range(4)]
    for end in (jobs.finish, jobs.finish):
        ours = must_claim(engine)
        with sessions.writing(engine) as session:
            end(session, ours, {})
    with sessions.reading(engine) as session:
        assert [job.id for job in jobs.recent(session)] == [ids[3], ids[2], ids[1], ids[0]]
        assert [job.id for job in jobs.recent(session, 1)] == [ids[3]]
        assert [job.id for job in jobs.unfinished(session, "train")] == ids[2:]
        assert jobs.unfinished(session, "embed") == []


def test_the_log_keeps_its_newest_lines_in_order_and_none_too_long(engine: Engine) -> None:
    job_id = enqueue(engine)
    with sessions.writing(engine) as session:
        for n in range(30):
            jobs.log(session, job_id, f"line {n}")
        jobs.log(session, job_id, "x" * 10_000)
    with sessions.reading(engine) as session:
        lines = [entry.line for entry in jobs.log_of(session, job_id, 3)]
    assert lines[:2] == ["line 28", "line 29"] and len(lines[2]) == 2000


# --- lanes ---------------------------------------------------------------------------------------

ADA, BOB, CARLA = 1, 2, 3


@pytest.mark.parametrize(
    ("job", "at_work", "starts"),
    [
        (Place(9, "embed", ADA, 1), [Place(1, "import", ADA, 1)], True),
        (Place(9, "embed", ADA, 1), [Place(1, "embed", BOB, 2, 999.0)], False),
        (Place(9, "import", BOB, 1), [Place(1, "import", ADA, 1)], True),
        (Place(9, "import", ADA, 1), [Place(1, "import", ADA, 1, 1.0)], False),
        (Place(9, "import", ADA, 2), [Place(1, "import", ADA, 1, 31.0)], True),
        (
            Place(9, "import", ADA, 2),
            [Place(1, "import", ADA, 1, 31.0), Place(2, "import", ADA, 1, 31.0)],
            False,
        ),
        (
            Place(9, "import", BOB, 2),
            [Place(1, "import", ADA, 1, 31.0), Place(2, "import", ADA, 1, 31.0)],
            True,
        ),
        (
            Place(9, "import", CARLA, 2),
            [Place(n, "import", 10 + n, 1) for n in range(lanes.IMPORTS_AT_ONCE)],
            False,
        ),
    ],
)
def test_nobody_s_import_waits_for_the_hours_of_somebody_else_s(
    job: Place, at_work: list[Place], starts: bool
) -> None:
    assert lanes.may_start(job, at_work) == starts


def test_an_embedding_gives_way_only_after_its_turn_and_only_to_another_project() -> None:
    long, short = Place(1, "embed", ADA, 1, 121.0), Place(1, "embed", ADA, 1, 119.0)
    assert lanes.turn_is_over(long, [Place(2, "embed", BOB, 2)])
    assert not lanes.turn_is_over(short, [Place(2, "embed", BOB, 2)])
    assert not lanes.turn_is_over(long, [Place(2, "embed", BOB, 1), Place(3, "train", BOB, 2)])
    assert not lanes.turn_is_over(Place(1, "train", ADA, 1, 999.0), [Place(2, "train", BOB, 2)])


def test_whoever_waits_longest_is_next_however_often_he_had_a_turn(engine: Engine) -> None:
    first, second = enqueue(engine, "embed", n=1), enqueue(engine, "embed", n=2)

    def gives_way() -> int:
        ours = must_claim(engine)
        with sessions.writing(engine) as session:
            jobs.give_back(session, ours, Failure(""), counts=False)
        return ours.job_id

    assert [gives_way() for _ in range(3)] == [first, second, first]
    third = enqueue(engine, "embed", n=3)  # who comes late goes before nobody
    assert [gives_way() for _ in range(6)] == [second, first, third] * 2
    ended = must_claim(engine)
    fourth = enqueue(engine, "embed", n=4)
    with sessions.writing(engine) as session:
        jobs.fail(session, ended, Failure("broken"))
        jobs.retry(session, second)
        assert [one.job_id for one in lanes.waiting(session)] == [first, third, fourth, second]
    taken = [must_claim(engine).job_id for _ in range(4)]
    assert taken == [first, third, fourth, second]
    assert [seen(engine, job_id).attempts for job_id in taken] == [1, 1, 1, 1]
    assert seen(engine, first).finished_at is None, "it runs"


def test_what_is_queued_between_the_look_and_the_claim_starts_beside_none_of_its_lane(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(engine, "train")
    other = enqueue(engine, "embed")
    worker, look = Worker(settings, engine), lanes.waiting

    def start(job: Job, ours: jobs.Claim) -> None:
        worker.running.append(Running(ours, job, SimpleNamespace(), None))

    def waiting(session: Any) -> list[Place]:
        queued = look(session)
        if len(queued) == 1:
            with sessions.writing(engine) as elsewhere:
                jobs.cancel(elsewhere, other)
                jobs.enqueue(elsewhere, "train", "Train")
        return queued

    monkeypatch.setattr(worker, "_start", start)
    monkeypatch.setattr(lanes, "waiting", waiting)
    worker.tick()
    assert [running.kind for running in worker.running] == ["train"]


def test_slow_work_is_stored_before_long_and_quick_work_in_good_portions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def made(seconds: float) -> Iterator[int]:
        for n in range(7):
            clock[0] += seconds
            yield n

    assert list(progress.portions(made(0.1), 3, 10.0)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(progress.portions(made(6.0), 3, 10.0)) == [[0, 1], [2, 3], [4, 5], [6]]
    assert list(progress.portions(made(60.0), 3, 10.0)) == [[n] for n in range(7)]
