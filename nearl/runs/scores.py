"""The rows of a comparison (`nearl.runs.comparison`) as one line for each method, and the difference of two methods."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from nearl.measure.compare_report import interval
from nearl.measure.evaluate import FEW, WIDEST, study
from nearl.methods import card

COSTS = ("fit_seconds", "predict_ms", "parameters", "taught")


def scores(about: Mapping, rows: Sequence[Mapping]) -> list[dict]:
    """A dict for each method of the job ``about``, in its order: "method", "title", "error" (a sentence or ""), "done"
    (how many draws), and where there is one "n", the means "balanced_accuracy", "auroc", "ece", "interval" and the
    medians of the costs, and "space" (where images and words lie, see `nearl.runs.comparison`) or None.

    "interval" [low, high]: 95 %, over the images measured on where there is one draw, else over the draws; None where
    the draws do not differ. A balanced accuracy whose interval over images is wider than 0.5 is None.
    """
    return [_score(name, [row for row in rows if row["method"] == name]) for name in about["methods"]]


def _score(name: str, rows: list[Mapping]) -> dict:
    done = [row for row in rows if "error" not in row]
    found = {
        "method": name,
        "title": card(name).title,
        "error": next((row["error"] for row in rows if "error" in row), ""),
        "done": len(done),
        "few": bool(done) and done[0]["metrics"]["n"] < FEW,
    }
    if not done:
        return found
    metrics = [row["metrics"] for row in done]
    mean, half = interval([m["balanced_accuracy"] for m in metrics])
    spread = list(metrics[0]["balanced_accuracy_interval"])
    too_wide = spread[1] - spread[0] > WIDEST
    if len(done) > 1:
        spread = [max(mean - half, 0.0), min(mean + half, 1.0)] if half else None
    for key in ("auroc", "ece"):
        values = [m[key] for m in metrics if m[key] is not None]
        found[key] = statistics.fmean(values) if values and not too_wide else None
    found["space"] = next((row["space"] for row in done if "space" in row), None)
    found |= {key: statistics.median(row[key] for row in done) for key in COSTS}
    return found | {"n": metrics[0]["n"], "balanced_accuracy": None if too_wide else mean, "interval": spread}


def difference(about: Mapping, rows: Sequence[Mapping], first: str, second: str) -> dict | None:
    """{"value", "interval"} of the balanced accuracy of ``first`` less that of ``second``, on the same images and by
    the same draws; None until both have a row. The interval is over images, or over draws where there are several."""
    by = {name: {r["seed"]: r for r in rows if r["method"] == name and "error" not in r} for name in (first, second)}
    seeds = sorted(by[first].keys() & by[second].keys())
    if not seeds:
        return None
    if len(seeds) == 1:
        says = [np.eye(len(about["classes"]))[by[name][seeds[0]]["said"]] for name in (second, first)]
        held = about["test"] if about["split"]["kind"] == "given" else about["split"]["held"]
        return study(*says, [about["labels"][i] for i in held], about["classes"], about["split"]["kind"])["gain"]
    value, half = interval([by[first][s]["metrics"]["balanced_accuracy"]
                            - by[second][s]["metrics"]["balanced_accuracy"] for s in seeds])  # fmt: skip
    return {"value": value, "interval": [value - half, value + half]}
