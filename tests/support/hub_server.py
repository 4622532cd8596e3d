"""A local stand-in for the part of the Hub's HTTP API that sharing an adapter or a Space uses, for the real client.

Two servers on two ports: the Hub, and the storage that it redirects to, which must never see a token. What the client
sent is kept in ``requests``; ``fail`` makes a call answer with an error. Large files go by Git LFS or, with ``xet``, by
the Xet protocol of the client's native library, whose content store is then a folder (``local://``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import yaml
from safetensors.numpy import load, save

TOKENS = {"hf_ann_secret": "ann", "hf_bob_secret": "bob", "hf_read_only_secret": None}


@dataclass
class Repo:
    """``files``: name -> (content, sha256 where it is a large file, else None)."""

    private: bool = False
    gated: bool = False
    files: dict[str, tuple[bytes, str | None]] = field(default_factory=lambda: {".gitattributes": (b"*", None)})
    commits: list[str] = field(default_factory=lambda: ["0" * 40])
    said_sizes: dict[str, int] = field(default_factory=dict)  # sizes to claim in place of the true ones


class Hub:
    """Start with ``with Hub() as hub``; ``hub.url`` is the endpoint."""

    def __init__(self, xet: str | None = None):
        self.repos: dict[str, Repo] = {}
        self.storage: dict[str, bytes] = {}  # sha256 -> content
        self.spaces: dict[str, str | None] = {}  # the hardware of each Space
        self.xet, self.xet_hashes = xet, {}
        self.requests: list[tuple[str, str, dict]] = []  # method, path, headers
        self.fail: dict[str, tuple[int, dict, object]] = {}  # "METHOD pattern" -> status, headers, JSON
        self.hang: str | None = None
        self.held: threading.Event | None = None  # large files stop halfway until it is set
        self.lock = threading.Lock()
        self.servers = [self._serve(_Hub), self._serve(_Storage)]
        self.url, self.storage_url = (f"http://127.0.0.1:{s.server_address[1]}" for s in self.servers)

    def _serve(self, kind) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type(kind.__name__, (kind,), {"hub": self}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def calls(self) -> list[str]:
        """The calls to the Hub and its storage, in order: "METHOD path" without queries."""
        return [f"{method} {urlsplit(path).path}" for method, path, _ in self.requests]

    def put(self, repo_id: str, files: dict[str, bytes], **options) -> Repo:
        """A repository as if somebody had pushed it."""
        repo = self.repos[repo_id] = Repo(**options)
        for name, data in files.items():
            oid = hashlib.sha256(data).hexdigest() if name.endswith(".safetensors") else None
            repo.files[name] = (data, oid)
            if oid:
                self.storage[oid] = data
        return repo


def large_files(folder: Path, size: int = 24_000_000) -> dict[str, bytes]:
    """The files of a checkpoint in transformers' format, the weights with so many bytes that nobody reads, since the
    client writes a file ten million at a time."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights = load(files["model.safetensors"])
    files["model.safetensors"] = save({**weights, "unused": np.zeros(size, np.uint8)}, {"format": "pt"})
    return files


def hub_variables(hub: Hub, cache: Path) -> dict[str, str]:
    """The environment in which the client takes a stand-in for the Hub and waits for what it holds."""
    return {
        "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0", "HF_HUB_DOWNLOAD_TIMEOUT": "120",
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_) -> None:
        pass

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path, dict(self.headers)))
        call = f"{self.command} {urlsplit(self.path).path}"
        if self.hub.hang and re.search(self.hub.hang, call):
            time.sleep(3)
        for pattern, (status, headers, content) in self.hub.fail.items():
            if re.search(pattern, call):
                return self.reply(status, content, headers)
        self.answer(unquote(urlsplit(self.path).path), body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def reply(self, status: int, content: object = b"", headers: dict | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(data)), **(headers or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # the client may have given up
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.reply(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})


class _Storage(_Handler):
    def answer(self, path: str, body: bytes) -> None:
        oid = path.strip("/")
        if self.command == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                return self.refuse(400, message="the content is not what its name says")
            self.hub.storage[oid] = body
            return self.reply(200)
        data, headers = self.hub.storage[oid], {"ETag": f'"{oid}"'}
        if self.command != "GET" or self.hub.held is None:
            return self.reply(200, data, headers)
        self.reply(200, data[: len(data) // 2], {**headers, "Content-Length": str(len(data))})
        with suppress(ConnectionError):  # whoever asked may have gone
            self.wfile.flush()
            self.hub.held.wait(120)
            self.wfile.write(data[len(data) // 2 :])


class _Hub(_Handler):
    def user(self) -> str | None:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def repo(self, repo_id: str) -> Repo | None:
        """The repository if this caller may see it; else the answer that the Hub gives has been sent."""
        repo, sent = self.hub.repos.get(repo_id), self.headers.get("Authorization")
        if sent and sent.removeprefix("Bearer ") not in TOKENS:
            return self.refuse(401, message="Invalid credentials in Authorization header")
        if repo is None or (repo.private and self.user() != repo_id.split("/")[0]):
            return self.refuse(404 if sent else 401, "RepoNotFound", "Repository not found")
        return repo

    def answer(self, path: str, body: bytes) -> None:
        for pattern, method in (
            (r"/api/repos/create", self.create),
            (r"/api/validate-yaml", self.validate),
            (r"/api/(?:models|spaces)/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            (r"/api/(?:models|spaces)/([^/]+/[^/]+)/tree/(.+)", self.tree),
            (r"/api/spaces/([^/]+/[^/]+)/hardware", self.hardware),
            (r"/api/(?:models|spaces)/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            (r"/api/(?:models|spaces)/([^/]+/[^/]+)/commit/(.+)", self.commit),
            (r"/api/(?:models|spaces)/([^/]+/[^/]+)/xet-(write|read)-token/(.+)", self.xet_token),
            (r"(?:/spaces)?/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.lfs_batch),
            (r"(?:/spaces)?/([^/]+/[^/]+)\.git/info/lfs/verify", self.lfs_verify),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ):
            if match := re.fullmatch(pattern, path):
                return method(body, *match.groups())
        self.refuse(404, message=f"the stand-in knows no {self.command} {path}")

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        if self.user() != wanted["organization"]:
            return self.refuse(403, message=f"You don't have the rights to create a model under {repo_id}")
        if repo_id in self.hub.repos:
            return self.refuse(409, message="You already created this model repo")
        if wanted.get("type") == "space":
            assert wanted["sdk"] == "gradio"
            self.hub.spaces[repo_id] = wanted.get("hardware")
        self.hub.repos[repo_id] = Repo(private=wanted.get("visibility") == "private")
        self.reply(200, {"url": f"{self.hub.url}/{repo_id}"})

    def validate(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        fields = yaml.safe_load(match.group(1)) if match else {}
        errors = [] if isinstance(fields.get("tags"), list) else [{"message": "tags must be a list"}]
        self.reply(400 if errors else 200, {"errors": errors, "warnings": []})

    def info(self, _: bytes, repo_id: str, revision: str | None) -> None:
        if (repo := self.repo(repo_id)) is None:
            return None
        if revision not in (None, "main", *repo.commits):
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        siblings = [{"rfilename": name} for name in repo.files]
        if "blobs=" in self.path:
            for entry in siblings:
                data, oid = repo.files[entry["rfilename"]]
                entry["size"] = repo.said_sizes.get(entry["rfilename"], len(data))
                if oid:
                    entry["lfs"] = {"size": entry["size"], "sha256": oid, "pointerSize": 134}
        self.reply(
            200,
            {"_id": "1", "id": repo_id, "modelId": repo_id, "sha": repo.commits[-1], "private": repo.private,
             "gated": "auto" if repo.gated else False, "disabled": False, "tags": [], "downloads": 0, "likes": 0,
             "siblings": siblings},
        )  # fmt: skip

    def hardware(self, body: bytes, repo_id: str) -> None:
        if self.repo(repo_id) is not None:
            self.hub.spaces[repo_id] = json.loads(body)["flavor"]
            self.reply(200, {"stage": "RUNNING", "hardware": {"current": None, "requested": self.hub.spaces[repo_id]}})

    def tree(self, _: bytes, repo_id: str, revision: str) -> None:
        if (repo := self.repo(repo_id)) is not None:
            files = ((name, len(data)) for name, (data, _) in repo.files.items())
            self.reply(200, [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in files])

    def preupload(self, body: bytes, repo_id: str, revision: str) -> None:
        if (repo := self.repo(repo_id)) is None:
            return None
        if self.user() != repo_id.split("/")[0]:
            return self.refuse(403, message="You don't have write access")
        files = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
             "shouldIgnore": False, "oid": self.oid(repo, f["path"])}
            for f in json.loads(body)["files"]
        ]  # fmt: skip
        self.reply(200, {"files": files})

    @staticmethod
    def oid(repo: Repo, name: str) -> str | None:
        if name not in repo.files:
            return None
        data, oid = repo.files[name]
        return oid or hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def lfs_batch(self, body: bytes, repo_id: str) -> None:
        asked, objects = json.loads(body), []
        for wanted in asked["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.storage:
                verify = f"{self.hub.url}/{repo_id}.git/info/lfs/verify"
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.storage_url}/{wanted['oid']}"},
                    "verify": {"href": verify},
                }
            objects.append(entry)
        transfer = "xet" if self.hub.xet and "xet" in asked.get("transfers", ()) else "basic"  # older clients ask here
        self.reply(200, {"transfer": transfer, "objects": objects})

    def lfs_verify(self, body: bytes, repo_id: str) -> None:
        known = json.loads(body)["oid"] in self.hub.storage
        self.reply(200) if known else self.refuse(404, message="no such object")

    def xet_token(self, _: bytes, repo_id: str, kind: str, revision: str) -> None:
        if self.repo(repo_id) is None:
            return
        answer = {"accessToken": f"xet-{kind}", "exp": int(time.time()) + 3600, "casUrl": f"local://{self.hub.xet}"}
        headers = {"X-Xet-Cas-Url": answer["casUrl"], "X-Xet-Access-Token": answer["accessToken"],
                   "X-Xet-Token-Expiration": str(answer["exp"])}  # fmt: skip
        self.reply(200, answer, headers)

    def commit(self, body: bytes, repo_id: str, revision: str) -> None:
        if (repo := self.repo(repo_id)) is None:
            return None
        lines = [json.loads(line) for line in body.splitlines()]
        assert self.headers["Content-Type"] == "application/x-ndjson" and lines[0]["key"] == "header"
        if lines[0]["value"].get("parentCommit", repo.commits[-1]) != repo.commits[-1]:
            return self.refuse(412, message="A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = (base64.b64decode(value["content"]), None)
            elif line["key"] == "deletedFile":
                repo.files.pop(value["path"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = (self.hub.storage.get(value["oid"], b"?" * value["size"]), value["oid"])
        repo.commits.append(hashlib.sha1(body).hexdigest())
        commit = {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{repo.commits[-1]}", "commitOid": repo.commits[-1]}
        self.reply(200, {"success": True, **commit})

    def resolve(self, _: bytes, repo_id: str, revision: str, name: str) -> None:
        if (repo := self.repo(repo_id)) is None:
            return None
        if repo.gated:
            return self.refuse(403, "GatedRepo", "Access to this model is restricted")
        if name not in repo.files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        data, oid = repo.files[name]
        headers = {"X-Repo-Commit": repo.commits[-1], "ETag": f'"{self.oid(repo, name)}"', "Accept-Ranges": "bytes"}
        if oid is None:
            return self.reply(200, data, headers)
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{oid}"'}
        headers["Location"] = f"{self.hub.storage_url}/{oid}"
        if self.hub.xet and oid in self.hub.xet_hashes:
            headers["X-Xet-Hash"] = self.hub.xet_hashes[oid]
            headers["Link"] = f'<{self.hub.url}/api/models/{repo_id}/xet-read-token/{revision}>; rel="xet-auth"'
        self.reply(302, b"", headers)
