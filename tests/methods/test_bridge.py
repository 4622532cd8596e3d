"""The bridge against its definition: the pooling of slices, the bank, the loss, and what only studies have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from nearl.adapters.store import load_adapter, save_adapter
from nearl.data.images import ImageRecord
from nearl.methods import Task, make, restore
from nearl.methods.bridge import Bridge, Stack, contrast
from tests.support.findings import PROMPTS, studies
from tests.support.methods_data import task_of, taught


@pytest.fixture
def backbone(tiny):
    return tiny("clip")


def test_it_begins_as_the_frozen_model_and_the_mean_of_the_slices(backbone):
    data = studies(4)
    method, frozen = make("bridge", Task(backbone, PROMPTS, data), atoms=0), make("zero-shot", Task(backbone, PROMPTS))
    method.start(method.recipe())
    np.testing.assert_allclose(method.predict(data.records), frozen.predict(data.records), atol=0.05)
    v = method.images(data.records)
    for record, one in zip(data.records, v, strict=True):
        each = method.task.frozen.embed(method.task.frozen.pooled(list(record.parts)))
        torch.testing.assert_close(one, F.normalize(each.mean(0), dim=0), atol=1e-5, rtol=0)


def test_the_pooling_knows_the_place_and_ignores_what_pads_a_study(backbone):
    method = taught(make("bridge", Task(backbone, PROMPTS, studies(8))), steps=3)
    width = backbone.embed_dim
    long, short = F.normalize(torch.randn(7, width), dim=-1), F.normalize(torch.randn(3, width), dim=-1)
    both = method.pool(Stack([long, short]))
    torch.testing.assert_close(both[1], method.pool(Stack([short]))[0], atol=1e-5, rtol=0)
    attention = method.attention(Stack([long, short]))
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 4))
    assert (attention[1, :, 3:] == 0).all()
    method.along.data[-1] += 50.0  # the last place outweighs all
    assert (method.attention(Stack([long]))[0, :, -1] > 0.9).all()
    turned = method.pool(Stack([long.flip(0)]))
    assert (turned - method.pool(Stack([long]))).abs().max() > 1e-3


def test_the_loss_and_the_score_by_hand(backbone):
    torch.manual_seed(3)
    method = make("bridge", Task(backbone, PROMPTS, studies(4)), atoms=6)
    method.start(method.recipe())
    v, text = (F.normalize(torch.randn(3, backbone.embed_dim), dim=-1) for _ in range(2))
    t = text  # the map is the identity at the start

    def rebuilt(x):
        return torch.stack([sum(w * k for w, k in zip(row, method.bank, strict=True)) for row in method.weights(x)])

    def nce(a, b):
        cos = 10 * F.cosine_similarity(a[:, None], b[None], dim=-1)
        return -(cos.log_softmax(1).diag().mean() + cos.log_softmax(0).diag().mean()) / 2

    mse = lambda a, b: (a - b).square().sum(1).mean()  # noqa: E731
    v_, t_ = rebuilt(v), rebuilt(t)
    loss = nce(v, t) + 0.5 * (mse(v_, v) + mse(t_, t)) + nce(v_, t_)
    torch.testing.assert_close(method.alignment(v, text), loss, atol=1e-5, rtol=1e-5)
    score = (F.cosine_similarity(v[:, None], t[None], dim=-1) + F.cosine_similarity(v_[:, None], t[None], dim=-1)) / 2
    torch.testing.assert_close(method.similarity(v, t), score, atol=1e-5, rtol=1e-5)
    same = torch.ones(3, 3)
    assert contrast(v, v[:1].expand(3, -1), same) < contrast(v, v[:1].expand(3, -1), torch.eye(3)) + 1e-5


def test_the_banks_weights_are_not_uniform_and_one_atom_tells_nothing(backbone):
    method = taught(make("bridge", Task(backbone, PROMPTS, studies(12))), steps=10)
    weights = method.weights(method.images(studies(6, seed=1).records))
    entropy = -(weights * weights.clamp_min(1e-12).log()).sum(-1).mean() / np.log(weights.shape[1])
    assert entropy < 0.95
    lone = taught(make("bridge", Task(backbone, PROMPTS, studies(12)), atoms=1), steps=3)
    rebuilt = lone.rebuilt(lone.images(studies(6, seed=1).records))
    torch.testing.assert_close(rebuilt, lone.bank.expand_as(rebuilt))
    fixed = make("bridge", Task(backbone, PROMPTS, studies(12)), learned_bank=0)
    taught(fixed, steps=1)
    drawn_bank = fixed.bank.clone()
    taught(fixed, steps=4)
    assert torch.equal(fixed.bank, drawn_bank) and "bank" not in dict(fixed.named_parameters())


def test_teaching_with_studies_is_kept_on_disk_and_a_seed_fixes_it(backbone, tmp_path):
    data, new = studies(24), studies(24, seed=5)
    changes = {"steps": 60, "batch_size": 12, "lr": 1e-2}
    method, twin = (taught(make("bridge", Task(backbone, PROMPTS, data)), **changes) for _ in range(2))
    p = method.predict(new.records)
    assert np.array_equal(p, twin.predict(new.records))
    for k in range(2):
        there = np.array([2 * k in label for label in new.labels])
        assert roc_auc_score(there, p[:, 2 * k]) > 0.75, "the slice with the finding is found among the others"
    again = restore(backbone, load_adapter(save_adapter(method.adapter(), tmp_path), backbone.identity))
    np.testing.assert_allclose(again.predict(new.records), p, atol=1e-6)
    np.testing.assert_allclose(again.predict(new.records[:1]), p[:1], atol=1e-5)


def test_reports_teach_instead_of_labels(backbone):
    data = studies(8)
    words = [" ".join(f"{'There is' if 2 * k in label else 'No'} {n}." for k, n in enumerate(PROMPTS.findings))
             for label in data.labels]  # fmt: skip
    data.reports = words
    method = make("bridge", Task(backbone, PROMPTS, data), answers=0)
    method.start(method.recipe())
    summaries, whole = method.texts(data), make("bridge", method.task, summary=0).texts(data)
    assert len({tuple(np.round(row.tolist(), 4)) for row in summaries}) == 4 and not torch.allclose(summaries, whole)
    assert data.subset([2, 0]).reports == [words[2], words[0]]
    before = [p.clone() for p in method.classes()]
    taught(method)
    assert any(not torch.equal(a, b) for a, b in zip(before, method.classes(), strict=True))


def test_single_images_are_studies_of_one_slice(backbone):
    method = taught(make("bridge", task_of(backbone)))
    assert isinstance(method, Bridge)
    record = task_of(backbone).support.records[0]
    study = ImageRecord.of_slices("one", [record])
    np.testing.assert_allclose(method.predict([record, record]), method.predict([study, record]), atol=1e-6)
