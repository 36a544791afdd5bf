"""Generation: ids equal the reference's, greedy and sampled; the cache, padding and chunks change nothing."""

import itertools
import json
import math

import pytest
import torch
import transformers

from minihf.generation.config import GenerationConfig
from minihf.generation.decode import decode
from minihf.generation.reader import Reader
from minihf.generation.stopping import at_token
from minihf.models.auto import AutoModelForCausalLM
from minihf.models.bert import BertConfig, BertForMaskedLM, BertLMHeadModel
from minihf.models.gpt2 import GPT2Config, GPT2LMHeadModel, GPT2Model
from minihf.models.llama import LlamaConfig, LlamaForCausalLM
from minihf.models.t5 import T5Config, T5ForConditionalGeneration
from minihf.nn.cache import Cache
from parity_tests.fast import test_graphs as tiny

V, LIMIT = 61, 48
SIZES = {"hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 5, "max_position_embeddings": LIMIT}
SIZES |= {"vocab_size": V, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
KINDS = pytest.mark.parametrize("kind", ["gpt2", "bert"])


@torch.no_grad()
def make_pair(kind: str, **changes):
    """The same model on both sides, with weights that make it lively; float64, so that no rounding breaks a tie."""
    cls, theirs_class = {
        "gpt2": (GPT2LMHeadModel, transformers.GPT2LMHeadModel),
        "bert": (BertLMHeadModel, transformers.BertLMHeadModel),
    }[kind]
    changes = {**SIZES, **({"is_decoder": True, "intermediate_size": 30} if kind == "bert" else {}), **changes}
    ours, theirs = cls(cls.config_class(**changes)), theirs_class(theirs_class.config_class(**changes))
    torch.manual_seed(3)
    for name, parameter in ours.named_parameters():
        norm = name.endswith("weight") and parameter.dim() == 1
        spread = 2.0 if "position" in name or "wpe" in name else 0.8 if parameter.dim() == 2 else 0.1
        parameter.normal_(mean=float(norm), std=spread)
    theirs.load_state_dict(ours.state_dict())
    return ours.double().eval(), theirs.double().eval()


@pytest.fixture(scope="session")
def pairs():
    return {kind: make_pair(kind) for kind in ("gpt2", "bert")}


def prompts(batch: int, tokens: int = 6, padded: bool = False):
    torch.manual_seed(11)
    ids = torch.randint(3, V, (batch, tokens))
    mask = torch.ones_like(ids)
    if padded:
        for row in range(1, batch):
            mask[row, : row + 1] = 0
        ids = ids.masked_fill(mask == 0, 0)
    return ids, mask


def both(pair, *args, seed: int = 5, **kwargs):
    """(ours, the reference's) under one seed."""
    out = []
    for model in pair:
        torch.manual_seed(seed)
        out.append(model.generate(*args, **kwargs))
    return out


def equal(pair, *args, **kwargs) -> torch.Tensor:
    ours, theirs = both(pair, *args, **kwargs)
    assert torch.equal(ours, theirs), f"\n{ours}\n{theirs}"
    return ours


# The same ids


@KINDS
@pytest.mark.parametrize("batch, padded", [(1, False), (3, False), (3, True)])
def test_greedy(kind, batch, padded, pairs):
    ids, mask = prompts(batch, padded=padded)
    out = equal(pairs[kind], ids, attention_mask=mask, max_new_tokens=15)
    assert out.shape == (batch, 21)
    assert torch.equal(out[:, :6], ids)
    assert len(set(map(tuple, out[:, 6:].tolist()))) == batch  # the prompts matter


TOP_KS = [{}, {"top_k": 0}, {"top_k": 1}, {"top_k": 5}, {"top_k": 500}]
GRID = list(itertools.product([1.0, 0.6, 25.0], TOP_KS, [1.0, 0.9, 0.3, 1e-6]))


@KINDS
@pytest.mark.parametrize("quarter", range(4))
def test_sampled(kind, quarter, pairs):
    """Over temperature, top_k (also what is done unasked), top_p: a quarter of the grid for each kind of batch."""
    batch, padded, several = [(1, False, 1), (3, True, 1), (1, False, 4), (3, True, 2)][quarter]
    ids, mask = prompts(batch, padded=padded)
    seen = set()
    for i, (temperature, top_k, top_p) in enumerate(GRID[(5 * quarter) % 4 :: 4] + GRID[quarter::7]):
        settings = {"temperature": temperature, "top_p": top_p, **top_k, "num_return_sequences": several}
        out = equal(pairs[kind], ids, attention_mask=mask, do_sample=True, max_new_tokens=7, seed=i, **settings)
        assert out.shape == (batch * several, 13)
        seen |= set(map(tuple, out.tolist()))
    assert len(seen) > 10


@KINDS
@pytest.mark.parametrize("seed", range(3))
def test_unasked_top_k_is_fifty(kind, seed, pairs):
    ids, mask = prompts(2)
    settings = {"attention_mask": mask, "do_sample": True, "max_new_tokens": 20, "temperature": 1000.0, "seed": seed}
    out = equal(pairs[kind], ids, **settings)
    free = equal(pairs[kind], ids, top_k=0, **settings)
    assert not torch.equal(out, free)  # 61 tokens: fifty are not all of them


def test_top_k_none_is_the_references(pairs):
    ids, mask = prompts(2)
    settings = {"attention_mask": mask, "do_sample": True, "max_new_tokens": 20, "temperature": 1000.0}
    equal(pairs["gpt2"], ids, top_k=None, **settings)


@KINDS
@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_ends(kind, do_sample, padded, pairs):
    """An end token that comes early, late, in one row only, or never; one or several of them."""
    ids, mask = prompts(3, padded=padded)
    settings = {"attention_mask": mask, "do_sample": do_sample, "max_new_tokens": 8}
    free = equal(pairs[kind], ids, **settings)
    new = free[:, 6:]
    never = next(t for t in range(3, V) if not (new == t).any())
    ends = [int(new[0, 0]), int(new[1, 2]), int(new[2, -1]), never]
    for eos in [*ends, ends[:2], ends[1:], [ends[3]], ends]:
        for pad in (0, None):
            given = {**settings, "eos_token_id": eos} | ({} if pad is None else {"pad_token_id": pad})
            out = equal(pairs[kind], ids, **given)
            assert out.shape[1] <= free.shape[1]
            for row, whole in zip(out.tolist(), free.tolist(), strict=True):
                stops = [i for i, t in enumerate(row[6:]) if t in (eos if isinstance(eos, list) else [eos])]
                if not do_sample and stops:
                    assert row[: 7 + stops[0]] == whole[: 7 + stops[0]]
                    assert set(row[7 + stops[0] :]) <= {0}
    assert torch.equal(equal(pairs[kind], ids, **settings, eos_token_id=never), free)
    first = equal(pairs[kind], ids, **settings, eos_token_id=sorted(set(new[:, 0].tolist())))
    assert first.shape[1] == 7


@KINDS
def test_padding_is_known_by_its_id(kind, pairs):
    """Without a mask: where the pad token is no end token too."""
    ids, mask = prompts(3, padded=True)
    with_mask = equal(pairs[kind], ids, attention_mask=mask, max_new_tokens=9)
    without = equal(pairs[kind], ids, max_new_tokens=9)
    assert torch.equal(with_mask, without)
    as_end = equal(pairs[kind], ids, max_new_tokens=9, eos_token_id=0, pad_token_id=0)
    assert not torch.equal(as_end, with_mask)


@KINDS
def test_masks_of_any_kind(kind, pairs):
    ids, mask = prompts(3, padded=True)
    expected = pairs[kind][0].generate(ids, attention_mask=mask, max_new_tokens=7)
    for other in (mask.bool(), mask.int(), mask.float()):
        assert torch.equal(pairs[kind][0].generate(ids, attention_mask=other, max_new_tokens=7), expected)


@KINDS
def test_holes_in_the_prompt(kind, pairs):
    ids, mask = prompts(2)
    mask[0, 2] = mask[1, 0] = mask[1, 3] = 0
    equal(pairs[kind], ids, attention_mask=mask, max_new_tokens=9)


# The same as more slowly


@KINDS
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("do_sample", [False, True])
def test_cached_equals_uncached(kind, padded, do_sample, pairs):
    ids, mask = prompts(3, padded=padded)
    given = {"attention_mask": mask, "max_new_tokens": 20, "do_sample": do_sample, "eos_token_id": [7, 8]}
    cached, uncached = (equal(pairs[kind], ids, use_cache=use_cache, **given) for use_cache in (True, False))
    assert torch.equal(cached, uncached)


@pytest.mark.parametrize("padded", [False, True])
def test_an_encoder_generates_as_the_reference_does(padded):
    """BERT without is_decoder is warned of, and writes what it writes there; it has no past to keep."""
    pair = make_pair("bert", is_decoder=False)
    ids, mask = prompts(3, padded=padded)
    equal(pair, ids, attention_mask=mask, max_new_tokens=8, use_cache=False)
    with pytest.raises(ValueError, match="is_decoder=True"):
        pair[0].generate(ids, attention_mask=mask, max_new_tokens=8)


@KINDS
def test_a_padded_batch_equals_its_rows(kind, pairs):
    model = pairs[kind][0]
    ids, mask = prompts(4, padded=True)
    batch = model.generate(ids, attention_mask=mask, max_new_tokens=12)
    for row, seen, out in zip(ids, mask, batch, strict=True):
        alone = model.generate(row[seen == 1][None], max_new_tokens=12)
        assert torch.equal(out[6:], alone[0, int(seen.sum()) :])


@KINDS
@pytest.mark.parametrize("sizes", [[6], [1, 5], [5, 1], [1] * 6, [2, 3, 1]])
def test_chunks_of_a_prompt_through_the_cache(kind, sizes, pairs):
    """Any cut of the prompt gives the logits of one pass, with a mask of all tokens so far."""
    model = pairs[kind][0]
    for padded in (False, True):
        ids, mask = prompts(3, padded=padded)
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            whole = model(ids, attention_mask=mask, position_ids=places).logits
            cache, at, parts = Cache(), 0, []
            for size in sizes:
                part = slice(at, at := at + size)
                given = {"attention_mask": mask[:, :at], "position_ids": places[:, part]}
                parts.append(model(ids[:, part], past_key_values=cache, use_cache=True, **given).logits)
                assert cache.length == at
        got = torch.cat(parts, 1)
        torch.testing.assert_close(got[mask == 1], whole[mask == 1], rtol=0, atol=1e-10)


def test_gpt2_counts_positions_by_itself_in_chunks_too(pairs):
    """With the mask alone: position ids are not needed, whatever the chunks."""
    model = pairs["gpt2"][0]
    ids, mask = prompts(3, padded=True)
    with torch.no_grad():
        whole = model(ids, attention_mask=mask).logits
        cache = Cache()
        parts = []
        for a, b in ((0, 4), (4, 5), (5, 6)):
            parts.append(model(ids[:, a:b], attention_mask=mask[:, :b], past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(parts, 1)[mask == 1], whole[mask == 1], rtol=0, atol=1e-10)


@KINDS
def test_train_mode_is_left_as_it_was(kind, pairs):
    model = pairs[kind][0]
    for training in (True, False):
        model.train(training)
        out = model.generate(prompts(1)[0], max_new_tokens=2)
        assert model.training is training
        assert not out.requires_grad
    assert all(p.grad is None for p in model.parameters())


class Doubled(torch.nn.Module):
    """Somebody's own module, put where one of the model's was."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * (1 + self.inner(x).sign())


class Reversed(GPT2LMHeadModel):
    """Somebody's own model: the least probable token comes next."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = -out.logits
        return out


def test_what_people_put_into_a_model_counts_at_every_token():
    """Hooks, modules and forwards of their own; a part in train mode, a subclass; with the cache as without it."""
    ids, mask = prompts(2, padded=True)

    def compare(model) -> torch.Tensor:
        outs = []
        for use_cache in (True, False):
            torch.manual_seed(1)
            outs.append(model.generate(ids, attention_mask=mask, max_new_tokens=9, use_cache=use_cache))
        assert torch.equal(*outs)
        return outs[0]

    plain = compare(make_pair("gpt2")[0])
    for change in ("hook", "pre-hook", "output", "global", "module", "forward", "parametrised"):
        model, _ = make_pair("gpt2")
        layer, remove = model.transformer.h[1].mlp, None
        if change == "hook":
            remove = layer.register_forward_hook(lambda module, args, output: -output)
        elif change == "pre-hook":
            remove = layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        elif change == "output":
            remove = model.register_forward_hook(lambda module, args, out: setattr(out, "logits", out.logits.flip(-1)))
        elif change == "global":
            remove = torch.nn.modules.module.register_module_forward_hook(
                lambda module, args, output, layer=layer: -output if module is layer else None
            )
        elif change == "module":
            layer.c_fc = Doubled(layer.c_fc)
        elif change == "forward":
            layer.forward = lambda x: x.flip(-1)
        else:
            torch.nn.utils.parametrize.register_parametrization(layer.c_proj, "weight", torch.nn.Tanh())
        try:
            assert not torch.equal(compare(model), plain), change
        finally:
            if remove is not None:
                remove.remove()

    model = Reversed(GPT2Config(**SIZES)).double().eval()
    model.load_state_dict(make_pair("gpt2")[0].state_dict())
    assert not torch.equal(compare(model), plain)


def test_a_part_in_train_mode_stays_so():
    """Dropout where a person wants it: the sampled noise is there at every token."""
    model, _ = make_pair("gpt2")
    ids, _ = prompts(2)
    plain = model.generate(ids, max_new_tokens=9)
    model.transformer.h[2].mlp.train()
    draws = {tuple(model.generate(ids, max_new_tokens=9).flatten().tolist()) for _ in range(6)}
    assert len(draws) > 3
    model.eval()
    assert torch.equal(model.generate(ids, max_new_tokens=9), plain)


def test_weights_changed_in_place_between_two_calls_count():
    model, _ = make_pair("gpt2")
    ids, _ = prompts(2)
    before = model.generate(ids, max_new_tokens=6)
    with torch.no_grad():
        model.transformer.ln_f.weight.neg_()
    after = model.generate(ids, max_new_tokens=6)
    assert not torch.equal(before, after)
    model.set_input_embeddings(torch.nn.Embedding(V, 20).double())
    assert torch.equal(model.generate(ids, max_new_tokens=6), model.generate(ids, max_new_tokens=6, use_cache=False))


def test_the_loop_can_be_iterated(pairs):
    """It yields as it goes, stops where every row has ended, and leaves gradients switched on between two tokens."""
    model = pairs["gpt2"][0]
    ids, mask = prompts(2)
    whole = model.generate(ids, max_new_tokens=8)
    loop = decode(Reader(model), ids, steps=10**9)
    for t in range(6, 9):
        assert torch.equal(next(loop), whole[:, t])
        assert torch.is_grad_enabled()
    ends = at_token(whole[:, 8].tolist(), ids.device)
    written = list(decode(Reader(model, mask), ids, steps=8, stop=ends, pad=0))
    assert 1 <= len(written) <= 3
    assert list(decode(Reader(model, mask), ids, steps=0)) == []
    streamed = list(model.stream(ids, max_new_tokens=8))
    assert torch.equal(torch.stack(streamed, 1), whole[:, 6:])
    with pytest.raises(ValueError, match="num_beams=1 to stream"):
        next(model.stream(ids, num_beams=2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_logits_are_processed_in_float32(dtype):
    """Whatever the model computes in, as in the reference: a softmax over a vocabulary needs the digits."""
    model = GPT2LMHeadModel(GPT2Config(**SIZES)).to(dtype).eval()
    seen = []

    def spy(ids, logits):
        seen.append((ids.shape, logits.dtype, logits.shape))
        return logits

    list(decode(Reader(model), prompts(2)[0], steps=2, processors=[spy]))
    assert seen == [((2, 6 + t), torch.float32, (2, V)) for t in range(2)]


# How long


@KINDS
def test_twenty_new_tokens_unasked(kind, pairs):
    ids, mask = prompts(2)
    assert equal(pairs[kind], ids, attention_mask=mask).shape == (2, 26)


@KINDS
@pytest.mark.parametrize("tokens", [LIMIT - 21, LIMIT - 20, LIMIT - 5, LIMIT - 1])
def test_unasked_it_stops_at_the_last_position(kind, tokens, pairs):
    ids, mask = prompts(1, tokens)
    assert equal(pairs[kind], ids, attention_mask=mask).shape[1] == min(tokens + 20, LIMIT)


@KINDS
def test_lengths(kind, pairs):
    ids, mask = prompts(2)
    given = {"attention_mask": mask}
    assert equal(pairs[kind], ids, max_length=10, **given).shape[1] == 10
    assert equal(pairs[kind], ids, max_new_tokens=1, **given).shape[1] == 7
    assert equal(pairs[kind], ids, max_new_tokens=3, max_length=20, **given).shape[1] == 9  # what is new wins
    assert equal(pairs[kind], ids, max_new_tokens=LIMIT - 6, **given).shape[1] == LIMIT
    # the last token needs no position of its own
    assert pairs[kind][0].generate(ids, max_new_tokens=LIMIT - 5, **given).shape[1] == LIMIT + 1
    for settings in ({"max_new_tokens": LIMIT - 4}, {"max_length": LIMIT + 2}):
        with pytest.raises(ValueError, match=rf"6 tokens of prompt and \d+ new ones pass .* {LIMIT} positions"):
            pairs[kind][0].generate(ids, **settings)
    for length in (3, 6):
        with pytest.raises(ValueError, match=rf"prompt has 6 tokens, and max_length={length} counts them too"):
            pairs[kind][0].generate(ids, max_length=length)
    with pytest.raises(ValueError, match="positions"):
        pairs[kind][0].generate(torch.ones(1, LIMIT + 1, dtype=torch.long))


# Where settings come from


def test_the_prompt_may_be_left_out(pairs):
    out = equal(pairs["gpt2"], max_new_tokens=5)
    assert out.shape == (1, 6)
    assert out[0, 0] == 1
    equal(pairs["gpt2"], bos_token_id=9, max_new_tokens=5)
    equal(pairs["gpt2"], do_sample=True, num_return_sequences=3, max_new_tokens=5)


def test_the_prompt_has_the_references_name_too(pairs):
    ids, mask = prompts(2)
    ours, theirs = (model.generate(inputs=ids, attention_mask=mask, max_new_tokens=4) for model in pairs["gpt2"])
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, pairs["gpt2"][0].generate(input_ids=ids, attention_mask=mask, max_new_tokens=4))


def test_the_configs_end_token(tmp_path):
    """GPT-2's own: from config.json, where there is no generation_config.json."""
    ours, theirs = make_pair("gpt2")
    ids, mask = prompts(2)
    free = equal((ours, theirs), ids, attention_mask=mask, max_new_tokens=9).tolist()
    at, end = next((i, t) for i, t in enumerate(free[0]) if i > 7 and t not in free[0][:i] + free[1][: i + 1])
    ours.config.eos_token_id = end
    ours.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path), transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    out = equal(loaded, ids, attention_mask=mask, max_new_tokens=12)
    assert out[0, at] == end
    assert set(out[0, at + 1 :].tolist()) == {0}


SAVED = [
    {"max_new_tokens": 4},
    {"max_length": 11},
    {"eos_token_id": "soon", "pad_token_id": 2},
    {"eos_token_id": ["soon", 5]},  # no pad token: config.json's counts for nothing here
    {"pad_token_id": 2},
    {"do_sample": True, "temperature": 0.7, "top_k": 3, "top_p": 0.8},
    {"do_sample": True},
    {"do_sample": True, "num_return_sequences": 2},
    {"do_sample": True, "temperature": 1000.0, "top_k": None},  # unset, so 50
    {"do_sample": True, "temperature": 1000.0, "top_k": 0},
    {"temperature": 0.0, "top_p": 0.0},  # as some published ones have them
    {"temperature": 0.7, "top_p": 0.9},  # of no effect without do_sample
    {"use_cache": False},
    {"repetition_penalty": 1.0, "num_beams": 1, "length_penalty": 2.0, "no_repeat_ngram_size": 0},
]


@pytest.mark.parametrize("settings", SAVED, ids=str)
@pytest.mark.parametrize(
    "call", [{}, {"max_new_tokens": 6}, {"do_sample": False, "num_return_sequences": 1}, {"max_length": 9}], ids=str
)
def test_the_generation_config_of_a_folder_is_honoured(settings, call, tmp_path):
    """As the reference honours it; what the call says wins over it."""
    ours, theirs = make_pair("gpt2")
    ids, mask = prompts(2)
    soon = int(ours.generate(ids, max_new_tokens=1)[0, 6])  # the first row is filled up, the second goes on
    assert soon not in ours.generate(ids, max_new_tokens=3)[1, 6:]
    settings = {k: soon if v == "soon" else [soon, 5] if isinstance(v, list) else v for k, v in settings.items()}
    theirs.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path), transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    equal(loaded, ids, attention_mask=mask, **call)


def test_a_given_config_stands_before_the_checkpoints(tmp_path):
    """What it leaves unsaid, the checkpoint's says."""
    ours, theirs = make_pair("gpt2")
    ids, mask = prompts(2)
    end = int(ours.generate(ids, max_new_tokens=1)[0, 6])
    theirs.save_pretrained(tmp_path)
    settings = {"eos_token_id": end, "pad_token_id": 2, "max_new_tokens": 7, "top_k": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path), transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    sampled = {"do_sample": True}
    for given in ({}, {"max_new_tokens": 4}, {"eos_token_id": 60}, sampled, {**sampled, "top_k": 9, "top_p": 0.5}):
        outs = []
        for model, cls in zip(loaded, (GenerationConfig, transformers.GenerationConfig), strict=True):
            torch.manual_seed(2)
            outs.append(model.generate(ids, generation_config=cls(**given), attention_mask=mask))
        assert torch.equal(*outs), given


def test_a_none_in_the_call_is_a_value(tmp_path):
    """Write on past the end token; no limit to k: as in the reference, None unsets what a config says."""
    ours, theirs = make_pair("gpt2")
    ids, mask = prompts(2)
    end = int(ours.generate(ids, max_new_tokens=1)[0, 6])
    theirs.save_pretrained(tmp_path)
    settings = {"eos_token_id": end, "pad_token_id": 2, "do_sample": True, "temperature": 9.0, "top_k": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path), transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    for name in ("eos_token_id", "pad_token_id", "top_k"):
        for do_sample in (True, False):
            equal(loaded, ids, attention_mask=mask, max_new_tokens=9, do_sample=do_sample, **{name: None})


def test_no_call_changes_a_config(pairs, tmp_path):
    given = GenerationConfig(max_new_tokens=3)
    before = dict(given.to_dict())
    model = pairs["gpt2"][0]
    config = dict(model.config.to_dict())
    model.generate(prompts(1)[0], given, do_sample=True, top_k=4, eos_token_id=9)
    assert given.to_dict() == before
    assert model.config.to_dict() == config


def test_settings_of_a_fresh_model_can_be_set():
    """As the course does: `model.generation_config.pad_token_id = …`."""
    model = GPT2LMHeadModel(GPT2Config(**{**SIZES, "pad_token_id": None})).eval()
    model.generation_config.max_new_tokens = 3
    model.generation_config.pad_token_id = 5
    model.generation_config.eos_token_id = 7
    out = model.generate(prompts(1)[0])
    assert out.shape[1] <= 9


def test_the_config_that_returns_tuples_or_records(pairs):
    """`return_dict` and recording, set in the config, are for callers: generation goes on as before."""
    model, _ = make_pair("gpt2")
    ids, _ = prompts(2)
    expected = model.generate(ids, max_new_tokens=4)
    for name in ("output_attentions", "output_hidden_states", "use_cache", "return_dict"):
        setattr(model.config, name, not getattr(model.config, name))
        assert torch.equal(model.generate(ids, max_new_tokens=4), expected), name


def test_token_types_are_continued(pairs):
    ids, mask = prompts(2)
    types = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
    model = pairs["bert"][0]
    out = model.generate(ids, token_type_ids=types, max_new_tokens=5)
    assert torch.equal(out, model.generate(ids, token_type_ids=types, max_new_tokens=5, use_cache=False))
    grown = ids
    for _ in range(5):
        last = torch.cat([types, types[:, -1:].expand(-1, grown.shape[1] - 6)], 1)
        grown = torch.cat([grown, model(grown, token_type_ids=last).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, grown)
    assert not torch.equal(out, model.generate(ids, max_new_tokens=5))


# What is refused


@pytest.mark.parametrize("more", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
@pytest.mark.parametrize(
    "settings, told",
    [
        ({"logits_processor": [lambda ids, scores: None]}, "a logits_processor answered with a NoneType, expected"),
        ({"logits_processor": [lambda ids, scores: scores[:, :3]]}, r"logits_processor answered with shape \(.*, 3\)"),
        ({"stopping_criteria": [lambda ids, scores: None]}, "a stopping criterion answered None"),
        ({"prefix_allowed_tokens_fn": lambda text, ids: None}, "prefix_allowed_tokens_fn answered None"),
    ],
)
def test_callers_who_forget_to_answer(settings, told, more, pairs):
    with pytest.raises(ValueError, match=told):
        pairs["gpt2"][0].generate(prompts(2)[0], max_new_tokens=2, **settings, **more)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"max_new_token": 3}, "no argument 'max_new_token'; did you mean 'max_new_tokens'?"),
        ({"temprature": 3}, "did you mean 'temperature'?"),
        ({"eos_token": 3}, "did you mean 'eos_token_id'?"),
        ({"attention_mak": 3}, "did you mean 'attention_mask'?"),
        ({"stopping_criterias": 3}, "did you mean 'stopping_criteria'?"),
        ({"streamr": 3}, "did you mean 'streamer'?"),
        ({"zzzz": 3}, "no argument 'zzzz'"),
    ],
)
def test_unknown_names(settings, told, pairs):
    for given in (settings, {**settings, "do_sample": True}):
        with pytest.raises(TypeError, match="no argument") as error:
            pairs["gpt2"][0].generate(prompts(1)[0], **given)
        assert told in str(error.value)


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3 of num_beams=2"),
        ({"dola_layers": "low"}, "dola_layers='low' is not implemented"),
        ({"num_return_sequences": 2}, "num_return_sequences > 1"),
        ({"num_return_sequences": 0, "do_sample": True}, "num_return_sequences=0"),
        ({"temperature": 0.0, "do_sample": True}, "temperature=0.0"),
        ({"temperature": -1, "do_sample": True}, "temperature=-1"),
        ({"temperature": float("nan"), "do_sample": True}, "temperature=nan"),
        ({"top_k": -1, "do_sample": True}, "top_k=-1"),
        ({"top_p": 0.0, "do_sample": True}, "top_p=0.0"),
        ({"top_p": 1.5, "do_sample": True}, "top_p=1.5"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"max_length": -1}, "max_length=-1"),
        ({"max_new_tokens": "5"}, "max_new_tokens='5'"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5"),
        ({"temperature": "hot", "do_sample": True}, "temperature='hot'"),
        ({"top_k": 2.5, "do_sample": True}, "top_k=2.5"),
        ({"top_p": "0.9", "do_sample": True}, "top_p='0.9'"),
        ({"eos_token_id": "</s>"}, "eos_token_id='</s>'"),
        ({"pad_token_id": "x", "eos_token_id": 3}, "pad_token_id='x'"),
        ({"eos_token_id": 10**30}, f"eos_token_id={10**30} is no id"),
        ({"bad_words_ids": [[5], [-1]]}, "bad_words_ids=[[5], [-1]]: ids begin at 0"),
        ({"sequence_bias": {(5, -2): 1.0}}, "sequence_bias={(5, -2): 1.0}: ids begin at 0"),
        ({"sequence_bias": [[[5], math.nan]]}, "sequence_bias=[[[5], nan]]"),
        ({"force_words_ids": [[[5, -3]]], "num_beams": 2}, "force_words_ids=[[[5, -3]]]: ids begin at 0"),
        ({"forced_bos_token_id": -4}, "forced_bos_token_id=-4: ids begin at 0"),
        ({"forced_eos_token_id": V}, f"forced_eos_token_id: the token {V} is to be forced: there are {V} tokens"),
        ({"forced_eos_token_id": []}, "forced_eos_token_id=[]"),
        ({"constraints": [], "num_beams": 2}, "constraints=[]"),
        ({"guidance_scale": math.nan}, "guidance_scale=nan"),
        ({"exponential_decay_length_penalty": (3, math.nan)}, "exponential_decay_length_penalty=(3, nan)"),
        ({"length_penalty": 1000.0, "num_beams": 2}, "length_penalty=1000.0 is too large for"),
    ],
    ids=str,
)
def test_settings_that_are_refused(settings, told, pairs):
    """A ValueError that names the setting and its value: before any token is computed."""
    with pytest.raises(ValueError, match=r"\w+") as error:
        pairs["gpt2"][0].generate(prompts(1)[0], **settings)
    assert told in str(error.value)


def test_arguments_that_are_refused(pairs):
    """By name, and never passed over: what the call cannot use, and what is no function where one is called."""
    model, (ids, mask) = pairs["gpt2"][0], prompts(2)
    embeds = model.get_input_embeddings()(ids)
    for settings, told in (
        ({"encoder_outputs": (embeds,)}, "encoder_outputs is for models with an encoder"),
        ({"decoder_input_ids": ids}, "decoder_input_ids is for models with an encoder"),
        ({"decoder_attention_mask": mask}, "decoder_attention_mask is for models with an encoder"),
        ({"negative_prompt_ids": ids}, "negative_prompt_ids takes guidance_scale"),
        ({"negative_prompt_attention_mask": mask}, "negative_prompt_attention_mask takes guidance_scale"),
        ({"penalty_alpha": 0.5, "top_k": V + 1}, f"top_k={V + 1} candidates: there are {V} tokens"),
        ({"prefix_allowed_tokens_fn": lambda text, ids: [3, V]}, rf"allows a token .* there are {V}"),
    ):
        with pytest.raises(ValueError, match=told):
            model.generate(ids, **settings)
    with pytest.raises(ValueError, match=r"guidance_scale .* embeddings came: pass negative_prompt_ids"):
        model.generate(inputs_embeds=embeds, guidance_scale=1.5)
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=V, hidden_size=8, num_attention_heads=2, num_hidden_layers=1))
    with pytest.raises(ValueError, match="LlamaForCausalLM has no token_type_ids"):
        llama.generate(ids, token_type_ids=ids)
    for name in ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn"):
        with pytest.raises(TypeError, match=rf"{name} takes .*not 3"):
            model.generate(ids, **{name: 3})
    for name in ("token_type_ids", "negative_prompt_ids", "negative_prompt_attention_mask"):
        with pytest.raises(TypeError, match=rf"{name} takes a tensor .*, got a int"):
            model.generate(ids, **{name: 3})
    for settings, told in (
        ({"streamer": 3}, r"a streamer has put\(ids\) and end\(\).*got 3"),
        ({"stop_strings": "x", "tokenizer": "gpt2"}, "the model's tokenizer, .* 'gpt2' came"),
        ({"trace": True}, "trace_generation"),
    ):
        with pytest.raises(TypeError, match=told):
            model.generate(ids, **settings)
    for wrong in (embeds[..., :-1], ids[..., None].expand_as(embeds)):
        with pytest.raises(ValueError, match=r"inputs_embeds has \d+ channels of .*: expected \d+ of"):
            model.generate(inputs_embeds=wrong)
    with pytest.raises(TypeError, match=r"generation_config takes .* of minihf, not a transformers"):
        model.generate(ids, generation_config=transformers.GenerationConfig())


def test_prompts_that_are_refused(pairs):
    model = pairs["gpt2"][0]
    ids = prompts(2)[0]
    shaped = r"generate takes ids of shape \(batch, tokens\).*got "
    for wrong, got in (
        (ids[0], r"\(6,\)"),
        (ids[None], r"\(1, 2, 6\)"),
        (ids.float(), r"\(2, 6\) of torch.float32"),
        (ids[:, :0], r"\(2, 0\)"),
        (ids[:0], r"\(0, 6\)"),
        (torch.tensor(3), r"\(\)"),
        (ids.bool(), r"\(2, 6\) of torch.bool"),
    ):
        with pytest.raises(ValueError, match=shaped + got):
            model.generate(wrong)
    with pytest.raises((TypeError, ValueError), match="generate takes ids"):
        model.generate([[1, 2, 3]])
    for mask in (torch.ones(2, 5), torch.ones(1, 6), torch.ones(6), torch.ones(2, 1, 6, 6)):
        with pytest.raises(ValueError, match=r"the mask of input_ids has shape .*, expected .* \(2, 6\)"):
            model.generate(ids, attention_mask=mask)
    with pytest.raises(ValueError, match="no bos_token_id"):
        GPT2LMHeadModel(GPT2Config(**{**SIZES, "bos_token_id": None})).generate()
    with pytest.raises(IndexError, match="an id is outside its table"):
        model.generate(torch.full((1, 3), V))


def test_int32_prompts(pairs):
    ids = prompts(2)[0]
    out = pairs["gpt2"][0].generate(ids.int(), max_new_tokens=3)
    assert torch.equal(out, pairs["gpt2"][0].generate(ids, max_new_tokens=3))


def test_right_padding_is_warned_of(pairs, caplog):
    ids, mask = prompts(2)
    mask[1, -1] = 0
    pairs["gpt2"][0].generate(ids, attention_mask=mask, max_new_tokens=1)
    assert "padding_side = 'left'" in caplog.text


def test_a_model_without_a_language_head_cannot_write():
    for model in (GPT2Model(GPT2Config(**SIZES)), BertForMaskedLM(BertConfig(**SIZES))):
        told = rf"{type(model).__name__} has no language model head.*AutoModelForCausalLM"
        with pytest.raises(TypeError, match=told):
            model.generate(torch.ones(1, 3, dtype=torch.long))


EMBEDDED = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "drawn": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
    "drawn without a cache": {"do_sample": True, "use_cache": False},
    "static": {"cache_implementation": "static"},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "a tape": {"max_new_tokens": 40},
    "told all": {"output_hidden_states": True, "return_dict_in_generate": True},
}


@pytest.mark.parametrize("length", [1, 6])
@pytest.mark.parametrize("way", EMBEDDED)
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral"])
def test_padded_embeddings_say_what_their_ids_say(name, way, length):
    model, given = tiny.make(name), tiny.prompts(tokens=length)
    if length == 1:
        given["attention_mask"] = torch.tensor([[1], [0], [1]])
    embeds = model.get_input_embeddings()(given["inputs"]).detach()
    settings = {"max_new_tokens": 7, "pad_token_id": 0, "attention_mask": given["attention_mask"], **EMBEDDED[way]}

    def written(**prompt):
        torch.manual_seed(5)
        out = model.generate(**prompt, **settings)
        return getattr(out, "sequences", out)

    assert torch.equal(written(inputs_embeds=embeds), written(inputs=given["inputs"])[:, length:])


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_who_listens_or_is_not_ours_is_told_of_padding_as_it_was_given(kind):
    """Our own models are given masks that are ready, (B, 1, 1, K), for what they would ask of (B, K) at each step."""
    if kind == "gpt2":
        model, given = tiny.make(), tiny.prompts()
        part = model.transformer
    else:
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 2, "vocab_size": tiny.V}
        model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval()
        given, part = tiny.prompts(), model
    shapes = []

    def hear(module, args, kwargs):
        shapes.append((args[2] if kind == "gpt2" else kwargs["attention_mask"]).dim())

    part.register_forward_pre_hook(hear, with_kwargs=True)
    settings = {**given, "max_new_tokens": 5, "pad_token_id": 0, "eos_token_id": None}
    out = model.generate(**settings)
    assert shapes == 5 * [2]
    part._forward_pre_hooks.clear()
    part._forward_pre_hooks_with_kwargs.clear()
    assert torch.equal(model.generate(**settings), out)
