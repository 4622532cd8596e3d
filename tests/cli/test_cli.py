"""The command line: what --json prints is a contract, and bad input is exit status 2 with one sentence."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.support.before import run_folder
from tests.support.hostile import packed, png, saved


def test_a_whole_session(nearl, data, model, tmp_path):
    out = tmp_path / "adapter"
    status, text, err = nearl("finetune", data, "--shots", 4, "--seed", 1, "--steps", 3, "--out", out, *model, "--json")
    result = json.loads(text)
    assert status == 0 and "step 3/3" in err
    assert result["adapter"] == str(out) and result["method"] == "nearl"
    assert (result["shots"], result["seed"]) == (4, 1) and result["seconds"] > 0
    assert result["held_out"]["n"] == 4  # what was left of train: two of each class
    status, text, _ = nearl("report", out)
    assert text.splitlines()[0] == result["verdict"]
    assert ("speaks against" in text) is result["speaks_against"]
    _, info, _ = nearl("info", *model, "--json")
    info = json.loads(info)
    assert result["trainable_parameters"] == info["trainable_parameters"] == sum(info["by_part"].values())

    status, text, _ = nearl("evaluate", data, "--adapter", out, *model, "--json")
    result = json.loads(text)
    assert status == 0 and result["n"] == 8 and sorted(result["classes"]) == ["lesion", "no lesion"]
    for side in ("frozen", "adapted"):
        assert {"balanced_accuracy", "accuracy", "auroc", "ece"} <= result[side].keys()
        at_chance = result[side]["balanced_accuracy_interval"][0] <= result["chance"] == 0.5
        assert result[side]["no_better_than_chance"] is at_chance
    assert json.loads(nearl("evaluate", data, *model, "--json")[1])["adapted"] is None

    image = next((data / "test" / "lesion").iterdir())
    status, text, _ = nearl("predict", image, "--adapter", out, *model, "--json")
    (row,) = json.loads(text)["predictions"]
    assert status == 0 and row["file"] == str(image) and row["error"] is None
    for side in ("frozen", "adapted"):
        assert sum(row[side].values()) == pytest.approx(1, abs=1e-4) and set(row[side]) == {"lesion", "no lesion"}

    status, text, _ = nearl(
        "explain", image, "--class", "LESION", "--adapter", out, "--out", tmp_path, *model, "--json"
    )
    maps = json.loads(text)["maps"]
    assert status == 0 and [m["adapted"] for m in maps] == [False, True, None]  # None: the difference
    assert all(Image.open(m["png"]).size == (64, 64) for m in maps)


def test_plain_output_is_for_people(nearl, refused, data, model, adapter):
    image = next((data / "test" / "lesion").iterdir())
    status, out, _ = nearl("predict", image, "--adapter", adapter, *model)
    assert status == 0 and "before teaching" in out and "after teaching" in out
    assert "file or folder" in refused("predict", image.with_name("nope.png"))  # before the prompts
    assert out.strip().endswith("For teaching and research. Not for diagnosis.")


def test_one_bad_file_is_named_and_the_rest_goes_on(nearl, data, model, adapter, tmp_path):
    good, bad = next((data / "test" / "lesion").iterdir()), tmp_path / "notes.png"
    bad.write_text("not an image")
    status, out, _ = nearl("predict", bad, good, tmp_path / "gone.png", "--adapter", adapter, *model, "--json")
    rows = json.loads(out)["predictions"]
    assert status == 1 and [row["file"] for row in rows] == [str(bad), str(good), str(tmp_path / "gone.png")]
    assert "notes.png" in rows[0]["error"] and rows[0]["frozen"] is None
    assert rows[1]["error"] is None and rows[1]["adapted"]
    assert "gone.png" in rows[2]["error"]
    status, out, err = nearl("predict", bad, "--adapter", adapter, *model, "--json")
    assert status == 2 and json.loads(out)["predictions"][0]["error"] and "none of the files" in err


def test_prompts_from_a_file_come_first(nearl, data, model, adapter, tmp_path):
    prompts = tmp_path / "p.json"
    prompts.write_text(json.dumps({"classes": [{"name": c, "prompts": [c]} for c in ("glioma", "lesion", "cyst")]}))
    image = next((data / "test" / "lesion").iterdir())
    _, out, _ = nearl("predict", image, "--prompts", prompts, "--adapter", adapter, *model, "--json")
    result = json.loads(out)
    assert list(result["predictions"][0]["adapted"]) == ["glioma", "lesion", "cyst"]
    assert result["untaught"] == ["glioma", "cyst"]


def test_class_folders_without_a_split(nearl, data, model, tmp_path):
    out = tmp_path / "adapter"
    status, text, _ = nearl("finetune", data / "train", "--steps", 2, "--out", out, *model, "--json")
    result = json.loads(text)
    assert status == 0 and result["shots"] is None and result["held_out"]["n"] > 0
    assert sum(result["support_counts"].values()) + result["held_out"]["n"] == 12


def test_an_interrupted_run_goes_on_to_the_same_adapter(nearl, refused, data, model, tmp_path, monkeypatch):
    import nearl.cli.finetune as module
    from nearl.adapters.store import load_adapter
    from nearl.runs import teaching

    common = ("finetune", data / "train", "--steps", 8, *model, "--json")
    nearl(*common, "--out", tmp_path / "whole")
    monkeypatch.setattr(teaching.perform, "__defaults__", (None, None, lambda: False, 0.0, None))  # a snapshot a step
    show = module.ProgressBar.show

    def interrupted(self, event):
        if event.step == 5:
            raise KeyboardInterrupt
        show(self, event)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(module.ProgressBar, "show", interrupted)
        assert nearl(*common, "--out", run)[0] == 130
    assert "resume it" in refused(*common, "--out", run)
    assert "interrupted" in refused("report", run)
    status, text, err = nearl("finetune", "--resume", "--out", run, *model, "--json")
    assert status == 0 and "step 4/8" not in err and "step 8/8" in err
    adapters = [load_adapter(folder) for folder in (run, tmp_path / "whole")]
    assert adapters[0].version == adapters[1].version
    assert not (run / "job.safetensors").exists()  # what is left can be shown around
    again = json.loads(nearl("finetune", "--resume", "--out", run, *model, "--json")[1])
    assert again == json.loads(text) and set(again["seconds_by_phase"]) >= {"decode", "forward", "backward"}
    assert "give DATA" in refused("finetune", "--resume", "--out", tmp_path / "none", *model)


def test_a_comparison_is_not_taken_for_the_run_of_one_method(refused, checkpoints, data, model, tmp_path):
    run, image = run_folder("comparison", checkpoints("clip"), tmp_path / "run"), next(data.rglob("*.png"))
    assert "comparison" in refused("report", run)
    assert "comparison" in refused("finetune", "--resume", "--out", run)
    assert "finished run" in refused("predict", image, "--adapter", run, *model)


def test_random_weights_are_the_same_when_a_run_resumes(nearl, data, model, tmp_path, monkeypatch):
    import nearl.cli.finetune as module

    def interrupted(self, event):
        raise KeyboardInterrupt

    run = tmp_path / "run"
    words = ("--out", run, *model, "--weights", "random", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(module.ProgressBar, "show", interrupted)
        assert nearl("finetune", data / "train", "--steps", 2, *words)[0] == 130
    status, _, err = nearl("finetune", "--resume", *words)
    assert status == 0, err
    image = next((data / "test" / "lesion").iterdir())
    assert nearl("predict", image, "--adapter", run, *model, "--weights", "random")[0] == 0


@pytest.mark.parametrize("method", ["lora", "linear-probe", "nearl:vision-only"])
def test_any_method_can_be_taught_and_read_with(nearl, refused, data, model, tmp_path, method):
    words = ("finetune", data, "--shots", 2, "--method", method, "--steps", 2, "--out", tmp_path / "run", *model)
    status, text, err = nearl(*words, "--json")
    result = json.loads(text)
    assert status == 0 and result["method"] == method and result["held_out"]["n"] and result["seed"] == 0, err
    image = next((data / "test" / "lesion").iterdir())
    status, text, _ = nearl("predict", image, "--adapter", tmp_path / "run", *model, "--json")
    assert status == 0 and json.loads(text)["predictions"][0]["adapted"]
    files = ("--html", tmp_path / "a.html", "--pdf", tmp_path / "a.pdf")
    assert nearl("report", tmp_path / "run", *files)[0] == 0


def test_methods_that_cannot_be_taught_are_refused(refused, data, model, tmp_path):
    words = ("finetune", data, "--out", tmp_path / "run", *model, "--method")
    assert "no method called 'tip'" in refused(*words, "tip")
    assert "learns nothing" in refused(*words, "zero-shot")
    assert "not for LoRA" in refused(*words, "lora", "--no-orthogonal")


def test_a_run_that_somebody_cancels_keeps_its_best_weights(nearl, refused, data, model, tmp_path, monkeypatch):
    import nearl.cli.finetune as module
    from nearl.runs import RunFolder

    at = {"step": 7}

    def cancel(self, event):
        if event.step == at["step"]:
            RunFolder(at["run"]).request_cancel()

    monkeypatch.setattr(module.ProgressBar, "show", cancel)
    words = ("finetune", data, "--shots", 2, "--steps", 20, *model, "--out")
    at["run"] = tmp_path / "late"
    status, text, _ = nearl(*words, at["run"])
    assert status == 0 and "was cancelled" in text and "not measured" in nearl("report", at["run"])[1]
    assert json.loads((at["run"] / "adapter" / "adapter.json").read_text())["recipe"]["steps_taken"] <= 7
    at |= {"step": 1, "run": tmp_path / "early"}
    assert "cancelled before it had learned anything" in refused(*words, at["run"])


def test_patients_stay_together(nearl, refused, model, tmp_path):
    rng = np.random.default_rng(0)
    for label in ("one", "two"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 256, (64, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"p{label}{i // 2}_{i}.png")
    words = ("finetune", tmp_path / "data", "--steps", 1, *model, "--json")
    status, _, err = nearl(*words, "--group-by", "_", "--out", tmp_path / "run")
    assert status == 0 and "no patient" in err
    job = json.loads((tmp_path / "run" / "job.json").read_text())
    patients = [{job["files"][i].split("_")[0] for i in job["split"][part]} for part in ("support", "held")]
    assert all(patients) and not patients[0] & patients[1]
    assert "--shots draws" in refused(*words, "--group-by", "_", "--shots", 2, "--out", tmp_path / "other")


def test_options_of_the_recipe(nearl, data, model, tmp_path):
    options = ("--augment", "strong", "--flip", "--early-stop", "--lr", 0.001, "--seed", 3)
    status, _, _ = nearl("finetune", data, "--shots", 2, "--steps", 2, *options, "--out", tmp_path / "a", *model)
    recipe = json.loads((tmp_path / "a" / "adapter" / "adapter.json").read_text())["recipe"]
    assert status == 0 and recipe["augment"] == "strong" and recipe["flip"] and recipe["patience"] == 20
    assert recipe["lr"] == 0.001 and recipe["seed"] == 3 and recipe["steps"] == 2


def test_report_of_a_run(nearl, refused, adapter, data, tmp_path):
    files = [tmp_path / "out" / name for name in ("a.html", "b.pdf", "c.csv")]
    words = ("--html", files[0], "--pdf", files[1], "--csv", files[2])
    status, text, _ = nearl("report", adapter, *words, "--json")
    assert status == 0 and json.loads(text)["files"] == [str(file) for file in files]
    assert files[0].read_text().lstrip().lower().startswith("<!doctype html")
    assert files[1].read_bytes().startswith(b"%PDF")
    assert len(files[2].read_text(encoding="utf-8-sig").splitlines()) > json.loads(text)["held_out"]["n"]
    assert "no run in" in refused("report", data)


def test_reports_show_pictures_where_asked_and_there(nearl, refused, adapter, data, model, tmp_path):
    words = ("--shots", 2, "--steps", 1, *model, "--out", tmp_path / "run", "--keep-images")
    nearl("finetune", data, *words)
    pages = {name: tmp_path / f"{name}.html" for name in ("without", "with")}
    assert nearl("report", tmp_path / "run", "--html", pages["without"])[0] == 0
    status, text, _ = nearl("report", tmp_path / "run", "--pictures", "--html", pages["with"], "--json")
    result = json.loads(text)
    wrong = sum(row["n"] - row["right"] for row in result["held_out"]["adapted"]["recall"])
    shown = {name: page.read_text().count("<img") for name, page in pages.items()}
    assert status == 0 and wrong and shown["with"] - shown["without"] == wrong
    sentence = refused("report", adapter, "--pictures", "--html", tmp_path / "no.html")
    assert "--keep-images" in sentence and not (tmp_path / "no.html").exists()


def test_adapters_go_to_the_hub_and_come_back(nearl, refused, adapter, tmp_path, monkeypatch):
    from nearl.adapters import hub
    from nearl.adapters.store import load_adapter

    seen = []
    monkeypatch.setattr(hub, "saved_token", lambda: "token")
    monkeypatch.setattr(hub, "push", lambda *words: seen.append(words) or "https://example.org/me/mine")
    status, text, _ = nearl("push", adapter, "me/mine", "--private", "--json")
    assert status == 0 and json.loads(text)["url"] == "https://example.org/me/mine" and "token" not in text
    assert seen[0][1:] == ("me/mine", "token", True)
    monkeypatch.setattr(hub, "pull", lambda *words: seen[0][0])
    status, _, _ = nearl("pull", "me/mine", "--out", tmp_path / "mine")
    assert status == 0 and load_adapter(tmp_path / "mine").version == load_adapter(adapter).version
    assert "no adapter at" in refused("push", tmp_path / "nothing", "me/mine")


def test_refusals(refused, data, model, adapter, checkpoints, tmp_path):
    image = next((data / "test" / "lesion").iterdir())
    out = ("--out", tmp_path / "x")
    assert "no backbone called" in refused("info", "--backbone", "nothing")
    assert "ModifiedResNet" in refused("info", "--backbone", "RN50", "--weights", "random")
    assert "what to look for" in refused("predict", image, *model)
    assert "p.json" in refused("predict", image, "--prompts", tmp_path / "p.json", *model)
    assert "no adapter at" in refused("predict", image, "--adapter", tmp_path / "none", *model)
    siglip = ("--backbone", f"local-dir:{checkpoints('siglip')}")
    assert "taught on" in refused("predict", image, "--adapter", adapter, *siglip)
    wrong = ("explain", image, "--class", "cat", "--adapter", adapter, *model, *out)
    assert "no class 'cat'" in refused(*wrong)
    assert "none" in refused("finetune", tmp_path / "none", *model, *out)
    assert "at least 1" in refused("finetune", data, "--shots", 0, *model, *out)
    assert "cannot be used as an output folder" in refused("finetune", data, *model, "--out", image / "x")
    only = tmp_path / "one" / "lesion"
    only.mkdir(parents=True)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(only / "a.png")
    assert "two classes" in refused("finetune", only.parent, *model, *out)
    prompts = tmp_path / "q.json"
    prompts.write_text(json.dumps({"classes": [{"name": "a", "prompts": ["a"]}, {"name": "b", "prompts": ["b"]}]}))
    assert "do not name the class" in refused("finetune", data, "--prompts", prompts, *model, *out)


def test_corrupt_adapter_is_refused(refused, data, model, adapter, tmp_path):
    import shutil

    folder = shutil.copytree(adapter, tmp_path / "broken")
    (folder / "adapter" / "adapter.safetensors").write_bytes(b"\0" * 100)
    image = next((data / "test" / "lesion").iterdir())
    assert "damaged" in refused("predict", image, "--adapter", folder, *model)


@pytest.mark.parametrize("name", ["ViT-B-16", "biomedclip"])
def test_one_and_a_half_million_parameters(nearl, name):
    status, out, _ = nearl("info", "--backbone", name, "--weights", "random", "--json")
    result = json.loads(out)
    assert status == 0 and 1_450_000 <= result["trainable_parameters"] <= 1_470_000
    assert sum(result["by_part"].values()) == result["trainable_parameters"]
    assert result["backbone"]["vision"] == {"depth": 12, "width": 768, "grid": [14, 14]}


def test_backbones_are_listed(nearl):
    _, out, _ = nearl("backbones", "--json")
    assert {"name", "source", "description", "licence", "offline"} <= json.loads(out)["backbones"][0].keys()


def test_as_a_module_with_clean_streams(data, model, adapter, tmp_path):
    """A real process: stdout holds the JSON and nothing else."""
    image = next((data / "test" / "lesion").iterdir())
    command = [sys.executable, "-m", "nearl", "predict", str(image), "--adapter", str(adapter), *model, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["predictions"]
    assert done.stderr == ""


def test_notes_and_what_is_left_out_are_said(nearl, model, refused, tmp_path):
    pages = [Image.new("L", (side, side), 4 * side) for side in (40, 30)]  # no film
    film = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    prompts = tmp_path / "prompts.json"
    filling = "a scan of the brain " * 10
    classes = [{"name": name, "prompts": [filling + name]} for name in ("x", "y")]
    prompts.write_text(json.dumps({"classes": classes}))
    archive = tmp_path / "set.zip"
    archive.write_bytes(packed({"a.tif": film, "b.png": png(120), "letter.txt": b"Dear colleague"}))

    told = json.loads(nearl("predict", archive, "--prompts", prompts, *model, "--json")[1])
    first, second, letter = told["predictions"]
    assert ["Only the first" in note for note in first["notes"]] == [True] and second["notes"] == []
    assert (first["name"], second["name"], first["part"], second["part"]) == ("a.tif", "b.png", 1, 2)
    assert "letter.txt" in letter["error"] and letter["frozen"] is None
    assert len(told["prompt_notes"]) == 3 and "does not read" in told["prompt_notes"][0]
    lines = nearl("predict", archive, "--prompts", prompts, *model)[1]
    for words in ("1: a.tif", "note: Only the first", "letter.txt", "does not read", "have a prompt that is the same"):
        assert words in lines

    table = b"p,q,r\n" + b"".join(b"%d,z,%s\n" % (i, b"xy"[i % 2 :][:1]) for i in range(8))
    files = {f"images/{i}.tif" if i == 1 else f"images/{i}.png": film if i == 1 else png(90 + 9 * i) for i in range(8)}
    archive.write_bytes(packed({**files, "images/1_mask.png": png(200), "labels.csv": table}))
    assert "--file-column and --label-column" in refused("evaluate", archive, *model)
    asked = ("evaluate", archive, "--file-column", "p", "--label-column", "r", *model)
    status, out, err = nearl(*asked, "--json")
    result = json.loads(out)
    assert status == 0 and result["n"] == 8 and "1 mask beside its image" in err and "Not used: q" in err
    assert "1_mask.png" in result["left_out"][0] and any(note.startswith("1 image: Only") for note in result["notes"])

    run = tmp_path / "run"
    taught = json.loads(nearl("finetune", *asked[1:], "--steps", 1, "--out", run, "--json")[1])
    assert (taught["left_out"], taught["notes"]) == (result["left_out"], result["notes"])
    nearl("report", run, "--html", tmp_path / "report.html")
    assert "1 image: Only the first" in (tmp_path / "report.html").read_text()


def test_images_that_an_adapter_has_seen_are_not_measured_on(nearl, refused, model, tmp_path):
    rng = np.random.default_rng(0)
    for label in ("one", "two"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(30):
            pixels = rng.integers(0, 256, (64, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{i}.png")
    words = (tmp_path / "data", "--steps", 1, *model)
    whole = json.loads(nearl("evaluate", *words[:1], *model, "--json")[1])
    assert (whole["n"], whole["taught"], whole["calibrated"]) == (60, 0, 0)

    nearl("finetune", *words, "--shots", 4, "--out", tmp_path / "few")  # of the others 26 of each class are held out
    adapter = ("--adapter", tmp_path / "few" / "adapter")
    assert "has seen all" in refused("evaluate", tmp_path / "data", *adapter, *model)
    few = json.loads((tmp_path / "few" / "adapter" / "adapter.json").read_text())["images"]
    assert (len(few["taught"]), len(few["calibrated"])) == (8, 52)

    other = tmp_path / "other"  # some of the same images, saved again under other names, and new ones
    for label in ("one", "two"):
        (other / label).mkdir(parents=True)
        for i in range(5):
            Image.open(tmp_path / "data" / label / f"{i}.png").save(other / label / f"x{i}.tif")
            Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(other / label / f"y{i}.png")
    nearl("finetune", *words, "--hold-out", 0.1, "--out", tmp_path / "most")
    status, text, _ = nearl("evaluate", other, "--adapter", tmp_path / "most", *model, "--json")
    result = json.loads(text)
    assert status == 0 and result["n"] == 20 - result["taught"] and result["taught"] >= 5
    assert result["calibrated"] == 0  # six held-out images calibrate nothing
    text = nearl("evaluate", other, "--adapter", tmp_path / "most", *model)[1]
    assert f"{result['taught']} images that the adapter was taught with" in text

    path = tmp_path / "most" / "adapter" / "adapter.json"  # as of an earlier version
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "images"}))
    status, text, _ = nearl("evaluate", other, "--adapter", tmp_path / "most", *model)
    assert status == 0 and "does not say which images" in text and "20 images" in text
