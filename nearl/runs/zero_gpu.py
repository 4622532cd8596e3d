"""The GPU of a ZeroGPU Space, which is lent for one call at a time. Imported on such Spaces alone, and early: the Space
wants to see while it starts what needs the GPU.

A call is forked into a process of its own. Whose quota it uses, the `spaces` package reads in the calling thread from
the request that Gradio keeps in its context, so whoever calls `work` sees to that request.
"""

from __future__ import annotations

import html
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import spaces
import torch

from nearl.errors import NearlError
from nearl.methods import card
from nearl.runs.folder import RunFolder
from nearl.runs.job import UNTAUGHT, Job, Pair
from nearl.runs.status import STARTING
from nearl.runs.teaching import Event, LeftOff, perform, why
from nearl.train.recipe import Snapshot

log = logging.getLogger("nearl.runs")

# Seconds, generous for a ViT-B/16; our choice.
LIMIT = 120  # most to ask for at a time
START = 20  # the process starts and loads the model
IMAGE = 0.03  # an image with its augmented views
STEP, FEATURE_STEP = 0.1, 0.01  # through the towers, and on features alone

REFUSALS = (  # what the message of a refusal has in it, and what is said of it
    ("aborted", "The GPU was taken back before this was done"),
    (
        "expired",
        "This page is too old for the Space to know whose GPU time to use; reload it before the next run",
    ),
    ("duration", "This needs more GPU time than the Space gives at once"),
    ("quota|credits|limit", "The GPU time that you have here is used up for now"),
    ("available", "No GPU is free now"),
    ("", "The GPU cannot be used now"),
)
ON = "Teaching goes on on the CPU, which is slower."


@dataclass(frozen=True)
class _Failed:
    """The last event of a call that has failed; an exception would leave the call's process without its words."""

    sentence: str


def seconds(job: Job, pairs: Sequence[Pair], state: Snapshot | None = None, stop: object = None) -> int:
    """How long to ask for the GPU, from the images, steps and methods. Takes what the call takes."""
    parts = 1 + (len(job.split.folds) if job.split.kind == "folds" else 0)
    need = START + IMAGE * len(job.files)
    for name, seed in pairs:
        if name != UNTAUGHT:
            need += parts * job.recipe_of(name, seed).steps * (FEATURE_STEP if card(name).features else STEP)
    return min(math.ceil(need), LIMIT)


@spaces.GPU(duration=seconds)
def _call(
    job: Job, pairs: Sequence[Pair], state: Snapshot | None, stop: Callable[[], bool]
) -> Iterator[Event | _Failed]:
    try:
        yield from perform(job, pairs, state, stop)
    except Exception as error:
        yield _Failed(why(error))


def work(run: RunFolder, give_way: Callable[[], bool]) -> bool | None:
    """Do what is left of a run, every method in a call of its own: True where it gave way to others, False where it has
    ended. None where the GPU was refused or taken back; the run can then be resumed without it, and its status says
    why."""
    run.wait(STARTING)
    try:
        job = run.job()
        if torch.cuda.is_available():  # the job was made by a process that has none
            job.backbone["device"] = "cuda"
        while not run.look().finished:
            for _ in run.record(_events(job, run)):
                pass
            if not run.look().finished and give_way():
                return True
    except LeftOff as error:
        run.wait(STARTING, note=str(error))
        return None
    except NearlError:  # the sentence is in the status
        pass
    return False


def _events(job: Job, run: RunFolder) -> Iterator[Event]:
    """The next method's events. LeftOff with a sentence where the Space refuses or ends the call."""
    try:
        for event in _call(job, run.todo()[:1], run.snapshot(), run.cancel_requested):
            if isinstance(event, _Failed):
                raise NearlError(event.sentence)
            yield event
    except NearlError:
        raise
    except Exception as error:  # of the `spaces` package
        log.warning("the GPU was refused: %s", error)
        raise LeftOff(refusal(error)) from error


def refusal(error: Exception) -> str:
    """The sentence for an exception of the `spaces` package."""
    said = html.unescape(re.sub(r"<[^>]*>", "", f"{getattr(error, 'title', '')} {getattr(error, 'message', error)}"))
    words = next(words for pattern, words in REFUSALS if re.search(pattern, said, re.IGNORECASE))
    again = re.search(r"Try again in ((?:\d+ days?, )?[\d:]+)", said)
    return f"{words}{f' (more in {again[1]})' if again else ''}. {ON}"
