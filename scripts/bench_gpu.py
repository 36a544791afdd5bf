"""The rows of `bench.py gpu`: one text, written token by token on a CUDA GPU in bfloat16, and what its memory allows.

To write a token, all weights are read once, so that no token takes less time than their bytes over the bandwidth. The
bandwidth is that of a large copy from the GPU's memory to itself, measured in each worker: bytes read and written. Of
embedding tables one row is read, save where the table is the output layer, too.

Ours uses a `StaticCache` and its graph again in each run; the reference is called as its documentation says,
`cache_implementation="static"`, which compiles its forward with CUDA graphs. Weights are random, drawn on the device,
and bfloat16 rounds differently on both sides: the texts differ, their lengths do not.
"""

import statistics
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from bench_row import Job, Row, seconds_of

GOAL = 0.7  # of the bandwidth, for weights of some gigabytes
SHAPES: dict[str, dict[str, Any]] = {
    "GPT2": {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024},
    "Llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
}
TINY: dict[str, dict[str, Any]] = {
    "GPT2": {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "Llama": {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}


def rows(quick: bool = False) -> list[Row]:
    """`quick` makes every size tiny, and does without a GPU where there is none."""
    tokens, prompt, shapes = (8, 4, TINY) if quick else (128, 16, SHAPES)
    sizes = {"GPT2": "GPT-2 small", "Llama": "Llama of 7B"}
    return [
        Row(
            f"{sizes[kind]}, 1 text, bfloat16, {way}",
            partial(write, kind=kind, shape=shape, tokens=tokens, prompt=prompt, fused=way == "compiled graph"),
            units=tokens,
            unit="token",
            goal=1.0,
            floor_goal=GOAL if kind == "Llama" else None,
        )
        for kind, shape in shapes.items()
        for way in ("graph", "compiled graph")
    ]


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def write(library: str, folder: Path, kind: str, shape: dict[str, Any], tokens: int, prompt: int, fused: bool) -> Job:
    """The prompt's reading is one of the passes over the weights: it gives the first token."""
    import torch

    device = "cuda" if has_gpu() else "cpu"
    model = made(import_module(library), kind, shape, device)
    ids = torch.randint(1, shape["vocab_size"] - 1, (1, prompt), generator=torch.Generator().manual_seed(1)).to(device)
    settings: dict[str, Any] = {"cache_implementation": "static"}
    if library == "minihf":
        from minihf.nn.static_cache import StaticCache

        settings = {"past_key_values": StaticCache(prompt + tokens)}
        settings["compile_config"] = {} if fused and device == "cuda" else None

    def run():
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, **settings
        )
        return written.cpu()  # which waits for the device

    return Job(run, show=lambda ids: torch.tensor(ids.shape), floor=lambda: bytes_read(model) / bandwidth(device))


def made(lib: Any, kind: str, shape: dict[str, Any], device: str) -> Any:
    """A model with random weights, in bfloat16, drawn on the device; its texts have no end."""
    import torch

    config = getattr(lib, f"{kind}Config")(**shape, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    cls = getattr(lib, {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}[kind])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return cls(config).eval()
    finally:
        torch.set_default_dtype(before)


def bytes_read(model: Any) -> int:
    """Of weights, for one token of one text."""
    from torch import nn

    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tables -= {id(model.get_output_embeddings().weight)}
    return sum(x.numel() * x.element_size() for x in model.parameters() if id(x) not in tables)


def bandwidth(device: str) -> float:
    """Bytes a second, read and written, of a copy within the device's memory."""
    import torch

    size = 2**31 if device == "cuda" else 2**25
    a, b = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))

    def copy():
        for _ in range(10):
            b.copy_(a)
        if device == "cuda":
            torch.cuda.synchronize()

    copy()
    return 2 * 10 * size / statistics.median(seconds_of(copy) for _ in range(5))
