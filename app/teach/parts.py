"""What the parts of the Teach tab share: their components, what was pressed in them, and the choice of how to teach."""

from __future__ import annotations

from dataclasses import dataclass, fields

import gradio as gr

from app.teach.actions import Choice
from nearl.errors import NearlError


class Parts:
    """Base of the dataclasses of components; `outputs` are all of them."""

    @property
    def outputs(self) -> list:
        return [getattr(self, field.name) for field in fields(self) if field.metadata.get("output", True)]


@dataclass
class Controls(Parts):
    """How to teach, in the order in which `choice_of` takes the values."""

    preset: gr.Radio
    hold_out: gr.Slider
    group_by: gr.Textbox
    augment: gr.Radio
    flip: gr.Checkbox
    steps: gr.Number
    lr: gr.Number
    early_stop: gr.Checkbox


def choice_of(values: tuple) -> Choice:
    """The values of Controls as a choice; 0 stands for the preset's own."""
    preset, hold_out, group_by, augment, flip, steps, lr, early_stop = values
    return Choice(
        preset=preset,
        hold_out=float(hold_out or 0) / 100,
        group_by=(group_by or "").strip(),
        augment=augment,
        flip=bool(flip),
        steps=int(steps) if steps else None,
        lr=float(lr) if lr else None,
        early_stop=bool(early_stop),
    )


@dataclass(frozen=True)
class Pressed:
    """What assets/page/act.js sent: the act, numbers by name, the ticked numbers and the text of a form's field."""

    act: str
    data: dict
    ticked: list[int]
    to: str

    @classmethod
    def of(cls, event: gr.EventData) -> Pressed:
        data = dict(event._data or {})
        ticked = [int(i) for i in data.get("ticked") or [] if isinstance(i, int | float)]
        return cls(str(data.get("act", "")), data, ticked, str(data.get("to", "")))

    def number(self, name: str, default: int | None = None) -> int:
        """NearlError where it is none: the page shows something that is no longer there."""
        try:
            return int(self.data[name])
        except (KeyError, TypeError, ValueError):
            if default is not None:
                return default
            raise NearlError("This is no longer there; load the page anew.") from None

    def pick(self, name: str, choices: list):
        """The entry of `choices` whose place was sent under `name`."""
        place = self.number(name)
        if not 0 <= place < len(choices):
            raise NearlError("This is no longer there; load the page anew.")
        return choices[place]
