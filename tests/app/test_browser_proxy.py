"""The page at a path of a reverse proxy that asks for a password: uploads, streams and downloads go through it."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from tests.support.app_server import serve
from tests.support.browser import bring_zip, expect, taught, teach, upload, visit
from tests.support.proxy import NGINX, PASSWORD, PATH, USER, proxied


def test_a_session_behind_a_path_of_a_reverse_proxy(browser, checkpoints, archive, task, tmp_path):
    """That of nginx where it is installed, else of a small one of the tests."""
    folder = tmp_path / "proxy"
    folder.mkdir()
    model = f"local-dir:{checkpoints('clip')}"
    with (
        serve(model, tmp_path / "app.log", "--root-path", PATH) as server,
        proxied(server.url, folder, bool(NGINX)) as url,
    ):
        signed = {"auth": (USER, PASSWORD), "trust_env": False, "timeout": 60}
        config = httpx.get(f"{url}config", **signed).json()
        assert config["root"] == url.rstrip("/")
        context = browser.new_context(http_credentials={"username": USER, "password": PASSWORD})
        page, asked, failed = context.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        visit(page, url)
        upload(page, "#upload", [next((task / "test" / "lesion").iterdir())])
        expect(page.locator("#viewer img.base")).to_be_visible()
        page.get_by_label("Ready sets").select_option("phantom_head_mri")
        page.get_by_role("button", name="Read the image").click()
        expect(page.locator("#reading .bar-line.before")).to_have_count(2)
        bring_zip(page, archive)
        teach(page)
        taught(page)
        with page.expect_download() as download:
            page.locator("#shelf").get_by_role("button", name="Download").click()
        download.value.save_as(tmp_path / "adapter.zip")
        assert (tmp_path / "adapter.zip").stat().st_size > 1000
        context.close()
        paths = {urlsplit(address).path for address in asked if address.startswith("http")}
        assert all(path.startswith(f"{PATH}/") for path in paths), paths
        assert any(path.endswith("/upload") for path in paths) and any("/queue/data" in path for path in paths)
        assert not failed, failed
