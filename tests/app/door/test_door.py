"""The door before Gradio's routes: names, other sites, the login, the size of requests, and headers."""

from __future__ import annotations

import asyncio
import re

import gradio as gr
import httpx
import pytest
from gradio.routes import App

from app.door import middleware as door
from app.door.credentials import Credentials, Throttle, credentials
from app.door.rules import Rules, rules
from app.page import Page
from nearl.errors import NearlError
from tests.support.app_server import serve

OPEN = {"/", "/login", "/login/", "/logout", "/gradio_api/startup-events"}
HOME = "http://127.0.0.1:7860"


def app_of(known: Rules, auth: Credentials | None = None) -> App:
    with Page() as page:
        given, said = gr.JSON(), gr.JSON()
        gr.Button().click(lambda value: value, given, said, api_name="echo", queue=False)
    page.queue()
    page.auth, page.auth_message, page.max_file_size = auth, None, None
    page.theme, page.theme_css = gr.themes.Default(), ""  # as a launch leaves it
    return App.create_app(page, app_kwargs={"middleware": [door.middleware(known)]})


def ask(app: App, method: str, path: str, base: str = HOME, **options) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
            return await client.request(method, path, **options)

    return asyncio.run(asked())


def test_every_route_needs_the_login_but_the_form_itself():
    app = app_of(Rules(login=True), Credentials([("anna", "secret")]))
    routes = [(m, r.path) for r in app.routes for m in sorted(getattr(r, "methods", None) or ())]
    paths = {(method, re.sub(r"\{[^}]*\}", "x", path)) for method, path in routes}
    paths |= {("GET", p) for p in ("/gradio_api/heartbeat/x", "/gradio_api/file=x", "/config", "/gradio_api/info")}
    paths |= {("POST", f"/gradio_api/{p}") for p in ("upload", "queue/join", "cancel", "run/echo", "call/echo")}
    assert len(paths) > 20
    for method, path in sorted(paths):
        answer = ask(app, method, path)
        assert answer.status_code == 401 or path in OPEN, (method, path)
    form = ask(app, "GET", "/")
    assert 'name="password"' in form.text and "echo" not in form.text
    assert ask(app, "POST", "/login", data={"username": "anna", "password": "wrong"}).status_code == 400
    signed = ask(app, "POST", "/login", data={"username": "anna", "password": "secret"})
    assert signed.status_code == 200
    kept = signed.headers.get_list("set-cookie")
    assert len(kept) == 2 and all("HttpOnly" in c and "SameSite=Lax" in c for c in kept)
    cookies = dict(signed.cookies)
    assert ask(app, "GET", "/config", cookies=cookies).status_code == 200
    cross = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    body = {"data": [[1]]}
    assert ask(app, "POST", "/gradio_api/run/echo", cookies=cookies, json=body).json()["data"] == [[1]]
    assert ask(app, "POST", "/gradio_api/run/echo", cookies=cookies, json=body, headers=cross).status_code == 403


SENDERS = [
    ({}, "/config", 200),  # a program
    ({"Origin": HOME, "Sec-Fetch-Site": "same-origin"}, "/config", 200),
    ({"Origin": HOME}, "/config", 200),  # a browser without TLS
    ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, "/config", 200),  # our own form, without a referrer
    ({"Origin": "http://page.example"}, "/config", 200),  # a proxy's name, as it is told
    ({"Origin": "http://127.0.0.1:9999"}, "/config", 403),
    ({"Origin": "null"}, "/config", 403),
    ({"Origin": "https://elsewhere.example"}, "/config", 403),
    ({"Origin": "https://elsewhere.example", "X-Forwarded-Host": "elsewhere.example"}, "/config", 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, "/config", 403),
    ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, "/gradio_api/info", 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, "/", 200),  # a link, or a Space's frame
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, "/logout", 403),
]


def test_other_sites_are_refused():
    app = app_of(Rules(frozenset({"page.example"})))
    for headers, path, status in SENDERS:
        answer = ask(app, "GET", path, headers=headers)
        assert answer.status_code == status, headers
        assert "access-control-allow-origin" not in answer.headers


def test_a_preflight_from_another_site_allows_nothing():
    headers = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    answer = ask(app_of(Rules(None)), "OPTIONS", "/gradio_api/queue/join", "http://page.example", headers=headers)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_only_its_own_names_are_answered(monkeypatch):
    for name in ("SPACE_ID", "NEARL_HOSTS", "GRADIO_ROOT_PATH"):
        monkeypatch.delenv(name, raising=False)
    local = rules("127.0.0.1", [], login=False, share=False)
    for host in ("127.0.0.1:7860", "localhost:9000", "[::1]:7860", "192.168.1.4", "a.localhost"):  # tunnels too
        assert local.answers_to(host)
    for host in ("elsewhere.example", "127.0.0.1.elsewhere.example", "localhost.elsewhere.example:7860"):
        assert not local.answers_to(host)
    assert ask(app_of(local), "GET", "/config", "http://elsewhere.example").status_code == 421
    assert rules("127.0.0.1", ["Page.example"], login=False, share=False).answers_to("page.example:80")
    assert rules("page.example", [], login=False, share=False).answers_to("page.example")
    shared = rules("127.0.0.1", [], login=True, share=True)
    assert shared.answers_to("abc.gradio.live") and not shared.answers_to("gradio.live.elsewhere.example")
    monkeypatch.setenv("GRADIO_ROOT_PATH", "https://page.example/nearl")
    assert rules("127.0.0.1", [], login=False, share=False).answers_to("page.example")
    monkeypatch.setenv("NEARL_HOSTS", "one.example, two.example")
    assert rules("127.0.0.1", [], login=False, share=False).answers_to("two.example")
    monkeypatch.setenv("SPACE_ID", "somebody/nearl")
    assert rules("0.0.0.0", [], login=False, share=False).answers_to("somebody-nearl.hf.space")


def test_answers_are_not_kept_or_framed_but_on_a_space(monkeypatch):
    app = app_of(Rules())
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=x", "/nothing"):
        headers = ask(app, "GET", path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert headers["content-security-policy"] == "frame-ancestors 'self'"
    assert ask(app, "GET", "/theme.css").headers.get("cache-control") != "no-store"
    monkeypatch.setenv("SPACE_ID", "somebody/nearl")
    space = app_of(rules("0.0.0.0", [], login=False, share=False))
    answer = ask(space, "GET", "/", "https://somebody-nearl.hf.space")
    assert "https://huggingface.co" in answer.headers["content-security-policy"]


def test_large_requests_are_refused_whether_they_say_so_or_not():
    app, large = app_of(Rules()), b'{"data": ["' + b"x" * door.MAX_BODY + b'"]}'

    async def pieces():
        for start in range(0, len(large), 2**18):
            yield large[start : start + 2**18]

    headers = {"Content-Type": "application/json"}
    for name, content in (("echo", large), ("echo", pieces()), ("upload", large)):
        answer = ask(app, "POST", f"/gradio_api/run/{name}", content=content, headers=headers)
        assert answer.status_code == 413 and "too large" in answer.text
    half = [{"half": "x" * (door.MAX_BODY // 2)}]
    assert ask(app, "POST", "/gradio_api/run/echo", json={"data": half}).json()["data"] == half


def test_a_request_of_very_many_values_is_refused_before_it_is_read():
    """A list of two bytes takes fifty in memory, and reading a request holds up all others."""
    app, headers = app_of(Rules()), {"Content-Type": "application/json"}
    for value in ("[]", "{}", "1"):
        content = b'{"data": [[' + ",".join([value] * door.MAX_VALUES).encode() + b"]]}"
        assert len(content) < door.MAX_BODY
        assert ask(app, "POST", "/gradio_api/run/echo", content=content, headers=headers).status_code == 413
    many = [[0] * 20_000]
    assert ask(app, "POST", "/gradio_api/run/echo", json={"data": many}).json()["data"] == many


def test_a_file_on_another_server_is_not_fetched(monkeypatch):
    fetched = []
    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_get", fetched.append)
    app = app_of(Rules())
    for way in ("http", "HTTPS", "ftp"):
        value: object = {"path": f"{way}://elsewhere.example/x.png", "meta": {"_type": "gradio.FileData"}}
        for nested in (value, {"deeper": [[value]]}):
            answer = ask(app, "POST", "/gradio_api/run/echo", json={"data": [nested]})
            assert answer.status_code == 500 and "upload the file itself" in answer.json()["error"]
    assert fetched == []
    words = {"path": "see http://elsewhere.example"}
    assert ask(app, "POST", "/gradio_api/run/echo", json={"data": [words]}).json()["data"] == [words]


# ---- signing in


@pytest.fixture
def times() -> list[float]:
    return [0.0]


def test_guesses_are_throttled_by_address_and_in_all(times):
    throttle = Throttle(lambda: times[0])
    each, everybody = int(Throttle.EACH[0]), int(Throttle.ALL[0])
    assert [throttle.allow("a") for _ in range(each + 1)] == [True] * each + [False]
    assert throttle.allow("b")
    throttle.succeeded("b")
    times[0] += 11  # one more attempt is due
    assert [throttle.allow("a") for _ in range(2)] == [True, False]
    assert sum(throttle.allow(f"forged {i}") for i in range(2 * everybody)) <= everybody


def test_a_throttled_login_says_so():
    app = app_of(Rules(login=True), Credentials([("anna", "secret")]))
    wrong = {"username": "anna", "password": "wrong"}
    statuses = [ask(app, "POST", "/login", data=wrong).status_code for _ in range(int(Throttle.EACH[0]) + 1)]
    assert statuses == [400] * int(Throttle.EACH[0]) + [429]
    assert ask(app, "POST", "/login", data={"username": "anna", "password": "secret"}).status_code == 429


def test_credentials_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("NEARL_AUTH", raising=False)
    assert credentials(None) is None
    file = tmp_path / "people"
    file.write_text("anna:se:cret\n\nbert: x \n")
    known = credentials(str(file))
    assert known("anna", "se:cret") and known("bert", " x")
    assert not any(known(*pair) for pair in (("anna", "x"), ("", ""), ("anna:se", "cret"), ("anna", "")))
    with pytest.raises(NearlError, match="NEARL_AUTH"):
        credentials("")
    with pytest.raises(NearlError, match="no name and password any more"):
        credentials("anna:secret")
    with pytest.raises(NearlError, match="cannot be read"):
        credentials(str(tmp_path / "nowhere"))
    for bad in ("", "anna", "anna:", ":secret", "anna:secret\nbert"):
        file.write_text(bad)
        with pytest.raises(NearlError, match="USER:PASSWORD"):
            credentials(str(file))
    monkeypatch.setenv("NEARL_AUTH", "anna:secret")
    assert credentials(None)("anna", "secret") and credentials("")("anna", "secret")


# ---- the server as it is started


def test_it_starts_on_a_space_and_behind_a_path(checkpoints, tmp_path):
    space = {"SYSTEM": "spaces", "SPACE_ID": "somebody/nearl", "SPACE_HOST": "somebody-nearl.hf.space"}
    oauth = {"OAUTH_CLIENT_ID": "x", "OAUTH_CLIENT_SECRET": "y", "OAUTH_SCOPES": "openid"}
    oauth["OPENID_PROVIDER_URL"] = "https://huggingface.co"
    variables = {**space, **oauth, "GRADIO_ROOT_PATH": "/nearl"}
    model = f"local-dir:{checkpoints('clip')}"
    with serve(model, tmp_path / "app.log", "--host", "127.0.0.1", variables=variables) as server:
        headers = {"Host": "somebody-nearl.hf.space", "X-Forwarded-Proto": "https"}
        config = httpx.get(f"{server.url}/config", headers=headers, timeout=60)
        assert config.json()["root"] == "https://somebody-nearl.hf.space/nearl"
        assert "Sign in with" in config.text
        assert "keeps nothing when it restarts or sleeps" in config.text  # no storage is mounted
        assert "https://huggingface.co" in config.headers["content-security-policy"]
