"""Published weights: from the cache of the Hugging Face hub as it is, else fetched into it."""

import contextlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tastemaker.encoding import downloads
from tastemaker.encoding.encoder_specs import BUNDLED, EncoderSpec
from tastemaker.errors import EncoderUnavailable


def weights_file(
    spec: EncoderSpec,
    repository: str,
    names: tuple[str, ...],
    elsewhere: Callable[[], str | Path] | None = None,
) -> Path:
    """The file of an encoder's weights: the first of these names that a repository has, from the
    cache or fetched into it; what `elsewhere` brings where there is no repository. Raises
    `EncoderUnavailable`.

    huggingface_hub retries a dead network for most of a minute, so a machine that plainly has
    none is refused at once.
    """
    import huggingface_hub.constants

    for name in names if repository else ():
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise unavailable(spec, "HF_HUB_OFFLINE is set")
    if not is_reachable(huggingface_hub.constants.ENDPOINT):
        raise unavailable(spec, "the Hugging Face hub does not answer")
    try:
        if elsewhere is not None and not repository:
            return Path(elsewhere())
        return downloads.fetch(repository, names)
    except Exception as error:  # HTTP, file system and hub errors alike mean: no weights
        raise unavailable(spec, (str(error).splitlines() or [""])[0][:200]) from error


def is_reachable(url: str, seconds: float = 5) -> bool:
    """Whether somebody answers at that address, within so long."""
    if urllib.request.getproxies():
        return True  # the way out is the proxy's business
    address = urllib.parse.urlsplit(url)
    port = address.port or (80 if address.scheme == "http" else 443)
    with contextlib.suppress(OSError), socket.create_connection((address.hostname, port), seconds):
        return True
    return False


def unavailable(spec: EncoderSpec, reason: str) -> EncoderUnavailable:
    return EncoderUnavailable(
        f"The weights of {spec.name} are not on this machine and could not be downloaded: "
        f"{reason}.",
        f"Three ways out: use another encoder, such as {BUNDLED}; give a local file as "
        f"{spec.name}@/path/to/weights.safetensors; or fill the Hugging Face cache (HF_HOME) on a "
        "machine with a network and copy it here.",
    )


def not_these_weights(spec: EncoderSpec, file: Path, error: Exception) -> EncoderUnavailable:
    """A file that does not hold the weights of the architecture it is named with."""
    why = (str(error).splitlines() or [""])[0][:200]
    return EncoderUnavailable(
        f"{file.name} does not hold the weights of {spec.model}.",
        f"Give the file of that architecture. ({why})",
    )
