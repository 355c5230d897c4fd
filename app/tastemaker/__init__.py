"""Tastemaker: teach a machine your taste in images, one score at a time.

    import tastemaker
    scorer = tastemaker.load("Anime-v1.8.safetensors")
    scorer.score(["a.jpg", "b.png"])

    with tastemaker.Client("http://127.0.0.1:8000") as client:
        client.project("Anime").labels().to_pandas()

`import tastemaker` loads neither numpy nor torch; `load` does. `Client` loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tastemaker.errors import TastemakerError

if TYPE_CHECKING:
    from os import PathLike

    from tastemaker.filtering.client import Client
    from tastemaker.filtering.scorer import Scorer

__version__ = "0.1.0"
__all__ = ["Client", "Scorer", "TastemakerError", "__version__", "load"]


def load(path: str | PathLike[str], *, encoder: str | None = None) -> Scorer:
    """The head in a .safetensors file, or the router in a folder, ready to score pictures and
    embeddings.

    `encoder` names the encoder of a file that does not say its own, as “ViT-L-14-quickgelu/openai”;
    its weights are loaded at the first picture. Raises `TastemakerError` with a sentence for what
    is no head.
    """
    from tastemaker.filtering.router import load_model

    return load_model(path, encoder=encoder)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "Scorer":  # for isinstance, without torch where nobody scores
            from tastemaker.filtering.scorer import Scorer

            return Scorer
        if name == "Client":
            from tastemaker.filtering.client import Client

            return Client
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
