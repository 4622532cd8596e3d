"""Visitors never meet: two real clients at once, with each other's identifiers, guessed ones and file addresses; what
is on disk, for how long, and under which names."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file

from app.teach.images import actions as gathering
from app.visitor import registry as registries
from app.visitor import workspace
from app.visitor.disk import Root, folder_name
from app.visitor.registry import KEEP_SECONDS, UPLOAD_SECONDS, Registry
from app.visitor.workspace import IDLE_SECONDS
from nearl.data.phantoms.kinds import phantom_set, write_phantom_folder
from nearl.errors import NearlError
from nearl.prompts import default_prompts
from tests.support.app_server import ask, functions, open_page, serve
from tests.support.pages import ROOT

MARK = "Zzyzx_Anna"
PROMPTS = default_prompts(["no lesion", "lesion"]).to_dict()
PATIENCE = 600  # seconds for anything at all, on a machine that has other work
pytestmark = pytest.mark.timeout(3 * PATIENCE)


# ------------------------------------------------------------------------------------------------------- two visitors


@pytest.fixture(scope="module")
def server(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    left_over = folder / "workspaces" / "uploads" / ("0123" * 16) / f"{MARK}.png"  # by a server that was killed
    left_over.parent.mkdir(parents=True)
    left_over.write_bytes(b"an image")
    with serve(f"local-dir:{checkpoints('clip')}", folder / "app.log") as running:
        assert not left_over.exists()
        yield running


@pytest.fixture(scope="module")
def kept(server) -> Path:
    return server.log.parent / "workspaces"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = write_phantom_folder(tmp_path_factory.mktemp("task") / "head", "head_mri", train=4, test=2, size=64)
    return folder, shutil.make_archive(str(folder), "zip", folder)


class Visitor:
    """A client with the page's workspace, and everything that was ever answered to it."""

    def __init__(self, server):
        self.client = Client(server.url, verbose=False)
        self.key = open_page(server, self.client.session_hash)
        self.tab = secrets.token_hex(8)  # a second session of the same workspace, for calls without the library
        assert open_page(server, self.tab, self.key) == self.key
        self.heard: list = []

    def ask(self, name: str, *values):
        self.heard.append(self.client.predict(*values, api_name=f"/{name}"))
        return self.heard[-1]


def raw(url: str, name: str, data: list, session: str) -> dict:
    """A call past the client library, which would leave values of the session out: the last message of its stream."""
    body = {"data": data, "fn_index": functions(url)[name], "session_hash": session}
    ask("POST", f"{url}/gradio_api/queue/join", json=body).raise_for_status()
    stream = f"{url}/gradio_api/queue/data?session_hash={session}"
    with httpx.stream("GET", stream, timeout=PATIENCE, verify=False) as answer:
        for line in answer.iter_lines():
            message = json.loads(line[5:]) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no answer")


def fetch(server, path: object) -> int:
    return ask("GET", f"{server.url}/gradio_api/file={path}").status_code


def test_two_visitors_at_once_and_with_each_others_identifiers(server, kept, task):
    folder, archive = task
    picture = handle_file(next((folder / "test").glob("*/*.png")))
    one, two = Visitor(server), Visitor(server)
    assert one.key != two.key

    # the same file at the same time: neither takes it away from the other
    asked = [v.client.submit([picture] * 2, PROMPTS, api_name="/predict") for v in (one, two) * 3]
    for answer in asked:
        assert "predictions" in answer.result(PATIENCE), answer.result(PATIENCE)
        assert [row["error"] for row in answer.result(PATIENCE)["predictions"]] == [None, None]

    # one teaches, two waits behind it, sees no progress but its own, and cancels nothing but its own
    first = one.client.submit(handle_file(archive), None, "quick", api_name="/teach")
    end = time.monotonic() + PATIENCE
    while one.ask("run")["state"] is None and time.monotonic() < end:
        time.sleep(0.1)
    second = two.client.submit(handle_file(archive), None, "thorough", api_name="/teach")
    while two.ask("run")["state"] is None and time.monotonic() < end:
        time.sleep(0.1)
    assert raw(server.url, "cancel", [one.key], two.tab)["output"]["data"][-1]["state"] is not None
    assert second.result(PATIENCE)["state"] == "cancelled"
    assert first.result(PATIENCE)["state"] == "done"
    two.heard += second.outputs()
    (mine,) = one.ask("shelf")["adapters"]
    assert two.ask("run")["state"] == "cancelled"
    theirs = [item["id"] for item in two.ask("shelf")["adapters"]]
    assert mine["id"] not in theirs

    # the other's adapter by its id, and ids that lead elsewhere
    for item in (mine["id"], f"../../{folder_name(one.key)}/shelf/{mine['id']}", "../..", "..", "/etc", "%2e%2e", "\0"):
        for name, more in (("use", ()), ("rename", ("new",)), ("delete", ())):
            assert "no such adapter" in two.ask(name, item, *more)["error"]
    assert one.ask("shelf")["adapters"] == [mine]
    assert two.ask("predict", [picture], PROMPTS)["predictions"][0]["adapted"] is None

    # the other's workspace id as a value of a call: the session's own is used
    shown = raw(server.url, "shelf", [one.key], two.tab)
    assert [item["id"] for item in shown["output"]["data"][-1]["adapters"]] == theirs
    assert raw(server.url, "shelf", [one.key], "nobody")["output"]["data"][-1] == {"adapters": []}
    assert raw(server.url, "results", [one.key], two.tab)["output"]["data"][-1].keys() == {"error"}

    # ids are not guessed, and the name of a folder opens nothing
    near = one.key[:-1] + ("A" if one.key[-1] != "A" else "B")
    for guess in ("", near, folder_name(one.key), "../" + folder_name(one.key), "A" * 43, one.key.lower() + " ", 7):
        assert open_page(server, secrets.token_hex(8), guess) not in (one.key, two.key, guess)

    # files: nothing of a workspace by its path, whichever way it is written or handed in
    address = raw(server.url, "download_adapter", [None], one.tab)["output"]["data"][-1]["url"]
    again = raw(server.url, "download_adapter", [None], one.tab)["output"]["data"][-1]["url"]
    secret = re.compile(r"/([0-9a-f]{32})/nearl-adapter\.zip$")  # as good as a password, and gone in an hour
    assert secret.search(address)[1] != secret.search(again)[1]
    assert ask("GET", address).status_code == 200
    own = sorted(path for path in kept.glob("workspaces/*/**/*") if path.is_file())
    assert {path.suffix for path in own} >= {".png", ".json", ".safetensors"}
    for path in own:
        assert fetch(server, path) == 403
    inside = kept / "uploads" / ".." / own[0].relative_to(kept)
    for path in (inside, str(inside).replace("..", "%2e%2e"), kept, kept / "uploads", kept / ".lock", "app.py"):
        assert fetch(server, path) in (403, 404)
    assert fetch(server, "https://example.org/x") == 403
    assert "Traceback" not in server.console()
    for path in own:
        handed = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        answer = raw(server.url, "use_adapter", [None, handed], two.tab)
        assert not answer["success"] or "error" in answer["output"]["data"][-1]

    # no call has left a file behind, and what is kept is for the server alone
    assert not [path for path in (kept / "uploads").rglob("*") if path.is_file() and path.name != "nearl-adapter.zip"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept.rglob("*")} == {0o600, 0o700}

    # nothing of one in what two was told, and no id in the log
    told = json.dumps(two.heard)
    for hidden in (one.key, two.key, folder_name(one.key), mine["id"]):
        assert hidden not in told
    assert one.key not in server.console() and two.key not in server.console()


def test_the_same_upload_has_another_address_for_everyone(server):
    def upload() -> str:
        files = {"files": (f"{MARK}.png", b"the same")}
        return ask("POST", f"{server.url}/gradio_api/upload", files=files).json()[0]

    assert upload() != upload()


# ------------------------------------------------------------------------------------------------------------ on disk


@pytest.fixture
def now():
    return [time.time()]


@pytest.fixture
def registry(tmp_path, now):
    return Registry(Root(tmp_path / "root"), clock=lambda: now[0])


def test_what_is_kept_has_no_names_and_is_for_the_server_alone(registry):
    data, test = phantom_set("smear", 3, size=64), phantom_set("smear", 1, seed=1, size=64)
    for part in (data, test):
        part.records = [replace(record, name=f"{MARK}.png") for record in part.records]
    data.groups, data.name = [f"{MARK} {i % 2}" if i else "" for i in range(len(data))], f"{MARK}.zip"
    data.ours = test.ours = data.synthetic = test.synthetic = False  # as if a visitor had brought them
    mine = registry.get(None)
    mine.support.keep(data, test)
    for path in registry.root.path.rglob("*"):
        assert MARK not in path.name and mine.id not in str(path)
        assert path.is_dir() or MARK.encode() not in path.read_bytes()
    for folder in (registry.root.workspaces, registry.root.uploads):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    found = Registry(registry.root).get(mine.id)
    assert found is not mine and found.id == mine.id
    again, more = found.support.data, found.support.held_out
    assert [r.digest for r in again.records] == [r.digest for r in data.records]
    assert (again.classes, again.labels, len(more)) == (data.classes, data.labels, len(test))
    assert [a == b for a in again.groups for b in again.groups] == [a == b for a in data.groups for b in data.groups]
    gathering.remove_images(found, [0])
    assert len(list(found.path.rglob("*.png"))) == len(data) + len(test) - 1
    gathering.forget_images(found)
    assert list(found.path.rglob("*.png")) == []


def test_a_full_workspace_says_so_and_keeps_what_it_has(registry, monkeypatch):
    mine = registry.get(None)
    mine.support.keep(phantom_set("smear", 2, size=64))
    monkeypatch.setattr(workspace, "MAX_BYTES", 30_000)
    with pytest.raises(NearlError, match="full"):
        mine.support.keep(phantom_set("smear", 9, seed=3, size=64))
    assert len(mine.support.data) == len(Registry(registry.root).get(mine.id).support.data) == 4


def test_the_sweeper_also_clears_up_after_an_earlier_server(registry, now):
    old, young, busy = (registry.get(None) for _ in range(3))
    for each in (old, young, busy):
        each.support.keep(phantom_set("smear", 1, size=64))
        each.stamp(now[0])
    upload = registry.root.uploads / ("0123" * 16) / f"{MARK}.png"
    upload.parent.mkdir()
    upload.write_bytes(b"an image")
    for path in (upload, upload.parent):
        os.utime(path, (now[0], now[0]))
    later = Registry(registry.root, clock=lambda: now[0])  # a server that starts on the same folder
    now[0] += KEEP_SECONDS - 60
    later.get(young.id)
    later.get(busy.id).runs.keep("run", type("Run", (), {"finished": False})())
    later.sweep_disk()
    assert all(each.path.exists() for each in (old, young, busy))
    assert not upload.parent.exists() and UPLOAD_SECONDS < KEEP_SECONDS
    now[0] += 120
    later.sweep_disk()
    assert [each.path.exists() for each in (old, young, busy)] == [False, True, True]
    assert later.get(old.id) is not old and later.get(old.id).support.data is None
    now[0] += KEEP_SECONDS + IDLE_SECONDS
    later.sweep_disk()
    assert [each.path.exists() for each in (old, young, busy)] == [False, False, True]


def test_what_outlives_a_restart_is_known(tmp_path, monkeypatch):
    root, mounted = Root(tmp_path / "root"), {"/"}
    assert root.lasts and not Root().lasts  # a temporary folder never does
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) in mounted)
    monkeypatch.setenv("SPACE_ID", "somebody/nearl")
    assert not root.lasts
    mounted.add(str(tmp_path))
    assert root.lasts


def test_there_are_never_more_workspaces_on_disk_than_allowed(registry, now, monkeypatch):
    monkeypatch.setattr(registries, "MAX_ON_DISK", 2)
    made = []
    for _ in range(4):
        made.append(registry.get(None))
        made[-1].support.keep(phantom_set("smear", 1, size=64))
        made[-1].stamp(now[0])
        now[0] += 2 * IDLE_SECONDS
    registry.sweep_disk()
    assert [each.path.exists() for each in made] == [False, False, True, True]


def test_two_servers_do_not_share_a_folder_and_a_killed_one_frees_it(tmp_path):
    code = "import sys; from app.visitor.disk import Root; r = Root(sys.argv[1]); print('up', flush=True); input()"
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "root")], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout.readline() == b"up\n"
    with pytest.raises(NearlError, match="Another server"):
        Root(tmp_path / "root")
    first.kill()
    first.wait()
    Root(tmp_path / "root")


@pytest.mark.parametrize(
    "theirs", ["notes.txt", "uploads/notes.txt", "uploads/2019/scan.dcm", "workspaces/thesis/main.tex"]
)
def test_a_folder_with_somebody_elses_files_is_refused_and_left_as_it_was(tmp_path, theirs):
    file = tmp_path / "mine" / theirs
    file.parent.mkdir(parents=True)
    file.write_text("years of work")
    for path in (file, *file.parents[: len(Path(theirs).parts)]):
        os.utime(path, (0, 0))
    with pytest.raises(NearlError, match="not this app's"):
        Root(tmp_path / "mine")
    assert file.read_text() == "years of work"
    assert [path for path in (tmp_path / "mine").rglob("*") if path.is_file()] == [file]


@pytest.mark.parametrize("place", ["", "uploads", "workspaces"])
def test_a_link_to_a_folder_is_refused(tmp_path, place):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    (theirs / "scan.dcm").write_bytes(b"a scan")
    if place:
        Root(ours)  # a folder of ours, in which somebody then put a link
        (ours / place).rmdir()
    (ours / place).symlink_to(theirs)
    with pytest.raises(NearlError, match="is a link"):
        Root(ours)
    assert (theirs / "scan.dcm").read_bytes() == b"a scan"


def test_only_what_the_server_made_is_deleted_from_its_own_folder(registry, now):
    workspaces, uploads = registry.root.workspaces, registry.root.uploads
    ours = [
        workspaces / ("ab" * 20) / "set" / "a.png",
        uploads / ("cd" * 32) / "a.png",
        uploads / f"out-{'e' * 32}" / "b",
        uploads / "tmp0a_b1c2d",  # of an upload that was broken off
    ]
    outside = registry.root.path.parent / "outside.dcm"
    theirs = [outside, workspaces / "thesis" / "main.tex", uploads / "notes.txt", uploads / "2019" / "scan.dcm"]
    for path in (*ours, *theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
        for each in (path, path.parent, path.parent.parent):
            os.utime(each, (0, 0))
    for folder in (workspaces, uploads):
        (folder / ("f" * (40 if folder is workspaces else 64))).symlink_to(outside.parent, target_is_directory=True)
    os.utime(ours[0].parents[1], (0, 0))
    fresh = uploads / ("9" * 64)
    fresh.mkdir()
    now[0] = fresh.stat().st_mtime + 1
    registry.sweep_disk()
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in theirs) and fresh.exists()


def test_a_folder_of_a_version_without_a_marker_is_taken_over(tmp_path):
    (tmp_path / "old" / "workspaces" / ("ab" * 20)).mkdir(parents=True)
    (tmp_path / "old" / "uploads" / ("cd" * 32)).mkdir(parents=True)
    (tmp_path / "old" / "uploads" / "tmp0a_b1c2d").touch()  # Gradio leaves one for every upload
    (tmp_path / "old" / ".lock").touch()
    assert Root(tmp_path / "old").folder("key").parent == tmp_path / "old" / "workspaces"
