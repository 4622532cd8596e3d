"""Frozen open_clip models by name, and one step-through view of their towers."""

from nearl.backbones.registry import REGISTRY, Backbone, Entry, load_backbone

__all__ = ["REGISTRY", "Backbone", "Entry", "load_backbone"]
