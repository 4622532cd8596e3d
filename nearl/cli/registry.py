"""Every command, in the order in which ``nearl --help`` lists them."""

from __future__ import annotations

from nearl.cli import (
    backbones,
    compare,
    evaluate,
    explain,
    faithfulness,
    familiar,
    finetune,
    gap,
    info,
    measure,
    phantoms,
    predict,
    pretrain,
    pull,
    push,
    report,
    retrieve,
    space,
)
from nearl.cli.options import Command
from nearl.registry import Registry

COMMANDS: Registry[Command] = Registry("command")
for _command in (
    backbones.COMMAND,
    info.COMMAND,
    predict.COMMAND,
    retrieve.COMMAND,
    explain.COMMAND,
    faithfulness.COMMAND,
    finetune.COMMAND,
    report.COMMAND,
    push.COMMAND,
    pull.COMMAND,
    space.COMMAND,
    compare.COMMAND,
    gap.COMMAND,
    evaluate.COMMAND,
    pretrain.COMMAND,
    familiar.COMMAND,
    measure.COMMAND,
    phantoms.COMMAND,
):
    COMMANDS.register(_command.name, _command)
