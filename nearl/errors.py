"""The one exception whose text is written for the person in front of the screen."""


class NearlError(ValueError):
    """Something the user can put right. The message is one sentence: what is wrong, with what, and what to do."""
