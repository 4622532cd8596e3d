"""NEARL without one of its parts, each a method of its own."""

from __future__ import annotations

from dataclasses import replace

from nearl.methods.nearl.method import Nearl


def ablation(name: str, title: str, idea: str, changes: dict, recipe: dict | None = None) -> type[Nearl]:
    """NEARL with ``changes`` to its ``NearlConfig`` and its recipe, as the method ``nearl:<name>``."""
    card = replace(
        Nearl.card, name=f"{Nearl.card.name}:{name}", title=title, idea=idea,
        recipe=Nearl.card.recipe | (recipe or {}), ablates=Nearl.card.name,
    )  # fmt: skip
    return type(f"Nearl_{name}", (Nearl,), {"__doc__": idea, "card": card, "changes": changes})


ABLATIONS: tuple[type[Nearl], ...] = (
    ablation(
        "no-orthogonality",
        "NEARL, whole update",
        "The adapters add their whole update. The difference to NEARL is the effect of removing the parallel part.",
        {"orthogonal": False},
    ),
    ablation(
        "static-queries",
        "NEARL, static queries",
        "Queries learned for each depth replace the USEformer and read neither image nor prompts. The difference to "
        "NEARL is the effect of the exchange between the towers.",
        {"synergy": "static"},
    ),
    ablation(
        "vision-only",
        "NEARL, image side",
        "Only the image tower is adapted. The text features are the frozen model's.",
        {"text_layers": ()},
    ),
    ablation(
        "text-only",
        "NEARL, text side",
        "Only the text tower is adapted. The image features are the frozen model's.",
        {"vision_layers": ()},
    ),
    ablation(
        "no-anchor",
        "NEARL, no pull",
        "Nothing pulls the adapted model's predictions towards the frozen model's. The difference to NEARL is the "
        "effect of that pull.",
        {},
        {"pull": 0.0},
    ),
    ablation(
        "no-partner",
        "NEARL, no partner",
        "Nothing is added to the logits of the adapted towers. The difference to NEARL is the effect of the "
        "closed-form classifier beside it.",
        {},
        {"partner": False},
    ),
    ablation(
        "image-context",
        "NEARL, context by image",
        "Every image conditions the text tower, as the paper draws it. This costs a text pass for every image and "
        "prompt.",
        {"text_context": "image"},
    ),
)
