"""A tiny CLIP text encoder and its tokenizer: one token for each word of the world."""

from itertools import pairwise

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from streamline.lab.recipes import world

MAX_LENGTH = 16
START, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer() -> CLIPTokenizer:
    """Return a tokenizer that knows the world's words whole and spells any other in letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in world.vocabulary():
        parts = _merge([*word[:-1], f"{word[-1]}</w>"], merges)
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
    tokens += ["".join(pair) for pair in merges]
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*tokens, START, END]))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)


def _merge(parts: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Join neighbouring parts as byte-pair encoding does: the earliest merge first, from the left."""
    rank = {pair: index for index, pair in enumerate(merges)}
    while pairs := [pair for pair in pairwise(parts) if pair in rank]:
        at = list(pairwise(parts)).index(min(pairs, key=rank.__getitem__))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def text_encoder(tokenizer: CLIPTokenizer, width: int = 64) -> CLIPTextModel:
    """Return an untrained text encoder, (n, MAX_LENGTH) token numbers -> (n, MAX_LENGTH, width)."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        hidden_act="gelu",
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)
