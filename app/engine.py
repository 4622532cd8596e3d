"""The device that all visitors share, one of them at a time, and the models that they choose among."""

from __future__ import annotations

import logging
import os
import threading
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.models.download import Downloads
from app.models.memory import GB, Models, label
from app.visitor.workspace import Workspace
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
    """Loads models; holds the lock of their device, the queue of long work and the lanes of short work.

    `name`: the model that visitors begin with, loaded in the background. Where it cannot be loaded, for example without
    a network, the embedded one takes its place, and `notice` says why. `offered`: what visitors may choose instead;
    what is not on this machine then is one of `downloads`.
    `memory`: bytes for all models together. Hold `device_lock` around every pass through a model. `imported` is set
    once the packages that the tabs use have been imported.
    """

    def __init__(
        self,
        name: str = "embedded",
        device: str = "auto",
        weights: str = "pretrained",
        offered: Sequence[str] = (),
        memory: float = 4 * GB,
    ):
        self.name, self.device, self.weights = name, device, weights
        self.device_lock = DeviceLock()
        self.queue, self.lanes = Queue(self.chosen), Lanes()
        names = dict.fromkeys([name, *offered])
        self.models = Models(list(names), self._load_one, memory, lambda: self.queue.models())
        self.downloads = Downloads(self.models.get)
        self.imported, self._ready = threading.Event(), threading.Event()
        self._error = self.notice = ""
        self._ready_classes: dict[str, dict[str, Tensor]] = defaultdict(dict)  # by model
        self._ready_locks: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def start(self) -> None:
        """Start loading; returns at once."""
        threading.Thread(target=self._load, name="load-backbone", daemon=True).start()

    def _load(self) -> None:
        self._import()
        try:
            self.models.get(self.name)
        except NearlError as error:
            self._error = str(error)
            log.log(logging.ERROR if self.name == FALLBACK else logging.WARNING, "%s", error)
            if self.name != FALLBACK:
                self._fall_back()
        self._ready.set()
        if not self._error:
            self.ready_classes(self.backbone())  # before a visitor waits for them

    def _fall_back(self) -> None:
        """Take the embedded model, which is always there, instead."""
        try:
            self.models.get(FALLBACK)
        except NearlError as error:
            log.error("%s", error)
            return
        self.notice, self._error = f"{self._error} Until then, “{FALLBACK}” is in use.", ""
        others = [name for name in self.models.names if name not in (FALLBACK, self.name)]
        more = [self.name] if others else []  # it may be downloaded later where there is a choice
        self.models.names[:] = [FALLBACK, *more, *others]
        self.name = FALLBACK

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

    def ready_classes(self, backbone: Backbone) -> dict[str, Tensor]:
        """Class embeddings [C, E] of the ready prompt sets that are not synthetic, by name; computed once for each
        model, under the device lock."""
        from nearl.methods import Frozen

        found, frozen = self._ready_classes[backbone.name], Frozen(backbone)
        with self._ready_locks[backbone.name]:
            for name, path in ready_sets().items():
                prompt_set = PromptSet.load(path)
                if name not in found and not prompt_set.synthetic:
                    with self.device_lock:
                        found[name] = frozen.classes(prompt_set)
        return found

    # ---- of one visitor

    def chosen(self, workspace: Workspace | None = None) -> str:
        """The name of the model that a visitor reads with; that of the page where they chose none, or one that is no
        longer here."""
        if workspace is None or not self.models.several:
            return self.name
        name = workspace.model
        return name if name in self.models.names and self.models.here(name) else self.name

    def label(self, workspace: Workspace | None = None) -> str:
        """The name of the visitor's model to show; for a local folder its last part."""
        return label(self.chosen(workspace))

    def state(self, workspace: Workspace | None = None) -> str:
        """ "loading", "ready", or a sentence that says why there is no model for this visitor."""
        chosen = self.chosen(workspace)
        if not self._ready.is_set() or self.models.loading == chosen:
            return "loading"
        return self._error if self._error and chosen == self.name else "ready"

    def backbone(self, workspace: Workspace | None = None, timeout: float = 300.0) -> Backbone:
        """The visitor's model. Waits for the first one at most `timeout` seconds. NearlError if there is none."""
        if not self._ready.wait(timeout):
            raise NearlError(f"The model '{self.name}' is still loading; try again in a minute.")
        chosen = self.chosen(workspace)
        if self._error and chosen == self.name:
            raise NearlError(self._error)
        return self.models.get(chosen)

    def home(self, workspace: Workspace, about: Mapping[str, str]) -> str:
        """The name of the model that an adapter belongs to, by what it says of its backbone; of the visitor's model
        where it belongs to none that is offered.

        NearlError where that one is not on this machine.
        """
        found = self.models.owner(about) or self.chosen(workspace)
        if found != self.chosen(workspace) and not self.models.here(found):
            raise NearlError(
                f"This adapter was taught on “{label(found)}”, which is not on this machine yet; download it under "
                "“Models”, at the top of the page, first."
            )
        return found
