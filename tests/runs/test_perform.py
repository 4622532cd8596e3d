"""Runs: measured on images that never taught, resumed to the same end, any method, several methods and seeds."""

import json

import pytest
import torch

from nearl.data.images import ImageRecord
from nearl.data.splits import Split
from nearl.errors import NearlError
from nearl.methods import METHODS, Frozen, restore
from nearl.prompts import default_prompts
from nearl.reading.classifier import Classifier
from nearl.report.results import readable
from nearl.runs import Finished, Job, Step, perform, teaching
from nearl.train.recipe import Snapshot
from tests.support.measured import measured_backbone
from tests.support.runs import CLASSES, finish, made, shades


@pytest.fixture(scope="module")
def backbone(tiny):
    return tiny("clip")


def read(backbone, adapter, records):
    """What a classifier says with an adapter, as the model gives it."""
    adapter.meta["trust"] = None
    return Classifier(backbone, default_prompts(CLASSES), restore(backbone, adapter)).predict(records)


def test_a_job_is_plain_data(backbone):
    a = made(backbone, test=shades(2, seed=1), methods=["nearl", "lora"], seeds=[0, 1])
    assert a.images.dtype == torch.uint8 and a.images.shape == (16, 3, 32, 32) and a.test == [12, 13, 14, 15]
    b = Job.from_plain(json.loads(json.dumps(a.to_plain())), a.images)
    assert b.to_plain() == a.to_plain() and b.split == a.split and torch.equal(b.images, a.images)
    with pytest.raises(ValueError):
        Job.from_plain(a.to_plain() | {"labels": "none"})


def test_methods_seeds_and_recipes_of_a_job(backbone):
    a = made(backbone, methods=["zero-shot", "lora", "prolip"], seeds=[0, 1], lr=1e-2)
    assert a.pairs == [("zero-shot", 0), ("lora", 0), ("prolip", 0), ("lora", 1), ("prolip", 1)]
    assert not a.alone and made(backbone).alone and not made(backbone, compared=True).alone
    assert a.recipe_of("lora", 1).seed == 1 and a.recipe_of("lora").lr == 1e-2
    a.recipe, a.preset = {}, "quick"
    assert a.recipe_of("nearl").steps == a.recipe_of("lora").steps < METHODS["lora"].recipe().steps
    assert a.recipe_of("prolip") == METHODS["prolip"].recipe()  # works on features: steps cost next to nothing
    for wrong in ({"methods": ["tip"]}, {"steps": 0}, {"augment": "wild"}):
        with pytest.raises(NearlError):
            made(backbone, **wrong)


def test_before_is_calibrated_as_it_is_when_the_images_are_read(checkpoints, tmp_path):
    known = measured_backbone(checkpoints("clip"), tmp_path / "model")
    job = made(known, steps=2)
    _, end = finish(perform(job, backbone=known))
    assert readable(end.results) and end.results["pretrained"] is False  # the images are unlike those of the model
    pixels = [job.images[row["image"]].permute(1, 2, 0).numpy() for row in end.images]
    records = [ImageRecord.from_pixels("x", image) for image in pixels]
    read = Classifier(known, default_prompts(CLASSES)).predict(records).frozen
    assert [row["before_share"] for row in end.images] == pytest.approx(read.max(1).tolist(), abs=1e-4)


def test_held_out_images_are_measured_and_never_taught(backbone):
    a = made(backbone)
    assert a.split.kind == "held-out"
    steps, end = finish(perform(a, backbone=backbone))
    assert [s.step for s in steps if s.phase == "teaching"] == list(range(1, 21))
    assert [s.step for s in steps if s.phase == "checking"][-1] == 12  # all images go through the frozen model
    assert end.results["n"] == end.row["metrics"]["n"] == len(a.split.held) == len(end.images)
    assert [row["image"] for row in end.images] == a.split.held and end.row["stopped"] == ""
    assert [row["file"] for row in end.images] == [a.files[i] for i in a.split.held]
    assert sum(end.adapter.meta["support_counts"].values()) == len(a.split.support) == end.row["taught"]
    assert end.adapter.meta["metrics"] == end.results and end.adapter.meta["trust"]
    assert set(end.row["seconds"]) == {"decode", "forward", "backward", "optimiser", "evaluate"}
    assert all(value > 0 for value in end.row["seconds"].values())
    json.dumps(end.row)

    noise = made(backbone)  # other held-out images: the same adapter, other figures
    noise.images[a.split.held] = torch.randint(0, 256, noise.images[a.split.held].shape, dtype=torch.uint8)
    _, other = finish(perform(noise, backbone=backbone))
    assert other.adapter.version == end.adapter.version and other.images != end.images


def test_figures_are_those_of_a_reading(backbone):
    """At a size that is not the model's own, from the images as they came."""
    data = shades(side=50)
    a = made(backbone, data)
    _, end = finish(perform(a, backbone=backbone))
    prediction = read(backbone, end.adapter, [data.records[i] for i in a.split.held])
    for row, frozen, adapted in zip(end.images, prediction.frozen, prediction.adapted, strict=True):
        assert list(row["shares_before"].values()) == pytest.approx(frozen.tolist(), abs=1e-4)
        assert list(row["shares_after"].values()) == pytest.approx(adapted.tolist(), abs=1e-4)


def test_given_test_images_are_what_is_measured(backbone):
    test = shades(5, seed=1)
    test.classes, test.labels = CLASSES[::-1], [1 - label for label in test.labels]  # in another order
    a = made(backbone, test=test)
    assert a.split.kind == "given" and a.labels[-10:] == [0] * 5 + [1] * 5 and a.held == a.test
    _, end = finish(perform(a, backbone=backbone))
    assert end.results["n"] == 10 and end.adapter.meta["support_counts"] == {"one": 6, "two": 6}
    test.classes = ["one", "three"]
    with pytest.raises(NearlError, match="three"):
        made(backbone, test=test)


@pytest.mark.parametrize("method", ["nearl", "linear-probe", "lora"])
def test_folds_are_measured_by_models_that_never_saw_them(backbone, monkeypatch, method):
    data = shades(3)
    a = made(backbone, data, methods=[method], steps=6)
    assert a.split.kind == "folds"
    taught, frozen, read = [], [], []
    make, see = teaching.Fit, Frozen.see

    class Watched(make):
        def __init__(self, name, task, *more):
            super().__init__(name, task, *more)
            support = {record.digest for record in task.support.records}
            taught.append(len(support))
            predict = self.method.predict
            own = lambda records: read.append(support & {r.digest for r in records}) or predict(records)  # noqa: E731
            monkeypatch.setattr(self.method, "predict", own)

    monkeypatch.setattr(teaching, "Fit", Watched)
    monkeypatch.setattr(Frozen, "see", lambda self, x: frozen.append(len(x)) or see(self, x))
    steps, end = finish(perform(a, backbone=backbone))
    assert taught == [6, 4, 4, 4] and read == [set()] * 3  # no image is read by a model that it taught
    phases = list(dict.fromkeys(step.phase for step in steps))
    folds = ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]
    assert sorted(phases) == sorted(["checking", *(["teaching", *folds] if method != "linear-probe" else [])])
    assert end.results["n"] == 6 and sorted(row["image"] for row in end.images) == list(range(6))
    assert end.results["kind"] == "folds" and end.adapter.meta["support_counts"] == {"one": 3, "two": 3}
    if method != "lora":
        assert sum(frozen) == 6  # the frozen model saw every image once
    left = [step.seconds_left for step in steps if step.phase != "checking"]
    assert not left or left[0] > left[-1] == 0


def test_nothing_held_nothing_claimed(backbone):
    a = made(backbone, split=Split("none", list(range(12)), [], [], ""), steps=6)
    _, end = finish(perform(a, backbone=backbone))
    assert end.results["n"] == 0 and end.results["adapted"] is None and end.images == []
    assert end.adapter.meta["metrics"] is end.row["metrics"] is None


def test_cancelling_keeps_the_best_weights_so_far(backbone):
    counted = iter(range(1000))
    steps, end = finish(perform(made(backbone), stop=lambda: next(counted) == 9, backbone=backbone))
    assert len(steps) == 9 and end.row["stopped"] == "cancelled" and end.results is None
    assert 5 <= end.adapter.meta["recipe"]["steps_taken"] <= 9
    steps, end = finish(perform(made(backbone), stop=lambda: True, backbone=backbone))
    assert not steps and end.adapter is None
    folds = made(backbone, shades(3), steps=6)
    asked = iter(range(1000))
    steps, end = finish(perform(folds, stop=lambda: next(asked) == 8, backbone=backbone))
    assert steps[-1].phase == "fold 1 of 3" and end.adapter.meta["recipe"]["steps_taken"] == 6


@pytest.mark.parametrize(("method", "per_class"), [("nearl", 3), ("lora", 3), ("coop", 6)])
def test_a_run_resumes_from_any_snapshot_to_the_same_end(backbone, method, per_class):
    a = made(backbone, shades(per_class), methods=[method], steps=6, augment="gentle")
    snapshots = [event for event in perform(a, every=0, backbone=backbone) if isinstance(event, Snapshot)]
    _, whole = finish(perform(a, backbone=backbone))
    assert len(snapshots) >= 5
    for saved in snapshots[len(snapshots) // 4 :: len(snapshots) // 2]:  # two of them
        saved = Snapshot(saved.tensors, json.loads(json.dumps(saved.about)))
        _, again = finish(perform(a, state=saved, backbone=backbone))
        assert again.adapter.version == whole.adapter.version and again.images == whole.images


@pytest.mark.parametrize(
    "method", [name for name, kind in METHODS.items() if name == "nearl:no-partner" or not kind.card.ablates][1:]
)
def test_any_method_is_taught_measured_and_read_with(backbone, method):
    data = shades()
    a = made(backbone, data, methods=[method], steps=4)
    _, end = finish(perform(a, backbone=backbone))
    assert end.adapter.meta["method"] == method and end.results["n"] == len(a.held) and end.adapter.meta["trust"]
    assert end.row["parameters"] == end.adapter.meta.get("parameters", end.row["parameters"])
    prediction = read(backbone, end.adapter, [data.records[i] for i in a.held])
    for row, adapted in zip(end.images, prediction.adapted, strict=True):
        assert list(row["shares_after"].values()) == pytest.approx(adapted.tolist(), abs=1e-4)


def test_an_ablation_keeps_its_name_and_its_recipe(backbone):
    _, end = finish(perform(made(backbone, methods=["nearl:no-orthogonality"], steps=2), backbone=backbone))
    assert end.adapter.meta["method"] == "nearl:no-orthogonality" and end.results["n"]
    assert made(backbone, methods=["nearl:no-anchor"]).recipe_of("nearl:no-anchor").pull == 0


def test_several_methods_have_the_same_images_and_a_failure_is_a_row(backbone, monkeypatch):
    a = made(backbone, methods=["zero-shot", "lora", "nearl"], seeds=[0, 1], compared=True, shots=2, steps=2)

    def broken(self, *more):
        raise NearlError("LoRA needs the package 'peft'.")

    monkeypatch.setattr(METHODS["lora"], "fit", broken)
    ends = [event for event in perform(a, backbone=backbone) if isinstance(event, Finished)]
    assert [(end.row["method"], end.row["seed"]) for end in ends] == a.pairs
    failed = [end.row for end in ends if "error" in end.row]
    assert [row["method"] for row in failed] == ["lora", "lora"] and "peft" in failed[0]["error"]
    zero, ours, again = (end for end in ends if "error" not in end.row)
    assert zero.adapter is None and ours.adapter.meta["metrics"]["n"] == len(a.held) and again.adapter is None
    assert ours.row["taught"] == 4 and ours.row["parameters"] > 0 and len(ours.row["said"]) == len(a.held)
    assert set(ours.row["space"]) == {"before", "after", "labels", "together"} and "space" not in again.row
    assert ours.row["predict_ms"] > 0 and json.dumps(ours.row)
    alone = made(backbone, methods=["lora"])
    with pytest.raises(NearlError, match="peft"):  # where it is the only one, it is the run that fails
        list(perform(alone, backbone=backbone))


def test_every_method_has_the_same_images_and_none_is_measured_on_its_own(backbone, monkeypatch):
    a = made(backbone, methods=["zero-shot", "linear-probe", "lora", "nearl"], seeds=[0, 1], compared=True, shots=2)
    seen = []

    def watched(name, task, recipe, *more):
        seen.append((name, recipe, {record.digest for record in task.support.records}))
        raise NearlError("Enough seen.")

    monkeypatch.setattr(teaching, "Fit", watched)
    assert all("error" in event.row for event in perform(a, backbone=backbone) if isinstance(event, Finished))
    assert [(name, recipe.seed) for name, recipe, _ in seen] == a.pairs
    pixels = a.images.permute(0, 2, 3, 1).numpy()
    held = {ImageRecord.from_pixels(a.files[i], pixels[i]).digest for i in a.held}
    for _, recipe, images in seen:
        assert len(images) == 4 and not images & held
        assert all(images == others for _, other, others in seen if other.seed == recipe.seed)
    assert seen[0][2] != seen[-1][2]


def test_cancelling_a_comparison_lets_the_method_at_work_go(backbone):
    a = made(backbone, methods=["linear-probe", "nearl"], compared=True)
    seen = []
    events = perform(a, stop=lambda: bool(seen) and seen[-1] == ("nearl", 3), backbone=backbone)
    ends = []
    for event in events:
        if isinstance(event, Step):
            seen.append((event.method, event.step))
        elif isinstance(event, Finished):
            ends.append(event.row["method"])
    assert ends == ["linear-probe"] and seen[-1] == ("nearl", 3)


def test_a_model_with_other_weights_is_refused(backbone):
    a = made(backbone)
    a.backbone["fingerprint"] = "0" * 64
    with pytest.raises(NearlError, match="other weights"):
        next(perform(a))
