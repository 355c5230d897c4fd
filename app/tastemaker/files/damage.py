"""Why a file cannot be read as what its name says: it is cut short or damaged, or another kind of
file. Its first bytes tell which."""

from dataclasses import dataclass
from pathlib import Path

from tastemaker.errors import Invalid

AGAIN = "Copy it again, or write it anew."
HEAD = 8  # bytes that tell


@dataclass(frozen=True)
class Form:
    """`called`, with its article; every file of it begins with `mark`."""

    called: str
    mark: bytes


PARQUET = Form("a Parquet file", b"PAR1")
NPZ = Form("an .npz", b"PK\x03\x04")
NPY = Form("a plain .npy array", b"\x93NUMPY")


def unreadable(file: Path, form: Form) -> Invalid:
    """What to raise for a file that was to be of this form and could not be read."""
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD)
    except OSError as error:
        return Invalid(f"{file.name} cannot be read: {(error.strerror or str(error)).lower()}.")
    return unreadable_from(file.name, head, form)


def unreadable_from(name: str, head: bytes, form: Form) -> Invalid:
    """The same by the first `HEAD` bytes, or what there is of them."""
    if not head:
        return Invalid(f"{name} is empty: it holds no byte.", AGAIN)
    if head.startswith(form.mark) or form.mark.startswith(head):
        return Invalid(f"{name} is cut short or damaged.", AGAIN)
    return Invalid(f"{name} is not {form.called}.", "It does not begin as one does.")
