"""The real examples: whose they are, and that those which the embedded model misreads or guesses are said to be so."""

import json

from app.context import load_ready_prompts
from app.examples import GUESS, MISREAD, example_list, tasks
from nearl.backbones import load_backbone
from nearl.data.images import decode_one, decode_picture
from nearl.explain import MapRequest, Scorer, Trace, draw
from nearl.prompts import PromptSet, class_key
from nearl.reading.classifier import Classifier
from nearl.resources import ASSETS


def test_every_real_example_is_credited_and_right_before_teaching_or_marked_as_one_to_teach():
    shown = [example for example in example_list() if not example.synthetic]
    entries = json.loads((ASSETS / "examples" / "examples.json").read_text(encoding="utf-8"))
    assert 16 <= len(shown) == len(entries) <= 20
    backbone = load_backbone("embedded")
    order = [2 if "guess" in entry else int("read" in entry) for entry in entries]
    assert order == sorted(order) and order.count(0) >= 6  # what it knows first
    for example, entry in zip(shown, entries, strict=True):
        assert entry["credit"] in example.credit
        guess = "guess" in entry
        assert (GUESS in example.credit, MISREAD in example.credit) == (guess, "read" in entry and not guess)
        prompts = PromptSet.from_dict(example.prompts)
        classifier = Classifier(backbone, prompts)
        if entry["class"] is None:  # a volume
            assert classifier.predict([classifier.recognised(decode_one(example.path))]).claims[0].doubt and guess
            continue
        found = classifier.predict([decode_picture(example.path)])
        assert bool(found.claims[0].doubt) == guess, example.label
        said = prompts.classes[int(found.frozen[0].argmax())]
        assert said == entry.get("read", said)
        assert (class_key(said) == class_key(entry["class"])) == ("read" not in entry), example.label


def test_examples_and_ready_tasks_have_the_ready_sets_as_the_editor_shows_them():
    shown = load_ready_prompts()
    assert all(example.prompts == shown[example.prompts["name"]] for example in example_list())
    for task in (task for task in tasks().values() if not task.synthetic):
        for part in task.images(1, 1):
            assert not [name for name in part.classes if "_" in name]
            assert {c["name"] for c in shown[task.prompts]["classes"]} >= set(part.classes)


def test_the_first_example_is_right_and_its_map_lies_on_the_finding():
    first, entry = example_list()[0], json.loads((ASSETS / "examples" / "examples.json").read_text())[0]
    prompts, record = PromptSet.from_dict(first.prompts), decode_picture(first.path)
    classifier = Classifier(load_backbone("embedded"), prompts)
    assert not first.synthetic and "read" not in entry
    index = [class_key(name) for name in prompts.classes].index(class_key(entry["class"]))
    x, y = draw(Trace(Scorer(classifier, False), [record]), MapRequest("gradcam", index))[0].peak_pixel
    left, top, right, bottom = entry["finding"]
    assert left <= x / record.size[0] <= right and top <= y / record.size[1] <= bottom
