"""The command line of app.py."""

from __future__ import annotations

import importlib.util
import os

import pytest

from app.door.rules import rules
from app.visitor.disk import default_root
from tests.support.pages import ROOT


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("nearl_app_script", ROOT / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sharing_needs_a_password_which_is_not_on_the_command_line(script, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("NEARL_AUTH", raising=False)
    file = tmp_path / "people"
    file.write_text("anna:secret")
    for wrong, words in (
        (["--share"], "needs --auth FILE"),
        (["--auth"], "NEARL_AUTH"),
        (["--auth", "anna:secret"], "no name and password any more"),
    ):
        with pytest.raises(SystemExit) as stop:
            script.parse(wrong)
        said = capsys.readouterr().err
        assert stop.value.code == 2 and words in said and "secret" not in said
    assert script.parse(["--share", "--auth", str(file)]).auth("anna", "secret")
    assert script.parse([]).auth is None
    monkeypatch.setenv("NEARL_AUTH", "bert:hidden")
    assert script.parse([]).auth("bert", "hidden") and not script.parse([]).auth("anna", "secret")


def test_other_hosts_are_warned_about(script, capsys, monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert script.parse([]).host == "127.0.0.1"
    assert capsys.readouterr().err == ""
    script.parse(["--host", "0.0.0.0"])
    assert "everyone on the network" in capsys.readouterr().err
    monkeypatch.setenv("SPACE_ID", "somebody/nearl")
    assert script.parse([]).host == "0.0.0.0"


@pytest.mark.parametrize(
    ("option", "value", "read"),
    [
        ("--host", "localhost", "localhost"),
        ("--port", "8000", 8000),
        ("--root-path", "demo/", "/demo"),
        ("--proxy", "10.0.0.2", "10.0.0.2"),
        ("--backbone", "biomedclip", "biomedclip"),
        ("--model-memory", "2.5", 2.5),
        ("--device", "cuda:1", "cuda:1"),
        ("--share", "1", True),
        ("--auth", None, None),
        ("--allow-host", "demo.example.org", None),
        ("--workspaces", "somewhere", None),
    ],
)
def test_every_option_has_a_variable(script, monkeypatch, tmp_path, option, value, read):
    for name in [*script.VARIABLES.values(), *script.GRADIO.values()]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEARL_AUTH", "anna:secret")
    if option == "--auth":
        (tmp_path / "people").write_text("bert:other")
        monkeypatch.setenv(script.VARIABLES[option], str(tmp_path / "people"))
        assert script.parse([]).auth("bert", "other") and not script.parse([]).auth("anna", "secret")
        return
    monkeypatch.setenv(script.VARIABLES[option], value)
    if option == "--workspaces":
        assert str(default_root()) == value
    elif option == "--allow-host":
        assert rules("127.0.0.1", script.parse([]).allow_host, login=False, share=False).answers_to(value)
    else:
        name = option[2:].replace("-", "_")
        assert getattr(script.parse([]), name) == read
        if option != "--share":
            assert getattr(script.parse([option, "9"]), name) in ("9", 9, "/9")
        monkeypatch.setenv(script.VARIABLES[option], "")
        assert getattr(script.parse([]), name) == getattr(script.parse([]), name) != read


@pytest.mark.parametrize(
    ("given", "begins", "others"),
    [
        ([], "embedded", []),
        (["--backbones", "plip, embedded,plip,hf-hub:somebody/model"], "plip", ["embedded", "hf-hub:somebody/model"]),
        (["--backbone", "embedded", "--backbones", "plip,embedded"], "embedded", ["plip"]),
        (["--backbone", "biomedclip"], "biomedclip", []),
    ],
)
def test_the_models_to_offer(script, monkeypatch, given, begins, others):
    options = script.parse(given)
    assert (options.backbone, options.backbones) == (begins, others)
    if "--backbones" in given:
        monkeypatch.setenv("NEARL_BACKBONES", given[-1])
        again = script.parse(given[:-2])
        assert (again.backbone, again.backbones) == (begins, others)


def test_a_model_that_cannot_be_offered_is_refused_before_the_page_starts(script, capsys):
    for names, words in (("embedded,biomedclp", "did you mean 'biomedclip'"), ("local-dir:/nowhere", "no folder")):
        with pytest.raises(SystemExit):
            script.parse(["--backbones", names])
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.parse(["--model-memory", "0"])


def test_gradios_own_variables_count_after_these(script, monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7000")
    monkeypatch.setenv("GRADIO_ROOT_PATH", "https://example.org/demo")
    options = script.parse([])
    assert (options.port, options.root_path) == (7000, "https://example.org/demo")
    assert rules("127.0.0.1", [options.root_path], login=False, share=False).answers_to("example.org")
    monkeypatch.setenv("NEARL_PORT", "7001")
    assert script.parse([]).port == 7001


def test_the_documented_variables_are_all_that_there_are(script):
    table = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    for option, name in script.VARIABLES.items():
        assert f"| `{option}" in table and f"`{name}`" in table, option
    options = {word for action in script.parser()._actions for word in action.option_strings if word.startswith("--")}
    assert options == {*script.VARIABLES, "--help"}


def test_the_server_is_told_of_the_path_and_the_proxy(script, monkeypatch):
    seen = {}

    class Page:
        def queue(self, **how): ...

        def launch(self, **how):
            seen.update(how, trusted=os.environ["FORWARDED_ALLOW_IPS"])

    monkeypatch.setattr("app.page.build_app", lambda settings: Page())
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")
    script.main(["--root-path", "/demo", "--proxy", "10.0.0.2", "--port", "7001"])
    assert (seen["root_path"], seen["server_port"]) == ("/demo", 7001)
    assert seen["trusted"].split(",") == ["127.0.0.1", "10.0.0.2"]
