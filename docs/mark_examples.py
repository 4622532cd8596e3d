"""Marks the real examples that the embedded model reads wrong before it is taught: `python docs/mark_examples.py`.

Writes to assets/examples/examples.json what each of these is read as ("read"), and puts an example first that is read
correctly and whose Grad-CAM peaks on its finding ("finding": left, top, right, bottom as fractions of the image,
outlined by eye; for this check alone). Run it when the weights or the prompt sets have changed.
"""

from __future__ import annotations

import json
import re

from nearl.backbones import load_backbone
from nearl.data.images import decode_picture
from nearl.explain import MapRequest, Scorer, Trace, draw
from nearl.prompts import PromptSet, class_key, ready_sets
from nearl.reading.classifier import Classifier
from nearl.resources import ASSETS


def look(backbone, entry: dict) -> tuple[str, bool, str]:
    """What an example is read as, whether the map peaks on its finding, and both in words."""
    prompts = PromptSet.load(ready_sets()[entry["prompts"]])
    classifier, record = Classifier(backbone, prompts), decode_picture(ASSETS / "examples" / entry["file"])
    shares = classifier.predict([record]).frozen[0]
    said = int(shares.argmax())
    heatmap = draw(Trace(Scorer(classifier, False), [record]), MapRequest("gradcam", said))[0]
    x, y = (at / side for at, side in zip(heatmap.peak_pixel, record.size, strict=True))
    left, top, right, bottom = entry.get("finding", (2, 2, 2, 2))
    words = f"{prompts.classes[said]} {shares[said]:.0%}, peak at {x:.2f}, {y:.2f}"
    return prompts.classes[said], left <= x <= right and top <= y <= bottom, words


def main() -> None:
    path, backbone = ASSETS / "examples" / "examples.json", load_backbone("embedded")
    entries, first = json.loads(path.read_text(encoding="utf-8")), []
    for entry in entries:
        entry.pop("read", None)
        if entry["class"] is None:  # a volume
            continue
        said, on_finding, words = look(backbone, entry)
        if class_key(said) != class_key(entry["class"]):
            entry["read"] = said
        elif on_finding:
            first.append(entry)
        print(f"{entry['label']}: {words}{', wrong' if 'read' in entry else ', on the finding' if on_finding else ''}")
    if not first:
        raise SystemExit("No example is read correctly with its map on the finding; choose others.")
    entries.insert(0, entries.pop(entries.index(first[0])))
    text = json.dumps(entries, indent=2, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}]+\]", lambda numbers: f"[{' '.join(numbers[0][1:-1].split())}]", text)  # on one line
    path.write_text(text + "\n", encoding="utf-8")
    print(f"First: {entries[0]['label']}")


if __name__ == "__main__":
    main()
