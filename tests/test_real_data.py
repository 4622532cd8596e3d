"""The whole road on real images, with the embedded backbone. Skipped where the images are not."""

import json

import pytest

from nearl.cli.main import main
from nearl.data.sets.labelled import resolve_splits
from nearl.prompts import PromptSet, ready_sets


def run(capsys, *words):
    main([str(word) for word in words])
    return json.loads(capsys.readouterr().out)


def test_ready_prompts_are_for_the_classes_of_their_set(real_data):
    found = {name: PromptSet.load(path) for name, path in ready_sets().items()}
    for name, prompt_set in found.items():
        if prompt_set.synthetic:
            continue
        classes = sorted(path.name for path in (real_data / name / "train").iterdir())
        if len(classes) > 1:  # those of one class are asked against what else it might be
            prompt_set.for_classes(classes)


def test_teaching_raises_balanced_accuracy_on_real_blood_cells(real_data, tmp_path, capsys):
    data = tmp_path / "cells"
    for source in (real_data / "malaria_cells_gray").glob("t*/*"):  # never seen in pretraining
        folder = data / source.parent.name / source.name
        folder.mkdir(parents=True)
        for path in sorted(source.iterdir())[:12]:
            (folder / path.name).write_bytes(path.read_bytes())
    train, test = resolve_splits(data)
    assert test is not None and not train.problems
    adapter = tmp_path / "adapter"
    run(capsys, "finetune", data, "--shots", 8, "--preset", "quick", "--steps", 12, "--out", adapter, "--json")
    result = run(capsys, "evaluate", data, "--adapter", adapter, "--json")
    assert result["n"] == len(test) == 24
    assert result["adapted"]["balanced_accuracy"] > result["frozen"]["balanced_accuracy"]


@pytest.mark.parametrize(("folder", "chance"), [("chest_xray_pneumonia", 0.5)])
def test_the_embedded_backbone_is_better_than_chance_on_what_it_was_trained_for(real_data, tmp_path, folder, chance):
    from nearl.backbones import load_backbone
    from nearl.data.splits import draw_support
    from nearl.measure.evaluate import measure
    from nearl.reading.classifier import Classifier

    _, test = resolve_splits(real_data / folder)
    some = test.subset(draw_support(test.labels, 8, seed=0))
    classifier = Classifier(load_backbone("embedded"), PromptSet.load(ready_sets()[folder]))
    assert measure(classifier, some)["frozen"]["balanced_accuracy_interval"][0] > chance
