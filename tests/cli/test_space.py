"""`nearl space`: what would be sent, why it would be refused, and the sending, to a Hub that stands in."""

import json
import shutil
import subprocess

import pytest
from huggingface_hub import metadata_load

from nearl.backbones import REGISTRY
from nearl.cli import space, space_files
from nearl.errors import NearlError
from tests.support.hub_server import Hub
from tests.support.pages import ROOT

KEPT = ("README.md", "requirements.txt", "app.py", ".gitignore", "docs/predict.png", "docs/space.gitattributes")


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True).stdout


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A checkout with some files of this one, from which the command sends."""
    folder = tmp_path / "copy"
    for name in KEPT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "nearl").mkdir()
    (folder / "nearl" / "__init__.py").write_text("")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_it.py").write_text("")
    (folder / "runs").mkdir()
    (folder / "runs" / "ignored.txt").write_text("a visitor's")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    (folder / "untracked.txt").write_text("mine")
    monkeypatch.setattr(space, "ROOT", folder)
    return folder


def dry(nearl, *words):
    status, out, err = nearl("space", "ann/demo", "--dry-run", "--json", *words)
    return status, json.loads(out), err


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_the_repository_as_it_stands_can_be_sent(nearl):
    status, result, _ = dry(nearl, "--hardware", "zero-a10g")
    assert (status, result["problems"], result["hardware"]) == (0, [], "zero-a10g")
    files = {file["path"]: file for file in result["files"]}
    assert {"app.py", "README.md", "nearl/__init__.py", ".gitattributes"} <= files.keys()
    assert not any(path.startswith(("tests/", "benchmarks/", ".ci/")) for path in files)
    weights = files["assets/backbone/open_clip_model.safetensors"]
    assert weights["lfs"] and weights["bytes"] > space_files.LARGEST


def test_only_what_git_tracks_is_sent_and_torch_is_held_to_what_every_space_has(nearl, copy, tmp_path):
    status, result, _ = dry(nearl)
    names = {file["path"] for file in result["files"]}
    assert status == 0 and names == {*KEPT, "nearl/__init__.py", ".gitattributes"} - {".gitignore"}
    assert nearl("space", "ann/demo", "--folder", tmp_path / "out")[0] == 0
    sent = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert sent == names
    lines = (tmp_path / "out" / "requirements.txt").read_text().splitlines()
    own = set((copy / "requirements.txt").read_text().splitlines())
    torch, spaces = (line for line in lines if line not in own)
    assert torch.startswith("torch") and "<2.12" in torch and spaces.startswith("spaces")
    assert "spaces/ann/demo/resolve/main/docs/predict.png" in (tmp_path / "out" / "README.md").read_text()
    assert nearl("space", "ann/demo", "--folder", tmp_path / "out")[0] == 2  # nothing of somebody's is overwritten


def test_the_front_matter_names_models_that_can_be_loaded_from_the_hub():
    sources = (entry.source.partition("@")[0] for entry in REGISTRY.values() if entry.source.startswith("hf-hub:"))
    assert set(metadata_load(ROOT / "README.md")["models"]) <= {source.removeprefix("hf-hub:") for source in sources}


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def change(name, old, new):
    def spoil(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (put("more.dat", b"a" * 12_000_000), ["more.dat", "12 MB", "LFS"]),
        (put("small.bin", b"\0" * 9), ["small.bin", "binary"]),
        (change("README.md", "colorFrom: gray", "colorFrom: [gray"), ["front matter", "README.md"]),
        (change("README.md", "colorFrom: gray", "colorFrom: teal"), ["colorFrom"]),
        (change("README.md", "short_description: ", "short_description: " + 60 * "very "), ["short_description"]),
        (change("README.md", "emoji: ", "emojy: "), ["emojy"]),
        (change("README.md", "app_file: app.py", "app_file: main.py"), ["main.py", "app_file"]),
        (change("README.md", 'python_version: "3.12"', 'python_version: "3.99"'), ["3.99", "3.12"]),
        (change("README.md", 'python_version: "3.12"', "python_version: 3.10"), ["python_version"]),
        (change("README.md", "sdk_version: 6", "sdk_version: 5"), ["Gradio 5", "requirements.txt"]),
        (change("requirements.txt", "torch>=2.6,<3", "torch>=2.12,<3"), ["torch", "2.8 to 2.11"]),
        (put("notes.txt", b"token = hf_" + b"aB3" * 12), ["notes.txt", "token of the Hub"]),
        (put("keys.txt", b"AKIA" + b"A7" * 8), ["keys.txt", "AWS"]),
        (put("id_rsa", b"-----BEGIN OPENSSH PRIVATE " + b"KEY-----"), ["id_rsa", "private key"]),
        (lambda folder: (folder / "app.py").unlink(), ["app.py", "working tree"]),
        (lambda folder: git(folder, "add", "-f", "runs/ignored.txt"), ["runs/ignored.txt", ".gitignore"]),
    ],
)  # fmt: skip
def test_a_spoiled_copy_is_refused_in_a_sentence(nearl, copy, spoil, said):
    spoil(copy)
    if (copy / "app.py").exists():
        git(copy, "add", "-A")
    status, result, err = dry(nearl)
    assert status == 1 and "Traceback" not in err
    assert any(all(part in problem for part in said) for problem in result["problems"]), result["problems"]
    assert all(problem.endswith(".") for problem in result["problems"])
    status, out, err = nearl("space", "ann/demo")  # nothing is sent
    assert status == 2 and not out and said[0] in err


def test_names_and_hardware_that_do_not_exist_and_other_folders_are_refused(nearl, copy, monkeypatch, tmp_path):
    assert nearl("space", "demo", "--dry-run")[0] == 2
    assert "zero-a10g" in nearl("space", "ann/demo", "--dry-run", "--hardware", "h1000")[2]
    monkeypatch.setattr(space, "ROOT", tmp_path)
    assert "git" in nearl("space", "ann/demo", "--dry-run")[2]


@pytest.mark.parametrize("xet", [False, True])
def test_it_is_sent_as_a_space_and_what_is_gone_is_deleted_there(copy, monkeypatch, xet):
    monkeypatch.setattr("nearl.adapters.hub.get_token", lambda: "hf_ann_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for module in ("hf_api", "_commit_api"):  # folders are sent in two ways, by one or the other as versions go
        monkeypatch.setattr(f"huggingface_hub.{module}.is_xet_available", lambda: xet, raising=False)
    monkeypatch.setenv("HF_XET_CACHE", str(copy.parent / "cache"))
    with Hub(xet=str(copy.parent / "xet") if xet else None) as hub:
        url = space.send(space_files.plan(copy, "ann/demo"), "ann/demo", "cpu-basic", endpoint=hub.url)
        assert url.endswith("/spaces/ann/demo") and hub.spaces == {"ann/demo": "cpu-basic"}
        first = set(hub.repos["ann/demo"].files)
        assert {"app.py", "nearl/__init__.py", "docs/predict.png"} <= first
        git(copy, "rm", "-q", "--cached", "docs/predict.png")
        (copy / "docs" / "predict.png").unlink()
        change("README.md", "thumbnail: docs/predict.png", "thumbnail: https://example.org/a.png")(copy)
        space.send(space_files.plan(copy, "ann/demo"), "ann/demo", "zero-a10g", endpoint=hub.url)
        assert hub.spaces == {"ann/demo": "zero-a10g"}
        assert first - set(hub.repos["ann/demo"].files) == {"docs/predict.png"}
        with pytest.raises(NearlError, match="public"):
            space.send(space_files.plan(copy, "ann/demo"), "ann/demo", private=True, endpoint=hub.url)
        hub.put("ann/other", {"app.py": b"somebody's"})
        with pytest.raises(NearlError, match="something else"):
            space.send(space_files.plan(copy, "ann/other"), "ann/other", endpoint=hub.url)
        with pytest.raises(NearlError, match="write access"):
            space.send(space_files.plan(copy, "bob/demo"), "bob/demo", endpoint=hub.url)
