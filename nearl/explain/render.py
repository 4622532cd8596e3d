"""Rendering maps: placed on the image, coloured, outlined, with a colour bar in their own units, and written to files.

Nothing here runs a model. Colour maps are perceptually uniform; signed maps use a diverging one whose middle is zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from nearl import NOTICE
from nearl.explain.heatmap import Heatmap

COLOURS = ("inferno", "viridis", "cividis")  # of maps that begin at zero
DIVERGING = "managua_r"  # blue is against, yellow for; dark in the middle, where a signed map is transparent
GROUND, INK = (12, 17, 23), (214, 222, 231)
LINE = (255, 255, 255)
FIGURE_SIDE = 640  # pixels, the longer side of the image in a written figure, at least


def placed(heatmap: Heatmap, span: tuple[float, float] | None = None, smooth: bool = True) -> np.ndarray:
    """Scaled values float32 [height, width] over the whole image; NaN where the model did not see it.

    ``smooth``: interpolated between the centres of the patches; otherwise each patch is one flat square.
    """
    left, top, right, bottom = heatmap.box
    values = Image.fromarray(heatmap.scaled(span).astype(np.float32))
    x, y = values.width / (right - left), values.height / (bottom - top)
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    matrix = (x, 0, -left * x, 0, y, -top * y)
    out = np.array(values.transform(heatmap.image_size, Image.Transform.AFFINE, matrix, resample=how))
    width, height = heatmap.image_size
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    out[:, (columns < left) | (columns > right)] = np.nan
    out[(rows < top) | (rows > bottom)] = np.nan
    return out


def colours_of(heatmap: Heatmap, colours: str) -> str:
    """The colour map to use: the chosen one, or the diverging one for a signed map."""
    return DIVERGING if heatmap.signed else colours


def heat_layer(
    heatmap: Heatmap,
    colours: str = COLOURS[0],
    smooth: bool = True,
    contour: float | None = None,
    span: tuple[float, float] | None = None,
) -> Image.Image:
    """The map as an RGBA image of the original's size.

    Colour and alpha grow with the value, and nothing is drawn outside of what the model saw. ``contour``: draw a line
    around the patches above that quantile, 0 to 1.
    """
    values = placed(heatmap, span, smooth)
    seen = ~np.isnan(values)
    values = np.nan_to_num(values)
    picture = matplotlib.colormaps[colours_of(heatmap, colours)]((values + 1) / 2 if heatmap.signed else values)
    picture[..., 3] = np.abs(values) * seen
    out = Image.fromarray((picture * 255).round().astype(np.uint8), "RGBA")
    if contour is not None and not heatmap.blank:
        _outline(out, values, np.quantile(heatmap.scaled(span), contour))
    if _cropped(heatmap):
        _frame(out, heatmap.box)
    return out


def overlay(image: Image.Image, heatmap: Heatmap, opacity: float = 0.6, **how) -> Image.Image:
    """The image with the map over it at ``opacity`` 0..1, RGB. ``how`` goes to ``heat_layer``."""
    layer = heat_layer(heatmap, **how)
    layer.putalpha(layer.getchannel("A").point(lambda a: round(a * opacity)))
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _outline(picture: Image.Image, values: np.ndarray, level: float) -> None:
    """Draw a line where ``values`` cross ``level``, a 300th of the image wide."""
    above = values > level
    edge = np.zeros_like(above)
    edge[:, 1:] |= above[:, 1:] != above[:, :-1]
    edge[1:] |= above[1:] != above[:-1]
    wide = edge.copy()
    for step in range(1, max(2, round(max(values.shape) / 300))):
        wide[step:] |= edge[:-step]
        wide[:, step:] |= edge[:, :-step]
    pixels = np.array(picture)
    pixels[wide] = (*LINE, 255)
    picture.paste(Image.fromarray(pixels, "RGBA"))


def _cropped(heatmap: Heatmap) -> bool:
    left, top, right, bottom = heatmap.box
    width, height = heatmap.image_size
    return left > 0.5 or top > 0.5 or right < width - 0.5 or bottom < height - 0.5


def _frame(picture: Image.Image, box: tuple[float, float, float, float]) -> None:
    """Draw a dashed line around what the model saw."""
    left, top, right, bottom = box
    right, bottom = min(right, picture.width) - 1, min(bottom, picture.height) - 1
    left, top = max(left, 0), max(top, 0)
    pen, dash = ImageDraw.Draw(picture), max(4, max(picture.size) // 64)
    for start in range(math.floor(left), math.ceil(right), 2 * dash):
        for y in (top, bottom):
            pen.line([(start, y), (min(start + dash, right), y)], fill=(*LINE, 200))
    for start in range(math.floor(top), math.ceil(bottom), 2 * dash):
        for x in (left, right):
            pen.line([(x, start), (x, min(start + dash, bottom))], fill=(*LINE, 200))


def ticks(heatmap: Heatmap, span: tuple[float, float] | None = None) -> tuple[str, str, str]:
    """The figures at the low end, the middle and the high end of the colour bar, to two digits of the largest."""
    low, high = span or heatmap.range
    top = max(abs(low), abs(high))
    digits = max(0, 1 - math.floor(math.log10(top))) if top else 0

    def figure(value: float) -> str:
        text = f"{value:.1e}" if digits > 5 else f"{value:.{digits}f}"
        return "0" if not float(text) else text.replace("-", "\N{MINUS SIGN}", 1 if value < 0 else 0)

    return figure(low), figure((low + high) / 2), figure(high)


def colour_bar(heatmap: Heatmap, colours: str = COLOURS[0], length: int = 256, breadth: int = 1) -> Image.Image:
    """The colours from the low to the high end, left to right; RGB, length x breadth pixels."""
    row = matplotlib.colormaps[colours_of(heatmap, colours)](np.linspace(0, 1, length))[:, :3]
    return Image.fromarray(np.repeat((row * 255).round().astype(np.uint8)[None], breadth, 0))


# ------------------------------------------------------------------------------------------------------------- figures


def figure(
    image: Image.Image, heatmap: Heatmap, caption: Sequence[str], opacity: float = 0.6, colours: str = COLOURS[0], **how
) -> Image.Image:
    """The overlay with colour bar and caption; every figure says that it is not for diagnosis."""
    scale = max(1.0, FIGURE_SIDE / max(image.size))
    over = overlay(image, heatmap, opacity, colours=colours, **how)
    over = over.resize((round(over.width * scale), round(over.height * scale)), Image.Resampling.BICUBIC)
    width = max(over.width, 480)
    font, small = _font(15), _font(13)
    lines = [line for text in (*caption, NOTICE) for line in _wrapped(text, font, width - 32)]
    bar_top = over.height + 28
    page = Image.new("RGB", (width, bar_top + 64 + 22 * len(lines) + 12), GROUND)
    page.paste(over, ((width - over.width) // 2, 0))
    page.paste(colour_bar(heatmap, colours, width - 32, 12), (16, bar_top))
    pen = ImageDraw.Draw(page)
    pen.text((16, bar_top - 22), _bar_title(heatmap), INK, small)
    for text, x, anchor in zip(
        ticks(heatmap, how.get("span")), (16, width // 2, width - 16), ("la", "ma", "ra"), strict=True
    ):
        pen.text((x, bar_top + 16), text, INK, small, anchor=anchor)
    for i, line in enumerate(lines):
        pen.text((16, bar_top + 52 + 22 * i), line, INK, font)
    return page


def save_figure(page: Image.Image, path, caption: Sequence[str]) -> None:
    """Write a PNG, with the caption also as a text chunk."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", " ".join((*caption, NOTICE)))
    page.save(path, pnginfo=info)


class Cell(NamedTuple):
    """One picture of a sheet."""

    image: Image.Image
    heatmap: Heatmap
    title: str
    span: tuple[float, float] | None = None  # ends of its colour bar; None for those of the map itself


def sheet(
    cells: Sequence[Cell],
    caption: Sequence[str],
    opacity: float = 0.6,
    colours: str = COLOURS[0],
    side: int = 320,
    **how,
) -> Image.Image:
    """Several overlays, at most four in a row, each fitted into a square of ``side`` pixels, with its title and
    its colour bar; below them the caption and the notice. ``how`` goes to ``heat_layer``."""
    columns = min(4, len(cells))
    rows = math.ceil(len(cells) / columns)
    small, high, width = _font(13), side + 96, max(columns * (side + 16) + 16, 480)
    lines = [line for text in (*caption, NOTICE) for line in _wrapped(text, _font(15), width - 32)]
    page = Image.new("RGB", (width, 16 + rows * high + 16 + 22 * len(lines)), GROUND)
    pen = ImageDraw.Draw(page)
    for i, cell in enumerate(cells):
        left, top = 16 + (i % columns) * (side + 16), 16 + (i // columns) * high
        over = overlay(cell.image, cell.heatmap, opacity, colours=colours, span=cell.span, **how)
        scale = side / max(over.size)
        fitted = over.resize((max(1, round(over.width * scale)), max(1, round(over.height * scale))))
        page.paste(fitted, (left + (side - fitted.width) // 2, top + (side - fitted.height) // 2))
        pen.text((left, top + side + 6), _wrapped(cell.title, small, side)[0], INK, small)
        if cell.heatmap.blank:
            pen.text((left, top + side + 28), "The map is empty.", INK, small)
            continue
        page.paste(colour_bar(cell.heatmap, colours, side, 8), (left, top + side + 28))
        for text, x, anchor in zip(
            ticks(cell.heatmap, cell.span), (left, left + side // 2, left + side), ("la", "ma", "ra"), strict=True
        ):
            pen.text((x, top + side + 40), text, INK, small, anchor=anchor)
        pen.text((left, top + side + 58), _wrapped(_bar_title(cell.heatmap), small, side)[0], INK, small)
    for i, line in enumerate(lines):
        pen.text((16, 16 + rows * high + 22 * i), line, INK, _font(15))
    return page


def _bar_title(heatmap: Heatmap) -> str:
    return (
        f"{heatmap.units} ({'against' if heatmap.adapted is not None else 'less'} to the left)"
        if heatmap.signed
        else heatmap.units
    )


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
