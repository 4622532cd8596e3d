"""Recording what is computed inside a forward pass, without changing the model.

Fused attention kernels never form the matrix of weights. So the call is intercepted before the kernel (by a
``TorchFunctionMode``, which affects this thread alone) and computed step by step; where a module does that itself, its
softmax is recorded. Forward hooks say which module is running. Parameters, flags and modules are not touched, and the
hooks are removed at the end, also after an error.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Capture(TorchFunctionMode):
    """A context in which forward passes are recorded, each list in the order of the calls.

    ``attention[key]``: weights [B, heads, queries, keys] of every attention inside the module of that key.
    ``outputs[key]``: outputs of the module. ``results[key]``: what ``calls[key]`` = (module, function) returns for
    (module, args, output). ``leaf``: a module whose input tokens are detached and, if gradients are on, require them.
    """

    def __init__(
        self,
        attention: Mapping[Hashable, nn.Module],
        outputs: Mapping[Hashable, nn.Module] | None = None,
        calls: Mapping[Hashable, tuple[nn.Module, Callable]] | None = None,
        leaf: nn.Module | None = None,
    ):
        super().__init__()
        self._inside, self._outputs, self._calls, self._leaf = attention, outputs or {}, calls or {}, leaf
        self.attention: dict[Hashable, list[Tensor]] = {key: [] for key in self._inside}
        self.outputs: dict[Hashable, list[Tensor]] = {key: [] for key in self._outputs}
        self.results: dict[Hashable, list] = {key: [] for key in self._calls}
        self._place: list[Hashable] = []
        self._handles: list = []

    def __enter__(self) -> Capture:
        hook = self._handles.append
        if self._leaf is not None:
            hook(self._leaf.register_forward_pre_hook(_begin))
        for key, module in self._inside.items():
            hook(module.register_forward_pre_hook(lambda m, a, key=key: self._arrive(key)))
            hook(module.register_forward_hook(lambda m, a, out: self._leave(), always_call=True))
        for key, module in self._outputs.items():
            hook(module.register_forward_hook(lambda m, a, out, key=key: self.outputs[key].append(out)))
        for key, (module, make) in self._calls.items():
            hook(
                module.register_forward_hook(lambda m, a, out, key=key, f=make: self.results[key].append(f(m, a, out)))
            )
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        while self._place:
            self._leave()

    def _arrive(self, key: Hashable) -> None:
        if not self._place:  # the mode is on inside these modules only, since it slows every call a little
            super().__enter__()
        self._place.append(key)

    def _leave(self) -> None:
        if self._place:
            self._place.pop()
            if not self._place:
                super().__exit__(None, None, None)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._place and func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if self._place and (func is torch.Tensor.softmax or func is F.softmax):  # attention without the kernel
            weights = func(*args, **kwargs)
            self.attention[self._place[-1]].append(weights)
            return weights
        return func(*args, **kwargs)

    def _attend(self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, **_) -> Tensor:
        """``scaled_dot_product_attention`` step by step, without dropout."""
        weights = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            weights = weights.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            weights = weights + attn_mask
        weights = weights.softmax(-1)
        self.attention[self._place[-1]].append(weights)
        return weights @ v


def _begin(module: nn.Module, args: tuple) -> tuple:
    tokens = args[0].detach()
    return (tokens.requires_grad_() if torch.is_grad_enabled() else tokens, *args[1:])
