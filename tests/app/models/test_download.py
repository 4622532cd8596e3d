"""Downloading a model from a stand-in of the Hub: progress, cancelling, several who wait, and what can go wrong."""

from __future__ import annotations

import errno
import threading
from types import SimpleNamespace

import huggingface_hub.constants
import pytest

from app.chooser import actions as choosing
from app.chooser import html as chooser_views
from app.engine import Engine
from app.models.download import Downloads
from nearl.backbones import download
from nearl.backbones.catalogue import cached, entry_of, repository_cache
from nearl.errors import NearlError
from tests.support.app_work import until
from tests.support.hub_server import Hub, hub_variables, large_files

NAME = "hf-hub:somebody/model"


@pytest.fixture
def hub(checkpoints, tmp_path, monkeypatch):
    """The Hub, with a model in transformers' format; the cache is empty."""
    with Hub() as hub:
        hub.put("somebody/model", large_files(checkpoints("transformers-clip")))
        for name, value in hub_variables(hub, tmp_path / "hub").items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        address = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield hub


def left() -> list[str]:
    """Files of which only a part has come."""
    return [path.name for path in repository_cache("somebody/model").rglob("*.incomplete")]


def test_a_download_is_cancelled_and_begun_again_and_only_who_asked_reads_with_it(
    hub, checkpoints, registry, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # this process asks no hub
    hub.held = threading.Event()
    own = f"local-dir:{checkpoints('clip')}"
    engine = Engine(own, "cpu", offered=[NAME, "hf-hub:somebody/else"])
    engine.start()
    anna, ben, carl = (registry.get(None) for _ in range(3))
    size = len(next(data for name, (data, _) in hub.repos["somebody/model"].files.items() if "safetensors" in name))

    for visitor in (anna, ben):
        choosing.choose(engine, visitor, NAME)
    going = engine.downloads.of(anna)
    until(lambda: going.done > size // 4)
    assert going is engine.downloads.of(ben) and engine.downloads.of(carl) is None
    assert going.done < going.total and going.total >= size and not going.ended
    assert [offer.where for offer in choosing.offers(engine, anna)] == ["chosen", "coming", "away"]
    assert f'aria-valuenow="{round(100 * going.done / going.total)}"' in chooser_views.progress(
        "x", going.done, going.total, False
    )
    with pytest.raises(NearlError, match="being downloaded just now"):
        choosing.choose(engine, carl, "hf-hub:somebody/else")
    assert left() and not cached(entry_of(NAME))

    engine.downloads.cancel(anna)
    assert not going.cancelled  # the other one still waits
    engine.downloads.cancel(ben)
    until(lambda: going.ended)
    assert going.process.poll() is not None and not going.error
    assert left() == [] and not engine.models.here(NAME)
    assert {engine.chosen(visitor) for visitor in (anna, ben, carl)} == {own}

    choosing.choose(engine, anna, NAME)
    again = engine.downloads.of(anna)
    until(lambda: again.done > size // 4)
    hub.held.set()
    until(lambda: again.ended)
    assert (again.error, again.done) == ("", again.total)
    assert set(again.waiting.values()) == {None}
    assert (engine.chosen(anna), engine.chosen(ben)) == (NAME, own)
    assert engine.backbone(anna).name == NAME and cached(entry_of(NAME)) and left() == []
    choosing.choose(engine, anna, own)
    choosing.choose(engine, anna, NAME)  # at once, this time
    assert engine.chosen(anna) == NAME


def test_a_download_that_fails_says_why_and_the_model_before_stays(hub, checkpoints, registry):
    hub.repos["somebody/model"].gated = True
    own = f"local-dir:{checkpoints('clip')}"
    engine = Engine(own, "cpu", offered=[NAME])
    engine.start()
    anna = registry.get(None)
    choosing.choose(engine, anna, NAME)
    going = engine.downloads.of(anna)
    until(lambda: going.ended)
    assert "accept them at https://huggingface.co/somebody/model" in going.error
    assert engine.chosen(anna) == own and engine.downloads.of(anna) is going
    engine.models.budget = 1
    with pytest.raises(NearlError, match="memory"):  # before anything is fetched
        choosing.choose(engine, anna, "medsiglip")


def test_the_weights_come_last_and_what_fails_is_one_sentence(hub, monkeypatch, tmp_path):
    told = []
    download.fetch(NAME, lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0 and told[0][0] == 0
    weights = hub.repos["somebody/model"].files["model.safetensors"][1]  # in the hub's storage of large files
    assert hub.calls()[-1] == f"GET /{weights}" and cached(entry_of(NAME))
    assert "GET /somebody/model/resolve/main/config.json" in hub.calls()

    hub.put(
        "somebody/towers", {"open_clip_model.safetensors": b"x", "open_clip_config.json": b"{}", "tf_model.h5": b"x"}
    )
    found = download.plan("hf-hub:somebody/towers")  # in open_clip's format, of which nothing else is needed
    assert found.open_clip and list(found.files) == ["open_clip_config.json", "open_clip_model.safetensors"]

    def refused(name: str = NAME) -> str:
        with pytest.raises(NearlError) as error:
            download.fetch(name)
        assert "\n" not in str(error.value)
        return str(error.value)

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    hub.put("somebody/pickled", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    assert "safetensors" in refused("hf-hub:somebody/pickled")
    assert "no model of this name" in refused("hf-hub:somebody/nobody")
    assert "not on the hub" in refused("ViT-B-32/laion400m_e32")
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as disk:
        disk.setattr("huggingface_hub.HfApi.hf_hub_download", lambda *_, **__: (_ for _ in ()).throw(full))
        assert "room on this machine's disk" in refused()
    with monkeypatch.context() as disk:
        disk.setattr("nearl.backbones.download.SPARE", 10**18)
        assert "room on this machine's disk" in refused()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "could not be fetched" in refused()


@pytest.mark.parametrize("line", ["0", "null", "[1]", '{"done": null}', '{"total": Infinity}', '{"error": null}', "x"])
def test_a_line_that_is_no_progress_does_not_end_a_download(workspace, monkeypatch, line):
    lines = [line, '{"done": 3, "total": 4}']
    monkeypatch.setattr(download, "start", lambda name: SimpleNamespace(stdout=lines, wait=lambda: 0))
    arrived = []
    downloads = Downloads(arrived.append)
    downloads.begin(workspace, NAME)
    going = downloads.of(workspace)
    assert going.over.wait(60)
    assert (going.error, going.done, going.total, arrived) == ("", 3, 4, [NAME])
