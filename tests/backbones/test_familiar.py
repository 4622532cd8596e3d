"""Whether an image is like those learned from, and whether other words than the visitor's are closer to it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from app.context import set_title
from nearl.backbones import load_backbone
from nearl.backbones.familiar import BESIDE, FILE, MARGIN, Familiar, closer_sets, fitting_sets, threshold, tolerance
from nearl.data.images import ImageRecord
from nearl.data.phantoms.kinds import KINDS, phantom_set
from nearl.errors import NearlError
from nearl.methods import Frozen
from nearl.prompts import PromptSet, ready_sets
from nearl.reading.classifier import Classifier

AXES = torch.eye(4)
SCALE = 10.0


def rows(*cosines):
    """Classes [C, 4] with these cosines to the first axis."""
    return torch.stack([torch.tensor([c, (1 - c * c) ** 0.5, 0.0, 0.0]) for c in cosines])


def test_a_set_is_named_where_its_closest_class_leads_clearly():
    own = rows(0.1, -0.5)  # one logit at most
    lead = 0.1 + MARGIN / SCALE
    sets = {"below": rows(lead - 0.01, -1.0), "above": rows(-1.0, lead + 0.01)}
    assert closer_sets(AXES[:1], own, sets, SCALE) == [["above"]]
    assert closer_sets(AXES[:1], own, {"below": sets["below"]}, SCALE) == [[]]
    assert closer_sets(AXES[2:3], own, sets, SCALE) == [[]]  # an image that nothing describes
    assert closer_sets(AXES[:2], own, {}, SCALE) == [[], []] and closer_sets(AXES[:0], own, sets, SCALE) == []


def test_sets_beside_the_best_are_named_too_the_closest_first():
    near, far = 0.95 - 0.9 * BESIDE / SCALE, 0.95 - 1.1 * BESIDE / SCALE
    sets = {"far": rows(far), "near": rows(near), "best": rows(0.95)}
    assert closer_sets(AXES[:1], rows(0.0), sets, SCALE) == [["best", "near"]]
    many = {str(i): rows(0.95 - i / 1000) for i in range(5)}
    assert closer_sets(AXES[:1], rows(0.0), many, SCALE) == [["0", "1", "2"]]
    alone = closer_sets(F.normalize(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), dim=-1), rows(0.0), many, SCALE)
    together = closer_sets(torch.stack([AXES[0], AXES[3]]), rows(0.0), many, SCALE)
    assert together == [["0", "1", "2"], []] and len(alone) == 1  # each image for itself


def test_the_sets_of_the_kind_of_several_images_are_those_closest_on_average():
    near, far = 0.95 - 0.9 * BESIDE / SCALE, 0.95 - 1.1 * BESIDE / SCALE
    sets = {"far": rows(far), "near": rows(near), "best": rows(0.95)}
    assert fitting_sets(AXES[[0, 0]], sets, SCALE) == ["best", "near"]
    assert fitting_sets(AXES[:1], {}, SCALE) == []


def test_the_embedded_model_tells_a_chest_from_a_brain():
    embedded = load_backbone("embedded")
    sets = {name: PromptSet.load(path) for name, path in ready_sets().items()}
    frozen, scale = Frozen(embedded), embedded.logit_scale
    classes = {name: frozen.classes(s) for name, s in sets.items() if not name.startswith("phantom_")}
    for kind, expected in (("ct_slice", "lung_ct"), ("chest_xray", "chest_xray_pneumonia")):
        records = phantom_set(kind, 3, seed=3).records
        reader = Classifier(embedded, sets["brain_mri_tumor"])
        images = reader.image_features(records)
        found = closer_sets(images, reader.class_embeddings(), classes, scale)
        assert sum(expected in names for names in found) >= len(records) // 2
        reader.set_prompts(sets[f"phantom_{kind}"])
        assert not any(closer_sets(images, reader.class_embeddings(), classes, scale))


def cluster(centre, count, seed, width=6):
    noise = 0.1 * torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    noise[:, 0] *= 5  # the direction in which images of one set differ
    return F.normalize(3 * torch.eye(width)[centre] + noise, dim=-1)


def test_images_unlike_those_learned_from_are_told(tmp_path):
    found = Familiar.fit(
        {"one": cluster(1, 60, 0), "two": cluster(2, 60, 1)}, torch.cat([cluster(1, 20, 2), cluster(2, 20, 3)])
    )
    assert found.names == ("one", "two")
    assert found.unlike(torch.cat([cluster(1, 100, 4), cluster(2, 100, 5)])).mean() < 0.15
    assert found.unlike(cluster(3, 50, 6)).all()
    assert found.unlike(F.normalize(cluster(1, 50, 7) + cluster(2, 50, 8), dim=-1)).all()  # between the two
    new = torch.cat([cluster(1, 30, 10), cluster(3, 10, 11)])
    assert found.mistaken is None and found.caution().startswith("Some")
    found = found.measured(new)
    assert found.mistaken == (int(found.unlike(new).sum()), 40) and "of 40 test images" in found.caution()
    together, alone = found.distances(cluster(1, 3, 9)), found.distances(cluster(1, 3, 9)[:1])
    assert torch.allclose(together[:1], alone, atol=1e-5)

    found.save(tmp_path, "these")
    again = Familiar.load(tmp_path, "these", 6)
    assert (again.far, again.mistaken) == (found.far, found.mistaken)
    assert again.names == found.names and torch.equal(again.whiten, found.whiten)
    assert Familiar.load(tmp_path, "others", 6) is None and Familiar.load(tmp_path / "nowhere", "these", 6) is None
    with pytest.raises(NearlError, match="another model"):
        Familiar.load(tmp_path, "these", 7)
    (tmp_path / FILE).write_bytes(b"broken")
    with pytest.raises(NearlError, match="cannot be read"):
        Familiar.load(tmp_path, "these", 6)


def test_the_limit_keeps_its_promise_for_nearly_every_draw_of_held_out_images():
    rng = np.random.default_rng(0)
    for count in (59, 100, 453):
        draws = rng.uniform(size=(400, count))  # the share of new scores that a limit covers is the limit itself
        kept = np.mean([tolerance(scores) >= 0.95 for scores in draws])
        assert 0.92 < kept < 0.99, count
        assert np.mean([threshold(scores, "0.95") >= 0.95 for scores in draws]) < 0.75
    assert tolerance(np.arange(58.0)) == threshold(np.arange(58.0), "0.95")


def test_the_embedded_model_knows_its_own_pictures_from_others():
    reader = Classifier(load_backbone("embedded"), PromptSet("any", ("a", "b"), (("a",), ("b",))))
    own = [record for kind in KINDS for record in phantom_set(kind, 2, seed=3).records]
    assert np.mean(reader.predict(own).unfamiliar) < 0.2
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    strange = [ImageRecord.from_pixels(f"{i}", pixels) for i, pixels in enumerate(noise)]
    assert all(reader.predict(strange).unfamiliar)
    assert (
        Classifier(load_backbone("embedded", weights="random"), reader.prompt_set).predict(own[:1]).unfamiliar is None
    )


def test_titles_are_words():
    assert set_title("knee_xray_oa") == "Knee X-ray OA" and set_title("phantom_ct_slice") == "Synthetic CT slice"
    assert [set_title(n) for n in ("leukocytes_aml", "blood_wbc")] == ["Leukocytes AML", "Blood WBC"]
