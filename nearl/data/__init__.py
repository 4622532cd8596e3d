"""Images from untrusted files, labelled sets, splits and synthetic images. Knows nothing of models.

From bottom to top: `formats`, `records`, `archives`, `sandbox`, `images`, `sets`, `splits`, `checks`, `phantoms`.
"""
