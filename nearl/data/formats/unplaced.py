"""The order of slices whose files do not say where they lie: by slice location, else by the number of the image."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from nearl.data.formats.stacks import CROSSING, NUMBER, Plane

SLICED = ("CT", "MR", "PT")  # modalities of which the images of one series are slices, not views
LOCATION = "location"  # key of a plane: where its slice lies by the file's own count, in mm
BY = {LOCATION: "slice location", NUMBER: "image number"}
ORDERED = (
    "The files do not say where the slices lie: they are in the order of their {}, and how far apart they are is "
    "unknown."
)


def put_in_order(planes: Sequence[Plane]) -> bool:
    """Set `order` of single slices without a position; False where the files say nothing of it, or not of all."""
    for name in (LOCATION, NUMBER):
        values = [plane.keys.get(name) for plane in planes]
        if any(not isinstance(value, float) for value in values) or len(set(values)) < 2:
            continue
        if name == NUMBER and len(set(values)) < len(values) and not _numbered_by_moment(planes):
            continue
        for plane, value in zip(planes, values, strict=True):
            plane.order, plane.ordered_by = value, name
        if name == NUMBER:
            _count_by_moment(planes)
        return True
    return False


def _by(planes: Sequence[Plane], name: str) -> dict[Hashable, list[Plane]]:
    moments: dict[Hashable, list[Plane]] = {}
    for plane in planes:
        moments.setdefault(plane.keys.get(name), []).append(plane)
    return moments


def _numbered_by_moment(planes: Sequence[Plane]) -> bool:
    """Whether numbers begin again in every moment, by one of the keys that tell moments apart."""
    found = [_by(planes, name).values() for name in CROSSING]
    return any(
        all(len({plane.keys[NUMBER] for plane in moment}) == len(moment) > 1 for moment in moments) for moments in found
    )


def _count_by_moment(planes: Sequence[Plane]) -> None:
    """Numbers run on from moment to moment: where moments of one size are known, count within each."""
    for name in CROSSING:
        moments = _by(planes, name)
        sizes = {len(moment) for moment in moments.values()}
        if len(moments) > 1 and len(sizes) == 1 and sizes != {1}:
            for moment in moments.values():
                for rank, plane in enumerate(sorted(moment, key=lambda plane: plane.order)):
                    plane.order = float(rank)
            return
