"""What a run leaves without its rows: files that were not to be had, and archives and folders that
could not be read to their end. A picture that cannot be used is no loss: it is told, and the run is
whole."""

from collections.abc import Callable

from tastemaker.errors import BadImage, Incomplete, TastemakerError, Unavailable

OnError = Callable[[str, TastemakerError], None]  # path, why it cannot be used


class Missing:
    """How many parts there were whose files were not to be had. Some one after the other end a run:
    each of those that follow would be waited for as well."""

    IN_A_ROW = 3

    def __init__(self, count: int = 0) -> None:
        self.count, self._in_a_row = count, 0

    def tell(self, missed: bool) -> None:
        """What became of the next part. Raises `Unavailable`."""
        self.count += missed
        self._in_a_row = self._in_a_row + 1 if missed else 0
        if self._in_a_row == self.IN_A_ROW:
            raise Unavailable(
                f"{self.IN_A_ROW} files one after the other could not be read, so the run was "
                "ended.",
                "What is done is kept. Run it again when the server answers: it goes on.",
            )

    def in_words(self) -> Unavailable:
        what = "1 file" if self.count == 1 else f"{self.count:,} files"
        whose, those = ("its", "it alone is") if self.count == 1 else ("their", "only they are")
        return Unavailable(
            f"{what} of the source could not be read; {whose} rows are missing.",
            f"Run it again: with a folder as --out, {those} read.",
        )


class ErrorCount:
    """Passes on what could not be used, and counts the archives and folders among it that could
    not be read to their end, and apart from them the pictures and rows that were `skipped`."""

    def __init__(self, on_error: OnError) -> None:
        self._on_error, self.incomplete, self.skipped = on_error, 0, 0

    def __call__(self, path: str, error: TastemakerError) -> None:
        if isinstance(error, Incomplete):
            self.incomplete += 1
        else:
            self.skipped += isinstance(error, BadImage)
        self._on_error(path, error)

    def in_words(self) -> Incomplete:
        """What a run ends with that has scored everything else."""
        one = self.incomplete == 1
        what = "1 archive or folder" if one else f"{self.incomplete:,} archives and folders"
        whose, those = ("its", "it alone is") if one else ("their", "only they are")
        return Incomplete(
            f"{what} could not be read whole; rows of {whose} pictures are missing.",
            "All others are there. Mend what is named above and run again: with a folder as --out, "
            f"{those} read.",
        )
