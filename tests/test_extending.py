"""A method, a map and a file format from outside the package, through the command line and the page."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from app.compare import actions as comparing
from app.engine import Engine
from app.explain import actions as explaining
from app.explain import choice as choosing
from app.predict import actions as reading
from app.teach.images import actions as gathering
from app.teach.run import actions as teaching
from app.visitor.disk import Root
from app.visitor.registry import Registry as Workspaces
from nearl import NearlError, load_adapter, load_set, restore
from nearl.cli.main import main
from nearl.data.phantoms.kinds import phantom_set
from nearl.registry import Registry
from nearl.runs.status import DONE
from tests.support.app_work import Threads, ended
from tests.support.plugins import plugged
from tests.support.toy_format import toy as toy_file

METHOD, MAP = "toy", "toy-energy"


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """The plugin, in this process, in the decoding worker and in the workers of runs; without it afterwards."""
    with plugged():
        yield


@pytest.fixture(scope="module")
def model(checkpoints):
    return "--backbone", f"local-dir:{checkpoints('clip')}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Class folders of toy files."""
    folder = tmp_path_factory.mktemp("toys") / "set"
    drawn = phantom_set("smear", 8, size=64)
    for i, (record, label) in enumerate(zip(drawn.records, drawn.labels, strict=True)):
        path = folder / ("train" if i % 4 else "test") / drawn.classes[label] / f"{i}.toy"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(toy_file(record.pixels[..., 1]))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, data, model):
    """A run of the toy method, taught on the command line."""
    out = tmp_path_factory.mktemp("run") / "run"
    words = ("finetune", data, "--method", METHOD, "--shots", 4, "--steps", 3, "--out", out, *model, "--json")
    main([str(word) for word in words])
    return out


@pytest.fixture
def nearl(capsys):
    """Run a command -> what --json prints."""

    def run(*words):
        main([str(word) for word in (*words, "--json")])
        return json.loads(capsys.readouterr().out)

    return run


def test_it_is_taught_saved_and_read_with_on_the_command_line(nearl, run, data, model):
    train, test = load_set(data)
    assert len(train) == 12 and len(test) == 4 and not train.problems
    adapter = load_adapter(run)
    assert adapter.meta["method"] == METHOD and list(adapter.state) == ["factors"]
    image = next((data / "test").rglob("*.toy"))
    (row,) = nearl("predict", image, "--adapter", run, *model)["predictions"]
    assert row["error"] is None and row["adapted"] != row["frozen"]
    assert nearl("evaluate", data, "--adapter", run, *model)["n"] == 4


def test_it_is_restored_as_the_method_that_it_is(run, tiny, data):
    backbone, (_, test) = tiny("clip"), load_set(data)
    method = restore(backbone, load_adapter(run))
    assert method.card.name == METHOD and method.predict(test.records).shape == (4, 2)


@pytest.mark.parametrize("kind", [MAP, "gradcam"])
def test_it_is_explained_on_the_command_line(nearl, run, data, model, tmp_path, kind):
    image = next((data / "test").rglob("*.toy"))
    words = ("--class", "lesion", "--method", kind, "--adapter", run, "--out", tmp_path)
    maps = nearl("explain", image, *words, *model)["maps"]
    assert {m["adapted"] for m in maps} >= {False, True}
    assert all(Image.open(m["png"]).size == (64, 64) for m in maps)


def test_it_is_compared_on_the_command_line(nearl, data, model, tmp_path):
    words = ("--methods", f"zero-shot,{METHOD}", "--shots", 2, "--seeds", 1, "--steps", 2, "--out", tmp_path)
    rows = nearl("compare", data, *words, *model)["rows"]
    assert {row["method"] for row in rows} == {"zero-shot", METHOD}
    assert not any(row.get("error") for row in rows)


@pytest.fixture(scope="module")
def engine(checkpoints):
    engine = Engine(f"local-dir:{checkpoints('clip')}", "cpu")
    engine.start()
    return engine


@pytest.fixture
def workspace(tmp_path, data):
    """A visitor who has brought the toy files, and one of them to read."""
    workspace = Workspaces(Root(tmp_path / "root")).get(None)
    workspace.support.keep(load_set(data)[0])
    reading.bring(workspace, [("image 1", next((data / "test").rglob("*.toy")))])
    return workspace


def test_the_page_teaches_reads_and_explains_with_it(engine, workspace, monkeypatch):
    Threads(monkeypatch, engine)
    assert METHOD in [card.name for card in teaching.methods()]
    prompts = gathering.prompts_for(workspace).to_dict()
    run = teaching.start(engine, workspace, prompts, teaching.Choice("quick", steps=3, method=METHOD))
    assert ended(run).look().state == DONE
    (item,) = workspace.shelf.items()
    assert item.method == METHOD
    teaching.use(engine, workspace, workspace.shelf.entry(item.id))
    reading.read(engine, workspace, prompts)
    prediction = workspace.viewing.prediction
    assert prediction.adapted is not None and (prediction.adapted != prediction.frozen).any()
    assert MAP in [card.key for card in choosing.offered(workspace)]
    for when in (reading.BEFORE, reading.AFTER):
        choice = choosing.settle(workspace, choosing.Choice(when=when, method=MAP))
        (panel,) = explaining.panels(engine, workspace, choice)
        assert panel.heatmap.values.shape == tuple(engine.backbone().vision.grid)


def test_the_page_compares_it(engine, workspace, monkeypatch):
    Threads(monkeypatch, engine)
    assert METHOD in [card.name for _, cards in comparing.cards() for card in cards]
    run = comparing.start(engine, workspace, comparing.Choice(comparing.OWN, ("zero-shot", METHOD), 2, 1, "quick"))
    assert ended(run).look().state == DONE
    lines = {line["method"]: line for line in comparing.lines(run)}
    assert lines[METHOD]["done"] and not lines[METHOD].get("error")
    comparing.use(engine, run, METHOD)
    assert workspace.shelf.adapter.meta["method"] == METHOD


def test_names_are_taken_once_and_missing_ones_are_refused():
    things = Registry("thing")
    first = things.register("a", object())
    assert things.register("a", first) is first and list(things) == ["a"]
    with pytest.raises(ValueError, match="called 'a' already"):
        things.register("a", object())
    with pytest.raises(NearlError, match="no thing called 'b'"):
        things["b"]
    things.unregister("a")
    assert not things
