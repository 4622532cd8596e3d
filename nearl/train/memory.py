"""What training needs of a device's memory, and what to do where it runs out."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from typing import IO, Any, TypeVar

import torch

from nearl.errors import NearlError

R = TypeVar("R")
NO_MEMORY = (
    "There was not enough memory for this run, so it was stopped; teach with fewer images or classes, or with a "
    "smaller model."
)
SPARE = 1.2  # on top of what is counted: work space and pieces too small to use again (our choice)


def ran_out(error: BaseException) -> bool:
    """Whether this error says that there was not enough memory, on any device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("t allocate memory" in str(error) or "out of memory" in str(error))
    )


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Inside, the error of a device that has not enough memory becomes a NearlError with one sentence."""
    try:
        yield
    except Exception as error:
        if ran_out(error):
            raise NearlError(NO_MEMORY) from error
        raise


def let_go(device: torch.device) -> None:
    """Give back what no tensor holds any more. Call it outside of the ``except`` block, whose error holds tensors."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Portions:
    """Work on many items in portions of at most ``most``; where memory runs out, of half as many from there on.

    Raises the error of the device where not even one item fits.
    """

    def __init__(self, most: int, device: torch.device):
        self.most, self.device = most, device

    def each(self, items: Any, work: Callable[[Any], R]) -> Iterator[tuple[Any, R]]:
        """(portion, its result), portion after portion, of a sequence or of the rows of a tensor."""
        start = 0
        while start < len(items):
            portion, done = items[start : start + self.most], False
            try:
                found, done = work(portion), True
            except Exception as error:
                if not ran_out(error) or len(portion) == 1:
                    raise
            if done:
                yield portion, found
                start += len(portion)
            else:
                self.most = len(portion) // 2
                let_go(self.device)


class Spill(MutableMapping[Hashable, torch.Tensor]):
    """Tensors by key: the first ``limit`` bytes of them in memory, the others in a temporary file, in which the place
    of one that was deleted or overwritten is used again for one of the same size. Raises NearlError where there is no
    room for it; what was kept before can still be read."""

    def __init__(self, limit: int):
        self.limit, self.held = limit, 0
        self._items: dict[Hashable, torch.Tensor | tuple] = {}
        self._file: IO[bytes] | None = None
        self._free: dict[int, list[int]] = {}  # places in the file that are free again, by their bytes
        self._lock = threading.RLock()

    def __setitem__(self, key: Hashable, tensor: torch.Tensor) -> None:
        if key in self._items:
            del self[key]
        if self.held + tensor.nbytes <= self.limit:
            self.held += tensor.nbytes
            self._items[key] = tensor
            return
        content = memoryview(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        with self._lock:
            if self._file is None:  # unbuffered: what could not be written is known at once, and is not in the way
                self._file = tempfile.TemporaryFile(prefix="nearl-", buffering=0)  # noqa: SIM115  closed with this object
            end, free = self._file.seek(0, os.SEEK_END), self._free.get(tensor.nbytes)
            place = self._file.seek(free[-1] if free else end)
            try:
                while content:
                    content = content[self._file.write(content) :]
            except OSError as error:
                self._file.truncate(end)
                raise NearlError(
                    f"Features of the images could not be kept in '{tempfile.gettempdir()}': {error.strerror}. Free "
                    "some space there, or set TMPDIR to another folder."
                ) from error
            if free:
                free.pop()
            self._items[key] = place, tensor.nbytes, tensor.dtype, tensor.shape, tensor.device

    def __getitem__(self, key: Hashable) -> torch.Tensor:
        with self._lock:
            item = self._items[key]
            if isinstance(item, torch.Tensor):
                return item
            place, size, dtype, shape, device = item
            self._file.seek(place)
            content = bytearray(self._file.read(size))
        return torch.frombuffer(content, dtype=dtype).view(shape).to(device)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __delitem__(self, key: Hashable) -> None:
        with self._lock:
            item = self._items.pop(key)
            if isinstance(item, torch.Tensor):
                self.held -= item.nbytes
            else:
                self._free.setdefault(item[1], []).append(item[0])

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def capacity(device: torch.device) -> int | None:
    """Bytes of memory that the device has, whoever uses them; None where it is not a GPU's own."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def kept_for_backward(work: Callable[[], object], known: set[int]) -> int:
    """Bytes of all tensors that autograd keeps of ``work()`` for its backward pass, each storage once; without those
    whose addresses are ``known``."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()  # held until all is counted, so that no address is used twice
    total = sum(size for address, size in sizes.items() if address not in known)
    del result
    return total


def words(needed: float, has: float) -> str:
    """How many bytes teaching will need and the card has, in a sentence; what follows where they are too few."""
    size = lambda number: f"{number / 1e9:.{int(number < 10e9)}f}"  # noqa: E731
    said = f"This will need about {size(needed)} GB; the card has {size(has)}."
    return said if needed <= has else f"{said} Fewer images at a time will go through the model, which takes longer."
