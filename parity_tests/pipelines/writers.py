"""Tiny checkpoints that write, made as those of `checkpoints`: every number from a formula."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, processors

import minihf
from parity_tests.pipelines.checkpoints import SPECIAL, TEXTS, bytes_engine, wordpiece_engine

CHAT = (
    "{% if tools %}[{{ tools[0].function.name }}]{% endif %}{% for d in documents or [] %}({{ d.title }}){% endfor %}"
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
PROMPTS = [*TEXTS, "Angela Merkel visited Paris. " * 3, "the the the the"]
DECODER = {"vocab_size": 270, "bos_token_id": 0, "eos_token_id": 2}
GPT2 = DECODER | {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 320}
LLAMA = DECODER | {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 320,
}
BOTH = {"d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
BOTH |= {"vocab_size": 120, "encoder_attention_heads": 3, "decoder_attention_heads": 3, "max_position_embeddings": 300}
BOTH |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "forced_eos_token_id": 3}
T5 = {"vocab_size": 120, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 3}
T5 |= {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0}
PARAMS = {
    "summarization": {"prefix": "the ", "max_length": 12, "min_length": 4, "num_beams": 3, "early_stopping": True},
    "translation_en_to_fr": {"prefix": "in paris ", "num_beams": 2, "max_length": 30},
}
ENDS = [2, 3, 9, 17, 21, 33, 40, 58, 66, 71, 88, 95, 99, 107, 110, 113]  # texts of several lengths
# name -> class, tokenizer, sizes, generation config
WRITERS = {
    "gpt2": ("GPT2LMHeadModel", "open", GPT2, {}),
    "gpt2-ends": (
        "GPT2LMHeadModel",
        "padded",
        GPT2 | {"prefix": "Paris and "},
        {"eos_token_id": ENDS, "min_length": 4},
    ),
    "llama": ("LlamaForCausalLM", "padded", LLAMA, {"eos_token_id": ENDS, "max_length": 49, "top_p": 0.8}),
    "t5": ("T5ForConditionalGeneration", "pieces", T5, {}),
    "t5-tasks": ("T5ForConditionalGeneration", "pieces", T5 | {"task_specific_params": PARAMS}, {}),
    "bart": (
        "BartForConditionalGeneration",
        "pieces",
        BOTH | {"decoder_start_token_id": 3},
        {"max_length": 15, "min_length": 5, "no_repeat_ngram_size": 3, "length_penalty": 2.0, "num_beams": 2},
    ),
    "marian": (
        "MarianMTModel",
        "pieces",
        BOTH | {"decoder_start_token_id": 0, "share_encoder_decoder_embeddings": True},
        {"max_length": 22, "num_beams": 6, "bad_words_ids": [[0]], "eos_token_id": [3, 50, 60, 70, 80, 90, 100]},
    ),
}


def write_writer(name: str, folder: Path) -> Path:
    """Model and tokenizer of that name, in a folder that both libraries open."""
    class_name, kind, sizes, generation = WRITERS[name]
    cls = getattr(minihf, class_name)
    model = cls(cls.config_class(**sizes)).eval()
    random = np.random.RandomState(7)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            values = torch.from_numpy(random.standard_normal(parameter.shape)).float()
            norm = "norm" in key.lower() or "ln_" in key
            parameter.copy_(1 + 0.2 * values if norm and key.endswith("weight") else 0.4 * values)
    model.generation_config.update(generation)
    model.save_pretrained(folder)
    write_tokenizer(kind, folder)
    return folder


def write_tokenizer(kind: str, folder: Path) -> None:
    if kind == "pieces":
        roles = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
        engine, limit = wordpiece_engine(), 200
    else:
        engine, limit = open_engine(), 60
        roles = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"} | ({"pad": "<pad>"} if kind == "padded" else {})
    roles = {f"{role}_token": token for role, token in roles.items()}
    chat = CHAT if kind == "padded" else None
    minihf.PreTrainedTokenizerFast(engine, model_max_length=limit, chat_template=chat, **roles).save_pretrained(folder)


def open_engine() -> Tokenizer:
    """Bytes, and nothing put around a text."""
    engine = bytes_engine()
    engine.post_processor = processors.ByteLevel(trim_offsets=False)
    return engine
