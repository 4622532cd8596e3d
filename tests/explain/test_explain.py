"""Every map on every tower family: it is about the patches and the class, and looking changes nothing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from nearl.errors import NearlError
from nearl.explain import (
    ALONE,
    MAPS,
    MapRequest,
    Score,
    Scorer,
    Trace,
    available,
    draw,
    explain,
    gradcam,
    randomised,
)
from nearl.explain.layers import profile
from nearl.explain.maps.relevance import carry
from nearl.explain.report import write_maps
from nearl.explain.trace import CAM
from nearl.explain.words import words
from nearl.reading.classifier import Classifier
from tests.support.reading import PROMPTS, Counter, adapter_for, reader, record


@pytest.fixture
def classifier(backbone):
    return reader(backbone, PROMPTS, adapter_for(backbone))


@pytest.fixture
def clip(tiny):
    return reader(tiny("clip"), PROMPTS, adapter_for(tiny("clip")))


@pytest.mark.parametrize("adapted", [False, True])
def test_every_map_is_about_the_patches_and_those_of_a_class_about_the_class(classifier, adapted):
    trace = Trace(Scorer(classifier, adapted), [record(3)])
    cards = available(classifier, adapted)
    assert {"gradcam", "relevance", "attention", "occlusion"} <= {card.key for card in cards}
    for card in cards:
        maps = [draw(trace, MapRequest(card.key, c, ALONE))[0] for c in range(2)]
        for c, heatmap in enumerate(maps):
            assert heatmap.values.shape == classifier.backbone.vision.grid and heatmap.values.dtype == np.float32
            assert np.isfinite(heatmap.values).all() and heatmap.class_name == PROMPTS.classes[c]
            assert card.signed or heatmap.values.min() >= 0
        assert any(np.ptp(m.values) > 1e-3 * np.abs(m.values).max() > 0 for m in maps), card.key
        different = np.abs(maps[0].values - maps[1].values).max() > 1e-3 * np.abs(maps[0].values).max()
        assert different == card.by_class, card.key


@pytest.mark.parametrize("adapted", [False, True])
def test_gradient_reaches_the_patches_of_every_layer(classifier, adapted):
    trace = Trace(Scorer(classifier, adapted), [record(3)])
    depth = classifier.backbone.vision.depth
    for grad in trace.grad(Score(0), CAM, *(("norm", k) for k in range(depth))):
        assert np.abs(trace.to_channels(grad)).max() > 0
    for grad in trace.grad(Score(0), *range(depth)):  # attention that patches receive
        assert grad[..., classifier.backbone.vision.prefix_tokens :].abs().max() > 0
    for layer in range(depth):
        assert any(not draw(trace, MapRequest("gradcam", c, layer=layer))[0].blank for c in range(2))


@pytest.mark.parametrize("adapted", [False, True])
def test_opened_attention_is_what_the_fused_kernel_computes(classifier, adapted):
    trace = Trace(Scorer(classifier, adapted), [record(1), record(2)], gradient=False)
    p = classifier.predict([record(1), record(2)])
    np.testing.assert_allclose(trace.logits.softmax(-1), p.adapted if adapted else p.frozen, atol=1e-5)
    tokens = trace.tokens.shape[1]
    for weights in trace.attention:
        assert weights.shape[0] == 2 and weights.shape[-2:] == (tokens, tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert not trace.logits.requires_grad


def test_a_batch_equals_its_single_images(classifier):
    records = [record(i) for i in range(3)]
    for card in available(classifier, True, slow=False):
        together = explain(classifier, records, MapRequest(card.key, 1))
        for one, heatmap in zip(records, together, strict=True):
            alone = explain(classifier, [one], MapRequest(card.key, 1))[0]
            scale = np.abs(alone.values).max()
            np.testing.assert_allclose(heatmap.values, alone.values, atol=2e-3 * scale, err_msg=card.key)


def test_patch_evidence_adds_up_to_the_score(tiny):
    classifier = reader(tiny("bert-pooler"), PROMPTS, adapter_for(tiny("bert-pooler")))  # averages its patches
    for adapted in (False, True):
        trace = Trace(Scorer(classifier, adapted), [record(0), record(1)])
        for score in (Score(0), Score(1, ALONE), Score(1, 0)):
            sums = [m.values.sum() for m in draw(trace, MapRequest("evidence", *score))]
            np.testing.assert_allclose(sums, score.of(trace.logits).detach(), rtol=1e-4, atol=1e-4)


def test_relevance_is_the_row_of_the_full_matrix():
    generator = torch.Generator().manual_seed(0)
    attention = [torch.rand(2, 3, 5, 5, generator=generator).softmax(-1) for _ in range(4)]
    grads = [torch.randn(2, 3, 5, 5, generator=generator) for _ in range(4)]
    full = torch.eye(5).expand(2, 5, 5)
    for weights, grad in zip(attention, grads, strict=True):
        full = full + (weights * grad).clamp(min=0).mean(1) @ full
    start = torch.zeros(2, 5)
    start[:, 0] = 1
    torch.testing.assert_close(carry(start, attention, grads), full[:, 0])


def test_rollout_and_attention_hold_all_of_the_attention(clip):
    trace = Trace(Scorer(clip), [record(0)], gradient=False)
    for card in ("rollout", "attention"):
        assert 0 < draw(trace, MapRequest(card, 0))[0].values.sum() <= 100 + 1e-3
    heads = [draw(trace, MapRequest("attention", 0, layer=1, head=head))[0].values for head in range(3)]
    np.testing.assert_allclose(np.mean(heads, 0), draw(trace, MapRequest("attention", 0, layer=1))[0].values, rtol=1e-5)


def test_a_new_adapter_adds_nothing_and_a_moved_one_something_new(tiny):
    adapter = adapter_for(tiny("clip"))
    still = {k: torch.zeros_like(v) if k.endswith("w_o.weight") else v for k, v in adapter.state.items()}
    adapter_still = type(adapter)(still, adapter.meta)
    trace = Trace(Scorer(reader(tiny("clip"), PROMPTS, adapter_still)), [record(0)], gradient=False)
    assert all(u.novel.max() < 1e-6 and u.parallel.abs().max() < 1e-6 for u in trace.updates.values())
    for orthogonal in (True, False):
        adapter = adapter_for(tiny("clip"), orthogonal=orthogonal)
        model = reader(tiny("clip"), PROMPTS, adapter)
        trace = Trace(Scorer(model), [record(0)], gradient=False)
        assert sorted(trace.updates) == [0, 1, 2]
        assert all(u.novel.min() > 0 and u.parallel.abs().max() > 1e-4 for u in trace.updates.values())
        with torch.no_grad():  # the first update by hand
            f = model.backbone.vision.block(0, model.backbone.vision.embed(model.pixels([record(0)])))
            z = torch.ones(1, 2, f.shape[-1])
            oca = model.method.updates("vision")[0]
            out = oca(f, z)
            parts = oca.parts((f, z), out)
            added = out - f
            expected = torch.linalg.vector_norm(added, dim=-1) / torch.linalg.vector_norm(f, dim=-1)
            found = parts.novel if orthogonal else (parts.novel**2 + parts.parallel**2).sqrt()
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("context", ["support", "image"])
def test_profile_follows_both_towers_and_the_queries(tiny, context):
    classifier = reader(tiny("clip-quickgelu"), PROMPTS, adapter_for(tiny("clip-quickgelu"), text_context=context))
    found = profile(Trace(Scorer(classifier), [record(0), record(1)], gradient=False), 1)
    assert sorted(found.vision) == [0, 1] and all(novel > 0 for novel, _ in found.vision.values())
    assert sorted(found.text) == ([0, 1, 2, 3, 4] if context == "support" else [])
    assert sorted(found.queries) == [0, 1]
    for rows in found.queries.values():
        assert len(rows) == 8
        np.testing.assert_allclose(np.sum(rows, 1), 1, rtol=1e-5)
        assert all(len(row) == 1 + len(found.classes) for row in rows)


@pytest.mark.parametrize("adapted", [False, True])
def test_words_share_the_relevance_of_their_prompt(classifier, adapted):
    trace = Trace(Scorer(classifier, adapted), [record(3)])
    found = words(trace, 0)
    assert [w.prompt for w in found] == list(PROMPTS.prompts[0])
    assert [len(w.words) for w in found] == [3, 1]
    for one in found:
        assert all(share >= 0 for share in one.shares) and sum(one.shares) == pytest.approx(1, abs=1e-4)
    assert found[1].shares == pytest.approx([1.0])


def test_one_forward_for_all_maps_and_one_backward_for_each_class(clip, monkeypatch):
    images, texts = Counter(clip.backbone.vision.blocks[0]), Counter(clip.backbone.text.blocks[0])
    passes, original = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(1) or original(*a, **k))
    trace = Trace(Scorer(clip), [record(0)])
    assert images.take() == 1 and texts.take() == 3
    for c in range(2):
        for key in ("relevance", "gradcam", "gradcam++", "hirescam", "layercam", "eigencam", "attention", "novelty"):
            draw(trace, MapRequest(key, c))
    assert len(passes) == 2 and images.take() == 0
    explain(clip, [record(1)], MapRequest("gradcam", 0))
    assert images.take() == 1 and texts.take() == 0  # prompts were encoded once
    images.handle.remove(), texts.handle.remove()


def snapshot(classifier):
    return [
        [(n, v.clone()) for n, v in m.state_dict().items()]
        + [(n, p.requires_grad, p.grad is None) for n, p in m.named_parameters()]
        + [(n, x.training, len(x._forward_hooks), len(x._forward_pre_hooks)) for n, x in m.named_modules()]
        for m in (classifier.backbone.model, classifier.method)
    ]


def same(one, two):
    return all(
        all(torch.equal(i, j) if isinstance(i, torch.Tensor) else i == j for i, j in zip(a, b, strict=True))
        for x, y in zip(one, two, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_explaining_changes_nothing_even_when_it_fails(classifier, monkeypatch):
    before = snapshot(classifier)
    expected = classifier.predict([record(3)]).adapted
    for adapted in (False, True):
        trace = Trace(Scorer(classifier, adapted), [record(3)])
        for card in available(classifier, adapted):
            draw(trace, MapRequest(card.key, 1))
        words(trace, 0)
    profile(trace)
    assert same(before, snapshot(classifier))
    monkeypatch.setattr(type(classifier.backbone.vision), "pool", lambda self, x: 1 / 0)
    monkeypatch.setattr(type(classifier.backbone.text), "pool", lambda self, x, state: 1 / 0)
    for broken in (lambda: gradcam(classifier, record(4), 1), lambda: words(trace, 1), lambda: profile(trace)):
        with pytest.raises(ZeroDivisionError):
            broken()
    assert same(before, snapshot(classifier))
    last = classifier.backbone.vision.blocks[-1]
    monkeypatch.setattr(last, "forward", lambda *a, **k: 1 / 0)
    for adapted in (False, True):
        with pytest.raises(ZeroDivisionError):
            gradcam(classifier, record(5), 1, adapted)
    monkeypatch.undo()
    assert same(before, snapshot(classifier))
    fresh = reader(classifier.backbone, PROMPTS, classifier.method.adapter())
    np.testing.assert_array_equal(fresh.predict([record(3)]).adapted, expected)


def test_per_image_context_can_be_explained(tiny):
    classifier = reader(tiny("clip"), PROMPTS, adapter_for(tiny("clip"), text_context="image"))
    trace = Trace(Scorer(classifier), [record(3)])
    for card in available(classifier, True, slow=False):
        maps = [draw(trace, MapRequest(card.key, c, ALONE))[0].values for c in range(2)]
        assert any(np.ptp(values) > 0 for values in maps), card.key
        assert (np.abs(maps[0] - maps[1]).max() > 1e-3 * maps[0].max()) == card.by_class, card.key


def test_the_control_has_a_shuffled_adapter_and_head_and_leaves_the_model_alone(clip):
    before = snapshot(clip)
    control = randomised(clip, 0)
    for key, value in control.method.adapter().state.items():
        torch.testing.assert_close(
            value.flatten().sort().values, clip.method.adapter().state[key].flatten().sort().values
        )
    maps = [explain(clip, [record(3)], MapRequest("relevance", 0, control=seed))[0] for seed in (None, 0)]
    assert np.corrcoef(maps[0].values.flat, maps[1].values.flat)[0, 1] < 0.99
    images = torch.nn.functional.normalize(torch.randn(3, clip.backbone.embed_dim), dim=-1)
    turned, plain = Scorer(clip, head_seed=1), Scorer(clip)
    assert (turned.scores(images) - plain.scores(images)).abs().max() > 1e-3
    torch.testing.assert_close(turned.scores(images[:, turned.turn.argsort()]), plain.scores(images))
    assert same(before, snapshot(clip))


def test_a_map_against_one_other_class(tiny):
    three = type(PROMPTS)("t", ("a", "b", "c"), (("glioma",), ("normal brain",), ("lung scan",)))
    trace = Trace(Scorer(Classifier(tiny("bert-pooler"), three)), [record(0)])
    one, two, both = (draw(trace, MapRequest("evidence", 0, against))[0] for against in (1, 2, "others"))
    np.testing.assert_allclose((one.values + two.values) / 2, both.values, atol=1e-5)
    assert (one.against, both.against) == ("b", "the other classes")


def test_refusals(tiny, clip):
    frozen = Classifier(tiny("clip"), PROMPTS)
    assert not gradcam(frozen, record(0), 0).adapted and gradcam(clip, record(0), 0).adapted
    with pytest.raises(NearlError, match="no adapter yet"):
        gradcam(frozen, record(0), 0, adapted=True)
    with pytest.raises(NearlError, match="no class number 3"):
        gradcam(frozen, record(0), 2)
    with pytest.raises(NearlError, match="needs an adapter"):
        explain(frozen, [record(0)], MapRequest("novelty", 0))
    with pytest.raises(NearlError, match="averages its patches"):
        explain(frozen, [record(0)], MapRequest("evidence", 0))
    with pytest.raises(NearlError, match="no map called 'gradcat'"):
        explain(frozen, [record(0)], MapRequest("gradcat", 0))
    with pytest.raises(NearlError, match="no layer 9"):
        explain(frozen, [record(0)], MapRequest("gradcam", 0, layer=8))
    with pytest.raises(NearlError, match="has no head"):
        explain(frozen, [record(0)], MapRequest("gradcam", 0, head=0))
    with pytest.raises(NearlError, match="without"):
        draw(Trace(Scorer(frozen), [record(0)], gradient=False), MapRequest("relevance", 0))
    with pytest.raises(NearlError, match="Nothing has been taught"):
        profile(Trace(Scorer(frozen), [record(0)], gradient=False))
    assert all(card.sentence.endswith(".") and card.limit.endswith(".") for card in MAPS.values())


def test_every_map_is_written_with_its_numbers(clip, tmp_path):
    picture = record(3, "scan.png", (36, 50))
    found = write_maps(clip, picture, MapRequest.named(PROMPTS.classes, "GLIOMA", "all"), tmp_path, contour=0.9)
    json.dumps(found)
    kinds = {(m["method"], m["adapted"]) for m in found["maps"]}
    drawn = {card.key for card in available(clip, True)}
    assert kinds == {(k, a) for k in drawn for a in (False, True, None) if not MAPS[k].adapter or a}
    for m in found["maps"]:
        assert Image.open(m["png"]).size == (50, 36)
        comment = Image.open(m["figure"]).text["Comment"]
        of_class = MAPS[m["method"]].by_class
        assert ("brain mri glioma" in comment) == of_class and "Not for diagnosis" in comment
        assert np.shape(m["values"]) == clip.backbone.vision.grid
    assert {w["adapted"] for w in found["words"]} == {False, True} and found["profile"]["text"]
    assert len(found["left_out"]) == len(MAPS) - len(drawn) and all(s.endswith(".") for s in found["left_out"])
    with pytest.raises(NearlError, match="no class 'cat'"):
        MapRequest.named(PROMPTS.classes, "cat")
