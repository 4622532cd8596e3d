"""Marks the real examples that the embedded model reads wrong before it is taught: `python docs/mark_examples.py`.

Writes to assets/examples/examples.json what each of these is read as ("read") and whether the model calls its answer a
guess ("guess"). First come those that are read correctly, one whose Grad-CAM peaks on its finding before all
("finding": left, top, right, bottom as fractions of the image, outlined by eye; for this check alone), then those that
are misread, last those that are guesses. Run it when the weights or the prompt sets have changed.
"""

from __future__ import annotations

import json
import re

from nearl.backbones import load_backbone
from nearl.data.images import decode_one, decode_picture
from nearl.explain import MapRequest, Scorer, Trace, draw
from nearl.prompts import PromptSet, class_key, ready_sets
from nearl.reading.classifier import Classifier
from nearl.resources import ASSETS


def look(backbone, entry: dict) -> tuple[str, bool, bool, str]:
    """What an example is read as, whether that is a guess, whether the map peaks on its finding, and all in words."""
    prompts, path = PromptSet.load(ready_sets()[entry["prompts"]]), ASSETS / "examples" / entry["file"]
    classifier = Classifier(backbone, prompts)
    record = decode_picture(path) if entry["class"] is not None else classifier.recognised(decode_one(path))
    found = classifier.predict([record])
    shares, guess = found.frozen[0], bool(found.claims[0].doubt)
    said = int(shares.argmax())
    heatmap = draw(Trace(Scorer(classifier, False), [record]), MapRequest("gradcam", said))[0]
    x, y = (at / side for at, side in zip(heatmap.peak_pixel, record.size, strict=True))
    left, top, right, bottom = entry.get("finding", (2, 2, 2, 2))
    words = f"{prompts.classes[said]} {shares[said]:.0%}{', a guess' if guess else ''}, peak at {x:.2f}, {y:.2f}"
    return prompts.classes[said], guess, left <= x <= right and top <= y <= bottom, words


def main() -> None:
    path, backbone = ASSETS / "examples" / "examples.json", load_backbone("embedded")
    entries, first = json.loads(path.read_text(encoding="utf-8")), []
    for entry in entries:
        for key in ("read", "guess"):
            entry.pop(key, None)
        said, guess, on_finding, words = look(backbone, entry)
        if guess:
            entry["guess"] = True
        if entry["class"] is not None and class_key(said) != class_key(entry["class"]):  # not a volume
            entry["read"] = said
        elif on_finding and not guess:
            first.append(entry)
        print(f"{entry['label']}: {words}{', wrong' if 'read' in entry else ', on the finding' if on_finding else ''}")
    if not first:
        raise SystemExit("No example is read correctly with its map on the finding; choose others.")
    entries.insert(0, entries.pop(entries.index(first[0])))
    entries.sort(key=lambda entry: 2 if "guess" in entry else int("read" in entry))
    text = json.dumps(entries, indent=2, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}]+\]", lambda numbers: f"[{' '.join(numbers[0][1:-1].split())}]", text)  # on one line
    path.write_text(text + "\n", encoding="utf-8")
    print(f"First: {entries[0]['label']}")


if __name__ == "__main__":
    main()
