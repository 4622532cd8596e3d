"""Uploads on their way through the server: counted, apart, and gone when they were read; failures are sentences."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import gradio as gr
import pytest
from gradio import route_utils
from gradio.routes import App
from starlette.testclient import TestClient

from app.page import Page
from app.visitor import guard, uploads
from nearl.errors import NearlError

MB = 2**20


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "uploads"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    monkeypatch.setattr(uploads, "COUNTED", uploads.Counted())
    monkeypatch.setattr(uploads, "SMALL", MB // 2)
    return folder


@pytest.fixture
def app(folder):
    guard.keep_uploads_apart()
    guard.forget_what_was_shown()

    def read(file: str | None) -> str:
        if file is None:
            raise NearlError("There is no file.")
        text = Path(file).read_text()
        uploads.forget([file])
        return text

    def full() -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Page(analytics_enabled=False) as page:
        file, text = gr.File(), gr.Textbox()
        gr.Button().click(read, file, text, api_name="read", queue=False)
        gr.Button().click(full, None, text, api_name="full", queue=False)
    page.lanes, page.max_file_size = None, 64 * MB
    page.call_function = lambda *given, **named: gr.Blocks.call_function(page, *given, **named)
    return App.create_app(page, app_kwargs={"middleware": guard.MIDDLEWARE})


def client(app, address: str = "10.0.0.1") -> TestClient:
    return TestClient(app, client=(address, 1), raise_server_exceptions=False)


def send(app, size: int, address: str = "10.0.0.1", files: int = 1):
    sent = [("files", (f"{number}.bin", bytes(size))) for number in range(files)]
    return client(app, address).post("/gradio_api/upload", files=sent)


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_one_request_does_not_pass_the_ceiling_and_leaves_nothing(app, folder, monkeypatch):
    monkeypatch.setattr(uploads, "EACH_BYTES", 3 * MB)
    refused = send(app, 2 * MB, files=4)
    assert refused.status_code == 413 and refused.text == uploads.TOO_MUCH
    assert left(folder) == []
    assert send(app, 2 * MB).status_code == 200


def test_a_sender_at_the_ceiling_waits_until_something_was_read_and_others_do_not(app, folder, monkeypatch):
    monkeypatch.setattr(uploads, "EACH_BYTES", 3 * MB)
    first = send(app, 2 * MB)
    assert send(app, 2 * MB).status_code == 413
    assert send(app, 2 * MB, address="10.0.0.2").status_code == 200
    assert send(app, MB // 4).status_code == 200  # small ones pass
    uploads.forget(first.json())
    second = send(app, 2 * MB)
    assert second.status_code == 200
    os.remove(second.json()[0])  # by the sweeper
    assert send(app, 2 * MB).status_code == 200


def test_all_together_have_a_ceiling_and_small_uploads_pass_it(app, folder, monkeypatch):
    monkeypatch.setattr(uploads, "ALL_BYTES", 3 * MB)
    monkeypatch.setattr(uploads, "SMALL_BYTES", MB)
    assert send(app, 2 * MB).status_code == 200
    refused = send(app, 2 * MB, address="10.0.0.2")
    assert refused.status_code == 413 and refused.text == uploads.TOO_MANY
    assert send(app, MB // 4, address="10.0.0.2").status_code == 200
    monkeypatch.setattr(uploads, "EACH_FILES", 2)
    assert [send(app, 1, address="10.0.0.3").status_code for _ in range(4)] == [200, 200, 413, 413]


def test_uploads_leave_room_on_the_disk(app, folder, monkeypatch):
    monkeypatch.setattr(uploads, "MIN_FREE", 2**70)
    refused = send(app, MB)
    assert refused.status_code == 413 and refused.text == uploads.NO_SPACE and left(folder) == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(app, folder, monkeypatch):
    async def write(self, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(route_utils.GradioUploadFile, "write", write)
    refused = send(app, MB)
    assert refused.status_code == 507 and "disk is full" in refused.text and left(folder) == []
    monkeypatch.undo()
    answer = client(app).post("/gradio_api/run/full", json={"data": []})
    assert "disk is full" in answer.json()["error"]


def test_an_upload_that_is_broken_off_leaves_nothing_and_is_not_counted(app, folder):
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(MB)
    messages = [{"type": "http.request", "body": head, "more_body": True}, {"type": "http.disconnect"}]
    scope = {
        "type": "http", "method": "POST", "path": "/gradio_api/upload", "raw_path": b"", "query_string": b"",
        "root_path": "", "scheme": "http", "client": ("10.0.0.1", 1), "server": ("testserver", 80),
        "headers": [(b"content-type", b"multipart/form-data; boundary=x"), (b"host", b"testserver")],
    }  # fmt: skip

    async def receive() -> dict:
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def ignored(message: dict) -> None:
        pass

    asyncio.run(app(scope, receive, ignored))
    assert left(folder) == [] and uploads.COUNTED._arriving == []


def test_an_event_with_a_file_leaves_no_file_and_a_vanished_folder_is_made_again(app, folder):
    (path,) = send(app, 3).json()
    body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    assert client(app).post("/gradio_api/run/read", json=body).json()["data"] == ["\0\0\0"]
    assert left(folder) == []
    for empty in folder.iterdir():
        empty.rmdir()
    folder.rmdir()
    assert send(app, 3).status_code == 200
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_was_shown_is_neither_kept_nor_written_to_the_disk(app, folder):
    path = Path(send(app, 3).json()[0])
    path.write_text("what only the visitor may see")
    data = [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]
    visitor = client(app)
    shown = visitor.post("/gradio_api/run/read", json={"data": data, "session_hash": "s"}).json()["data"]
    assert shown == ["what only the visitor may see"]
    assert visitor.get("/gradio_api/deep_link", params={"session_hash": "s"}).status_code == 200
    assert not any(b"visitor may" in file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert list(app.state_holder["s"].components) == []


@pytest.mark.parametrize(
    "data", [[None], [{"path": "gone.png", "meta": {"_type": "gradio.FileData"}}], [7], ["x"], [{}], [[[[]]]]]
)
def test_what_goes_wrong_is_a_sentence(app, data):
    answer = client(app).post("/gradio_api/run/read", json={"data": data}).json()
    assert answer["error"].endswith(".") and "Traceback" not in answer["error"]


@pytest.mark.parametrize("failure", [ValueError("Anna.png"), OSError(errno.ENOSPC, "Anna.png"), KeyError("Anna.png")])
def test_a_request_that_fails_is_answered_with_a_sentence_without_names(failure, caplog):
    async def broken(scope, receive, send) -> None:
        raise failure

    for path in ("/gradio_api/queue/join", "/gradio_api/upload"):
        answer = client(guard.Guard(broken)).post(path, json={})
        text = answer.text if path.endswith("upload") else answer.json()["error"]
        assert answer.status_code in (500, 507) and text.endswith(".") and "Anna" not in text + caplog.text
