"""Rows of the benchmark: a training step, in which a language model's loss is the largest part.

One run is a forward, a backward and a step of torch's AdamW, on both sides, without dropout, so that both can be
compared by their loss. The memory of a step is what the first one adds to the process beyond the loaded model: the
kernel's own count of its highest resident size (VmHWM, reset before the step), so it counts whatever is allocated, in
Python or below, moments and gradients included, which both sides need alike.
"""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from bench_generate import gpt2
from bench_row import Job, Row

LENGTH = 128  # of the longest masked text


def rows(quick: bool = False) -> list[Row]:
    """`quick` makes every size tiny, as everywhere."""
    layers, width, heads, vocabulary = (2, 32, 2, 160) if quick else (6, 384, 6, 50257)
    shape = (2, 8) if quick else (4, 512)
    texts = 2 if quick else 16
    lengths = [round(LENGTH * 0.8825**i) for i in range(texts)]  # many short texts and a few long ones, as texts are
    return [
        Row(
            f"GPT-2 {layers}x{width}, {shape[0]} x {shape[1]} tokens, vocabulary {vocabulary}",
            partial(causal, shape=shape),
            partial(gpt2, layers, width, heads, vocabulary),
            unit="step",
            goal=0.8,
        ),
        Row(
            f"masked words, MiniLM-sized, {texts} ragged texts",
            partial(masked, lengths=lengths),
            partial(masked_bert, 2, 32, 2, 64) if quick else partial(masked_bert, 6, 384, 12, 1536),
            unit="step",
            goal=0.8,
        ),
    ]


def masked_bert(layers: int, width: int, heads: int, inner: int) -> Any:
    from minihf import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=inner
        )
    )


def causal(library: str, folder: Path, shape: tuple[int, int]) -> Job:
    import torch

    model = import_module(library).AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(1))
    return training(model, {"input_ids": ids, "labels": ids})


def masked(library: str, folder: Path, lengths: list[int]) -> Job:
    """15% of the real tokens are labelled."""
    import torch

    faster = {"attn_implementation": "packed"} if library == "minihf" else {}
    model = import_module(library).AutoModelForMaskedLM.from_pretrained(folder, **faster)
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()  # (B, T)
    ids = torch.randint(1000, model.config.vocab_size, mask.shape, generator=generator) * mask
    labelled = (torch.rand(mask.shape, generator=generator) < 0.15) & mask.bool()
    batch = {"input_ids": ids.masked_fill(labelled, 103), "attention_mask": mask}  # [MASK]
    return training(model, batch | {"labels": ids.masked_fill(~labelled, -100)})


def training(model: Any, batch: dict[str, Any]) -> Job:
    """A step, which gives its loss."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout_prob"):  # a number, where the reference has no module
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4)

    def run():
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return Job(run, lambda loss: loss[None])
