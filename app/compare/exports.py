"""A comparison as a file to download."""

from __future__ import annotations

from pathlib import Path

from app.compare.actions import answers, gain_words, images, lines
from app.work.run import RunView
from nearl.errors import NearlError

EXPORTS = ("csv", "png", "json")


def export(view: RunView, kind: str) -> Path:
    """A comparison as a file to download, of a kind in EXPORTS. NearlError where nothing is finished."""
    found = lines(view)
    if not any(line["done"] for line in found):
        raise NearlError("No method is finished yet; wait until one is.")
    from nearl.report import comparison

    about, told = view.folder.about, [gain_words(*answer) for answer in answers(view)]
    path = view.workspace.download(f"nearl-comparison.{kind}")
    if kind == "png":
        return comparison.png(found, images(about), told, path)
    if kind == "csv":
        path.write_text(comparison.csv(found), encoding="utf-8-sig", newline="")
    else:
        settings = {"backbone": Path(about.backbone["name"]).name, "shots": about.shots, "preset": about.preset}
        settings |= {"seeds": about.seeds, "classes": about.classes}
        path.write_text(comparison.data(found, images(about), settings, told), encoding="utf-8")
    return path
