"""The images that one visitor looks at, and how the model reads them. In memory alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from app.visitor.limits import PUT_AWAY
from app.visitor.maps import Maps
from app.visitor.shelf import Shelf
from nearl.data.images import ImageRecord, Problem
from nearl.prompts import PromptSet

if TYPE_CHECKING:
    from nearl.backbones import Backbone
    from nearl.reading.classifier import Classifier, Prediction
    from nearl.reading.volumes import VolumeReading


class Viewing:
    """Images, prompts and reading. Other modules look at the attributes and change them through the methods alone.

    `lock` is held while an attribute is replaced; hold it around several calls that belong together. `hold` is called
    when there are images.
    """

    def __init__(self, lock: threading.RLock, maps: Maps, shelf: Shelf, hold: Callable[[], None]):
        self._lock, self._maps, self._shelf, self._hold = lock, maps, shelf, hold
        self.records: list[ImageRecord] = []
        self.problems: list[Problem] = []  # files that could not be read
        self.refused = False  # these are all files that were brought last, and the images are those before
        self.synthetic = False  # the images are synthetic examples
        self.credit = ""  # whose the example on show is
        self.selected = 0  # the place of the image on show
        self._classifier: Classifier | None = None
        self._make: Callable[[PromptSet], Classifier] | None = None
        self._kept: Callable[[Backbone], bool] = lambda backbone: True
        self.prediction: Prediction | None = None  # of all images; None until they are read
        self.kinds: set[str] = set()  # of the images last read, as the model knows them
        self._found: dict[int, Any] = {}
        self.closer: list[list[str]] = []  # for each image, ready sets whose prompts are closer to it
        self._studied: Sequence[Any] = ()
        self.together = "top-k"  # how the slices of a scan are put together
        self._volume: tuple[tuple, VolumeReading] | None = None
        self._prompts: PromptSet | None = None
        self._returning = False

    @property
    def memory(self) -> int:
        """Bytes of decoded images."""
        return sum(map(memory_of, list(self.records)))

    @property
    def empty(self) -> bool:
        """Whether there is nothing that only memory holds."""
        return not (self.records or self.problems or self._make)

    @property
    def missing(self) -> str:
        """Why there is no image, in a sentence."""
        away = [problem.reason for problem in self.problems if problem.reason == PUT_AWAY]
        return away[0] if away else "There is no image yet; choose an example or bring one."

    @property
    def record(self) -> ImageRecord | None:
        """The image on show."""
        return self.records[self.selected] if self.records else None

    @property
    def own(self) -> bool:
        """Whether the images are the visitor's own, not an example."""
        return not (self.synthetic or self.credit)

    @property
    def prompts(self) -> PromptSet | None:
        """The prompts last read with; where nothing was read yet, those of the adapter in use."""
        if self._prompts is None and self._shelf.adapter is not None:
            self._prompts = PromptSet.from_dict(self._shelf.adapter.meta["prompts"])
        return self._prompts

    # ---- images

    def bring(
        self, records: list[ImageRecord], problems: list[Problem], synthetic: bool = False, credit: str = ""
    ) -> None:
        """Replace the images and forget what was read from the earlier ones."""
        with self._lock:
            self.records, self.problems, self.selected = records, problems, 0
            self.synthetic, self.credit = synthetic, credit
            self._returning = False
            self.refused = False
            self.prediction = self._volume = None
            self._found = {}
            self._maps.clear()
            self._hold()

    def leave_out(self, problems: list[Problem]) -> None:
        """Keep the images and their reading: of the new files none can be read."""
        with self._lock:
            self.problems, self.refused = problems, True

    def put_away(self) -> None:
        """Give up the images, because others need the memory, unless something is being done with them just now."""
        if self.records and self._lock.acquire(blocking=False):
            try:
                self.bring([], [Problem("your images", PUT_AWAY)])
            finally:
                self._lock.release()

    def take(self, other: Viewing) -> None:
        """Begin with the images and prompts that another page shows."""
        with other._lock:
            records, problems, whose = list(other.records), other.problems, (other.synthetic, other.credit)
            prompts, selected = other._prompts, other.selected
        if records or problems:
            self.bring(records, problems, *whose)
            self._prompts, self.selected = prompts, selected
            self.page_opened()

    def select(self, place: int) -> None:
        """Show the image at this place, with the map of its own answer; places beyond the last start again at the
        first."""
        with self._lock:
            self.selected = place % max(len(self.records), 1)
            self._maps.pick("")

    def redraw(self, record: ImageRecord) -> None:
        """Put another drawing of the same scan in the place of the image on show."""
        with self._lock:
            self.records[self.selected] = record

    def redraw_all(self, records: list[ImageRecord]) -> None:
        """Put other drawings of the same scans in the place of all images, before they are read."""
        with self._lock:
            self.records = records

    # ---- reading

    def ask(
        self,
        prompts: PromptSet,
        make: Callable[[PromptSet], Classifier],
        kept: Callable[[Backbone], bool] = lambda model: True,
    ) -> Classifier:
        """The classifier, with these prompts; `make` gives one where there is none yet, and again after `rest`.
        `kept`: whether a model is still in memory for all; one that is not is not held here either."""
        with self._lock:
            found = self._classifier
            other = self._prompts is None or self._prompts.digest != prompts.digest
            if other:
                self._maps.clear()
            if found is None:
                found = make(prompts)
                self._make, self._kept = make, kept
                self._store(found)
            elif other:
                found.set_prompts(prompts)
            self._prompts = prompts
            return found

    def _store(self, classifier: Classifier) -> None:
        """Keep a classifier, unless its model has left memory while it was made."""
        self._classifier = classifier
        if not self._kept(classifier.backbone):
            self.rest()

    @property
    def classifier(self) -> Classifier | None:
        """What the images were last read with; None before they are. It takes no lock: a thread that has the device
        may ask for it."""
        found, make = self._classifier, self._make
        if found is None and make is not None:
            found = make(self._prompts)
            if self._make is make:  # else the adapter has changed meanwhile
                self._store(found)
        return found

    def rest(self) -> None:
        """Give up the classifier, with all that it has computed; it is made again when it is asked for."""
        self._classifier = None

    def let_go(self, backbone: Backbone) -> None:
        """Rest where the classifier is one of this model, loaded now or earlier."""
        found = self._classifier
        if found is not None and found.backbone.name == backbone.name:
            self.rest()
            self._maps.let_go()

    def keep_found(self, place: int, found: Any) -> None:
        """Keep what the model makes of an image before it is read, an `app.predict.actions.Recognised`."""
        with self._lock:
            self._found[place] = found

    def found_of(self, place: int) -> Any:
        """What was kept of the image at this place; None where nothing was."""
        return self._found.get(place)

    @property
    def found(self) -> Any:
        """The same of the image on show."""
        return self._found.get(self.selected)

    def keep(self, prediction: Prediction, closer: list[list[str]], studied: Sequence[Any] = ()) -> None:
        """Keep what was read from all images. `studied`: for each an `app.predict.study.actions.Studied` where it was
        read as a study, else None."""
        with self._lock:
            self.prediction, self.closer, self._studied = prediction, closer, studied
            self.kinds = {claim.kind for claim in prediction.claims or ()}

    @property
    def studied(self) -> Any:
        """How the image on show was read as a study; None where it was not."""
        return self.studied_of(self.selected)

    def studied_of(self, place: int) -> Any:
        """The same of the image at this place."""
        found = self._studied
        return found[place] if self.prediction is not None and place < len(found) else None

    def forget_reading(self, prompts: PromptSet | None) -> None:
        """The adapter has changed: forget what was read with the earlier one. `prompts`: those of the new one."""
        with self._lock:
            self._classifier = self._make = self.prediction = None
            self._found = {}
            self._maps.clear()
            self._prompts = self._prompts if prompts is None else prompts

    def keep_volume(self, key: tuple, reading: VolumeReading) -> None:
        """Keep the reading of a scan's slices. `key`: what it depends on."""
        with self._lock:
            self._volume = (key, reading)

    def combine(self, together: str) -> None:
        """Put the slices of a scan together in this way from now on."""
        with self._lock:
            self.together = together

    def volume(self, key: tuple) -> VolumeReading | None:
        """The reading that was kept under this key, if it is the latest."""
        kept = self._volume
        return kept[1] if kept is not None and kept[0] == key else None

    # ---- pages

    def page_opened(self) -> None:
        """A page was opened that does not show the images yet."""
        with self._lock:
            self._returning = bool(self.records)

    def page_shown(self) -> bool:
        """Whether a page is still to be shown the images; asked once."""
        with self._lock:
            waiting, self._returning = self._returning, False
            return waiting


def memory_of(record: ImageRecord) -> int:
    """Bytes of an image and of the scan behind it."""
    return record.pixels.nbytes + (record.scan.voxels.nbytes if record.scan is not None else 0)
