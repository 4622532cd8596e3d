"""Metrics against values worked out by hand."""

import numpy as np
import pytest

from nearl.evaluate import evaluate


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
