"""Where memory runs out, fewer images at a time go through the model, with the same result; how much is needed is said
before. A stand-in for a small card refuses large batches with the error that torch raises for a real one."""

import errno
import io

import numpy as np
import pytest
import torch

from nearl.errors import NearlError
from nearl.methods import METHODS, Frozen, make
from nearl.reading.classifier import Classifier
from nearl.runs import Finished, RunFolder, Step, perform
from nearl.train import memory
from nearl.train.recipe import Recipe
from tests.support.methods_data import shades, started, task_of, taught
from tests.support.runs import made

RECIPE = Recipe(steps=4, batch_size=8, views=2, keep=0.5, precision="float32", warm_start=0.5)


def short_of_memory(monkeypatch, most, method):
    """Steps of a method with more than ``most`` images at a time fail; returns the numbers that were tried."""
    known, tried = METHODS[method].phases, []

    def phases(self, recipe):
        def refusing(phase):
            def forward(index, rng, rows=slice(None)):
                tried.append(len(index[rows]))
                found = phase.forward(index, rng, rows)
                if len(index[rows]) > most:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                return found

            return phase._replace(forward=forward)

        return [refusing(phase) for phase in known(self, recipe)]

    monkeypatch.setattr(METHODS[method], "phases", phases)
    return tried


@pytest.mark.parametrize(
    "method",
    ["nearl", "nearl:image-context", "lora", "coop", "prolip", "tip-adapter-f"],
)
def test_a_step_in_parts_is_the_step_at_once(tiny, monkeypatch, method):
    options = {"dropout": 0.0} if method == "lora" else {}  # which is drawn for each part
    whole, run = started(tiny("clip"), RECIPE, name=method, **options)
    losses = [progress.loss for progress in run]
    assert run.most == 0
    tried = short_of_memory(monkeypatch, 3, method)
    parts, run = started(tiny("clip"), RECIPE, name=method, held=shades(1, seed=1), **options)
    assert [progress.loss for progress in run] == pytest.approx(losses, rel=1e-4)
    assert run.most == 2 and max(tried) >= 8 and tried[-4:] == [2] * 4
    for name, value in whole.learned.state_dict().items():
        torch.testing.assert_close(parts.learned.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_not_even_one_image_fits(tiny, monkeypatch):
    tried = short_of_memory(monkeypatch, 0, "clip-adapter")
    with pytest.raises(NearlError, match="not enough memory"):
        list(started(tiny("clip"), RECIPE, name="clip-adapter")[1])
    assert tried == [8, 4, 2, 1]


@pytest.mark.parametrize(
    ("error", "yes"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("a size that does not fit"), False),
        (NearlError("The images ran out of memory."), False),
    ],
)
def test_only_a_want_of_memory_makes_portions_smaller(error, yes):
    tried = []

    def work(items):
        tried.append(len(items))
        if len(items) > 2:
            raise error
        return sum(items)

    portions = memory.Portions(8, torch.device("cpu"))
    assert memory.ran_out(error) == yes
    if not yes:
        with pytest.raises(type(error)):
            list(portions.each(list(range(11)), work))
        return
    found = list(portions.each(list(range(11)), work))
    assert [item for items, _ in found for item in items] == list(range(11)) and sum(s for _, s in found) == 55
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1] and portions.most == 2  # what fitted is remembered


@pytest.mark.parametrize("method", ["zero-shot", "nearl", "nearl:image-context"])
def test_images_are_read_in_smaller_portions(tiny, monkeypatch, method):
    backbone, records = tiny("clip"), shades(5, seed=3).records
    fitted = make(method, task_of(backbone))
    if method != "zero-shot":
        taught(fitted)
    read = Classifier(backbone, fitted.taught, fitted).predict(records)
    embed, tried = backbone.vision.embed, []

    def small(images):
        tried.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return embed(images)

    monkeypatch.setattr(backbone.vision, "embed", small)
    fitted.task.frozen = Frozen(backbone)
    again = Classifier(backbone, fitted.taught, fitted).predict(records)
    np.testing.assert_allclose(again.adapted, read.adapted, atol=1e-5)
    np.testing.assert_allclose(again.frozen, read.frozen, atol=1e-5)
    assert max(tried) == 10 and 2 in tried


@pytest.mark.parametrize("method", ["nearl", "lora", "clip-adapter"])
def test_what_is_needed_is_counted_before_teaching(tiny, method):
    """As much as autograd keeps of the whole batch."""
    backbone = tiny("clip")
    _, run = started(backbone, RECIPE, name=method)
    random = torch.get_rng_state()
    needed = run.memory()
    assert torch.equal(torch.get_rng_state(), random)
    weights = sum(p.nbytes for p in (*backbone.model.parameters(), *backbone.model.buffers()))
    learned = sum(p.nbytes for p in run.learner.learned.parameters() if p.requires_grad)
    known = {p.untyped_storage().data_ptr() for p in (*backbone.model.parameters(), *run.learner.learned.parameters())}
    index = [np.arange(phase.batch_size) for phase in run.phases]
    kept = [
        memory.kept_for_backward(lambda p=phase, i=index: p.forward(i % 12, np.random.default_rng(0)), known)
        for phase, index in zip(run.phases, index, strict=True)
    ]
    assert needed - weights - 5 * learned == pytest.approx(memory.SPARE * max(kept), rel=0.15)
    larger = started(backbone, Recipe(**{**vars(RECIPE), "batch_size": 64}), name=method)[1]
    assert larger.memory() > needed


@pytest.mark.parametrize(("card", "more"), [(8e9, False), (1e6, True)])
def test_a_run_says_what_it_needs_of_a_card_and_that_it_went_on_with_less(tiny, monkeypatch, tmp_path, card, more):
    backbone = tiny("clip")
    monkeypatch.setattr("nearl.train.memory.capacity", lambda device: card)
    short_of_memory(monkeypatch, 4, "nearl")
    job = made(backbone, steps=3, warm_start=0.0)
    folder = RunFolder(tmp_path / "run").create(job)
    said, notes = [], []
    for event in folder.record(perform(job, every=1e9, backbone=backbone)):
        if isinstance(event, Step) and event.note:
            said.append((event.step, event.note))
        notes.append(folder.look().note)
    assert isinstance(event, Finished) and event.row["metrics"] and len(said) == 2
    (at, needs), (halved, fewer) = said
    assert at == 0 and "GB" in needs and "the card has" in needs and ("Fewer images at a time" in needs) == more
    assert halved == 1 and "at most 4 images" in fewer and notes[-1] == fewer
    assert RunFolder(tmp_path / "run").outcome().adapter.meta["classes"] == ["one", "two"]


def test_without_a_card_nothing_is_said(tiny):
    assert memory.capacity(torch.device("cpu")) is None
    job = made(tiny("clip"), steps=1)
    assert not any(isinstance(e, Step) and e.note for e in perform(job, backbone=tiny("clip")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_what_does_not_fit_in_memory_is_read_back_from_disk(dtype):
    tensors = {k: (100 * torch.randn(3 + k, 4)).to(dtype) for k in range(6)}
    kept = memory.Spill(tensors[0].nbytes + tensors[1].nbytes)
    kept.update(tensors)
    assert kept.held == tensors[0].nbytes + tensors[1].nbytes and list(kept) == list(range(6))
    assert all(torch.equal(kept[k], value) and kept[k].dtype == dtype for k, value in tensors.items())
    kept[4] = tensors[2].T
    del kept[0]
    assert torch.equal(kept[4], tensors[2].T) and 0 not in kept and kept.held == tensors[1].nbytes and len(kept) == 5
    size = kept._file.seek(0, 2)
    for number in range(4):  # overwritten in its place
        kept[5] = tensors[5] + number
    assert torch.equal(kept[5], tensors[5] + 3) and torch.equal(kept[3], tensors[3]) and kept._file.seek(0, 2) == size


def test_a_full_disk_is_a_sentence_and_what_was_kept_can_be_read(tmp_path, monkeypatch):
    class Full(io.FileIO):
        """A file on a disk with room for 100 bytes."""

        def write(self, content) -> int:
            if not (room := 100 - self.tell()):
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content[:room])

    monkeypatch.setattr(memory.tempfile, "TemporaryFile", lambda **_: Full(tmp_path / "features", "w+"))
    kept, first = memory.Spill(0), torch.arange(20.0)
    kept["first"] = first
    for key in ("second", "third"):
        with pytest.raises(NearlError, match="No space left"):
            kept[key] = torch.arange(9.0)
    kept["small"] = first[:5]
    assert list(kept) == ["first", "small"]
    assert torch.equal(kept["first"], first) and torch.equal(kept["small"], first[:5])


def test_a_run_whose_features_are_on_disk_ends_with_the_same_adapter(tiny, monkeypatch):
    recipe, held = Recipe(steps=4, batch_size=4, views=2), shades(2, seed=1)
    read = []
    for limit in (10**9, 0):
        monkeypatch.setattr("nearl.methods.frozen.IN_MEMORY", limit)
        method, run = started(tiny("clip"), recipe, held=held)
        list(run)
        read.append((method.adapter().version, method.predict(held.records).tolist()))
    assert read[0] == read[1]
