"""`train_new_from_iterator` for every algorithm: what is kept is what the reference keeps.

The trainers of word pieces, of Unigram and of BPE with a suffix break ties by chance, so that the reference trained
twice differs from itself; there the vocabularies are compared by how much they share, and all else for equality.
"""

import json

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from minihf.tokenization import PreTrainedTokenizerFast

MARKS = ["<unk>", "<s>", "</s>", "<mask>"]


def unigram(lines: list[str]) -> Tokenizer:
    """As T5's and XLM-R's, with a token that its user added."""
    engine = Tokenizer(models.Unigram())
    engine.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=MARKS, unk_token="<unk>", show_progress=False)
    engine.train_from_iterator(lines, trainer)
    engine.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", engine.token_to_id("</s>"))]
    )
    engine.add_tokens(["<user>"])
    return engine


def bpe_of_sentencepiece(lines: list[str]) -> Tokenizer:
    """As Llama's: spaces are letters, and nothing cuts words."""
    engine = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    engine.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    engine.train_from_iterator(
        lines[:300], trainers.BpeTrainer(vocab_size=300, special_tokens=MARKS, show_progress=False)
    )
    engine.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", engine.token_to_id("<s>"))]
    )
    return engine


def bpe_of_roberta(lines: list[str]) -> Tokenizer:
    engine = Tokenizer(models.BPE(unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])
    engine.decoder = decoders.ByteLevel()
    engine.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=400, special_tokens=MARKS, show_progress=False))
    engine.post_processor = processors.RobertaProcessing(
        ("</s>", engine.token_to_id("</s>")), ("<s>", engine.token_to_id("<s>"))
    )
    return engine


def bpe_with_suffix(lines: list[str]) -> Tokenizer:
    """As GPT's."""
    engine = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.BertPreTokenizer(), decoders.BPEDecoder("</w>")
    engine.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    special = {"special_tokens": MARKS, "show_progress": False, "end_of_word_suffix": "</w>"}
    engine.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=400, **special))
    return engine


def words(lines: list[str]) -> Tokenizer:
    engine = Tokenizer(models.WordLevel(unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    engine.train_from_iterator(lines, trainers.WordLevelTrainer(special_tokens=MARKS, show_progress=False))
    return engine


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("make", [unigram, bpe_of_sentencepiece, bpe_of_roberta, bpe_with_suffix, words])
def test_every_algorithm(make, anew, sources, texts):
    lines = [line for source in sources for line in source.splitlines()][:900]
    engine = make(lines)
    roles = {"unk_token": "<unk>", "eos_token": "</s>", "mask_token": "<mask>", "extra_special_tokens": ["<s>"]}
    pair = [
        made(tokenizer_object=engine, **roles) for made in (PreTrainedTokenizerFast, transformers.TokenizersBackend)
    ]
    options = (
        {"new_special_tokens": ["<new>"], "special_tokens_map": {"<unk>": "[UNK]", "</s>": "[END]"}} if anew else {}
    )
    ours, reference = (
        tokenizer.train_new_from_iterator(iter([lines[300:500], lines[500:]]), 350, show_progress=False, **options)
        for tokenizer in pair
    )
    assert len(ours) == len(reference) == 350
    assert ours.special_tokens_map == reference.special_tokens_map
    assert ours.all_special_ids == reference.all_special_ids
    assert ours.unk_token_id is not None
    first, second = (json.loads(tokenizer.backend_tokenizer.to_str()) for tokenizer in (ours, reference))
    models_of = first.pop("model"), second.pop("model")
    assert first == second
    by_chance = make in (unigram, bpe_with_suffix)
    for part in models_of[0].keys() - ({"vocab", "merges"} if by_chance else set()):
        assert models_of[0][part] == models_of[1][part], part
    assert len(ours.get_vocab().keys() & reference.get_vocab().keys()) > (220 if by_chance else 349)
    assert ours.get_vocab() != pair[0].get_vocab()
    if not by_chance:
        assert dict(ours(texts)) == dict(reference(texts))


def test_options_of_the_trainer(load, sources):
    ours, reference = (
        tokenizer.train_new_from_iterator(sources[3:], 400, min_frequency=4, show_progress=False)
        for tokenizer in load("gpt2")
    )
    assert ours.get_vocab() == reference.get_vocab()
    assert len(ours) < 350
    with pytest.raises(ValueError, match=r"trainer of BPE has no options \['min_freq'\]; it has .*min_frequency"):
        load("gpt2").ours.train_new_from_iterator(sources, 400, min_freq=4)
