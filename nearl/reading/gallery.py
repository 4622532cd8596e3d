"""A gallery: images whose embeddings are computed once, in which a sentence or an image finds what is closest.

Closest is meant in the joint space of the frozen model, and of a taught method where there is one: the cosine of unit
embeddings. It says what is similar to this model, nothing about what an image shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nearl import __version__
from nearl.backbones.familiar import FEWEST_TO_COMPARE, USUAL, threshold
from nearl.data.archives import Reader, is_zip
from nearl.data.images import ImageRecord, stream
from nearl.data.records import Problem
from nearl.data.sets.listing import Listing
from nearl.errors import NearlError
from nearl.methods import Method
from nearl.prompts import unknown_words
from nearl.reading.index import Index

BATCH = 16  # images encoded together, after which the index on disk has them
CHUNK = 1 << 20  # bytes read at a time
ROWS = 1024  # of a matrix of similarities that are in memory together


class Entry(NamedTuple):
    """An image of a gallery."""

    name: str
    label: str = ""  # the name of its class; "" where it is not known
    part: str = ""  # "train" or "test", where its folder or table says so
    group: str = ""  # patient or series; "" for a group of its own
    text: str = ""  # its caption or report


class Hit(NamedTuple):
    """Something that was found."""

    index: int
    score: float
    """Cosine similarity, -1..1."""


@dataclass(frozen=True)
class Places:
    """Unit embeddings, float32 [N, E], of the same things before and after teaching."""

    frozen: Tensor
    adapted: Tensor | None = None
    """None without a taught method."""

    def __len__(self) -> int:
        return len(self.frozen)

    def __getitem__(self, rows: Sequence[int]) -> Places:
        chosen = list(rows)
        return Places(self.frozen[chosen], None if self.adapted is None else self.adapted[chosen])

    @property
    def moments(self) -> dict[str, Tensor]:
        """The embeddings by "before" and, with a taught method, "after"."""
        return {"before": self.frozen} | ({} if self.adapted is None else {"after": self.adapted})


class Seer:
    """Encodes images and sentences in the frozen model and, if given, in a taught method's joint space.

    Raises NearlError for a method whose text side depends on the image (``nearl:image-context``). A method that changes
    the classifier alone, such as a probe, leaves all embeddings as they were.
    """

    def __init__(self, zero_shot: Method, method: Method | None = None):
        self.zero_shot, self.method = zero_shot, method
        self.backbone = zero_shot.backbone
        if method is not None:
            with self.backbone.lock, torch.no_grad():
                method.classes()  # also what the image side of a method may attend to; refused where there are none

    @torch.no_grad()
    def images(self, records: Sequence[ImageRecord]) -> Places:
        """The places of images; the frozen model's part of the way is gone once for both."""
        frozen, method = self.zero_shot.task.frozen, self.method
        with self.backbone.lock:
            patches = self.backbone.vision.embed(frozen.pixels(records))
            pooled = frozen.through(patches)
            adapted = None if method is None else method.placed(patches, pooled).float().cpu()
            return Places(frozen.embed(pooled).float().cpu(), adapted)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Places:
        """The places of texts, each independent of the others."""
        each = []
        for method in filter(None, (self.zero_shot, self.method)):
            kept, kind = method.task.frozen, method.key("sentence")
            with self.backbone.lock:
                each.append(kept.of_texts(kind, list(texts), method.encode_prompts).float().cpu())
        return Places(*each)

    def sentence(self, text: str) -> Places:
        """The place of one sentence that somebody searches with. NearlError where the model knows none of its words."""
        text = " ".join(text.split())
        if not text:
            raise NearlError("There is no sentence to search with; describe the images in a few words.")
        (nothing, own) = map(set, self.backbone.read_as(["", text]))
        if own - nothing <= {-1}:
            raise NearlError(f"The model knows none of the words in “{text:.80}”; use other ones.")
        return self.texts([text])

    def unknown(self, text: str) -> list[str]:
        """The words of a sentence that the model ignores, since it does not know them."""
        return unknown_words([text], self.backbone.knows)


@dataclass
class Gallery:
    """N images and where they lie."""

    entries: list[Entry]
    places: Places
    problems: list[Problem] = field(default_factory=list)
    """What was left out, and why."""
    notes: list[str] = field(default_factory=list)
    indexed: int = 0
    """Images that were encoded now; the others were in the index."""

    def __len__(self) -> int:
        return len(self.entries)

    def subset(self, rows: Sequence[int]) -> Gallery:
        """The images in these rows."""
        return Gallery([self.entries[i] for i in rows], self.places[rows])

    @cached_property
    def far(self) -> float | None:
        """The largest cosine distance to the nearest image at which a new image still counts as alike: that which 95 %
        of these images have among themselves (`nearl.backbones.familiar.threshold`), those of one group apart. In the
        frozen model. None for fewer than 19 images."""
        if len(self) < FEWEST_TO_COMPARE:
            return None
        x, same, best = self.places.frozen, groups_of(self.entries), []
        for start in range(0, len(x), ROWS):
            similar = (x[start : start + ROWS] @ x.T).numpy()
            similar[same[start : start + ROWS, None] == same] = -1
            best.append(similar.max(1))
        return threshold(1 - np.concatenate(best), USUAL)

    def unlike(self, query: Places) -> str:
        """Why an image finds nothing here, in a sentence; "" for one that is not farther away than usual."""
        if self.far is None or not len(self):
            return ""
        nearest = float(1 - (query.frozen @ self.places.frozen.T).max())
        if nearest <= self.far + 1e-6:
            return ""
        return (
            f"This image is unlike all {len(self)} images here: to the model even the nearest is farther away than "
            "95\u202f% of them are from their own nearest. So no similar image is shown."
        )


def groups_of(entries: Sequence[Entry]) -> np.ndarray:
    """int [N]: the group of each image. Images of one group, and each with itself, do not find one another."""
    numbers: dict[str, int] = {}
    names = [entry.group or f"\0{number}" for number, entry in enumerate(entries)]
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=int)


def nearest(query: Tensor, among: Tensor, k: int) -> list[Hit]:
    """The k of ``among`` [N, E] that are closest to ``query`` [1, E], the closest first."""
    scores = (query @ among.T)[0]
    found = scores.topk(min(max(k, 0), len(scores)))
    return [Hit(int(i), float(s)) for s, i in zip(found.values, found.indices, strict=True)]


# ---- indexing


def index_images(
    seer: Seer, listing: Listing, kept: Index | None = None, watch: Callable[[int, int], None] = lambda done, n: None
) -> Gallery:
    """The gallery of a listing. What ``kept`` has is neither decoded nor encoded again; what is new is added to it
    batch by batch, so that an interrupted run goes on where it was.

    A file that cannot be read is named in ``problems`` and the rest is used. Of a volume the middle slice is used, and
    not kept, since other files may belong to it the next time. ``watch``: is told how many of how many files are done.
    NearlError where no image is left.
    """
    work = _Indexing(seer, listing, kept)
    for done in work.run():
        watch(done, len(listing.images))
    found, problems = sorted(work.found), [*listing.problems, *work.problems]
    if not found:
        raise NearlError(problems[0].reason if problems else f"{listing.name} holds no image that can be read.")
    sides = [torch.from_numpy(np.stack([work.found[number][side] for number in found])) for side in work.sides]
    entries = [Entry(i.path, i.label, i.part, i.group, i.text) for i in map(listing.images.__getitem__, found)]
    return Gallery(entries, Places(*sides), problems, [*listing.notes, *work.notes], work.indexed)


class _Indexing:
    """Goes through the files of a listing once."""

    def __init__(self, seer: Seer, listing: Listing, kept: Index | None):
        self.seer, self.images, self.kept, self.models = seer, listing.images, kept, model_keys(seer)
        self.sides = range(len(self.models))  # before and, with a method, after
        self.found: dict[int, list[np.ndarray]] = {}  # by number of the file, an embedding for each side
        self.keys: dict[int, str] = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.indexed = 0

    def run(self) -> Iterator[int]:
        """How many files are done, after every batch."""
        for number, image in enumerate(self.images):
            try:
                self.keys[number] = content_key(image.read, image.path)
            except NearlError as error:
                self._left_out(number, str(error))
        self._recall()
        yield len(self.found)
        waiting: list[tuple[int, ImageRecord]] = []
        for number, record in self._decoded():
            waiting.append((number, record))
            if len(waiting) == BATCH:
                self._encode(waiting)
                waiting = []
                yield len(self.found)
        self._encode(waiting)
        yield len(self.images)

    def _recall(self) -> None:
        """Take from the index the files of which it has all sides."""
        if self.kept is None:
            return
        width = self.seer.backbone.embed_dim
        known = [self.kept.get(model, self.keys.values(), width) for model in self.models]
        for number, key in self.keys.items():
            if all(key in side for side in known):
                self.found[number] = [side[key] for side in known]

    def _decoded(self) -> Iterator[tuple[int, ImageRecord]]:
        """Number and first image of each file that is not known yet."""
        numbers, sources = [], []
        for number in self.keys.keys() - self.found.keys():
            path, read = self.images[number][:2]
            source = read()
            if is_zip(source):
                self._left_out(number, f"{path} is an archive inside the gallery; put its images there themselves.")
            else:
                numbers.append(number)
                sources.append((path, source))
        seen: set[int] = set()
        for records, problems in stream(sources) if sources else ():
            for place, problem in problems:
                self._left_out(numbers[place], problem.reason)
            for place, record in records:
                if place in seen:
                    self._note(f"{sources[place][0]} holds several images, of which the first is used.")
                elif self._unchanged(numbers[place], *sources[place]):
                    yield numbers[place], record
                seen.add(place)

    def _unchanged(self, number: int, path: str, source: bytes | Path) -> bool:
        """Whether what was decoded is the content that the key was made of, under which it will be kept; else the file
        is left out."""
        try:
            if content_key(lambda: source, path) == self.keys[number]:
                return True
            self._left_out(number, f"{path} changed while it was read and was left out; index the gallery again.")
        except NearlError as error:
            self._left_out(number, str(error))
        return False

    def _encode(self, batch: Sequence[tuple[int, ImageRecord]]) -> None:
        if not batch:
            return
        places = self.seer.images([record.still() for _, record in batch])
        sides = [side.numpy() for side in places.moments.values()]
        for row, (number, _) in enumerate(batch):
            self.found[number] = [side[row] for side in sides]
        self.indexed += len(batch)
        lasting = [row for row, (_, record) in enumerate(batch) if record.slices() == 1]
        if self.kept is not None and lasting:
            for model, side in zip(self.models, sides, strict=True):
                self.kept.add(model, {self.keys[batch[row][0]]: side[row] for row in lasting})

    def _left_out(self, number: int, reason: str) -> None:
        self.problems.append(Problem(self.images[number].path, reason))

    def _note(self, words: str) -> None:
        if words not in self.notes:
            self.notes.append(words)


def index_records(
    seer: Seer,
    entries: Sequence[Entry],
    records: Sequence[ImageRecord],
    kept: Index,
    lock: AbstractContextManager,
) -> Generator[int, None, Gallery]:
    """The gallery of images that are decoded already, returned by a generator of how many of them are in ``kept``, to
    which it adds what is missing. ``lock``: held while a batch is encoded, and not between two."""
    models, by_digest = model_keys(seer), {record.digest: record for record in records}
    sides = [kept.get(model, by_digest, seer.backbone.embed_dim) for model in models]
    missing = [digest for digest in by_digest if not all(digest in side for side in sides)]
    for start in range(0, len(missing), BATCH):
        yield len(by_digest) - len(missing) + start
        batch = missing[start : start + BATCH]
        with lock:
            places = seer.images([by_digest[digest] for digest in batch])
        for model, side, rows in zip(models, sides, places.moments.values(), strict=True):
            new = dict(zip(batch, rows.numpy(), strict=True))
            kept.add(model, new)
            side.update(new)
    found = [torch.from_numpy(np.stack([side[record.digest] for record in records])) for side in sides]
    return Gallery(list(entries), Places(*found), indexed=len(missing))


def model_keys(seer: Seer) -> list[str]:
    """The keys by which an index tells the embeddings of models apart: of the frozen one and, if any, the taught."""
    identity = seer.backbone.identity
    keys = [[identity["config_sha256"], identity["weights"], __version__]]
    if seer.method is not None:
        adapter = seer.method.adapter()
        keys.append([*keys[0], adapter.meta["method"], adapter.meta["config"], adapter.version])
    return [hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32] for key in keys]


def content_key(read: Reader, name: str) -> str:
    """The SHA-256 (hex) of a file's content. NearlError where it cannot be read."""
    source = read()
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    digest = hashlib.sha256()
    try:
        with Path(source).open("rb") as file:
            while piece := file.read(CHUNK):
                digest.update(piece)
    except OSError as error:
        raise NearlError(f"{name} cannot be read ({error.strerror or error}); check the file.") from error
    return digest.hexdigest()
