"""The command line of app.py."""

from __future__ import annotations

import importlib.util

import pytest

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
