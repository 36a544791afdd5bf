"""Shared by the recipes that write text: a small new Marian, the training, and what is then written."""

import argparse
import sys

from common import HEADS, byte_pieces, say, settings
from datasets import DatasetDict

from minihf import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)


def learn_to_write(
    args: argparse.Namespace, data: DatasetDict, source: str, target: str
) -> tuple[Seq2SeqTrainer, list[str]]:
    """Train on one column as the answer to the other: the trainer, and what the model writes for the held-out rows."""
    for name in (source, target):
        kind = getattr(data["train"].features[name], "dtype", "a list")
        if kind not in ("string", "large_string"):
            sys.exit(f"the column for {name!r} holds {kind}, where texts are expected: name another by --columns")
    if args.model:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForSeq2SeqLM.from_pretrained(args.model)
    else:
        texts = (text for name in (source, target) for text in data["train"][name])
        tokenizer = byte_pieces(texts, args.vocab_size, frame=True)
        model = small_marian(args, tokenizer)
        tokenizer.model_max_length = model.position_limit

    def encode(rows):
        return tokenizer(rows[source], text_target=rows[target], truncation=True, max_length=args.max_length)

    encoded = data.map(encode, batched=True, remove_columns=[source, target])
    options = {"predict_with_generate": True, "generation_max_length": args.max_length}
    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(**settings(args, model), **options),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        train_dataset=encoded["train"],
        eval_dataset=encoded["test"],
        processing_class=tokenizer,
    )
    trainer.train()

    ids = trainer.predict(encoded["test"]).predictions
    ids[ids < 0] = tokenizer.pad_token_id
    written = tokenizer.batch_decode(ids, skip_special_tokens=True)
    for row in zip(data["test"][source][:3], data["test"][target][:3], written, strict=False):
        say()
        for name, text in zip(("source", "target", "written"), row, strict=True):
            say(f"{name:8}{' '.join(text.split())[:100]}")
    return trainer, written


def small_marian(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> MarianMTModel:
    """A new Marian, without dropout, as there is time for a few epochs only.

    It begins with what takes longest to find: that a word of the source may be the one to write. Where the decoder
    looks into the source, queries are made as keys are, so that at first position p looks at position p; and what is
    taken from there goes out by the transpose of the matrix by which it came in, and so still resembles the word.
    """
    size = args.width**-0.5  # with it and `scale_embedding`, a word weighs about as much as its position
    # Positions are computed, so that to have 512 costs nothing; no end is forced, where Marian's own has another id.
    config = MarianConfig(
        vocab_size=len(tokenizer), d_model=args.width, encoder_layers=args.layers, decoder_layers=args.layers,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=2 * args.width,
        decoder_ffn_dim=2 * args.width, dropout=0.0, max_position_embeddings=max(512, args.max_length),
        scale_embedding=True, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None, decoder_start_token_id=tokenizer.pad_token_id, init_std=size,
    )  # fmt: skip
    model = MarianMTModel(config)
    for layer in model.model.decoder.layers:
        attention = layer.encoder_attn
        attention.q_proj.weight.data.copy_(attention.k_proj.weight.data)
        attention.out_proj.weight.data.copy_(attention.v_proj.weight.data.T)
    return model
