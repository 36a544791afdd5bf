"""Mixtral's own: experts in the names of published files and in the model's, routing, the auxiliary loss."""

import copy
import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from minihf.checkpoints.files import CheckpointError, save_weights
from minihf.inspection.batches import randomise
from minihf.inspection.compare import KeepDouble
from minihf.inspection.families import FAMILIES
from minihf.inspection.pairs import ParityError, assert_parity, chunked, make_pair
from minihf.models import loading, mixtral
from minihf.models.auto import AutoConfig, AutoModel, AutoModelForCausalLM
from minihf.models.mixtral import (
    MixtralConfig,
    MixtralForCausalLM,
    MixtralForQuestionAnswering,
    MixtralForSequenceClassification,
    MixtralForTokenClassification,
    MixtralModel,
)
from minihf.nn.cache import Cache
from minihf.nn.losses import load_balancing_loss

SIZES = {"vocab_size": 67, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 2}
E, C, INNER = 4, 24, 16
PUBLISHED = {
    **SIZES, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0,
    "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 32768, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_experts_per_tok": 2, "num_local_experts": E, "output_router_logits": False,
    "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": None,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16", "use_cache": True,
}  # fmt: skip


def tiny(**changes):
    sizes = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": E}
    return MixtralConfig(**{**sizes, "max_position_embeddings": 12, **changes})


def lively(cls, config):
    model = cls(config)
    randomise(model)
    return model.eval()


def twin(ours):
    """The same model in the reference."""
    fields = {key: copy.deepcopy(value) for key, value in ours.config.to_dict().items() if key != "model_type"}
    theirs = getattr(transformers, type(ours).__name__)(transformers.MixtralConfig(**fields)).to(ours.dtype).eval()
    theirs.load_state_dict(ours.state_dict())
    theirs.set_experts_implementation("eager")
    return theirs


def write(folder, config, tensors=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        save_file({key: x.contiguous().clone() for key, x in tensors.items()}, folder / "model.safetensors")
    return folder


def texts(*shape):
    return torch.randint(3, 60, shape)


def published(state):
    """A state dict in the names of the files, said once more by plain loops."""
    tensors = {}
    for key, x in state.items():
        old = key.replace("mlp.", "block_sparse_moe.")
        if key.endswith("gate_up_proj"):
            for i in range(E):
                tensors[old.replace("gate_up_proj", f"{i}.w1.weight")] = x[i, :INNER]
                tensors[old.replace("gate_up_proj", f"{i}.w3.weight")] = x[i, INNER:]
        elif key.endswith("down_proj"):
            tensors |= {old.replace("down_proj", f"{i}.w2.weight"): x[i] for i in range(E)}
        else:
            tensors[old] = x
    return tensors


def as_saved(tensors, prefix):
    """With or without the name of the base model inside a head."""
    return {key.removeprefix("model.") if not prefix else key: x for key, x in tensors.items()}


# Files


@pytest.mark.parametrize("cls", [MixtralModel, MixtralForCausalLM, MixtralForTokenClassification])
def test_files_are_written_in_the_published_names(cls, tmp_path):
    model = lively(cls, tiny())
    model.save_pretrained(tmp_path)
    expected, saved = published(model.state_dict()), load_file(tmp_path / "model.safetensors")
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], x) for key, x in expected.items())
    theirs, info = getattr(transformers, cls.__name__).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_file(tmp_path / "theirs/model.safetensors").keys() == expected.keys()
    again, info = cls.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not info["missing"] + info["unexpected"] + info["new"] + info["stale"] + info["other_head"]
    assert all(torch.equal(again.state_dict()[key], x) for key, x in model.state_dict().items())


@pytest.mark.parametrize("shard", ["50GB", "3KB"])
@pytest.mark.parametrize("stacked", [False, True])
def test_experts_load_from_either_names(stacked, shard, tmp_path):
    model = lively(MixtralForCausalLM, tiny())
    tensors = model.state_dict() if stacked else published(model.state_dict())
    write(tmp_path, PUBLISHED)
    files = save_weights(tmp_path, tensors, max_shard_size=shard)
    assert (len(files) > 4) == (shard == "3KB")
    ours, info = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32", output_loading_info=True)
    assert type(ours) is MixtralForCausalLM
    assert sorted(info["loaded"].values()) == sorted(tensors)  # every tensor of the file
    kinds = ("new", "missing", "unexpected", "other_head", "stale", "mismatched", "wrong_dtype", "tied")
    assert not any(info[kind] for kind in kinds)
    assert all(torch.equal(ours.state_dict()[key], x) for key, x in model.state_dict().items())
    assert all(not p.is_meta and p.requires_grad and p.is_leaf for p in ours.parameters())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = texts(2, 9)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)
    half = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    expected = model.model.layers[1].mlp.experts.down_proj.bfloat16()
    assert torch.equal(half.model.layers[1].mlp.experts.down_proj, expected)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
def test_base_and_head_load_with_and_without_the_prefix(prefix, stacked, tmp_path):
    model = lively(MixtralModel, tiny())
    state = {"model." + key: x for key, x in model.state_dict().items()}
    write(tmp_path, PUBLISHED, as_saved(state if stacked else published(state), prefix))
    base = AutoModel.from_pretrained(tmp_path, dtype="float32")
    head, info = MixtralForSequenceClassification.from_pretrained(tmp_path, dtype="float32", output_loading_info=True)
    assert info["new"] == ["score.weight"]
    for key, x in model.state_dict().items():
        assert torch.equal(base.state_dict()[key], x)
        assert torch.equal(head.model.state_dict()[key], x)


def test_what_is_wrong_with_an_expert_is_said_by_its_name(tmp_path):
    tensors = published(lively(MixtralForCausalLM, tiny()).state_dict())
    lacking = tensors.pop("model.layers.1.block_sparse_moe.experts.2.w1.weight")
    wide = "model.layers.0.block_sparse_moe.experts.3.w2.weight"
    tensors[wide] = torch.zeros(C, INNER + 1)
    tensors["model.layers.0.block_sparse_moe.experts.4.w2.weight"] = torch.zeros(C, INNER)
    write(tmp_path, PUBLISHED, tensors)
    with pytest.raises(CheckpointError) as caught:
        MixtralForCausalLM.from_pretrained(tmp_path)
    message = str(caught.value)
    assert "model.layers.1.block_sparse_moe.experts.2.w1.weight: missing from the file" in message
    assert f"{wide}: shape (24, 17) in the file, (24, 16) in the model" in message
    assert "model.layers.0.block_sparse_moe.experts.4.w2.weight: in the file, unknown to the model" in message
    torch.manual_seed(0)
    model = MixtralForCausalLM.from_pretrained(tmp_path, strict=False, ignore_mismatched_sizes=True, dtype="float32")
    first = model.model.layers[1].mlp.experts.gate_up_proj
    assert torch.equal(first[2, INNER:], tensors["model.layers.1.block_sparse_moe.experts.2.w3.weight"])
    assert torch.equal(first[3, :INNER], tensors["model.layers.1.block_sparse_moe.experts.3.w1.weight"])
    assert 0.01 < first[2, :INNER].std() < 0.03  # as the config's initializer_range says
    assert not torch.equal(first[2, :INNER], lacking)
    assert 0.01 < model.model.layers[0].mlp.experts.down_proj[3].std() < 0.03


def test_on_the_meta_device_it_is_described(tmp_path):
    lively(MixtralForCausalLM, tiny()).save_pretrained(tmp_path)
    model = MixtralForCausalLM.from_pretrained(tmp_path, device_map="meta", dtype="bfloat16")
    experts = model.model.layers[0].mlp.experts
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in model.parameters())
    assert experts.gate_up_proj.shape == (E, 2 * INNER, C)


def test_loading_holds_one_matrix_beside_the_model(tmp_path, monkeypatch):
    """Nothing is stacked first and copied then: each matrix goes from the file to its place."""
    lively(MixtralForCausalLM, tiny()).save_pretrained(tmp_path)
    made = []
    right = torch.empty_like
    monkeypatch.setattr(loading.torch, "empty_like", lambda x, **kw: (made.append(x.shape), right(x, **kw))[1])
    monkeypatch.setattr(loading.torch, "stack", None)
    monkeypatch.setattr(loading.torch, "cat", None)
    MixtralForCausalLM.from_pretrained(tmp_path)
    assert sorted(made) == sorted([(E, 2 * INNER, C), (E, C, INNER)] * 2)


def test_first_values_of_experts_and_router():
    model = MixtralModel(tiny(initializer_range=0.5))
    for name in ("gate.weight", "experts.gate_up_proj", "experts.down_proj"):
        x = model.layers[0].mlp.get_parameter(name)
        assert 0.35 < x.std() < 0.65
        assert abs(x.mean()) < 0.15


# Config


def test_defaults_are_the_references():
    ours, theirs = MixtralConfig(), transformers.MixtralConfig()
    names = {field.name for field in dataclasses.fields(MixtralConfig)}
    names -= {"output_attentions", "classifier_dropout", "rope_parameters", "head_dim"}
    assert names >= {field.name for field in dataclasses.fields(theirs)} - {
        "transformers_version", "chunk_size_feed_forward", "rope_parameters", "head_dim",
    }  # fmt: skip
    assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}
    assert ours.head_dim == 128
    assert ours.rope_parameters == {"rope_theta": 1e6, "rope_type": "default"} == theirs.rope_parameters
    assert MixtralConfig(num_experts=5).num_local_experts == 5 == MixtralConfig(num_local_experts=5).num_experts


def test_its_config_goes_both_ways(tmp_path):
    write(tmp_path, PUBLISHED)
    ours = AutoConfig.from_pretrained(tmp_path)
    ours.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again/config.json").read_text())
    for key in set(PUBLISHED) - {"rope_theta", "torch_dtype", "sliding_window"}:
        assert saved[key] == PUBLISHED[key]
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "again")
    assert theirs.rope_parameters == ours.rope_parameters == {"rope_theta": 1e6, "rope_type": "default"}
    assert theirs.num_local_experts == E
    assert theirs.router_aux_loss_coef == 0.02
    theirs.save_pretrained(tmp_path / "theirs")
    assert AutoConfig.from_pretrained(tmp_path / "theirs").num_local_experts == E


REFUSED = [
    ({"num_experts_per_tok": 5}, "num_experts_per_tok=5, of num_local_experts=4"),
    ({"num_experts_per_tok": 0}, "num_experts_per_tok=0"),
    ({"num_local_experts": 0}, "num_local_experts=0"),
    ({"router_jitter_noise": -0.1}, "router_jitter_noise=-0.1"),
    ({"router_aux_loss_coef": float("nan")}, "router_aux_loss_coef=nan"),
    ({"sliding_window": 0}, "sliding_window=0"),
    ({"hidden_act": "swiglu"}, "hidden_act='swiglu' is not implemented"),
    ({"num_attention_heads": 5}, "hidden_size=24 must be a multiple of num_attention_heads=5"),
]


@pytest.mark.parametrize("change, message", REFUSED, ids=str)
def test_what_makes_no_mixtral_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tiny(**change)


HEADS = {
    MixtralForCausalLM: ["lm_head.weight"],
    MixtralForSequenceClassification: ["score.weight"],
    MixtralForTokenClassification: ["score.weight", "score.bias"],
    MixtralForQuestionAnswering: ["qa_outputs.weight", "qa_outputs.bias"],
}


@pytest.mark.parametrize("target", HEADS)
def test_a_base_checkpoint_lacks_the_heads_parameters_and_no_others(target, tmp_path):
    saved = lively(MixtralModel, tiny())
    saved.save_pretrained(tmp_path)
    model, info = target.from_pretrained(tmp_path, output_loading_info=True)
    assert info["new"] == HEADS[target]
    assert not info["missing"] + info["unexpected"] + info["stale"]
    assert all(torch.equal(model.model.state_dict()[key], x) for key, x in saved.state_dict().items())


# Routing


def by_loops(moe, x):
    """The paper's equation, token by token."""
    y = torch.zeros_like(x)
    for b, t in torch.cartesian_prod(*map(torch.arange, x.shape[:2])).tolist():
        probabilities = (moe.gate.weight @ x[b, t]).softmax(-1)
        best = sorted(range(E), key=lambda e: -probabilities[e])[:2]
        for e in best:
            matrices = moe.experts.gate_up_proj[e]
            hidden = F.silu(matrices[:INNER] @ x[b, t]) * (matrices[INNER:] @ x[b, t])
            y[b, t] += probabilities[e] / probabilities[best].sum() * (moe.experts.down_proj[e] @ hidden)
    return y


def test_a_mixture_is_the_papers_equation():
    moe = lively(MixtralModel, tiny()).double().layers[0].mlp
    x = torch.randn(2, 5, C, dtype=torch.float64)
    torch.testing.assert_close(moe(x)[0], by_loops(moe, x), rtol=0, atol=1e-12)


def test_shares_are_a_softmax_over_the_chosen_alone():
    logits = torch.randn(50, 7, dtype=torch.float64)
    chosen, shares = mixtral.route(logits, 3)
    torch.testing.assert_close(shares, logits.gather(-1, chosen).softmax(-1), rtol=0, atol=1e-12)
    assert torch.equal(chosen, logits.topk(3).indices)
    assert mixtral.route(logits.bfloat16(), 3)[1].dtype == torch.float32


def test_an_expert_runs_on_the_tokens_sent_to_it_and_on_no_others(monkeypatch):
    experts = lively(MixtralModel, tiny()).layers[0].mlp.experts
    chosen = torch.tensor([[0, 2], [2, 0], [3, 2]])  # nobody asks expert 1
    rows = []
    monkeypatch.setattr(mixtral, "linear", lambda x, w: (rows.append(len(x)), F.linear(x, w))[1])
    experts(torch.randn(3, C), chosen, torch.rand(3, 2))
    assert rows == [2, 2, 3, 3, 1, 1]


def test_an_expert_that_nobody_asks_gets_a_gradient_of_zero():
    experts = lively(MixtralModel, tiny()).layers[0].mlp.experts
    experts(torch.randn(3, C), torch.tensor([[0, 2], [2, 0], [3, 2]]), torch.rand(3, 2)).sum().backward()
    asked = experts.gate_up_proj.grad.flatten(1).abs().sum(1) > 0
    assert asked.tolist() == [True, False, True, True]
    assert experts.down_proj.grad[1].count_nonzero() == 0


def test_jitter_is_for_training_only():
    model = lively(MixtralModel, tiny(router_jitter_noise=0.5))
    ids = texts(2, 7)
    assert torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)
    model.train()
    assert not torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)


# The auxiliary loss


def aux_by_loops(router_logits, k, real):
    asked, probable, total = *torch.zeros(2, E, dtype=torch.float64), 0
    for logits in router_logits:
        for row, counts in zip(logits.double(), real.flatten().tolist(), strict=True):
            if counts:
                probabilities = row.softmax(-1)
                asked[probabilities.topk(k).indices] += 1
                probable += probabilities
                total += 1
    return E * sum(asked[e] / total * probable[e] / total for e in range(E))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_auxiliary_loss_is_the_papers_and_the_references(k, padded):
    router_logits = tuple(torch.randn(3, 10, E, dtype=torch.float64))
    mask = torch.ones(2, 5, dtype=torch.long)
    if padded:
        mask[0, :3] = mask[1, 4] = 0
    for given in (mask, *([] if padded else [None])):
        found = load_balancing_loss(router_logits, k, given)
        torch.testing.assert_close(found, aux_by_loops(router_logits, k, mask), rtol=0, atol=1e-12)
        with KeepDouble():
            theirs = load_balancing_loss_func(router_logits, E, k, given)
        torch.testing.assert_close(found, theirs, rtol=1e-6, atol=0)
    even = tuple(torch.eye(E).repeat(5, 1)[None])
    if k == 1:
        torch.testing.assert_close(load_balancing_loss(even, 1), torch.tensor(1.0))
        torch.testing.assert_close(load_balancing_loss((99 * torch.eye(E)[:1].repeat(6, 1),), 1), torch.tensor(4.0))


def test_router_logits_and_auxiliary_loss_come_when_they_are_asked_for():
    ours = lively(MixtralForCausalLM, tiny(router_aux_loss_coef=0.25))
    theirs, ids = twin(ours), texts(2, 7)
    plain = ours(ids, labels=ids)
    assert plain.aux_loss is plain.router_logits is None
    for options in ({"labels": ids}, {}, {"output_hidden_states": True}):
        mine, others = (model(ids, output_router_logits=True, **options) for model in (ours, theirs))
        assert [*mine] == [*others]
        assert [tuple(x.shape) for x in mine.router_logits] == [(14, E)] * 2
        torch.testing.assert_close(mine.router_logits, others.router_logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(mine.aux_loss, others.aux_loss, rtol=0, atol=1e-5)
        if options.get("labels") is not None:
            torch.testing.assert_close(mine.loss, others.loss, rtol=0, atol=1e-5)
            torch.testing.assert_close(mine.loss, plain.loss + 0.25 * mine.aux_loss)
    ours.config.output_router_logits = theirs.config.output_router_logits = True
    for model in (ours, ours.model):
        assert len(model(ids).router_logits) == 2
    assert ours(ids, output_router_logits=False).router_logits is None
    assert [*ours.model(ids)] == [*theirs.model(ids)]
    assert len(ours(ids, return_dict=False)) == 4  # aux_loss, logits, past_key_values, router_logits


def test_the_auxiliary_loss_of_a_piece_counts_its_own_tokens():
    ours = lively(MixtralForCausalLM, tiny()).double()
    ids, mask = texts(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :6] = 0
    whole, cache = ours(ids, mask, output_router_logits=True), Cache()
    ours(ids[:, :5], mask[:, :5], past_key_values=cache)
    piece = ours(ids[:, 5:], mask, past_key_values=cache, output_router_logits=True)
    logits = [x.view(2, 9, E)[:, 5:].flatten(0, 1) for x in whole.router_logits]
    torch.testing.assert_close(piece.aux_loss, load_balancing_loss(tuple(logits), 2, mask[:, 5:]), rtol=0, atol=1e-10)


def without_the_mask(logits, k, mask):
    return load_balancing_loss(logits, k, None)


def times_the_choices_too(logits, k, mask):
    return k * load_balancing_loss(logits, k, mask)


def of_the_last_layer(logits, k, mask):
    return load_balancing_loss(logits[-1:], k, mask)


def of_the_first_choice(logits, k, mask):
    return load_balancing_loss(logits, 1, mask)


def without_the_number_of_experts(logits, k, mask):
    return load_balancing_loss(logits, k, mask) / logits[0].shape[-1]


def a_mean_over_layers_of_their_losses(logits, k, mask):
    return torch.stack([load_balancing_loss((x,), k, mask) for x in logits]).mean()


WRONG = [without_the_mask, times_the_choices_too, of_the_last_layer, of_the_first_choice]
WRONG += [without_the_number_of_experts, a_mean_over_layers_of_their_losses]


@pytest.mark.parametrize("wrong", WRONG)
def test_the_harness_sees_an_auxiliary_loss_that_is_wrong(wrong, monkeypatch):
    """In float32, in which the reference counts."""
    pair = make_pair("mixtral", "MixtralForCausalLM", FAMILIES["mixtral"].variants["auxiliary loss"])
    assert_parity(pair, torch.float32, masks=("left",), impls=("sdpa",))
    monkeypatch.setattr(mixtral, "load_balancing_loss", wrong)
    with pytest.raises(ParityError):
        assert_parity(pair, torch.float32, masks=("left",), impls=("sdpa",))


def test_the_harness_sees_a_share_of_the_auxiliary_loss_that_is_wrong():
    pair = make_pair("mixtral", "MixtralForCausalLM", FAMILIES["mixtral"].variants["auxiliary loss"])
    pair.ours.config.router_aux_loss_coef = 0.71
    with pytest.raises(ParityError):
        assert_parity(pair, torch.float32, masks=("full",), impls=("sdpa",))


# Generation, and the reference as it runs by default


def test_it_equals_the_references_other_ways_to_run_experts():
    ours = lively(MixtralForCausalLM, tiny())
    theirs, ids = twin(ours), texts(3, 11)
    for way in ("grouped_mm", "batched_mm"):
        theirs.set_experts_implementation(way)
        with torch.no_grad():
            torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
def test_a_text_in_any_pieces(window):
    ours = lively(MixtralForCausalLM, tiny(sliding_window=window)).double()
    ids, mask = texts(2, 17), torch.ones(2, 17, dtype=torch.long)
    mask[1, :6] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    whole, real = ours(**batch).logits, mask.bool()
    for sizes in ((1,) * 17, (9, 8), (2, 14, 1), (5, 5, 5, 2)):
        torch.testing.assert_close(chunked(ours, batch, sizes)[real], whole[real], rtol=0, atol=1e-10)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("window", [None, 5])
def test_generated_ids_are_the_references(window, do_sample, padded):
    ours = MixtralForCausalLM(tiny(pad_token_id=0, eos_token_id=None, sliding_window=window))
    torch.manual_seed(3)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.8 if parameter.dim() > 1 else 0.1)
    ours = ours.double().eval()
    theirs = twin(ours)
    torch.manual_seed(11)
    ids, mask = texts(3, 7), torch.ones(3, 7, dtype=torch.long)
    if padded:
        mask[1, :2] = mask[2, :5] = 0
        ids = ids.masked_fill(mask == 0, 0)
    given = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": do_sample}
    for seed, settings in enumerate(({}, {"top_p": 0.8, "temperature": 1.5}, {"eos_token_id": [5, 6]})):
        outs = []
        for model, options in ((ours, {}), (theirs, {}), (ours, {"use_cache": False})):
            torch.manual_seed(seed)
            outs.append(model.generate(ids, **given, **settings, **options))
        assert torch.equal(outs[0], outs[1])
        assert torch.equal(outs[0], outs[2])


def test_it_trains_under_autocast():
    model = lively(MixtralForCausalLM, tiny(output_router_logits=True)).train()
    ids = texts(2, 8)
    exact = model(ids, labels=ids).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert abs(loss - exact) < 0.1
