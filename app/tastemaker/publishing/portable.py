"""A version as another program needs it: its head, and what it takes to see a picture as it did.

What is published for elsewhere runs without this program, so it brings the encoder along where it
may: the bundled one is small and free (Apache-2.0). Of any other one only the name is written.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlmodel import Session

from tastemaker import embeddings, projects, versions
from tastemaker.config import Settings
from tastemaker.database.tables import EncoderRow, Version
from tastemaker.encoding import bundled_layers, efficientnet, feature_blocks, frame_rules
from tastemaker.encoding.encoder_specs import EncoderSpec, spec_of
from tastemaker.errors import Conflict
from tastemaker.learning.checkpoints import load_checkpoint
from tastemaker.learning.plain_head import PlainHead, plain_head
from tastemaker.publishing import exports


@dataclass(frozen=True)
class Portable:
    """A version that gives scores. `stem` is “Anime-v1.3”, `spec` its encoder, `features` how many
    numbers that gives, `threshold` in 0–1, `file` the head."""

    project: str
    number: str
    stem: str
    sha256: str
    spec: EncoderSpec
    fingerprint: str
    features: int
    normalised: bool
    threshold: float
    file: Path

    @property
    def name(self) -> str:
        return f"{self.project} {self.number}"

    @property
    def encoder(self) -> str:
        """The encoder's name, without the places of local files."""
        return self.spec.identity

    @cached_property
    def plain(self) -> PlainHead:
        return plain_head(load_checkpoint(self.file, features=self.features).tensors)

    @property
    def brings_encoder(self) -> bool:
        """Whether its encoder is the bundled one, weights and number type included."""
        known = bundled_layers.FINGERPRINTS
        return not self.spec.parts and known.get(self.spec.blocks) == self.fingerprint

    def require_bundled_encoder(self, what: str) -> None:
        """Raise `Conflict` unless `what` can bring the encoder along."""
        if self.brings_encoder:
            return
        alone = "and only the bundled encoder is small and free enough to travel along"
        if self.spec.bundled and self.spec.frames != "first":
            why = f"{frame_rules.IN_WORDS[self.spec.frames]}, and {what} would see another"
        elif self.spec.bundled and self.spec.tiling:
            why = f"its encoder looks at five tiles of each picture, and {what} at the whole"
        elif self.spec.bundled:
            why = "it reads vectors of another make of it than the one that comes with Tastemaker"
            why = f"{why}, {alone}"
        elif self.spec.parts:
            why = f"its encoder is several networks side by side ({self.encoder}), {alone}"
        else:
            why = f"its encoder is {self.encoder}, {alone}"
        raise Conflict(
            f"{self.name} cannot be written as {what}: {why}.",
            "Publish it as a ComfyUI node or for a model hub, or move the project to "
            "efficientnet_lite0 and train there.",
        )

    def looks(self) -> dict[str, Any]:
        """How the bundled encoder is shown a picture: the pixels' mean and deviation, its views,
        and the blocks of layers beside its features."""
        blocks, crop = self.spec.blocks, efficientnet.CROP
        return {
            "mean": [255 * value for value in crop.mean],
            "std": [255 * value for value in crop.std],
            "blocks": list(blocks),
            "block_length": feature_blocks.LENGTH,
            "views": [
                {"size": v.size, "resize_to": v.resize_to, "resize_mode": v.resize_mode}
                for v in feature_blocks.views_of(self.encoder, blocks, crop)
            ],
        }

    def about(self) -> dict[str, Any]:
        """What every form says of where its scores come from."""
        return {
            "name": self.project, "version": self.number, "sha256": self.sha256,
            "encoder": self.encoder, "encoder_fingerprint": self.fingerprint,
            "normalised": self.normalised, "threshold": self.threshold,
        }  # fmt: skip


def portable(session: Session, settings: Settings, version: Version) -> Portable:
    """Reads nothing but rows. Raises `Conflict` for a version that sorts into classes."""
    project = projects.get(session, version.project_id)
    encoder = session.get(EncoderRow, version.encoder_id)
    assert encoder is not None
    if classes := version.recipe.get("labels") or list(version.classes.names):
        raise Conflict(
            f"{version.number} sorts into {len(classes)} classes; only a version that gives scores "
            "can be published for elsewhere.",
            "Its file and sidecar can be downloaded, and the scripts of CityClassifiers read them.",
        )
    return Portable(
        project.name, version.number, exports.stem(version), version.sha256,
        spec_of(encoder.name), encoder.fingerprint, encoder.dim,
        embeddings.is_normalised(session, encoder), project.threshold,
        versions.checkpoint_path(settings, version),
    )  # fmt: skip
