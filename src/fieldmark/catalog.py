"""Every network that can be named, with what is published for it and what is here already."""

from __future__ import annotations

from dataclasses import dataclass

from fieldmark.models.card import ModelCard, matches
from fieldmark.models.official import OfficialWeights
from fieldmark.models.registry import list_models
from fieldmark.models.timm_zoo import list_timm_models
from fieldmark.pretrained import are_on_this_machine, published_weights


@dataclass(frozen=True, slots=True)
class Entry:
    """A network in the list.

    Attributes:
        is_own: written out in Fieldmark; else timm's.
        weights: what is published for it, the usual ones first.
        cached: which of these are on this machine, in the same order.
    """

    card: ModelCard
    is_own: bool
    weights: tuple[OfficialWeights, ...]
    cached: tuple[bool, ...]


def list_catalog(pattern: str | None = None) -> list[Entry]:
    """Fieldmark's own networks, family by family, then timm's by name.

    Args:
        pattern: part of a name, or with `*`, `?` or `[` a pattern for the whole of it.
    """
    own = [card for card in list_models() if matches(card.name, pattern)]
    cards = [*own, *list_timm_models(pattern)]
    published = [published_weights(card.name) for card in cards]
    here = iter(are_on_this_machine([one for many in published for one in many]))
    return [
        Entry(card, position < len(own), many, tuple(next(here) for _ in many))
        for position, (card, many) in enumerate(zip(cards, published, strict=True))
    ]
