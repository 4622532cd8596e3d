"""The public API: every name is there, typed and loaded late."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nearl

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_there():
    assert sorted(nearl.__all__) == sorted(set(nearl.__all__))
    assert all(getattr(nearl, name) is not None for name in nearl.__all__)
    assert set(nearl.__all__) <= set(dir(nearl))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nearl.nothing  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "nearl" / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    names = {alias.asname or alias.name for node in typed.body for alias in node.names}
    assert names | {"NOTICE"} == set(nearl.__all__)


@pytest.mark.parametrize(
    "code",
    [
        "import nearl",
        "from nearl import PromptSet, NearlError",
        "from nearl.cli.main import parser; parser()",
        "from nearl import load_images",
    ],
)
def test_what_needs_no_model_does_not_load_torch(code):
    check = f"import sys; {code}; sys.exit(any(name in sys.modules for name in ('torch', 'gradio', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
