"""Reports are summarised by rules: the findings that a report says are present, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from nearl.data.phantoms.thorax.findings import NAMES
from nearl.data.phantoms.thorax.report import CHANGES, write
from nearl.data.reports import ABSENT, NOTHING, PRESENT, UNCERTAIN, summarise
from nearl.data.terms import vocabulary
from nearl.errors import NearlError


def report_of(seed):
    """(report, its true findings), as a study of this seed would have it, without drawing one."""
    rng = np.random.default_rng(seed)
    present = {name: bool(rng.random() < 0.35) for name in NAMES}
    prior = bool(rng.integers(2))
    changes = dict.fromkeys(NAMES, "")
    if prior:
        changes = {n: CHANGES[rng.integers(4)] if p else ("", "resolved")[rng.integers(2)] for n, p in present.items()}
    side = ("right", "left")[rng.integers(2)]
    places = dict.fromkeys(NAMES, f"{side} {('upper', 'lower')[rng.integers(2)]} lobe")
    places |= {"upper lobe consolidation": f"{side} upper lobe", "lower lobe consolidation": f"{side} lower lobe"}
    places |= {"rib lesion": f"{side} 5th rib", "hilar adenopathy": f"{side} hilum", "vertebral fracture": "T8"}
    sizes = dict.fromkeys(NAMES, "24 mm") | dict.fromkeys(("right effusion", "left effusion", "pneumothorax"), "small")
    words = {name: {"side": side, "place": places[name], "size": sizes[name]} for name in NAMES}
    return write(seed, words, present, changes, prior), [name for name in NAMES if present[name]]


@pytest.mark.parametrize("half", range(2))
def test_the_summary_of_a_synthetic_report_is_its_true_findings(half):
    for seed in range(half, 120, 2):
        report, true = report_of(seed)
        found = summarise(report.text)
        assert list(found.present) == true, report.text
        said = found.states
        negated = {s.finding for s in report.sentences if s.kind == "negated"}
        assert all(said[name] == ABSENT for name in negated), report.text
        kept = {line.text for line in found.lines if line.mentions}
        assert not kept & {s.text for s in report.sentences if s.kind in ("normal", "about")}
    assert summarise("The lungs are clear.").text == NOTHING


P, A, U = PRESENT, ABSENT, UNCERTAIN
SENTENCES = [
    # how far a negation reaches
    ("No pneumothorax, effusion on the left or consolidation in the upper lobes.",
     {"pneumothorax": A, "left effusion": A, "upper lobe consolidation": A}),
    ("No pneumothorax, but there is a small nodule.", {"pneumothorax": A, "nodule": P}),
    ("There is no effusion and the heart is enlarged.", {"right effusion": A, "left effusion": A, "cardiomegaly": P}),
    ("Nodule without a pneumothorax.", {"nodule": P, "pneumothorax": A}),
    ("Neither a mass nor a nodule is seen.", {"mass": A, "nodule": A}),
    ("No abnormality other than a 6.5 mm nodule in the left upper lobe.", {"nodule": P}),
    ("The mass is larger; no pneumothorax.", {"mass": P, "pneumothorax": A}),
    ("A mass rather than a nodule.", {"mass": P, "nodule": A}),
    ("The heart is not enlarged, a right pleural effusion is present.", {"cardiomegaly": A, "right effusion": P}),
    ("No mass effect.", {}),
    # a comma with a clause of its own after it ends a negation, a list does not
    ("No nodule, mass is present.", {"nodule": A, "mass": P}),
    ("No nodule, mass in the left lung is larger.", {"nodule": A, "mass": P}),
    ("No effusion, heart is enlarged.", {"right effusion": A, "left effusion": A, "cardiomegaly": P}),
    ("No nodule, mass is not seen.", {"nodule": A, "mass": A}),
    ("No nodule or mass.", {"nodule": A, "mass": A}),
    ("No nodule, mass, or pneumothorax.", {"nodule": A, "mass": A, "pneumothorax": A}),
    ("No nodule, mass or pneumothorax is present.", {"nodule": A, "mass": A, "pneumothorax": A}),
    ("No nodule, mass, or pneumothorax is seen.", {"nodule": A, "mass": A, "pneumothorax": A}),
    ("No nodule, mass, pneumothorax is seen.", {"nodule": A, "mass": A, "pneumothorax": U}),
    # what reads like a negation and is none
    ("The nodule was not present before.", {"nodule": P}),
    ("No change in the right pleural effusion.", {"right effusion": P}),
    ("Mass without interval change.", {"mass": P}),
    ("The pneumothorax has not resolved.", {"pneumothorax": P}),
    ("The left pleural effusion has not increased.", {"left effusion": P}),
    ("Not only a nodule but also a mass.", {"nodule": P, "mass": P}),
    ("The pneumothorax has partially resolved.", {"pneumothorax": P}),
    ("The nodule is not calcified.", {"nodule": P}),
    # change, and what is gone
    ("The nodule is no longer seen.", {"nodule": A}),
    ("There is no longer a pneumothorax.", {"pneumothorax": A}),
    ("The mass seen before has resolved.", {"mass": A}),
    ("Resolution of the right pleural effusion.", {"right effusion": A}),
    ("The effusion on the right has resolved and the nodule is stable.", {"right effusion": A, "nodule": P}),
    ("The heart is no longer enlarged.", {"cardiomegaly": A}),
    ("The nodule has decreased since the prior study.", {"nodule": P}),
    ("No new nodule.", {}),
    # doubt
    ("A small pneumothorax cannot be excluded.", {"pneumothorax": U}),
    ("Cannot exclude a nodule in the right lower lobe.", {"nodule": U}),
    ("Possible consolidation in the left lower lobe.", {"lower lobe consolidation": U}),
    ("Opacity suspicious for a mass, no pneumothorax.", {"mass": U, "pneumothorax": A}),
    ("Pleural effusion.", {"right effusion": U, "left effusion": U}),
    # which one is meant
    ("Bilateral pleural effusions.", {"right effusion": P, "left effusion": P}),
    ("Consolidation in the upper and lower lobes.", {"upper lobe consolidation": P, "lower lobe consolidation": P}),
    ("Small right effusion, no left pleural effusion.", {"right effusion": P, "left effusion": A}),
    ("No consolidation.", {"upper lobe consolidation": A, "lower lobe consolidation": A}),
    # not of this study
    ("History of pneumothorax.", {}),
    ("Indication: rule out pneumothorax. Fall yesterday with a rib lesion.", {}),
    ("HISTORY:\nKnown mass.\nFINDINGS: Nodule in the left upper lobe.", {"nodule": P}),
    ("If the nodule grows, biopsy.", {}),
    ("", {}),
    # lines that are wrapped, and lists
    ("FINDINGS: No pneumothorax,\nmass, or nodule.", {"pneumothorax": A, "mass": A, "nodule": A}),
    ("History: smoker, known\nmass. Rule out nodule.\nFindings: no mass.", {"mass": A}),
    ("HISTORY: cough.\n\nThe heart is enlarged.", {"cardiomegaly": P}),
    ("- No mass\n- Nodule\n1.No effusion 2.Cardiomegaly",
     {"mass": A, "nodule": P, "right effusion": A, "left effusion": A, "cardiomegaly": P}),
    ("No nodule\nMass in the left lung", {"nodule": A, "mass": U}),
    # forms
    ("Pneumothorax: none.", {"pneumothorax": A}),
    ("Pneumothorax: no.", {"pneumothorax": A}),
    ("Nodule: absent.", {"nodule": A}),
    ("Nodules: 2 in the right lung.", {"nodule": P}),
    ("Mass: see below.", {"mass": U}),
    ("Pneumothorax: no pneumothorax.", {"pneumothorax": A}),
    ("Pleural effusions: none on the left, small on the right.", {"left effusion": A, "right effusion": P}),
    # further ways to say that there is none
    ("There isn't a pneumothorax.", {"pneumothorax": A}),
    ("There aren't any nodules, and a mass isn’t seen.", {"nodule": A, "mass": A}),
    ("Doesn't show nodules.", {"nodule": A}),
    ("The nodule cannot be seen.", {"nodule": A}),
    ("The nodule can no longer be identified.", {"nodule": A}),
    ("Fails to show a nodule.", {"nodule": A}),
    ("Pneumothorax free.", {"pneumothorax": A}),
    ("Pneumothorax has not recurred.", {"pneumothorax": A}),
    ("The nodule, 5 mm before, has resolved.", {"nodule": A}),
    ("The nodule, which was seen before, has resolved.", {"nodule": A}),
    ("Pneumothorax, resolved.", {"pneumothorax": A}),
    ("The nodule is not well seen today.", {"nodule": U}),
    ("No evidence of growth of the nodule.", {"nodule": U}),
    ("No pneumothorax after biopsy of a lung mass.", {"pneumothorax": A, "mass": U}),
    ("Hilar nodes are normal.", {"hilar adenopathy": A}),
    # a part says what it says of its own finding, or of the list that it ends
    ("Nodule unchanged, mass resolved.", {"nodule": P, "mass": A}),
    ("Mass resolved, nodule unchanged.", {"nodule": P, "mass": A}),
    ("Nodule, mass and effusion on the left have resolved.", {"nodule": A, "mass": A, "left effusion": A}),
    ("Nodule, mass resolved.", {"nodule": U, "mass": A}),
    ("No pneumothorax, small nodule, or mass.", {"pneumothorax": A, "nodule": U, "mass": U}),
    ("No pneumothorax, nodule unchanged.", {"pneumothorax": A, "nodule": P}),
    ("There is a mass with otherwise normal lungs.", {"mass": P}),
    ("A nodule in the otherwise normal right lung.", {"nodule": P}),
    ("No calcification in the nodule.", {"nodule": U}),
    # what else reads like a negation
    ("There is no doubt that a nodule is present.", {"nodule": P}),
    ("No fewer than three nodules.", {"nodule": P}),
    ("There is not just a nodule but a mass.", {"nodule": P, "mass": P}),
    ("A nodule not present in 2019.", {"nodule": P}),
    ("Non-contrast CT without IV contrast shows a nodule.", {"nodule": P}),
    ("No prior study shows this nodule.", {"nodule": P}),
    # what the doubt is of
    ("No suspicious nodule.", {"nodule": A}),
    ("No evidence suggesting pneumothorax.", {"pneumothorax": A}),
    ("Large right pleural effusion with possible atelectasis.", {"right effusion": P}),
    ("A nodule, likely benign.", {"nodule": P}),
    ("A pneumothorax is possible, the mass may be a vessel.", {"pneumothorax": U, "mass": U}),
    ("The mass has been resected.", {"mass": U}),
    ("There is a low probability of pneumothorax.", {"pneumothorax": U}),
    ("A skin fold mimics a pneumothorax.", {"pneumothorax": U}),
    ("Zero nodules.", {"nodule": A}),
    ("0 nodules are seen.", {"nodule": A}),
    ("Non-nodular opacities.", {"nodule": A}),
    ("Father had a nodule.", {}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "states"), SENTENCES, ids=[text[:40] for text, _ in SENTENCES])
def test_what_a_sentence_says(text, states):
    assert summarise(text).states == states


def test_a_finding_outweighs_what_denies_it_elsewhere():
    found = summarise("No nodule in the right lung. A nodule is seen in the left upper lobe.")
    assert found.present == ("nodule",) and found.text == "There is lung nodule."
    assert [line.mentions[0].state for line in found.lines] == [ABSENT, PRESENT]


def test_other_findings_are_known_by_their_words():
    terms = vocabulary(["rib_fracture", "Tuberculosis", "nodule"])
    found = summarise("Old fractures of two ribs. No tuberculosis. Nodules.", terms)
    assert found.states == {"rib_fracture": P, "Tuberculosis": A, "nodule": P}
    assert found.sentences == ["There is rib fracture.", "There is lung nodule."]


def test_a_class_may_be_the_absence_of_another():
    terms = vocabulary(["no tumor", "tumor", "normal", "+"])
    assert summarise("No tumor is seen.", terms).states == {"no tumor": P, "tumor": A}
    assert summarise("There is no tumor on the left. A tumor is seen.", terms).present == ("tumor",)
    assert summarise("A tumor cannot be excluded. Normal heart.", terms).states == {
        "no tumor": U,
        "tumor": U,
        "normal": P,
    }
    with pytest.raises(NearlError):
        vocabulary(["", "tumor"])


HOSTILE = ("reliably ", "nodule cannot reliably ", "no nodule, ", "nodule no the mass ", " ", "\n", "mass and ", "1")


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_text_is_read_to_its_end(unit):
    for count in (5000, 800 // len(unit)):  # also as long as a sentence may be for the rules to read it
        states = summarise("nodule cannot " + unit * count, vocabulary(["nodule", "mass", "no tumor"])).states
        assert set(states) <= {"nodule", "mass"}
    assert summarise("No mass or " + "very " * 500 + "large nodule.").states == {"nodule": U, "mass": U}, "not present"
