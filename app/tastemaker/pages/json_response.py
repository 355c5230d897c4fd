"""An answer in JSON that a route writes itself, with a status or a header of its own."""

from typing import Any

from fastapi.responses import JSONResponse

from tastemaker.files.json_text import json_text


class ValidJSON(JSONResponse):
    """Valid JSON whatever the numbers are: NaN is null, as FastAPI writes it of typed answers."""

    def render(self, content: Any) -> bytes:
        return json_text(content, separators=(",", ":")).encode()
