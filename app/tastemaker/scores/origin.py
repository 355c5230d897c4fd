"""Where a score came from: what decides whether it may judge a version."""

from enum import StrEnum


class Origin(StrEnum):
    """How an image came before the person who scored it. The database holds these words."""

    CONTROL = "control"  # drawn at random
    QUEUE = "queue"  # picked by a queue
    REVIEW = "review"  # shown with its prediction
    RE_ASK = "re-ask"  # shown again without its older score
    AUDIT = "audit"  # drawn at random on either side of a cut, more often above it
    LIBRARY = "library"
    TEST_RUN = "test-run"
    IMPORT = "import"  # from a file
    SYNTHETIC = "synthetic"  # of a clean picture, or of its twin that was damaged on purpose
    API = "api"  # a program's, or anybody's whose page did not come from this server

    @property
    def measures(self) -> bool:
        """Whether such a score may judge a version: neither a model nor the picture itself decided
        that the image was scored."""
        return self in (Origin.CONTROL, Origin.IMPORT)

    @property
    def blind(self) -> bool:
        """Whether it was given without sight of a prediction or of an older score."""
        return self in (Origin.CONTROL, Origin.QUEUE, Origin.RE_ASK, Origin.AUDIT)

    @classmethod
    def claimed(cls, word: str) -> "Origin":
        """The origin of a score whose request carries no valid offer: a client can claim what
        neither measures nor is blind, and nothing else."""
        return cls.REVIEW if word == cls.REVIEW else cls.API
