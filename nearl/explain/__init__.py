"""Where the model looked: one file per map, and how a map is laid over its image."""

from nearl.explain.gradcam import gradcam
from nearl.explain.overlay import Heatmap, heat_layer, overlay

__all__ = ["Heatmap", "gradcam", "heat_layer", "overlay"]
