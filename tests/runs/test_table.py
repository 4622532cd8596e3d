"""Rows of a run as one line for each method, and the difference of two methods."""

from types import SimpleNamespace

import numpy as np
import pytest

from nearl.runs import difference, scores


def row(method, seed, value, said=(0, 1), n=40):
    figures = {"n": n, "balanced_accuracy": value, "balanced_accuracy_interval": [value - 0.1, value + 0.1]}
    costs = {"fit_seconds": 1.0, "predict_ms": 2.0, "parameters": 3, "taught": 4}
    return {"method": method, "seed": seed, "metrics": {**figures, "auroc": 0.5, "ece": None}, "said": said, **costs}


def test_one_seed_has_the_images_interval_and_several_their_own():
    job = SimpleNamespace(methods=["zero-shot", "nearl"])
    zero, ours = scores(job, [row("zero-shot", 0, 0.5), *(row("nearl", s, v) for s, v in enumerate((0.4, 0.6, 0.8)))])
    assert zero["interval"] == pytest.approx([0.4, 0.6]) and ours["done"] == 3
    assert ours["balanced_accuracy"] == pytest.approx(0.6)
    assert ours["interval"] == pytest.approx([0.1032, 1.0], abs=1e-3)
    (alike,) = scores(SimpleNamespace(methods=["nearl"]), [row("nearl", s, 0.7) for s in range(3)])
    assert alike["interval"] is None


def test_the_drop_on_another_source_is_over_images_or_over_seeds():
    job = SimpleNamespace(methods=["nearl"])
    there = lambda seed, here, value: row("nearl", seed, here) | {"there": row("nearl", seed, value)["metrics"]}  # noqa: E731
    (one,) = scores(job, [there(0, 0.8, 0.6)])
    assert one["there"] == pytest.approx(0.6) and one["drop"]["value"] == pytest.approx(0.2)
    assert one["drop"]["interval"] == pytest.approx([0.2 - 0.02**0.5, 0.2 + 0.02**0.5])
    (several,) = scores(job, [there(0, 0.8, 0.6), there(1, 0.8, 0.5), there(2, 0.8, 0.7)])
    assert several["drop"]["value"] == pytest.approx(0.2)
    assert several["drop"]["interval"] == pytest.approx([0.2 - 0.2484, 0.2 + 0.2484], abs=1e-3)
    assert "drop" not in scores(job, [row("nearl", 0, 0.8)])[0]


def test_that_the_model_learned_from_such_images_is_known_of_each_method():
    job = SimpleNamespace(methods=["zero-shot", "nearl"])
    rows = [row("zero-shot", 0, 0.5) | {"pretrained": True}, row("nearl", 0, 0.5)]
    assert [line["pretrained"] for line in scores(job, rows)] == [True, False]


def test_a_failure_is_a_line_with_its_sentence():
    job = SimpleNamespace(methods=["lora", "nearl"])
    failed, open_ = scores(job, [{"method": "lora", "seed": 0, "error": "LoRA needs the package 'peft'."}])
    assert failed["error"] == "LoRA needs the package 'peft'." and not failed["done"]
    assert not open_["error"] and not open_["done"]


def test_a_difference_is_of_the_same_images():
    held = list(range(40))
    job = SimpleNamespace(
        classes=["a", "b"], labels=[0, 1] * 20, held=held, split=SimpleNamespace(kind="held-out")
    )  # fmt: skip
    right, half = np.array([0, 1] * 20), np.array([0, 0] * 20)
    gain = difference(job, [row("nearl", 0, 1.0, right), row("x", 0, 0.5, half)], "nearl", "x")
    assert gain["value"] == pytest.approx(0.5) and gain["interval"][0] > 0.3
    assert difference(job, [row("nearl", 0, 1.0, right)], "nearl", "x") is None
    both = [row(m, s, v) for m, v in (("nearl", 0.8), ("x", 0.7)) for s in range(3)]
    assert difference(job, both, "nearl", "x")["value"] == pytest.approx(0.1)
