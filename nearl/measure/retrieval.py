"""How well a gallery is searched: precision and recall among the first 1, 5 and 10, where labels or pairs are known.

For one query with R relevant images among N, of which r are among the first k: precision r / k (r / N where N < k) and
recall r / R. Queries of one class are averaged first and then the classes, so that each counts equally. Intervals are
for the sampling of queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from nearl.errors import NearlError
from nearl.measure import intervals
from nearl.prompts import PromptSet, class_key
from nearl.reading.gallery import Gallery, Places, Seer, groups_of

AT = (1, 5, 10)
TEST = "test"


def figures(
    similarity: np.ndarray, relevant: np.ndarray, allowed: np.ndarray | None = None, kinds: Sequence[str] | None = None
) -> dict:
    """The figures of similarities [Q, N], where ``relevant`` bool [Q, N] says what should be found.

    "n": queries that something could be found for; the others are left out. "precision" and "recall": {"1", "5", "10":
    {"value", "interval"}}. "chance": the expected precision of a random order. ``allowed`` bool [Q, N]: what may be
    found at all (default: everything). ``kinds``: the class of each query, over which is averaged (default: one).
    NearlError where nothing could be found for any query.
    """
    relevant = np.asarray(relevant, dtype=bool)
    allowed = np.ones_like(relevant) if allowed is None else np.asarray(allowed, dtype=bool)
    relevant = relevant & allowed
    kept = np.flatnonzero(relevant.any(1))
    if not len(kept):
        raise NearlError("Nothing here could be found: no two images share a class or a text.")
    scores = np.where(allowed, np.asarray(similarity, dtype=np.float64), -np.inf)[kept]
    relevant, allowed = relevant[kept], allowed[kept]
    names = np.array(["" if kinds is None else kinds[q] for q in kept])
    order = np.argsort(-scores, axis=1, kind="stable")[:, : max(AT)]
    hits = np.take_along_axis(relevant, order, 1)
    total, there = relevant.sum(1), allowed.sum(1)
    result: dict = {"n": len(kept), "precision": {}, "recall": {}, "chance": _mean(total / there, names)[0]}
    for k in AT:
        right = hits[:, :k].sum(1)
        for what, each in (("precision", right / np.minimum(k, there)), ("recall", right / total)):
            value, interval = _mean(each, names)
            result[what][str(k)] = {"value": value, "interval": interval}
    return result


def _mean(each: np.ndarray, names: np.ndarray) -> tuple[float, list[float]]:
    """The mean over kinds of the means of their values in 0..1, and its interval."""
    groups = [each[names == name] for name in sorted(set(names))]
    means = [float(group.mean()) for group in groups]
    ranges = [intervals.share(mean, len(group)) for mean, group in zip(means, groups, strict=True)]
    return float(np.mean(means)), intervals.of_mean(means, ranges)


def study(seer: Seer, gallery: Gallery, prompts: PromptSet | None = None) -> dict:
    """What can be measured of a gallery, each {"before": `figures`, "after": `figures` or None, and how it was asked}.

    "images": an image finds images of its class. Test images ask and the others are found; without test images, or
    without others, every image asks for all others of other groups. "sentences": each prompt of a class finds its
    images, among the test images if there are any. "pairs_to_images", "pairs_to_texts": a caption finds its images, an
    image its caption, among the test images if these have captions. Only those are there for which labels, ``prompts``
    or captions are known. NearlError where nothing can be measured.
    """
    found: dict = {}
    labelled = [i for i, entry in enumerate(gallery.entries) if entry.label]
    if len({class_key(gallery.entries[i].label) for i in labelled}) > 1:
        found["images"] = _images(gallery.subset(labelled))
        if prompts is not None:
            found |= _sentences(seer, _tested(gallery, labelled), prompts)
    with_text = [i for i, entry in enumerate(gallery.entries) if entry.text]
    if with_text:
        found |= _pairs(seer, _tested(gallery, with_text))
    if not found:
        raise NearlError(
            "There is nothing to measure with: put the images of each class in a folder named after it, or add a table "
            "with the columns file and text."
        )
    return found


def _tested(gallery: Gallery, rows: Sequence[int]) -> Gallery:
    """The test images among these rows, or all where there are none."""
    test = [i for i in rows if gallery.entries[i].part == TEST]
    return gallery.subset(test or rows)


def _images(gallery: Gallery) -> dict:
    labels = np.array([class_key(entry.label) for entry in gallery.entries])
    test = np.array([entry.part == TEST for entry in gallery.entries])
    groups = groups_of(gallery.entries)
    split = bool(test.any() and not test.all())
    ask, among = (np.flatnonzero(test), np.flatnonzero(~test)) if split else (np.arange(len(test)),) * 2
    relevant = labels[ask][:, None] == labels[among][None]
    allowed = groups[ask][:, None] != groups[among][None]
    how = {"queries": len(ask), "among": len(among), "split": split}
    return how | _moments(gallery.places[ask], gallery.places[among], relevant, allowed, labels[ask])


def _sentences(seer: Seer, gallery: Gallery, prompts: PromptSet) -> dict:
    texts = [
        (class_key(name), text) for name, group in zip(prompts.classes, prompts.texts(), strict=True) for text in group
    ]
    labels = np.array([class_key(entry.label) for entry in gallery.entries])
    texts = [(name, text) for name, text in texts if name in set(labels)]
    if not texts:
        return {}
    kinds = np.array([name for name, _ in texts])
    relevant = kinds[:, None] == labels[None]
    how = {"queries": len(texts), "among": len(gallery)}
    places = seer.texts([text for _, text in texts])
    return {"sentences": how | _moments(places, gallery.places, relevant, None, kinds)}


def _pairs(seer: Seer, gallery: Gallery) -> dict:
    own = [entry.text for entry in gallery.entries]
    texts = list(dict.fromkeys(own))
    relevant = np.array([[text == other for other in own] for text in texts])
    places, how = seer.texts(texts), {"images": len(own), "texts": len(texts)}
    return {
        "pairs_to_images": how | _moments(places, gallery.places, relevant),
        "pairs_to_texts": how | _moments(gallery.places, places, relevant.T),
    }


def _moments(
    ask: Places,
    among: Places,
    relevant: np.ndarray,
    allowed: np.ndarray | None = None,
    kinds: Sequence[str] | None = None,
) -> dict:
    found = {"before": None, "after": None}
    for when, queries in ask.moments.items():
        found[when] = figures(similarity(queries, among.moments[when]), relevant, allowed, kinds)
    return found


def similarity(ask: Tensor, among: Tensor) -> np.ndarray:
    """Cosine similarities float64 [Q, N] of unit embeddings."""
    return (ask.double() @ among.double().T).numpy()


def words_of(found: dict) -> list[str]:
    """What `study` found, in lines for people."""
    titles = {
        "images": "an image finds images of its class",
        "sentences": "a prompt finds images of its class",
        "pairs_to_images": "a caption finds its images",
        "pairs_to_texts": "an image finds its caption",
    }
    lines = []
    for key, row in found.items():
        lines.append(f"{titles[key]} ({row['before']['n']} queries)")
        for when in ("before", "after"):
            if row[when] is not None:
                lines += [f"  {when} teaching  {what:9} {_at(row[when][what])}" for what in ("precision", "recall")]
        lines.append(f"  by chance        precision {row['before']['chance']:.1%}")
    return lines


def _at(row: dict) -> str:
    cells = ((k, cell["value"], *cell["interval"]) for k, cell in row.items())
    return "   ".join(f"at {k}: {value:.1%} ({low:.0%} to {high:.0%})" for k, value, low, high in cells)
