"""What needs no model answers at once: nothing but Python's own modules is imported for it."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from nearl.adapters.store import new_adapter, save_adapter
from nearl.cli import options, predict
from nearl.cli.registry import COMMANDS
from nearl.data.formats.volume import PLANES
from nearl.data.formats.windows import PRESETS
from nearl.prompts import default_prompts
from nearl.reading.volumes import METHODS

ROOT = Path(__file__).parents[2]
CHECK = """
import contextlib, io, json, sys
before = set(sys.modules)
from nearl.cli.main import main
for words in json.loads(sys.argv[1]):
    status, said = 0, io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(words)
        except SystemExit as stop:
            status = stop.code or 0
    found = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names) - {"nearl"}
    print(json.dumps([status, sorted(found), said.getvalue().strip()]))
"""


def told(*commands: str) -> dict[str, list]:
    """By command: [exit status, modules imported so far that are neither Python's own nor nearl's, what it said]; in a
    process of its own."""
    words = json.dumps([command.split() for command in commands])
    done = subprocess.run([sys.executable, "-c", CHECK, words], cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))


def test_answers_need_no_library():
    commands = ("--help", "backbones", "backbones --json", *(f"{name} --help" for name in COMMANDS))
    for command, (status, found, said) in told(*commands).items():
        assert (status, found) == (0, []) and said, command


def test_wrong_arguments_are_told_without_a_library():
    commands = (
        "", "nothing", "predict", "predict a.png", "predict a.png --windw lung", "predict a.png --window lng",
        "predict a.nii --aggregate sum", "predict a.png --adapter gone", "evaluate DATA --adapter",
        "explain gone.png --class a --out x", "finetune gone --out x", "compare gone --out x", "report gone",
        "push gone me/mine", "pretrain gone.yaml --out x", "evaluate gone", "evaluate tests --adapter gone",
    )  # fmt: skip
    meant = {
        "": "command", "nothing": "no command 'nothing'", "predct": "do you mean predict?", "predict": "Missing: IMG",
        "predict a.png --windw lung": "do you mean --window?", "predict a.png --window lng": "--window: use lung",
        "predict a.nii --aggregate sum": "mean, max, top-k", "predict a.nii --slice x": "whole number, not 'x'",
        "evaluate DATA --adapter": "--adapter DIR needs a value", "finetune x --ouut y": "do you mean --out?",
        "report a b": "'b' is one argument too many",
    }  # fmt: skip
    for command, (status, found, said) in told(*dict.fromkeys([*commands, *meant])).items():
        assert (status, found) == (2, []) and said.startswith("nearl: ") and "\n" not in said, command
        assert meant.get(command, "") in said


def test_an_adapter_of_another_backbone_is_refused_before_images_and_models_are_loaded(tmp_path):
    adapter = new_adapter(
        {"w": torch.zeros(1)},
        backbone={"name": "embedded", "config_sha256": "0", "weights": "0"},
        config={}, classes=["a", "b"], support_counts={},
        prompts=default_prompts(["a", "b"]).to_dict(),
    )  # fmt: skip
    folder = save_adapter(adapter, tmp_path / "adapter")
    commands = [f"evaluate tests --adapter {folder}", f"predict a.png --adapter {folder} --backbone biomedclip"]
    for status, found, said in told(*commands).values():
        assert status == 2 and said and not {"torch", "open_clip", "numpy"} & set(found)


def test_what_options_accept_is_what_there_is():
    assert set(options.PLANES) == set(PLANES)
    assert set(options.WINDOWS) == {*PRESETS, "auto", "three"}
    assert set(predict.AGGREGATES) == set(METHODS)
