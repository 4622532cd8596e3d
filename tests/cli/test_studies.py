"""A chest study of up to four images on the command line, with an adapter that reads such."""

import json
import zipfile

import numpy as np
import pytest
import torch

from nearl.adapters.store import save_adapter
from nearl.backbones import load_backbone
from nearl.data.images import decode_one
from nearl.methods import Task, make, restore
from nearl.methods.studies import ALONE, Place
from tests.support.methods_data import PROMPTS, shades


@pytest.fixture(scope="module")
def backbone(checkpoints):
    return load_backbone(f"local-dir:{checkpoints('clip')}")


@pytest.fixture(scope="module")
def alta(backbone):
    """An adapter that reads studies; everything in it is far from its start."""
    method = make("alta", Task(backbone, PROMPTS), studies=1)
    with torch.no_grad():
        for p in method.parameters():
            p.normal_(std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    method.moved(1)
    return method.adapter()


@pytest.fixture
def images(tmp_path):
    """Paths of three images."""
    paths = [tmp_path / f"{name}.png" for name in ("now", "before", "side")]
    for path, record in zip(paths, shades(2).records, strict=False):
        record.image().save(path)
    return paths


def test_priors_and_laterals_are_read_with_the_image(nearl, backbone, alta, images, model, tmp_path):
    adapter, (now, before, side) = save_adapter(alta, tmp_path / "adapter"), images
    asked = ["predict", now, "--adapter", adapter, *model, "--json"]
    (alone,) = json.loads(nearl(*asked)[1])["predictions"]
    status, text, _ = nearl(*asked, "--prior", before, "--lateral", side)
    (row,) = json.loads(text)["predictions"]
    assert status == 0 and row["study"] == ["current frontal", "current lateral", "prior frontal"]
    study = {ALONE: now, Place(0, 1): side, Place(1, 0): before}
    p = restore(backbone, alta).read_studies([{place: decode_one(path) for place, path in study.items()}])
    np.testing.assert_allclose(list(row["adapted"].values()), p[0], atol=1e-5)
    assert row["frozen"] == alone["frozen"] and row["adapted"] != alone["adapted"]


def test_other_adapters_and_several_images_are_refused(nearl, backbone, alta, images, model, tmp_path):
    adapter = save_adapter(alta, tmp_path / "adapter")
    plain = save_adapter(make("alta", Task(backbone, PROMPTS)).adapter(), tmp_path / "plain")
    (now, before, _), many = images, tmp_path / "many.zip"
    with zipfile.ZipFile(many, "w") as archive:
        archive.write(now, "now.png")
        archive.write(before, "before.png")
    for words, gist in (
        ([many, "--adapter", adapter, "--prior", before], "holds 2"),
        ([now, before, "--adapter", adapter, "--prior", before], "one image"),
        ([now, "--adapter", plain, "--prior", before], "taught with studies"),
        ([now, "--adapter", adapter, "--prior", tmp_path / "none.png"], "none.png"),
    ):
        status, _, err = nearl("predict", *words, *model)
        assert status == 2 and gist in err
