"""Heads that read one embedding: those of a pass, and the members of a router."""

from collections.abc import Sequence
from itertools import combinations

from tastemaker.encoding.encoder_names import differ
from tastemaker.errors import Conflict, Invalid
from tastemaker.filtering.scorer import Scorer


def one_encoder(heads: Sequence[Scorer], because: str, hint: str) -> None:
    """Raises `Conflict` where two of the heads cannot have been trained on the same encoder,
    `Invalid` where they read vectors of other widths; `because` says why they would have to be, and
    `hint` what to do."""
    kinds = {(head.encoder, head.fingerprint, head.features): head for head in heads}
    for one, other in combinations(kinds.values(), 2):
        if differ((one.encoder, one.fingerprint), (other.encoder, other.fingerprint)):
            raise Conflict(
                f"{one.name} was trained on {_told(one)}, and {other.name} on {_told(other)}: "
                f"{because}.",
                hint,
            )
        if one.features != other.features:
            raise Invalid(
                f"{one.name} reads vectors of {one.features} values, and {other.name} of "
                f"{other.features}: {because}.",
                hint,
            )


def _told(head: Scorer) -> str:
    by = f" (fingerprint {head.fingerprint})" if head.fingerprint else ""
    return f"{head.encoder or 'an encoder that it does not name'}{by}"


def knows_most(heads: Sequence[Scorer]) -> Scorer:
    """The first that knows the fingerprint of its encoder, or at least the name."""
    known = [head for head in heads if head.fingerprint]
    return (known or [head for head in heads if head.encoder] or heads)[0]
