"""Fixtures of all tests: tiny checkpoints of every tower family, written once and loaded through the public call."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests at a time
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of the many processes compiles the packages again

import pytest

from tests.support import forked
from tests.support.families import FAMILIES

WORKER = "PYTEST_XDIST_WORKER" in os.environ
# The files that take longest, so that no worker has much left when the others have ended; of the first, which begin
# together, two do not wait for a server
FIRST = (
    "test_browser_teach", "test_real_data", "test_perform", "test_browser_replay", "test_browser",
    "test_isolation", "test_browser_compare", "test_browser_models", "test_browser_explain",
    "test_browser_volumes", "test_zero_gpu", "test_browser_proxy",
    "test_shelf", "test_api", "test_process", "test_cli", "test_compare", "test_privacy",
    "test_jobs", "test_docs", "test_loop", "test_comparison", "test_extending", "test_checks",
    "test_pretrain", "test_explain", "test_faithfulness", "test_methods",
)  # fmt: skip


def pytest_configure(config):
    config.tests_session = None if WORKER else forked.begin()


def pytest_unconfigure(config):
    if config.tests_session is not None:
        shutil.rmtree(config.tests_session, ignore_errors=True)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_collection_finish():
    """All is imported: the collector need not go through it at each of the collections that runs ask for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Of torch, in each of the processes that run tests."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def quick_hosts(monkeypatch):
    """Hosts of runs are forked, which takes no time."""
    monkeypatch.setattr("nearl.runs.host.command", forked.command)
    monkeypatch.setenv("NEARL_TEST_HOSTS", "forked")  # and none that an earlier test has left


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Function family -> folder of its tiny checkpoint."""
    from tests.support.checkpoints import write_checkpoint

    root, made = tmp_path_factory.mktemp("checkpoints"), {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = write_checkpoint(root / family, family)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def tiny(checkpoints):
    """Function family -> loaded tiny backbone, one per session."""
    from nearl.backbones import load_backbone

    loaded = {}

    def backbone(family: str):
        if family not in loaded:
            loaded[family] = load_backbone(f"local-dir:{checkpoints(family)}")
        return loaded[family]

    return backbone


@pytest.fixture(scope="session")
def portable(tmp_path_factory):
    """(folder, backbone) of the checkpoint that the fixtures in tests/fixtures were made with."""
    from nearl.backbones import load_backbone
    from tests.support.checkpoints import write_checkpoint

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
