"""What a backbone's untaught answers are worth: how often its ready prompt sets are right on test images, a temperature
for each kind of image, and the names whose images it was trained on. Kept beside the weights, for these alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nearl.errors import NearlError
from nearl.prompts import PromptSet, class_key, ready_sets, words

FILE = "measured.json"
NEAR_CHANCE = 0.05  # of balanced accuracy above chance; a set within it is a guess (our choice)


class ClassFigures(BaseModel):
    """The test images of one class."""

    name: str
    right: int = Field(ge=0)
    n: int = Field(ge=0)


class SetFigures(BaseModel):
    """A ready prompt set on its test images, before any teaching."""

    kinds: list[str]
    """The kinds of its test images, the commonest first."""
    classes: list[ClassFigures]
    """All classes of the set."""
    balanced_accuracy: float = Field(ge=0, le=1)
    """Of the classes that have test images."""
    interval: tuple[float, float]
    ece: tuple[float, float]
    """Expected calibration error before and after the temperature."""

    @property
    def n(self) -> int:
        return sum(row.n for row in self.classes)

    @property
    def chance(self) -> float:
        return 1 / len(self.classes)

    @property
    def guess(self) -> bool:
        """Whether it is hardly better than chance, or its test images are too few to tell that it is."""
        return self.balanced_accuracy <= self.chance + NEAR_CHANCE or self.interval[0] <= self.chance

    @property
    def short(self) -> str:
        """What to say beside the name of the set, in a few words."""
        if len(self.tested) < 2:
            return f"only {', '.join(self.tested) or 'nothing'} tested".replace("_", " ")
        right = f"balanced accuracy {100 * self.balanced_accuracy:.0f}\u202f% on {self.n} test images"
        return f"{right}, a guess" if self.guess else right

    @property
    def tested(self) -> list[str]:
        """The classes with test images."""
        return [row.name for row in self.classes if row.n]


class Kind(BaseModel):
    """A kind of image."""

    title: str
    """As people say it: "chest X-ray"."""
    sets: list[str]
    """The pretraining sets of this kind."""
    temperature: float | None = Field(default=None, gt=0)
    """Probabilities become softmax(log(p) / temperature); 1 where none is better on images that it was not fitted on,
    None where too few images were held out to tell."""
    n: int = 0
    """Held-out training images that it was fitted on."""
    ece: tuple[float, float] | None = None
    """On these images, before and after."""


class Measured(BaseModel):
    """The content of measured.json."""

    model_config = ConfigDict(frozen=True, ignored_types=(cached_property,))

    weights: str
    """The fingerprint of the weights that it is about."""
    temperature: float = Field(gt=0)
    """Of kinds without one of their own, fitted on the held-out images of all kinds; likewise 1."""
    kinds: dict[str, Kind]
    sets: dict[str, SetFigures]
    """By name of the ready set."""
    names: dict[str, list[str]]
    """Names of findings, as `class_key` writes them, to the kinds whose images were labelled so."""

    @classmethod
    def load(cls, folder: Path | str, weights: str) -> Measured | None:
        """Read a backbone's folder; None where there is nothing, or it belongs to other weights.

        Raises NearlError for a broken file.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            found = cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise NearlError(f"The file {FILE} beside the model cannot be read; remove it or make it again.") from error
        return found if found.weights == weights else None

    def save(self, folder: Path | str) -> None:
        (Path(folder) / FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @property
    def beside(self) -> dict[str, str]:
        """What to say beside the name of each ready set."""
        return {name: figures.short for name, figures in self.sets.items()}

    def kind_of(self, name: str) -> str:
        """The kind of a pretraining set; "" where there is none."""
        return next((key for key, kind in self.kinds.items() if name in kind.sets), "")

    def title(self, kind: str) -> str:
        return self.kinds[kind].title if kind in self.kinds else ""

    def temperature_of(self, kind: str) -> float:
        """The temperature for images of a kind, "" for an unknown one."""
        own = self.kinds[kind].temperature if kind in self.kinds else None
        return own or self.temperature

    def fitting(self, kind: str) -> list[str]:
        """The ready sets for images of this kind: those for real images first, guesses last, else by how much better
        than chance they are."""

        def order(name: str) -> tuple:
            row = self.sets[name]
            unsure = row.guess or len(row.tested) < 2
            return name.startswith("phantom_"), unsure, row.chance - row.balanced_accuracy

        return sorted((name for name, row in self.sets.items() if kind in row.kinds), key=order)

    def of(self, prompts: PromptSet) -> tuple[str, bool] | None:
        """(name of the ready set that these prompts are, whether they are unchanged); None for others. A set whose
        classes are a ready set's and share a prompt with it, each, is that set with changes."""
        texts = {class_key(name): set(group) for name, group in zip(prompts.classes, prompts.texts(), strict=True)}
        changed = None
        for name, ready in _ready_texts().items():
            if name in self.sets and ready.keys() == texts.keys():
                if ready == texts:
                    return name, True
                if changed is None and all(ready[key] & texts[key] for key in ready):
                    changed = name, False
        return changed

    def named(self, prompts: PromptSet) -> list[set[str]]:
        """For each class the kinds of image that were labelled with something that its prompts name."""
        return [
            {kind for text in group for name in self._found(text) for kind in self.names[name]}
            for group in prompts.texts()
        ]

    def _found(self, text: str) -> list[str]:
        return self._pattern.findall(class_key(text))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.names, key=len, reverse=True)
        return re.compile(r"(?<!\w)(" + "|".join(map(re.escape, longest_first)) + r")(?:s|es)?(?!\w)")


@lru_cache(maxsize=1)
def _ready_texts() -> dict[str, dict[str, set[str]]]:
    """By ready set and class, the prompts."""
    found = {}
    for name, path in ready_sets().items():
        prompts = PromptSet.load(path)
        texts = zip(prompts.classes, prompts.texts(), strict=True)
        found[name] = {class_key(label): set(group) for label, group in texts}
    return found


def class_index(classes: Sequence[str], label: str) -> int | None:
    """The class of a ready set that a folder of test images is named after: by `class_key`, by letters and digits alone
    ("covid19": "COVID-19"), else the only one that has all its words ("liver": "abdomen_with_liver")."""
    for same in (class_key, lambda name: re.sub(r"[\W_]", "", name.casefold())):
        found = [i for i, name in enumerate(classes) if same(name) == same(label)]
        if len(found) == 1:
            return found[0]
    asked = set(words(class_key(label)))
    found = [i for i, name in enumerate(classes) if asked and asked <= set(words(class_key(name)))]
    return found[0] if len(found) == 1 else None
