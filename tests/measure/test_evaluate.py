"""Figures against values worked out by hand, intervals against scipy and repeated samples."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from nearl.data.splits import FEW_OF_CLASS
from nearl.errors import NearlError
from nearl.measure import intervals
from nearl.measure.evaluate import evaluate, mistakes, rows, study
from nearl.measure.intervals import wilson


def test_by_hand():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.8, 0.2]])
    result = evaluate(p, np.array([0, 0, 0, 1]))
    assert result["n"] == 4 and result["accuracy"] == 0.5
    assert result["balanced_accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    assert result["auroc"] == pytest.approx(1 / 3)  # the one positive (0.2) beats 1 of 3 negatives
    # four bins with one image each: |1 - .9| + |1 - .6| + |0 - .6| + |0 - .8|, over 4 (0.6 falls into one bin twice)
    assert result["ece"] == pytest.approx((0.1 + 2 * abs(0.5 - 0.6) + 0.8) / 4)


def test_perfect_and_chance():
    labels = np.repeat([0, 1, 2], 20)
    perfect = evaluate(np.eye(3)[labels], labels)
    assert perfect["balanced_accuracy"] == perfect["auroc"] == 1 and perfect["ece"] == 0
    low, high = perfect["balanced_accuracy_interval"]
    assert 0.9 < low < 0.99 and high == 1  # twenty of twenty is not certainty
    constant = evaluate(np.tile([0.5, 0.3, 0.2], (60, 1)), labels)
    assert constant["balanced_accuracy"] == pytest.approx(1 / 3) and constant["auroc"] == 0.5


def test_interval_holds_the_estimate_and_narrows_with_more_images():
    rng = np.random.default_rng(0)
    widths = []
    for n in (20, 2000):
        labels = np.arange(n) % 2
        p1 = np.where(rng.random(n) < 0.8, labels, 1 - labels) * 0.6 + 0.2
        result = evaluate(np.stack([1 - p1, p1], 1), labels)
        low, high = result["balanced_accuracy_interval"]
        assert low <= result["balanced_accuracy"] <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 4


def test_a_class_without_images_gives_no_auroc():
    assert evaluate(np.full((4, 3), 1 / 3), np.array([0, 0, 1, 1]))["auroc"] is None


def simulated(rng, per_class, classes=3, strength=1.5, temperature=1.0):
    labels = np.repeat(np.arange(classes), per_class)
    z = rng.normal(size=(len(labels), classes))
    z[np.arange(len(labels)), labels] += strength
    p = np.exp(z * temperature)
    return p / p.sum(1, keepdims=True), labels


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 7), (7, 7), (3, 8), (49, 50), (500, 1000)])
def test_wilson_is_scipys(right, n):
    theirs = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right, n) == pytest.approx([theirs.low, theirs.high], abs=1e-9)


def test_auroc_interval_covers_the_truth_and_never_shrinks_to_a_point():
    """Over repeated samples at least nine in ten intervals hold the value of a very large sample, also close to 1."""
    rng = np.random.default_rng(0)
    for classes, per_class, strength in ((2, 6, 1.0), (2, 15, 3.0), (4, 6, 2.0)):
        truth = evaluate(*simulated(rng, 2000, classes, strength), draws=2)["auroc"]
        hits = 0
        for _ in range(60):
            result = evaluate(*simulated(rng, per_class, classes, strength), draws=2)
            low, high = result["auroc_interval"]
            assert 0 <= low < high <= 1 and low <= result["auroc"] <= high
            hits += low <= truth <= high
        assert hits >= 54
    low, high = intervals.auroc(1.0, [5, 5])
    assert 0.6 < low < 0.8 and high == 1
    low, high = intervals.auroc(0.0, [5, 5])
    assert low == 0 and 0.2 < high < 0.4
    low, high = intervals.auroc(0.5, [20, 20])
    assert low + high == pytest.approx(1) and high - low == pytest.approx(
        3.92 * (41 / 4800) ** 0.5, rel=0.1
    )  # Mann-Whitney


def test_mean_and_paired_intervals_cover_the_truth():
    """The balanced accuracy and its gain, over repeated draws: few classes, many classes, shares close to 1."""
    rng = np.random.default_rng(0)
    for classes, n, was, now in ((2, 6, 0.5, 0.8), (3, 14, 0.4, 0.75), (12, 10, 0.85, 0.9)):
        level = gain = 0
        for _ in range(200):
            first, second = rng.random((2, classes, n)) < np.array([was, now])[:, None, None]
            shares = second.mean(1)
            low, high = intervals.of_mean(shares, [wilson(int(k), n) for k in second.sum(1)])
            level += low <= now <= high
            tables = [(a & b, a & ~b, b & ~a, ~a & ~b) for a, b in zip(first, second, strict=True)]
            each = [intervals.paired(*(int(part.sum()) for part in table)) for table in tables]
            low, high = intervals.of_mean(shares - first.mean(1), each)
            gain += low <= now - was <= high
        assert level >= 172 and gain >= 180  # of 190 expected; many classes close to 1 get about 177
    assert intervals.of_mean([0.5], [wilson(5, 10)]) == pytest.approx(wilson(5, 10))
    low, high = intervals.paired(10, 0, 0, 10)
    assert low == pytest.approx(-high) and 0 < high < 0.2  # nothing changed, but it might have
    assert intervals.paired(3, 2, 7, 8) == pytest.approx([-end for end in intervals.paired(3, 7, 2, 8)[::-1]])


def test_calibration_error_interval_reaches_zero_exactly_where_the_shares_may_be_right():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 3)) * 2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    labels = (p.cumsum(1) < rng.random((400, 1))).sum(1)
    for n in (15, 400):
        right = evaluate(p[:n], labels[:n], draws=400)
        assert right["ece_interval"][0] == 0 < right["ece"] <= right["ece_interval"][1]
    bold = p**4 / (p**4).sum(1, keepdims=True)
    low, high = evaluate(bold, labels, draws=400)["ece_interval"]
    assert 0.08 < low < high < 0.4
    assert evaluate(bold, labels, draws=400) == evaluate(bold, labels, draws=400)


def test_recall_confusion_and_reliability_agree_with_each_other():
    p, labels = simulated(np.random.default_rng(1), 11)
    result = evaluate(p, labels, classes=["a", "b", "c"])
    confusion = np.array(result["confusion"])
    for i, row in enumerate(result["recall"]):
        assert row["class"] == "abc"[i] and row["right"] == confusion[i, i] and row["n"] == confusion[i].sum() == 11
        assert row["interval"][0] <= row["recall"] <= row["interval"][1]
    np.testing.assert_array_equal(confusion[0], [(p[:11].argmax(1) == c).sum() for c in range(3)])
    bins = result["reliability"]
    assert len(bins) == 10 and sum(b["n"] for b in bins) == 33
    assert sum((b["right"] or 0) * b["n"] for b in bins) == pytest.approx(np.trace(confusion))
    assert all(b["low"] <= b["confidence"] <= b["high"] for b in bins if b["n"])
    assert bins[0] == {"low": 0, "high": 0.1, "n": 0, "confidence": None, "right": None, "interval": None}
    assert result["recall"][0]["class"] == "a" and evaluate(p, labels)["recall"][2]["class"] == "2"


def test_study_gives_figures_before_and_after_and_says_what_was_gained():
    rng = np.random.default_rng(0)
    before, labels = simulated(rng, 40, strength=0.3)
    after, _ = simulated(rng, 40, strength=3.0)
    result = study(before, after, labels, ["a", "b", "c"], "held-out")
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["n"] == 120 and not result["few"] and result["too_few"] == "" and result["kind"] == "held-out"
    assert result["frozen"]["unsaid"] == {} and result["adapted"]["recall"][0]["unsaid"] == ""
    gain = result["adapted"]["balanced_accuracy"] - result["frozen"]["balanced_accuracy"]
    assert result["gain"]["value"] == pytest.approx(gain)
    low, high = result["gain"]["interval"]
    assert 0.2 < low < gain < high < 0.7
    same = study(before, before, labels, ["a", "b", "c"], "held-out")["gain"]
    assert same["value"] == 0 and same["interval"][0] < 0 < same["interval"][1]
    alone = study(before, None, labels, ["a", "b", "c"], "given")
    assert alone["adapted"] is None and alone["gain"] is None


def test_too_few_to_say_is_said_instead_of_a_number():
    p, labels = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]]), [0, 0, 1, 1]
    result = study(p, p, labels, ["a", "b"], "held-out")
    assert result["few"] and "4 images" in result["too_few"]
    for figures in (result["frozen"], result["adapted"]):
        assert figures["balanced_accuracy"] is None and "anything from" in figures["unsaid"]["balanced_accuracy"]
        assert figures["balanced_accuracy_interval"][1] - figures["balanced_accuracy_interval"][0] > 0.5
        assert [row["recall"] for row in figures["recall"]] == [None, None] and figures["recall"][0]["right"] == 1
    better = study(p, np.eye(2)[labels], labels, ["a", "b"], "held-out")["adapted"]  # all right, which is narrow enough
    assert better["balanced_accuracy"] is None and "anything from" in better["unsaid"]["balanced_accuracy"]
    missing = study(p, None, [0, 0, 0, 0], ["a", "b"], "given")
    assert missing["frozen"]["auroc"] is None and "no image" in missing["frozen"]["unsaid"]["auroc"]
    assert "No image of this class" in missing["frozen"]["recall"][1]["unsaid"]
    nothing = study(np.zeros((0, 2)), np.zeros((0, 2)), [], ["a", "b"], "none")
    assert nothing["n"] == 0 and nothing["frozen"] is nothing["adapted"] is None and "kept aside" in nothing["too_few"]
    enough = study(np.eye(2)[[0, 1] * 8], None, [0, 1] * 8, ["a", "b"], "held-out")
    assert enough["frozen"]["balanced_accuracy"] == 1 and enough["too_few"] == ""


def test_a_class_with_few_images_gets_its_count_alone_however_many_were_right():
    for n, few in ((8, True), (FEW_OF_CLASS - 1, True), (FEW_OF_CLASS, False)):
        for wrong in (0, n // 4, n // 2):
            labels = np.repeat([0, 1], n)
            said = np.concatenate([np.ones(wrong, int), np.zeros(n - wrong, int), np.ones(n, int)])
            rows = study(np.eye(2)[said], None, labels, ["a", "b"], "held-out")["frozen"]["recall"]
            for row in rows:
                low, high = row["interval"]
                assert (row["recall"] is None) == bool(row["unsaid"]) == few
                assert few or high - low <= 0.5
            assert [row["right"] for row in rows] == [n - wrong, n]


def test_rows_and_the_most_confident_mistakes():
    before = np.array([[0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])
    after = np.array([[0.2, 0.8], [0.9, 0.1], [0.05, 0.95]])
    table = rows(before, after, [0, 1, 1], ["a", "b"], ["x.png", "y.png", "z.png"])
    assert table[1] == {
        "index": 1, "file": "y.png", "truth": "b", "before": "b", "before_share": 0.7, "after": "a",
        "after_share": 0.9, "shares_before": {"a": 0.3, "b": 0.7}, "shares_after": {"a": 0.9, "b": 0.1},
    }  # fmt: skip
    assert [row["index"] for row in mistakes(table)] == [1, 0] and len(mistakes(table, most=1)) == 1
    untaught = rows(before, None, [1, 1, 0], ["a", "b"], "xyz")
    assert untaught[0]["after"] is None and [row["index"] for row in mistakes(untaught)] == [2, 0]


def test_shares_that_are_not_numbers_are_no_result():
    with pytest.raises(NearlError, match="not numbers"):
        evaluate(np.array([[np.nan, 1.0]]), np.array([0]))
