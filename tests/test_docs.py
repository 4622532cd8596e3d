"""README and docs/: their commands parse, those of the README and its Python run, links and pictures are there."""

import json
import re
import shlex
import shutil
from functools import cache

import pytest
from huggingface_hub import ModelCard

import nearl.backbones
from nearl import MAPS, METHODS, NOTICE, Recipe, write_phantom_folder
from nearl.cli.main import main, parser
from nearl.cli.registry import COMMANDS
from tests.support.pages import README, ROOT, blocks, commands

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "assets" / "backbone" / "README.md"])
COMMAND_LINES = sorted({line for page in PAGES for line in commands(page)})


def arguments(line: str) -> list[str]:
    """The arguments of a documented command."""
    words = shlex.split(line, comments=True)
    return words[1:] if words[0] == "nearl" else words[3:]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_commands_parse(line):
    parser().parse_args(arguments(line))


def test_every_command_is_documented():
    assert {arguments(line)[0] for line in COMMAND_LINES if line.startswith("python")} == set(COMMANDS)


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


def test_the_hub_can_read_the_front_matter_of_the_embedded_models_card():
    about = ModelCard.load(ROOT / "assets" / "backbone" / "README.md").data
    assert (about.license, about.library_name) == ("cc-by-sa-4.0", "open_clip")
    assert about.pipeline_tag == "zero-shot-image-classification" and "clip" in about.tags


@pytest.fixture
def plain_folders(tmp_path, monkeypatch):
    """The working folder of the README's reader: DATA with class folders alone, and scan.png. All is taught in two
    steps with one model, and two maps are all there are."""
    write_phantom_folder(tmp_path / "drawn", "smear", train=17, test=1, seed=0, size=64)
    for label, name in (("lesion", "glioma"), ("no lesion", "normal")):
        shutil.move(tmp_path / "drawn" / "train" / label, tmp_path / "DATA" / name)
    shutil.move(next((tmp_path / "drawn" / "test" / "lesion").iterdir()), tmp_path / "scan.png")
    monkeypatch.setattr(Recipe.__init__, "__defaults__", (2, *Recipe.__init__.__defaults__[1:]))
    monkeypatch.setattr(nearl.backbones, "load_backbone", cache(nearl.backbones.load_backbone))
    monkeypatch.chdir(tmp_path)
    others = list(MAPS.values())[2:]
    for card in others:
        MAPS.unregister(card.key)
    yield tmp_path
    for card in others:
        MAPS.register(card.key, card)


def test_the_commands_of_the_readme_run(plain_folders, capsys):
    lines = commands(README)
    assert len(lines) > 3
    for line in lines:
        main(arguments(line))
        assert NOTICE in capsys.readouterr().out, line
    assert list((plain_folders / "maps").glob("*.png"))


def test_the_python_of_the_readme_runs(plain_folders):
    example, _ = blocks(README, "python")  # tests/app runs the second one, which needs a running app
    names = {}
    exec(example, names)
    prediction = names["prediction"]
    assert names["test"] is None and prediction.frozen.shape == prediction.adapted.shape == (34, 2)
    assert (plain_folders / "adapter" / "adapter.json").is_file()
    assert {"nearl"} >= {line.split()[1] for line in example.splitlines() if line.startswith(("from ", "import "))}


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(notebook, monkeypatch):
    """In this process, which has imported what a kernel would import first."""
    monkeypatch.chdir(ROOT)
    names = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
