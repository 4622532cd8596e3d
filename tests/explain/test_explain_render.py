"""How maps are drawn: where on the image, in which colours and units, and what a written file says."""

import numpy as np
import pytest
from PIL import Image

from nearl.data.formats.volume import Scan
from nearl.data.images import ImageRecord
from nearl.explain import Heatmap, difference, heat_layer, overlay
from nearl.explain.heatmap import seen_box
from nearl.explain.render import Cell, colour_bar, figure, placed, save_figure, sheet, ticks


def heatmap_of(values, box, size, **changes):
    facts = {"class_name": "c", "method": "m", "name": "M", "units": "logits", "adapted": True} | changes
    return Heatmap(np.asarray(values, dtype=np.float32), box, size, **facts)


def still(image):
    return ImageRecord.from_pixels("still", np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("mode", "size", "box"),
    [
        ("shortest", (60, 40), (10, 0, 50, 40)),  # the centre square
        ("shortest", (40, 60), (0, 10, 40, 50)),
        ("longest", (60, 40), (0, -10, 60, 50)),  # padded above and below
        ("squash", (60, 40), (0, 0, 60, 40)),
    ],
)
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_bright_corner_is_drawn_over_that_corner(tiny, monkeypatch, mode, size, box, corner):
    """Send an image with one bright corner (of what the model sees) through the model's own preprocessing, use the
    result as the map, and look where the map is drawn."""
    backbone = tiny("clip")
    cfg = backbone.preprocess_cfg | {"resize_mode": mode}
    monkeypatch.setattr(type(backbone), "preprocess_cfg", cfg)
    assert seen_box(backbone, size) == box
    from open_clip.transform import PreprocessCfg, image_transform_v2

    left, top, right, bottom = (max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1]))
    w, h = (right - left) // 4, (bottom - top) // 4
    x, y = (right - w if corner[1] else left), (bottom - h if corner[0] else top)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[y : y + h, x : x + w] = 255
    seen = image_transform_v2(PreprocessCfg(**cfg | {"mean": (0,) * 3, "std": (1,) * 3}), is_train=False)(
        Image.fromarray(pixels)
    )
    drawn = np.nan_to_num(placed(heatmap_of(seen[0].numpy(), box, size)))
    assert drawn.shape == (size[1], size[0])
    inside = drawn[y : y + h, x : x + w].sum() / drawn.sum()
    assert inside > 0.75
    assert drawn[y + h // 2, x + w // 2] > 0.8


@pytest.mark.parametrize(
    ("box", "share"),
    [((0, 0, 40, 40), 1 / 2), ((0, -40, 40, 80), 5 / 6), ((20, 0, 40, 40), 0)],  # whole, padded above and below, right
)
def test_a_map_on_nothing_is_said(box, share):
    """A picture that is empty, but for a little noise, on its left half; the padding is empty too."""
    pixels = np.random.default_rng(0).integers(0, 5, (40, 40)).astype(np.uint8)
    pixels[:, 20:] = np.random.default_rng(1).integers(60, 255, (40, 20))
    image, values = Image.fromarray(pixels), np.ones((12, 4))
    heatmap = heatmap_of(values, box, image.size)
    assert heatmap.outside(still(image)) == pytest.approx(share, abs=0.02)
    assert bool(heatmap.caution(still(image))) == (share > 0.4)
    assert heatmap_of(-values, box, image.size, signed=True).outside(still(image)) == heatmap.outside(still(image))
    assert heatmap_of(0 * values, box, image.size).caution(still(image)) == ""


def scan(kind):
    """A drawn scan, uint8 [128, 128], and where its pathology-like dark place is, bool of the same size."""
    rng, (y, x) = np.random.default_rng(2), np.mgrid[:128, :128]
    out = np.hypot((y - 64) / 52, (x - 64) / 40)  # 1 on the outline of a body
    if kind == "head":  # black air, a bright scalp, dark ventricles
        dark = np.hypot((y - 64) / 18, (x - 64) / 12) < 1
        pixels = np.select([out > 1, out > 0.9, dark], [4, 220, 5], 120) + rng.normal(0, 2, out.shape)
    elif kind == "chest":  # grey, noisy air beside the arm, dark lungs
        dark = np.hypot((y - 64) / 35, (np.abs(x - 64) - 18) / 12) < 1
        pixels = np.select([out > 1, dark], [38, 60], 170) + rng.normal(0, 4, out.shape)
    elif kind == "suppressed":  # dark fat below a thin, interrupted skin
        dark = (out < 0.97) & (out > 0.7)
        skin = (np.abs(out - 1) < 0.04) & (np.abs(y - 64) > 4)
        pixels = np.select([skin, dark, out > 1], [200, 4, 3], 150) + rng.normal(0, 2, out.shape)
    else:  # ultrasound: speckle that fades into a shadow at the lower edge
        dark = y > 90
        pixels = 190 * np.exp(-y / 45) * rng.gamma(4, 0.25, out.shape)
    return pixels.clip(0, 255).astype(np.uint8), dark


@pytest.mark.parametrize("kind", ["head", "chest", "suppressed"])
def test_a_map_beside_the_patient_is_said_on_every_kind_of_image(kind):
    """The air around a body is outside it, however grey and noisy; what is dark within the body is not."""
    pixels, dark = scan(kind)
    image, box = Image.fromarray(pixels), (0, 0, 128, 128)
    corner, within = np.zeros((16, 16)), dark.reshape(16, 8, 16, 8).mean((1, 3))
    corner[1:4, 1:3] = 1
    assert heatmap_of(corner, box, image.size).caution(still(image))
    assert heatmap_of(within, box, image.size).caution(still(image)) == ""


def chest_ct():
    """A drawn CT slice in Hounsfield units, with where its lungs and the air within the round field of view are. Beyond
    the field the scanner writes a lower number, and a hollow table that reaches both edges shuts the air off from the
    back."""
    rng, (y, x) = np.random.default_rng(3), np.mgrid[:256, :256]
    body = np.hypot((y - 110) / 62, (x - 128) / 92) < 1
    lungs = np.hypot((y - 108) / 40, (np.abs(x - 128) - 42) / 30) < 1
    field, sag = np.hypot(y - 128, x - 128) < 126, 178 + ((x - 128) / 24) ** 2
    table = (np.abs(y - sag) < 2) | (np.abs(y - sag - 26) < 2)
    noise = rng.normal(0, 14, body.shape)
    values = np.select([~field, lungs, body, table], [-3024, -840 + noise, 40 + noise, 300 + noise], -1000 + noise)
    return values, lungs, field & ~body & ~table


@pytest.mark.parametrize("window", ["Lung", "Abdomen", "Auto"])
def test_a_map_on_the_air_of_a_ct_is_said_in_every_window(window):
    values, lungs, air = chest_ct()
    scan = Scan(values[None, None].astype(np.int16), np.ones((1, 1)), np.zeros((1, 1)), modality="CT")
    record = ImageRecord.from_scan("ct", scan)
    record = record.at(window=next(one for one in scan.presets() if one.name == window))
    y, x = np.mgrid[:256, :256]
    patches = lambda where: where.reshape(16, 16, 16, 16).mean((1, 3))  # noqa: E731
    for beside in (air & (y < 60), air & (y > 160), air & (x < 30)):
        assert heatmap_of(patches(beside), (0, 0, 256, 256), record.size).caution(record)
    for within in (lungs, ~lungs & (np.hypot((y - 110) / 56, (x - 128) / 84) < 1)):
        assert heatmap_of(patches(within), (0, 0, 256, 256), record.size).caution(record) == ""


def test_a_shadow_in_an_ultrasound_image_belongs_to_the_patient():
    pixels, dark = scan("ultrasound")
    image = Image.fromarray(pixels)
    shadow = dark.reshape(16, 8, 16, 8).mean((1, 3))
    assert heatmap_of(shadow, (0, 0, 128, 128), image.size).caution(still(image)) == ""


def test_a_peak_beside_the_patient_is_said_though_most_of_the_map_is_on_the_patient():
    image = Image.fromarray(scan("head")[0])
    values = np.zeros((16, 16))
    values[1, 1:3], values[6:10, 7:9] = 2, 0.8
    assert heatmap_of(values, (0, 0, 128, 128), image.size).caution(still(image))
    values[1, 1:3] = 0.7
    assert heatmap_of(values, (0, 0, 128, 128), image.size).caution(still(image)) == ""


def ramp(size=(50, 30), **changes):
    return heatmap_of(np.arange(12).reshape(3, 4), (0, 0, *size), size, **changes)


def test_overlay_opacity_and_size():
    image = Image.new("RGB", (50, 30), (100, 100, 100))
    assert np.array_equal(np.asarray(overlay(image, ramp(), 0.0)), np.asarray(image))
    full = overlay(image, ramp(), 1.0)
    assert full.size == (50, 30) and np.abs(np.asarray(full).astype(int) - 100).max() > 50
    nothing = heatmap_of(np.zeros((8, 8)), (0, 0, 50, 30), (50, 30))
    assert nothing.blank and np.array_equal(np.asarray(overlay(image, nothing, 1.0)), np.asarray(image))


def test_patches_are_flat_and_smooth_ones_are_not():
    exact, smooth = placed(ramp(), smooth=False), placed(ramp(), smooth=True)
    assert len(np.unique(exact)) == 12 and len(np.unique(smooth)) > 100
    assert exact[0, 0] == 0 and exact[-1, -1] == 1
    assert ramp().peak == (2, 3) and ramp().peak_pixel == (44, 25)


def test_nothing_is_drawn_where_the_model_did_not_look():
    heatmap = heatmap_of(np.ones((4, 4)) + np.eye(4), (10, 0, 50, 40), (60, 40))
    values = placed(heatmap)
    assert np.isnan(values[:, :10]).all() and np.isnan(values[:, 50:]).all() and not np.isnan(values[:, 10:50]).any()
    alpha = np.asarray(heat_layer(heatmap).getchannel("A"))
    assert not alpha[:, :9].any() and not alpha[:, 51:].any()
    assert (alpha[:, 10] == 200).any()  # the dashed frame of the crop


def test_signed_maps_diverge_from_zero():
    heatmap = heatmap_of([[-4.0, 0.0, 2.0]], (0, 0, 30, 10), (30, 10), signed=True)
    assert heatmap.range == (-4, 4) and ticks(heatmap)[1] == "0"
    pixels = np.asarray(heat_layer(heatmap, smooth=False)).astype(int)
    against, zero, favour = pixels[5, 5], pixels[5, 15], pixels[5, 25]
    assert zero[3] == 0 and against[3] == 255 and favour[3] == pytest.approx(128, abs=2)
    assert against[2] > against[0] and favour[0] > favour[2]  # blue, yellow
    bar = np.asarray(colour_bar(heatmap)).astype(int)[0]
    assert bar[0][2] > bar[0][0] and bar[-1][0] > bar[-1][2]


def test_a_shared_span_makes_two_maps_comparable():
    low, high = ramp(), heatmap_of(2 * np.arange(12).reshape(3, 4), (0, 0, 50, 30), (50, 30))
    assert low.scaled((0, 22)).max() == pytest.approx(0.5) and high.scaled((0, 22)).max() == 1


def test_contour_encloses_the_highest_patches():
    line = np.asarray(heat_layer(ramp((80, 60)), smooth=False, contour=0.9))
    white = (line == 255).all(-1)
    rows, columns = np.nonzero(white)
    assert white.any() and columns.min() >= 39 and rows.min() >= 39


def test_difference_is_after_less_before_and_takes_shares_without_common_units():
    before, after = ramp(adapted=False), heatmap_of(np.ones((3, 4)), (0, 0, 50, 30), (50, 30))
    change = difference(before, after, same_units=True)
    assert change.signed and change.adapted is None and change.units == "logits"
    np.testing.assert_allclose(change.values, 1 - np.arange(12).reshape(3, 4))
    shares = difference(before, after, same_units=False)
    assert shares.units == "% of the map" and abs(shares.values.sum()) < 1e-4
    assert shares.values[0, 0] == pytest.approx(100 / 12)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0, 0.0246], ("0", "0.012", "0.025")),
        ([8e-6, 0.046], ("0", "0.023", "0.046")),
        ([0.061, 23.4], ("0", "12", "23")),
        ([100.0, 123.4], ("100", "112", "123")),
        ([0, 3e-9], ("0", "1.5e-09", "3.0e-09")),
    ],
)
def test_figures_of_the_colour_bar(values, texts):
    assert ticks(heatmap_of([values], (0, 0, 2, 1), (2, 1))) == texts
    signed = ticks(heatmap_of([values], (0, 0, 2, 1), (2, 1), signed=True))
    assert signed == ("\N{MINUS SIGN}" + texts[2], "0", texts[2])


def test_a_written_figure_says_what_it_is(tmp_path):
    image = Image.new("RGB", (50, 30), (90, 90, 90))
    lines = ["Grad-CAM, after teaching. Class: a “long” name.", "Model: tiny. " + "word " * 60]
    page = figure(image, ramp(), lines, contour=0.8)
    save_figure(page, tmp_path / "a.png", lines)
    written = Image.open(tmp_path / "a.png")
    assert "Grad-CAM" in written.text["Comment"] and "Not for diagnosis" in written.text["Comment"]
    assert written.width >= 640 and written.height > 640 * 30 / 50  # the picture, then the bar and the caption
    assert np.asarray(written)[-40:].std() > 5  # letters


def test_a_sheet_holds_every_picture_and_its_scale():
    image = Image.new("RGB", (40, 60), (250, 0, 0))
    empty = heatmap_of(np.zeros((3, 4)), (0, 0, 40, 60), (40, 60))
    cells = [Cell(image, empty, f"image {i}") for i in range(5)]
    page = np.asarray(sheet(cells, ["A caption."], side=100))
    assert (page == (250, 0, 0)).all(-1).sum() == 5 * 100 * 67
    bar = np.asarray(colour_bar(ramp(), "viridis", 100))[0]
    scaled = np.asarray(sheet([Cell(image, ramp((40, 60)), "a"), cells[0]], [], side=100, colours="viridis"))
    rows = [row for row in scaled[:, 16:116] if np.array_equal(row, bar)]
    assert len(rows) == 8  # below the first picture alone: the second map is empty
