"""The model card of an adapter: README.md, for people first, with the front matter that the Hub reads.

Class names, prompts and everything else in ``adapter.json`` may come from a stranger's file. They appear in code spans
only, where Markdown reads neither markup nor HTML nor links, and never in the front matter.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

from huggingface_hub import ModelCardData

from nearl import NOTICE
from nearl.adapters.taught import taught_with

CARD = "README.md"
LICENCE = "inherits the terms of the backbone and of the support images"
TAGS = ["nearl-clip", "clip", "vision-language", "adapter", "medical-imaging", "teaching", "not-for-diagnosis"]
SHOWN_PROMPTS, SHOWN_CLASSES = 6, 200
JOINERS = "\u200c\u200d"  # the only format characters kept: some scripts need them inside words
MEASURED = {
    "given": "on separate test images, none of which were used for teaching",
    "held-out": "on images of the same collection that were kept aside and not taught",
    "folds": "by cross-validation: every image was read by a model that was not taught with it. The adapter in this "
    "folder was taught with all of them, so the figures are those of its recipe, not of these very weights",
}


def card(meta: dict, base_model: str | None = None) -> str:
    """Markdown with YAML front matter for the ``meta`` of an adapter (see ``nearl.adapters.store.Adapter``).

    ``base_model``: the backbone's ``owner/name`` on the Hub; left out where it has none. Never raises for odd values in
    ``meta``: what is not a number in its range or a text is left out or shown as it is written.
    """
    name, backbone = meta.get("name"), _dict(meta.get("backbone"))
    counts = _dict(meta.get("support_counts"))
    nearl = str(meta.get("method")).partition(":")[0] == "nearl"
    classes = [c for c in _list(meta.get("classes")) if isinstance(c, str)]
    images = taught_with(meta)
    parts = [
        _front_matter(base_model),
        f"# {quoted(name) if name else 'NEARL adapter' if nearl else 'Adapter'}",
        f"**{NOTICE}**",
        f"A small set of weights that was taught with {_plural(images, 'labelled image')} to tell "
        f"{_plural(len(classes), 'class', 'classes')} apart. It works on top of one frozen vision-language model, "
        f"{quoted(backbone.get('name'))}, which it does not contain. The files hold no images and no file names.",
        "## Classes and prompts",
        _classes(classes, counts, _dict(meta.get("prompts"))),
        "## How well it works",
        _figures(_dict(meta.get("metrics")), len(classes)),
        _trust(_dict(meta.get("trust"))),
        "## Limits",
        _limits(images),
        "## Intended use",
        "Showing and studying how a frozen vision-language model changes when it is adapted. Not intended for any "
        "decision about a person, for screening or triage, or as part of a medical device.",
        "## How to use it",
        "In the NEARL-CLIP demo, with the same model: upload this folder's files as one zip to your adapters. On the "
        "command line: `python -m nearl predict IMAGE --adapter FOLDER`.",
        "## Technical details",
        _made_of(meta, backbone),
        "## Licence",
        _licence(meta.get("licence")),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def quoted(text: object, most: int = 200) -> str:
    """Any text as one Markdown code span on one line, of at most ``most`` characters.

    Control characters, line breaks, surrogates and characters that turn the writing direction become spaces.
    """
    plain = "".join(c if c in JOINERS or unicodedata.category(c)[0] != "C" else " " for c in str(text))
    plain = " ".join(plain.split()) or "(nothing)"
    plain = plain if len(plain) <= most else plain[: most - 1] + "…"
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    pad = " " if plain[0] == "`" or plain[-1] == "`" else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def _front_matter(base_model: str | None) -> str:
    data = ModelCardData(
        library_name="nearl-clip",
        pipeline_tag="zero-shot-image-classification",
        license="other",
        license_name="terms-of-backbone-and-images",
        tags=TAGS,
        base_model=base_model,
        base_model_relation="adapter" if base_model else None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _classes(classes: list[str], counts: dict, prompts: dict) -> str:
    texts = {e.get("name"): _list(e.get("prompts")) for e in map(_dict, _list(prompts.get("classes")))
             if isinstance(e.get("name"), str)}  # fmt: skip
    lines = []
    for name in classes[:SHOWN_CLASSES]:
        number, own = _count(counts.get(name)), texts.get(name, [])
        taught = f" ({_plural(number, 'image')})" if number is not None else ""
        more = f"; and {len(own) - SHOWN_PROMPTS} more in adapter.json" if len(own) > SHOWN_PROMPTS else ""
        asked = "; ".join(map(quoted, own[:SHOWN_PROMPTS])) + more
        lines.append(f"- {quoted(name)}{taught}" + (f": {asked}" if asked else ""))
    templates = [t for t in _list(prompts.get("templates")) if isinstance(t, str)]
    if templates:
        lines.append(f"\nEvery prompt was put into {'; '.join(map(quoted, templates[:SHOWN_PROMPTS]))}.")
    return "\n".join(lines) or "None are named."


def _figures(metrics: dict, classes: int) -> str:
    frozen, adapted = _dict(metrics.get("frozen")), _dict(metrics.get("adapted"))
    if not frozen and not adapted:
        return "Not measured. Do not assume that it works."
    how = MEASURED.get(str(metrics.get("kind")), MEASURED["held-out"])
    number = _count(metrics.get("n"))
    lines = [f"Measured {how}" + (f" ({_plural(number, 'image')})." if number is not None else "."), ""]
    if "findings" in metrics:
        return "\n".join([*lines, *_of_findings(frozen, adapted)])
    lines += ["| | before teaching | after teaching |", "| --- | --- | --- |"]
    for label, key, form in (
        ("balanced accuracy", "balanced_accuracy", _percent),
        ("accuracy", "accuracy", _percent),
        ("AUROC", "auroc", _decimal),
        ("calibration error", "ece", _percent),
    ):
        lines.append(f"| {label} | {_figure(frozen, key, form)} | {_figure(adapted, key, form)} |")
    lines += ["", _gain(_dict(metrics.get("gain"))), *_recalls(adapted), ""]
    chance = f" Guessing gives a balanced accuracy of {_percent(1 / classes)}." if classes else ""
    lines.append(
        "In brackets: the 95 % interval for which images happened to be measured; another training run or images from "
        f"another place may differ by more.{chance} Calibration error: how far the shown shares are from how often "
        "they are correct; 0 % is best."
    )
    if metrics.get("few") is True or metrics.get("too_few"):
        lines.append("\nThere were few images to measure with: read the intervals, not the figures before them.")
    return "\n".join(lines)


def _of_findings(frozen: dict, adapted: dict) -> list[str]:
    """The lines on findings, of `nearl.measure.findings.study`; may be anybody's."""
    lines = ["| AUROC | before teaching | after teaching |", "| --- | --- | --- |"]
    lines.append(f"| mean | {_figure(frozen, 'macro_auroc', _decimal)} | {_figure(adapted, 'macro_auroc', _decimal)} |")
    sides = [[*map(_dict, _list(side.get("per_finding"))[:SHOWN_CLASSES])] for side in (frozen, adapted)]
    for before, after in zip(*sides, strict=False):
        name = quoted(after.get("finding"))
        lines.append(f"| {name} | {_figure(before, 'auroc', _decimal)} | {_figure(after, 'auroc', _decimal)} |")
    return [*lines, "", "In brackets: the 95 % interval for which images happened to be measured. 0.5 is chance."]


def _recalls(figures: dict) -> list[str]:
    lines = []
    for entry in map(_dict, _list(figures.get("recall"))[:SHOWN_CLASSES]):
        right, number = _count(entry.get("right")), _count(entry.get("n"))
        if right is not None and number:
            share = _figure(entry, "recall", _percent)
            lines.append(f"- {quoted(entry.get('class'))}: {right} of {number} recognised after teaching, {share}")
    return lines


def _trust(trust: dict) -> str:
    if not trust:
        return ""
    lines = ["## What it knows about its own certainty", ""]
    temperature = trust.get("temperature")
    if _finite(temperature):
        lines.append(f"- Its shares are calibrated with a temperature of {temperature:.2f}, fitted on held-out images.")
    else:
        lines.append("- Its shares are not calibrated.")
    coverages = [_percent(float(c)) for c in _dict(trust.get("conformal")) if re.fullmatch(r"0\.\d{1,4}", c)]
    if coverages and _finite(temperature):  # without one they rest on too few images
        lines.append(f"- It can give sets of classes that hold the right one in {', '.join(coverages)} of images like "
                     "those it was measured on.")  # fmt: skip
    else:
        lines.append("- It gives no sets of classes with a guarantee.")
    if _finite(trust.get("far")):
        lines.append(
            "- It can say that an image is unlike the ones it was taught with. For that, its file holds the mean of "
            "each class's images as the frozen model describes them, a list of numbers."
        )
    lines.append("\nAll of this holds for the prompts above, not for edited ones.")
    return "\n".join(lines)


def _limits(images: int) -> str:
    return "\n".join(
        (
            "- It always answers with one of its classes, even for an image that shows none of them.",
            f"- It has seen {_plural(images, 'image')}. Another scanner, hospital, patient group or way of cropping "
            "the image may make it worse, without any sign of it.",
            "- Its shares are relative to the prompts; they are not the probability of a disease.",
            "- Nobody has checked whether it works equally well for all groups of people.",
            "- It repeats whatever mistakes are in the labels it was taught with.",
        )
    )


def _made_of(meta: dict, backbone: dict) -> str:
    lines = [
        f"- method: {quoted(meta.get('method'))}",
        f"- model it belongs to: {quoted(backbone.get('name'))}, configuration "
        f"{quoted(str(backbone.get('config_sha256'))[:16])}, weights {quoted(str(backbone.get('weights'))[:16])}",
        f"- taught on: {quoted(str(meta.get('created'))[:25])}",
        f"- settings: {quoted(json.dumps(meta.get('config'), default=str), 600)}",
    ]
    if meta.get("recipe"):
        lines.append(f"- training: {quoted(json.dumps(meta['recipe'], default=str), 600)}")
    lines.append("- files: `adapter.safetensors` (float32 tensors, no code) and `adapter.json`")
    return "\n".join(lines)


def _licence(licence: object) -> str:
    own = "" if licence == LICENCE else f"Its own file says: {quoted(licence)}. "
    return (
        f"{own}An adapter inherits the terms of the model it belongs to and of the images it was taught with; whoever "
        "passes it on is responsible for being allowed to."
    )


def _figure(figures: dict, key: str, form) -> str:
    if not figures:
        return "not measured"
    said = form(figures[key]) if _share(figures.get(key)) else "too few images to say"
    ends = _list(figures.get("interval" if key == "recall" else f"{key}_interval"))
    return f"{said} ({form(ends[0])} to {form(ends[1])})" if len(ends) == 2 and all(map(_share, ends)) else said


def _gain(gain: dict) -> str:
    numbers = [gain.get("value"), *_list(gain.get("interval"))]
    if len(numbers) != 3 or not all(_finite(number) and -1 <= number <= 1 for number in numbers):
        return ""
    value, low, high = (f"{100 * number:+.0f}".replace("-", "−") for number in numbers)
    return f"Teaching changed the balanced accuracy by {value} percentage points ({low} to {high}).\n"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _decimal(share: float) -> str:
    return f"{share:.2f}"


def _plural(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value < 1e6


def _share(value: Any) -> bool:
    return _finite(value) and 0 <= value <= 1


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9 else None


def _dict(value: object) -> dict:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list:
    return value if isinstance(value, list) else []
