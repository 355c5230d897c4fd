"""Pictures, as the re-encoded derivatives that the import made; never the file itself."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlmodel import select
from starlette.concurrency import run_in_threadpool

from tastemaker import images
from tastemaker.auth.lanes import PICTURES
from tastemaker.auth.permissions import GuardedRoute, ViewerUser
from tastemaker.database.sessions import reading
from tastemaker.database.tables import Image
from tastemaker.errors import NotFound
from tastemaker.pages.deps import EngineDep, Id, ReadSession, SettingsDep
from tastemaker.pictures.full_size import FullSize, media_type
from tastemaker.pictures.pictures import THUMB, VIEW, thumb_path

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)

# What the address says of the image's hash; without it, another library may have another picture
# under the same address.
Hash = Annotated[str, Query(max_length=64)]


@router.get("/images/{image_id}/thumb")
def thumb(
    _: ViewerUser, request: Request, image_id: Id, session: ReadSession, settings: SettingsDep,
    h: Hash = "",
) -> Response:  # fmt: skip
    """A picture for a grid, at most 320 pixels long."""
    return derivative(request, image_id, session, settings, THUMB, h)


@router.get("/images/{image_id}/view")
def view(
    _: ViewerUser, request: Request, image_id: Id, session: ReadSession, settings: SettingsDep,
    h: Hash = "",
) -> Response:  # fmt: skip
    """A picture for scoring, at most 1280 pixels long."""
    return derivative(request, image_id, session, settings, VIEW, h)


@router.get("/images/{image_id}/full")
async def full(
    _: ViewerUser, request: Request, image_id: Id, engine: EngineDep, settings: SettingsDep,
    h: Hash = "",
) -> Response:  # fmt: skip
    """At 100 %, made from the file when first asked for: that waits in a lane of its own."""
    maker: FullSize = request.app.state.full_size

    def look_up() -> tuple[Path, str, bytes | None]:
        with reading(engine) as session:  # not held while the picture is decoded
            image = images.get(session, image_id)
            source = images.source_path(session, settings, image)
        return source, image.sha256, maker.made(image.sha256)

    source, sha256, content = await run_in_threadpool(look_up)
    if (known := _known_already(request, sha256, h)) is not None:
        return known
    if content is None:
        content = await PICTURES.run(maker.make, source, sha256)
    return Response(content, media_type=media_type(content), headers=_headers(sha256, h))


def derivative(
    request: Request, image_id: int, session: ReadSession, settings: SettingsDep, size: int, h: str
) -> Response:
    sha256 = session.exec(select(Image.sha256).where(Image.id == image_id)).first()
    if sha256 is None:
        raise NotFound("This image is not in the library.")
    if (known := _known_already(request, sha256, h)) is not None:
        return known
    try:
        content = thumb_path(settings.thumbs, sha256, size).read_bytes()
    except FileNotFoundError:
        raise NotFound("There is no picture to show for this image.") from None
    return Response(content, media_type="image/webp", headers=_headers(sha256, h))


def _headers(sha256: str, h: str) -> dict[str, str]:
    """With the hash in its address a picture stays in the browser for good; without it the browser
    asks whether it is still the one."""
    lasting = "private, max-age=31536000, immutable"
    return {
        "Cache-Control": lasting if h else "private, no-cache",
        "ETag": f'"{sha256[:32]}"',
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }


def _known_already(request: Request, sha256: str, h: str) -> Response | None:
    """The answer to a browser that has this very picture; else None. Raises `NotFound` for the
    address of another one."""
    if h and not sha256.startswith(h):
        raise NotFound("Here this is another picture.", "The page is of another library.")
    headers = _headers(sha256, h)
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return None
