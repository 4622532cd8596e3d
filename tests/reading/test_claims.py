"""What an untaught answer may claim: nothing that was not measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nearl.backbones import load_backbone
from nearl.backbones.catalogue import own_windows
from nearl.backbones.measured import FILE, Measured, class_index
from nearl.cli.options import metric_lines
from nearl.data.formats.volume import Scan
from nearl.data.images import ImageRecord
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.measure import findings
from nearl.measure.evaluate import measure
from nearl.prompts import PromptSet, default_findings, default_prompts, ready_sets
from nearl.reading.claims import Claims, located, recognised
from nearl.reading.classifier import Classifier
from nearl.reading.trust import pooled_temperature, softened
from nearl.report.words import PRETRAINED
from nearl.resources import ASSETS
from tests.support.measured import BLUE, NAMES, RED, measured_backbone, picture, strange
from tests.support.reading import adapter_for, reader

BRAIN, CHEST = (PromptSet.load(ready_sets()[name]) for name in ("brain_mri_tumor", "chest_xray_pneumonia"))


@pytest.fixture(scope="module")
def measured(checkpoints, tmp_path_factory):
    """A backbone that knows red images as brain MRI and blue ones as chest X-rays."""
    return measured_backbone(checkpoints("clip"), tmp_path_factory.mktemp("measured") / "model")


def claim(backbone, prompts, image):
    prediction = Classifier(backbone, prompts).predict([image])
    return prediction.claims[0], prediction.measured


def test_a_set_that_is_hardly_better_than_chance_gives_no_answer_but_a_guess(measured):
    found, words = claim(measured, CHEST, picture(BLUE, 900))
    assert found.kind == "chest_xray" and found.fits
    assert found.doubt.startswith("A guess: on 200 test images") and "51" in found.doubt
    assert "right in 51" in words and "; a guess" in words and "pneumonia 3 of 100" in words
    found, words = claim(measured, BRAIN, picture(RED, 900))
    assert (found.kind, found.fits, found.doubt) == ("brain_mri", True, "")
    assert "On 300 test images" in words and "glioma 70 of 100" in words and "guess" not in words


def test_a_set_with_changed_prompts_is_not_better_for_it(measured):
    texts = [["a new wording", *texts] for texts in CHEST.texts()]
    changed = PromptSet("mine", tuple(name.upper() for name in CHEST.classes), tuple(map(tuple, texts)))
    found, words = claim(measured, changed, picture(BLUE, 900))
    assert "A guess" in found.doubt and "before they were changed" in words
    assert Claims(measured, default_prompts(CHEST.classes)).figures is None  # other prompts for the same classes


def test_classes_of_another_kind_of_image_do_not_fit(measured):
    for prompts in (BRAIN, default_prompts(["glioma", "meningioma"])):
        found, _ = claim(measured, prompts, picture(BLUE, 901))
        assert not found.fits and "do not fit" in found.doubt and "chest X-ray" in found.doubt


def test_words_without_images_of_this_kind_give_a_guess(measured):
    found, words = claim(measured, default_prompts(["pneumothorax", "pneumonia"]), picture(BLUE, 902))
    assert found.fits and "“pneumothorax”" in found.doubt and "“pneumonia”" not in found.doubt
    assert "not been measured" in words
    found, _ = claim(measured, default_prompts(["pneumonia", "a normal chest"]), picture(BLUE, 902))
    assert found.fits and not found.doubt


def test_an_image_unlike_all_others_gives_a_guess(measured):
    found, _ = claim(measured, BRAIN, strange())
    assert (found.kind, found.fits) == ("", False) and "unlike" in found.doubt


def test_figures_say_what_chance_is_and_whether_the_model_learned_from_such_images(measured):
    def told(images):
        data = LabelledSet(["glioma", "meningioma"], images, [0, 1] * (len(images) // 2))
        found = measure(Classifier(measured, default_prompts(data.classes)), data)
        return found, "\n".join(metric_lines(found, "images"))

    found, lines = told([picture(RED, seed) for seed in range(6)])
    assert found["pretrained"] and found["chance"] == 0.5 and found["frozen"]["no_better_than_chance"]
    assert "chance 50" in lines and "no better than chance" in lines and PRETRAINED in lines
    found, lines = told([strange(), strange()])
    assert not found["pretrained"] and PRETRAINED not in lines

    prompts = default_findings(["glioma", "meningioma"])  # of findings too
    images = [picture(RED, seed) for seed in range(4)]
    marks = FindingsSet(list(prompts.classes), images, [(i % 2, 3 - i % 2) for i in range(4)])
    found = findings.measure(Classifier(measured, prompts), marks)
    assert found["pretrained"] and PRETRAINED in metric_lines(found, "images")


def test_probabilities_are_softened_by_the_temperature_of_the_kind(measured):
    images = [picture(RED, 903), picture(BLUE, 903), strange()]
    classifier = Classifier(measured, BRAIN)
    plain, read = classifier.zero_shot.predict(images), classifier.predict(images).frozen
    for i, temperature in enumerate((3.0, 2.0, 2.0)):
        np.testing.assert_allclose(read[i : i + 1], softened(plain[i : i + 1], temperature), atol=1e-6)
    alone = Classifier(measured, BRAIN).predict(images[:1]).frozen
    np.testing.assert_allclose(alone, read[:1], atol=1e-5)


def test_a_backbone_that_was_not_measured_answers_as_it_is(tiny):
    classifier = Classifier(tiny("clip"), CHEST)
    found = classifier.predict([picture(BLUE)])
    assert found.claims is None and found.measured == ""
    np.testing.assert_array_equal(found.frozen, classifier.zero_shot.predict([picture(BLUE)]))
    assert classifier.recognised(picture(BLUE)) is not None


def test_what_was_taught_is_neither_softened_nor_doubted_more(measured):
    images, adapter = [picture(BLUE, 904)], adapter_for(measured)
    prompts = PromptSet.from_dict(adapter.meta["prompts"])
    taught = reader(measured, prompts, adapter)
    np.testing.assert_allclose(taught.predict(images).adapted, taught.method.predict(images), atol=1e-6)


def test_a_ct_is_shown_in_the_window_in_which_it_is_recognised(measured, monkeypatch):
    ones, voxels = np.ones((1, 20)), np.linspace(-1000, 900, 20 * 32 * 32).reshape(1, 20, 32, 32).astype(np.int16)
    scan = Scan(voxels, ones, 0 * ones, modality="CT")
    record = ImageRecord.from_scan("ct", scan)
    names = [window.name for window in scan.presets()]

    def placed(_measured, _familiar, images, views):
        lung = [view.view.window is not None and view.view.window.name == "Lung" for view in views]
        return [("brain_mri", 1.0) if it else ("", 2.0) for it in lung]

    assert record.view.window.name != "Lung" and "Lung" in names
    monkeypatch.setattr("nearl.reading.claims.placed", placed)
    classifier = Classifier(measured, BRAIN)
    found = recognised(classifier.frozen, record)
    assert found.view.window.name == "Lung" and "Lung" in found.notes[-1] and "brain MRI" in found.notes[-1]
    monkeypatch.setattr("nearl.reading.claims.placed", lambda *given: [("", 2.0) for _ in given[-1]])
    assert recognised(classifier.frozen, record) is record
    own = own_windows("medsiglip")
    monkeypatch.setattr("nearl.reading.claims.own_windows", lambda name: own if name == measured.name else ())
    found = recognised(classifier.frozen, record)
    assert found.view.window == own and "three windows" in found.notes[-1]
    assert np.ptp(found.pixels, axis=-1).max() > 0  # in colour
    assert recognised(classifier.frozen, picture(BLUE)).scan is None


def test_a_scan_in_the_window_of_its_kind_says_so_where_it_is_recognised_in_another_alone(measured, monkeypatch):
    ones, voxels = np.ones((1, 20)), np.linspace(-1000, 900, 20 * 32 * 32).reshape(1, 20, 32, 32).astype(np.int16)
    record = ImageRecord.from_scan("ct", Scan(voxels, ones, 0 * ones, modality="CT"))
    monkeypatch.setattr("nearl.reading.claims.WINDOWS", {"brain MRI": "Lung"})
    frozen, known = Classifier(measured, BRAIN).frozen, {"Bone"}

    def placed(_measured, _familiar, images, views):
        return [("brain_mri", 1.0) if view.view.window.name in known else ("", 2.0) for view in views]

    monkeypatch.setattr("nearl.reading.claims.placed", placed)
    found, kind = located(frozen, record)
    assert (found.view.window.name, kind) == ("Lung", "brain_mri")
    assert "recognises a brain MRI in the window “Bone” alone" in found.notes[-1]
    known.add("Lung")
    found, kind = located(frozen, record)
    assert found.view.window.name == "Lung" and "alone" not in found.notes[-1]
    images = torch.zeros(1, measured.embed_dim)
    known.clear()
    assert (
        Claims(measured, BRAIN).of(images, [found], [kind])[0].fits
        and not Claims(measured, BRAIN).of(images, [found])[0].fits
    )


def test_the_file_belongs_to_its_weights(measured, tmp_path):
    found = measured.measured
    found.save(tmp_path)
    assert Measured.load(tmp_path, found.weights) == found
    assert Measured.load(tmp_path, "others") is None and Measured.load(tmp_path / "none", found.weights) is None
    (tmp_path / FILE).write_text("{")
    with pytest.raises(NearlError, match="cannot be read"):
        Measured.load(tmp_path, found.weights)
    assert found.fitting("brain_mri") == ["brain_mri_tumor"] and found.fitting("") == []
    renamed = replace(BRAIN, classes=("glioma", "Meningioma", "pituitary tumour"))
    assert found.of(renamed) == ("brain_mri_tumor", True)
    assert found.named(default_prompts(["two gliomas", "neuroglioma"])) == [{"brain_mri"}, set()]
    assert set(found.names) == set(NAMES)


def test_what_is_shipped_is_of_the_weights_that_are_shipped():
    if not (ASSETS / "backbone" / FILE).is_file():
        pytest.skip("the embedded backbone of this checkout was not measured")
    found = load_backbone("embedded").measured
    assert found is not None and found.kinds.keys() >= {kind for row in found.sets.values() for kind in row.kinds}
    assert {name for name, path in ready_sets().items() if PromptSet.load(path).synthetic} <= found.sets.keys()
    assert set(found.fitting("chest_xray")) >= {"chest_xray_pneumonia"}


def test_few_test_images_do_not_tell_a_set_from_chance(measured):
    row = measured.measured.sets["brain_mri_tumor"]
    assert not row.guess and row.model_copy(update={"interval": (0.3, 0.9)}).guess


def test_folders_of_test_images_are_found_among_the_classes():
    assert class_index(["COVID-19", "no_finding"], "covid19") == 0
    assert class_index(["abdomen_with_liver", "chest"], "liver") == 0
    assert class_index(["no tumor", "tumor"], "tumour") == 1
    assert class_index(["benign", "malignant"], "normal") is None


def test_one_temperature_fits_several_sets():
    rng = np.random.default_rng(0)
    parts = []
    for classes in (2, 4):
        sure = softened(rng.dirichlet(np.ones(classes), 400), 1.0)
        labels = np.array([rng.choice(classes, p=row / row.sum()) for row in sure])
        parts.append((softened(sure, 1 / 3.0), labels))  # three times as sure as it may be
    assert pooled_temperature(parts) == pytest.approx(3.0, rel=0.25)
