"""Sharing through huggingface_hub's real client and a local stand-in of the Hub's HTTP API (``hub_server``)."""

import hashlib
import json
import logging
import re
import socket
import traceback
import types

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from nearl.adapters import hub as nearl_hub
from nearl.adapters.card import CARD
from nearl.adapters.hub import check_repo_id, pull, push
from nearl.adapters.store import LIMITS, META, TENSORS, adapter_files, new_adapter
from nearl.errors import NearlError
from tests.support.hub_server import TOKENS, Hub

ANN, BOB, READ_ONLY = TOKENS
IDENTITY = {"name": "somemodel", "config_sha256": "c" * 64, "weights": "w" * 64}
REPO = "ann/lung-adapter"


@pytest.fixture
def online(monkeypatch, tmp_path):
    """The client may make calls (the suite forbids them), finds no token and no cache of this machine."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.utils._http, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet_cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    close_session()
    yield
    close_session()


@pytest.fixture
def hub(online):
    with Hub() as server:
        yield server


@pytest.fixture
def adapter():
    return new_adapter(
        {"a.weight": torch.randn(3, 4), "gate": torch.tensor(0.5)},
        backbone=IDENTITY,
        config={"rank": 3},
        classes=["one", "two"],
        prompts={"name": "p", "classes": [{"name": "one", "prompts": ["ü"]}, {"name": "two", "prompts": ["b"]}]},
        support_counts={"one": 3, "two": 4},
        name="Lungs",
    )


def same(a, b):
    return a.meta == b.meta and a.version == b.version


def refused(says, action, *args, **options):
    """The action fails with one sentence that holds ``says`` (a pattern) and no token."""
    with pytest.raises(NearlError, match=says) as error:
        action(*args, **options)
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 300, text
    shown = "".join(traceback.format_exception(error.value))
    assert not any(token in shown for token in TOKENS)
    return text


def test_push_and_pull_by_git_lfs(hub, adapter, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    assert push(adapter, REPO, token=ANN, endpoint=hub.url) == f"{hub.url}/{REPO}"
    oid = hashlib.sha256(adapter_files(adapter)[TENSORS]).hexdigest()
    assert hub.calls() == [
        f"GET /api/models/{REPO}",
        "POST /api/repos/create",
        "POST /api/validate-yaml",
        f"POST /api/models/{REPO}/preupload/main",
        f"POST /{REPO}.git/info/lfs/objects/batch",
        f"PUT /{oid}",
        f"POST /{REPO}.git/info/lfs/verify",
        f"POST /api/models/{REPO}/commit/main",
    ]
    repo = hub.repos[REPO]
    assert set(repo.files) == {META, TENSORS, CARD, ".gitattributes"} and not repo.private
    assert repo.files[CARD][0].startswith(b"---\nlibrary_name: nearl-clip\n")

    hub.requests.clear()
    assert same(pull(REPO, token=ANN, endpoint=hub.url, identity=IDENTITY), adapter)
    sha = repo.commits[-1]
    assert hub.calls() == [
        f"GET /api/models/{REPO}",
        f"HEAD /{REPO}/resolve/{sha}/{TENSORS}",
        f"GET /{oid}",
        f"HEAD /{REPO}/resolve/{sha}/{META}",
        f"GET /{REPO}/resolve/{sha}/{META}",
    ]
    assert same(pull(f"https://huggingface.co/{REPO}/", revision=sha, endpoint=hub.url), adapter)  # nobody's token
    assert not (tmp_path / "hub_cache").exists()  # nothing stays
    assert not any(token in record.getMessage() for record in caplog.records for token in TOKENS)


def test_the_token_goes_to_the_hub_alone_and_none_is_taken_from_the_machine(hub, adapter, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", ANN)
    push(adapter, REPO, token=ANN, private=True, endpoint=hub.url)
    pull(REPO, token=ANN, endpoint=hub.url)
    storage = [r for r in hub.requests if re.fullmatch("/[0-9a-f]{64}", r[1])]
    assert len(storage) == 2 and all("Authorization" not in headers for _, _, headers in storage)
    assert not any(ANN.encode() in data for data, _ in hub.repos[REPO].files.values())
    hub.requests.clear()
    refused("only its owner may see it", pull, REPO, endpoint=hub.url)
    refused("needs your own Hub token", push, adapter, REPO, endpoint=hub.url)
    assert hub.requests and all("Authorization" not in headers for _, _, headers in hub.requests)
    assert nearl_hub.saved_token() == ANN  # the command line asks for it


def test_push_and_pull_by_xet(online, adapter, monkeypatch, tmp_path):
    hf_xet = pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    adapter.state["a.weight"] = torch.randn(300, 400)
    adapter.meta["tensors"]["a.weight"] = [300, 400]
    tensors = adapter_files(adapter)[TENSORS]
    with Hub(xet=str(tmp_path / "xet")) as hub:
        push(adapter, REPO, token=ANN, endpoint=hub.url)
        oid = hashlib.sha256(tensors).hexdigest()
        assert f"GET /api/models/{REPO}/xet-write-token/main" in hub.calls()
        assert hub.repos[REPO].files[TENSORS][1] == oid and not hub.storage  # the bytes are in the content store alone
        (tmp_path / "copy").write_bytes(tensors)
        hub.xet_hashes[oid] = hf_xet.hash_files([str(tmp_path / "copy")])[0].hash  # on the Hub, known from the upload
        assert same(pull(REPO, token=ANN, endpoint=hub.url), adapter)
        assert any("xet-read-token" in call for call in hub.calls())
    with Hub(xet=str(tmp_path / "xet")) as hub:  # another one: clients may remember a token
        hub.fail["xet-write-token"] = (403, {}, {})
        refused("may not do that", push, adapter, REPO, token=ANN, endpoint=hub.url)


def test_pushing_again_updates_and_two_at_once_do_not_overwrite_each_other(hub, adapter, monkeypatch):
    push(adapter, REPO, token=ANN, endpoint=hub.url)
    push(adapter, REPO, token=ANN, endpoint=hub.url)
    repo = hub.repos[REPO]
    assert len(repo.commits) == 2  # nothing changed, so no second commit
    adapter.state["gate"] += 1
    push(adapter, REPO, token=ANN, endpoint=hub.url)
    assert len(repo.commits) == 3 and pull(REPO, endpoint=hub.url).state["gate"] == 1.5
    look = nearl_hub._look

    def look_then_another_pushes(api, repo_id):
        info = look(api, repo_id)
        repo.commits.append("f" * 40)
        return info

    monkeypatch.setattr(nearl_hub, "_look", look_then_another_pushes)
    adapter.state["gate"] += 1
    refused("just been made or changed by someone else", push, adapter, REPO, token=ANN, endpoint=hub.url)


def test_what_is_there_already_is_left_alone(hub, adapter):
    hub.put(REPO, {"config.json": b"{}", "model.safetensors": b"x"})
    refused("other than an adapter", push, adapter, REPO, token=ANN, endpoint=hub.url)
    hub.put(REPO, {CARD: b"hello"})
    push(adapter, REPO, token=ANN, endpoint=hub.url)
    refused("is public; choose another name", push, adapter, REPO, token=ANN, private=True, endpoint=hub.url)
    push(adapter, "ann/secret", token=ANN, private=True, endpoint=hub.url)
    assert hub.repos["ann/secret"].private
    refused("only its owner may see it", pull, "ann/secret", token=BOB, endpoint=hub.url)
    pull("ann/secret", token=ANN, endpoint=hub.url)
    hub.fail["models/ann/secret$"] = (503, {}, {})  # no copy of hers is left that he could be given
    refused("problem of its own", pull, "ann/secret", token=BOB, endpoint=hub.url)


def test_only_the_two_files_are_asked_for(hub, adapter, tmp_path):
    files = adapter_files(adapter)
    odd = {"../../evil.txt": b"x", "/etc/passwd": b"x", "sub/adapter.json": b"{", "model.bin": b"pickle", "a\0b": b"x"}
    hub.put(REPO, {**odd, **files})
    assert same(pull(REPO, endpoint=hub.url), adapter)
    asked = {path.rsplit("/", 1)[-1] for _, path, _ in hub.requests if "/resolve/" in path}
    assert asked == {META, TENSORS}
    hub.put(REPO, odd)
    refused("holds no adapter.safetensors, so it is not an adapter", pull, REPO, endpoint=hub.url)


@pytest.mark.parametrize("name", LIMITS)
def test_the_size_is_checked_before_anything_is_downloaded(hub, adapter, name):
    hub.put(REPO, adapter_files(adapter), said_sizes={name: LIMITS[name] + 1})
    refused(f"{name} of '{REPO}' on the Hub is too large", pull, REPO, endpoint=hub.url)
    assert len(hub.requests) == 1
    hub.repos[REPO].said_sizes[name] = None
    refused("too large", pull, REPO, endpoint=hub.url)


def test_what_comes_is_checked_like_any_other_file(hub, adapter):
    files = adapter_files(adapter)
    hub.put(REPO, files | {TENSORS: files[TENSORS][:-5]})
    refused("damaged or not a safetensors file", pull, REPO, endpoint=hub.url)
    hub.put(REPO, files | {META: b"["})
    refused("not readable JSON", pull, REPO, endpoint=hub.url)
    hub.put(REPO, files | {META: json.dumps(adapter.meta | {"classes": [{"a": 1}]}).encode()})
    refused("lacks a proper 'classes'", pull, REPO, endpoint=hub.url)
    hub.put(REPO, files)
    other = IDENTITY | {"name": "other", "weights": "x"}
    refused("taught on the model 'somemodel'", pull, REPO, endpoint=hub.url, identity=other)


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "does not accept this token"),
        (402, {}, "paid plan"),
        (403, {}, "may not do that"),
        (404, {"X-Error-Code": "RepoNotFound"}, "There is no model"),
        (404, {"X-Error-Code": "EntryNotFound"}, "a file of it is missing"),
        (403, {"X-Error-Code": "GatedRepo"}, "accept terms"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, "has disabled"),
        (409, {}, "someone else"),
        (413, {}, "too large"),
        (418, {}, "error 418: I am … a teapot"),
        (429, {}, "too many requests"),
        (500, {}, "problem of its own .error 500"),
        (504, {}, "problem of its own .error 504"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "call", ["GET /api/models", "(POST .*/preupload|HEAD .*/resolve)", "(POST .*/commit|GET /(?!api))"]
)
def test_every_refusal_is_a_sentence(hub, adapter, call, status, headers, says):
    hub.put(REPO, adapter_files(adapter))
    adapter.state["gate"] += 1
    hub.fail[call] = (status, headers, {"error": f"I am\n{ANN} a teapot"})
    if status != 418 or not call.startswith("(POST .*/pre"):  # the answer to HEAD has no body
        refused(says, pull, REPO, token=ANN, endpoint=hub.url)
    if "RepoNotFound" in headers.values() and call.startswith("GET"):
        says = "someone else"  # a name that looks free, but is taken when it comes to making the repository
    refused(says, push, adapter, REPO, token=ANN, endpoint=hub.url)


def test_refusals_while_downloading_and_while_uploading(hub, adapter):
    hub.put(REPO, adapter_files(adapter), gated=True)
    refused("accept terms", pull, REPO, token=BOB, endpoint=hub.url)
    hub.repos[REPO].gated = False
    refused("has no such version", pull, REPO, revision="../../x", endpoint=hub.url)
    refused("may not do that", push, adapter, REPO, token=BOB, endpoint=hub.url)
    refused("may not do that", push, adapter, "ann/new", token=BOB, endpoint=hub.url)
    refused("does not accept this token", push, adapter, REPO, token="hf_wrong", endpoint=hub.url)
    refused("does not accept this token", pull, REPO, token="hf_wrong", endpoint=hub.url)
    for token in (f"{ANN}\n", f"{ANN}\r\nX-Evil: 1", f"{ANN}é", " "):
        refused("not a Hub token", push, adapter, REPO, token=token, endpoint=hub.url)
        refused("not a Hub token", pull, REPO, token=token, endpoint=hub.url)
    adapter.state["gate"] += 1
    for call, (status, says) in {
        "PUT /": (403, "may not do that"),
        "HEAD /.*safetensors": (500, "problem of its own"),
        "GET /.*adapter.json": (502, "problem of its own"),
        "lfs/objects/batch": (413, "too large"),
        "validate-yaml": (503, "could not be used|problem of its own"),
    }.items():
        hub.fail = {call: (status, {}, {})}
        if call.startswith(("HEAD", "GET")):
            refused(says, pull, REPO, endpoint=hub.url)
        else:
            refused(says, push, adapter, REPO, token=ANN, endpoint=hub.url)
    hub.fail = {"validate-yaml": (400, {}, {"errors": [{"message": "bad"}]})}
    refused("could not be used|refused", push, adapter, REPO, token=ANN, endpoint=hub.url)
    hub.fail = {"": (200, {}, b"<html>a proxy's page</html>")}
    refused("could not be used", pull, REPO, endpoint=hub.url)
    refused("could not be used", push, adapter, REPO, token=ANN, endpoint=hub.url)
    hub.fail = {}
    push(adapter, REPO, token=ANN, endpoint=hub.url)  # and nothing of all that lingers
    assert same(pull(REPO, endpoint=hub.url), adapter)


def test_no_network_offline_mode_and_silence(hub, adapter, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    refused("could not be reached", pull, REPO, endpoint=nowhere)
    refused("could not be reached", push, adapter, REPO, token=ANN, endpoint=nowhere)
    monkeypatch.setattr(nearl_hub, "LOOK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(nearl_hub, "TIMEOUT_S", 0.3)
    hub.hang = "GET /api/models"
    refused("did not answer in time", pull, REPO, endpoint=hub.url)
    hub.hang = "repos/create"
    refused("did not answer in time", push, adapter, REPO, token=ANN, endpoint=hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("switched off here", pull, REPO, endpoint=hub.url)
    refused("switched off here", push, adapter, REPO, token=ANN, endpoint=hub.url)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("hf-hub:owner/model", "owner/model"),
        ("biomedclip", "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"),
        ("ViT-B-16/openai", None),
        ("embedded", None),
        ("hf-hub:a/b\nlicense: mit", None),
    ],
)
def test_the_card_names_the_base_model_where_the_hub_has_it(hub, adapter, base, expected):
    adapter.meta["backbone"] = IDENTITY | {"name": base}
    push(adapter, REPO, token=ANN, endpoint=hub.url)
    text = hub.repos[REPO].files[CARD][0].decode()
    assert re.findall("^base_model: (.*)$", text, re.MULTILINE) == ([expected] if expected else [])


@pytest.mark.parametrize("text", ["ann/a", " ann/a.b_c-d \n", "https://huggingface.co/ann/a", "http://hf.co/ann/a/"])
def test_names_of_repositories(text):
    assert check_repo_id(text).startswith("ann/a")


@pytest.mark.parametrize(
    "text",
    ["", "ann", "ann/", "/a", "ann/a/b", "datasets/ann/a", "ann/../a", "ann/a--b", "ann/a.git", "ann/-a", "añn/a",
     "ann/a b", "ann/a?x=1", "ann/a#x", "ann/" + "a" * 96, "https://evil.example/ann/a", "ann/a\0", "ann\\a", None,
     "ann/a\nX-Header: 1", "<b>ann</b>/a", "../../etc", "ann/%2e%2e"],
)  # fmt: skip
def test_bad_names_of_repositories_are_refused_before_any_call(hub, adapter, text):
    for action in (check_repo_id, pull, lambda name: push(adapter, name, token=ANN, endpoint=hub.url)):
        refused("owner/name", action, text)
    assert not hub.requests
