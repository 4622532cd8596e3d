"""NEARL-CLIP on frozen open_clip models. For teaching and research. Not for diagnosis."""

__version__ = "0.1.0"
NOTICE = "For teaching and research. Not for diagnosis."
