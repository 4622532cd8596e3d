"""Predict with several findings: each present or absent on its own, and answers that contradict each other."""

from __future__ import annotations

import numpy as np
import pytest

from app.predict import actions as reading
from app.predict import html as predict_views
from app.predict.actions import AFTER, BEFORE, MapChoice
from app.predict.findings import offered
from app.teach.shelf import actions as adapting
from nearl.errors import NearlError
from nearl.methods import Task, make
from nearl.prompts import PromptSet, default_findings
from nearl.reading.findings import thresholds
from nearl.reading.trust import fit_findings_trust
from tests.support.findings import FINDINGS, PROMPTS, RULED, halves
from tests.support.methods_data import taught


def adapter_of(engine):
    data, test = halves(24), halves(24, seed=4)
    method = taught(make("linear-probe", Task(engine.backbone(), PROMPTS, data)))
    adapter, frozen = method.adapter(), method.task.frozen
    limits = thresholds(method.predict(data.records), data.labels, PROMPTS)
    embed = lambda some: frozen.embed(frozen.pooled(some.records)).numpy()  # noqa: E731
    trust = fit_findings_trust(PROMPTS, limits, method.predict(test.records), test.labels, embed(data), embed(test))
    adapter.meta["trust"] = trust.to_dict()
    return adapter


def test_thresholds_that_do_not_go_with_the_findings_are_refused_where_the_adapter_is_loaded(engine, workspace):
    adapter = adapter_of(engine)
    adapting.check_fits(engine, workspace, adapter)
    own = adapter.meta["trust"]
    for wrong in ({"thresholds": [0.5]}, {"thresholds": [0.5] * 3}, {"thresholds": None}, {"conformal": {"0.9": 0.5}}):
        adapter.meta["trust"] = own | wrong
        with pytest.raises(NearlError, match="how far to trust it cannot be used"):
            adapting.check_fits(engine, workspace, adapter)


def test_each_finding_is_read_on_its_own(engine, workspace):
    test = halves(8, seed=3, unknown=False)
    workspace.viewing.bring(test.records, [])
    reading.read(engine, workspace, PROMPTS.to_dict())
    shown = predict_views.reading_html(workspace)
    assert "Before teaching" in shown and shown.count("Counts as present from") == 2 and "without one" not in shown
    assert offered(workspace) == list(FINDINGS) and reading.closest(workspace) in FINDINGS

    adapting.use(engine, workspace, workspace.shelf.put(adapter_of(engine)))
    reading.read(engine, workspace, RULED.to_dict())
    prediction = workspace.viewing.prediction
    np.testing.assert_allclose(prediction.adapted.reshape(8, 2, 2).sum(2), 1, atol=1e-5)
    assert prediction.trust["calibrated"] and len(prediction.trust["thresholds"]) == 2
    for place, label in enumerate(test.labels):
        workspace.viewing.select(place)
        shown = predict_views.reading_html(workspace)
        both = prediction.adapted[place, ::2] >= prediction.trust["thresholds"]
        assert ("are both said to be present" in shown) == both.all()
        assert "After teaching" in shown and "chosen on the images" in shown
        if place < 4:
            assert both.tolist() == [0 in label, 2 in label]
    assert "are both said to be present" not in predict_views.table_html(workspace)
    assert predict_views.table_html(workspace).count('<th scope="row">') == 8
    reading.read(engine, workspace, PROMPTS.to_dict())  # the rules alone have changed
    workspace.viewing.select(0)
    assert "are both said to be present" not in predict_views.reading_html(workspace)
    for when in (BEFORE, AFTER):
        assert f"“one”, {when} teaching" in reading.map_layer(engine, workspace, MapChoice(when, "one"))[1]


def test_a_finding_and_its_denial_are_not_both_present_without_a_word(engine, workspace):
    workspace.viewing.bring(halves(8, seed=3).records, [])
    reading.read(engine, workspace, default_findings(["tumour", "no tumour"]).to_dict())
    prediction, wrong = workspace.viewing.prediction, 0
    for place, shares in enumerate(((0.9, 0.8), (0.1, 0.8), (0.1, 0.2))):
        prediction.frozen[place] = [value for share in shares for value in (share, 1 - share)]
        workspace.viewing.select(place)
        both = (shares[0] >= 0.5) == (shares[1] >= 0.5)
        assert ("one denies the other" in predict_views.reading_html(workspace)) == both
        wrong += both
    prediction.frozen[3:] = prediction.frozen[1]
    assert predict_views.table_html(workspace).count("contradictory") == wrong == 2


def test_prompts_that_are_no_findings_are_refused_in_a_sentence(engine, workspace):
    workspace.viewing.bring(halves(2).records, [])
    for change, gist in (
        ({"rules": ["one and two"]}, "is not a rule"),
        ({"rules": ["if one then not three"]}, "“three”"),
        ({"rules": ["one is a kind of one"]}, "takes two"),
        ({"kind": "colours"}, "kind of a prompt set"),
        ({"classes": [{"name": "", "prompts": ["x"]}]}, "no name"),
    ):
        with pytest.raises(NearlError, match=gist):
            reading.read(engine, workspace, {**PROMPTS.to_dict(), **change})
    again = PromptSet.from_dict(RULED.to_dict())
    assert again == RULED and [str(rule) for rule in again.rules] == ["if one then not two"]
