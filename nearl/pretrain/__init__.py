"""How the embedded backbone is trained: image-caption contrastive learning from scratch on a few thousand images."""

from nearl.pretrain.train import pretrain

__all__ = ["pretrain"]
