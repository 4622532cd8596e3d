"""Whether everything is correct on a GPU, and what it costs there, in one call of less than 8 minutes.

``PYTHONPATH=. python benchmarks/gpu.py [--out FOLDER]``

Random weights in the shapes of ViT-B/16, ViT-L/14 and BiomedCLIP, so that nothing is downloaded. Correctness: CPU
against GPU in float32, NEARL's three properties in bf16 under autocast, runs resumed on the other device. Cost: time
and peak memory of the frozen and the adapted forward pass, of a step of NEARL and of LoRA, and of maps, for 1 to
256 images; the memory that a run announces, weights included, beside what it takes on top of them; torch.compile or
not. Writes gpu.json and gpu.md. What there is no time left for is named there. ``--device cpu --quick`` runs every line
on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nearl.backbones import Backbone, load_backbone
from nearl.data.phantoms.kinds import phantom_set
from nearl.errors import NearlError
from nearl.explain import MapRequest, Scorer, Trace, draw
from nearl.measure.cost import PeakMemory
from nearl.methods import Task, make, recipe, restore
from nearl.methods.nearl.network import NearlCLIP
from nearl.prompts import default_prompts
from nearl.reading.classifier import Classifier
from nearl.train.batches import PromptTokens
from nearl.train.memory import let_go, ran_out

MODELS = ("ViT-B-16", "ViT-L-14", "biomedclip")
BATCHES = (1, 4, 16, 64, 256)
SECONDS = 440  # after which nothing new is begun
WORDS = 16  # tokens of a text where the model's tokenizer cannot be had
COLUMNS = {
    "frozen_ms": "frozen, ms", "adapted_over_frozen": "adapted / frozen", "frozen_bf16_ms": "frozen bf16, ms",
    "adapted_over_frozen_bf16": "adapted / frozen, bf16", "nearl_step_ms": "step, ms",
    "step_over_lora": "step / LoRA's", "adapted_mib": "adapted, MiB", "nearl_step_mib": "step, MiB",
    "weights_mib": "weights, MiB", "nearl_announced_mib": "announced, MiB",
    "nearl_images_at_a_time": "images at a time",
}  # fmt: skip


class Bench:
    """A model with random weights, and what is measured of it on one device."""

    def __init__(self, name: str, device: str):
        self.device = torch.device(device)
        self.backbone = load_backbone(name, device, "random")
        try:
            self.backbone.tokenize(["a"])
        except NearlError:  # its tokenizer is on a hub
            self.backbone.__dict__["tokenizer"] = stand_in(self.backbone)
        self.data = phantom_set("head_mri", 4, seed=0)
        self.prompt_set = default_prompts(self.data.classes)
        self.task = Task(self.backbone, self.prompt_set, self.data)
        self.network = adapted(self.backbone)
        groups = self.prompt_set.texts()
        texts = self.backbone.tokenize([text for group in groups for text in group])
        self.prompts = PromptTokens(texts, [len(group) for group in groups])
        with torch.no_grad():
            self.summaries = self.network.encode_text(self.prompts).summaries

    def pixels(self, count: int) -> Tensor:
        """Normalised pixels [B, 3, H, W], the same on every device."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, *self.backbone.image_size, generator=generator).to(self.device)

    def half(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)

    def fit(self, method: str = "nearl", **changes):
        """A run of real steps, through both towers in each."""
        changes = {"augment": "none", "warm_start": 0.0} | changes
        return make(method, self.task).fit(recipe(method, **{"steps": 10**6} | changes))

    @torch.no_grad()
    def images(self, pixels: Tensor) -> Tensor:
        return self.network.encode_image(pixels, self.summaries)

    @torch.no_grad()
    def untaught(self, pixels: Tensor) -> Tensor:
        return self.backbone.encode_image(pixels)


def stand_in(backbone: Backbone) -> Callable[..., Tensor]:
    """Texts to tokens [C, L] that stand for words and mean nothing; padding is 0."""

    def tokenize(texts: list[str], context_length: int = WORDS) -> Tensor:
        rows = [[2, *(5 + sum(map(ord, word)) % 100 for word in text.split()[: WORDS - 2]), 3] for text in texts]
        return torch.tensor([(row + [0] * context_length)[:context_length] for row in rows])

    return tokenize


def adapted(backbone: Backbone) -> NearlCLIP:
    """An adapter that changes something, the same on every device."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NearlCLIP(backbone)
        for oca in (*network.oca_vision.values(), *network.oca_text.values()):
            oca.w_o.weight.data.copy_(0.02 * torch.randn(oca.w_o.weight.shape))
    return network.requires_grad_(False)


# ---- correctness -----------------------------------------------------------------------------------------------------


def correctness(name: str, device: str) -> dict:
    """How far the device is from the CPU, and NEARL's properties on it; "passed" says whether all is as it must be."""
    here, there = Bench(name, "cpu"), Bench(name, device)
    pixels = here.pixels(2)
    found = {
        "frozen_cpu_to_device": gap(here.untaught(pixels), there.untaught(pixels.to(device))),
        "adapted_cpu_to_device": gap(here.images(pixels), there.images(pixels.to(device))),
        **properties(there),
        "resumed_on_device": resumed(here, there),
        "resumed_on_cpu": resumed(there, here),
    }
    limits = {
        "frozen_cpu_to_device": 1e-4, "adapted_cpu_to_device": 1e-4, "identity_bf16": 0.0, "orthogonality_bf16": 1e-4,
        "backbone_changed": 0.0, "resumed_on_device": 1e-3, "resumed_on_cpu": 1e-3,
    }  # fmt: skip
    return {"model": name, **found, "passed": all(found[key] <= limit for key, limit in limits.items())}


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors, wherever they are."""
    return (a.float().cpu() - b.float().cpu()).abs().max().item()


def properties(bench: Bench) -> dict:
    """Under autocast to bf16: how far a new adapter is from the frozen model, the largest cosine of an update and its
    token, and how far a run's steps moved a tensor of the backbone."""
    worst = []

    def check(oca, given, _) -> None:
        worst.append(F.cosine_similarity(oca.update(*given), given[0].float(), dim=-1).abs().max().item())

    pixels, new = bench.pixels(2), NearlCLIP(bench.backbone)
    with torch.no_grad(), bench.half():
        stepped = bench.backbone.encode_tokens(bench.backbone.vision.embed(pixels))  # the same rounding at the end
        identity = gap(new.encode_image(pixels, new.encode_text(bench.prompts).summaries), stepped)
        hooks = [oca.register_forward_hook(check) for oca in bench.network.oca_vision.values()]
        bench.images(pixels)
    for hook in hooks:
        hook.remove()
    before = {key: value.clone() for key, value in bench.backbone.model.state_dict().items()}
    list(bench.fit(steps=3, batch_size=4, augment="gentle"))
    moved = max(gap(value, before[key]) for key, value in bench.backbone.model.state_dict().items())
    return {"identity_bf16": identity, "orthogonality_bf16": max(worst), "backbone_changed": moved}


def resumed(first: Bench, second: Bench) -> float:
    """A run begun on one device and resumed on the other, against one that stayed: the largest difference of the
    probabilities that its adapter gives, each read where it was taught."""
    settings = {"steps": 4, "batch_size": 4, "precision": "float32"}
    stayed, begun = first.fit(**settings), first.fit(**settings)
    list(stayed), next(begun), next(begun)
    moved = make("nearl", second.task)
    changes = {"augment": "none", "warm_start": 0.0} | settings
    list(moved.fit(recipe("nearl", **changes), resume=begun.snapshot()))
    read = [
        restore(bench.backbone, method.adapter()).predict(bench.data.records)
        for bench, method in ((first, stayed.learner), (second, moved))
    ]
    return float(abs(read[0] - read[1]).max())


# ---- cost ------------------------------------------------------------------------------------------------------------


def timed(bench: Bench, work: Callable[[], object], rounds: int) -> dict:
    """Median milliseconds and peak memory in MiB of one call; {"error"} where memory runs out."""

    def once() -> float:
        began = time.perf_counter()
        work()
        if bench.device.type == "cuda":
            torch.cuda.synchronize(bench.device)
        return 1000 * (time.perf_counter() - began)

    let_go(bench.device)
    peak = PeakMemory(bench.device)
    try:
        once()
        spent = [once() for _ in range(rounds)]
    except RuntimeError as error:
        if not ran_out(error):
            raise
        return {"ms": None, "mib": None}
    return {"ms": round(statistics.median(spent), 2), "mib": round(peak.so_far() or 0.0, 1)}


def cost(bench: Bench, batch: int, rounds: int) -> dict:
    """Times and memory for one number of images."""
    pixels = bench.pixels(batch)
    found: dict[str, dict] = {"frozen": timed(bench, lambda: bench.untaught(pixels), rounds)}
    found["adapted"] = timed(bench, lambda: bench.images(pixels), rounds)
    with bench.half():
        found["frozen_bf16"] = timed(bench, lambda: bench.untaught(pixels), rounds)
        found["adapted_bf16"] = timed(bench, lambda: bench.images(pixels), rounds)
    weights = sum(tensor.nbytes for tensor in bench.backbone.model.state_dict().values())
    row: dict = {"model": bench.backbone.name, "batch": batch, "weights_mib": round(weights / 2**20, 1)}
    for method in ("nearl", "lora"):
        run = bench.fit(method, batch_size=batch)
        announced = run.memory()
        found[f"{method}_step"] = timed(bench, lambda run=run: next(run), rounds)
        row |= {f"{method}_announced_mib": round(announced / 2**20, 1), f"{method}_images_at_a_time": run.most or batch}
        del run
    for key, values in found.items():
        row |= {f"{key}_{unit}": value for unit, value in values.items()}
    for key, one, other in (
        ("adapted_over_frozen", "adapted", "frozen"),
        ("adapted_over_frozen_bf16", "adapted_bf16", "frozen_bf16"),
        ("step_over_lora", "nearl_step", "lora_step"),
    ):
        both = found[one]["ms"], found[other]["ms"]
        row[key] = round(both[0] / both[1], 3) if all(both) else None
    return row


def maps(bench: Bench, rounds: int) -> dict:
    """Milliseconds of maps of one image."""
    classifier = Classifier(bench.backbone, bench.prompt_set, taught(bench))
    record, scorer = bench.data.records[:1], Scorer(classifier, True)
    row: dict = {"model": bench.backbone.name}
    for name, gradient in (("gradcam", True), ("attention", False), ("novelty", False)):
        work = lambda n=name, g=gradient: draw(Trace(scorer, record, gradient=g), MapRequest(n, 1))  # noqa: E731
        row[f"{name}_ms"] = timed(bench, work, rounds)["ms"]
    return row


def taught(bench: Bench):
    """NEARL after two steps."""
    run = bench.fit(steps=2, batch_size=2)
    list(run)
    return run.learner


def compiled(bench: Bench, batch: int, rounds: int, backend: str) -> dict:
    """The adapted forward pass with torch.compile and without, and how far the results are apart."""
    pixels = bench.pixels(batch)
    quick = torch.compile(bench.network.encode_image, backend=backend)
    began = time.perf_counter()
    with torch.no_grad():
        off = gap(quick(pixels, bench.summaries), bench.images(pixels))
    seconds = time.perf_counter() - began

    @torch.no_grad()
    def work() -> Tensor:
        return quick(pixels, bench.summaries)

    plain, fast = timed(bench, lambda: bench.images(pixels), rounds), timed(bench, work, rounds)
    return {
        "model": bench.backbone.name, "batch": batch, "compile_seconds": round(seconds, 1), "difference": off,
        "plain_ms": plain["ms"], "compiled_ms": fast["ms"],
    }  # fmt: skip


# ---- the report ------------------------------------------------------------------------------------------------------


def measure(device: str, models: tuple[str, ...], batches: tuple[int, ...], rounds: int, backend: str) -> dict:
    """All of it, as plain JSON."""
    began = time.monotonic()
    cuda = torch.device(device).type == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    result: dict = {
        "device": torch.cuda.get_device_name(device) if cuda else "CPU",
        "memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1) if cuda else None,
        "torch": torch.__version__, "correctness": [], "cost": [], "maps": [], "compile": [], "left_out": [],
    }  # fmt: skip

    @contextmanager
    def part(of: str, what: str) -> Iterator[bool]:
        """Whether there is time for it; a failure is kept and the rest goes on."""
        late = time.monotonic() - began > SECONDS
        try:
            yield not late
        except Exception as error:
            logging.getLogger("nearl").exception("%s", what)
            result["left_out"].append(f"{of} of {what}: {type(error).__name__}: {str(error)[:200]}")
        if late:
            result["left_out"].append(f"{of} of {what}: no time left")

    for name in models:
        with part("correctness", name) as go:
            if go:
                result["correctness"].append(correctness(name, device))
    for name in models:
        let_go(torch.device(device))
        bench = Bench(name, device)
        for batch in batches:
            with part("cost", f"{name}, batch {batch}") as go:
                if go:
                    result["cost"].append(cost(bench, batch, rounds))
        with part("maps", name) as go:
            if go:
                result["maps"].append(maps(bench, rounds))
        with part("compile", name) as go:
            if go:
                result["compile"].append(compiled(bench, batches[len(batches) // 2], rounds, backend))
    return result | {"seconds": round(time.monotonic() - began, 1)}


def markdown(result: dict) -> str:
    """The figures as tables."""
    lines = [f"{result['device']}, torch {result['torch']}, {result['seconds']} s.", ""]
    for part in ("correctness", "cost", "maps", "compile"):
        if result[part]:
            names = {key: key.replace("_", " ") for key in result[part][0]}
            if part == "cost":
                names = {"model": "model", "batch": "batch", **COLUMNS}
            lines += [f"| {' | '.join(names.values())} |", "|---" * len(names) + "|"]
            lines += [f"| {' | '.join(_cell(row.get(key)) for key in names)} |" for row in result[part]]
            lines.append("")
    return "\n".join(lines + [f"Left out: {what}" for what in result["left_out"]]) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return "out of memory"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small shapes and few images: whether every line runs")
    parser.add_argument("--models", nargs="+", help="names of backbones (default: three common shapes)")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for gpu.json and gpu.md")
    args = parser.parse_args(words)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing was measured; try --device cpu --quick.", file=sys.stderr)
        return 2
    logging.getLogger().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    models = tuple(args.models or (("embedded",) if args.quick else MODELS))
    batches, rounds, backend = ((1, 2), 1, "eager") if args.quick else (BATCHES, 5, "inductor")
    result = measure(args.device, models, batches, rounds, backend)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (args.out / "gpu.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))
    return 0 if all(row["passed"] for row in result["correctness"]) and not result["left_out"] else 1


if __name__ == "__main__":
    sys.exit(main())
