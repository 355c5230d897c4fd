"""The forms in which a version leaves to run without this program: one function for all callers.

comfyui   a folder of ComfyUI nodes
html      one HTML file that scores pictures in a browser, without a network
onnx      the head as ONNX, and the encoder with it where it may travel
hub       a folder ready for a model hub
"""

from dataclasses import dataclass
from typing import Literal, get_args

from sqlmodel import Session

from tastemaker.config import Settings
from tastemaker.database.tables import Version
from tastemaker.errors import TastemakerError
from tastemaker.publishing import exports
from tastemaker.publishing.comfyui import comfyui_folder, encoder_by
from tastemaker.publishing.exports import Part
from tastemaker.publishing.html_page import WHAT, html_page
from tastemaker.publishing.hub_folder import hub_folder
from tastemaker.publishing.onnx_files import onnx_folder
from tastemaker.publishing.portable import Portable, portable

Form = Literal["comfyui", "html", "onnx", "hub"]
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class Bundle:
    """The files of a form, and the name of the folder they belong in; empty where there is but one
    file."""

    folder: str
    parts: list[Part]


def bundle_of(
    session: Session, settings: Settings, version: Version, form: Form, license: str = ""
) -> Bundle:
    """The version in a form. Raises `TastemakerError` with the reason where it cannot be had."""
    carried = portable(session, settings, version)
    head = exports.checkpoint(settings, version)  # which checks the file
    if form == "html":
        return Bundle("", [html_page(carried)])
    config = exports.config(session, settings, version)
    if form == "comfyui":
        return Bundle(f"tastemaker-{carried.stem}", comfyui_folder(carried, [head, config]))
    if form == "onnx":
        return Bundle(f"{carried.stem}-onnx", onnx_folder(carried, config))
    files = hub_folder(session, settings, version, carried, [head, config], license)
    return Bundle(carried.stem, files)


@dataclass(frozen=True)
class Offer:
    """A form on the page of a version. `why_not` is empty where it can be had."""

    form: Form
    title: str
    about: str
    why_not: str = ""


def offers(session: Session, settings: Settings, version: Version) -> list[Offer]:
    """The forms and, without making any, why the version cannot have some of them."""
    try:
        carried = portable(session, settings, version)
    except TastemakerError as error:
        return [Offer(form, *IN_WORDS[form], why_not=error.message) for form in FORMS]
    return [Offer(form, *IN_WORDS[form], why_not=_why_not(carried, form)) for form in FORMS]


def _why_not(version: Portable, form: Form) -> str:
    try:
        if form == "html":
            version.require_bundled_encoder(WHAT)
        if form == "comfyui":
            encoder_by(version)
    except TastemakerError as error:
        return error.message
    return ""


IN_WORDS: dict[Form, tuple[str, str]] = {
    "html": (
        "Web page",
        "One file that scores a folder in any browser, without a network or an installation.",
    ),
    "comfyui": ("ComfyUI nodes", "A folder for custom_nodes: score, filter, keep the best."),
    "onnx": (
        "ONNX",
        "For any runtime: the head, with the encoder in front if that is the bundled one.",
    ),
    "hub": ("Model hub", "The head, its sidecar and the model card with the lines a hub reads."),
}
