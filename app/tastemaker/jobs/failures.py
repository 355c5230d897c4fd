"""Why a job failed, in words of its own for each kind of cause, and what to do about it.

A job keeps the sentence with which it ended; the kind of cause is told by it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tastemaker.database.tables import Job


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


# What an error says → its cause; the first that fits counts.
CAUSES: tuple[tuple[str, Cause], ...] = (
    (
        r"\(signal 9\)|MemoryError|out of memory|can't allocate memory|Cannot allocate memory",
        Cause(
            "Out of memory",
            "The system ended the process, most likely because memory ran out. Close other "
            "programs or give the machine more memory, then retry: what was finished is kept.",
        ),
    ),
    (
        r"^The worker stopped",
        Cause(
            "The worker was stopped",
            "The worker or the whole machine was stopped in the middle. Retry once a worker is "
            "running; the log says how far it came.",
        ),
    ),
    (
        r"ended from outside|ended unexpectedly",
        Cause(
            "Its process was killed",
            "Something outside of Tastemaker ended it. Look for what ends programs on this "
            "machine, then retry.",
        ),
    ),
    (
        r"disk is full|GB are free|No space left|disk of .* kept free",
        Cause(
            "The disk is full",
            "Free some space on the disk of the home folder, then retry: nothing that was saved "
            "is lost.",
        ),
    ),
    (
        r"home folder cannot be written|Read-only file system",
        Cause(
            "The home folder cannot be written",
            "See that its disk is not mounted read-only and that you may write to it, then retry.",
        ),
    ),
    (
        r"(?i)\bweights\b|could not be downloaded",
        Cause(
            "The encoder's weights are missing",
            "Connect to the network once, put the weights file back, or use another encoder; then "
            "retry.",
        ),
    ),
    (
        r"There is no (file or )?folder|Cannot be entered|share connected|FileNotFoundError"
        r"|NotADirectoryError|of this upload are no longer kept",
        Cause(
            "A folder or file is gone",
            "Connect the disk or share that it is on, or add the images anew from where they are "
            "now. Scores stay with their images.",
        ),
    ),
    (
        r"^It stopped with an error",
        Cause(
            "A fault in the program",
            "Retry once. If it fails the same way, report it together with its log.",
        ),
    ),
)


def cause_of(job: Job) -> Cause:
    """The cause of a failed job; where none is known by name, its own first sentence is one."""
    for pattern, cause in CAUSES:
        if re.search(pattern, job.error):
            return cause
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
