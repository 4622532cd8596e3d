"""Adapters to and from the Hugging Face Hub, through ``huggingface_hub``. Every failure is one sentence.

A token is used for the call it is given to and nowhere else: none is stored, logged or repeated in a message, and none
is taken from the machine unless the caller asks ``saved_token`` for it (in a Space that would be the operator's own).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from nearl.adapters.card import CARD
from nearl.adapters.store import LIMITS, META, Adapter, adapter_files, load_adapter
from nearl.backbones import REGISTRY
from nearl.backbones.catalogue import HUB, split
from nearl.errors import NearlError

# The client's native part for large files (hf_xet) reads these at its first use. By itself it would try again for six
# minutes, wait for five, and report on its own use.
XET = {"CLIENT_RETRY_MAX_DURATION": "20s", "CLIENT_CONNECT_TIMEOUT": "15s", "CLIENT_READ_TIMEOUT": "60s"}
for setting, value in {**XET, "TELEMETRY_ENABLED": "false"}.items():
    os.environ.setdefault(f"HF_XET_{setting}", value)

TIMEOUT_S = 60  # of silence
LOOK_TIMEOUT_S = 15  # of the first call, which tells whether the Hub is there at all
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
EMPTY = {CARD, ".gitattributes"}  # what a repository may hold that nobody has put anything into yet


def check_repo_id(text: str) -> str:
    """The ``owner/name`` in what a person typed or pasted (an address of the Hub will do); else NearlError."""
    repo_id = re.sub(r"^https?://(www\.)?(huggingface\.co|hf\.co)/", "", str(text).strip()).rstrip("/")
    odd = "--" in repo_id or ".." in repo_id or repo_id.endswith(".git")
    if odd or len(repo_id) > 96 or not re.fullmatch(f"{PART}/{PART}", repo_id):
        shown = " ".join(repo_id.split())[:60]
        raise NearlError(
            f"'{shown}' is not the name of a repository on the Hub; write it as owner/name, "
            "with letters, digits, single hyphens, dots and underscores."
        )
    return repo_id


def saved_token() -> str | None:
    """This machine's own token (``HF_TOKEN``, or what ``hf auth login`` saved), for the command line only."""
    return get_token()


def push(
    adapter: Adapter, repo_id: str, token: str | None = None, private: bool = False, endpoint: str | None = None
) -> str:
    """Write the adapter with its card to a model repository, made if needed, as one commit; returns its address.

    A repository that already holds an adapter is updated; one that holds other things is left alone, and so is a public
    one if ``private`` is asked for. ``endpoint``: another Hub than the usual one; never for a visitor to choose.
    Raises NearlError.
    """
    repo_id = check_repo_id(repo_id)
    if not token:
        raise NearlError("Publishing needs your own Hub token with write access; sign in first (`hf auth login`).")
    files = adapter_files(adapter, _base_model(adapter))
    if any(len(files[name]) > limit for name, limit in LIMITS.items()):
        raise NearlError("This adapter is too large to be shared; nobody could load it.")
    with sentences(repo_id, token):
        get_session().timeout = TIMEOUT_S  # the client itself would wait for ever
        api = client(token, endpoint)
        info = _look(api, repo_id)
        names = _sizes(info).keys() if info else EMPTY
        if META not in names and not names <= EMPTY:
            raise NearlError(f"'{repo_id}' on the Hub holds something other than an adapter; choose another name.")
        if info and private and not info.private:
            raise NearlError(f"'{repo_id}' on the Hub is public; choose another name for a private adapter.")
        if not info:
            api.create_repo(repo_id, private=private)
        api.create_commit(
            repo_id,
            [CommitOperationAdd(name, data) for name, data in files.items()],
            commit_message="An adapter",
            parent_commit=info.sha if info else None,  # two who push at once do not overwrite each other
        )
        return f"{api.endpoint}/{repo_id}"


def pull(
    repo_id: str,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    identity: dict[str, str] | None = None,
) -> Adapter:
    """Download the two files of an adapter, their sizes checked first, and check them as ``load_adapter`` does.

    ``revision``: branch, tag or commit. ``identity``: that of the backbone in use, if the adapter must belong to it.
    Nothing stays on this machine: a shared cache would hand one visitor's private adapter to the next. NearlError.
    """
    repo_id = check_repo_id(repo_id)
    with sentences(repo_id, token), tempfile.TemporaryDirectory() as folder:
        get_session().timeout = TIMEOUT_S
        api = client(token, endpoint)
        info = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=LOOK_TIMEOUT_S)
        sizes = _sizes(info)
        for name, limit in LIMITS.items():
            if name not in sizes:
                raise NearlError(f"'{repo_id}' on the Hub holds no {name}, so it is not an adapter.")
            if sizes[name] is None or sizes[name] > limit:
                raise NearlError(f"{name} of '{repo_id}' on the Hub is too large to be an adapter.")
        for name in LIMITS:
            api.hf_hub_download(repo_id, name, revision=info.sha, local_dir=folder, cache_dir=Path(folder, "cache"))
        return load_adapter(folder, identity)


def client(token: str | None, endpoint: str | None = None) -> HfApi:
    """The Hub's client, which uses this token alone. NearlError for what cannot be a token."""
    if token and not re.fullmatch("[!-~]+", token):  # the client would put it into its error
        raise NearlError("This is not a Hub token: it holds spaces or unusual characters; sign in again.")
    return HfApi(endpoint=endpoint, token=token or False, library_name="nearl")  # False: not the machine's own either


def _look(api: HfApi, repo_id: str) -> ModelInfo | None:
    """What the Hub knows of a model repository, or None if there is none that this token may see."""
    try:
        return api.model_info(repo_id, timeout=LOOK_TIMEOUT_S)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


def _sizes(info: ModelInfo) -> dict[str, int | None]:
    return {file.rfilename: file.size for file in info.siblings or []}


def _base_model(adapter: Adapter) -> str | None:
    """``owner/name`` of the adapter's backbone on the Hub, if it is there."""
    name = str(adapter.meta["backbone"].get("name"))
    source = REGISTRY[name].source if name in REGISTRY else name
    try:
        return check_repo_id(split(source)[0]) if source.startswith(HUB) else None
    except NearlError:
        return None


@contextmanager
def sentences(repo_id: str, token: str | None, kind: str = "model") -> Iterator[None]:
    """Whatever goes wrong inside leaves as a NearlError of one sentence, without the client's own text and traceback,
    which may repeat what the server said about the request. ``kind``: of repository, "model" or "Space"."""
    try:
        yield
    except NearlError:
        raise
    except Exception as error:
        raise NearlError(_sentence(_root(error), f"'{repo_id}'", token, kind)) from None


def _root(error: BaseException) -> BaseException:
    """The failed request behind an error of the client."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError | OfflineModeIsEnabled) or "Timeout" in type(cause).__name__:
            return cause
        cause = cause.__cause__
    return error


def _sentence(error: BaseException, repo: str, token: str | None, kind: str) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return (
            "The Hub is switched off here (HF_HUB_OFFLINE is set, or there was no network when it was last tried); "
            "start the program again with a network."
        )
    if isinstance(error, GatedRepoError):
        return f"{repo} asks its visitors to accept terms; do so on its page on the Hub, then try again, signed in."
    if isinstance(error, DisabledRepoError):
        return f"The Hub has disabled {repo}; choose another one."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} on the Hub has no such version; leave the version out to take the newest."
    if isinstance(error, RepositoryNotFoundError):
        return f"There is no {kind} {repo} on the Hub, or only its owner may see it; check the name and sign in."
    if isinstance(error, EntryNotFoundError) and not isinstance(error, FileNotFoundError):
        return f"{repo} on the Hub is not an adapter: a file of it is missing."
    if isinstance(error, HfHubHTTPError):
        return _refusal(error.response.status_code, error.server_message, repo, token, kind)
    if status := re.search(
        r"HTTP status (?:client|server) error \((\d{3})", str(error)
    ):  # hf_xet tells it in words only
        return _refusal(int(status[1]), None, repo, token, kind)
    if "Timeout" in type(error).__name__:
        return "The Hub did not answer in time; look at the repository's page there before you try again."
    if isinstance(error, OSError) or "Connect" in type(error).__name__:
        return "The Hub could not be reached or the connection broke; check the network and try again."
    return f"The Hub's answer about {repo} could not be used ({type(error).__name__}); try again later."


def _refusal(status: int, said: str | None, repo: str, token: str | None, kind: str) -> str:
    known = {
        401: "The Hub does not accept this token, or wants one; sign in again.",
        402: f"The Hub wants a paid plan for {repo}; choose a public repository or another owner.",
        403: f"This token may not do that with {repo}; it needs write access to publish and read access to download.",
        404: f"There is no {kind} {repo} on the Hub, or only its owner may see it; check the name and sign in.",
        409: f"{repo} has just been made or changed by someone else; look at its page on the Hub and try again.",
        412: f"{repo} has just been made or changed by someone else; look at its page on the Hub and try again.",
        413: f"{repo} is too large for the Hub.",
        429: "The Hub has had too many requests from here; wait some minutes and try again.",
    }
    if status in known:
        return known[status]
    if status >= 500:
        return f"The Hub has a problem of its own (error {status}); try again later."
    said = " ".join((said or "no reason given").split())
    said = said.replace(token, "…") if token else said
    return f"The Hub refused {repo} (error {status}: {said[:160]})."
