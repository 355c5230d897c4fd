"""What a browser saves: under its name, whatever letters that has, and sent as it is made."""

from datetime import datetime
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import StreamingResponse

from tastemaker.publishing import exports


def zip_of(parts: list[exports.Part], folder: str, at: datetime) -> Response:
    """The parts in one folder of a zip, each with the time `at`."""
    content = exports.zipped(parts, folder, at)
    headers = attachment(f"{folder}.zip")
    return StreamingResponse(content, media_type="application/zip", headers=headers)


def attachment(name: str) -> dict[str, str]:
    """Save it as `name`, whatever letters that has: a header holds Latin ones alone, so a name with
    others comes twice, in the form of RFC 6266 beside one of ASCII."""
    safe = "".join(c if c.isprintable() and c not in '"\\\\/' else "_" for c in name)
    plain = safe.encode("ascii", "replace").decode().replace("?", "_")
    given = f'attachment; filename="{plain}"'
    if plain != name:
        given += f"; filename*=UTF-8''{quote(safe.encode('utf-8', 'replace'), safe='')}"
    return {"Content-Disposition": given}
