"""Figures of findings against their definitions, thresholds, and answers that contradict each other."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from nearl.errors import NearlError
from nearl.measure import findings
from nearl.measure.findings import agreement, figures, gain_of, study
from nearl.methods import Task, make
from nearl.prompts import PromptSet, default_findings, default_prompts
from nearl.reading.classifier import Classifier
from nearl.reading.findings import answers, broken, consistent, thresholds
from nearl.report.words import speaks_against, verdict
from tests.support.findings import FINDINGS, PROMPTS, RULED, halves
from tests.support.methods_data import taught

N = 60
RNG = np.random.default_rng(0)
LABELS = [(int(i % 3 > 0), *([2 + int(i % 4 > 0)] if i % 5 else [])) for i in range(N)]


def scored(noise):
    """Probabilities [N, 4] that know the answers up to noise."""
    p = np.full((N, 4), 0.5)
    for i in range(N):
        for k, there in enumerate((i % 3 == 0, i % 4 == 0)):
            p[i, 2 * k] = np.clip(0.35 + 0.3 * there + noise * RNG.normal(), 0.01, 0.99)
            p[i, 2 * k + 1] = 1 - p[i, 2 * k]
    return p


def test_figures_are_those_of_the_known_answers():
    p = scored(0.2)
    found = figures(p[:, ::2], LABELS, PROMPTS, [0.5, 0.4])
    first, second = found["per_finding"]
    known = np.array([i % 5 != 0 for i in range(N)])
    there = np.array([i % 4 == 0 for i in range(N)])[known]
    assert (first["n"], second["n"], second["positives"]) == (N, known.sum(), there.sum())
    assert second["auroc"] == pytest.approx(roc_auc_score(there, p[known, 2]))
    assert second["sensitivity"] == pytest.approx((p[known, 2][there] >= 0.4).mean())
    assert second["specificity"] == pytest.approx((p[known, 2][~there] < 0.4).mean())
    for key in ("auroc", "sensitivity", "specificity"):
        low, high = second[f"{key}_interval"]
        assert low <= second[key] <= high
        assert found[f"macro_{key}"] == pytest.approx((first[key] + second[key]) / 2)
    low, high = found["macro_auroc_interval"]
    assert low < found["macro_auroc"] < high and found["consistent"] is None
    one_sided = figures(p[:3, ::2], [(1,), (1, 3), (1, 2)], PROMPTS, [0.5, 0.5])
    assert one_sided["per_finding"][0]["auroc"] is None and one_sided["per_finding"][0]["specificity"] is not None
    nothing = figures(p[:1, ::2], [()], PROMPTS, [0.5, 0.5])
    assert nothing["macro_auroc"] is None
    with pytest.raises(NearlError):
        figures(np.full((1, 2), np.nan), [()], PROMPTS, [0.5, 0.5])


def test_a_threshold_is_where_sensitivity_and_specificity_are_best():
    p = np.array([[0.9, 0.1, 0.5, 0.5], [0.8, 0.2, 0.5, 0.5], [0.3, 0.7, 0.5, 0.5], [0.2, 0.8, 0.5, 0.5]])
    limits = thresholds(p, [(0,), (0,), (1,), (1,)], PROMPTS)
    assert limits == [pytest.approx(0.55), 0.5], "in the middle of the gap; nothing known of the second"


def test_study_says_whether_teaching_helped():
    before, after = scored(0.9), scored(0.05)
    result = study(before, after, LABELS, PROMPTS, "held-out", ([0.5, 0.5], [0.5, 0.5]))
    assert result["adapted"]["macro_auroc"] > result["frozen"]["macro_auroc"] and result["findings"] == list(FINDINGS)
    low, high = result["gain"]["interval"]
    assert 0 < low < result["gain"]["value"] < high
    assert result["gain"]["value"] == pytest.approx(
        result["adapted"]["macro_auroc"] - result["frozen"]["macro_auroc"], abs=1e-9
    )
    assert verdict(result).startswith("Better") and not speaks_against(result)
    worse = study(after, before, LABELS, PROMPTS, "held-out", ([0.5, 0.5], [0.5, 0.5]))
    assert verdict(worse).startswith("Worse") and speaks_against(worse)
    two = study(before[:2], after[:2], LABELS[:2], PROMPTS, "held-out", ([0.5, 0.5], [0.5, 0.5]))
    assert verdict(two) == "2 images are too few to say whether teaching helped."
    empty = study(before[:0], None, [], PROMPTS, "none", ([0.5] * 2, [0.5] * 2))
    assert empty["too_few"] and empty["frozen"] is None and verdict(empty)
    assert gain_of(before[:2, ::2], after[:2, ::2], [(), ()]) is None


def test_rules_and_the_share_of_answers_that_agree():
    excludes, kind = (
        RULED.rules,
        RULED.__class__.from_dict({**PROMPTS.to_dict(), "rules": ["two is a kind of one"]}).rules,
    )
    assert [len(broken(a, FINDINGS, excludes)) for a in ([1, 1], [1, 0], [0, 1], [0, 0])] == [1, 0, 0, 0]
    assert [len(broken(a, FINDINGS, kind)) for a in ([1, 1], [1, 0], [0, 1], [0, 0])] == [0, 0, 1, 0]
    answers = np.array([[True, False], [False, True]] * 20)
    assert consistent(answers, FINDINGS, excludes).all()
    found = agreement(answers, FINDINGS, excludes)
    assert found["consistent"] == 1 and found["consistent_shuffled"] == pytest.approx(0.75, abs=0.03)
    assert agreement(answers, FINDINGS, ())["consistent"] is None


@pytest.mark.parametrize(
    ("present", "absent", "pairs"),
    [
        (["tumour", "no tumour"], [], [("tumour", "no tumour")]),
        ([], ["Tumor", "no_tumour"], [("Tumor", "no_tumour")]),
        (["tumour"], ["no tumour"], []),
        (["effusions", "no evidence of an effusion"], [], [("effusions", "no evidence of an effusion")]),
        (["mass", "pneumonia", "normal", "no effusion"], ["effusion"], [("normal", "mass", "pneumonia")]),
        (["normal", "no finding", "no effusion"], ["mass"], []),
        (["normal heart", "mass", "nodule"], ["normal chest X-ray"], []),
        (["small cell carcinoma", "non-small cell carcinoma"], [], []),
    ],
)
def test_answers_that_deny_each_other_by_their_names_are_told(present, absent, pairs):
    prompts = default_findings([*present, *absent])
    shares = np.repeat([0.9, 0.2], [len(present), len(absent)])
    _, wrong = answers(np.stack([shares, 1 - shares], 1).ravel(), [0.5] * len(shares), prompts)
    assert len(wrong) == len(pairs)
    for words, names in zip(wrong, pairs, strict=True):
        assert all(f"“{name}”" in words for name in names)
        assert not any(f"“{other}”" in words for other in {*present, *absent} - {*names})


def test_a_rule_of_ones_own_is_told_once():
    own = {**default_findings(["tumour", "no tumour"]).to_dict(), "rules": ["if no tumour then not tumour"]}
    _, (words,) = answers(np.array([0.9, 0.1, 0.9, 0.1]), [0.5, 0.5], PromptSet.from_dict(own))
    assert "rules" in words


def test_a_classifier_is_measured_on_findings(tiny):
    backbone = tiny("clip")
    method = taught(make("linear-probe", Task(backbone, RULED, halves(24))))
    test = halves(12, seed=3)
    result = findings.measure(Classifier(backbone, RULED, method), test, halves(24))
    assert result["macro_auroc"] == result["adapted"]["macro_auroc"] and len(result["per_finding"]) == 2
    assert 0 <= result["consistent"] <= 1 and result["n"] == 12
    assert result["frozen"]["per_finding"][0]["threshold"] != 0.5, "chosen on the support set"
    alone = findings.measure(Classifier(backbone, PROMPTS), test)
    assert alone["adapted"] is None and alone["macro_auroc"] == alone["frozen"]["macro_auroc"]
    for prompts in (default_prompts(["one", "two"]), default_findings(["one"])):
        with pytest.raises(NearlError):
            findings.measure(Classifier(backbone, prompts), test)
