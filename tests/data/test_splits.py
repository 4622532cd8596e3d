"""Support draws and hold-outs: seeded, stratified, nested, and the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest

from nearl.data.splits import draw_support, groups_from_names, hold_out, joined, plan
from nearl.errors import NearlError

LABELS = [0, 1, 2] * 20 + [1] * 15 + [2]


def per_class(indices):
    return [sum(LABELS[i] == label for i in indices) for label in (0, 1, 2)]


def test_support_is_balanced_sorted_and_seeded():
    support = draw_support(LABELS, 16, 0)
    assert support == sorted(set(support)) and per_class(support) == [16, 16, 16]
    assert support == draw_support(LABELS, 16, 0) != draw_support(LABELS, 16, 1)
    assert per_class(draw_support(LABELS, 30, 0)) == [20, 30, 21]


def test_the_draw_never_changes():
    assert draw_support([0] * 10 + [1] * 10, 3, 0) == [1, 2, 3, 14, 15, 17]


def test_fewer_shots_are_among_more_shots_and_classes_do_not_disturb_each_other():
    assert set(draw_support(LABELS, 4, 7)) < set(draw_support(LABELS, 8, 7))
    only_zero = [label if label == 0 else 9 for label in LABELS]
    assert [i for i in draw_support(LABELS, 5, 7) if LABELS[i] == 0] == [
        i for i in draw_support(only_zero, 5, 7) if LABELS[i] == 0
    ]


def test_hold_out_is_stratified_and_complete():
    support, held = hold_out(LABELS, 0.2, 3)
    assert sorted(support + held) == list(range(len(LABELS)))
    assert per_class(held) == [4, 7, 4]
    assert hold_out(LABELS, 0.2, 3) == (support, held) != hold_out(LABELS, 0.2, 4)


def test_every_class_keeps_an_image_to_learn_from():
    support, held = hold_out([0, 1, 1, 2, 2, 2], 0.9, 0)
    assert [sum(label == k for label in ([0, 1, 1, 2, 2, 2][i] for i in support)) for k in (0, 1, 2)] == [1, 1, 1]
    assert len(held) == 3
    assert len(hold_out([0, 0, 1, 1], 0.1, 0)[1]) == 2
    assert hold_out([0, 0, 1, 1], 0, 0) == ([0, 1, 2, 3], [])


def test_bad_arguments():
    for call in (
        lambda: draw_support(LABELS, 0, 0),
        lambda: draw_support(LABELS, 1, -1),
        lambda: hold_out(LABELS, 1.0, 0),
        lambda: hold_out(LABELS, -0.1, 0),
    ):
        with pytest.raises(NearlError):
            call()
    assert draw_support([], 3, 0) == []


# ---- the plan of what measures ------------------------------------------------------------------------------------


def sound(split, labels, groups, duplicates):
    """Every image is used, the parts never meet, and neither do a patient's images nor copies."""
    everything = set(range(len(labels)))
    parts = split.folds or [(split.support, split.held)]
    for support, held in parts:
        assert set(support) | set(held) == everything and not set(support) & set(held)
        assert support == sorted(support) and held == sorted(held)
        if split.kind in ("held-out", "folds"):
            assert {labels[i] for i in support} == set(labels)
            together = [[i for i in everything if groups and groups[i] == group] for group in set(groups or ()) - {""}]
            assert all(len({i in held for i in group}) == 1 for group in [*together, *duplicates] if group)
    if split.kind == "folds":
        assert sorted(i for _, held in split.folds for i in held) == sorted(everything)
        assert not split.held and set(split.support) == everything
    assert split.words.endswith(".") and split.words.count(". ") == 0
    return split


def test_alone_the_held_part_is_the_one_that_hold_out_draws():
    for seed in range(4):
        split = sound(plan(LABELS, 0.25, seed), LABELS, None, [])
        assert split.kind == "held-out" and (split.support, split.held) == hold_out(LABELS, 0.25, seed)
    assert f"{len(split.held)} of {len(LABELS)} images" in split.words


@pytest.mark.parametrize(
    ("smallest", "kind", "folds"),
    [(1, "none", 0), (2, "none", 0), (3, "folds", 3), (4, "held-out", 0), (16, "held-out", 0)],
)
def test_small_sets(smallest, kind, folds):
    labels = [0] * smallest + [1] * 12 + [5] * 9
    split = sound(plan(labels), labels, None, [])
    assert split.kind == kind and len(split.folds) == folds
    if kind == "held-out":
        assert all(sum(labels[i] == k for i in split.held) >= 2 for k in (0, 1, 5))


def test_four_images_that_are_copies_are_fewer():
    labels = [0] * 4 + [1] * 12
    assert plan(labels, duplicates=[(0, 1)]).kind == "held-out"
    assert plan(labels, duplicates=[(0, 1, 2)]).kind == "none"


def test_separate_test_images():
    split = plan([0, 0, 1, 1], given=30, leaked=[1])
    assert (split.kind, split.support, split.held, split.folds) == ("given", [0, 2, 3], [], [])
    assert "30 separate test images" in split.words and "1 of the images" in split.words
    assert plan([0, 0, 1, 1], given=30).support == [0, 1, 2, 3]


def test_nothing_is_held_if_nothing_is_asked_for():
    split = plan(LABELS, 0)
    assert split.kind == "none" and split.held == [] and "Nothing is kept aside" in split.words


def test_random_patients_and_copies_are_never_on_both_sides():
    rng = np.random.default_rng(0)
    kinds = set()
    for trial in range(300):
        count = int(rng.integers(2, 70))
        labels = rng.integers(0, rng.integers(1, 5), count).tolist()
        patients = int(rng.integers(1, count + 1))
        groups = [f"p{number}" if number else "" for number in rng.integers(0, patients, count)]
        groups = groups if trial % 3 else None
        duplicates = [tuple(rng.integers(0, count, 2).tolist()) for _ in range(int(rng.integers(0, 4)))]
        split = plan(labels, float(rng.uniform(0.05, 0.9)), trial, groups, duplicates)
        kinds.add(sound(split, labels, groups, duplicates).kind)
        if split.kind == "held-out":
            for label in set(labels):
                assert sum(labels[i] == label for i in split.held) >= 2
                assert sum(labels[i] == label for i in split.support) >= 2
    assert kinds == {"held-out", "folds", "none"}


def test_whole_patients_are_held_in_about_the_share_asked_for():
    labels = [i % 3 for i in range(120)]
    groups = [f"{i // 6}" for i in range(120)]
    split = sound(plan(labels, 0.25, 1, groups), labels, groups, [])
    assert 24 <= len(split.held) <= 36 and "no patient" in split.words


def test_groups_from_names():
    names = ["PAT_12_3.png", "PAT_7_1.png", "other.png"]
    assert groups_from_names(names, r"PAT_(\d+)_") == ["12", "7", ""]
    assert groups_from_names(names, "_") == ["PAT", "PAT", ""]
    assert groups_from_names(["a-1.png", "b-2.png"], "-") == ["a", "b"]


def test_joined():
    assert joined(7, [(0, 1), (3, 4), (1, 5), (6,)]) == [(0, 1, 5), (3, 4)]
