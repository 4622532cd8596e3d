"""The one model that all visitors share: loaded once, in the background, and used by one of them at a time."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING

from app.work.lanes import Lanes
from app.work.queue import Queue
from nearl.errors import NearlError
from nearl.prompts import PromptSet, ready_sets
from nearl.runs import ZERO_GPU

if TYPE_CHECKING:
    from torch import Tensor

    from nearl.backbones import Backbone

log = logging.getLogger("nearl.app")


class DeviceLock:
    """A lock that serves its waiters in the order in which they came, so that teaching never starves a reading."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._held = False

    def __enter__(self) -> DeviceLock:
        with self._guard:
            if not self._held:
                self._held = True
                return self
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()  # handed over while still held
            else:
                self._held = False

    def give_way(self) -> None:
        """Let whoever waits have a turn first, while this thread holds the lock; it holds it again afterwards."""
        self.__exit__()
        self.__enter__()


FALLBACK = "embedded"  # always on disk


class Engine:
    """Loads the backbone in the background; holds its lock, the queue of long work and the lanes of short work.

    A model that cannot be loaded, for example without a network, is replaced by the embedded one; `notice` then says
    why. Hold `device_lock` around every pass through the model. `imported` is set once the packages that the tabs use
    have been imported.
    """

    def __init__(self, name: str = "embedded", device: str = "auto", weights: str = "pretrained"):
        self.name, self.device, self.weights = name, device, weights
        self.device_lock = DeviceLock()
        self.queue, self.lanes = Queue(), Lanes()
        self.imported, self._ready = threading.Event(), threading.Event()
        self._backbone: Backbone | None = None
        self._error = self.notice = ""
        self._ready_classes: dict[str, Tensor] = {}
        self._ready_lock = threading.Lock()

    def start(self) -> None:
        """Start loading; returns at once."""
        threading.Thread(target=self._load, name="load-backbone", daemon=True).start()

    def _load(self) -> None:
        self._import()
        try:
            self._backbone = self._load_one(self.name)
        except NearlError as error:
            self._error = str(error)
        if self._backbone is None and self.name != FALLBACK:
            log.warning("%s", self._error)
            try:
                self._backbone = self._load_one(FALLBACK)
                self.notice, self.name = f"{self._error} Until then, “{FALLBACK}” is in use.", FALLBACK
            except NearlError as error:
                log.error("%s", error)
        elif self._backbone is None:
            log.error("%s", self._error)
        self._ready.set()
        if self._backbone is not None:
            self.ready_classes()  # before a visitor waits for it

    def _import(self) -> None:
        """Import what the tabs need of `nearl`, and torch with it: after the page is up, since it takes seconds, and in
        one thread, since two that import the same large packages at once can both fail."""
        try:
            import pytorch_grad_cam  # noqa: F401

            import nearl.data.checks
            import nearl.data.phantoms.kinds
            import nearl.explain
            import nearl.reading.classifier
            import nearl.runs.process  # noqa: F401
        except Exception:  # loading the model says it in words
            log.exception("importing")
        finally:
            self.imported.set()

    def _load_one(self, name: str) -> Backbone:
        """The model of that name. Any failure is a NearlError; an unexpected one is logged in full."""
        try:
            from nearl.backbones import load_backbone

            device = self.device
            if device == "auto" and ZERO_GPU in os.environ:
                device = "cpu"  # there is a GPU only within calls that ask for it, as teaching does
            return load_backbone(name, device=device, weights=self.weights)
        except NearlError:
            raise
        except Exception as error:
            log.exception("loading %s", name)
            raise NearlError(
                f"The model '{name}' could not be loaded; the reason is on the server's console."
            ) from error

    def ready_classes(self) -> dict[str, Tensor]:
        """Class embeddings [C, E] of the ready prompt sets that are not synthetic, by name; computed once, under the
        device lock."""
        from nearl.methods import Frozen

        frozen = Frozen(self.backbone())
        with self._ready_lock:
            for name, path in ready_sets().items():
                prompt_set = PromptSet.load(path)
                if name not in self._ready_classes and not prompt_set.synthetic:
                    with self.device_lock:
                        self._ready_classes[name] = frozen.classes(prompt_set)
        return self._ready_classes

    @property
    def label(self) -> str:
        """The name to show; for a local folder its last part."""
        return self.name.rstrip("/").rsplit("/", 1)[-1] if self.name.startswith("local-dir:") else self.name

    @property
    def state(self) -> str:
        """ "loading", "ready", or a sentence that says why there is no model."""
        if not self._ready.is_set():
            return "loading"
        return "ready" if self._backbone is not None else self._error

    def backbone(self, timeout: float = 300.0) -> Backbone:
        """Waits for the model, at most `timeout` seconds. NearlError if there is none."""
        if not self._ready.wait(timeout):
            raise NearlError(f"The model '{self.name}' is still loading; try again in a minute.")
        if self._backbone is None:
            raise NearlError(self._error)
        return self._backbone
