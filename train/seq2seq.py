"""What the recipes share whose models write a text of their own: a small T5, its training, and what it then writes."""

import argparse

from common import byte_pieces, settings
from datasets import DatasetDict

from minihf import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
)


def learn_to_write(
    args: argparse.Namespace, data: DatasetDict, source: str, target: str
) -> tuple[Seq2SeqTrainer, list[str]]:
    """Train on one column as the answer to the other: the trainer, and what the model writes for the held-out rows."""
    if args.model:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForSeq2SeqLM.from_pretrained(args.model)
    else:
        texts = (text for name in (source, target) for text in data["train"][name])
        tokenizer = byte_pieces(texts, args.vocab_size, frame=True)
        model = small_t5(args, tokenizer)

    def encode(rows):
        return tokenizer(rows[source], text_target=rows[target], truncation=True, max_length=args.max_length)

    encoded = data.map(encode, batched=True, remove_columns=[source, target])
    options = {"predict_with_generate": True, "generation_max_length": args.max_length}
    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(**settings(args), **options),
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
        print()
        for name, text in zip(("source", "target", "written"), row, strict=True):
            print(f"{name:8}{' '.join(text.split())[:100]}")
    return trainer, written


def small_t5(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    """A new T5, without dropout, as there is time for a few epochs only.

    What a decoder takes from the source goes in by one matrix and out by another. Here the second is the transpose of
    the first, so that from the first step on a word that is looked at is more likely to be written.
    """
    config = T5Config(
        vocab_size=len(tokenizer), d_model=args.width, d_kv=args.width // 4, d_ff=2 * args.width, num_heads=4,
        num_layers=args.layers, dropout_rate=0.0, feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    for block in model.decoder.block:
        attention = block.layer[1].EncDecAttention
        attention.o.weight.data.copy_(attention.v.weight.data.T)
    return model
