"""Prompt sets: each class is described by one or more prompts, which are averaged in embedding space.

On disk, as JSON or YAML:
    {"name": "brain_mri_tumor", "description": "...", "templates": [],
     "classes": [{"name": "glioma", "prompts": ["a brain MRI of a glioma", "..."]}, ...]}

An image has one of these classes. In a set of the kind "findings" it may have any number of them, each present or
absent on its own; each then has prompts for both, and rules may say which of them exclude or include each other:
    {"name": "chest_findings", "kind": "findings",
     "classes": [{"name": "mass", "prompts": ["a mass in the lung"], "absent": ["no mass in the lung"]}, ...],
     "rules": ["if no finding then not mass", "mass is a kind of opacity"]}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import yaml

from nearl.errors import NearlError
from nearl.resources import ASSETS

CLASSES, FINDINGS = "classes", "findings"  # kinds of prompt sets
MAX_CLASSES = 64
MAX_FINDINGS = MAX_CLASSES // 2
MAX_RULES = 64
MAX_PROMPTS = 32  # of one class
MAX_TEMPLATES = 16
MAX_TEXTS = 2048  # of one set, every prompt in every template
MAX_CHARACTERS = 300  # of one prompt; CLIP reads 77 tokens
MAX_NAME = 100  # characters of a class name
MAX_FILE_BYTES = 1_000_000
DEFAULT_TEMPLATE = "a medical image of {}"
KIND_ENDS = re.compile(r",? (?:of|with|without|showing|in|negative)\b")  # after what a prompt says the image is
PROMPTS = ASSETS / "prompts"
ABSENT = "without "  # before the name of a finding: the class of the images without it


class Rule(NamedTuple):
    """What cannot be true of two findings at once: that ``first`` is present, and ``second`` is present (``excludes``)
    or absent (else: the first is a kind of the second)."""

    first: str
    second: str
    excludes: bool

    def __str__(self) -> str:
        return (
            f"if {self.first} then not {self.second}" if self.excludes else f"{self.first} is a kind of {self.second}"
        )

    @classmethod
    def read(cls, text: object, findings: Sequence[str]) -> Rule:
        """The rule that a line says about these findings. NearlError for a line that says none."""
        words = " ".join(str(text).split())
        known = {class_key(name): name for name in findings}
        for pattern, excludes in ((r"if (.+?) then not (.+)", True), (r"(.+?) is a kind of (.+)", False)):
            if found := re.fullmatch(pattern, words, re.IGNORECASE):
                missing = [name for name in found.groups() if class_key(name) not in known]
                if missing:
                    raise NearlError(
                        f"The rule “{words:.200}” names “{missing[0]:.100}”, which is not one of the findings."
                    )
                first, second = (known[class_key(name)] for name in found.groups())
                if first == second:
                    raise NearlError(f"The rule “{words:.200}” is about one finding; it takes two.")
                return cls(first, second, excludes)
        raise NearlError(f"“{words:.200}” is not a rule; write “if A then not B” or “A is a kind of B”.")


@dataclass(frozen=True)
class PromptSet:
    """Class names and their prompts, checked and tidied on creation.

    A set of the kind "findings" has two classes for each of F findings, one after the other: C = 2 F, present and
    absent. ``questions`` says which classes exclude each other.

    Runs of white space become one space; a semicolon in a prompt or template, which would split it in the app's table,
    becomes a comma. Raises NearlError, one sentence, for no class, two class names with the same `class_key`, a class
    without a prompt, and more or longer texts than the limits above.
    """

    name: str
    classes: tuple[str, ...]  # C names, as shown and as the class folders are called
    prompts: tuple[tuple[str, ...], ...]  # C tuples of texts
    templates: tuple[str, ...] = ()  # each with one "{}" for the prompt; none uses the prompts as they are
    description: str = ""
    synthetic: bool = False  # written for the synthetic images that come with the project
    kind: str = CLASSES
    rules: tuple[Rule, ...] = ()  # of findings; given as text or as rules

    def __post_init__(self) -> None:
        classes = tuple(_text(c, "A class name", MAX_NAME) for c in _listed(self.classes, "classes"))
        templates = _listed(self.templates, "templates")
        if len(classes) != len(self.prompts):
            raise NearlError(f"There are {len(classes)} classes but prompts for {len(self.prompts)} of them.")
        tidy = {
            "name": _text(self.name, "The prompt set's name"),
            "description": _text(self.description, "The prompt set's description", 2000),
            "classes": classes,
            "prompts": tuple(map(_class_prompts, classes, self.prompts)),
            "templates": tuple(_text(t, "A template").replace(";", ",") for t in templates),
        }
        for name, value in tidy.items():
            object.__setattr__(self, name, value)  # the class is frozen; only creation writes
        self._check()
        rules = [Rule.read(rule, self.findings) for rule in _listed(self.rules, "rules")]
        object.__setattr__(self, "rules", tuple(dict.fromkeys(rules)))

    def _check(self) -> None:
        if not self.classes:
            raise NearlError("The prompt set has no class; add at least one class with a prompt.")
        if self.kind not in (CLASSES, FINDINGS):
            raise NearlError(f"The kind of a prompt set is “{CLASSES}” or “{FINDINGS}”, not “{self.kind:.40}”.")
        if self.kind == CLASSES and len(self.rules):
            raise NearlError("Rules are for findings; give the prompt set that kind, or remove them.")
        if len(self.rules) > MAX_RULES:
            raise NearlError(f"There are {len(self.rules)} rules; at most {MAX_RULES} are allowed.")
        if self.kind == FINDINGS and len(self.classes) > 2 * MAX_FINDINGS:
            raise NearlError(f"These are {len(self.classes) // 2} findings; at most {MAX_FINDINGS} are allowed.")
        if self.kind == FINDINGS and list(self.classes[1::2]) != [ABSENT + name for name in self.classes[::2]]:
            raise NearlError("Each finding needs its class and, after it, that of the images without it.")
        if len(self.classes) > MAX_CLASSES:
            raise NearlError(f"The prompt set has {len(self.classes)} classes; at most {MAX_CLASSES} are allowed.")
        seen: dict[str, str] = {}
        for number, name in enumerate(self.classes, start=1):
            if not name:
                raise NearlError(f"Class {number} has no name; give it one.")
            if class_key(name) in seen:
                raise NearlError(
                    f"The class name “{name}” occurs twice (“{seen[class_key(name)]}”); rename one of them."
                )
            seen[class_key(name)] = name
        if len(self.templates) > MAX_TEMPLATES:
            raise NearlError(f"There are {len(self.templates)} templates; at most {MAX_TEMPLATES} are allowed.")
        for template in self.templates:
            if template.count("{}") != 1:
                raise NearlError(f"The template “{template}” must hold {{}} once, where the prompt goes.")
        total = sum(map(len, self.prompts)) * max(1, len(self.templates))
        if total > MAX_TEXTS:
            raise NearlError(f"Prompts times templates give {total} texts; at most {MAX_TEXTS} are allowed.")

    @property
    def findings(self) -> tuple[str, ...]:
        """The names of the F findings; none in a set of classes."""
        return self.classes[::2] if self.kind == FINDINGS else ()

    @property
    def questions(self) -> list[slice]:
        """The classes among which one is true, for each question that the set asks: all of them, or those of each
        finding. Probabilities are a softmax over each."""
        size = 2 if self.kind == FINDINGS else len(self.classes)
        return [slice(start, start + size) for start in range(0, len(self.classes), size)]

    def texts(self) -> list[list[str]]:
        """The texts to encode, one list per class: every prompt in every template."""
        templates = self.templates or ("{}",)
        return [[t.replace("{}", p) for t in templates for p in prompts] for prompts in self.prompts]

    def for_classes(self, classes: Iterable[str]) -> PromptSet:
        """The same prompts for the classes of a labelled set, in its order and its spelling.

        Raises NearlError unless both have the same classes (`class_key`).
        """
        prompts = {class_key(name): texts for name, texts in zip(self.classes, self.prompts, strict=True)}
        names = tuple(classes)
        for name in names:
            if class_key(name) not in prompts:
                raise NearlError(f"The prompts do not name the class “{name}” of the images; add prompts for it.")
        chosen = tuple(prompts.pop(class_key(name)) for name in names)
        if prompts:
            raise NearlError(
                f"There are prompts for “{next(iter(prompts))}” but no images of it; add images or remove its prompts."
            )
        return replace(self, classes=names, prompts=chosen)

    def fitted_to(self, classes: Iterable[str]) -> PromptSet:
        """These prompts for other classes of the same kind of image: a class that is here keeps its prompts, another
        gets one made of its name and of the kind, such as "a brain MRI of scar". Templates are written out."""
        own = {class_key(name): texts for name, texts in zip(self.classes, self.texts(), strict=True)}
        names = tuple(classes)
        texts = tuple(
            tuple(own.get(class_key(name), (f"{self.subject} of {name.replace('_', ' ').strip()}",))) for name in names
        )
        return replace(self, classes=names, prompts=texts, templates=())

    @property
    def subject(self) -> str:
        """What the images are, as most first prompts begin: "a brain MRI". The shortest of the commonest."""
        heads = [KIND_ENDS.split(texts[0])[0] for texts in self.texts()]
        return min(heads, key=lambda head: (-heads.count(head), len(head)))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the class names, texts and kind; it does not depend on name, description and rules."""
        kind = [] if self.kind == CLASSES else [self.kind]
        content = json.dumps([list(self.classes), self.texts(), *kind], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def to_dict(self) -> dict:
        """Plain lists and strings in the layout of the file."""
        entries = [
            {"name": name, "prompts": list(prompts)} for name, prompts in zip(self.classes, self.prompts, strict=True)
        ]
        kind = {}
        if self.kind == FINDINGS:
            kind = {"kind": self.kind, "rules": [str(rule) for rule in self.rules]}
            pairs = zip(entries[::2], entries[1::2], strict=True)
            entries = [{**present, "absent": absent["prompts"]} for present, absent in pairs]
        return {
            "name": self.name,
            "description": self.description,
            **({"synthetic": True} if self.synthetic else {}),
            **kind,
            "templates": list(self.templates),
            "classes": entries,
        }

    @classmethod
    def from_dict(cls, content: dict, name: str = "prompts") -> PromptSet:
        """The reverse of to_dict; `name` is used where the content has none. NearlError for any other layout."""
        layout = 'a prompt set needs "classes", a list of {"name": ..., "prompts": [...]}'
        if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
            raise NearlError(f"{layout[0].upper()}{layout[1:]}.")
        if not all(isinstance(entry, dict) for entry in content["classes"]):
            raise NearlError(f"A class is not written as expected; {layout}.")
        entries, kind = content["classes"], content.get("kind") or CLASSES
        if kind == FINDINGS:
            entries = [part for entry in entries for part in _both(entry)]
        return cls(
            name=content.get("name") or name,
            classes=tuple(entry.get("name") or "" for entry in entries),
            prompts=tuple(entry.get("prompts") or () for entry in entries),
            templates=content.get("templates") or (),
            description=content.get("description") or "",
            synthetic=content.get("synthetic") is True,
            kind=kind if isinstance(kind, str) else str(kind),
            rules=content.get("rules") or (),
        )

    @classmethod
    def load(cls, path: Path | str) -> PromptSet:
        """Read a .json, .yaml or .yml file. NearlError naming the file if it is missing, broken or not a prompt set."""
        path = Path(path)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise NearlError("it is larger than 1 MB.")
            text = path.read_text(encoding="utf-8-sig")
            content = yaml.safe_load(text) if path.suffix.lower() in (".yaml", ".yml") else json.loads(text)
            return cls.from_dict(content, name=path.stem)
        except FileNotFoundError:
            raise NearlError(f"The prompt file {path.name} does not exist; check the path.") from None
        except NearlError as error:
            raise NearlError(f"The prompt file {path.name} cannot be used: {error}") from None
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            where = " ".join(str(error).split())[:160]
            raise NearlError(f"The prompt file {path.name} is not valid JSON or YAML ({where}).") from None

    def save(self, path: Path | str) -> None:
        """Write JSON, or YAML where the name ends in .yaml or .yml."""
        path = Path(path)
        if path.suffix.lower() in (".yaml", ".yml"):
            text = yaml.safe_dump(self.to_dict(), allow_unicode=True, sort_keys=False, width=120)
        else:
            text = json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n"
        path.write_text(text, encoding="utf-8")


def class_key(name: str) -> str:
    """The key under which two names of a class are the same: case, underscores, runs of spaces and the spelling of
    "tumour" do not count."""
    return " ".join(name.replace("_", " ").split()).casefold().replace("tumour", "tumor")


def default_prompts(class_names: Iterable[str]) -> PromptSet:
    """One prompt per class made from its name: "lung_nodule" -> "a medical image of lung nodule".

    Raises NearlError for names that no prompt set can have.
    """
    names = tuple(class_names)
    prompts = tuple((DEFAULT_TEMPLATE.replace("{}", str(n).replace("_", " ").strip()),) for n in names)
    return PromptSet("class names", names, prompts, description="Made from the class names.")


def default_findings(names: Iterable[str]) -> PromptSet:
    """Prompts for findings, made from their names: "lung_mass" -> "a medical image with lung mass", and "without".

    Raises NearlError for names that no prompt set can have.
    """
    entries = [{"name": name, "prompts": [f"a medical image with {_words(name)}"]} for name in names]
    content = {"kind": FINDINGS, "description": "Made from the names of the findings.", "classes": entries}
    return PromptSet.from_dict(content, "class names")


def ready_sets() -> dict[str, Path]:
    """The prompt sets that come with the project: {name: file}, sorted by name."""
    return {path.stem: path for path in sorted(PROMPTS.glob("*.json"))}


def words(text: str) -> list[str]:
    """The words of a text: runs of letters and digits with a letter among them, hyphens and apostrophes inside."""
    return re.findall(r"\w*[^\W\d_]\w*(?:['’-]\w+)*", text)


def unknown_words(texts: Iterable[str], known: Callable[[str], bool]) -> list[str]:
    """The words that a model does not know (`known`: word -> bool), each once, in order of appearance."""
    distinct = {word.casefold(): word for text in texts for word in words(text)}
    return [word for word in distinct.values() if not known(word)]


def coverage(text: str, known: Callable[[str], bool]) -> float:
    """Fraction of a text's words that a model knows, 0..1; 1 for a text without words."""
    found = [known(word) for word in words(text)]
    return sum(found) / len(found) if found else 1.0


def _words(name: object) -> str:
    return str(name).replace("_", " ").strip()


def _both(entry: dict) -> tuple[dict, dict]:
    """The two classes of a finding: with it, and without it, which has a prompt of its own where none is given."""
    name = entry.get("name") or ""
    if not isinstance(name, str) or not name.strip():
        raise NearlError("A finding has no name; give it one.")
    name = " ".join(name.split())
    absent = entry.get("absent") or [f"a medical image without {_words(name)}"]
    return {**entry, "name": name}, {"name": ABSENT + name, "prompts": absent}


def _listed(values: object, what: str) -> Sequence:
    if not isinstance(values, (list, tuple)):
        raise NearlError(f"The prompt set's {what} must be a list.")
    return values


def _class_prompts(name: str, prompts: object) -> tuple[str, ...]:
    entries = (prompts,) if isinstance(prompts, str) else _listed(prompts, f"prompts of “{name}”")
    texts = tuple(_text(p, f"A prompt of the class “{name}”").replace(";", ",") for p in entries)
    if not texts or not all(texts):
        raise NearlError(f"The class “{name}” has an empty prompt; describe it in a few words.")
    if len(texts) > MAX_PROMPTS:
        raise NearlError(f"The class “{name}” has {len(texts)} prompts; at most {MAX_PROMPTS} are allowed.")
    return texts


def _text(value: object, what: str, longest: int = MAX_CHARACTERS) -> str:
    if not isinstance(value, str):
        raise NearlError(f"{what} must be text, not {value!r:.40}; put it in quotation marks.")
    text = " ".join(value.split())
    if len(text) > longest:
        raise NearlError(f"{what} is {len(text)} characters long; shorten it to at most {longest}.")
    return text
