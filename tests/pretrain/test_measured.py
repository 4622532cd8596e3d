"""The measures of a pretrained backbone: made once, resumed from what was embedded, and told in its card."""

import json

import numpy as np
import pytest
import yaml
from scipy.special import softmax

from nearl.backbones import load_backbone
from nearl.cli.main import main
from nearl.errors import NearlError
from nearl.pretrain import measured as making
from nearl.pretrain.measured import kinds_of, names_of, note_measured
from nearl.prompts import PromptSet
from tests.support.measured import BLUE, RED, measured_folder, write_set

CONFIG = {
    "seed": 0,
    "hold_out": 0.5,
    "model": {},
    "training": {},
    "sets": {
        "heads": {"classes": {"glioma": 24, "normal": 24}},
        "chests": {"classes": {"covid": 2}},
        "drawn": {"phantom": "head_mri", "classes": {"no lesion": 2, "lesion": 2}},
    },
    "general": ["effusion", "glioma"],
    "families": {
        "brain": {"concepts": ["heads/*", "drawn/*"], "scan": ["brain MRI"]},
        "chest": {"concepts": ["chests/*"], "scan": ["chest x-ray"]},
    },
    "findings": {
        "glioma": {"true_of": ["heads/glioma"], "names": ["glioma", "Tumour"]},
        "covid": {"true_of": ["chests/covid"], "names": ["COVID-19", "effusion"], "statements": ["not clear"]},
        "lesion": {"true_of": ["drawn/lesion"], "names": ["lesion"]},
        "absent": {"true_of": [], "names": ["pneumothorax"]},
        "normal": {"true_of": ["*/normal"], "qualities": ["normal"]},
    },
}


def test_the_kinds_and_their_names_are_those_of_the_config():
    kinds = kinds_of(CONFIG)
    assert {key: (kind.title, kind.sets) for key, kind in kinds.items()} == {
        "brain": ("brain MRI", ["heads", "drawn"]),
        "chest": ("chest X-ray", ["chests"]),
    }
    names = names_of(CONFIG, kinds)
    assert names == {
        "glioma": ["brain"], "tumor": ["brain"], "covid-19": ["chest"], "not clear": ["chest"], "normal": ["brain"],
    }  # fmt: skip


@pytest.fixture
def world(checkpoints, tmp_path, monkeypatch):
    """(config, backbone's folder, data) with one ready set."""
    root = tmp_path / "data"
    write_set(root / "heads", {"glioma": (RED, 24), "normal": (BLUE, 24)})
    write_set(root / "chests", {"covid": (BLUE, 2)})
    ready = PromptSet("heads", ("glioma", "normal"), (("a glioma",), ("normal",)))
    ready.save(tmp_path / "heads.json")
    PromptSet("away", ("a", "b"), (("a",), ("b",))).save(tmp_path / "away.json")  # no images of it
    sets = {name: tmp_path / f"{name}.json" for name in ("heads", "away")}
    for place in ("nearl.pretrain.measured", "nearl.measure.ready", "nearl.cli.evaluate", "nearl.prompts"):
        monkeypatch.setattr(f"{place}.ready_sets", lambda: sets, raising=False)
    folder = measured_folder(checkpoints("clip"), tmp_path / "model")
    (folder / "README.md").write_text("# A card\n")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    return config, folder, root


def test_a_temperature_is_kept_only_where_it_helps_on_images_that_it_was_not_fitted_on():
    def drawn(count, seed, doubt=1.0):
        """Probabilities of images that are right as often as they say where there is no doubt, else too timid."""
        rng = np.random.default_rng(seed)
        shares = softmax(rng.normal(0, 2, (count, 3)), axis=1)
        labels = np.array([rng.choice(3, p=row) for row in shares])
        return softmax(np.log(shares) / doubt, axis=1), labels

    timid, other = drawn(80, 0, doubt=3.0), drawn(80, 1, doubt=3.0)
    assert making.settled([timid], single=True) == pytest.approx(1 / 3, rel=0.4)
    assert making.settled([timid, other], single=True) == pytest.approx(1 / 3, rel=0.4)
    assert making.settled([drawn(80, 2)], single=True) == 1.0
    assert making.settled([timid, drawn(80, 3, doubt=1 / 3)], single=True) == 1.0  # what helps one harms the other
    assert making.settled([drawn(40, seed, doubt=3.0) for seed in range(4)]) == pytest.approx(1 / 3, rel=0.4)
    assert making.settled([drawn(40, seed) for seed in range(4)]) == 1.0 == making.settled([])


def test_every_ready_set_is_measured_and_a_second_call_embeds_nothing(world, tmp_path, monkeypatch):
    config, folder, root = world
    found = note_measured(config, folder, root, tmp_path / "cache", str)
    assert list(found.sets) == ["heads"]
    row = found.sets["heads"]
    backbone = load_backbone(f"local-dir:{folder}")
    assert backbone.measured == found and row.n == 16 and [c.n for c in row.classes] == [8, 8]
    assert 0 <= row.ece[1] <= 1 and row.interval[0] <= row.balanced_accuracy <= row.interval[1]
    assert found.kinds["brain"].n == 24 and found.kinds["brain"].ece[1] <= found.kinds["brain"].ece[0] + 0.05
    assert found.kinds["chest"].temperature is None  # too few images
    card = (folder / "README.md").read_text()
    assert card.startswith("# A card") and "| `heads` | 16 |" in card and "brain MRI" in card

    monkeypatch.setattr(making, "decode_picture", None)
    again = note_measured(config, folder, root, tmp_path / "cache", str)
    assert again.sets["heads"].classes == row.classes and again.names == found.names
    assert again.kinds["brain"].temperature == pytest.approx(found.kinds["brain"].temperature, rel=1e-3)
    assert (folder / "README.md").read_text() == card  # in the place of the earlier table

    (folder / "familiar.safetensors").unlink()
    with pytest.raises(NearlError, match="nearl familiar"):
        note_measured(config, folder, root, tmp_path / "cache", str)


def test_evaluate_tells_of_every_ready_set_what_is_shown_and_what_is_withheld(world, capsys):
    _, folder, root = world
    main(["evaluate", str(root), "--ready", "--backbone", f"local-dir:{folder}", "--json"])
    (row,) = json.loads(capsys.readouterr().out)["sets"]
    assert (row["set"], row["n"], row["shown"] + row["withheld"]) == ("heads", 16, 16)
    assert len(row["ece"]) == 2 and row["chance"] == 0.5
    main(["evaluate", str(root), "--ready", "--backbone", f"local-dir:{folder}"])
    assert "heads" in capsys.readouterr().out
