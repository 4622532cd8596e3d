"""README and docs/: their commands parse, their Python runs, their links and pictures are there."""

import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from nearl import METHODS, write_phantom_folder
from nearl.cli.main import parser
from nearl.cli.registry import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "assets" / "backbone" / "README.md"])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def commands() -> list[str]:
    lines = [line for page in PAGES for text in blocks(page, "") for line in text.splitlines()]
    return [line for line in lines if line.startswith(("python -m nearl ", "nearl "))]


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_commands_parse(line):
    words = shlex.split(line, comments=True)
    parser().parse_args(words[1:] if words[0] == "nearl" else words[3:])


def test_every_command_is_documented():
    described = {shlex.split(line, comments=True)[3] for line in commands() if line.startswith("python")}
    assert described == set(COMMANDS)


def test_documented_methods_exist():
    usage = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    listed = usage.split("take these methods: `")[1].split("`")[0].split()
    assert len(listed) > 10 and set(listed) <= set(METHODS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'<img src="([^"]+)"', text)
    for link in links:
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    write_phantom_folder(tmp_path / "DATA", "smear", train=3, test=2, seed=0, size=64)
    monkeypatch.chdir(tmp_path)
    example, client = blocks(ROOT / "README.md", "python")
    compile(client, "README.md", "exec")  # it needs a running app, which tests/app has
    names = {}
    exec(example.replace("method.fit()", "method.fit(method.recipe(steps=2))"), names)
    prediction = names["prediction"]
    assert prediction.frozen.shape == prediction.adapted.shape == (4, 2)
    assert (tmp_path / "adapter" / "adapter.json").is_file()
    assert {"nearl"} >= {line.split()[1] for line in example.splitlines() if line.startswith(("from ", "import "))}


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(notebook):
    content = nbformat.read(notebook, as_version=4)
    NotebookClient(content, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
