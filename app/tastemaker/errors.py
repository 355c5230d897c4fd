"""Errors meant for a person.

Each one says what happened and what to do next, in a sentence that reads the same on a page, on
the command line and in the API. `status` is the HTTP status; the command line exits with 1.
"""

import errno

# Kinds of causes that stop a job, whichever it is, and that the same thing helps against.
DISK_FULL, NOT_WRITABLE = "disk-full", "not-writable"
NO_WEIGHTS, GONE, NOT_TRAINABLE = "no-weights", "gone", "not-trainable"


class TastemakerError(Exception):
    """Something went wrong that the person can act on."""

    status = 400
    cause = ""  # the kind of it, where it is one of those above
    code = ""  # for the scripts of the pages, where the status alone does not say enough

    def __init__(self, message: str, hint: str = "", *, code: str = "", **about: object) -> None:
        """`about` names what exactly was refused (its key, its image), for the scripts as well."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.code
        self.about = about

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class NotSignedIn(TastemakerError):
    status = 401


class Forbidden(TastemakerError):
    """The one who asks may not do this."""

    status = 403


class NotFound(TastemakerError):
    status = 404


class TooSlow(TastemakerError):
    """A request that does not go on; its connection is closed with the answer."""

    status = 408


class Conflict(TastemakerError):
    """The request is well formed but contradicts what is stored (a taken name, a stale version)."""

    status = 409


class Stale(Conflict):
    """Something newer than what the page knew was said of an image; `newest` is its event, 0 where
    all was taken back. A page that learns it can say the same again, knowingly."""

    code = "stale"

    def __init__(
        self, message: str, hint: str, newest: int, image_id: int = 0, key: str | None = None
    ) -> None:
        super().__init__(message, hint, newest=newest, image_id=image_id, key=key)
        self.newest = newest


class UserMismatch(Conflict):
    """A page of one person's, sent by another: what it says is neither's to be saved."""

    code = "somebody-else"


class AnotherLibrary(Conflict):
    """A page, or a score that waited in a browser, of another library than the one served here."""

    code = "another-library"


class TooLarge(TastemakerError):
    status = 413


class Invalid(TastemakerError):
    """A value outside its range, or of the wrong shape."""

    status = 422


class TooManyAttempts(TastemakerError):
    status = 429


class Unexpected(TastemakerError):
    """A fault of the program; the server's log says more."""

    status = 500


class Unavailable(TastemakerError):
    """Try again later: the database is busy, or something needed is not there yet."""

    status = 503


class StorageFull(TastemakerError):
    status = 507
    cause = DISK_FULL


class NotWritable(TastemakerError):
    """A place that takes no file: not there, not allowed, or something else lies in the way."""

    status = 507
    cause = NOT_WRITABLE


class FilesGone(Invalid):
    """What was to be read is not there any more, or cannot be reached."""

    cause = GONE


class BadImage(TastemakerError):
    """One file that cannot be used; the others go on."""

    status = 422


class Incomplete(BadImage):
    """An archive or a folder that could not be read to its end, so that more pictures than one are
    missing; the others go on."""


class CheckpointError(TastemakerError):
    """A file that is not a head this program can load."""

    status = 422


class EncoderUnavailable(TastemakerError):
    """The encoder's weights are not on this machine and could not be downloaded."""

    status = 503
    cause = NO_WEIGHTS


class NotTrainable(TastemakerError):
    """The labels at hand cannot train a head."""

    status = 409
    cause = NOT_TRAINABLE


# --- what a disk does to anything, wherever it happens -------------------------------------------


# What PostgreSQL calls them (SQLSTATE): its disk takes no more, and it takes no changes at all.
FULL_STATE, READ_ONLY_STATE = "53100", "25006"


def of_the_disk(error: BaseException) -> StorageFull | NotWritable | None:
    """What a full disk, or one that cannot be written, means for a person; None for other errors.
    It is told by the error itself, whether the system raised it or the database did."""
    origin = getattr(error, "orig", None) or error  # SQLAlchemy wraps what the driver raised
    text = str(origin).lower() if type(origin).__name__ == "OperationalError" else ""
    number = origin.errno if isinstance(origin, OSError) else None
    state = getattr(origin, "sqlstate", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in text or state == FULL_STATE:
        return StorageFull(
            "The disk is full: this was not saved. Everything saved before is safe.",
            "Free some space, then try again.",
        )
    if number == errno.EROFS or "readonly database" in text or "unable to open database" in text:
        return NotWritable(
            "The home folder cannot be written: this was not saved. What is in it is as it was.",
            "See that its disk is not mounted read-only, and that you may write to it.",
        )
    if state == READ_ONLY_STATE:
        return NotWritable(
            "The database takes no changes: this was not saved. What is in it is as it was.",
            "See that its server is no standby, and that this user may write.",
        )
    return None
