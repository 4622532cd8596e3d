"""Documents, which are recognised only to say what to do with them."""

from __future__ import annotations

from nearl.data.formats.base import Format


class Pdf(Format):
    def sniff(self, head: bytes, name: str) -> bool:
        return head.startswith(b"%PDF")

    def refuse(self, head: bytes, name: str) -> str:
        return f"{name} is a PDF document, not an image; export its images as PNG."
