"""The rows of `bench.py generate`: tokens written by small and middling models, one text or eight, in three ways."""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import bench_peer
from bench_row import Job, Row

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "top_k": 50},
    "beam 4": {"num_beams": 4},
}


def writing(quick: bool) -> list[Row]:
    """`quick` makes every size tiny."""
    tokens = 8 if quick else 64
    group = (2, 32, 4, 2) if quick else (8, 512, 8, 4)  # layers, width, heads, key-value heads
    sizes = (  # layers, width, heads, vocabulary (a toy's, or GPT-2's own); goals of one text and of eight, of beams
        (((2, 32, 2, 96), (0.3, 0.3), 0.5),)
        if quick
        else (
            ((4, 128, 4, 2048), (0.3, 0.3), 0.5),
            ((6, 384, 6, 2048), (0.55, 0.55), 0.5),
            ((12, 768, 12, 50257), (0.8, 0.6), None),
        )
    )
    rows = [
        Row(
            f"GPT-2 {shape[0]}x{shape[1]}, {several(texts)}, {way}",
            partial(write, new_tokens=tokens, texts=texts, way=way),
            partial(gpt2, *shape),
            units=tokens,
            unit="token",
            goal=beams if way == "beam 4" else goal,
            peer="ctranslate2",
        )
        for shape, goals, beams in sizes
        for texts, goal in zip((1, 8), goals, strict=True)
        for way in WAYS
    ]
    rows += [
        Row(
            f"Marian-like, {several(texts)}, beam 4",
            partial(write, new_tokens=tokens, texts=texts, prompt=24, way="beam 4"),
            partial(marian, *((2, 32) if quick else (6, 512))),
            units=tokens,
            unit="token",
            goal=0.5,
            peer="ctranslate2",
        )
        for texts in (1, 8)
    ]
    rows += [
        Row(
            f"Llama, {group[0]} layers, {group[1]} wide, {several(texts)}",
            partial(write, new_tokens=tokens, texts=texts),
            partial(llama, *group),
            units=tokens,
            unit="token",
            goal=0.6,
            peer="ctranslate2",
        )
        for texts in (1, 8)
    ]
    shape, *_ = sizes[-1]
    rows += [
        Row(
            f"GPT-2 {shape[0]}x{shape[1]}, {several(texts)}, {weights}",
            partial(write, new_tokens=tokens, texts=texts, weights=weights),
            partial(gpt2, *shape),
            units=tokens,
            unit="token",
            goal=goal,
            peer="ctranslate2" if weights == "int8" else None,  # its float16 needs a GPU
        )
        for weights, goals in (("int8", (0.35, 0.3)), ("float16", (None, None)))
        for texts, goal in zip((1, 8), goals, strict=True)
    ]
    return rows + [
        Row(
            f"Llama, a token after {prompt}",
            partial(write, new_tokens=5 if quick else 17, prompt=prompt, prompt_counts=False),
            partial(llama, *group),
            units=4 if quick else 16,
            unit="token",
        )
        for prompt in ((8, 16) if quick else (64, 512, 2048))
    ]


def several(texts: int) -> str:
    return f"{texts} text{'s' if texts > 1 else ''}"


def write(
    library: str,
    folder: Path,
    new_tokens: int,
    texts: int = 1,
    prompt: int = 16,
    way: str = "greedy",
    prompt_counts: bool = True,
    weights: str | None = None,
) -> Job:
    """No end token, so that both write as much. Without `prompt_counts` the first new token is not timed.

    With `weights` ours are rounded, and the reference's are not. Then texts may differ from their second new token on:
    the first comes of the prompt, which is read as ever.
    """
    import json

    import torch

    if library == "ctranslate2":
        return bench_peer.write(folder, new_tokens, texts, prompt, way, weights)
    lib = import_module(library)
    encodes = json.loads((folder / "config.json").read_text())["is_encoder_decoder"]
    model = (lib.AutoModelForSeq2SeqLM if encodes else lib.AutoModelForCausalLM).from_pretrained(folder).eval()
    for config in (model.config, model.generation_config):
        if config is not None:
            config.eos_token_id = config.forced_eos_token_id = None
    if weights and library == "minihf":
        lib.decode_in(model, weights)
    ids = torch.randint(1, model.config.vocab_size - 1, (texts, prompt), generator=torch.Generator().manual_seed(1))
    go = partial(model.generate, ids, attention_mask=torch.ones_like(ids), **WAYS[way])

    def run(tokens: int = new_tokens):
        torch.manual_seed(1)  # both draw the same tokens
        return go(max_new_tokens=tokens)

    compared = prompt + 1 if weights else None
    return Job(run, show=lambda ids: ids[:, :compared], before=None if prompt_counts else partial(run, 1))


# Checkpoints. Weights are drawn wider than for training, so that texts do not end in one repeated token.


def gpt2(layers: int, width: int, heads: int, vocabulary: int) -> Any:
    from minihf import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=layers,
            n_embd=width,
            n_head=heads,
            vocab_size=vocabulary,
            initializer_range=0.1,
        )
    )


def llama(layers: int, width: int, heads: int, kv_heads: int) -> Any:
    from minihf import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=layers,
            hidden_size=width,
            intermediate_size=width * 43 // 16,  # as in the 7B model
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=2048,
            max_position_embeddings=4096,
            initializer_range=0.1,
        )
    )


def marian(layers: int, width: int) -> Any:
    from minihf import MarianConfig, MarianMTModel

    heads, inner = width // 64 or 2, 4 * width
    return MarianMTModel(
        MarianConfig(
            vocab_size=8000,
            d_model=width,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=inner,
            decoder_ffn_dim=inner,
            activation_function="swish",
            scale_embedding=True,
            pad_token_id=7999,
            decoder_start_token_id=7999,
            eos_token_id=0,
            init_std=0.1,
        )
    )
