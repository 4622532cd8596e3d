"""Trust at prediction: a known miscalibration is undone, promised coverage holds, and what cannot be is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from nearl.data.splits import FEW_HELD
from nearl.errors import NearlError
from nearl.prompts import default_prompts
from nearl.reading.trust import COVERAGES, Trust, fewest, fit_temperature, fit_trust, threshold

PROMPTS = default_prompts(["glioma", "meningioma", "normal"])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def drawn(rng, n, spread=2.0, temperature=1.0, classes=3):
    """Shares and labels: the labels follow softmax(z), the model says softmax(z * temperature)."""
    z = rng.normal(size=(n, classes)) * spread
    labels = (softmax(z).cumsum(1) < rng.random((n, 1))).sum(1)
    return softmax(z * temperature).astype(np.float32), labels


def support(rng, n=12, width=8):
    labels = np.arange(n) % 3
    return unit(np.eye(width)[labels] + rng.normal(size=(n, width)) * 0.1), labels


def fitted(held=40, folds=False, seed=0):
    rng = np.random.default_rng(seed)
    shares, labels = drawn(rng, held)
    return fit_trust(PROMPTS.digest, shares, labels, *support(rng), support(rng, held)[0], folds)


@pytest.mark.parametrize("true", (0.4, 1.0, 3.0))
def test_temperature_recovers_a_known_miscalibration(true):
    shares, labels = drawn(np.random.default_rng(0), 4000, temperature=true)
    assert fit_temperature(shares, labels) == pytest.approx(true, rel=0.1)


def test_calibrated_shares_sum_to_one_and_keep_the_order():
    trust, (shares, _) = fitted(), drawn(np.random.default_rng(1), 50)
    calibrated = trust.calibrate(shares)
    assert calibrated.dtype == np.float32
    np.testing.assert_allclose(calibrated.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(calibrated.argsort(1), shares.argsort(1))


def test_a_few_images_that_are_all_right_do_not_call_for_certainty():
    labels = np.arange(20) % 2
    shares = np.where(np.eye(2)[labels] > 0, 0.8, 0.2)
    temperature = fit_temperature(shares, labels)
    certain = Trust(PROMPTS.digest, temperature, {}, [[1.0]], None, {}).calibrate(shares).max()
    assert 0.8 < certain < 1 - 1 / 40
    zero = fit_temperature(np.eye(2)[labels], labels)  # shares of exactly 0 and 1 are no accident to the fit
    assert np.isfinite(zero)


def test_coverage_holds_at_the_promised_rate():
    """Over many draws of exchangeable data: at least c, and no more than c + 1 / (M + 1) for the bare threshold."""
    rng = np.random.default_rng(0)
    for coverage, m in (("0.8", 4), ("0.9", 9), ("0.9", 33), ("0.95", 60)):
        covered, bare, rounds, fresh = 0, 0, 600, 50
        for _ in range(rounds):
            shares, labels = drawn(rng, m + fresh)
            scores = 1 - shares[np.arange(len(labels)), labels].astype(np.float64)
            limit = threshold(scores[:m], coverage)
            bare += (scores[m:] <= limit).sum()
            trust = Trust("", None, {coverage: limit}, [[1.0]], None, {})
            covered += sum(y in found for y, found in zip(labels[m:], trust.sets(shares[m:], coverage), strict=True))
        slack = 3.5 * np.sqrt(0.25 / (rounds * (m + 2)))  # of the mean over calibration sets
        assert covered / (rounds * fresh) >= float(coverage) - slack
        assert float(coverage) - slack <= bare / (rounds * fresh) <= float(coverage) + 1 / (m + 1) + slack


def test_no_coverage_is_promised_on_images_that_are_called_few():
    assert all(fewest(c) >= max(FEW_HELD, float(c) / (1 - float(c)) - 1e-9) for c in (*COVERAGES, "0.98"))
    shares, embeddings = np.full((1, 3), 1 / 3, np.float32), np.eye(8)[:1]
    for held in (4, 6, FEW_HELD - 1):
        trust = fitted(held)
        _, said = trust.read(shares, embeddings, PROMPTS)
        assert trust.conformal == {} and said["sets"] is None and said["coverage"] is None
        assert sum("ruled out" in note and f"only {held}" in note for note in said["notes"]) == 1
        with pytest.raises(KeyError):
            trust.sets(shares, "0.9")
        earlier = replace(trust, conformal={"0.8": 0.5}, refused={"0.9": "9 images", "temperature": "20 images"})
        _, said = earlier.read(shares, embeddings, PROMPTS)  # an adapter that promised on few
        assert said["sets"] is None and said["notes"][0] == "20 images" and "ruled out" in said["notes"][1]
    assert all("there was only one" in fitted(1).refused[key] for key in ("temperature", "conformal"))
    assert set(fitted(FEW_HELD).conformal) == set(COVERAGES)


def test_folds_may_calibrate_but_promise_no_sets():
    trust = fitted(40, folds=True)
    assert trust.temperature is not None and not trust.conformal and "other models" in trust.refused["conformal"]
    _, said = trust.read(np.full((1, 3), 1 / 3, np.float32), np.eye(8)[:1], PROMPTS)
    assert said["calibrated"] and said["sets"] is None and "taught on parts" in said["notes"][0]


def test_nothing_kept_aside():
    trust = fit_trust(PROMPTS.digest, None, None, *support(np.random.default_rng(0), 24))
    assert trust.temperature is None and not trust.conformal and {"temperature", "conformal"} <= set(trust.refused)
    assert trust.far is not None  # from the images taught with, each left out once
    shares = np.array([[0.2, 0.5, 0.3]], dtype=np.float32)
    kept, said = trust.read(shares, np.eye(8)[:1], PROMPTS)
    assert kept is shares and not said["calibrated"] and said["sets"] is None and len(said["notes"]) == 2


def test_the_likeliest_class_is_always_in_its_set_and_sets_grow_with_coverage():
    trust, (shares, _) = fitted(60), drawn(np.random.default_rng(3), 80)
    small, large = trust.sets(shares, "0.8"), trust.sets(shares, "0.95")
    for p, a, b in zip(shares, small, large, strict=True):
        assert a[0] == p.argmax() and set(a) <= set(b)
        assert list(p[b]) == sorted(p[b], reverse=True)


def test_unlike_images_are_told_and_those_of_the_same_kind_are_not():
    rng = np.random.default_rng(0)
    for held in (support(rng, 200)[0], None):
        trust = fit_trust(PROMPTS.digest, None, None, *support(rng, 60), held)
        same = trust.unlike(support(rng, 600)[0])
        assert same.mean() < 0.12  # 5 % on average; the threshold itself is drawn
        assert trust.unlike(-support(rng, 20)[0]).all() and trust.unlike(np.eye(8)[5:]).all()
    both = fit_trust(PROMPTS.digest, None, None, *support(rng, 15), support(rng, 6)[0])
    assert both.far is not None  # neither would be enough alone
    lonely = fit_trust(PROMPTS.digest, None, None, np.eye(8)[:3], np.arange(3))
    assert lonely.far is None and "far" in lonely.refused and not lonely.unlike(-np.eye(8)).any()


def test_ordinary_images_are_called_unlike_as_rarely_as_promised():
    rng, wrong = np.random.default_rng(0), []
    for _ in range(200):
        trust = fit_trust(PROMPTS.digest, None, None, *support(rng, 30), support(rng, 19)[0])
        wrong.append(trust.unlike(support(rng, 30)[0]).mean())
    assert np.mean(wrong) < 0.05 + 3.5 * np.std(wrong) / 200**0.5


def test_edited_prompts_void_all_but_the_comparison_of_images():
    trust, (shares, _) = fitted(), drawn(np.random.default_rng(1), 5)
    embeddings = support(np.random.default_rng(2), 5)[0]
    kept, said = trust.read(shares, embeddings, default_prompts(["glioma", "meningioma", "healthy"]))
    assert kept is shares and not said["calibrated"] and said["sets"] is None and said["coverage"] is None
    assert said["unlike"] == trust.unlike(embeddings).tolist() and "edited" in said["notes"][0]
    _, said = trust.read(shares, embeddings, PROMPTS)
    assert said["calibrated"] and said["coverage"] == 0.9 and said["notes"] == []
    assert all(set(names) <= set(PROMPTS.classes) for names in said["sets"])


def test_it_survives_json():
    for trust in (fitted(), fitted(5), fitted(30, folds=True)):
        assert Trust.from_dict(json.loads(json.dumps(trust.to_dict(), allow_nan=False))) == trust


def test_hostile_content_is_refused_in_a_sentence():
    good = fitted().to_dict()
    changes = [
        {"temperature": float("nan")}, {"temperature": 0}, {"temperature": -1}, {"temperature": "1"},
        {"temperature": True}, {"temperature": 10**400}, {"far": float("inf")}, {"far": [0.1]}, {"folds": 1},
        {"prompts": 3}, {"prompts": "x" * 10**6}, {"conformal": [0.1]}, {"conformal": {"0.9": None}},
        {"conformal": {"2": 0.1}}, {"conformal": {"0.9": 1e9}}, {"centroids": []}, {"centroids": [[]]},
        {"centroids": [[0.1], [0.1, 0.2]]}, {"centroids": [["a"]]}, {"centroids": [[float("nan")] * 8]},
        {"centroids": "abc"}, {"centroids": [[0.0] * 10_000]}, {"centroids": [[0.0]] * 300}, {"centroids": [0.1]},
        {"refused": {"far": 3}}, {"refused": {"far": "x" * 5000}}, {"refused": {str(i): "" for i in range(50)}},
        {"refused": ["far"]}, {"extra": 1},
    ]  # fmt: skip
    for content in [good | change for change in changes] + [{}, [], None, "trust", 3, {"prompts": ""}]:
        with pytest.raises(NearlError, match=r"how far to trust it cannot be used"):
            Trust.from_dict(content)
