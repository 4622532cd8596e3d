"""What is told of a study that a bridge has read: its slices, atoms and clusters, against the method itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nearl.data.images import ImageRecord, decode_one
from nearl.methods import Task, make, restore
from nearl.reading.studies import FROZEN, REBUILT, TAUGHT, inside
from tests.support.findings import CHEST, bridge_adapter, studies
from tests.support.scans import body, nifti


@pytest.fixture(scope="module")
def method(checkpoints):
    from nearl.backbones import load_backbone

    backbone = load_backbone(f"local-dir:{checkpoints('clip')}")
    return restore(backbone, bridge_adapter(backbone))


def test_slices_atoms_and_clusters_are_those_of_the_method(method):
    study = studies(1, slices=6).records[0]
    found = inside(method, study)
    stack, v = method.studies([study]), method.images([study])[0]
    np.testing.assert_allclose(found.attention, method.attention(stack)[0].mean(0).detach().numpy(), atol=1e-6)
    assert found.attention.sum() == pytest.approx(1, abs=1e-5) and len(found.views) == len(study.stack)
    weights = method.weights(v).detach()
    shares = [atom.share for atom in found.atoms]
    assert shares == sorted(weights.tolist(), reverse=True)[: len(shares)] and found.bank == len(weights)
    assert found.spread == pytest.approx(float(torch.exp(-(weights * weights.log()).sum())), rel=1e-3)
    t = {text: method.encode_prompts(method.backbone.tokenize([text]))[0] for g in CHEST.texts() for text in g}
    for atom in found.atoms:
        k = F.normalize(method.bank[atom.number], dim=0)
        cosines = {text: float(k @ one) for text, one in t.items()}
        assert [c for _, c in atom.prompts] == pytest.approx(sorted(cosines.values(), reverse=True)[:3], abs=1e-4)
        alone = [float(method.weights(method.images([part])[0])[atom.number]) for part in study.stack]
        assert alone[atom.slices[0]] == pytest.approx(max(alone), abs=1e-5)
    sizes = [(len(cloud.images), len(cloud.texts)) for cloud in found.clouds.values()]
    assert list(found.clouds) == [FROZEN, TAUGHT, REBUILT] and set(sizes) == {(len(study.stack), len(t))}
    np.testing.assert_allclose(found.clouds[TAUGHT].texts, torch.stack(list(t.values())).detach(), atol=1e-5)
    assert all(np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-4) for c in found.clouds.values() for x in c)


def test_one_atom_closes_the_gap_and_no_bank_has_none(method):
    study, backbone = studies(1).records[0], method.backbone
    one, none = (inside(restore(backbone, bridge_adapter(backbone, atoms=n)), study) for n in (1, 0))
    assert np.allclose(one.clouds[REBUILT].images[0], one.clouds[REBUILT].texts[0], atol=1e-5)
    assert one.spread == pytest.approx(1) and [atom.share for atom in one.atoms] == [pytest.approx(1)]
    assert (none.atoms, none.bank, list(none.clouds)) == ([], 0, [FROZEN, TAUGHT])


def test_only_a_bridge_with_a_study_tells(method):
    study = studies(1).records[0]
    assert inside(method, study.stack[0]) is None and inside(None, study) is None
    assert inside(make("zero-shot", Task(method.backbone, CHEST)), study) is None


def test_a_slice_of_a_study_knows_where_it_is():
    """Where it is drawn and which slice is on show makes no difference to the study of a CT."""
    record = decode_one(nifti((body() * 3 - 600).astype(np.int16), np.eye(4)), "ct.nii")
    assert record.scan.modality == "CT"
    study = record.study()
    assert [part.view.index for part in study.stack] == list(range(record.slices()))
    assert {part.view.plane for part in study.stack} == {"axial"}
    other = record.at(plane="coronal", window=record.scan.presets()[1]).slice_at(3)
    assert other.study_view == record.study_view and other.study().digest == study.digest
    assert ImageRecord.from_pixels("still", np.zeros((8, 8, 3))).study_view is None
