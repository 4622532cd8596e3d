"""What a Space of this project is made of, and what would keep the Hub from taking it or the Space from starting."""

from __future__ import annotations

import re
import subprocess
import unicodedata
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import yaml
from huggingface_hub import SpaceHardware, metadata_load
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from nearl.adapters.hub import check_repo_id
from nearl.errors import NearlError

# What ZeroGPU takes (https://huggingface.co/docs/hub/spaces-zerogpu, read on 29 November 2026). All other hardware
# takes these versions too, so that a Space sent once can be moved to, or duplicated on, any hardware.
PYTHONS = ("3.10", "3.12")
TORCHES = ("2.8", "2.9", "2.10", "2.11")
TORCH = SpecifierSet(">=2.8,<2.12")
SPACES = "spaces>=0.50,<1"  # what `nearl.runs.zero_gpu` asks for the GPU with; does nothing on other hardware

LARGEST = 10 * 10**6  # bytes of a file outside LFS
LEFT_OUT = (
    "tests/",
    "benchmarks/",
    ".ci/",
    ".github/",
    ".pre-commit-config.yaml",
    "requirements-dev.txt",
    ".gitignore",
)
ATTRIBUTES = "docs/space.gitattributes"
CARD, REQUIREMENTS = "README.md", "requirements.txt"

SECRETS = {
    "a token of the Hub": rb"\bhf_[A-Za-z0-9]{30,}",
    "a token of GitHub": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{50,})",
    "an access key of AWS": rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a token of Slack": rb"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
}


class File(NamedTuple):
    """A file of the Space."""

    path: str
    bytes: int
    lfs: bool
    """Whether it is kept in Git LFS or Xet."""


class Plan(NamedTuple):
    """What would be sent."""

    files: list[File]
    changed: dict[str, bytes]
    """Files whose content differs from the checkout's, and files that it has under another name."""
    problems: list[str]
    """Sentences: why the Hub would refuse it, or the Space would not start."""


def plan(root: Path, repo_id: str) -> Plan:
    """What the checkout ``root`` becomes as the Space ``repo_id``: the files that git tracks, without tests, benchmarks
    and CI. NearlError where ``root`` is not a git checkout."""
    paths = [path for path in _git(root, "ls-files", "-z") if not path.startswith(LEFT_OUT)]
    ignored = _git(root, "ls-files", "-ciz", "--exclude-standard")
    problems = [f"{path} is tracked, although .gitignore names it; take it out of one of them." for path in ignored]
    there = [path for path in paths if (root / path).is_file() and not (root / path).is_symlink()]
    problems += [
        f"{path} is a link, or not in the working tree; commit a file, or its removal."
        for path in paths
        if path not in there
    ]
    changed = {".gitattributes": (root / ATTRIBUTES).read_bytes()} if ATTRIBUTES in there else {}
    card, found = _card(root, there)
    problems += found
    torch, found = _requirements(root, card)
    problems += found
    if torch:
        changed[REQUIREMENTS] = torch.encode()
    if card is not None and card.thumbnail in there:
        address = f"https://huggingface.co/spaces/{repo_id}/resolve/main/{card.thumbnail}"
        text = (root / CARD).read_text(encoding="utf-8")
        changed[CARD] = re.sub(r"(?m)^thumbnail:.*$", f"thumbnail: {address}", text, count=1).encode()
    files = []
    lfs = _in_lfs(root, there)
    for path in there:
        data = changed.get(path) or (root / path).read_bytes()
        files.append(File(path, len(data), path in lfs))
        problems += _refused(files[-1], data)
    if ".gitattributes" in changed and ".gitattributes" not in there:
        files.append(File(".gitattributes", len(changed[".gitattributes"]), False))
    return Plan(sorted(files), changed, problems)


# --- single files ----------------------------------------------------------------------------------------------------


def _refused(file: File, data: bytes) -> list[str]:
    """What is wrong with one file."""
    found = []
    if not file.lfs and (file.bytes > LARGEST or b"\0" in data[:8000]):
        what = f"has {file.bytes / 10**6:.0f} MB" if file.bytes > LARGEST else "is binary"
        found.append(
            f"{file.path} {what}, which the Hub takes through LFS or Xet alone; name its kind in {ATTRIBUTES}."
        )
    for what, pattern in SECRETS.items():
        if re.search(pattern, data):
            found.append(f"{file.path} seems to hold {what}; take it out, and make it invalid if it was ever pushed.")
    return found


def _in_lfs(root: Path, paths: list[str]) -> set[str]:
    """The files that the Space keeps in LFS or Xet, as git itself reads the attributes."""
    command = ("-c", f"core.attributesFile={root / ATTRIBUTES}", "check-attr", "-z", "--stdin", "filter")
    said = iter(_git(root, *command, stdin="\0".join(paths)))
    return {path for path, _, value in zip(said, said, said, strict=True) if value == "lfs"}


def _git(root: Path, *words: str, stdin: str = "") -> list[str]:
    """What a git command says, as a list. NearlError if it fails."""
    try:
        done = subprocess.run(["git", "-C", root, *words], input=stdin.encode(), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NearlError("A Space is made from a git checkout of this project; clone it, and install git.") from error
    return [part for part in done.stdout.decode().split("\0") if part]


# --- front matter and versions ---------------------------------------------------------------------------------------


def _emoji(text: str) -> str:
    if not 1 <= len(text) <= 4 or not all(unicodedata.category(letter) in ("So", "Sk", "Mn", "Cf") for letter in text):
        raise ValueError("must be one emoji")
    return text


def _hardware(text: str) -> str:
    if text not in [each.value for each in SpaceHardware]:
        raise ValueError("must be a kind of hardware that the Hub knows")
    return text


Colour = Literal["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]


class Card(BaseModel):
    """The front matter (https://huggingface.co/docs/hub/spaces-config-reference) as far as this project uses it. The
    Hub checks it too when it is sent; this is what can be known before."""

    model_config = ConfigDict(extra="forbid", strict=True)

    title: Annotated[str, StringConstraints(min_length=1)]
    emoji: Annotated[str, AfterValidator(_emoji)]
    colorFrom: Colour
    colorTo: Colour
    sdk: Literal["gradio"]
    sdk_version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    python_version: Annotated[str, StringConstraints(pattern=r"^3\.\d+(\.\d+)?$")]
    app_file: str
    license: str
    short_description: Annotated[str, StringConstraints(max_length=60)]
    tags: list[str]
    models: list[Annotated[str, AfterValidator(check_repo_id)]]
    thumbnail: str
    suggested_hardware: Annotated[str, AfterValidator(_hardware)]
    hf_oauth: bool
    hf_oauth_scopes: list[str]
    pinned: bool = False


def _card(root: Path, paths: list[str]) -> tuple[Card | None, list[str]]:
    """The front matter, None where it cannot be used, and what is wrong with it."""
    try:
        card = Card.model_validate(metadata_load(root / CARD) or {})
    except ValidationError as error:
        said = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        return None, [f"The front matter of {CARD} cannot be used; correct {one}." for one in said]
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:160]
        return None, [
            f"The front matter of {CARD} cannot be read ({reason}); it must be YAML between two lines of ---."
        ]
    problems = []
    for name in ("app_file", "thumbnail"):
        value = getattr(card, name)
        if value not in paths and not value.startswith("https://"):
            problems.append(f"{CARD} names {value} as {name}, which is not among the files sent; correct the name.")
    if ".".join(card.python_version.split(".")[:2]) not in PYTHONS:
        problems.append(
            f"{CARD} asks for Python {card.python_version}, which ZeroGPU does not have; take {' or '.join(PYTHONS)}."
        )
    return card, problems


def _requirements(root: Path, card: Card | None) -> tuple[str, list[str]]:
    """The Space's requirements, torch held to what every Space has ("" where that cannot be), and what is wrong."""
    try:
        lines = (root / REQUIREMENTS).read_text(encoding="utf-8").splitlines()
        parsed = {name: Requirement(text) for name in lines if (text := name.partition("#")[0].strip())}
    except (OSError, InvalidRequirement) as error:
        return "", [f"{REQUIREMENTS} cannot be read ({error}); correct it."]
    by_name = {each.name.lower(): line for line, each in parsed.items()}
    if "torch" not in by_name:
        return "", [f"{REQUIREMENTS} does not name torch; add it."]
    problems = []
    gradio = parsed[by_name["gradio"]].specifier if "gradio" in by_name else SpecifierSet()
    if card is not None and card.sdk_version not in gradio:
        problems.append(f"{CARD} asks for Gradio {card.sdk_version}, {REQUIREMENTS} for {gradio}; let them agree.")
    asked = parsed[by_name["torch"]].specifier
    if not any(version in asked for version in TORCHES):
        has = f"{TORCHES[0]} to {TORCHES[-1]}"
        return "", [*problems, f"{REQUIREMENTS} asks for torch{asked}, and ZeroGPU has {has}; widen the range."]
    own = f"torch{asked & TORCH}"
    return "\n".join([*(own if line == by_name["torch"] else line for line in lines), SPACES, ""]), problems
