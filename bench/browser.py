"""Which Chromium of this machine opens the pages, for tests, measurements and pictures of them."""

import shutil

WITH_A_WINDOW = ("chromium", "chromium-browser", "google-chrome")  # what people look with
WITHOUT = "chromium-headless-shell"  # opens a page of a new context in a quarter of the time


def installed(*, quickest: bool = False) -> str | None:
    """Where it is: one that has windows if there is one, or first the `quickest`. None where there
    is neither: then Playwright takes its own."""
    names = (WITHOUT, *WITH_A_WINDOW) if quickest else (*WITH_A_WINDOW, WITHOUT)
    return next(filter(None, map(shutil.which, names)), None)
