"""A decoded scan: stored numbers with their physical meaning, their position in the patient, and how to draw them.

Directions and positions are DICOM's: millimetres in the patient, +x to the left (L), +y to the back (P), +z to the
head (H). Shapes: T moments, K slices, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
from PIL import Image

from nearl.data.formats.windows import MODALITY_PRESETS, PRESETS, Table, Window, auto_window, to_grey

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
    padding: float | None = None  # the stored value that means "outside"
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
        own = list(self.windows)
        if self.table is not None:
            own.insert(0, Window("As stored in the file", 0, 1, "TABLE"))
        if self.full_range is not None:
            own.append(Window("Full range", self.full_range / 2, self.full_range))
        named = [PRESETS[name] for name in MODALITY_PRESETS.get(self.modality, ())]
        if not own and named:
            own.append(PRESETS["abdomen"])
        named = [window for window in named if window not in own]
        return (*own, *named, self.auto())

    def auto(self) -> Window:
        """The automatic window, the same for all slices: from percentiles of a sample of the whole scan."""
        step = max(1, self.voxels.size // SAMPLE)
        stored = self.voxels.reshape(-1)[::step]
        # slices may differ in scale; the middle slice's is used for all
        slope, intercept = (a[0, a.shape[1] // 2] for a in (self.slope, self.intercept))
        if self.padding is not None and (stored != self.padding).any():
            stored = stored[stored != self.padding]
        return auto_window(stored * slope + intercept)

    def values(self, plane: str, index: int, frame: int = 0) -> np.ndarray:
        """One slice as it is displayed: float64 [h, w] in physical units, or uint8 [h, w, 3].

        Raises IndexError if there is no such slice.
        """
        (axis, sign), (down, down_sign), (_, right_sign) = layout = self._layout(plane)
        n = self.voxels.shape[1 + axis]
        if not (0 <= index < n and 0 <= frame < self.frames):
            raise IndexError(f"slice {index} of {n}, frame {frame} of {self.frames}")
        at = index if sign > 0 else n - 1 - index
        image = np.take(self.voxels[frame], at, axis=axis)
        if not self.colour:
            slope, intercept = self.slope[frame], self.intercept[frame]
            if axis == 0:
                slope, intercept = slope[at], intercept[at]
            else:  # the slice axis is the first of the remaining two
                slope, intercept = slope[:, None], intercept[:, None]
            image = image.astype(np.float64) * slope + intercept
        if down > layout[2][0]:
            image = image.swapaxes(0, 1)
        return image[:: 1 if down_sign > 0 else -1, :: 1 if right_sign > 0 else -1]

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
        values = self.values(view.plane, view.index, view.frame)
        if not self.colour:
            window = view.window or self.presets()[0]
            windows = window if isinstance(window, tuple) else (window,)
            greys = [to_grey(values, w, self.table) for w in windows]
            values = np.stack(greys if len(greys) == 3 else greys * 3, axis=-1)
        if view.invert != self.whites_low:
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
