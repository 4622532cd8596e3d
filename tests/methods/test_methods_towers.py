"""Methods that put something inside the towers: learned context, LoRA, bottleneck adapters, NEARL's ablations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nearl.backbones import load_backbone
from nearl.backbones.shadow import shadow
from nearl.backbones.towers.huggingface import SiglipText
from nearl.errors import NearlError
from nearl.explain.layers import profile
from nearl.explain.score import Scorer
from nearl.explain.trace import Trace
from nearl.methods import Task, make
from nearl.methods.alta import Alta
from nearl.methods.coop import CoOp
from nearl.methods.lora import LoRA
from nearl.methods.maple import MaPLe
from nearl.methods.nearl.ablations import ABLATIONS
from nearl.methods.nearl.network import NearlCLIP, NearlConfig
from nearl.prompts import default_prompts
from nearl.train.batches import PromptTokens
from tests.support.methods_data import PROMPTS, shades, task_of, taught
from tests.support.reading import moved, reader

NEW = shades(2, seed=9).records


def pixels_of(backbone):
    return torch.randn(3, 3, *backbone.image_size, generator=torch.Generator().manual_seed(0))


# --- the shadow -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_shadow_is_the_same_model_over_the_same_tensors(backbone):
    other = shadow(backbone)
    pairs = zip(backbone.model.parameters(), other.model.parameters(), strict=True)
    assert all(a is b for a, b in pairs) and other.model is not backbone.model
    pixels, tokens = pixels_of(backbone), backbone.tokenize(["a scan of one", "x ray"])
    assert torch.equal(other.encode_image(pixels), backbone.encode_image(pixels))
    fused = sum(p.numel() for p in other.model.parameters())
    layers = [layer for tower in (other.vision, other.text) for layer in tower.split_attention()]
    assert len(layers) == 3 * (backbone.vision.depth + backbone.text.depth)
    tokens_in = backbone.vision.embed(pixels)
    torch.testing.assert_close(other.encode_tokens(tokens_in), backbone.encode_image(pixels), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(other.encode_text(tokens), backbone.encode_text(tokens), atol=1e-5, rtol=1e-4)
    assert sum(p.numel() for p in other.model.parameters()) == fused
    starts = {p.data_ptr() for p in backbone.model.parameters()}
    ends = [(p.data_ptr(), p.data_ptr() + p.numel() * p.element_size()) for p in backbone.model.parameters()]
    for layer in layers:
        at = layer.weight.data_ptr()
        assert at in starts or any(a <= at < b for a, b in ends)  # a view, not a copy


def test_a_failure_leaves_the_backbone_as_it_was(tiny, monkeypatch):
    backbone = tiny("clip")
    before = dict(backbone.model.named_modules())
    monkeypatch.setattr("peft.inject_adapter_in_model", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        LoRA(task_of(backbone))
    assert dict(backbone.model.named_modules()) == before


# --- CoOp -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_context_of_a_words_own_vectors_is_that_word(backbone):
    """With the vectors of real tokens as context, the tower must read what it reads from the text with those tokens."""
    coop = CoOp(Task(backbone, default_prompts(["lung", "chest"])), context=2)
    room = backbone.tokenize(["the scan"])[0, coop.slot.start : coop.slot.start + 2]
    coop.context.copy_(backbone.text.token_table[room])
    tokens = backbone.tokenize(["lung"])
    read = coop.encode_text(PromptTokens(tokens, [1]))
    torch.testing.assert_close(read, backbone.encode_text(backbone.tokenize(["the scan lung"])), atol=1e-5, rtol=1e-4)
    assert coop.slot.start == (
        0 if isinstance(backbone.text, SiglipText) else 1
    )  # has no token of its own to begin with
    assert coop.trainable == 2 * backbone.text.token_table.shape[1]


@torch.no_grad()
def test_a_prompt_too_long_for_the_context_keeps_its_end(backbone):
    coop = CoOp(Task(backbone, default_prompts(["lung", "chest"])), context=4)
    full, end, start = backbone.tokenize(["scan of the lung " * 30]), backbone.tokenize([""])[0, 1], coop.slot.start
    longer = coop.slot.tokens(full)
    assert longer.shape == full.shape and longer[0, -1] == end
    assert torch.equal(longer[0, start + 4 : -1], full[0, start:-5])
    words = full.shape[1] - start - 1
    for count in (1, words - 4, words - 3, words):  # the last that fits, and the first whose end does not
        text = backbone.tokenize([" ".join(["lung"] * count)])
        ends = [int((tokens[0] == end).int().argmax()) for tokens in (text, coop.slot.tokens(text))]
        assert ends == [start + count, min(start + count + 4, full.shape[1] - 1)]
    assert coop.encode_text(PromptTokens(full, [1])).isfinite().all()


def test_coop_trains_the_context_and_nothing_else(backbone):
    coop = CoOp(task_of(backbone))
    coop.start(coop.recipe())
    first = coop.context.detach().clone()
    assert 0.3 < float(first.std() / backbone.text.token_table.std()) < 3
    taught(coop)
    assert [n for n, _ in coop.named_parameters()] == ["context"]
    assert ((coop.context - first).abs().sum(1) > 0).all()  # every vector is read


# --- LoRA -------------------------------------------------------------------------------------------------------------


def test_lora_starts_at_the_frozen_model_and_has_six_r_d_parameters_per_block(backbone):
    lora = LoRA(task_of(backbone))
    np.testing.assert_allclose(lora.predict(NEW), make("zero-shot", lora.task).predict(NEW), atol=1e-4)
    vision, text = backbone.vision, backbone.text
    assert lora.trainable == 6 * 2 * (vision.depth * vision.width + text.depth * text.width)
    taught(lora)
    silent = [name for name, p in lora.lora.items() if "lora_B" in name and not p.any()]
    assert not silent


def test_lora_is_the_merged_weight(tiny):
    """W + (alpha / r) B A added to the fused weights gives the same embeddings."""
    lora = taught(LoRA(task_of(tiny("biomedclip"))), lr=1e-2)
    with torch.no_grad():
        _check_merged(lora, tiny("biomedclip"))


def _check_merged(lora, backbone):
    pixels = pixels_of(backbone)
    adapted = lora.adapted.encode_tokens(backbone.vision.embed(pixels))
    weights = [block.attn.qkv.weight for block in backbone.vision.blocks]
    before = [weight.clone() for weight in weights]
    try:
        for k, weight in enumerate(weights):
            name = f"visual/trunk/blocks/{k}/attn/qkv"
            get = lambda part, m, name=name: lora.lora[f"{name}/{part}/lora_{m}/default/weight"]  # noqa: E731
            weight += torch.cat([0.5 * get(part, "B") @ get(part, "A") for part in "qkv"])
        torch.testing.assert_close(adapted, backbone.encode_image(pixels), atol=1e-5, rtol=1e-4)
        assert (adapted - backbone.encode_image(pixels)).abs().max() < 1e-5
    finally:
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
    assert (adapted - backbone.encode_image(pixels)).abs().max() > 1e-3


def test_loras_dropout_is_on_in_training_alone(tiny):
    task = task_of(tiny("biomedclip"))
    dropped, whole = taught(LoRA(task), lr=1e-2), taught(LoRA(task, dropout=0.0), lr=1e-2)
    assert not all(torch.equal(dropped.lora[name], whole.lora[name]) for name in whole.lora)
    assert np.array_equal(dropped.predict(NEW), dropped.predict(NEW))
    assert not any(module.training for module in dropped.adapted.model.modules())


def test_without_peft_lora_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(NearlError, match="pip install peft"):
        LoRA(task_of(tiny("clip")))


# --- ALTA-style adapters ----------------------------------------------------------------------------------------------


PROJECTIONS = {
    "clip": 48 * 32 + 32 * 32, "custom-text": 48 * 32 + 32 * 32, "biomedclip": 48 * 32 + 40 * 36 + 36 * 32,
    "bert-pooler": 48 * 32 + 40 * 32, "siglip": 32 * 48 + 48, "transformers-clip": 48 * 32 + 32 * 32,
    "transformers-siglip": 40 * 48 + 48,
}  # fmt: skip


@pytest.mark.parametrize("family", PROJECTIONS)
def test_alta_starts_at_the_frozen_model_has_its_parameters_by_formula_and_all_of_them_learn(tiny, family):
    alta = Alta(task_of(tiny(family)))
    alta.start(alta.recipe())
    backbone, untaught = alta.backbone, make("zero-shot", alta.task)
    with torch.no_grad():
        assert (alta.images(NEW) - untaught.images(NEW)).abs().max() < 1e-5
        assert (alta.classes() - untaught.classes()).abs().max() < 1e-5
    size = lambda tower: 2 * tower.depth * (2 * tower.width * (r := tower.width // 4) + r + tower.width)  # noqa: E731
    norms = [m for m in backbone.model.modules() if isinstance(m, torch.nn.LayerNorm)]
    rest = sum(p.numel() for m in norms for p in m.parameters()) + backbone.vision.prefix_tokens * 48 + 1
    assert alta.trainable == size(backbone.vision) + size(backbone.text) + PROJECTIONS[family] + rest
    first = {name: p.detach().clone() for name, p in alta.named_parameters()}
    taught(alta)
    assert not [name for name, p in alta.named_parameters() if torch.equal(p, first[name])]


def bottleneck(m, x):
    return F.gelu(x @ m.down.weight.T + m.down.bias) @ m.up.weight.T + m.up.bias


def moved_norm(alta, norm):
    """A frozen layer norm with what is learned added to it."""
    names = {id(p): name.replace(".", "/") for name, p in alta.backbone.model.named_parameters()}
    weight, bias = (p + alta.difference[names[id(p)]] for p in (norm.weight, norm.bias))
    return lambda x: F.layer_norm(x, x.shape[-1:], weight, bias, norm.eps)


@torch.no_grad()
@pytest.mark.parametrize("family", ["clip", "biomedclip"])
def test_alta_blocks_are_what_the_equations_say(tiny, family):
    backbone = tiny(family)
    alta = Alta(task_of(backbone))
    for p in alta.parameters():
        p.normal_(std=0.3)
    vision, text = backbone.vision.blocks[1], backbone.text.blocks[1]
    first, second = (vision.ln_1, vision.ln_2) if family == "clip" else (vision.norm1, vision.norm2)
    attend = vision.attention if family == "clip" else vision.attn

    def before_norm(x, block, norms, attend, serial, parallel):
        first, second = (moved_norm(alta, norm) for norm in norms)
        a = attend(first(x))
        h = x + a + bottleneck(serial, a)
        return h + block.mlp(second(h)) + 0.5 * bottleneck(parallel, second(h))

    x = torch.randn(2, 5, backbone.vision.width)
    expected = before_norm(x, vision, (first, second), attend, alta.image_serial[1], alta.image_parallel[1])
    torch.testing.assert_close(alta.adapted.vision.block(1, x), expected, atol=1e-4, rtol=1e-4)

    x, state = backbone.text.embed(backbone.tokenize(["a scan of the lung", "x ray"]))
    serial, parallel = alta.text_serial[1], alta.text_parallel[1]
    if family == "clip":
        masked = lambda x: text.attention(x, attn_mask=state.mask)  # noqa: E731
        expected = before_norm(x, text, (text.ln_1, text.ln_2), masked, serial, parallel)
    else:
        inner = text.attention.self(x, state.mask)[0]
        a = moved_norm(alta, text.attention.output.LayerNorm)(text.attention.output.dense(inner) + x)
        a = a + bottleneck(serial, a)
        out = moved_norm(alta, text.output.LayerNorm)(text.output.dense(text.intermediate(a)) + a)
        expected = out + 0.5 * bottleneck(parallel, a)
    torch.testing.assert_close(alta.adapted.text.block(1, x, state), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_altas_norm_and_class_token_before_the_first_block_are_those_of_the_tower(tiny):
    """What is learned of them after the embedding is what other values inside it would give."""
    backbone = tiny("clip")
    alta, pixels, visual = Alta(task_of(backbone)), pixels_of(backbone), shadow(backbone).model.visual
    alta.entry["scale"].normal_(std=0.3), alta.entry["shift"].normal_(std=0.3)
    norm = backbone.model.visual.ln_pre
    visual.ln_pre = torch.nn.LayerNorm(48)
    visual.ln_pre.weight.copy_(norm.weight * (1 + alta.entry["scale"]))
    visual.ln_pre.bias.copy_(norm.bias * (1 + alta.entry["scale"]) + alta.entry["shift"])
    inside = alta.enter(backbone.vision.embed(pixels))
    torch.testing.assert_close(inside, visual._embeds(pixels), atol=1e-5, rtol=1e-4)
    alta.entry["prefix"].fill_(1.0)
    after = alta.enter(backbone.vision.embed(pixels)) - inside
    torch.testing.assert_close(after[:, :1], torch.ones(3, 1, 48)) and not after[:, 1:].any()


# --- MaPLe ------------------------------------------------------------------------------------------------------------


class Before:
    """Within the ``with``: change the tokens that some blocks take, or what the last one gives."""

    def __init__(self, blocks, changes, last=lambda x: x):
        self.handles = [
            blocks[k].register_forward_pre_hook(lambda m, args, f=f: (f(args[0]), *args[1:]))
            for k, f in changes.items()
        ]
        self.handles.append(blocks[-1].register_forward_hook(lambda m, args, out: last(out)))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
def check_maple(backbone, depth):
    """The model's own forward pass with the tokens changed from outside gives the same."""
    maple = MaPLe(Task(backbone, PROMPTS), context=2, depth=depth)
    for p in maple.parameters():
        p.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    blocks, used = backbone.vision.blocks, min(depth, backbone.vision.depth, backbone.text.depth)
    vectors = [p @ c.weight.T + c.bias for p, c in zip(maple.context, maple.couplings, strict=True)]
    put = lambda k: lambda x: torch.cat([x if k == 0 else x[:, :-2], vectors[k].expand(len(x), 2, -1)], 1)  # noqa: E731
    with Before(blocks, {k: put(k) for k in range(used)}, lambda x: x[:, :-2]):
        expected = backbone.encode_image(pixels_of(backbone))
    found = maple.encode_image(pixels_of(backbone))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found - backbone.encode_image(pixels_of(backbone))).abs().max() > 1e-3

    coop, at = CoOp(Task(backbone, PROMPTS), context=2), maple.slot.start
    coop.context.copy_(maple.context[0])
    put = lambda k: lambda x: torch.cat([x[:, :at], maple.context[k].expand(len(x), 2, -1), x[:, at + 2 :]], 1)  # noqa: E731
    with Before(backbone.text.blocks, {k: put(k) for k in range(1, used)}):
        torch.testing.assert_close(maple.classes(), coop.classes(), atol=1e-5, rtol=1e-4)
    return maple, used


def test_maple_is_the_towers_own_pass_with_learned_tokens_among_its_own(backbone):
    maple, used = check_maple(backbone, 9)
    vision, text = backbone.vision.width, backbone.text.width
    assert used == min(backbone.vision.depth, backbone.text.depth)
    assert maple.trainable == used * (2 * text + text * vision + vision)
    check_maple(backbone, 1)


def test_the_embedded_backbones_mean_over_patches_does_not_read_maples_tokens():
    check_maple(load_backbone("embedded"), 3)


def test_every_part_of_maple_learns(backbone):
    maple = MaPLe(task_of(backbone))
    maple.start(maple.recipe())
    first = {name: p.detach().clone() for name, p in maple.named_parameters()}
    taught(maple)
    assert not [name for name, p in maple.named_parameters() if torch.equal(p, first[name])]


# --- NEARL and its ablations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ABLATIONS, ids=lambda kind: kind.card.name)
def test_every_trained_part_of_an_ablation_learns_and_the_rest_is_not_counted(backbone, kind):
    model = moved(NearlCLIP(backbone, NearlConfig.for_backbone(backbone, **kind.changes)))
    prompts = make("zero-shot", task_of(backbone)).task.tokens()
    F.cross_entropy(model(pixels_of(backbone), prompts), torch.tensor([0, 1, 0])).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert not [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    assert sum(model.parameters_by_part().values()) == sum(p.numel() for p in trained.values())


def test_parameters_of_the_ablations_against_the_formula(tiny):
    backbone = tiny("clip")
    v, t, dv, dt, u, r, m = backbone.vision.depth, backbone.text.depth, 48, 32, 128, 16, 8
    count = lambda **changes: sum(NearlCLIP(backbone, NearlConfig(**changes)).parameters_by_part().values())  # noqa: E731
    oca_v, oca_t, blocks = v * (3 * r * dv + 1), t * (3 * r * dt + 1), 2 * (12 * u * u + 3 * u)
    rest = m * u + max(v, t) * u + 2 * u  # queries, depths, norms
    support = t * 4 * u
    full = oca_v + oca_t + 2 * u * (dv + dt) + blocks + rest + support
    assert count() == count(orthogonal=False) == full
    assert count(text_context="image") == full - support
    assert count(text_layers=()) == full - oca_t - u * dt - support
    assert count(vision_layers=()) == full - oca_v - 2 * u * dv
    assert count(synergy="static") == oca_v + oca_t + u * (dv + dt) + max(v, t) * m * u + u


@torch.no_grad()
def test_static_queries_read_nothing(tiny):
    backbone = tiny("clip")
    model = moved(NearlCLIP(backbone, NearlConfig(synergy="static")))
    prompts, seen = task_of(backbone).tokens(), []
    model.oca_vision["1"].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    model(pixels_of(backbone), prompts)
    model(pixels_of(backbone).flip(0) + 1, prompts)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0][0], seen[0][1])
    with pytest.raises(NearlError, match="read no image"):
        NearlConfig(synergy="static", text_context="image")
    with pytest.raises(NearlError, match="synergy must be"):
        NearlConfig(synergy="none")


def test_one_side_alone_leaves_the_other_frozen(tiny):
    backbone, pixels = tiny("clip"), pixels_of(tiny("clip"))
    tokens = task_of(backbone).tokens()
    plain = NearlCLIP(backbone).encode_text(tokens)
    vision = moved(NearlCLIP(backbone, NearlConfig(text_layers=())))
    text = moved(NearlCLIP(backbone, NearlConfig(vision_layers=())))
    with torch.no_grad():
        assert torch.equal(vision.encode_text(tokens).embeddings, plain.embeddings)
        assert torch.equal(text.encode_image(pixels, plain.summaries), backbone.encode_image(pixels))
        assert not torch.equal(text.encode_text(tokens).embeddings, plain.embeddings)


def test_configurations_from_before_the_ablations_still_load(tiny):
    backbone = tiny("clip")
    config = NearlConfig().to_dict()
    del config["synergy"]
    old = NearlCLIP(backbone, NearlConfig(**config))
    names = set(old.state_dict())
    assert {"support", "useformer.queries", "useformer.depth", "useformer.in_vision.weight"} <= names
    NearlCLIP(backbone, NearlConfig(**config)).load_state_dict(old.state_dict())


@pytest.mark.parametrize("name", ["static-queries", "vision-only", "text-only"])
def test_the_classifier_and_the_maps_take_adapters_of_ablations(tiny, name):
    method = taught(make(f"nearl:{name}", task_of(tiny("clip"))), lr=1e-2)
    classifier = reader(tiny("clip"), PROMPTS, method.adapter())
    np.testing.assert_allclose(classifier.predict(NEW).adapted, method.predict(NEW), atol=1e-5)
    found = profile(Trace(Scorer(classifier, True), NEW[:1], gradient=False))
    assert bool(found.vision) == (name != "text-only")
