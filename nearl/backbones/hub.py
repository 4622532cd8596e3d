"""Models on the Hugging Face Hub: fetching one, and the sentences where that fails."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import huggingface_hub
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

from nearl.backbones.catalogue import hub_cache, split
from nearl.errors import NearlError

OPEN_CLIP, TRANSFORMERS = "open_clip_config.json", "config.json"  # the file that says in which format a model is
WANTED = ["*.json", "*.txt", "*.model", "model*.safetensors"]  # of a repository in transformers' format


def is_open_clip(name: str, source: str) -> bool:
    """Whether a repository is in open_clip's format, as far as can be seen from here.

    Raises NearlError for a model whose terms were not accepted, or that cannot be reached.
    """
    return _file(name, source, OPEN_CLIP) is not None


def transformers_config(name: str, source: str) -> Path:
    """The config.json of a repository. Raises NearlError where it has none or cannot be reached."""
    path = _file(name, source, TRANSFORMERS)
    if path is None:
        raise NearlError(unreachable(name))
    return path


def fetch(name: str, source: str) -> Path:
    """The folder of a repository in transformers' format, without pickles. Raises NearlError as `is_open_clip`."""
    repository, revision = split(source)
    try:
        where = {"revision": revision, "cache_dir": hub_cache()}
        return Path(snapshot_download(repository, allow_patterns=WANTED, **where))
    except GatedRepoError as error:
        raise NearlError(gate(name, source)) from error
    except Exception as error:
        raise NearlError(unreachable(name)) from error


def _file(name: str, source: str, file: str) -> Path | None:
    repository, revision = split(source)
    try:
        return Path(hf_hub_download(repository, file, revision=revision, cache_dir=hub_cache()))
    except GatedRepoError as error:
        raise NearlError(gate(name, source)) from error
    except EntryNotFoundError:  # without a network also where it is not in the cache
        return None
    except Exception as error:
        raise NearlError(unreachable(name)) from error


def gate(name: str, source: str) -> str:
    """What to do before a gated model can be fetched."""
    return (
        f"'{name}' is open to those who accepted its terms: accept them at https://huggingface.co/{split(source)[0]}, "
        "sign in with `hf auth login` (or set HF_TOKEN), and try again."
    )


def unreachable(name: str) -> str:
    """What to do about a model that cannot be fetched."""
    return (
        f"The model '{name}' could not be fetched: there is no connection to the Hub, or no model of this name. "
        "'embedded' is always available."
    )


def go_offline_if_unreachable() -> None:
    """Switch huggingface_hub to its cache if there is no network, which it would only report after many retries."""
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    host = huggingface_hub.constants.ENDPOINT.split("//")[-1].split("/")[0]
    try:
        socket.create_connection((host.split(":")[0], int((host + ":443").split(":")[1])), timeout=3).close()
    except OSError:
        huggingface_hub.constants.HF_HUB_OFFLINE = True  # cached files still load
