"""Reading and teaching from a program, through `gradio_client`, against the app as a visitor starts it."""

from __future__ import annotations

import shutil
import time

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AuthenticationError
from PIL import Image

from nearl.data.phantoms.kinds import write_phantom_folder
from nearl.prompts import default_prompts
from tests.support.hostile import packed, png, saved
from tests.support.pages import README, blocks

PROMPTS = default_prompts(["no lesion", "lesion"]).to_dict()


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A folder and a zip of a two-class task, train/ and test/."""
    folder = write_phantom_folder(tmp_path_factory.mktemp("task") / "head", "head_mri", train=6, test=4, size=64)
    return folder, shutil.make_archive(str(folder), "zip", folder)


def client_of(server) -> Client:
    return Client(server.url, verbose=False)


@pytest.fixture(scope="module")
def anyone(server) -> Client:
    """A client of whom nothing is remembered that a test asks for."""
    return client_of(server)


def test_the_client_of_the_readme_runs(server, tmp_path, monkeypatch):
    Image.new("L", (64, 64), 90).save(tmp_path / "scan.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(blocks(README, "python")[1].replace("http://127.0.0.1:7860", server.url), names)
    (row,) = names["answer"]["predictions"]
    assert set(row["frozen"]) == {"glioma", "normal"}


def test_predict_then_teach_then_predict_and_nobody_else_sees_it(server, task, tmp_path):
    folder, archive = task
    pictures = sorted((folder / "test").glob("*/*.png"))[:2]
    bad = tmp_path / "letter.png"
    bad.write_text("Dear colleague")
    client = client_of(server)

    first = client.predict([handle_file(p) for p in (*pictures, bad)], PROMPTS, api_name="/predict")
    *read, refused = first["predictions"]
    assert [row["file"] for row in (*read, refused)] == ["image 1", "image 2", "image 3"]
    assert all(row["adapted"] is None and sum(row["frozen"].values()) == pytest.approx(1, abs=1e-4) for row in read)
    assert "image 3 is not an image" in refused["error"]
    assert first["notice"] == "For teaching and research. Not for diagnosis."

    job = client.submit(handle_file(archive), None, "quick", api_name="/teach")
    taught = job.result(300)
    states = [update["state"] for update in job.outputs()]
    assert taught["state"] == "done"
    assert "teaching" in states
    assert taught["taught"] == {"lesion": 6, "no lesion": 6}
    assert taught["held_out"]["n"] == 8
    assert {row["class"] for row in taught["held_out"]["adapted"]["recall"]} == {"lesion", "no lesion"}
    low, high = taught["held_out"]["adapted"]["balanced_accuracy_interval"]
    assert 0 <= low < high <= 1

    assert taught["verdict"].endswith(".") and isinstance(taught["in_use"], bool)
    (item,) = client.predict(api_name="/shelf")["adapters"]
    if not taught["in_use"]:  # the check speaks against it
        client.predict(item["id"], api_name="/use")
        taught["in_use"] = True

    second = client.predict([handle_file(p) for p in pictures], None, api_name="/predict")
    for before, after in zip(read, second["predictions"], strict=True):
        assert sum(after["adapted"].values()) == pytest.approx(1, abs=1e-4)
        assert set(after["adapted"]) == set(before["frozen"])
    wider = default_prompts(["no lesion", "lesion", "scar"]).to_dict()
    assert client.predict([handle_file(pictures[0])], wider, api_name="/predict")["untaught"] == ["scar"]

    assert client.predict(api_name="/run") == taught
    found = client.predict(api_name="/results")
    assert found["results"] == taught["held_out"] and found["verdict"] == taught["verdict"]
    assert {row["file"] for row in found["rows"]} == {f"test image {number}" for number in range(1, 9)}
    (item,) = client.predict(api_name="/shelf")["adapters"]
    assert (item["in_use"], item["classes"]) == (True, ["lesion", "no lesion"])
    assert client.predict(item["id"], "mine", api_name="/rename")["adapters"][0]["name"] == "mine"
    assert client.predict("", api_name="/use")["adapters"][0]["in_use"] is False
    assert client.predict(item["id"], api_name="/use")["adapters"][0]["in_use"] is True
    assert "no such adapter" in client.predict("../../x", api_name="/use")["error"]

    adapter = client.predict(api_name="/download_adapter")
    other = client_of(server)  # who has nothing of it until the file is brought
    alone = other.predict([handle_file(pictures[0])], PROMPTS, api_name="/predict")
    assert alone["predictions"][0]["adapted"] is None and other.predict(api_name="/download_adapter") is None
    assert other.predict(api_name="/cancel") == {"state": None}
    assert other.predict(handle_file(adapter), api_name="/use_adapter")["prompts"]["classes"]
    again = other.predict([handle_file(p) for p in pictures], None, api_name="/predict")
    for here, there in zip(second["predictions"], again["predictions"], strict=True):
        assert here["adapted"] == pytest.approx(there["adapted"], abs=1e-5)
    assert client.predict(item["id"], api_name="/delete") == {"adapters": []}
    assert client.predict(api_name="/download_adapter") is None
    assert other.predict(api_name="/download_adapter") is not None


def test_cancel_from_a_program(server, task):
    client = client_of(server)
    job = client.submit(handle_file(task[1]), None, "thorough", api_name="/teach")
    while not any(update["step"] for update in job.outputs()):
        assert not job.done()
        time.sleep(0.1)
    assert client.predict(api_name="/cancel")["state"] in ("cancelling", "cancelled")
    assert job.result(300)["state"] == "cancelled"
    assert client.predict(api_name="/download_adapter") is None


def test_methods_are_compared_on_a_zip(server, task):
    client = client_of(server)
    asked = [handle_file(task[1]), "", "linear-probe, zero-shot", 2, 1, "quick"]
    job = client.submit(*asked, api_name="/compare")
    compared = job.result(300)
    assert compared["state"] == "done"
    assert [line["method"] for line in compared["methods"]] == ["zero-shot", "linear-probe"]
    assert [line["taught"] for line in compared["methods"]] == [4, 4]
    assert all(line["n"] == 8 and line["done"] == 1 and not line["error"] for line in compared["methods"])
    assert "no method called 'magic'" in client.predict(None, "", "magic", 2, 1, "quick", api_name="/compare")["error"]
    assert "no such" in client.predict(None, "moon", "zero-shot", 2, 1, "quick", api_name="/compare")["error"]


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (None, "no class yet"),
        ({"classes": [{"name": "a", "prompts": []}]}, "empty prompt"),
        ({"classes": [{"name": "a", "prompts": ["x"]}, {"name": "A", "prompts": ["y"]}]}, "twice"),
        ([1, 2], "prompt set needs"),
    ],
)
def test_bad_prompts_are_answered_with_a_sentence(anyone, task, prompts, words):
    picture = handle_file(next((task[0] / "test").glob("*/*.png")))
    assert words in anyone.predict([picture], prompts, api_name="/predict")["error"]


def test_bad_files_are_answered_with_a_sentence(anyone, task, tmp_path):
    letter = tmp_path / "letter.zip"
    letter.write_text("Dear colleague")
    assert "not a zip" in anyone.predict(handle_file(letter), None, "quick", api_name="/teach")["error"]
    assert "adapter" in anyone.predict(handle_file(letter), api_name="/use_adapter")["error"]
    assert "preset" in anyone.predict(handle_file(task[1]), None, "forever", api_name="/teach")["error"]


def test_nothing_went_wrong_on_the_server(server, anyone):
    """Runs last in this file: what the visitors above did left no traceback on the console."""
    assert "Traceback" not in server.console()
    names = {name for name in anyone.view_api(return_format="dict")["named_endpoints"]}
    work = {"/predict", "/explain", "/teach", "/compare", "/cancel", "/run", "/results"}
    work |= {"/teach_with"}
    assert names == work | {"/use_adapter", "/download_adapter", "/shelf", "/use", "/rename", "/delete"}


def test_every_method_can_be_taught(server, task):
    client = client_of(server)
    done = client.predict(handle_file(task[1]), None, "quick", "linear-probe", api_name="/teach_with")
    assert done["state"] == "done" and done["held_out"]["n"] == 8
    assert [item["method"] for item in client.predict(api_name="/shelf")["adapters"]] == ["linear-probe"]
    picture = next((task[0] / "test").glob("*/*.png"))
    (row,) = client.predict([handle_file(picture)], None, api_name="/predict")["predictions"]
    assert set(row["adapted"]) == {"lesion", "no lesion"}
    refused = client.predict(handle_file(task[1]), None, "quick", "magic", api_name="/teach_with")
    assert "magic" in refused["error"]
    refused = client.predict(handle_file(task[1]), None, "quick", "zero-shot", api_name="/teach_with")
    assert "learns nothing" in refused["error"]


def test_notes_reach_programs_without_the_names_of_files(server, tmp_path):
    pages = [Image.new("L", (side, side), 4 * side) for side in (40, 30)]  # no film
    film = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    archive = tmp_path / "Jane Roe.zip"
    archive.write_bytes(packed({"Jane Roe 1.tif": film, "Jane Roe 2.png": png(120)}))
    long = {"classes": [{"name": n, "prompts": ["a scan of the brain " * 9 + n]} for n in ("x", "y")]}
    client = client_of(server)
    told = client.predict([handle_file(archive)], long, api_name="/predict")
    first, second = told["predictions"]
    assert len(first["notes"]) == 1 and second["notes"] == [] and first["file"] != second["file"]
    assert len(told["prompt_notes"]) == 3 and "Roe" not in str(told)
    masks = {
        f"{label}/{label} Roe {i}{end}.png": png(99 + i) for label in "ab" for i in (1, 2) for end in ("", "_mask")
    }
    archive.write_bytes(packed({**masks, "a/film.tif": film}))
    done = client.predict(handle_file(archive), None, "quick", "linear-probe", api_name="/teach_with")
    assert done["taught"] == {"a": 3, "b": 2} and "4 masks" in str(done["left_out"]) and "Roe" not in str(done)
    assert any("1 image: Only" in note for note in done["notes"])


def test_a_program_signs_in_and_others_do_not(locked):
    assert Client(locked.url, auth=("anna", "secret"), verbose=False).predict(api_name="/shelf") == {"adapters": []}
    with pytest.raises(AuthenticationError):
        Client(locked.url, verbose=False)
