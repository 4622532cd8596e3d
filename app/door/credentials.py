"""Who may sign in: names and passwords from a file or the environment, and a throttle for guesses.

They never stand on the command line, which every user of the machine can read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from nearl.errors import NearlError

ENVIRONMENT = "NEARL_AUTH"
OLD_FORM = (
    "--auth takes no name and password any more, since every user of this machine can read a command line. "
    f"Put USER:PASSWORD into a file and name it, --auth FILE, or into the environment variable {ENVIRONMENT}."
)


class Credentials:
    """Called with a name and a password, says whether they belong together."""

    def __init__(self, pairs: list[tuple[str, str]]):
        self._key = secrets.token_bytes(32)
        self._known = [self._digest(*pair) for pair in pairs]

    def __call__(self, user: str, password: str) -> bool:
        """Takes the same time whatever is wrong: every pair is compared, in constant time."""
        given = self._digest(user, password)
        return any([hmac.compare_digest(given, known) for known in self._known])

    def _digest(self, user: str, password: str) -> bytes:
        return hmac.digest(self._key, f"{len(user)}:{user}:{password}".encode(), hashlib.sha256)


def credentials(file: str | None) -> Credentials | None:
    """The credentials in a file, or in the environment if `file` is "" or None; None if there are none and `file` is
    None.

    One USER:PASSWORD a line. NearlError where something else is there, or nothing although `file` asks for it.
    """
    if file:
        if not Path(file).is_file() and ":" in file:
            raise NearlError(OLD_FORM)
        try:
            text, where = Path(file).read_text(encoding="utf-8"), f"The file {file}"
        except (OSError, UnicodeDecodeError) as error:
            raise NearlError(f"The file of --auth cannot be read: {file}.") from error
    else:
        text, where = os.environ.get(ENVIRONMENT, ""), f"The environment variable {ENVIRONMENT}"
        if not text.strip():
            if file is None:
                return None
            raise NearlError(f"--auth needs a file, or {ENVIRONMENT} in the environment, with USER:PASSWORD.")
    pairs = [line.strip().partition(":") for line in text.splitlines() if line.strip()]
    if not pairs or not all(user.strip() and password for user, _, password in pairs):
        raise NearlError(f"{where} must hold USER:PASSWORD, both of them, one pair a line.")
    return Credentials([(user.strip(), password) for user, _, password in pairs])


class Throttle:
    """Counts attempts to sign in, by address and in all. Each count falls again by `rate` a second.

    An attempt that succeeds does not count. Addresses can be forged behind some proxies, hence the count of all.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._counts: dict[str, tuple[float, float]] = {}  # the count and when that was

    EACH, ALL = (8, 0.1), (64, 1.0)  # most attempts at once, and how many more a second

    def allow(self, address: str) -> bool:
        """Count an attempt and say whether it may be made."""
        if len(self._counts) > 4096:
            self._counts = {name: kept for name, kept in self._counts.items() if self._count(name) > 0}
        if self._count(address) + 1 > self.EACH[0] or self._count("") + 1 > self.ALL[0]:
            return False
        self._add(address, 1)
        self._add("", 1)
        return True

    def succeeded(self, address: str) -> None:
        """The attempt that was allowed last from this address was no guess."""
        self._add(address, -1)
        self._add("", -1)

    def _count(self, name: str) -> float:
        count, then = self._counts.get(name, (0.0, 0.0))
        return max(0.0, count - (self._clock() - then) * (self.EACH if name else self.ALL)[1])

    def _add(self, name: str, more: int) -> None:
        self._counts[name] = (max(0.0, self._count(name) + more), self._clock())
