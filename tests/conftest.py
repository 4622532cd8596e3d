"""Fixtures of all tests: tiny checkpoints of every tower family, written once and loaded through the public call."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two tests at a time, on two cores

import pytest
import torch

from nearl.backbones import load_backbone
from tests.support.checkpoints import FAMILIES, write_checkpoint

torch.set_num_threads(1)


SERVED = tuple(
    f"tests/app/{name}" for name in ("test_api", "test_browser", "visitor/test_isolation", "visitor/test_privacy")
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """As ``--dist loadfile``, but what shares the running app goes to one worker, so that it is started once."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "served" if nodeid.startswith(SERVED) else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_collection_finish():
    """All is imported: the collector need not go through it at each of the collections that runs ask for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Function family -> folder of its tiny checkpoint."""
    root, made = tmp_path_factory.mktemp("checkpoints"), {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = write_checkpoint(root / family, family)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def tiny(checkpoints):
    """Function family -> loaded tiny backbone, one per session."""
    loaded = {}

    def backbone(family: str):
        if family not in loaded:
            loaded[family] = load_backbone(f"local-dir:{checkpoints(family)}")
        return loaded[family]

    return backbone


@pytest.fixture(scope="session")
def portable(tmp_path_factory):
    """(folder, backbone) of the checkpoint that the fixtures in tests/fixtures were made with."""
    folder = write_checkpoint(tmp_path_factory.mktemp("portable") / "portable", "clip", portable=True)
    return folder, load_backbone(f"local-dir:{folder}")


@pytest.fixture(params=list(FAMILIES))
def backbone(request, tiny):
    """Every tower family in turn."""
    return tiny(request.param)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real images, or a skip."""
    root = Path(os.environ.get("NEARL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / "brain_mri_tumor").is_dir():
        pytest.skip("the real images are not here (set NEARL_DATA)")
    return root
