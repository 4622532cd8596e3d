"""The code blocks of README and docs/."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The text of each code block in this language; "" for those without one, which hold commands."""
    return [text for found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(page: Path) -> list[str]:
    """The lines of a page that call the command line."""
    lines = [line for text in blocks(page, "") for line in text.splitlines()]
    return [line for line in lines if line.startswith(("python -m nearl ", "nearl "))]
