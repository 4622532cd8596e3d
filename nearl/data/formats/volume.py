"""A decoded scan: stored numbers with their physical meaning, their position in the patient, and how to draw them.

Directions and positions are DICOM's: millimetres in the patient, +x to the left (L), +y to the back (P), +z to the
head (H). Shapes: T moments, K slices, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import permutations

import numpy as np
from PIL import Image

from nearl.data.formats.windows import (
    MODALITY_PRESETS,
    PRESETS,
    Table,
    Window,
    auto_window,
    leaves_little,
    looks_like_ct,
    to_grey,
)  # fmt: skip

# Each plane as it is usually displayed: (patient axis, sign) of growing slice number, of down and of right.
PLANES = {
    "axial": ((2, 1), (1, 1), (0, 1)),  # slices from the feet up; back at the bottom, the patient's left at the right
    "coronal": ((1, 1), (2, -1), (0, 1)),  # slices from front to back; head at the top
    "sagittal": ((0, 1), (2, -1), (1, 1)),  # slices from right to left; head at the top, front at the left
}
ACQUIRED = "acquired"
LETTERS = ("LR", "PA", "HF")
OPPOSITE = dict(zip("LRPAHF", "RLAPFH", strict=True))
MIN_SIDE = 16  # pixels; smaller images show nothing (our choice)
SECOND_LETTER = 0.3  # an oblique direction gets a second letter from this cosine on (our choice)
MAX_PIXEL_ASPECT = 20.0  # a larger ratio is taken for an error in the file
SAMPLE = 400_000  # values that the automatic window is computed from
JUDGED = 40_000  # of them, that a window is judged by
NO_AIR = -200  # a CT whose values are all above has no air in it, so they are no Hounsfield units (our choice)
OFF_VALUES = (1, 99)  # percentiles of the other values between which a padding value is not believed (our choice)
UNTOLD = ("", "OT", "SC")  # modalities that do not say what the values are
HOUNSFIELD = "The values look like Hounsfield units, so the windows for CT are offered."
NO_NUMBERS = "No value of this scan is a number, so there is nothing to see."
FLAT = "Every value of this scan is the same, so there is nothing to see."
NOT_BELIEVED = (
    "The {} of the file leaves almost nothing to see of these values, so the automatic window comes first; "
    "that of the file is still offered."
)


@dataclass(frozen=True)
class View:
    """What is shown of a scan."""

    plane: str  # a key of PLANES, or ACQUIRED
    index: int  # slice of that plane
    frame: int = 0  # moment
    window: Window | tuple[Window, Window, Window] | None = None  # three are shown as red, green and blue
    invert: bool = False


def letters_of(direction: np.ndarray) -> str:
    """The sides of the patient that a unit direction points to, nearest first: "L", "LP"."""
    order = np.argsort(-np.abs(direction), kind="stable")[:2]
    keep = [i for n, i in enumerate(order) if n == 0 or abs(direction[i]) >= SECOND_LETTER]
    return "".join(LETTERS[i][0 if direction[i] > 0 else 1] for i in keep)


def opposite(letters: str) -> str:
    return "".join(OPPOSITE.get(letter, "") for letter in letters)


@dataclass(frozen=True, eq=False)
class Scan:
    """Everything that is kept of a medical file."""

    voxels: np.ndarray = field(repr=False)  # stored numbers [T, K, H, W] or uint8 colour [T, K, H, W, 3]; read-only
    slope: np.ndarray = field(repr=False)  # float64 [T, K]; a physical value is stored * slope + intercept
    intercept: np.ndarray = field(repr=False)
    modality: str = ""  # "CT", "MR"...; "" if unknown
    spacing: tuple[float | None, float | None, float | None] = (None, None, None)  # mm between slices, rows, columns
    axes: np.ndarray | None = None  # float64 [3, 3]: unit directions of growing slice, row and column number
    oriented: bool = True  # False: the axes are only the customary ones
    aspect: float = 1.0  # height of a pixel in widths, where the spacing is unknown
    sides: tuple[str, str] | None = None  # letters at the right and at the bottom of a projection
    windows: tuple[Window, ...] = ()  # those of the file
    table: Table | None = None
    whites_low: bool = False  # low values are white (MONOCHROME1)
    padding: tuple[float, float] | None = None  # least and greatest stored value that mean "outside"
    full_range: float | None = None  # the largest possible value of 8-bit grey
    facts: dict[str, str | int | float] = field(default_factory=dict)  # whitelisted technical facts
    notes: tuple[str, ...] = ()  # sentences for people

    @property
    def colour(self) -> bool:
        return self.voxels.ndim == 5

    @property
    def frames(self) -> int:
        """How many moments: frames of a film, volumes of a 4-D series."""
        return self.voxels.shape[0]

    @property
    def planes(self) -> tuple[str, ...]:
        """The planes that can be shown: those of PLANES if the position in the patient is known, else ACQUIRED."""
        if self.axes is None:
            return (ACQUIRED,)
        sides = self.voxels.shape[1:4]
        whole = sides[0] > 1 and all(self.spacing)
        found = []
        for plane in PLANES:
            (axis, _), (down, _), (right, _) = self._layout(plane)
            if (whole or axis == 0) and min(sides[down], sides[right]) >= MIN_SIDE:
                found.append(plane)
        return tuple(found) or (ACQUIRED,)

    def slices(self, plane: str) -> int:
        """How many slices a plane has."""
        return self.voxels.shape[1 + self._layout(plane)[0][0]]

    def default_plane(self) -> str:
        """The plane in which the slices were acquired, if it can be shown."""
        return next((plane for plane in self.planes if self._layout(plane)[0][0] == 0), self.planes[0])

    def default_view(self) -> View:
        """The middle slice, or the first frame, in the first of `presets`."""
        plane = self.default_plane()
        return View(plane, self.slices(plane) // 2, 0, self.presets()[0] if self.presets() else None)

    def presets(self) -> tuple[Window, ...]:
        """The windows to offer, the default first; empty for colour."""
        if self.colour:
            return ()
        own = self._own()
        named = [PRESETS[name] for name in MODALITY_PRESETS.get(self.modality, ())]
        if not own and named:
            own.append(PRESETS["abdomen"])
        named = [window for window in named if window not in own]
        auto = self.auto()
        if own and self.doubtful:
            return (auto, *own, *named)
        return (*own, *named, auto)

    def _own(self) -> list[Window]:
        """The windows that the file brings, the default first."""
        own = list(self.windows)
        if self.table is not None:
            own.insert(0, Window("As stored in the file", 0, 1, "TABLE"))
        if self.full_range is not None:
            own.append(Window("Full range", self.full_range / 2, self.full_range))
        return own

    @cached_property
    def doubtful(self) -> bool:
        """Whether the window that would come first leaves almost nothing to see, so that another one comes first."""
        if self.colour:
            return False
        own = self._own()
        if not own and self.modality == "CT":  # the usual window, unless the values are no Hounsfield units
            own = [PRESETS["abdomen"]]
            if self._sample.size and np.nanmin(self._sample) > NO_AIR:
                return True
        few = self._sample[:: max(1, self._sample.size // JUDGED)]
        return bool(own) and leaves_little(few, own[0], self.auto(), self.table)

    @property
    def _flat(self) -> bool:
        """Whether no two of its values differ, padding included."""
        if self.colour or not self._sample.size or self._sample.min() != self._sample.max():
            return False
        return bool(self.voxels.min() == self.voxels.max())

    def settled(self) -> Scan:
        """The same scan with what its values say: that it is a CT, or that a window of the file shows almost nothing.

        Both are said in its notes.
        """
        scan = self
        if self.modality in UNTOLD and not self.colour and looks_like_ct(self._sample):
            scan = replace(self, modality="CT", notes=(*self.notes, HOUNSFIELD))
        if not self.colour and not np.isfinite(self._sample).any():
            return replace(scan, notes=(*scan.notes, NO_NUMBERS))
        if scan._flat:
            return replace(scan, notes=(*scan.notes, FLAT))
        if not scan.doubtful or not (own := scan._own()):
            return scan
        what = "display table" if own[0].function == "TABLE" else "window"
        return replace(scan, notes=(*scan.notes, NOT_BELIEVED.format(what)))

    def auto(self) -> Window:
        """The automatic window, the same for all slices: from percentiles of a sample of the whole scan."""
        return self._auto

    @cached_property
    def _auto(self) -> Window:
        return auto_window(self._sample)

    @cached_property
    def _sample(self) -> np.ndarray:
        """Physical values of pixels all over the scan, without padding, each slice by its own scale."""
        slices = self.voxels.reshape(self.slope.size, -1)
        step = max(1, self.voxels.size // SAMPLE) | 1  # odd, so that it seldom divides the width
        stored = slices[:, ::step].astype(np.float64)
        values = stored * self.slope.reshape(-1, 1) + self.intercept.reshape(-1, 1)
        return values[~self._outside(stored)] if self._pads else values.reshape(-1)

    def _outside(self, stored: np.ndarray) -> np.ndarray:
        """Where stored values are padding."""
        return (stored >= self.padding[0]) & (stored <= self.padding[1])

    @cached_property
    def _pads(self) -> bool:
        """Whether the padding is believed: it is where hardly any other value is, not among them."""
        if self.padding is None or self.colour:
            return False
        stored = self.voxels.reshape(-1)[:: max(1, self.voxels.size // SAMPLE) | 1].astype(np.float64)
        others = stored[~self._outside(stored)]
        if not others.size:
            return False
        low, high = np.percentile(others, OFF_VALUES)
        return self.padding[1] <= low or self.padding[0] >= high

    def values(self, plane: str, index: int, frame: int = 0) -> np.ndarray:
        """One slice as it is displayed: float64 [h, w] in physical units, or uint8 [h, w, 3].

        Raises IndexError if there is no such slice.
        """
        stored, slope, intercept = self._cut(plane, index, frame)
        return stored if self.colour else stored.astype(np.float64) * slope + intercept

    def _cut(self, plane: str, index: int, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(stored numbers, slope, intercept) of one slice as it is displayed, each [h, w], or [h, w, 3] of colours."""
        (axis, sign), (down, down_sign), (_, right_sign) = layout = self._layout(plane)
        n = self.voxels.shape[1 + axis]
        if not (0 <= index < n and 0 <= frame < self.frames):
            raise IndexError(f"slice {index} of {n}, frame {frame} of {self.frames}")
        at = index if sign > 0 else n - 1 - index

        def displayed(volume: np.ndarray) -> np.ndarray:
            image = np.take(volume, at, axis=axis)
            if down > layout[2][0]:
                image = image.swapaxes(0, 1)
            return image[:: 1 if down_sign > 0 else -1, :: 1 if right_sign > 0 else -1]

        shape = self.voxels.shape[1:4]
        scales = (np.broadcast_to(a[frame, :, None, None], shape) for a in (self.slope, self.intercept))
        return displayed(self.voxels[frame]), *map(displayed, scales)

    def ras(self, frame: int = 0) -> tuple[np.ndarray, tuple[float | None, ...]]:
        """(float32 [X, Y, Z] in physical units, mm between voxels along each axis), as 3-D models take it: growing to
        the right (R), front (A) and head (S). ValueError for colour or an unknown orientation."""
        if self.colour or self.axes is None:
            raise ValueError("needs grey values and known directions")
        columns = [self._place(axis, sign) for axis, sign in ((0, -1), (1, -1), (2, 1))]
        values = self.voxels[frame].astype(np.float32)
        values = values * self.slope[frame, :, None, None] + self.intercept[frame, :, None, None]
        values = values.astype(np.float32).transpose([axis for axis, _ in columns])
        values = values[tuple(slice(None, None, sign) for _, sign in columns)]
        return values, tuple(self.spacing[axis] for axis, _ in columns)

    def pixel_spacing(self, plane: str) -> tuple[float | None, float | None]:
        """Millimetres between the rows and between the columns of a plane."""
        _, (down, _), (right, _) = self._layout(plane)
        return self.spacing[down], self.spacing[right]

    def slice_spacing(self, plane: str) -> float | None:
        """Millimetres between the slices of a plane."""
        return self.spacing[self._layout(plane)[0][0]]

    def letters(self, plane: str) -> dict[str, str]:
        """The patient's sides at the "left", "right", "top" and "bottom" of a plane; empty where they are unknown."""
        if self.axes is not None and self.oriented:
            _, (down, down_sign), (right, right_sign) = self._layout(plane)
            bottom, side = letters_of(self.axes[down] * down_sign), letters_of(self.axes[right] * right_sign)
        elif self.sides is not None:
            side, bottom = self.sides
        else:
            return {}
        return {"left": opposite(side), "right": side, "top": opposite(bottom), "bottom": bottom}

    def render(self, view: View, max_side: int | None = None) -> np.ndarray:
        """The slice as uint8 [h, w, 3] with square pixels, at most ``max_side`` pixels long."""
        stored, slope, intercept = self._cut(view.plane, view.index, view.frame)
        values = stored
        if not self.colour:
            values = stored.astype(np.float64) * slope + intercept
            window = view.window or self.presets()[0]
            windows = window if isinstance(window, tuple) else (window,)
            greys = [to_grey(values, w, self.table) for w in windows]
            values = np.stack(greys if len(greys) == 3 else greys * 3, axis=-1)
        if self.whites_low:
            values = 255 - values
        if self._pads:  # the background, whichever way round the greys are
            values = np.where(self._outside(stored)[..., None], np.uint8(0), values)
        if view.invert:
            values = 255 - values
        height, width = values.shape[:2]
        aspect = self._aspect(view.plane)
        height, width = round(height * max(aspect, 1)), round(width * max(1 / aspect, 1))
        if max_side is not None and max(height, width) > max_side:
            scale = max_side / max(height, width)
            height, width = max(1, round(height * scale)), max(1, round(width * scale))
        if (height, width) == values.shape[:2]:
            return np.ascontiguousarray(values)
        smaller = height * width < values.shape[0] * values.shape[1]
        how = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
        return np.array(Image.fromarray(np.ascontiguousarray(values)).resize((width, height), how))

    def checked(self, view: View) -> View:
        """The view with its plane, slice and frame limited to those that exist."""
        plane = view.plane if view.plane in self.planes else self.default_plane()
        index = min(max(int(view.index), 0), self.slices(plane) - 1)
        return replace(view, plane=plane, index=index, frame=min(max(int(view.frame), 0), self.frames - 1))

    def _aspect(self, plane: str) -> float:
        rows, columns = self.pixel_spacing(plane)
        aspect = rows / columns if rows and columns else self.aspect
        return aspect if 1 / MAX_PIXEL_ASPECT < aspect < MAX_PIXEL_ASPECT else 1.0

    def _layout(self, plane: str) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """(array axis, sign) of slice, down and right. Array axes: 0 slices, 1 rows, 2 columns."""
        if plane == ACQUIRED or self.axes is None:
            return (0, 1), (1, 1), (2, 1)
        slices, down, right = PLANES[plane]
        return self._place(*slices), self._place(*down), self._place(*right)

    def _place(self, axis: int, sign: int) -> tuple[int, int]:
        """(array axis, sign) of a patient axis: the array axis nearest to it."""
        order = max(permutations(range(3)), key=lambda p: sum(abs(self.axes[p[i], i]) for i in range(3)))
        return order[axis], sign if self.axes[order[axis], axis] >= 0 else -sign
