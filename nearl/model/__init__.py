"""NEARL itself: OCA adapters, the USEformer, and the two stepped through a frozen backbone in lockstep."""

from nearl.model.nearl import ClassFeatures, NearlCLIP, NearlConfig, PromptTokens

__all__ = ["ClassFeatures", "NearlCLIP", "NearlConfig", "PromptTokens"]
