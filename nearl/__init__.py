"""NEARL-CLIP on frozen open_clip models. For teaching and research. Not for diagnosis."""

import os

# Read when torch loads. By default its waiting threads spin, and on a busy machine with few cores that makes one image
# take seconds instead of milliseconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
NOTICE = "For teaching and research. Not for diagnosis."
