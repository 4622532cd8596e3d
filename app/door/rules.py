"""Which requests are answered: to which names, from which sites, and what every answer says to the browser."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

HOSTS = "NEARL_HOSTS"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SPACE_PARENTS = ("https://huggingface.co", "https://*.huggingface.co", "https://*.hf.space")
SHARED = ".gradio.live"  # the names of Gradio's public links
NAVIGABLE = re.compile(r"/(login(/.*)?)?")  # what other sites may link to; not /logout
# Gradio's own files and the page's, no visitor's
STATIC = re.compile(r"(/gradio_api)?/theme\.css|/favicon\.ico|/(assets|images|static|svelte)/.*")
FETCHED = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)


@dataclass(frozen=True)
class Rules:
    """How the page is served."""

    names: frozenset[str] | None = frozenset()
    """Names that it answers to besides addresses and localhost; one that begins with a dot stands for all that end so.
    None for any name: a proxy in front sees to it."""
    parents: tuple[str, ...] = ()
    """Other sites that may show the page in a frame."""
    login: bool = False
    """Whether everything needs a login."""

    def answers_to(self, host: str) -> bool:
        """Whether a Host header is one of ours. A page elsewhere can let its own name point to this machine, and its
        script would then count as ours; an address in the header cannot come about so."""
        name = _name(host)
        if self.names is None or name == "localhost" or name.endswith(".localhost"):
            return True
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return self._named(name)

    def _named(self, name: str) -> bool:
        known = self.names or ()
        return name in known or any(each.startswith(".") and name.endswith(each) for each in known)

    def another_site(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        """Whether a page of another site has sent this request, and not just a link to this page.

        Browsers say so in Sec-Fetch-Site, or, where the page is served without TLS, in Origin alone. Programs send
        neither.
        """
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site in ("same-origin", "none"):
            return False
        if site is not None:
            link = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
            return not (link and NAVIGABLE.fullmatch(path))
        if origin is None:
            return False
        sender = urlsplit(origin).netloc
        return _without_port(sender) != _without_port(headers.get("host", "")) and not self._named(_name(sender))

    @property
    def headers(self) -> dict[str, str]:
        """What every answer says."""
        return {
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": " ".join(("frame-ancestors 'self'", *self.parents)),
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }


def rules(host: str, names: Iterable[str], *, login: bool, share: bool) -> Rules:
    """The rules for a page that is served on `host`. `names`: further names that it answers to, or whole addresses.

    On a Space the names and TLS are the proxy's, and the Hub shows the page in a frame.
    """
    if os.environ.get("SPACE_ID"):
        return Rules(None, SPACE_PARENTS, login)
    known = {*names, *os.environ.get(HOSTS, "").split(","), host, os.environ.get("GRADIO_ROOT_PATH", "")}
    known = {_name(urlsplit(name).netloc) if "/" in name else name for name in known}
    if host not in LOOPBACK:
        known |= {socket.gethostname(), f"{socket.gethostname()}.local"}
    known = {name.strip().lower() for name in known} - {""}
    if share:
        known.add(SHARED)
    return Rules(None if "*" in known else frozenset(known), (), login)


def names_an_address(value: object) -> bool:
    """Whether anywhere in the inputs of an event there is a file that Gradio would fetch from an address."""
    todo = [value]
    while todo:
        found = todo.pop()
        if isinstance(found, dict):
            if isinstance(found.get("path"), str) and FETCHED.match(found["path"]):
                return True
            todo += found.values()
        elif isinstance(found, (list, tuple)):
            todo += found
    return False


def _name(host: str) -> str:
    """The name or address in a Host header, without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _without_port(host: str) -> str:
    """The same host where it names the usual port."""
    return re.sub(r":(80|443)$", "", host.strip().lower())
