"""A method that a plugin registers goes through a run in a worker process, is saved, and is read with."""

import pytest

from nearl.data.splits import plan
from nearl.methods import METHODS, restore
from nearl.prompts import default_prompts
from nearl.reading.classifier import Classifier
from nearl.runs import RunFolder, make_job, process
from tests.support.plugins import plugged
from tests.support.runs import CLASSES, QUICK, shades


@pytest.fixture(scope="module")
def backbone(tiny):
    return tiny("clip")


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """The toy plugin, in this process and in the workers of runs; without it afterwards."""
    with plugged():
        yield


@pytest.fixture
def name():
    return next(name for name in METHODS if name.startswith("toy"))


def test_a_worker_teaches_a_plugins_method(backbone, tmp_path, name):
    data = shades()
    split = plan(data.labels, fraction=0.4)
    job = make_job(backbone, data, None, default_prompts(CLASSES), split, methods=[name], recipe=QUICK)
    run = RunFolder(tmp_path / "run").create(job)
    assert not process.work(run)
    assert run.look().state == "done", run.look().error
    outcome = run.outcome()
    assert outcome.adapter.meta["method"] == name and outcome.results["n"] == len(split.held)
    assert [step for step, _ in run.look().losses] == list(range(1, QUICK["steps"] + 1))
    outcome.adapter.meta["trust"] = None
    classifier = Classifier(backbone, default_prompts(CLASSES), restore(backbone, outcome.adapter))
    shown = classifier.predict([data.records[i] for i in split.held]).adapted
    for row, adapted in zip(outcome.rows, shown, strict=True):
        assert list(row["shares_after"].values()) == pytest.approx(adapted.tolist(), abs=1e-4)
