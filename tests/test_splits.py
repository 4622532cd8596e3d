"""Support draws and hold-outs: seeded, stratified, nested, and the same on every machine."""

from __future__ import annotations

import pytest

from nearl.data.splits import draw_support, hold_out
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
