"""How far a run is: one frozen value that is read once per look at the run's folder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from nearl.runs.teaching import Step

WAITING, STARTING, TEACHING, CHECKING = "waiting", "starting", "teaching", "checking"
DONE, CANCELLED, FAILED, INTERRUPTED = "done", "cancelled", "failed", "interrupted"

Curve = tuple[tuple[int, float], ...]
LONGEST_CURVE = 400  # points that are kept of a curve


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Status:
    """Everything that a page shows of a run's progress (`nearl.runs.RunFolder.look`)."""

    state: str = WAITING
    """waiting -> teaching -> checking -> done | cancelled | failed; "interrupted": left in the middle by a process that
    has ended, and resumable."""
    phase: str = ""
    """What is being done: "starting", "teaching", "fold 2 of 4" or "checking"."""
    method: str = ""
    """The method that is being taught, or was last."""
    seed: int = 0
    """Its seed."""
    step: int = 0
    """Steps done in this phase; images in "checking"."""
    steps: int = 0
    """All steps of this phase; 0 where a method has none."""
    seconds_left: float | None = None
    """Estimate for this method and seed."""
    error: str = ""
    """The sentence that says why the run failed, or ""."""
    note: str = ""
    """What is worth knowing of how it is done, a sentence, or ""."""
    stopped: str = ""
    """How it ended: "", "early" (the training loss no longer fell) or "cancelled"."""
    done: int = 0
    """How many pairs of method and seed are finished or have failed."""
    total: int = 1
    """How many there are."""
    losses: Curve = ()
    """(step, training loss) of the method that is being taught, without its folds."""
    held: Curve = ()
    """(step, balanced accuracy on held-out images) where it was measured."""

    @property
    def finished(self) -> bool:
        """Whether the run has ended; a failed one may be started again."""
        return self.state in (DONE, CANCELLED, FAILED)


def after(status: Status, step: Step) -> Status:
    """The status after a step; a resumed run repeats some steps."""
    fresh = (step.method, step.seed) != (status.method, status.seed)
    losses, held = ((), ()) if fresh else (status.losses, status.held)
    if step.phase == TEACHING:
        losses, held = _with(losses, step.step, step.loss), _with(held, step.step, step.held_out)
    return replace(
        status,
        state=CHECKING if step.phase == CHECKING else TEACHING,
        phase=step.phase, method=step.method, seed=step.seed, step=step.step, steps=step.steps,
        seconds_left=step.seconds_left, losses=losses, held=held, note=step.note or status.note,
    )  # fmt: skip


def _with(curve: Curve, step: int, value: float | None) -> Curve:
    """The curve with another point, every second point left out where there are too many."""
    before = tuple(point for point in curve if point[0] < step)
    before = before[::2] if len(before) >= LONGEST_CURVE else before
    return before if value is None else (*before, (step, value))
