"""The command line of app.py."""

from __future__ import annotations

import importlib.util

import pytest

from tests.support.app_server import ROOT


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("nearl_app_script", ROOT / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sharing_needs_a_password(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.parse(["--share"])
    assert stop.value.code == 2
    assert "needs --auth USER:PASSWORD" in capsys.readouterr().err
    assert script.parse(["--share", "--auth", "anna:secret"]).auth == ("anna", "secret")
    with pytest.raises(SystemExit):
        script.parse(["--auth", "anna"])


def test_other_hosts_are_warned_about(script, capsys, monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert script.parse([]).host == "127.0.0.1"
    assert capsys.readouterr().err == ""
    script.parse(["--host", "0.0.0.0"])
    assert "everyone on the network" in capsys.readouterr().err
    monkeypatch.setenv("SPACE_ID", "somebody/nearl")
    assert script.parse([]).host == "0.0.0.0"
