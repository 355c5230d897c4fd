"""`tastemaker publish`: a version in a form that runs without this program."""

from pathlib import Path
from typing import Annotated

import typer

from tastemaker.cli.help import Commands
from tastemaker.cli.options import InProject, VersionWords, in_order, path_option
from tastemaker.cli.terminal import AsJson, database, out, plain, print_json
from tastemaker.database import sessions

app = Commands()


@app.command()
def publish(
    form: Annotated[
        list[str], typer.Option("--as", help="comfyui, html, onnx or hub; may be given again.")
    ],
    folder: Annotated[Path, path_option("--out", about="The folder to write to.", metavar="DIR")],
    typed: VersionWords = None,
    project: InProject = None,
    license: Annotated[
        str, typer.Option(help="For the hub, in its words: mit, cc-by-4.0. Left out: none named.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Write a version so that it runs elsewhere: as ComfyUI nodes, as a web page that needs no
    network, as ONNX, or as a folder for a model hub."""
    name, number = in_order(typed, project, "[VERSION]")
    from tastemaker import versions
    from tastemaker.files import require_writable_folder
    from tastemaker.publishing import elsewhere, exports

    forms = [known for known in elsewhere.FORMS if known in form]
    if unknown := sorted(set(form) - set(forms)):
        raise typer.BadParameter(f"“{unknown[0]}” is none of {', '.join(elsewhere.FORMS)}")
    require_writable_folder(folder)
    written: list[Path] = []
    with database() as (settings, engine), sessions.reading(engine) as session:
        chosen = versions.named(session, f"{name}@{number}" if number else name)
        bundles = [
            elsewhere.bundle_of(session, settings, chosen, known, license) for known in forms
        ]
        for bundle in bundles:
            written += exports.write(bundle.parts, folder / bundle.folder)
    if as_json:
        return print_json([str(path) for path in written])
    for path in written:
        out.print(plain(str(path)))
    return None
