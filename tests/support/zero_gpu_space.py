"""A process as a ZeroGPU Space starts it, with the real `spaces` package: teaches one run after the other, as the queue
of the page does, each with another visitor's token. Arguments: a model's folder, a new folder, the tokens. Prints the
runs' statuses. Two things are not as on a Space: the GPU is not touched when a call begins, and there is none."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import gradio as gr
import spaces.zero.torch
import torch

import nearl.runs.zero_gpu  # noqa: F401  before the page is started, as `app.page` does
from app.visitor.disk import Root
from app.visitor.registry import Registry
from app.work.queue import Queue
from app.work.run import TEACH
from nearl.backbones import load_backbone
from tests.support.runs import made
from tests.support.zero_gpu import request

model, folder, *tokens = sys.argv[1:]
spaces.zero.torch.init = lambda uuid: None
spaces.zero.torch.move = lambda callback: None
torch.cuda.is_available = lambda: False
with gr.Blocks() as page:
    gr.HTML("")
page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", share=False, _frontend=False)
registry, queue = Registry(Root(Path(folder))), Queue()
found = []
for token in tokens:
    workspace = registry.get(None)
    workspace.runs.request = request(token)
    view = queue.start(workspace, TEACH, made(load_backbone(model), steps=6))
    while not view.finished:
        time.sleep(0.05)
    found.append(asdict(view.look()))
print(json.dumps(found), flush=True)
