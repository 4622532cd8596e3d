"""Every method can be chosen in Teach."""

from __future__ import annotations

from app.teach.run.actions import NEARL, Choice, methods
from app.teach.run.tab import one_line
from nearl.methods import METHODS


def test_nearl_is_first_and_every_method_that_learns_is_offered_in_oneone_line():
    names = [card.name for card in methods()]
    assert names[0] == NEARL and len(names) == len(set(names))
    ablations = {name for name in METHODS if METHODS[name].card.ablates}
    assert set(names) == set(METHODS) - ablations - {"zero-shot"}
    for card in methods():
        assert one_line(card).startswith(f"{card.title}: ") and "\n" not in one_line(card)


def test_only_what_was_chosen_departs_from_the_methods_own_recipe():
    assert Choice().how()["methods"] == [NEARL]
    how = Choice(method="lora", preset="quick").how()
    assert how["methods"] == ["lora"] and not {"steps", "lr"} & how["recipe"].keys()
    assert Choice(steps=7, lr=0.5).how()["recipe"].items() >= {"steps": 7, "lr": 0.5}.items()
