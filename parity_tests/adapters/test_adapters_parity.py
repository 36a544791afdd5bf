"""LoRA beside peft: the same checkpoint, the same adapter, in float64; and its files, both ways."""

import warnings

import peft
import pytest
import torch
import transformers

from minihf import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from minihf.adapters.targets import DEFAULTS
from minihf.checkpoints.files import read_json
from minihf.inspection.batches import cast, make_batch, reference_batch
from minihf.inspection.compare import KeepDouble
from minihf.inspection.families import FAMILIES
from minihf.inspection.pairs import heads_of, make_pair, variants_of
from minihf.models.architectures import class_for

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
    "gpt2, conv1d": (GPT2, {"target_modules": r".*\.c_(attn|proj|fc)", "fan_in_fan_out": True, "lora_dropout": 0.2}),
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
    assert sorted(ours.targets["default"]) == sorted(theirs.base_model.targeted_module_names)
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()

    batch, others = batch_of(pair)
    for train in (True, False):
        found = []
        for model, given in ((ours, batch), (theirs, others)):
            model.train(train).zero_grad()
            torch.manual_seed(5)
            with KeepDouble():
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
        if name == "auto_mapping" or (name == "target_modules" and CASES[case][1].get(name) == "all-linear"):
            continue  # peft shortens long lists; the modules are compared above
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
    with KeepDouble():
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
    # A file's matrices lie otherwise in memory, and there MKL may sum in another order: some ulps, as above.
    torch.testing.assert_close(again(**batch).logits, plain(**batch).logits, atol=1e-12, rtol=1e-12)


def pair_again(case):
    model_type, class_name, variant = CASES[case][0]
    return make_pair(model_type, class_name, variants_of(model_type, class_name)[variant]).to(torch.float64)


@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name != "mixtral"])
def test_all_linear_layers(model_type):
    """Of a language model all but its output layer, of a classifier all but its head. (Of Mixtral, peft takes the
    router, and the experts, which are no layers but parameters; minihf the attention alone.)"""
    heads = heads_of(model_type)
    writer = "ForCausalLM" if not {"ForMaskedLM", "ForSeq2SeqLM"} & {*heads.values()} else None
    for class_name, task in heads.items():
        if task not in ("ForMaskedLM", "ForSeq2SeqLM", "ForSequenceClassification", writer):
            continue
        if class_name == "DistilBertForSequenceClassification":
            continue  # peft fails: it takes pre_classifier for a linear layer and for a head
        config = class_for(model_type, "Config")(**FAMILIES[model_type].config)
        fields = {"target_modules": "all-linear", "task_type": "SEQ_CLS" if "Sequence" in task else None}
        with torch.device("meta"):
            ours = get_peft_model(class_for(model_type, task)(config), LoraConfig(**fields))
            its = getattr(transformers, type(config).__name__)(**config.to_dict())
            theirs = quiet_peft(getattr(transformers, class_name)(its), **fields)
        assert sorted(ours.targets["default"]) == sorted(theirs.base_model.targeted_module_names), class_name
        assert get_peft_model_state_dict(ours).keys() == peft.get_peft_model_state_dict(theirs).keys()


@pytest.mark.parametrize("init", [True, False, "gaussian"])
@pytest.mark.parametrize("case", [BERT, GPT2, T5], ids=lambda case: case[0])
def test_the_same_first_values(case, init):
    pair = make_pair(*case[:2])
    table = {"bert": "word_embeddings", "gpt2": "wte", "t5": "shared"}[case[0]]
    fields = {"init_lora_weights": init, "target_modules": [*DEFAULTS[case[0]], table], "r": 3}
    torch.manual_seed(3)
    ours = get_peft_model(pair.ours, LoraConfig(**fields))
    torch.manual_seed(3)
    theirs = peft.get_peft_model_state_dict(quiet_peft(pair.theirs, **fields))
    mine = get_peft_model_state_dict(ours)
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in mine.items())
    assert init is False or not any(x.any() for key, x in mine.items() if "lora_B" in key or "embedding_A" in key)


def test_peft_s_own_defaults():
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as THEIRS

    assert DEFAULTS.keys() == FAMILIES.keys()
    shared = DEFAULTS.keys() & THEIRS.keys()
    assert len(shared) == 11
    assert {name: [*DEFAULTS[name]] for name in shared} == {name: THEIRS[name] for name in shared}


@pytest.mark.parametrize("active", ["default", "b", ["default", "b"]])
def test_several_adapters(active, tmp_path):
    """Two adapters on partly the same layers, of which one has a head of its own; alone, and added up."""
    pair = make_pair("bert", "BertForSequenceClassification").to(torch.float64)
    first = {"target_modules": ["query", "value"], "r": 3}
    second = {"target_modules": ["query", "word_embeddings"], "lora_alpha": 5, "modules_to_save": ["classifier"]}
    ours, theirs = get_peft_model(pair.ours, LoraConfig(**first)), quiet_peft(pair.theirs, **first)
    ours.add_adapter("b", LoraConfig(**second))
    theirs.add_adapter("b", peft.LoraConfig(**second))
    assert ours.active_adapter == theirs.active_adapter == "default"
    for name in ("default", "b"):
        for model in (ours, theirs):
            model.set_adapter(name)
        fill(ours, theirs, seed=len(name))
    ours.set_adapter(active)
    theirs.base_model.set_adapter(active)
    learns = {name: x.requires_grad for name, x in ours.named_parameters()}
    assert learns == {name: x.requires_grad for name, x in theirs.named_parameters()}
    batch, others = batch_of(pair)
    for model in (ours, theirs):
        model.eval()
    expected = theirs(**others).logits
    torch.testing.assert_close(ours(**batch).logits, expected, atol=1e-10, rtol=1e-10)

    # as files: the first beside nothing, the other in a folder of its name
    ours.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "b"}
    again = pair_again("bert, defaults")
    loaded = PeftModel.from_pretrained(again.ours, tmp_path)
    loaded.load_adapter(tmp_path / "b", "b")
    loaded.set_adapter(active, inference_mode=True)
    assert not any(x.requires_grad for x in loaded.parameters())
    torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-10, rtol=1e-10)
    back = peft.PeftModel.from_pretrained(again.theirs, tmp_path)
    back.load_adapter(tmp_path / "b", "b")
    back.base_model.set_adapter(active)
    torch.testing.assert_close(back(**others).logits, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(ours.merge_and_unload()(**batch).logits, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Over a half-precision model the adapter is in float32, as in peft, and gives its layer's dtype."""
    pair, ours, theirs = make_both("llama, embeddings", dtype)
    kinds = {name: x.dtype for name, x in ours.named_parameters()}
    assert kinds == {name: x.dtype for name, x in theirs.named_parameters()}
    assert {dtype, torch.float32} == {*kinds.values()}
    ids, x = torch.randint(59, (3, 7)), torch.randn(3, 7, pair.ours.config.hidden_size).to(dtype)
    sides = (model.get_base_model() for model in (ours, theirs))
    for mine, its in zip(*(((side.model.embed_tokens, ids), (side.lm_head, x)) for side in sides), strict=True):
        found, expected = mine[0](mine[1]), its[0](its[1])
        assert found.dtype == expected.dtype == dtype
        torch.testing.assert_close(found, expected, atol=0, rtol=torch.finfo(dtype).eps)
    batch, _ = batch_of(pair, dtype)
    before = ours.eval()(**batch).logits.float()
    after = ours.merge_and_unload()(**batch).logits.float()
    # a merged weight is rounded once, to half an eps; through three layers, some tens of them
    assert (after - before).abs().max() < 60 * torch.finfo(dtype).eps * before.abs().max()


def test_a_resized_vocabulary_goes_with_the_adapter(tmp_path):
    """Without its table no one could use the adapter: as in peft, the file holds it."""
    pair = make_pair("llama", "LlamaForCausalLM")
    pair.ours.resize_token_embeddings(64)
    ours = get_peft_model(pair.ours, LoraConfig(task_type="CAUSAL_LM"))
    ours.save_pretrained(tmp_path)
    batch, others = batch_of(pair, torch.float32)
    expected = ours.eval()(**batch).logits
    base = make_pair("llama", "LlamaForCausalLM")
    for side in (base.ours, base.theirs):
        side.resize_token_embeddings(64)
    loaded = PeftModel.from_pretrained(base.ours, tmp_path)
    assert torch.equal(loaded(**batch).logits, expected)
    back = peft.PeftModel.from_pretrained(base.theirs, tmp_path)
    torch.testing.assert_close(back(**others).logits, expected, atol=1e-5, rtol=1e-4)
