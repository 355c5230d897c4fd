"""Why a job failed, in words of its own for each kind of cause, and what to do about it.

The kind of cause is told where the error is raised (`TastemakerError.cause`), or by what ended the
process; a job keeps it beside the sentence with which it ended.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tastemaker.database.tables import Job
from tastemaker.errors import (
    DISK_FULL,
    GONE,
    NO_WEIGHTS,
    NOT_TRAINABLE,
    NOT_WRITABLE,
    TastemakerError,
)

__all__ = [
    "CAUSES", "FAULT", "GONE", "KILLED", "MEMORY", "MENDED_ELSEWHERE", "NOT_TRAINABLE",
    "NO_WEIGHTS", "STOPPED", "WORKER_STOPPED", "Cause", "Failure", "FailureGroup", "cause_of",
    "grouped",
]  # fmt: skip

MEMORY, STOPPED, KILLED, FAULT = "memory", "stopped", "killed", "fault"
# What no page of this program puts right: once it is, a retry is all it takes.
MENDED_ELSEWHERE = (MEMORY, STOPPED, KILLED, FAULT, DISK_FULL, NOT_WRITABLE)
NO_MEMORY = re.compile("out of memory|can(?:no|')t allocate memory", re.IGNORECASE)  # torch's


@dataclass(frozen=True)
class Failure:
    """How a job ended: the sentence for people, and the kind of its cause; "" for none of those
    in `CAUSES`."""

    error: str
    cause: str = ""

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        if isinstance(error, TastemakerError):
            return cls(str(error), error.cause)
        sentence = f"It stopped with an error: {type(error).__name__}: {error}"
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            return cls(sentence, MEMORY)
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        return cls(sentence, GONE if gone else FAULT)

    @classmethod
    def of_exit(cls, code: int | None) -> "Failure":
        """That of a process that ended without a word. Signal 9 is what the system sends where
        memory has run out."""
        if code is None or code >= 0:
            return cls(f"Its process ended unexpectedly (exit code {code}).", KILLED)
        cause = MEMORY if code == -9 else KILLED
        return cls(f"Its process was ended from outside (signal {-code}).", cause)


WORKER_STOPPED = Failure("The worker stopped while it ran.", STOPPED)


@dataclass(frozen=True)
class Cause:
    """`remedy` is what helps, in a sentence or two; empty where the error itself says it."""

    title: str
    remedy: str = ""


@dataclass
class FailureGroup:
    """Jobs that failed for the same cause, the newest first."""

    cause: Cause
    jobs: list[Job] = field(default_factory=list)


CAUSES = {
    MEMORY: Cause(
        "Out of memory",
        "The system ended the process, most likely because memory ran out. Close other "
        "programs or give the machine more memory, then retry: what was finished is kept.",
    ),
    STOPPED: Cause(
        "The worker was stopped",
        "The worker or the whole machine was stopped in the middle. Retry once a worker is "
        "running; the log says how far it came.",
    ),
    KILLED: Cause(
        "Its process was killed",
        "Something outside of Tastemaker ended it. Look for what ends programs on this "
        "machine, then retry.",
    ),
    DISK_FULL: Cause(
        "The disk is full",
        "Free some space on the disk of the home folder, then retry: nothing that was saved "
        "is lost.",
    ),
    NOT_WRITABLE: Cause(
        "The home folder cannot be written",
        "See that its disk is not mounted read-only and that you may write to it, then retry.",
    ),
    NO_WEIGHTS: Cause(
        "The encoder's weights are missing",
        "Connect to the network once, put the weights file back, or use another encoder; then "
        "retry.",
    ),
    GONE: Cause(
        "A folder or file is gone",
        "Connect the disk or share that it is on, or add the images anew from where they are "
        "now. Scores stay with their images.",
    ),
    FAULT: Cause(
        "A fault in the program",
        "Retry once. If it fails the same way, report it together with its log.",
    ),
}


def cause_of(job: Job) -> Cause:
    """The cause of a failed job; where none is known by name, its own first sentence is one."""
    if job.cause in CAUSES:
        return CAUSES[job.cause]
    first = re.split(r"(?<=[.!?]) ", job.error, maxsplit=1)[0]
    return Cause(first or "It failed without a word")


def grouped(jobs: Sequence[Job]) -> list[FailureGroup]:
    """The failed ones among the jobs by their cause, in the order of the newest of each."""
    groups: dict[str, FailureGroup] = {}
    for job in jobs:
        if job.state == "failed":
            cause = cause_of(job)
            groups.setdefault(cause.title, FailureGroup(cause)).jobs.append(job)
    return list(groups.values())
