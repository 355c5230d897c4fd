"""Whether a worker is at work, for processes that may not ask its lock: it touches a file in the
home folder every few seconds."""

import time

from tastemaker.config import Settings

FILE = "worker.beat"
BEAT_SECONDS = 5.0
LOST_SECONDS = 30.0  # without a beat for so long, no worker is taken to be there


class Heart:
    """Beats at most every `BEAT_SECONDS`, however often it is asked to."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.root / FILE
        self._beaten: float | None = None

    def beat(self) -> None:
        moment = time.monotonic()
        if self._beaten is not None and moment - self._beaten < BEAT_SECONDS:
            return
        try:
            self.path.touch(mode=0o600)
        except OSError:  # a home that takes nothing: its jobs fail with a sentence of their own
            return
        self._beaten = moment


def age(settings: Settings) -> float | None:
    """Seconds since a worker was seen, None where none ever was. A clock that was set is wrong
    about it until the next beat."""
    try:
        seen = (settings.root / FILE).stat().st_mtime
    except OSError:
        return None
    return max(0.0, time.time() - seen)


def is_beating(settings: Settings) -> bool:
    seconds = age(settings)
    return seconds is not None and seconds < LOST_SECONDS
