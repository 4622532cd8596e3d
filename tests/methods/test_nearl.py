"""The method: identity at the start, orthogonality, frozen means frozen, and independence between images."""

import pytest
import torch
import torch.nn.functional as F

from nearl.errors import NearlError
from nearl.methods.nearl.network import NearlCLIP, NearlConfig, aligned_steps
from nearl.methods.nearl.oca import OCA, token_norm
from nearl.methods.nearl.useformer import Attention, USEformer
from nearl.train.batches import PromptTokens
from tests.support.reading import moved

GROUPS = [["a brain mri of a glioma", "glioma"], ["chest x ray"], ["no sign of pneumonia in the lung scan"]]
CONTEXTS = ("support", "image")


def prompts_of(backbone, groups=GROUPS):
    return PromptTokens(backbone.tokenize([t for group in groups for t in group]), [len(group) for group in groups])


def images_for(backbone, count=4, seed=0):
    return torch.randn(count, 3, *backbone.image_size, generator=torch.Generator().manual_seed(seed))


def frozen_logits(backbone, images, prompts):
    text = backbone.encode_text(prompts.tokens)
    classes = torch.stack([F.normalize(part.mean(0), dim=-1) for part in text.split(prompts.counts)])
    return backbone.logit_scale * backbone.encode_image(images) @ classes.T


@pytest.mark.parametrize("context", CONTEXTS)
@torch.no_grad()
def test_identity_at_the_start(backbone, context):
    model = NearlCLIP(backbone, NearlConfig(text_context=context))
    images, prompts = images_for(backbone), prompts_of(backbone)
    expected = frozen_logits(backbone, images, prompts)
    torch.testing.assert_close(model(images, prompts), expected, atol=2e-5, rtol=0)
    if context == "support":
        classes = model.encode_text(prompts)
        image = model.encode_image(images, classes.summaries)
        assert torch.equal(image, backbone.encode_image(images))  # exactly: nothing was added


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 100.0])
@torch.no_grad()
def test_update_is_orthogonal_to_every_token(dtype, autocast, scale):
    torch.manual_seed(0)
    oca = OCA(64).to(dtype)
    oca.w_o.weight.normal_()
    f, z = (torch.randn(3, 50, 64) * scale).to(dtype), torch.randn(3, 8, 64).to(dtype)
    f[:, 0, 3] = 300 * scale  # a massive activation, as real residual streams have
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        update = oca.update(f, z)
    assert update.dtype == torch.float32
    cosine = F.cosine_similarity(update, f.float(), dim=-1).abs()
    assert cosine.max() < 1e-4
    assert (update.norm(dim=-1) > 0).all()


@torch.no_grad()
def test_orthogonality_inside_the_towers(backbone):
    model, worst = moved(NearlCLIP(backbone)), []

    def check(oca, inputs, _):
        f, z, normed = inputs
        worst.append(F.cosine_similarity(oca.update(f, z, normed), f.float(), dim=-1).abs().max())

    for oca in (*model.oca_vision.values(), *model.oca_text.values()):
        oca.register_forward_hook(check)
    with torch.autocast("cpu", torch.bfloat16):
        model(images_for(backbone), prompts_of(backbone))
    assert len(worst) == backbone.vision.depth + backbone.text.depth
    assert max(worst) < 1e-4


@torch.no_grad()
def test_without_orthogonality_the_whole_update_is_added():
    oca = OCA(16, orthogonal=False)
    oca.w_o.weight.normal_()
    f, z = torch.randn(1, 5, 16), torch.randn(1, 2, 16)
    rms = f.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(oca(f, z), f + rms * oca.w_o(oca.hidden(token_norm(f), z)))


@torch.no_grad()
def test_oca_is_what_the_equations_say():
    """One token, one synergy vector: attention over one key returns that key, so D can be written out."""
    oca = OCA(6, rank=2)
    oca.w_o.weight.normal_()
    oca.gate.fill_(0.5)
    f, z = torch.randn(6), torch.randn(6)
    normed = (f - f.mean()) / (f.var(unbiased=False) + 1e-5).sqrt()
    d = f.square().mean().sqrt() * (oca.w_o.weight @ F.gelu(oca.w_kv.weight @ z + oca.w_q.weight @ normed))
    expected = f + 0.5 * (d - (d @ f) / (f @ f) * f)
    torch.testing.assert_close(oca(f[None, None], z[None, None])[0, 0], expected)


@torch.no_grad()
def test_attention_equals_the_textbook_one():
    ours, torchs = Attention(24, 3), torch.nn.MultiheadAttention(24, 3, bias=False, batch_first=True)
    torchs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
    torchs.out_proj.weight.copy_(ours.out.weight)
    x, context, mask = torch.randn(2, 5, 24), torch.randn(2, 9, 24), torch.rand(2, 9) > 0.3
    expected, _ = torchs(x, context, context, key_padding_mask=~mask)
    added = torch.zeros(2, 1, 9).masked_fill(~mask[:, None], -torch.inf)
    torch.testing.assert_close(ours(x, context, added), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_the_steps_of_a_pass_share_is_of_their_own_block():
    """With each block's products made in its call instead."""
    torch.manual_seed(0)
    use = USEformer((24, 20), 3, 16, 4, 2, 2, 2.0)
    vision, text = torch.randn(2, 7, 24), torch.randn(1, 3, 20)
    s, shared = use.start(2)
    context = use.norm_context(torch.cat([use.in_vision(vision), use.in_text(text).expand(2, -1, -1)], dim=1))
    expected = s + use.depth[1]
    for block in use.blocks:
        expected = expected + block.cross(block.norm_cross(expected), context)
        expected = expected + block.self(block.norm_self(expected), block.norm_self(expected))
        expected = expected + block.mlp(block.norm_mlp(expected))
    torch.testing.assert_close(use.step(1, s, shared, vision=vision, text=text), expected)


@pytest.mark.parametrize("context", CONTEXTS)
def test_only_the_adapter_is_trained_and_every_part_of_it_learns(backbone, context):
    model = moved(NearlCLIP(backbone, NearlConfig(text_context=context)))
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = F.cross_entropy(model(images_for(backbone), prompts_of(backbone)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent
    optimizer.step()
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in backbone.model.parameters())
    assert not any(name.startswith("backbone") for name in model.state_dict())


@pytest.mark.parametrize("context", CONTEXTS)
@torch.no_grad()
def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(backbone, context):
    model = moved(NearlCLIP(backbone, NearlConfig(text_context=context)))
    images, prompts = images_for(backbone), prompts_of(backbone)
    together = model(images, prompts)
    alone = torch.cat([model(image[None], prompts) for image in images])
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-4)
    assert (together - frozen_logits(backbone, images, prompts)).abs().max() > 1e-3  # the adapter does something


@torch.no_grad()
def test_a_prompt_does_not_depend_on_the_other_prompts(backbone):
    model = moved(NearlCLIP(backbone))
    together = model.encode_text(prompts_of(backbone))
    for i, group in enumerate(GROUPS):
        alone = model.encode_text(prompts_of(backbone, [group]))
        torch.testing.assert_close(together.embeddings[i], alone.embeddings[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.summaries[:, i], alone.summaries[:, 0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_per_image_context_conditions_the_text_on_the_image(tiny):
    """The study option really does what its name says: another image gives other text features."""
    backbone = tiny("clip")
    model = moved(NearlCLIP(backbone, NearlConfig(text_context="image")))
    images, prompts = images_for(backbone, 2), prompts_of(backbone)
    seen = []
    model.oca_text["1"].register_forward_hook(lambda _, inputs, out: seen.append(out))
    model(images, prompts)
    per_image = seen[0].unflatten(0, (2, 4))
    assert (per_image[0] - per_image[1]).abs().max() > 1e-4


def test_steps_align_towers_by_relative_depth():
    assert aligned_steps(4, 4) == [0, 1, 2, 3]
    assert aligned_steps(2, 4) == [1, 3]
    assert aligned_steps(3, 4) == [1, 2, 3]
    assert aligned_steps(6, 12) == [1, 3, 5, 7, 9, 11]


@torch.no_grad()
def test_layers_can_be_chosen(tiny):
    backbone = tiny("clip")
    model = NearlCLIP(backbone, NearlConfig(vision_layers=(2, 0), text_layers=()))
    assert list(model.oca_vision) == ["0", "2"] and not model.oca_text
    images, prompts = images_for(backbone), prompts_of(backbone)
    torch.testing.assert_close(model(images, prompts), frozen_logits(backbone, images, prompts), atol=2e-5, rtol=0)
    with pytest.raises(NearlError, match="blocks 0 to 2"):
        NearlCLIP(backbone, NearlConfig(vision_layers=(3,)))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"queries": -1}, {"width": 100, "heads": 3}, {"text_context": "batch"}])
def test_bad_configurations_are_refused(wrong):
    with pytest.raises(NearlError):
        NearlConfig(**wrong)


def test_parameters_by_part_add_up(backbone):
    model = NearlCLIP(backbone)
    assert sum(model.parameters_by_part().values()) == sum(p.numel() for p in model.parameters())


@torch.no_grad()
def test_compiles_and_runs_under_bf16_autocast(tiny):
    backbone = tiny("clip")
    model = moved(NearlCLIP(backbone))
    images, prompts = images_for(backbone), prompts_of(backbone)
    expected = model(images, prompts)
    compiled = torch.compile(model, backend="eager")(images, prompts)
    torch.testing.assert_close(compiled, expected, atol=1e-3, rtol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(images, prompts)
    assert (low.float() - expected).abs().max() < 0.25 * expected.abs().max()
