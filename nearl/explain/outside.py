"""Which part of an image is outside the patient: air around a body, a black surround, the glass of a slide.

Outside is what is connected to the image's edge, nearly even, and darker than its neighbourhood (in colour images also
brighter) with a clear step between them. What is dark inside the body (ventricles, lungs, suppressed fat) is cut off
from the edge by what surrounds it; the shadow in an ultrasound image is neither even nor has it a clear step. All
thresholds are our choice; where it is in doubt the image counts as patient.

The air of a CT is known from its numbers, whatever the window: it is not always darker than all else there (a black
surround beside the field of view is), and a table that reaches the edge does not cut it off.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from nearl.data.images import ImageRecord

SIDE = 128  # pixels of the longer side of the image that is looked at
GAP = 7  # half the width, in these pixels, of gaps that do not let the outside into the body
COLOURED = 12  # mean difference of the strongest and the weakest channel, of 255, from which an image is coloured
BLACK, WHITE = 24, 225  # grey levels of a coloured image's surround
AIR, THIN = -400, 2  # Hounsfield units, below which is air or lung; half the width of what is no part of a body
PART, SOLID = 0.03, 0.6  # of the largest part the size, and of itself the share that is no air, of another one: an arm
STEP, EDGE, EVEN, FLAT = 0.22, 0.04, 0.03, 0.006  # shares of the image's range of grey levels


def patient_of(record: ImageRecord) -> np.ndarray:
    """As `patient`, of a record; that of a CT from the numbers behind it."""
    values, image = record.hounsfield(), record.image()
    if values is None or not (values < AIR).any():
        return patient(image)
    scale = SIDE / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    return _body(np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX)) > AIR)


def _body(solid: np.ndarray) -> np.ndarray:
    """The largest part of what is no air, with the air inside it, and others that are as solid as an arm; not the shell
    of a table, tubes or clothes. bool [h, w]."""
    from scipy.ndimage import binary_fill_holes, binary_opening, label

    disc = np.hypot(*np.mgrid[-THIN : THIN + 1, -THIN : THIN + 1]) <= THIN + 0.2
    parts, count = label(binary_opening(binary_fill_holes(solid), disc))
    if not count:
        return np.ones(solid.shape, dtype=bool)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    full = np.bincount(parts.ravel(), solid.ravel(), count + 1) / np.maximum(sizes, 1)
    largest = int(sizes.argmax())
    kept = [n for n in range(1, count + 1) if n == largest or (sizes[n] > PART * sizes[largest] and full[n] > SOLID)]
    return np.isin(parts, kept)


def patient(image: Image.Image) -> np.ndarray:
    """bool [height, width], True on the patient, for the image fitted into ``SIDE`` pixels."""
    scale = SIDE / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.float32)
    grey = pixels @ np.float32([0.299, 0.587, 0.114])
    low, high = np.percentile(grey, [1, 99])
    span = max(high - low, 1.0)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    from scipy.ndimage import uniform_filter

    if (pixels.max(2) - pixels.min(2)).mean() > COLOURED:
        smooth = uniform_filter(grey, 3)
        return ~(_surround(grey, smooth < BLACK, span) | _surround(-grey, smooth > WHITE, span))
    level = min(np.percentile(border, 10), low + 0.2 * span) + 0.15 * span
    return ~_surround(grey, uniform_filter(grey, 3) < min(level, 90), span)


def _surround(grey: np.ndarray, dark: np.ndarray, span: float) -> np.ndarray:
    """The parts of ``dark`` that reach the edge, are even, and have a clear step around them."""
    from scipy.ndimage import binary_dilation, binary_erosion, binary_opening, gaussian_filter, label, sobel
    from scipy.ndimage import uniform_filter as mean

    disc = np.hypot(*np.mgrid[-GAP : GAP + 1, -GAP : GAP + 1]) <= GAP + 0.2
    wide = binary_opening(np.pad(dark, GAP, constant_values=True), disc)[GAP:-GAP, GAP:-GAP]
    parts, _ = label(wide)
    smooth = gaussian_filter(grey, 1)
    slope = np.hypot(sobel(smooth, 0), sobel(smooth, 1)) / (8 * span)
    rough = np.sqrt(np.maximum(mean(grey**2, 5) - mean(grey, 5) ** 2, 0)) / span
    found = np.zeros(grey.shape, dtype=bool)
    for number in set(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]).tolist()) - {0}:
        part = parts == number
        wider, inner = binary_dilation(part, iterations=2), binary_erosion(part, iterations=2, border_value=1)
        around = binary_dilation(part, iterations=5) & ~wider
        outline = wider & ~binary_erosion(part, border_value=1)
        if not inner.any() or not around.any():
            continue
        unrest, step = np.median(rough[inner]), (np.median(grey[around]) - np.median(grey[part])) / span
        stepped = step > STEP and np.median(slope[outline]) > EDGE and unrest < EVEN
        if stepped or (unrest < FLAT and np.percentile(slope[outline], 75) > EDGE):
            found |= part
    return found


def covered(mask: np.ndarray, box: tuple[float, float, float, float], grid: tuple[int, int]) -> np.ndarray:
    """The share of each patch, float32 [grid height, grid width], that a mask covers.

    ``mask``: bool [height, width] of the image. ``box``: what the model sees, as in a Heatmap, in the mask's pixels.
    """
    left, top, right, bottom = box
    fine = 8  # samples per patch and side
    ys = top + (np.arange(grid[0] * fine) + 0.5) * (bottom - top) / (grid[0] * fine)
    xs = left + (np.arange(grid[1] * fine) + 0.5) * (right - left) / (grid[1] * fine)
    rows, columns = np.floor(ys).astype(int), np.floor(xs).astype(int)
    inside = np.ix_((rows >= 0) & (rows < mask.shape[0]), (columns >= 0) & (columns < mask.shape[1]))
    samples = np.zeros((len(rows), len(columns)), np.float32)
    samples[inside] = mask[np.ix_(rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1))][inside]
    return samples.reshape(grid[0], fine, grid[1], fine).mean((1, 3))
