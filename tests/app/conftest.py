"""Fixtures of the app's tests: a model and workspaces; one server a process, a browser, pages that fail on errors, a
task to teach."""

from __future__ import annotations

import zipfile

import pytest

from app.engine import Engine
from app.visitor.disk import Root
from app.visitor.registry import Registry
from nearl.data.phantoms.kinds import write_phantom_folder
from tests.support.app_server import serve
from tests.support.app_work import Threads
from tests.support.browser import expect, is_local, launched, visit


@pytest.fixture(scope="module")
def engine(checkpoints):
    """A tiny model, with a queue of its own."""
    engine = Engine(f"local-dir:{checkpoints('clip')}", "cpu")
    engine.start()
    return engine


@pytest.fixture
def in_threads(engine, monkeypatch):
    """Workers are threads; the rest of the test runs without processes."""
    return Threads(monkeypatch, engine)


@pytest.fixture
def registry(tmp_path):
    return Registry(Root(tmp_path / "root"))


@pytest.fixture
def workspace(registry):
    return registry.get(None)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Files of eight synthetic images of two classes."""
    folder = write_phantom_folder(tmp_path_factory.mktemp("images") / "head", "head_mri", train=1, test=4, size=64)
    return sorted((folder / "test").glob("*/*.png"))


@pytest.fixture(scope="session")
def server(checkpoints, tmp_path_factory):
    """The running app with a tiny model. Tests share it: each has visitors of its own."""
    with serve(f"local-dir:{checkpoints('clip')}", tmp_path_factory.mktemp("log") / "app.log") as running:
        yield running
        assert "Traceback" not in running.console()


@pytest.fixture(scope="session")
def locked(checkpoints, tmp_path_factory):
    """As `server`, but it asks for a name and a password: anna, secret."""
    folder = tmp_path_factory.mktemp("locked")
    people = folder / "people"
    people.write_text("anna:secret\n")
    with serve(f"local-dir:{checkpoints('clip')}", folder / "app.log", "--auth", str(people)) as running:
        yield running
        assert "secret" not in running.console() and "Traceback" not in running.console()


@pytest.fixture(scope="module")
def browser():
    """A chromium; of one file alone, since its event loop is in the way of other tests."""
    with launched() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def context(browser):
    """A browser context that keeps the page's scripts, compiled, from test to test."""
    return browser.new_context()


@pytest.fixture
def page(context, server, request):
    """The open page. Fails the test for any request that leaves the machine and for any error or warning on the
    console."""
    width, height = getattr(request, "param", (1400, 900))
    opened = context.new_page()
    opened.set_viewport_size({"width": width, "height": height})
    outside, errors = [], []
    opened.on("request", lambda r: outside.append(r.url) if not is_local(r.url) else None)
    opened.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda e: errors.append(str(e)))
    visit(opened, server.url)
    expect(opened.get_by_role("button", name="Read the image")).to_be_visible()
    yield opened
    opened.evaluate("localStorage.clear(), sessionStorage.clear()")  # the next page is another visitor's
    for left in context.pages:
        left.close()
    assert outside == []
    assert errors == []


@pytest.fixture
def visitor(browser, server):
    """Opens pages, each in a browser context of its own; fails the test for any error or warning on a console."""
    contexts, errors = [], []

    def listen(message) -> None:
        if message.type in ("error", "warning"):
            errors.append(message.text)

    def opened(width: int = 1400, url: str = server.url):
        context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True)
        contexts.append(context)
        context.on("console", listen)
        return visit(context.new_page(), url)

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="session")
def task(tmp_path_factory):
    """A folder of a two-class task of synthetic images, with 5 images per class to teach with and 2 to read."""
    return write_phantom_folder(tmp_path_factory.mktemp("task") / "head", "head_mri", train=5, test=2, size=64)


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """A zip of two classes with 6 images each, and a file that is no image."""
    folder = tmp_path_factory.mktemp("zip")
    made = write_phantom_folder(folder / "head", "head_mri", train=6, test=1, size=64)
    path = folder / "head.zip"
    with zipfile.ZipFile(path, "w") as out:
        for file in sorted((made / "train").rglob("*.png")):
            out.write(file, f"{file.parent.name}/{file.name}")
        out.writestr("lesion/letter.png", "Dear colleague")
    return path
