"""What NEARL costs, as ratios measured in one run.

``PYTHONPATH=. python benchmarks/speed.py [--backbone NAME --weights random]``

Each quantity is timed in rounds that take turns with the others, in processor time, so that a busy machine slows all of
them alike; the median of the rounds' ratios is used. Goals: adapted / frozen forward <= 1.05 on ViT-B/16 and <= 1.12 on
the embedded backbone, a step <= 1.0 and a run <= 0.6 of LoRA's, fine-tuning step / frozen forward <= 2.5, and answers
of the command line that need no model <= 1.5 x the help of Python's own ``json.tool``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from nearl.adapters.store import Adapter, new_adapter
from nearl.backbones import Backbone, load_backbone
from nearl.data.phantoms.kinds import phantom_set
from nearl.data.sets.labelled import LabelledSet
from nearl.methods import Task, make, recipe, restore
from nearl.methods.nearl.network import NearlCLIP
from nearl.prompts import PromptSet, default_prompts
from nearl.reading.classifier import Classifier
from nearl.train.batches import PromptTokens
from nearl.train.loop import has_fast_bf16
from nearl.train.recipe import Recipe

WARM = Recipe().warm_start  # share of the steps of a run


def taught(backbone: Backbone, per_class: int) -> tuple[LabelledSet, NearlCLIP, Adapter, Classifier]:
    """A classifier with an untrained adapter, and phantoms for it to read."""
    data = phantom_set("head_mri", per_class, seed=0)
    prompt_set = default_prompts(data.classes)
    model = NearlCLIP(backbone)
    adapter = new_adapter(
        model.state_dict(),
        backbone=backbone.identity,
        config=model.config.to_dict(),
        classes=data.classes,
        prompts=prompt_set.to_dict(),
        support_counts=data.counts(),
    )
    return data, model, adapter, Classifier(backbone, prompt_set, restore(backbone, adapter))


def spent(tasks: Mapping[str, Callable], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each task by its name, in rounds in which they take turns; one round more warms up."""
    seconds = {name: [] for name in tasks}
    for i in range(rounds + 1):
        for name, task in tasks.items():
            started = clock()
            task()
            if i:
                seconds[name].append(clock() - started)
    return seconds


def medians(
    tasks: Mapping[str, Callable], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each task by its name."""
    return {key: statistics.median(values) for key, values in spent(tasks, rounds, clock).items()}


def starts(rounds: int) -> dict:
    """CPU time that the command line takes to answer without a model, in terms of the smallest one of Python's own."""

    def spent() -> float:
        """Seconds of CPU time of all processes started so far."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def starting(*words: str) -> Callable:
        return lambda: subprocess.run([sys.executable, *words], capture_output=True, env=environment)

    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    tasks = {"python": starting("-c", "pass"), "json_tool_help": starting("-m", "json.tool", "--help")}
    asked = {"help": "--help", "backbones": "backbones", "wrong_option": "predict --x"}
    tasks |= {name: starting("-m", "nearl", *words.split()) for name, words in asked.items()}
    with tempfile.TemporaryDirectory() as folder:  # for compiled modules, as an installed package has them
        environment["PYTHONPYCACHEPREFIX"] = folder
        t = medians(tasks, rounds, spent)
    return {
        "python_seconds": round(t["python"], 3),
        "json_tool_help_seconds": round(t["json_tool_help"], 3),
        **{f"{name}_over_json_tool_help": round(t[name] / t["json_tool_help"], 2) for name in asked},
    }


def ratios(name: str, weights: str, batch: int, rounds: int) -> dict:
    backbone = load_backbone(name, weights=weights)
    data, model, adapter, classifier = taught(backbone, batch // 2)
    prompt_set, images = classifier.prompt_set, classifier.pixels(data.records)
    labels = torch.tensor(data.labels)
    groups = prompt_set.texts()
    prompts = PromptTokens(backbone.tokenize([t for g in groups for t in g]), [len(g) for g in groups])
    optimizer = torch.optim.AdamW(model.parameters())
    with torch.no_grad():
        summaries = model.encode_text(prompts).summaries

    @torch.no_grad()
    def frozen_forward():
        backbone.encode_image(images)

    @torch.no_grad()
    def adapted_forward():
        model.encode_image(images, summaries)

    def step_from_pixels_float32():
        optimizer.zero_grad()
        F.cross_entropy(model(images, prompts), labels).backward()
        optimizer.step()

    with torch.no_grad():
        tokens = backbone.vision.embed(images)

    def step():
        """As `nearl.train.loop` does it: patches embedded once and for all, bf16 autocast where it is faster."""
        optimizer.zero_grad()
        with torch.autocast(backbone.device.type, torch.bfloat16, enabled=has_fast_bf16(backbone)):
            loss = F.cross_entropy(model.forward_tokens(tokens, prompts).float(), labels)
        loss.backward()
        optimizer.step()

    def taking_steps(method: str, **changes) -> Callable:
        """One real step of a method at a time, on the same images at the same batch."""
        settings = recipe(method, steps=10**6, batch_size=batch, augment="none", **changes)
        steps = make(method, Task(backbone, prompt_set, data)).fit(settings)
        return lambda: next(steps)

    nearl_step, nearl_warm_step = taking_steps("nearl", warm_start=0.0), taking_steps("nearl", warm_start=0.9)
    lora_step, alta_step, maple_step = (taking_steps(name) for name in ("lora", "alta-vision", "maple"))

    def full_prediction():
        Classifier(backbone, prompt_set, restore(backbone, adapter)).predict(data.records)

    edits = iter(range(10**6))

    def prompt_edit():
        first, second = data.classes
        text = f"another wording, number {next(edits)}"
        classifier.set_prompts(PromptSet("edited", (first, second), ((text,), prompt_set.prompts[1])))
        classifier.predict(data.records)

    named = (frozen_forward, adapted_forward, step, step_from_pixels_float32, full_prediction, prompt_edit)
    tasks = {task.__name__: task for task in named} | {
        "nearl": nearl_step, "nearl_warm": nearl_warm_step, "lora": lora_step, "alta-vision": alta_step,
        "maple": maple_step,
    }  # fmt: skip
    seconds = spent(tasks, rounds, time.process_time)

    def over(task: str, base: str) -> float:
        return round(statistics.median(a / b for a, b in zip(seconds[task], seconds[base], strict=True)), 3)

    run = WARM * over("nearl_warm", "lora") + (1 - WARM) * over("nearl", "lora")
    about = {"backbone": name, "weights": weights, "batch": batch, "rounds": rounds}
    return about | {
        "threads": torch.get_num_threads(),
        "frozen_forward_seconds": round(statistics.median(seconds["frozen_forward"]), 4),
        "adapted_over_frozen_forward": over("adapted_forward", "frozen_forward"),
        "step_over_frozen_forward": over("step", "frozen_forward"),
        "float32_step_from_pixels_over_frozen_forward": over("step_from_pixels_float32", "frozen_forward"),
        "nearl_step_over_lora_step": over("nearl", "lora"),
        "nearl_step_over_alta_vision_step": over("nearl", "alta-vision"),
        "nearl_step_over_maple_step": over("nearl", "maple"),
        "nearl_warm_start_step_over_its_full_step": over("nearl_warm", "nearl"),
        "nearl_run_over_lora_run": round(run, 3),
        "prompt_edit_over_full_prediction": over("prompt_edit", "full_prediction"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", help="default: both ViT-B-16 with random weights and the embedded backbone")
    parser.add_argument("--weights", default="pretrained", choices=["pretrained", "random"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    print(json.dumps(starts(3 * args.rounds)), flush=True)
    chosen = [(args.backbone, args.weights)] if args.backbone else [("ViT-B-16", "random"), ("embedded", "pretrained")]
    for name, weights in chosen:
        print(json.dumps(ratios(name, weights, args.batch, args.rounds)), flush=True)
