"""A parser of the command line that answers wrong arguments with one sentence instead of the list of all options."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

KINDS: dict[Any, str] = {int: "a whole number", float: "a number"}  # what a value is, by the type of its option


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors say what is wrong, which option is meant and where to read on."""

    _given: Sequence[str] = ()

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            command = self._commands.get(getattr(found, "command", ""), self)
            command._refuse(command._unknown(rest) or f"'{rest[0]:.40}' is one argument too many.")
        return found

    def parse_known_args(self, args=None, namespace=None):
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self._refuse(self._missing(message) or self._about_one(message) or f"{message.rstrip('.')}.")

    def _refuse(self, sentence: str) -> NoReturn:
        self.exit(2, f"{self.prog.split()[0]}: {sentence} `{self.prog} --help` lists what there is.\n")

    def _unknown(self, words: Iterable[str]) -> str:
        """What to say of the first option among the words that there is not; "" where there is none."""
        for word in words:
            name = word.partition("=")[0]
            if re.match("--?[a-z]", name) and not any(known.startswith(name) for known in self._option_string_actions):
                return f"There is no option {name:.40}{_meant(name, self._option_string_actions)}"
        return ""

    def _missing(self, message: str) -> str:
        """The sentence for arguments that are missing, perhaps since one was misspelt; "" for another mistake."""
        _, found, names = message.partition("arguments are required: ")
        if not found:
            return ""
        if names == "COMMAND":
            return self._unknown(self._given) or "Say what to do, with a command."
        actions = [action for action in self._actions if _name(action) in names.split(", ")]
        told = [f"{_shown(action)}{f' ({action.help})' if action.help else ''}" for action in actions]
        return self._unknown(self._given) or f"Missing: {', '.join(told) or names}."

    def _about_one(self, message: str) -> str:
        """The sentence for a mistake in one argument; "" for another mistake."""
        found = re.fullmatch(r"argument (.+?): (.+)", message, re.DOTALL)
        if found is None:
            return ""
        name, what = found.groups()
        action = next((one for one in self._actions if _name(one) == name), None)
        if action is None:
            return f"{name}: {what}."
        wrong = re.search(r"invalid (?:choice|\S+ value): '(.*?)'", what, re.DOTALL)
        if wrong is None:
            about = f": {action.help}" if action.help else ""
            return f"{_shown(action)} needs a value{about}." if "expected" in what else f"{name}: {what}."
        if action.dest == "command":
            return f"There is no command '{wrong[1]:.40}'{_meant(wrong[1], action.choices)}"
        if action.choices is not None:
            return f"{name} is one of {', '.join(map(str, action.choices))}, not '{wrong[1]:.40}'."
        return f"{name} takes {KINDS.get(action.type, 'another value')}, not '{wrong[1]:.40}'."

    @property
    def _commands(self) -> dict[str, Parser]:
        groups = (action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return dict(next(groups, {}))


def _name(action: argparse.Action) -> str:
    """The name of an argument in the messages of argparse."""
    return "/".join(action.option_strings) or str(action.metavar or action.dest)


def _shown(action: argparse.Action) -> str:
    """An argument as it is written, with what stands for its value."""
    named = action.option_strings and action.nargs != 0 and not action.choices
    return f"{_name(action)} {action.metavar or action.dest.upper()}" if named else _name(action)


def _meant(word: str, known: Iterable[str] | None) -> str:
    """The end of a sentence that asks for the known word that is most like this one, where one is alike."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known or ()), n=1)
    return f"; do you mean {near[0]}?" if near else "."
