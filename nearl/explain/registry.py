"""All maps by key. A map is one file in `nearl.explain.maps` and one line here, or a plugin's `MAPS.register`."""

from __future__ import annotations

from nearl.explain.card import MapCard
from nearl.explain.maps import attention, cam, evidence, novelty, occlusion, relevance
from nearl.registry import Registry

MAPS: Registry[MapCard] = Registry("map")
for card in (
    *cam.CARDS,
    relevance.CARD,
    evidence.CARD,
    *attention.CARDS,
    *novelty.CARDS,
    occlusion.CARD,
):
    MAPS.register(card.key, card)
