"""Measures of faithfulness on cases whose answer is known, and the study from end to end."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from nearl.errors import NearlError
from nearl.explain import Scorer, faithfulness
from nearl.explain.faithfulness import Plan, covered, curve_measures, mean_interval, place_measures, study, table
from nearl.methods import make
from nearl.methods.nearl.method import Nearl
from nearl.reading.classifier import Classifier
from tests.support.reading import PROMPTS


def test_covered_follows_what_the_model_sees():
    mask = np.zeros((40, 80), bool)
    mask[:20, 20:40] = True
    np.testing.assert_allclose(covered(mask, (0, 0, 80, 40), (2, 4)), [[0, 1, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(covered(mask, (20, 0, 60, 40), (2, 2)), [[1, 0], [0, 0]])  # the centre square
    padded = covered(mask, (0, -20, 80, 60), (4, 4))
    np.testing.assert_allclose(padded, [[0] * 4, [0, 1, 0, 0], [0] * 4, [0] * 4])
    np.testing.assert_allclose(covered(mask, (0, 0, 80, 40), (1, 1)), [[0.125]])


def test_place_measures_of_a_perfect_a_blind_and_an_empty_map():
    share = np.zeros((4, 4))
    share[1, 1:3] = [1.0, 0.5]
    assert place_measures(share, share) == {"pointing": 1, "energy": pytest.approx(1.25 / 1.5), "iou": 1}
    away = np.zeros((4, 4))
    away[3] = 1
    assert place_measures(away, share) == {"pointing": 0, "energy": 0, "iou": 0}
    assert place_measures(np.zeros((4, 4)), share) == {"pointing": 0, "energy": 0, "iou": 0}
    negative = place_measures(share - 2, share)  # nothing speaks for the class, yet the peak is there
    assert negative["pointing"] == 1 and negative["energy"] == 0


def test_deletion_and_insertion_reward_the_patches_that_count(tiny, monkeypatch):
    """A made-up model whose first class is as likely as the upper left patch is bright."""
    scorer = Scorer(Classifier(tiny("clip"), PROMPTS))
    monkeypatch.setattr(
        scorer, "logits", lambda x: torch.stack([20 * (x[:, 0, :8, :8].mean((1, 2)) - 0.5), torch.zeros(len(x))], 1)
    )
    pixels = torch.zeros(3, 32, 32)
    pixels[:, :8, :8] = 1
    right = np.zeros((4, 4))
    right[0, 0] = 1
    wrong = 1 - right
    good, bad = curve_measures(scorer, pixels, 0, [right, wrong])
    assert good["deletion"] < 0.2 < bad["deletion"] and good["insertion"] > 0.8 > bad["insertion"]


def test_intervals():
    all_hit = mean_interval([1.0] * 20, yes_no=True)
    assert all_hit["mean"] == 1 and 0.8 < all_hit["interval"][0] < 0.95 and all_hit["interval"][1] == 1
    spread = mean_interval(np.arange(100) / 100)
    assert spread["interval"][0] < spread["mean"] < spread["interval"][1] and spread["n"] == 100


def test_the_study_measures_every_map_and_its_controls(tiny, monkeypatch):
    monkeypatch.setattr(Nearl, "recipe", partial(Nearl.recipe, steps=8))
    made: list[Nearl] = []
    monkeypatch.setattr(faithfulness, "make", lambda *args: made.append(make(*args)) or made[-1])
    names = ["gradcam", "relevance", "occlusion", "novelty"]
    backbone = tiny("clip")
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    result = study(backbone, Plan(["ultrasound", "smear"], images=3, shots=1, curves=2, maps=names))
    json.dumps(result)
    assert {(row["method"], row["which"]) for row in result["rows"]} == {
        *((name, which) for name in names for which in ("map", "randomised model")),
        ("random", "random map"),
    }
    for row in result["rows"]:
        assert row["pointing"]["n"] == (2 if row["method"] == "occlusion" else 3) and row["deletion"]["n"] == 2
        assert all(0 <= row[m]["mean"] <= 1 for m in ("pointing", "energy", "iou", "deletion", "insertion"))
    assert 0 < result["chance"]["pointing"] < 0.5 and set(result["beats_chance"]) == set(names)
    assert set(result["beats_control"]) == set(names)
    lines = table(result)
    assert sum(line.startswith("|") for line in lines) == 2 + len(result["rows"])
    assert all(torch.equal(value, before[key]) for key, value in backbone.model.state_dict().items())
    assert len(made) == 2 and all("partner.share" in method.adapter().state for method in made)  # NEARL's own recipe


def test_a_frozen_model_can_be_studied_and_wrong_names_are_refused(tiny):
    result = study(tiny("bert-pooler"), Plan(["smear"], images=2, shots=0, curves=1, maps=["gradcam"]))
    assert result["adapter"] == "none"
    with pytest.raises(NearlError, match="no map called 'x'"):
        Plan(["smear"], maps=["x"])
    with pytest.raises(NearlError, match="no phantom"):
        study(tiny("clip"), Plan(["spleen"], images=2, curves=1))
    with pytest.raises(NearlError, match="At least one image"):
        Plan(["smear", "skin"], images=1)
