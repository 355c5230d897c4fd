"""A version as a folder that can be uploaded to a model hub: the head, its sidecar, and the model
card with the lines in front that the hub reads."""

import re
from typing import Any

from sqlmodel import Session

from tastemaker.config import Settings
from tastemaker.database.tables import Version
from tastemaker.encoding.weights import PUBLISHED
from tastemaker.errors import Invalid
from tastemaker.files.json_text import json_text
from tastemaker.publishing import card_blocks, model_card
from tastemaker.publishing.exports import Part
from tastemaker.publishing.portable import Portable

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,40}")


def hub_folder(
    session: Session,
    settings: Settings,
    row: Version,
    version: Portable,
    files: list[Part],
    license: str = "",
) -> list[Part]:
    """README.md and `files`, the head and its sidecar. `license` is the author's choice, as the hub
    abbreviates it: “cc-by-4.0”. Raises `Invalid` for what is no such abbreviation."""
    if license and not LICENSE.fullmatch(license):
        raise Invalid(
            f"“{license[:40]}” is no name of a license that a hub knows.",
            "Write its abbreviation in small letters: mit, apache-2.0, cc-by-4.0.",
        )
    card = card_blocks.markdown(model_card.card_of(session, settings, row))
    readme = f"{front_matter(version, license)}\n{card}\n{_usage(version)}"
    return [*files, Part("README.md", readme.encode())]


def front_matter(version: Portable, license: str) -> str:
    """The YAML between two lines of dashes. Texts are written as JSON, which YAML contains."""
    bases = [
        PUBLISHED[part.published][0]
        for part in version.spec.networks
        if part.published in PUBLISHED
    ]
    known: dict[str, Any] = {
        "library_name": "tastemaker",
        "pipeline_tag": "image-classification",
        "tags": ["aesthetic-score", "image-scoring", "tastemaker"],
        **({"base_model": bases} if bases else {}),
        **({"license": license} if license else {}),
        "model_name": version.name,
    }
    lines = [f"{key}: {json_text(value)}" for key, value in known.items()]
    return "\n".join(("---", *lines, "---", ""))


def _usage(version: Portable) -> str:
    return f"""## In a program

```python
import tastemaker

scorer = tastemaker.load("{version.stem}.safetensors")
print(scorer.score("picture.jpg"))
```

A score is a number from 0 to 1; {version.threshold:g} is where its author draws the line.
"""
