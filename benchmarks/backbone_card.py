"""Writes the figures of ``backbone.py`` into the model card: ``python benchmarks/backbone_card.py runs/backbone.json``.

The card (assets/backbone/README.md), and docs/results.md for some of them, hold a pair of comments for every table,
``<!-- name -->`` and ``<!-- /name -->``; what is between them is replaced. With --run, the summary that pretraining
left in its folder is written there too.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
from backbone_maps import FINDINGS, INSIDE, MAPS, ORGANS
from backbone_sets import FIRST, HOG, KEPT_FIRST, KEPT_OUT, LEARNED, SHORTCUTS

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "assets" / "backbone" / "README.md", ROOT / "docs" / "results.md")
NAMES = {"gradcam": "Grad-CAM", "relevance": "Relevance", "evidence": "Patch evidence"}


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def run(summary: dict) -> str:
    return (
        f"These weights took {summary['steps']:,} steps, {summary['views']:,} views, {summary['minutes'] / 60:.1f} "
        f"hours on two shared CPU cores, and {summary['text_steps']:,} steps of the text tower alone at the end."
    )


def zero_shot(result: dict) -> str:
    rows, held = [], result.get("run", {}).get("held_out", {})
    for name in LEARNED:
        row = result["zero_shot"][name]
        noted = [f"{table[name]:.2f}" if name in table else "" for table in (held, HOG, SHORTCUTS)]
        occurring = sum(r["n"] > 0 for r in row["recall"])
        low, high = row["balanced_accuracy_interval"]
        rows.append(
            [
                f"`{name}`",
                f"{1 / len(row['recall']):.2f}",
                f"**{row['balanced_accuracy']:.2f}**" + ("" if occurring > 1 else " (one class)"),
                f"{low:.2f}-{high:.2f}",
                "" if row["auroc"] is None else f"{row['auroc']:.2f}",
                f"{row['ece']:.2f}",
                *noted,
            ]
        )
    head = ["set", "chance", "zero-shot", "interval", "AUROC", "ECE", "held-out part of train", "HOG + colours"]
    mean = np.mean([result["zero_shot"][name]["balanced_accuracy"] for name in FIRST])
    return f"{table([*head, 'shortcuts'], rows)}\n\nMean of the first eight sets: {mean:.3f}."


def kind(result: dict) -> str:
    found, lines = result["kind"], []
    for part, words in (("trained", "Sets it learned from"), ("kept_out", "Sets it never saw")):
        each = ", ".join(f"`{name}` {row['right'] / row['n']:.2f}" for name, row in found[part].items())
        lines.append(
            f"{words}: {found[f'{part}_of_images']:.3f} of the images, mean of the sets "
            f"{found[f'{part}_mean_of_sets']:.3f} ({each})."
        )
    return "\n\n".join(lines)


def offered(result: dict) -> str:
    found = result["offered"]
    trained = sum(found[name]["n"] for name in LEARNED)
    return (
        f"While the editor asks about another kind, ready sets of the right kind are offered for "
        f"{found['all']['right_of_trained']:.1%} of the {trained:,} test images of trained kinds; for photos of the "
        f"retina, of which it knows nothing, nothing is offered for {found['all']['silent_of_unknown']:.0%}."
    )


def unfamiliar(result: dict) -> str:
    found = result["unfamiliar"]
    others = [name for name in found if name not in LEARNED]
    share = lambda names: ", ".join(f"`{name}` {found[name]:.0%}" for name in names)  # noqa: E731
    return (
        f"Called unlike its training images, of sets it learned from: {share(LEARNED)}.\n\nOf others: {share(others)}."
    )


def words(result: dict) -> str:
    drop = 100 * np.mean([row["drop"] for row in result["rewordings"]])
    flipped = np.mean([row["flipped"] for row in result["negations"]])
    return (
        f"{len(result['rewordings'])} rewordings of whole prompt sets (case, spelling, order, plural, synonyms, "
        f"sentences, single words), each with one prompt per class: balanced accuracy is {drop:.1f} points lower than "
        f"with the ensembles on average. {len(result['negations'])} prompts and their denials: {flipped:.0%} of the "
        "pairs of images, one of the prompt's classes and one of the others, are ranked the other way round by the "
        "denial."
    )


def transfer(result: dict) -> str:
    found, rows = result["transfer"], []
    lead = lambda row: f"{100 * row[0]:+.1f} ({100 * row[1]:+.1f} to {100 * row[2]:+.1f})"  # noqa: E731
    for name in KEPT_OUT:
        one = found[name]
        means = [
            f"{one[k]['mean']:.2f} ± {one[k]['half_interval']:.2f}" for k in ("embedded", "ImageNet", "random copy")
        ]
        rows.append([f"`{name}`", *means, lead(one["lead over ImageNet"]), lead(one["lead over random copy"])])
    for words, names in (("mean of the first six", KEPT_FIRST), ("mean of all", KEPT_OUT)):
        means = [
            f"**{np.mean([found[n][k]['mean'] for n in names]):.3f}**" for k in ("embedded", "ImageNet", "random copy")
        ]
        rows.append([words, *means, "", ""])
    return table(
        [
            "set kept out",
            "embedded",
            "EfficientNet-Lite0, ImageNet",
            "random copies",
            "lead over ImageNet",
            "lead over copies",
        ],
        rows,
    )


def maps(result: dict) -> str:
    found, rows = result["maps"], []
    for name in (*FINDINGS, "findings", *ORGANS, "organs"):
        cells = []
        for key in MAPS:
            row = found[name][key]
            cells.append(f"{row['hits'] / row['n']:.2f} ({row['control'] / row['n']:.2f})")
        row = found[name][MAPS[0]]
        label = f"**all {name}**" if name in ("findings", "organs") else f"`{name}`"
        rows.append([label, f"{row['n']:.0f}", f"{row['chance'] / row['n']:.2f}", *cells])
    return table(["set", "images", "chance", *(f"{NAMES[key]} (control)" for key in MAPS)], rows)


def peaks(result: dict) -> str:
    rows = []
    for name, what in INSIDE.items():
        found = result["peaks"][name]
        cells = [f"{found[key]['inside'] / found[key]['n']:.2f}" for key in MAPS]
        rows.append([f"`{name}`", what, f"{found[MAPS[0]]['chance'] / found[MAPS[0]]['n']:.2f}", *cells])
    return table(["set", "inside the", "chance", *(NAMES[key] for key in MAPS)], rows)


def speed(result: dict) -> str:
    each = [f"{ms:.0f} ms on {n} thread{'s' * (n != '1')}" for n, ms in result["speed"].items()]
    return f"One image at 224 px in float32: {', '.join(each)}, of a CPU on which other programs may run."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--run", type=Path, help="folder of the pretraining run")
    args = parser.parse_args()
    result = json.loads(args.result.read_text(encoding="utf-8"))
    if args.run:
        result["run"] = json.loads((args.run / "pretrain.json").read_text(encoding="utf-8"))
    parts = {part.__name__: part for part in (zero_shot, kind, offered, unfamiliar, transfer, maps, peaks, speed)}
    found = {name: part(result) for name, part in parts.items() if result.get(name)}
    found |= {"words": words(result)} if "negations" in result else {}
    found |= {"run": run(result["run"])} if "run" in result else {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, content in found.items():
            text = filled(text, name, content)
        page.write_text(text, encoding="utf-8")


def filled(text: str, name: str, content: str) -> str:
    """The text with the content between the comments of that name, where it has them."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


if __name__ == "__main__":
    main()
