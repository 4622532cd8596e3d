"""Tiny tokenizers of transformers' CLIP and SigLIP, as their own classes save them."""

from __future__ import annotations

import io
from pathlib import Path


def write_clip_tokenizer(folder: Path, words: tuple[str, ...]) -> dict[str, int]:
    """Write a byte-level BPE that has a token for each of ``words``; the numbers of its special tokens by name."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
                vocabulary.append(parts[0] + parts[1])
            parts = [parts[0] + parts[1], *parts[2:]]
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    number = {token: place for place, token in enumerate(vocabulary)}
    CLIPTokenizer(vocab=number, merges=merges).save_pretrained(folder)
    start, end = number["<|startoftext|>"], number["<|endoftext|>"]
    return {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}


def write_siglip_tokenizer(folder: Path, words: tuple[str, ...]) -> None:
    """Write a SentencePiece model that has a token for each of ``words``."""
    import sentencepiece
    from transformers import SiglipTokenizer

    model = io.BytesIO()
    letters = [chr(number) for number in range(ord("a"), ord("z") + 1)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*words, *letters]), model_writer=model, vocab_size=120, hard_vocab_limit=False,
        user_defined_symbols=[f"▁{word}" for word in words], pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    SiglipTokenizer(str(folder / "spiece.model"), model_input_names=["input_ids"]).save_pretrained(folder)
