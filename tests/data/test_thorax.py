"""The 3-D phantom: repeatable, findings independent, each in its mask, and reports that agree with what is drawn."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from nearl.data.phantoms.thorax.findings import FINDINGS, NAMES
from nearl.data.phantoms.thorax.report import HEAD
from nearl.data.phantoms.thorax.study import Study, drawn, make_scan, make_study
from nearl.errors import NearlError

SIZE = 64


@lru_cache(maxsize=8)
def healthy(seed: int):
    return make_scan(seed, (), SIZE)


@lru_cache(maxsize=1)
def studies() -> list[Study]:
    return [make_study(seed, size=SIZE, rates=dict.fromkeys(NAMES, 0.5)) for seed in range(3)]


def test_the_same_seed_gives_the_same_study_and_another_seed_another():
    one, again, other = make_study(3, size=SIZE), make_study(3, size=SIZE), make_study(4, size=SIZE)
    assert np.array_equal(one.current.volume, again.current.volume)
    assert np.array_equal(one.prior.volume, again.prior.volume)
    assert one.report == again.report and one.findings == again.findings and one.changes == again.changes
    assert all(np.array_equal(one.current.project(v), again.current.project(v)) for v in ("frontal", "lateral"))
    assert not np.array_equal(one.current.volume, other.current.volume) and one.report != other.report
    assert not np.array_equal(one.current.volume, one.prior.volume), "two scans have noise of their own"


def test_values_are_those_of_a_ct_and_radiographs_have_contrast():
    volume = healthy(0).volume
    assert volume.dtype == np.int16 and volume.shape == (SIZE,) * 3
    air, tissue, bone = (volume < -900).mean(), ((volume > 0) & (volume < 90)).mean(), (volume > 250).mean()
    lung = ((volume > -900) & (volume < -650)).mean()
    assert 0.2 < air < 0.7 and 0.1 < tissue < 0.5 and 0.002 < bone < 0.05 and 0.03 < lung < 0.3
    for view in ("frontal", "lateral"):
        image = healthy(0).project(view, 96)
        assert image.shape == (96, 96) and image.dtype == np.uint8 and image.std() > 30
    noise = make_scan(0, (), SIZE).volume[:5, :5, :5].std()  # outside the body
    assert 5 < noise < 40


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_lies_where_its_finding_changes_the_density_and_nothing_else_changes(name):
    scan = make_scan(1, [name], SIZE)
    mask = scan.masks[name]
    change = scan.volume.astype(int) - healthy(1).volume
    assert mask.any() and mask.mean() < 0.08
    inside = change[mask].mean()
    assert (inside > 80) == FINDINGS[name].denser and abs(inside) > 60
    assert abs(inside) > 20 * abs(change[~mask].mean())
    grown = mask
    for axis in range(3):  # soft borders reach a few voxels farther
        grown = grown | sum(np.roll(grown, step, axis) for step in (-3, -2, -1, 1, 2, 3)).astype(bool)
    assert np.abs(change[~grown]).mean() < 1


def test_findings_are_independent_of_each_other():
    table = np.array([[name in drawn(seed) for name in NAMES] for seed in range(600)])
    assert np.all(np.abs(table.mean(0) - 0.3) < 0.08)
    correlation = np.corrcoef(table.T) - np.eye(len(NAMES))
    assert np.abs(correlation).max() < 0.18
    rare = np.array([drawn(seed, {"mass": 0.02}) for seed in range(300)], dtype=object)
    assert sum("mass" in found for found in rare) < 20
    with_others = make_scan(1, ["nodule", "cardiomegaly", "left effusion"], SIZE)
    alone = make_scan(1, ["nodule"], SIZE)
    assert with_others.words["nodule"] == alone.words["nodule"], "others do not move it"


def test_a_report_agrees_with_what_is_drawn():
    kinds = set()
    for study in studies():
        said = {}
        for sentence in study.report.sentences:
            kinds.add(sentence.kind)
            said.setdefault(sentence.finding, set()).add(sentence.kind)
        for name, present in study.findings.items():
            assert ("present" in said.get(name, ())) == present
            assert not (present and "negated" in said.get(name, ()))
            assert set(study.current.masks) == {n for n, there in study.findings.items() if there}
            words = study.current.words.get(name, {})
            text = " ".join(s.text for s in study.report.sentences if s.finding == name and s.kind == "present")
            assert words.get("side", "") in text and (words.get("place") or "") in text
        text = study.report.text
        assert text.startswith(HEAD) and "Impression:" in text and "{" not in text
    assert kinds == {"present", "negated", "change", "normal", "about"}


def test_a_prior_agrees_with_its_change_sentences():
    seen = set()
    for study in studies():
        for name, change in study.changes.items():
            now, before = (np.count_nonzero(s.masks.get(name, ())) for s in (study.current, study.prior))
            said = [s.text for s in study.report.sentences if s.finding == name and s.kind == "change"]
            assert len(said) == bool(change) and (not change or "{" not in said[0])
            assert (name in study.prior.masks) == (change in ("larger", "smaller", "unchanged", "resolved"))
            assert study.findings[name] == (change in ("new", "larger", "smaller", "unchanged"))
            alone = len(set(study.findings) & set(study.current.masks)) == 1
            if alone and change == "larger":
                assert now > before
            seen.add(change)
    assert {"new", "larger", "smaller", "unchanged"} <= seen
    for name in ("nodule", "right effusion"):
        small, same, large = (np.count_nonzero(make_scan(5, {name: g}, SIZE).masks[name]) for g in (0.62, 1.0, 1.4))
        assert small < same < large
    without = make_study(2, ["mass"], SIZE, prior=False)
    assert without.prior is None and not any(without.changes.values())
    assert not any(s.kind == "change" for s in without.report.sentences)


def test_bad_arguments():
    for arguments in ((0, ["dragon"]), (-1, []), (0, [], 32), (0, [], 400)):
        with pytest.raises(NearlError):
            make_scan(*arguments)
    with pytest.raises(NearlError):
        make_study(0, ["dragon"], SIZE)
    with pytest.raises(NearlError):
        drawn(0, {"dragon": 0.5})
    with pytest.raises(NearlError):
        healthy(0).project("oblique")
