"""The exception whose text is written for the user."""


class NearlError(ValueError):
    """Something the user can correct. The message is one sentence: what is wrong, with what, and what to do."""
