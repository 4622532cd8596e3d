"""Taught on one source, read on another with the same classes: which images and prompts that leaves.

The question, not the method, of MCDRL (a model that is to hold in a hospital that it was not taught in). Teaching and
both measurements keep to the classes that both sources have, so that the drop is that of the images alone. The prompts
are those of the taught source and the only bridge: nothing is fitted to the other source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.measure.intervals import difference
from nearl.prompts import PromptSet, class_key

NAMED = 4  # classes in a sentence


def common(ours: Sequence[str], theirs: Sequence[str], same: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """The classes that both sources have: name in the taught one -> name in the other, in the order of ``ours``.

    Names are compared by `class_key`; ``same``: pairs of names, one of each source, that mean one class. NearlError for
    fewer than two, for a pair that names no class, and for a class that would mean two of the other source.
    """
    known, others = ({class_key(name): name for name in names} for names in (ours, theirs))
    pairs = {(key, key) for key in known if key in others}
    for one, two in same:
        a, b = class_key(one), class_key(two)
        if a not in known and a in others:
            a, b = b, a
        if a not in known or b not in others:
            raise NearlError(f"“{one}” and “{two}” are not a class of each source; they have {_named(ours, theirs)}.")
        pairs.add((a, b))
    for side, names in enumerate((known, others)):
        twice = [key for key, count in Counter(pair[side] for pair in pairs).items() if count > 1]
        if twice:
            raise NearlError(
                f"“{names[min(twice)]}” would mean two classes of the other source at once; a class that both sources "
                "have by the same name needs no --same, and any other may stand in one --same alone."
            )
    partner = dict(pairs)
    found = {name: others[partner[key]] for key, name in known.items() if key in partner}
    if len(found) < 2:
        raise NearlError(
            f"Two sources need at least two classes in common, but they have {_named(ours, theirs)}; say which names "
            "mean one class with --same NAME=NAME."
        )
    return found


def _named(*groups: Sequence[str]) -> str:
    shown = [", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "") for names in groups]
    return " and ".join(f"({names})" for names in shown)


def restricted(data: LabelledSet, names: Sequence[str], called: Sequence[str] | None = None) -> LabelledSet:
    """The images of the classes ``names`` alone, in this order; ``called``: what the classes are called from now on."""
    place = {data.classes.index(name): number for number, name in enumerate(names)}
    kept = data.subset(i for i, label in enumerate(data.labels) if label in place)
    return replace(kept, classes=list(called or names), labels=[place[label] for label in kept.labels])


def prompts_of(prompt_set: PromptSet, names: Sequence[str]) -> PromptSet:
    """The prompts of the classes ``names`` alone, in this order."""
    own = dict(zip(prompt_set.classes, prompt_set.prompts, strict=True))
    return replace(prompt_set, classes=tuple(names), prompts=tuple(own[name] for name in names))


def drop(here: dict, there: dict) -> dict:
    """{"value", "interval"} of the balanced accuracy here less that there, on different images."""
    values = [figures["balanced_accuracy"] for figures in (here, there)]
    ranges = [figures["balanced_accuracy_interval"] for figures in (here, there)]
    return {"value": float(np.subtract(*values)), "interval": difference(*values, *ranges)}
