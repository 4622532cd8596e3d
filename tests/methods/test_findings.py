"""All methods on findings: each is a question of its own, and what is unknown counts nowhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nearl.adapters.store import load_adapter, save_adapter
from nearl.adapters.taught import taught_with
from nearl.data.sets.findings import FindingsSet
from nearl.errors import NearlError
from nearl.methods import Task, card, make, names, restore
from nearl.train.answers import Objective, known, members, shares
from nearl.train.batches import balanced_batch
from tests.support.findings import PROMPTS, halves
from tests.support.methods_data import taught

OWN = [name for name in names() if not card(name).ablates and name != "alta-vision"]  # a part of alta
PAIRS = [slice(0, 2), slice(2, 4)]


@pytest.mark.parametrize("name", OWN)
def test_every_method_reads_each_finding_on_its_own(tiny, name, tmp_path):
    backbone, new = tiny("clip"), halves(6, seed=9).records
    method = taught(make(name, Task(backbone, PROMPTS, halves())))
    p = method.predict(new)
    assert p.shape == (6, 4) and np.isfinite(p).all()
    np.testing.assert_allclose(p.reshape(6, 2, 2).sum(2), 1, atol=1e-5)
    if name == "zero-shot":
        return
    adapter = load_adapter(save_adapter(method.adapter(), tmp_path), backbone.identity)
    assert taught_with(adapter.meta) == len(halves())  # each once, though it has two findings
    assert adapter.meta["support_counts"] == halves().counts() and adapter.meta["prompts"]["kind"] == "findings"
    np.testing.assert_allclose(restore(backbone, adapter).predict(new), p, atol=1e-6)


@pytest.mark.parametrize("name", ["linear-probe", "tip-adapter", "nearl"])
def test_teaching_tells_findings_apart(tiny, name):
    method = taught(make(name, Task(tiny("clip"), PROMPTS, halves(24))), steps=12, batch_size=8, augment="none")
    test = halves(24, seed=3, unknown=False)
    said, true = (t.reshape(-1, 2, 2).argmax(2) for t in (method.predict(test.records), members(test.labels, 4)))
    right = said == true
    assert right.mean(0).min() > 0.8


def test_the_loss_is_that_of_the_known_answers_alone():
    labels = [(0, 2), (1,), (3,), ()]
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    loss = Objective(labels, PAIRS, 0.0, torch.device("cpu"))
    first = F.cross_entropy(logits[[0, 1], :2], torch.tensor([0, 1]), reduction="none")
    second = F.cross_entropy(logits[[0, 2], 2:], torch.tensor([0, 1]), reduction="none")
    assert loss(logits, np.arange(4)).item() == pytest.approx(torch.cat([first, second]).mean().item(), abs=0.2)
    changed = logits.clone()
    changed[1, 2:], changed[2, :2], changed[3] = 9.0, -9.0, 5.0
    assert loss(changed, np.arange(4)).item() == pytest.approx(loss(logits, np.arange(4)).item())
    assert loss(logits, np.array([3])).item() == 0.0, "nothing is known of it"
    one = Objective([0, 1, 1], [slice(0, 2)], 0.1, torch.device("cpu"))
    whole = F.cross_entropy(logits[:3, :2], torch.tensor([0, 1, 1]), label_smoothing=0.1)
    assert one(logits[:3, :2], np.arange(3)).item() == whole.item()
    rare = [(0,), *[(1,)] * 9]
    weights = Objective(rare, [slice(0, 2), slice(2, 4)], 0.0, torch.device("cpu")).weights
    assert weights[0] == pytest.approx(weights[1].item()), "each answer is drawn alike already"


def test_answers_by_question():
    found = known([(0, 2), (1,), (3,), ()], PAIRS)
    assert [(index.tolist(), answers.tolist()) for index, answers in found] == [([0, 1], [0, 1]), ([0, 2], [0, 1])]
    p = shares(torch.zeros(2, 4), PAIRS)
    assert torch.equal(p, torch.full((2, 4), 0.5))
    batch = balanced_batch([(0, 2), (1,), (3,), (1, 3)], 8, np.random.default_rng(0))
    assert set(batch.tolist()) == {0, 1, 2, 3} and (batch == 0).sum() == 4, "each answer has a quarter of the batch"


def test_a_finding_without_an_answer_is_refused_by_name(tiny):
    data = halves(8)
    absent = FindingsSet(data.classes, data.records, [tuple(c for c in label if c != 2) for label in data.labels])
    with pytest.raises(NearlError, match="“two” is marked present in no image"):
        Task(tiny("clip"), PROMPTS, absent)
