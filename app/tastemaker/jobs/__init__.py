"""Durable units of background work: the job table, and what the code of a job sees of its job."""

from tastemaker.jobs.records import (
    FINISHED,
    MAX_ATTEMPTS,
    Claim,
    LostJob,
    TurnOver,
    as_json,
    blame,
    cancel,
    cancelled,
    claim_next,
    enqueue,
    fail,
    finish,
    get,
    give_back,
    guard,
    log,
    log_of,
    recent,
    report,
    requeue_orphans,
    retry,
    seconds_left,
    unfinished,
)

__all__ = [
    "FINISHED", "MAX_ATTEMPTS", "Claim", "LostJob", "TurnOver", "as_json", "blame", "cancel",
    "cancelled", "claim_next", "enqueue", "fail", "finish", "get", "give_back", "guard", "log",
    "log_of", "recent", "report", "requeue_orphans", "retry", "seconds_left", "unfinished",
]  # fmt: skip
