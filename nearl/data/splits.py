"""Which images teach and which are held out: by seed alone, the same on every machine.

`plan` decides how a set is measured, and keeps a patient's images and all copies of an image on one side.

Draws use the raw output of PCG64, which numpy guarantees not to change, with one stream per class: a class keeps its
draw when another class is added, and 8 shots are always a subset of 16.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nearl.data.records import base_name
from nearl.errors import NearlError

FEWEST = 4  # images that every class needs for a held-out part
FEWEST_HELD = 2  # images of every class in that part, and at least as many left to teach with
MOST_FOLDS, FEWEST_FOLDS = 5, 3
FEW_HELD = 20  # images kept aside; fewer are called few wherever figures are shown, and promise nothing (our choice)
FEW_OF_CLASS = 12  # images of a class, from which on no 95 % interval is wider than 50 points; fewer are only counted
TRIES = 100  # random parts among which one is chosen
LONGEST_PATTERN, MOST_REPEATS = 80, 3


@dataclass(frozen=True)
class Split:
    """Which images teach and which measure."""

    kind: str  # "given" (separate test images), "held-out", "folds" (too few for one held-out part) or "none"
    support: list[int]  # sorted indices; all of them for "folds" and "none"
    held: list[int]  # sorted indices; none for "folds" and "none"
    folds: list[tuple[list[int], list[int]]]  # (support, held) of each fold, every image held exactly once
    words: str  # one sentence for the page


def draw_support(labels: Sequence[int], shots: int, seed: int) -> list[int]:
    """Sorted indices of up to `shots` images of every class (all of a smaller class). NearlError if shots < 1."""
    if shots < 1:
        raise NearlError(f"The number of images per class must be at least 1, not {shots}.")
    return sorted(int(i) for members in _shuffled(labels, seed) for i in members[:shots])


def hold_out(labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(support, held) sorted indices: about `fraction` of every class is held out.

    Of a class with two images or more at least one is held if fraction > 0; at least one always stays in support
    (our choice). NearlError unless 0 <= fraction < 1.
    """
    if not 0 <= fraction < 1:
        raise NearlError(f"The held-out share must be at least 0 and below 1, not {fraction}.")
    support: list[int] = []
    held: list[int] = []
    for members in _shuffled(labels, seed):
        wanted = max(1, int(fraction * len(members) + 0.5)) if fraction > 0 else 0
        kept = max(1, len(members) - wanted)
        support += [int(i) for i in members[:kept]]
        held += [int(i) for i in members[kept:]]
    return sorted(support), sorted(held)


def plan(
    labels: Sequence[int],
    fraction: float = 0.25,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    duplicates: Sequence[Sequence[int]] = (),
    given: int = 0,
    leaked: Sequence[int] = (),
) -> Split:
    """How a set is measured: on separate test images, else on a held-out part, else in folds, else not at all.

    fraction: how much of every class is held out; 0 holds nothing out. groups: the patient or series of each image, ""
    for a group of its own. duplicates: groups of indices that show the same. A patient or a group of duplicates is
    never on both sides. given: how many separate test images there are; leaked: indices that are also among those,
    which then do not teach. A held-out part needs 4 images of every class and holds at least 2 of each, and at most
    half of a class where whole patients have to move; folds need 3 images or patients of every class (our choice).

    Raises NearlError unless 0 <= fraction < 1 and seed >= 0, if groups and labels differ in length, and if no image of
    a class would be left to teach with.
    """
    if not 0 <= fraction < 1:
        raise NearlError(f"The held-out share must be at least 0 and below 1, not {fraction}.")
    if groups is not None and len(groups) != len(labels):
        raise NearlError(f"There are {len(groups)} patients for {len(labels)} images; give one for each image.")
    everything = list(range(len(labels)))
    if given:
        return _given([{label} for label in labels], given, set(leaked))
    if fraction == 0:
        return Split("none", everything, [], [], "Nothing is kept aside, so the result cannot be measured.")
    if seed < 0:
        raise NearlError(f"The seed must be 0 or more, not {seed}.")
    table, atoms = _atoms(labels, groups, duplicates)
    order = _order(table, seed)
    whose = "no patient and no copy" if groups is not None else "no copy"
    if held := _held_part(table, order, fraction):
        chosen = sorted(i for number in held for i in atoms[number])
        support = sorted(set(everything) - set(chosen))
        words = f"{len(chosen)} of {len(everything)} images, some of every class, are kept aside for testing; "
        return Split("held-out", support, chosen, [], words + f"{whose} is on both sides.")
    if parts := _parts(table, order):
        held_parts = [sorted(i for number in part for i in atoms[number]) for part in parts]
        folds = [(sorted(set(everything) - set(held)), held) for held in held_parts]
        words = (
            f"There are too few images for one held-out part, so the set is tested in {len(folds)} parts, each by a "
            "model that was not trained on it; the model you keep is trained on all of it."
        )
        return Split("folds", everything, [], folds, words)
    lack = "images or patients" if groups is not None else "different images"
    words = f"A class has fewer than {FEWEST_FOLDS} {lack}: too few to keep any aside, so nothing can be measured."
    return Split("none", everything, [], [], words)


def plan_findings(
    labels: Sequence[tuple[int, ...]],
    fraction: float = 0.25,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    duplicates: Sequence[Sequence[int]] = (),
    given: int = 0,
    leaked: Sequence[int] = (),
) -> Split:
    """As `plan`, where an image has any number of findings: the first of `TRIES` random parts that holds at least two
    images of every answer that four or more have, and leaves two to teach with; else the one with most of them.

    labels: of each image the classes it has (`nearl.data.sets.findings.FindingsSet`). There are no folds (our choice).
    """
    if not 0 <= fraction < 1:
        raise NearlError(f"The held-out share must be at least 0 and below 1, not {fraction}.")
    everything = list(range(len(labels)))
    if given:
        return _given([{*label} for label in labels], given, set(leaked))
    if fraction == 0 or len(labels) < 2 * FEWEST:
        return Split("none", everything, [], [], "Nothing is kept aside, so the result cannot be measured.")
    count = 1 + max((c for label in labels for c in label), default=0)
    table = np.zeros((len(labels), count), dtype=int)
    for row, label in zip(table, labels, strict=True):
        row[list(label)] = 1
    wanted, atoms = max(FEWEST_HELD, round(fraction * len(labels))), _together(len(labels), groups, duplicates)
    best: tuple[int, list[int]] = (-1, [])
    for number in range(TRIES):
        draws, held = np.random.PCG64([seed, 7, number]).random_raw(len(atoms)), []
        for atom in np.argsort(draws, kind="stable"):
            held += atoms[atom] if len(held) + len(atoms[atom]) <= wanted else []
        inside = table[held].sum(0)
        left = table.sum(0) - inside
        fine = (np.minimum(inside, left) >= FEWEST_HELD) | (table.sum(0) < FEWEST)
        score = int(fine.sum()) - count * int(((left == 0) & (table.sum(0) > 0)).sum())
        if held and score > best[0]:
            best = score, sorted(held)
        if best[0] == count:
            break
    if not best[1]:
        return Split("none", everything, [], [], "No part can be kept aside, so the result cannot be measured.")
    words = f"{len(best[1])} of {len(labels)} images are kept aside for testing; "
    words += f"{'no patient and no copy' if groups is not None else 'no copy'} is on both sides."
    return Split("held-out", sorted(set(everything) - set(best[1])), best[1], [], words)


def joined(count: int, groups: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
    """Groups of indices below `count`, those that share a member joined; sorted, each with at least two members."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for first, *rest in groups:
        for other in rest:
            parent[root(other)] = root(first)
    found: dict[int, list[int]] = {}
    for i in range(count):
        found.setdefault(root(i), []).append(i)
    return sorted(tuple(group) for group in found.values() if len(group) > 1)


def groups_from_names(names: Sequence[str], pattern: str) -> list[str]:
    """The patient or series of each file from its name; "" where the pattern does not match.

    pattern: a separator such as "_" (the part before the first one is used), or a regular expression with one pair of
    round brackets around the part to use. So that no pattern can run forever, it has at most 80 characters and three
    repeats, none of them of the brackets. NearlError for any other, and for one that matches no name.
    """
    if not 0 < len(pattern) <= LONGEST_PATTERN:
        raise NearlError(f"The pattern for patients must have 1 to {LONGEST_PATTERN} characters; use one such as “_”.")
    if not any(c.isalnum() or c in "()[]\\" for c in pattern):
        found = [name.split(pattern, 1)[0] if pattern in name else "" for name in names]
    else:
        found = [match.group(1) or "" if (match := _compiled(pattern).search(name[:120])) else "" for name in names]
    if not any(found):
        shown = f", such as {base_name(names[0])}" if len(names) else ""
        raise NearlError(f"The pattern “{pattern}” fits none of the file names{shown}; change it or leave it empty.")
    return found


def _compiled(pattern: str) -> re.Pattern:
    repeats = sum(pattern.count(sign) for sign in "*+{")
    if repeats > MOST_REPEATS or re.search(r"\)[*+{]|\(\?", pattern):
        raise NearlError(
            f"The pattern “{pattern}” is too complicated; use a separator such as “_” or a plain expression."
        )
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        raise NearlError(
            f"The pattern “{pattern}” is not a regular expression; use one such as “^([0-9]+)_”."
        ) from None
    if compiled.groups != 1:
        raise NearlError(f"The pattern “{pattern}” needs one pair of round brackets around the patient's part.")
    return compiled


def _given(labels: Sequence[set[int]], given: int, leaked: set[int]) -> Split:
    support = [i for i in range(len(labels)) if i not in leaked]
    if set().union(*(labels[i] for i in support)) != set().union(*labels):
        raise NearlError("Every image of a class is also among the test images; take them out of one of the two.")
    words = f"{given} separate test images are used for testing, and none of them for teaching"
    if leaked:
        words += f" ({len(leaked)} of the images to teach with are also among them and are left out)"
    return Split("given", support, [], [], words + ".")


def _atoms(
    labels: Sequence[int], groups: Sequence[str] | None, duplicates: Sequence[Sequence[int]]
) -> tuple[np.ndarray, list[list[int]]]:
    """(images of each class [A, C], members of each atom): an atom is a group that must stay on one side."""
    atoms = _together(len(labels), groups, duplicates)
    kinds, numbers = np.unique(np.asarray(labels, dtype=np.int64), return_inverse=True)
    table = np.zeros((len(atoms), len(kinds)), np.int64)
    for row, members in enumerate(atoms):
        np.add.at(table[row], numbers[members], 1)
    return table, atoms


def _together(count: int, groups: Sequence[str] | None, duplicates: Sequence[Sequence[int]]) -> list[list[int]]:
    """The atoms of so many images: those of one patient, and copies; sorted."""
    same: dict[str, list[int]] = {}
    for i, group in enumerate(groups or ()):
        if group:
            same.setdefault(group, []).append(i)
    tied = joined(count, [*same.values(), *duplicates])
    alone = set(range(count)).difference(*tied)
    return sorted([list(group) for group in tied] + [[i] for i in alone])


def _order(table: np.ndarray, seed: int) -> list[tuple[int, np.ndarray]]:
    """(class, the atoms with images of it in a seeded order) of every class, the smallest class first."""
    order = []
    for kind in np.argsort(table.sum(axis=0), kind="stable"):
        members = np.flatnonzero(table[:, kind])
        draws = np.random.PCG64([seed, int(kind)]).random_raw(len(members))
        order.append(
            (int(kind), members[np.argsort(draws, kind="stable")][::-1])
        )  # reversed: as in hold_out, the first ones stay in support
    return order


def _held_part(table: np.ndarray, order: list[tuple[int, np.ndarray]], fraction: float) -> list[int]:
    """The atoms of a held-out part; none where a class is too small for one or cannot be divided."""
    sizes = table.sum(axis=0)
    if not len(sizes) or sizes.min() < FEWEST:
        return []
    wanted = np.clip(np.floor(fraction * sizes + 0.5), FEWEST_HELD, sizes - FEWEST_HELD)
    held, count = [], np.zeros(len(sizes))
    for limit, enough in ((wanted, wanted), (np.maximum(wanted, sizes // 2), np.full(len(sizes), FEWEST_HELD))):
        for kind, members in order:  # first without exceeding the fraction, then with patients that exceed it
            for number in members:
                if count[kind] >= enough[kind]:
                    break
                if number not in held and np.all(count + table[number] <= limit):
                    held.append(int(number))
                    count += table[number]
    return held if np.all(count >= FEWEST_HELD) else []


def _parts(table: np.ndarray, order: list[tuple[int, np.ndarray]]) -> list[list[int]]:
    """The atoms of each fold, every class spread evenly; none where a class has too few."""
    folds = min([MOST_FOLDS, *(len(members) for _, members in order)])
    if not order or folds < FEWEST_FOLDS:
        return []
    parts: list[list[int]] = [[] for _ in range(folds)]
    count = np.zeros((folds, table.shape[1]), np.int64)
    placed: set[int] = set()
    for kind, members in order:
        for number in sorted(members, key=lambda number: -table[number, kind]):  # large atoms first
            if number not in placed:
                place = min(range(folds), key=lambda part: (count[part, kind], count[part].sum()))
                placed.add(number)
                parts[place].append(int(number))
                count[place] += table[number]
    teaches = table.sum(axis=0) - count
    return parts if all(parts) and np.all(teaches > 0) else []


def _shuffled(labels: Sequence[int], seed: int) -> list[np.ndarray]:
    """Indices of every class that occurs, in a seeded order. NearlError for a negative seed."""
    if seed < 0:
        raise NearlError(f"The seed must be 0 or more, not {seed}.")
    array = np.asarray(labels, dtype=np.int64)
    order = []
    for label in np.unique(array):
        members = np.flatnonzero(array == label)
        draws = np.random.PCG64([seed, int(label)]).random_raw(len(members))
        order.append(members[np.argsort(draws, kind="stable")])
    return order
