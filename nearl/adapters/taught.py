"""How much an adapter was taught with."""

from __future__ import annotations

from nearl.prompts import FINDINGS


def taught_with(meta: dict) -> int:
    """How many images or studies an adapter was taught with, from its ``meta``, which may hold anything. Of findings an
    image has several; what counts is the finding whose answer is known of most images."""
    prompts, counts = meta.get("prompts"), meta.get("support_counts")
    found = counts if isinstance(counts, dict) else {}
    known = {name: n for name, n in found.items() if type(n) is int and 0 <= n < 10**9}
    if not isinstance(prompts, dict) or prompts.get("kind") != FINDINGS:
        return sum(known.values())
    classes = meta.get("classes")
    each = [known.get(name, 0) for name in (classes if isinstance(classes, list) else ()) if isinstance(name, str)]
    return max(map(sum, zip(each[::2], each[1::2], strict=False)), default=0)
