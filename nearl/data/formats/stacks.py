"""From slices to volumes: which slices of a series belong together, in which order, and where they lie in their plane.

A series may hold several volumes: other directions, pixel sizes or kinds of image, several moments, acquisitions that
interleave. Slices are grouped by what the files say, as far as their positions bear it out: a field that would tear
every volume to pieces is not believed. Nothing here knows a file format.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from nearl.data.formats.windows import Window

PARALLEL = 1e-3  # directions that differ by less are the same
SAME_PLACE = 0.01  # mm; positions along the normal that differ by less are the same
SAME_SIZE = 0.002  # relative; pixels whose sizes differ by less are the same

# What may tell volumes at the same place apart, with its name for people; exact values, the most telling first.
LABELS = {
    "temporal position": "temporal position", "cardiac phase": "cardiac phase", "breathing phase": "breathing phase",
    "b-value": "b-value", "direction": "diffusion direction", "echo": "echo time", "inversion": "inversion time",
    "flip": "flip angle", "energy": "tube voltage", "kernel": "reconstruction kernel",
    "acquisition": "acquisition number",
}  # fmt: skip
CROSSING = (  # those of LABELS that may tell apart volumes whose slices lie between those of each other
    "temporal position", "cardiac phase", "breathing phase", "b-value", "echo", "energy", "kernel", "acquisition",
)  # fmt: skip
MOMENTS = ("temporal position", "cardiac phase", "breathing phase", "trigger", "reference")  # also of a single place
TIMES = ("trigger", "reference", "acquired", "content")  # may differ a little from slice to slice
NUMBER = "number"  # of the image in its series
CROSSED = "The slices belong to {} volumes that interleave and differ in {}; each is an image of its own."
UNSURE = (
    "Some positions occur more than once and nothing in the files says which slices belong together; "
    "they are in the order in which the files come."
)


@dataclass
class Plane:
    """Where one frame lies and how its numbers are meant."""

    position: np.ndarray | None  # of the first pixel in the patient, in mm
    right: np.ndarray | None  # unit direction of growing column numbers
    down: np.ndarray | None  # unit direction of growing row numbers
    spacing: tuple[float | None, float | None]  # mm between rows and between columns
    slope: float = 1.0
    intercept: float = 0.0
    windows: tuple[Window, ...] = ()
    keys: dict[str, Hashable] = field(default_factory=dict)  # of LABELS, TIMES and NUMBER, as far as they are known
    traits: dict[str, Hashable] = field(default_factory=dict)  # what all slices of a volume have in common, by name
    order: float | None = None  # stands in for the depth where the position is unknown (`unplaced`)
    ordered_by: str = ""  # the key that `order` was taken from

    @property
    def normal(self) -> np.ndarray | None:
        return None if self.right is None else np.cross(self.right, self.down)

    @property
    def depth(self) -> float | None:
        """The position along the normal in mm, or `order`."""
        if self.position is None or self.right is None:
            return self.order
        return float(self.position @ self.normal)


@dataclass(eq=False)
class Slice:
    """One frame of one file. `place`, the number of its position among those of its group, is found by `stacks`."""

    owner: object  # what it is decoded from
    number: int  # which frame of its file
    plane: Plane
    place: int = 0


@dataclass
class Stack:
    """Slices that form one image."""

    rows: list[list[Slice]]  # [moment][slice], by position
    notes: list[str] = field(default_factory=list)
    sure: bool = True  # False: nothing says which of several slices at one place belong together

    @property
    def members(self) -> list[Slice]:
        return [member for row in self.rows for member in row]


def stacks(slices: Sequence[Slice]) -> list[Stack]:
    """The volumes that slices of one series form, each with notes on why it is one of several.

    Slices need a depth. What differs in direction, pixel size or traits is never in one volume.
    """
    parts, reasons = _alike(slices)
    found = []
    for part in parts:
        _find_places(part)
        found += _volumes(part)
    if len(parts) > 1:
        words = f"This series has {len(parts)} parts that differ in {_listed(reasons)}; each is an image of its own."
        for stack in found:
            if len(stack.members) > 1:
                stack.notes.insert(0, words)
    return found


def by_places(moments: Iterable[list[Slice]]) -> list[list[list[Slice]]]:
    """Moments grouped by the places that they cover, those that cover most first; the slices of each by place."""
    found: dict[tuple[int, ...], list[list[Slice]]] = {}
    for moment in moments:
        moment = sorted(moment, key=lambda member: member.place)
        if moment:
            found.setdefault(tuple(member.place for member in moment), []).append(moment)
    return sorted(found.values(), key=lambda rows: -len(rows) * len(rows[0]))


# ---- what is alike


def _alike(slices: Sequence[Slice]) -> tuple[list[list[Slice]], list[str]]:
    """(slices grouped by direction, pixel size and traits, what the groups differ in)."""

    def direction(member: Slice) -> list[float]:
        known = member.plane.right is not None
        return [*member.plane.right, *member.plane.down] if known else [0.0] * 6

    def size(member: Slice) -> list[float]:
        return [np.log(length) if length else 0.0 for length in member.plane.spacing]

    groups, reasons = [list(slices)], []
    for name, near, tolerance in (("direction", direction, PARALLEL), ("pixel spacing", size, SAME_SIZE)):
        parts = [part for group in groups for part in _near(group, near, tolerance)]
        reasons += [name] if len(parts) > len(groups) else []
        groups = parts
    for name in dict.fromkeys(name for member in slices for name in member.plane.traits):
        parts = []
        for group in groups:
            split = _by(group, lambda member, name=name: member.plane.traits.get(name))
            parts += split if 2 * len(split) <= len(group) else [group]  # a value for every slice tells nothing
        reasons += [name] if len(parts) > len(groups) else []
        groups = parts
    return groups, reasons


def _near(group: list[Slice], vector: Callable[[Slice], list[float]], tolerance: float) -> list[list[Slice]]:
    """The group split where vectors differ by more than a tolerance from the first of their kind."""
    vectors = np.array([vector(member) for member in group])
    left, found = np.ones(len(group), bool), []
    while left.any():
        near = left & (np.abs(vectors - vectors[left.argmax()]).max(axis=1) <= tolerance)
        found.append([member for member, is_near in zip(group, near, strict=True) if is_near])
        left &= ~near
    return found


def _by(group: Iterable[Slice], key: Callable[[Slice], Hashable]) -> list[list[Slice]]:
    """The group split by a key, in the order of the key where it has one, else as they come."""
    found: dict[Hashable, list[Slice]] = {}
    for member in group:
        found.setdefault(key(member), []).append(member)
    try:
        return [found[value] for value in sorted(found, key=lambda value: (value is not None, value))]
    except TypeError:
        return list(found.values())


def _find_places(group: list[Slice]) -> None:
    """Number the positions of a group along its normal."""
    last, place = None, -1
    for member in sorted(group, key=lambda member: member.plane.depth):
        if last is None or member.plane.depth - last > SAME_PLACE:
            place, last = place + 1, member.plane.depth
        member.place = place


# ---- volumes and moments


def _volumes(group: list[Slice]) -> list[Stack]:
    """The volumes of slices that are alike in everything but place and moment."""
    by: list[str] = []
    moments, sure = _moments(group, by)
    buckets, places = by_places(moments), len({member.place for member in group})
    if places == 1 and not (by and set(by) <= set(MOMENTS)):  # one place is no volume, and only moments are a film
        return [Stack([[member]]) for member in group]
    found = [Stack(rows, sure=sure) for rows in buckets]
    differ = _listed({**LABELS, "acquired": "acquisition time"}[name] for name in by if name not in TIMES[:2])
    for stack in found:
        if _most(group) == 1 and len(buckets) > 1:
            stack.notes.append(CROSSED.format(len(moments), differ))
        elif not sure:
            stack.notes.append(UNSURE)
        elif len(buckets) > 1:
            stack.notes.append(_lacking(stack, moments, places))
        if len(stack.rows) > 1 and set(by) & (set(LABELS) - set(MOMENTS)):
            stack.notes.append(f"There are {len(stack.rows)} images of every slice, which differ in {differ}.")
    if len(found) == 1:
        found[0].notes += _acquisitions(group)
    return found


def _lacking(stack: Stack, moments: list[list[Slice]], places: int) -> str:
    """What to say of some of the moments of a series, not all of which have all slices."""
    count = len(stack.rows[0])
    if count == places:
        apart = len(moments) - len(stack.rows)
        return f"Moments that lack slices ({apart} of {len(moments)}) are images of their own."
    which = [i + 1 for i, moment in enumerate(moments) if any(row[0] in moment for row in stack.rows)]
    one = len(which) == 1
    numbers, lacking = _listed(map(str, which)), f"{places - count} of {places} slices"
    if one:
        return f"Moment {numbers} of {len(moments)} lacks {lacking} and is an image of its own."
    return f"Moments {numbers} of {len(moments)} lack {lacking} and are images of their own."


def _most(group: Iterable[Slice]) -> int:
    """The largest number of slices at one place."""
    places = [member.place for member in group]
    return int(np.bincount(places).max()) if places else 0


def _moments(group: list[Slice], by: list[str]) -> tuple[list[list[Slice]], bool]:
    """(slices of one moment each, whether the files say so). The names of what tells them apart are added to `by`."""
    if _most(group) == 1:
        for name in (*CROSSING, "acquired"):
            parts = _by(group, lambda member, name=name: member.plane.keys.get(name))
            if _interleave(parts, name):
                by.append(name)
                return [moment for part in parts for moment in _moments(part, by)[0]], True
        return [group], True
    for name in (*LABELS, *TIMES):
        parts = _by(group, lambda member, name=name: member.plane.keys.get(name))
        if _divides(group, parts):
            by.append(name)
            found = [_moments(part, by) for part in parts]
            return [moment for moments, _ in found for moment in moments], all(sure for _, sure in found)
    for assign in (_by_ranges, _by_ranks):
        for name in (*TIMES, NUMBER):
            moments = assign(group, name)
            if moments is not None:
                return moments, True
    layers: list[list[Slice]] = []
    seen: dict[int, int] = {}
    for member in sorted(group, key=lambda member: member.plane.keys.get(NUMBER) or 0.0):
        layer = seen[member.place] = seen.get(member.place, -1) + 1
        layers += [[]] if layer == len(layers) else []
        layers[layer].append(member)
    return layers, False


def _interleave(parts: list[list[Slice]], name: str) -> bool:
    """Whether the parts, none at the place of another, are volumes whose slices lie between those of each other."""
    if len(parts) < 2 or min(map(len, parts)) < 2:
        return False
    if name == "acquired" and not (len(parts) <= 3 and all(part[0].plane.keys.get("steady") for part in parts)):
        return False  # slices of one MR volume are often acquired in turns
    ranges = sorted((min(m.place for m in part), max(m.place for m in part)) for part in parts)
    return any(low < end for (_, end), (low, _) in pairwise(ranges))


def _divides(group: list[Slice], parts: list[list[Slice]]) -> bool:
    """Whether parts of slices that share places are closer to volumes: fewer at a place, and most places in each."""
    if len(parts) < 2:
        return False
    most, places = _most(group), len({member.place for member in group})
    covered = np.mean([len({member.place for member in part}) for part in parts])
    return max(map(_most, parts)) < most and covered >= max(min(2, places), places / 2)


def _columns(group: list[Slice], name: str) -> dict[int, list[Slice]] | None:
    """The slices at each place in the order of a key. None if a slice lacks it, or two at one place have the same."""
    columns: dict[int, list[Slice]] = {}
    for member in group:
        if not isinstance(member.plane.keys.get(name), float):
            return None
        columns.setdefault(member.place, []).append(member)
    for column in columns.values():
        column.sort(key=lambda member: member.plane.keys[name])
        values = [member.plane.keys[name] for member in column]
        if any(a == b for a, b in pairwise(values)):
            return None
    return columns


def _by_ranges(group: list[Slice], name: str) -> list[list[Slice]] | None:
    """Moments that follow one another in a key: what the places that have all of them agree on. None if they do not."""
    columns, most = _columns(group, name), _most(group)
    if columns is None:
        return None
    full = [column for column in columns.values() if len(column) == most]
    if len(full) < max(min(2, len(columns)), len(columns) / 2):
        return None
    values = np.array([[member.plane.keys[name] for member in column] for column in full])  # [places, moments]
    if (values.max(axis=0)[:-1] >= values.min(axis=0)[1:]).any():
        return None
    moments = [[column[i] for column in full] for i in range(most)]
    depths = np.array([column[0].place for column in full])
    lines = [np.polyfit(depths, values[:, i], 1) if len(full) > 1 else [0, values[0, i]] for i in range(most)]
    for column in columns.values():
        if len(column) == most:
            continue
        taken = set()
        for member in column:
            off = [abs(np.polyval(line, member.place) - member.plane.keys[name]) for line in lines]
            moment = int(np.argmin(off))
            if moment in taken:
                return None
            taken.add(moment)
            moments[moment].append(member)
    return moments


def _by_ranks(group: list[Slice], name: str) -> list[list[Slice]] | None:
    """Moments by the order of a key at each place, where every place has all of them. None otherwise."""
    columns, most = _columns(group, name), _most(group)
    if columns is None or any(len(column) != most for column in columns.values()):
        return None
    return [[column[i] for column in columns.values()] for i in range(most)]


def _acquisitions(group: list[Slice]) -> list[str]:
    """What to say of a volume whose slices come from several acquisitions that follow one another."""
    parts = _by(group, lambda member: member.plane.keys.get("acquisition"))
    if not 2 <= len(parts) <= 4 or min(map(len, parts)) < 3 or _most(group) > 1:
        return []
    return [f"The slices come from {len(parts)} acquisitions that follow one another in space."]


def _listed(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""


# ---- within the plane


def shifts(stack: Stack) -> np.ndarray | None:
    """By how many whole pixels (rows, columns) each slice lies off the first corner of all, int [T, K, 2].

    None where positions within the plane, or the size of a pixel, are unknown.
    """
    middle = stack.rows[0][len(stack.rows[0]) // 2].plane
    if middle.right is None or not all(middle.spacing) or any(m.plane.position is None for m in stack.members):
        return None
    corners = np.array([[m.plane.position for m in row] for row in stack.rows])  # [T, K, 3]
    off = np.stack([corners @ middle.down / middle.spacing[0], corners @ middle.right / middle.spacing[1]], axis=-1)
    off -= off.reshape(-1, 2).min(axis=0)
    return np.floor(off + 0.5).astype(np.int64)
