"""Windows: which range of values is shown from black to white.

Linear, linear-exact and sigmoid windows are those of DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3. The CT presets are common
ones in Hounsfield units (our choice).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID", "TABLE")
AUTO_PERCENTILES = (0.5, 99.5)  # our choice
LITTLE_CONTRAST, SOME_CONTRAST = 16, 64  # differences between dark and light, of 255 (our choice)
LITTLE_BETWEEN, SOME_BETWEEN = 0.02, 0.1  # shares of pixels that are neither black nor white (our choice)
CT_LOW, CT_HIGH = (-3100, -900), (100, 40_000)  # least and greatest value that look like Hounsfield units (our choice)
BY_HAND = "Set by hand"
FLAT_WIDTH = 1e-12  # of the window of values that are all the same


@dataclass(frozen=True)
class Window:
    """A range of values shown from black to white."""

    name: str
    center: float
    width: float
    function: str = "LINEAR_EXACT"  # one of FUNCTIONS; TABLE uses the file's own table instead

    @property
    def words(self) -> str:
        """For people: the name, with centre and width where there are any."""
        if self.function == "TABLE" or self.width <= FLAT_WIDTH:
            return self.name
        return f"{self.name}, {_plain(self.center)} / {_plain(self.width)}"


def _plain(value: float) -> str:
    """A number for people: four digits, and large ones in full ("40,000" and not "4e+04")."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


PRESETS: dict[str, Window] = {
    window.name.lower(): window
    for window in (
        Window("Lung", -600, 1500),
        Window("Mediastinum", 50, 350),
        Window("Bone", 400, 1800),
        Window("Brain", 40, 80),
        Window("Stroke", 40, 40),
        Window("Abdomen", 50, 400),
    )
}
MODALITY_PRESETS = {"CT": tuple(PRESETS)}
THREE_CT = tuple(PRESETS[name] for name in ("lung", "mediastinum", "bone"))  # as red, green and blue (our choice)


def auto_window(values: np.ndarray) -> Window:
    """The window from the 0.5 to the 99.5 percentile of the finite values."""
    values = values[np.isfinite(values)]
    if not values.size:
        return Window("Auto", 0.5, 1.0)
    low, high = np.percentile(values, AUTO_PERCENTILES)
    if high <= low:  # a few bright pixels on a flat ground
        low, high = values.min(), values.max()
    return Window("Auto", (float(low) + float(high)) / 2, float(high) - float(low) or FLAT_WIDTH)


def by_hand(center: float, width: float) -> Window | None:
    """A window with this centre and width; None where they are not numbers or the width is not above zero."""
    good = np.isfinite([center, width]).all() and width > 0
    return Window(BY_HAND, float(center), float(width)) if good else None


def looks_like_ct(values: np.ndarray) -> bool:
    """Whether physical values are likely Hounsfield units, whatever type they are stored in."""
    values = values[np.isfinite(values)]
    if not values.size:
        return False
    if values.min() < CT_LOW[0]:  # one value far below stands for what was not measured
        values = values[values > values.min()]
    return bool(values.size and CT_LOW[0] <= values.min() <= CT_LOW[1] and CT_HIGH[0] <= values.max() <= CT_HIGH[1])


def leaves_little(values: np.ndarray, window: Window, auto: Window, table: Table | None = None) -> bool:
    """Whether a window shows almost nothing of values of which the automatic window shows something.

    That is: next to no difference between dark and light, or next to nothing between black and white.
    """

    def shown(window: Window) -> tuple[float, float]:
        grey = to_grey(values, window, table)
        low, high = np.percentile(grey, AUTO_PERCENTILES)
        return float(high - low), float(((grey > 0) & (grey < 255)).mean())

    values = values[np.isfinite(values)]
    if not values.size:
        return False
    (contrast, between), (best, most) = shown(window), shown(auto)
    if best < SOME_CONTRAST:  # there is nothing to see
        return False
    return contrast < LITTLE_CONTRAST or (between < LITTLE_BETWEEN and most >= SOME_BETWEEN)


@dataclass(frozen=True, eq=False)
class Table:
    """A VOI lookup table (PS3.3 C.11.2.1.1)."""

    first: int  # the value of the first entry
    entries: np.ndarray  # float64 [N]
    top: int  # the entry that is white


def to_grey(values: np.ndarray, window: Window, table: Table | None = None) -> np.ndarray:
    """uint8 grey of physical values, of the same shape; values that are not a number become black."""
    values = np.asarray(values, dtype=np.float64)
    if window.function == "TABLE" and table is not None:
        index = np.clip(np.nan_to_num(values) - table.first, 0, len(table.entries) - 1).astype(np.int64)
        share = table.entries[index] / table.top
    elif window.function == "SIGMOID":
        with np.errstate(over="ignore"):
            share = 1 / (1 + np.exp(-4 * (values - window.center) / window.width))
    elif window.function == "LINEAR" and window.width > 1:
        share = (values - (window.center - 0.5)) / (window.width - 1) + 0.5
    elif window.function == "LINEAR":  # one value wide: a step
        share = (values > window.center - 0.5).astype(np.float64)
    else:
        share = (values - window.center) / window.width + 0.5
    share = np.nan_to_num(np.clip(share, 0.0, 1.0))
    return np.floor(share * 255 + 0.5).astype(np.uint8)
