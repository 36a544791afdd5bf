"""LoRA beside peft: the same checkpoint, the same adapter, in float64; and its files, both ways."""

import json
import logging
import warnings

import peft
import pytest
import torch
from torch import nn

from minihf import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from minihf.adapters.targets import settle
from minihf.checkpoints.files import read_json
from minihf.inspection.batches import cast, make_batch, reference_batch
from minihf.inspection.families import FAMILIES
from minihf.inspection.pairs import heads_of, make_pair, variants_of

BERT = ("bert", "BertForSequenceClassification", "plain")
GPT2 = ("gpt2", "GPT2LMHeadModel", "plain")
LLAMA = ("llama", "LlamaForCausalLM", "plain")
T5 = ("t5", "T5ForConditionalGeneration", "plain")
BART = ("bart", "BartForConditionalGeneration", "plain")

CASES = {
    "bert, defaults": (BERT, {}),
    "bert, classifier": (BERT, {"task_type": "SEQ_CLS", "r": 3, "lora_alpha": 7}),
    "bert, all-linear": (BERT, {"target_modules": "all-linear", "task_type": "SEQ_CLS", "lora_dropout": 0.3}),
    "bert, regex": (BERT, {"target_modules": r".*layer\.[02]\..*\.(key|dense)", "use_rslora": True, "r": 5}),
    "bert, embeddings": (BERT, {"target_modules": ["word_embeddings", "query"], "r": 2, "bias": "lora_only"}),
    "bert, all biases": (BERT, {"bias": "all", "task_type": "SEQ_CLS", "target_modules": ["value"]}),
    "bert, pooler": (BERT, {"modules_to_save": ["pooler"], "target_modules": ["query"], "lora_dropout": 0.1}),
    "bert, patterns": (
        BERT,
        {"target_modules": ["query", "dense"], "rank_pattern": {"query": 2, r"layer\.1\.output\.dense": 5},
         "alpha_pattern": {"dense": 3.5}, "exclude_modules": ["pooler.dense"]},
    ),
    "gpt2, defaults": (GPT2, {}),
    "gpt2, conv1d": (GPT2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True, "lora_dropout": 0.2}),
    "gpt2, some layers": (GPT2, {"target_modules": ["c_attn"], "layers_to_transform": [0, 2], "layers_pattern": "h"}),
    "gpt2, one layer": (GPT2, {"target_modules": ["c_proj"], "layers_to_transform": 1, "bias": "all"}),
    "gpt2, tied": (GPT2, {"target_modules": ["wte", "lm_head", "c_attn"], "task_type": "CAUSAL_LM"}),
    "llama, defaults": (LLAMA, {"task_type": "CAUSAL_LM", "r": 4}),
    "llama, embeddings": (LLAMA, {"target_modules": ["embed_tokens", "lm_head"], "r": 3}),
    "llama, head whole": (LLAMA, {"target_modules": ["o_proj", "up_proj"], "modules_to_save": ["lm_head"]}),
    "llama, excluded": (LLAMA, {"target_modules": "all-linear", "exclude_modules": r".*\.layers\.1\..*"}),
    "t5, defaults": (T5, {"task_type": "SEQ_2_SEQ_LM", "lora_dropout": 0.2}),
    "t5, all-linear": (T5, {"target_modules": "all-linear", "use_rslora": True}),
    "t5, a side": (T5, {"target_modules": ["q", "wi"], "exclude_modules": r"encoder\..*", "inference_mode": False}),
    "bart, scaled embeddings": (BART, {"target_modules": ["embed_tokens", "fc1"], "exclude_modules": ["shared"]}),
}  # fmt: skip


def quiet_peft(model, **fields):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, peft.LoraConfig(**fields))


def make_both(case, dtype=torch.float64):
    """The pair, wrapped, with one random adapter."""
    (model_type, class_name, variant), fields = CASES[case]
    pair = make_pair(model_type, class_name, variants_of(model_type, class_name)[variant]).to(dtype)
    ours, theirs = get_peft_model(pair.ours, LoraConfig(**fields)), quiet_peft(pair.theirs, **fields)
    fill(ours, theirs)
    return pair, ours, theirs


def fill(ours, theirs, seed=1):
    """The same random numbers for whatever either side trains."""
    generator = torch.Generator().manual_seed(seed)
    others = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            values = 0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.copy_(values)
            others[name].data.copy_(values)


def batch_of(pair, dtype=torch.float64):
    batch = cast(make_batch(pair.ours, pair.task, "right"), dtype, "cpu")
    return batch, reference_batch(batch, pair.task, positions=pair.positions_from_mask)


@pytest.mark.parametrize("case", CASES)
def test_like_peft(case, tmp_path):
    pair, ours, theirs = make_both(case)
    learns = {name: x.requires_grad for name, x in ours.named_parameters()}
    assert learns == {name: x.requires_grad for name, x in theirs.named_parameters()}
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()

    batch, others = batch_of(pair)
    for train in (True, False):
        found = []
        for model, given in ((ours, batch), (theirs, others)):
            model.train(train).zero_grad()
            torch.manual_seed(5)
            out = model(**given)
            out.loss.backward()
            found.append((out, {name: x.grad for name, x in model.named_parameters() if x.grad is not None}))
        (out, grads), (expected, expected_grads) = found
        torch.testing.assert_close(out.logits, expected.logits, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(out.loss, expected.loss, atol=1e-10, rtol=1e-10)
        assert grads.keys() == expected_grads.keys() == {name for name, learning in learns.items() if learning}
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected_grads[name], atol=1e-10, rtol=1e-9, msg=name)

    # files: one key for one key, and either side loads what the other wrote
    ours.save_pretrained(tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path / "theirs")
    written = set(get_peft_model_state_dict(ours))
    twice = {"original_module", "modules_to_save"}  # junk of peft's, with bias="all"
    assert written == {key for key in peft.get_peft_model_state_dict(theirs) if not twice & {*key.split(".")}}
    mine, its = (read_json(tmp_path / side / "adapter_config.json") for side in ("ours", "theirs"))
    its["fan_in_fan_out"] = mine["fan_in_fan_out"]  # of mixed layers, peft writes what the last one was
    for name, value in mine.items():
        if name == "auto_mapping":
            continue
        if isinstance(value, list):
            assert sorted(value) == sorted(its[name]), name
        else:
            assert value == its[name], name

    base = pair_again(case)
    loaded = PeftModel.from_pretrained(base.ours, tmp_path / "theirs")
    assert not any(x.requires_grad for x in loaded.parameters())
    assert not loaded.training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = peft.PeftModel.from_pretrained(base.theirs, tmp_path / "ours")
    expected = ours.eval()(**batch).logits
    assert torch.equal(loaded(**batch).logits, expected)
    torch.testing.assert_close(back(**others).logits, expected, atol=1e-10, rtol=1e-10)

    # Merged, W x + s B A x is (W + s B A) x: another order of the same sums, so a few ulps (1e-16) of values near 1.
    ours.merge_adapter()
    torch.testing.assert_close(ours(**batch).logits, expected, atol=1e-12, rtol=1e-12)
    ours.unmerge_adapter()
    assert torch.equal(ours(**batch).logits, expected)
    plain = ours.merge_and_unload()
    assert plain is pair.ours
    assert not any("lora" in name or "modules_to_save" in name for name in plain.state_dict())
    torch.testing.assert_close(plain(**batch).logits, expected, atol=1e-12, rtol=1e-12)
    plain.save_pretrained(tmp_path / "merged")
    again = type(plain).from_pretrained(tmp_path / "merged")
    assert torch.equal(again(**batch).logits, plain(**batch).logits)


def pair_again(case):
    model_type, class_name, variant = CASES[case][0]
    return make_pair(model_type, class_name, variants_of(model_type, class_name)[variant]).to(torch.float64)
