"""Which workspace every open page has. A page is one tab of a browser, known by the hash of its session; the tabs of
a browser share a workspace, but each looks at images of its own."""

from __future__ import annotations

import threading

from app.visitor.registry import Registry
from app.visitor.workspace import Workspace

PATIENCE = 5.0  # seconds that an event waits for the opening of its page
MAX_PAGES = 4096


class Pages:
    """The open pages.

    A page that opens asks for the workspace that its browser remembers. A click may reach the server before that: it
    waits for the opening, so that it works in the workspace that the page then has.
    """

    def __init__(self, registry: Registry, patience: float = PATIENCE):
        self._registry, self._patience = registry, patience
        self._keys: dict[str, str] = {}  # by page, the latest last
        self._programs: dict[str, str] = {}  # by session
        self._opened = threading.Condition()

    def open(self, page: str, key: str | None) -> Workspace:
        """The workspace of a page that opens. `key`: what its browser remembers.

        Where an event has waited too long and begun a workspace of its own, its images are moved.
        """
        with self._opened:
            begun = self._keys.get(page)
            workspace = self._registry.get(key or begun)
            self._remember(page, workspace)
            self._opened.notify_all()
        seen = workspace.seen_by(page)
        if begun is not None and begun != workspace.id:
            seen.viewing.take(self._registry.get(begun).seen_by(page).viewing)
        return seen

    def expected(self, page: str | None) -> bool:
        """Whether a page has not opened yet, so that its events have to wait."""
        return page is not None and page not in self._keys

    def program(self, session: str | None, key: str | None) -> Workspace:
        """The workspace of a program's call, begun by its first one. Calls that come together before that one has
        answered do not know its id (`key`) yet, but the session."""
        with self._opened:
            workspace = self._registry.get(key or self._programs.get(session))
            if session is not None:
                self._programs[session] = workspace.id
                if len(self._programs) > MAX_PAGES:
                    del self._programs[next(iter(self._programs))]
            return workspace

    def workspace(self, page: str | None, key: str | None) -> Workspace:
        """The workspace of an event. `page`: where it comes from, if that is known; `key`: of the page's session."""
        with self._opened:
            if page is None:
                return self._registry.get(key)
            if key is None:
                self._opened.wait_for(lambda: page in self._keys, self._patience)
            workspace = self._registry.get(self._keys.get(page) or key)
            self._remember(page, workspace)
        return workspace.seen_by(page)

    def known(self, key: str | None) -> Workspace | None:
        """The workspace of that id where there is one in memory; none is begun, and no page is waited for."""
        return self._registry.known(key)

    def close(self, page: str) -> None:
        """The page was closed or the program ended; its workspace is left behind, unless another page has it too."""
        with self._opened:
            key = self._keys.pop(page, None) or self._programs.get(page)
            if key is not None:
                self._registry.page_closed(key, page)
            if key not in self._keys.values():
                self._registry.leave(key)

    def _remember(self, page: str, workspace: Workspace) -> None:
        self._keys.pop(page, None)
        self._keys[page] = workspace.id
        if len(self._keys) > MAX_PAGES:
            del self._keys[next(iter(self._keys))]
