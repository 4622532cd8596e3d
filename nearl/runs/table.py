"""The rows of a run as one line for each method, and the difference of two methods."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from nearl.data.splits import FEW_HELD
from nearl.measure.elsewhere import drop
from nearl.measure.evaluate import WIDEST, study
from nearl.measure.intervals import student
from nearl.methods import card
from nearl.runs.job import Job

COSTS = ("fit_seconds", "predict_ms", "parameters", "taught")


def scores(job: Job, rows: Sequence[Mapping]) -> list[dict]:
    """A dict for each method of the job, in its order: "method", "title", "error" (a sentence or ""), "done"
    (how many seeds), "few" (whether it was measured on few images), "pretrained" (whether the model learned from images
    of this kind), and where it was measured "n", the means "balanced_accuracy", "auroc", "ece", "interval", the medians
    of the costs, and "space" or None. Where images of another source were read, also "there", the mean balanced
    accuracy on them, and "drop", {"value", "interval"}.

    ``rows``: of `nearl.runs.teaching.Finished`. "interval" [low, high]: 95 %, over the images measured on where there
    is one seed, else over the seeds; None where the seeds do not differ. A balanced accuracy whose interval over images
    is wider than 0.5 is None.
    """
    return [_score(name, [row for row in rows if row["method"] == name]) for name in job.methods]


def _score(name: str, rows: list[Mapping]) -> dict:
    done = [row for row in rows if row.get("metrics")]
    found = {
        "method": name,
        "title": card(name).title,
        "error": next((row["error"] for row in rows if "error" in row), ""),
        "done": len(done),
        "few": bool(done) and done[0]["metrics"]["n"] < FEW_HELD,
        "pretrained": any(row.get("pretrained") for row in done),
    }
    if not done:
        return found
    metrics = [row["metrics"] for row in done]
    mean, half = student([m["balanced_accuracy"] for m in metrics])
    spread = list(metrics[0]["balanced_accuracy_interval"])
    too_wide = spread[1] - spread[0] > WIDEST
    if len(done) > 1:
        spread = [max(mean - half, 0.0), min(mean + half, 1.0)] if half else None
    for key in ("auroc", "ece"):
        values = [m[key] for m in metrics if m[key] is not None]
        found[key] = statistics.fmean(values) if values and not too_wide else None
    found |= {} if too_wide else _elsewhere(done)
    found["space"] = next((row["space"] for row in done if "space" in row), None)
    found |= {key: statistics.median(row[key] for row in done) for key in COSTS}
    return found | {"n": metrics[0]["n"], "balanced_accuracy": None if too_wide else mean, "interval": spread}


def _elsewhere(done: list[Mapping]) -> dict:
    """The mean balanced accuracy on the other source, and by how much it is lower there: over images with one seed,
    over the seeds with several that differ."""
    both = [(row["metrics"], row["there"]) for row in done if "there" in row]
    if not both:
        return {}
    drops = [drop(here, there) for here, there in both]
    value, half = student([each["value"] for each in drops])
    interval = drops[0]["interval"] if not half else [value - half, value + half]
    mean = statistics.fmean(there["balanced_accuracy"] for _, there in both)
    return {"there": mean, "drop": {"value": value, "interval": interval}}


def difference(job: Job, rows: Sequence[Mapping], first: str, second: str) -> dict | None:
    """{"value", "interval"} of the balanced accuracy of ``first`` minus that of ``second``, on the same images
    and with the same seeds; None until both have a row. The interval is over images, or over seeds where there are
    several."""
    by = {name: {r["seed"]: r for r in rows if r["method"] == name and r.get("metrics")} for name in (first, second)}
    seeds = sorted(by[first].keys() & by[second].keys())
    if not seeds:
        return None
    if len(seeds) == 1:
        says = [np.eye(len(job.classes))[by[name][seeds[0]]["said"]] for name in (second, first)]
        return study(*says, [job.labels[i] for i in job.held], job.classes, job.split.kind)["gain"]  # type: ignore[call-arg]
    accuracy = {name: [by[name][seed]["metrics"]["balanced_accuracy"] for seed in seeds] for name in by}
    value, half = student(np.subtract(accuracy[first], accuracy[second]).tolist())
    return {"value": value, "interval": [value - half, value + half]}
