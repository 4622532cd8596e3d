"""An image as the rest of the project sees it: checked pixels and, for a scan, the numbers behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from nearl.data.formats.volume import Scan, View
from nearl.data.formats.windows import THREE_CT

SYNTHETIC = "Synthetic."  # the note of a phantom
STUDY_SLICES = 32  # of a volume that is taught or read whole (our choice)
STUDY_SIDE = 256  # pixels of such a slice, at most (our choice)


class Problem(NamedTuple):
    """Something that was left out."""

    name: str  # of the file, entry or class
    reason: str  # the whole sentence to show; it contains the name


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One decoded image: what is shown and what the model sees."""

    name: str  # base name of the file, to show to whoever brought it; never written anywhere
    pixels: np.ndarray = field(repr=False)  # uint8 [H, W, 3] RGB, read-only
    digest: str  # SHA-256 (hex) of shape and pixels; equal images share cached features
    notes: tuple[str, ...] = ()  # what decoding changed and what to check, in sentences
    scan: Scan | None = field(default=None, repr=False)  # the numbers behind the pixels; None for a still image
    view: View | None = None  # which part of the scan is shown
    max_side: int | None = None  # scans are drawn at most so many pixels long
    stack: tuple[ImageRecord, ...] = field(default=(), repr=False)  # the still slices of a whole study, in order

    @classmethod
    def from_pixels(cls, name: str, pixels: np.ndarray, notes: Iterable[str] = ()) -> ImageRecord:
        """A still image of uint8 [H, W, 3] pixels, which are copied only if they are not contiguous."""
        pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
        pixels.setflags(write=False)
        digest = hashlib.sha256(repr(pixels.shape).encode())
        digest.update(pixels)
        return cls(name, pixels, digest.hexdigest(), tuple(notes))

    @classmethod
    def from_scan(cls, name: str, scan: Scan, view: View | None = None, max_side: int | None = None) -> ImageRecord:
        """A view of a scan (default: its middle slice in its first window), at most max_side pixels long."""
        view = scan.default_view() if view is None else scan.checked(view)
        record = cls.from_pixels(name, scan.render(view, max_side), scan.notes)
        return replace(record, scan=scan, view=view, max_side=max_side)

    @classmethod
    def of_slices(cls, name: str, slices: Iterable[ImageRecord], notes: Iterable[str] = ()) -> ImageRecord:
        """A study of still slices in order, which a method may read as a whole; shown is the middle one."""
        stack = tuple(slices)
        digest = hashlib.sha256("".join(part.digest for part in stack).encode()).hexdigest()
        return cls(name, stack[len(stack) // 2].pixels, digest, tuple(notes), stack=stack)

    @property
    def parts(self) -> tuple[ImageRecord, ...]:
        """The slices of a study; any other image is its only part."""
        return self.stack or (self,)

    def study(self, most: int = STUDY_SLICES) -> ImageRecord:
        """The volume as a study of at most `most` still slices, evenly spaced: axial ones where it has them, a CT in
        the windows for lung, mediastinum and bone at once. Where there is one slice, a still image."""
        whole = self if self.scan is None else self.from_scan(self.name, self.scan, self.study_view, STUDY_SIDE)
        total = whole.slices()
        if total == 1:
            return self.still()
        count = min(total, most)
        numbers = [(2 * i + 1) * total // (2 * count) for i in range(count)]
        said = [f"{count} of {total} slices are read."] if count < total else []
        if self.moments > 1:
            said.append(f"Only moment {whole.view.frame + 1} of {self.moments} is read.")
        slices = [whole.slice_at(n) for n in numbers]
        if empty := sum(part._is_empty for part in slices):
            said.append(f"In {empty} of {count} slices no value is a number; they are read as empty.")
        return self.of_slices(self.name, (part.as_shown() for part in slices), (*self.notes, *said))

    @property
    def study_view(self) -> View | None:
        """How `study` draws its slices, whichever of them this record shows; None for a still image."""
        if self.scan is None or self.view is None:
            return None
        plane = "axial" if "axial" in self.scan.planes else self.view.plane
        window = THREE_CT if self.scan.modality == "CT" else self.view.window
        film = self.scan.slices(plane) == 1
        return replace(self.view, plane=plane, window=window, index=0, frame=0 if film else self.view.frame)

    @property
    def _is_empty(self) -> bool:
        """Whether no value that is shown is a number."""
        if self.scan is None or not np.issubdtype(self.scan.voxels.dtype, np.floating):
            return False
        return not np.isfinite(self.scan.values(self.view.plane, self.view.index, self.view.frame)).any()

    def noted(self, notes: Iterable[str]) -> ImageRecord:
        """The same image with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def as_shown(self) -> ImageRecord:
        """The pixels that are shown and which part of the scan they are, without the scan."""
        return ImageRecord(self.name, self.pixels, self.digest, view=self.view)

    def at(self, **changes) -> ImageRecord:
        """Another view of the same scan: fields of View by name. A still image is returned as it is."""
        if self.scan is None:
            return self
        return self.from_scan(self.name, self.scan, replace(self.view, **changes), self.max_side)

    def still(self) -> ImageRecord:
        """What is shown now as a still image, without the scan behind it."""
        if self.scan is None:
            return self
        count = self.slices()
        moment = f", at moment {self.view.frame + 1} of {self.moments}" if self.moments > 1 else ""
        words = f"Only number {self.slice_number + 1} of {count} slices or frames{moment} is used."
        part = (words,) if count > 1 else ()
        return ImageRecord(self.name, self.pixels, self.digest, (*self.notes, *part))

    def slices(self) -> int:
        """How many images the slider steps through: slices of the plane or frames of a film; 1 for a still image."""
        if self.scan is None:
            return 1
        count = self.scan.slices(self.view.plane)
        return count if count > 1 else self.scan.frames

    def slice_at(self, number: int) -> ImageRecord:
        """Number `number` of the images that `slices` counts."""
        film = self.scan is not None and self.scan.slices(self.view.plane) == 1
        return self.at(frame=number) if film else self.at(index=number)

    @property
    def moments(self) -> int:
        """How many moments each of its slices has; 1 for a film, whose moments are what `slices` counts."""
        return self.scan.frames if self.scan is not None and self.scan.slices(self.view.plane) > 1 else 1

    @property
    def slice_number(self) -> int:
        """Which of its `slices` is shown."""
        if self.scan is None:
            return 0
        return self.view.frame if self.scan.slices(self.view.plane) == 1 else self.view.index

    @property
    def letters(self) -> dict[str, str]:
        """The patient's sides at the "left", "right", "top" and "bottom" of the image; empty where unknown."""
        return {} if self.scan is None else self.scan.letters(self.view.plane)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def hounsfield(self) -> np.ndarray | None:
        """Of a CT the values of what is shown, float32 [h, w], before they were scaled to square pixels; None for other
        images. What is no number counts as air."""
        if self.scan is None or self.scan.modality != "CT" or self.scan.colour:
            return None
        values = self.scan.values(self.view.plane, self.view.index, self.view.frame)
        return np.nan_to_num(values, nan=-1000.0).astype(np.float32)

    def image(self) -> Image.Image:
        """A PIL image of mode RGB."""
        return Image.fromarray(self.pixels)


def base_name(name: str) -> str:
    """The last part of a Windows or POSIX path, without control characters and at most 120 characters long."""
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable())[-120:] or "image"
