"""Pictures, as the re-encoded derivatives that the import made; never the file itself."""

from pathlib import Path

from fastapi import APIRouter, Request
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

# An image's bytes never change under its id, so neither do these.
HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}


@router.get("/images/{image_id}/thumb")
def thumb(_: ViewerUser, image_id: Id, session: ReadSession, settings: SettingsDep) -> Response:
    """A picture for a grid, at most 320 pixels long."""
    return derivative(image_id, session, settings, THUMB)


@router.get("/images/{image_id}/view")
def view(_: ViewerUser, image_id: Id, session: ReadSession, settings: SettingsDep) -> Response:
    """A picture for scoring, at most 1280 pixels long."""
    return derivative(image_id, session, settings, VIEW)


@router.get("/images/{image_id}/full")
async def full(
    _: ViewerUser, request: Request, image_id: Id, engine: EngineDep, settings: SettingsDep
) -> Response:
    """At 100 %, made from the file when first asked for: that waits in a lane of its own."""
    maker: FullSize = request.app.state.full_size

    def look_up() -> tuple[Path, str, bytes | None]:
        with reading(engine) as session:  # not held while the picture is decoded
            image = images.get(session, image_id)
            source = images.source_path(session, settings, image)
        return source, image.sha256, maker.made(image.sha256)

    source, sha256, content = await run_in_threadpool(look_up)
    if content is None:
        content = await PICTURES.run(maker.make, source, sha256)
    return Response(content, media_type=media_type(content), headers=HEADERS)


def derivative(image_id: int, session: ReadSession, settings: SettingsDep, size: int) -> Response:
    sha256 = session.exec(select(Image.sha256).where(Image.id == image_id)).first()
    if sha256 is None:
        raise NotFound("This image is not in the library.")
    try:
        content = thumb_path(settings.thumbs, sha256, size).read_bytes()
    except FileNotFoundError:
        raise NotFound("There is no picture to show for this image.") from None
    return Response(content, media_type="image/webp", headers=HEADERS)
