"""A tape gives what the step that it recorded gives, bit for bit, at each token; and it is made where it may be."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import minihf
from minihf import StaticCache, decode_in
from minihf.fast import prepacked, tapes
from minihf.fast.tapes import STEPS, Tape, taped
from minihf.generation import taped as reading
from minihf.generation import task
from minihf.generation.generate import generate, stream
from minihf.inspection.families import Variant
from minihf.inspection.pairs import make_pair
from minihf.models import gpt2
from minihf.nn import steady_cache
from minihf.nn.attention import split_parts
from minihf.nn.cache import Cache
from minihf.nn.steady_cache import SteadyBeams, SteadyCache
from parity_tests.fast.test_graphs import MODELS, SIZES, V, make, prompts

ROOT = Path(__file__).parents[2]
NEW = 48  # tokens; with room for AHEAD at a time, there are several tapes
AHEAD = 19
KNOBS = {"max_new_tokens": NEW, "pad_token_id": 0}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(reading, "AHEAD", AHEAD)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What nobody wrote to must not be seen; by chance, an earlier run might have left the right numbers there."""
    with_room = steady_cache.with_room

    def with_poison(buffers, used, kept, capacity):
        larger = with_room(buffers, used, kept, capacity)
        larger[..., kept:, :] = torch.nan
        return larger

    monkeypatch.setattr(steady_cache, "with_room", with_poison)


@pytest.fixture
def replayed(monkeypatch):
    """How many times a tape was made, and how many operators are left of each."""
    lengths = []
    again = tapes.again

    def counted(calls):
        left = again(calls)
        lengths.append((len(calls), len(left)))
        return left

    monkeypatch.setattr(tapes, "again", counted)
    return lengths


def written(model, seed=3, **settings):
    torch.manual_seed(seed)
    return model.generate(**{**prompts(), **KNOBS, **settings})


def same(model, **settings):
    """By a tape and by the model, bit for bit: texts, logits, and the cache that comes back."""
    ask = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}
    plain = written(model, cache_implementation="dynamic", **ask, **settings)
    tape = written(model, **ask, **settings)
    assert torch.equal(tape.sequences, plain.sequences)
    for name in ("logits", "scores"):
        assert len(tape[name]) == len(plain[name])
        assert all(torch.equal(a, b) for a, b in zip(tape[name], plain[name], strict=True))
    for name in {"sequences_scores", "beam_indices"} & set(plain):
        assert torch.equal(tape[name], plain[name])
    assert type(tape.past_key_values) is Cache
    assert tape.past_key_values.length == plain.past_key_values.length
    for a, b in zip(tape.past_key_values.layers, plain.past_key_values.layers, strict=True):
        assert (a.length, a.window) == (b.length, b.window)
        kept = min(a.used, b.used)
        for name in ("keys", "values"):
            mine, theirs = (getattr(x, name).narrow(2, x.used - kept, kept) for x in (a, b))
            assert torch.equal(mine, theirs)
    return plain.sequences


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_every_decoder_writes_the_same(name, padded, dtype, replayed):
    model = make(name).to(dtype)
    texts = same(model, **prompts(padded=padded))
    assert len(texts[0].unique()) > 3
    if name == "mixtral":
        assert replayed == []
        return
    assert len(replayed) == 3  # 47 tokens are read, 19 at a time
    assert all(left < 0.75 * calls for calls, left in replayed)


SEARCHES = {
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": -1.0},
    "beams drawn": {"num_beams": 4, "do_sample": True, "temperature": 1.5},
    "beams that end": {"num_beams": 3, "eos_token_id": list(range(8, 20)), "early_stopping": True},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.7},
    "constraints": {"num_beams": 3, "force_words_ids": [[5, 9], [[7], [11, 12]]]},
}


@pytest.mark.parametrize("way", SEARCHES)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_beams_of_every_decoder(name, padded, way, replayed):
    """They change places between two steps, and go on from each other's keys."""
    texts = same(make(name), **prompts(padded=padded), **SEARCHES[way])
    assert len(texts[0].unique()) > 3
    if way != "beams that end":
        assert len(replayed) == (0 if name == "mixtral" else 3)


PAIRS = {
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "marian": "MarianMTModel",
    "pegasus": "PegasusForConditionalGeneration",
    "t5": "T5ForConditionalGeneration",
}


@cache
def paired(kind, name):
    """With room for the texts of these tests."""
    longer = Variant({} if kind == "t5" else {"max_position_embeddings": 64})
    return make_pair(kind, name, longer).ours.double().eval()


@pytest.mark.parametrize("way", ["greedy", "drawn", *SEARCHES])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", PAIRS)
def test_every_encoder_decoder_writes_the_same(kind, padded, way, replayed):
    model = paired(kind, PAIRS[kind])
    ways = {"greedy": {}, "drawn": {"do_sample": True, "num_return_sequences": 2}, **SEARCHES}
    settings = {"eos_token_id": None, **ways[way]}
    given = prompts(texts=2, tokens=7, padded=padded)
    begun = torch.tensor([[3, 9, 8], [3, 2, 11]])
    given |= {"inputs": given["inputs"].clamp(max=38), "decoder_start_token_id": 3}
    same(model, **given, **settings)
    own = torch.tensor([[1, 1, 1], [1, 0, 1]]) if padded else None
    same(model, **given, **settings, decoder_input_ids=begun, decoder_attention_mask=own)
    if way != "beams that end":
        assert len(replayed) == (0 if kind == "t5" else 6)


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}], ids=str)
def test_without_a_layer_there_is_nothing_to_record(way, replayed):
    sizes = {"vocab_size": V, "d_model": 32, "encoder_layers": 1, "decoder_layers": 0}
    bart = minihf.BartForConditionalGeneration(minihf.BartConfig(**sizes)).double().eval()
    for model in (make("gpt2", num_hidden_layers=0), make("llama", num_hidden_layers=0), bart):
        assert torch.equal(written(model, **way), written(model, **way, use_cache=False))
    assert replayed == []


def test_beams_that_see_themselves_alone(replayed):
    model = make("mistral", sliding_window=1)
    assert torch.equal(same(model, num_beams=3), written(model, num_beams=3, use_cache=False))
    assert len(replayed) == 3


def test_decoders_without_encoder_that_count_by_their_cache(replayed):
    for name in ("BartForCausalLM", "MarianForCausalLM"):
        kind = name.removesuffix("ForCausalLM").lower()
        same(paired(kind, name), inputs=prompts()["inputs"].clamp(max=38), eos_token_id=None)
    assert len(replayed) == 6


def test_knobs_are_outside(replayed):
    """What looks at the ids, draws, or ends a text; rows of one prompt; token types; one's own cache."""
    model = make("llama")
    free = same(model)
    same(model, repetition_penalty=1.7, no_repeat_ngram_size=2, min_new_tokens=4, bad_words_ids=[[5], [7, 8]])
    drawn = [same(model, do_sample=True, temperature=1.5, top_p=0.9, seed=seed) for seed in range(2)]
    assert not torch.equal(*drawn)
    same(model, do_sample=True, num_return_sequences=3)
    ended = same(model, eos_token_id=[free[0, 8].item(), V - 1])
    assert (ended[0, 9:] == KNOBS["pad_token_id"]).all()
    same(model, guidance_scale=1.4)
    same(make("gpt2"), token_type_ids=torch.randint(2, V, (3, 6)))
    assert len(replayed) > 12
    given = prompts()
    with torch.inference_mode():
        cache = model(given["inputs"][:, :4], attention_mask=given["attention_mask"][:, :4]).past_key_values
    assert torch.equal(written(model, past_key_values=cache), free)


def test_texts_go_on_from_the_cache_that_came_back():
    model = make("mistral")
    first = written(model, return_dict_in_generate=True)
    mask = torch.cat([prompts()["attention_mask"], first.sequences.new_ones(3, NEW)], 1)
    settings = {"inputs": first.sequences, "attention_mask": mask, "max_new_tokens": 8}
    expected = written(model, **settings)
    assert torch.equal(written(model, **settings, past_key_values=first.past_key_values), expected)


@pytest.mark.parametrize("croppable", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_a_cache_that_is_passed_in_holds_what_was_read(name, croppable, replayed):
    """Of a stream left half way, too; and it goes back as far as it promised."""
    model, ids = make(name), prompts(padded=False)["inputs"]

    def left_half_way(kind):
        cache = Cache()
        cache.croppable = croppable
        words = stream(model, ids, past_key_values=cache, cache_implementation=kind, **KNOBS)
        for _ in range(30):
            word = next(words)
        words.close()
        assert cache.length == 6 + 29
        if croppable:
            cache.crop(11)
        with torch.inference_mode():
            return model(word[:, None], past_key_values=cache).logits

    assert torch.equal(left_half_way(None), left_half_way("dynamic"))
    assert len(replayed) == 2


@pytest.mark.parametrize("name", ["AMD EPYC", "Intel Xeon"])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("weights", [None, "int8", "float16"])
def test_packed_and_rounded_weights(rows, weights, name, processor, replayed, monkeypatch):
    processor(name)
    monkeypatch.setattr(prepacked, "CONV1D", 0)
    model = make("gpt2").float()
    decode_in(model, weights)
    same(model, **prompts(texts=rows, padded=rows > 1))
    assert len(replayed) == 3


def test_python_is_not_run_again(monkeypatch):
    heard = []
    attend = gpt2.attend

    def listened(q, *args, **kwargs):
        heard.append(q.size(2))
        return attend(q, *args, **kwargs)

    monkeypatch.setattr(gpt2, "attend", listened)
    written(make("gpt2"))
    assert heard.count(6) == 3  # the prompt, in three layers
    assert heard.count(1) == 3 * 2 * 3  # of each tape two steps


def test_the_first_tape_does_not_load_the_compiler():
    """Which PyTorch would do for a dispatch mode, and which takes longer than a thousand tokens."""
    code = """
import sys, torch, minihf
sizes = {"vocab_size": 61, "n_embd": 24, "n_layer": 1, "n_head": 2, "eos_token_id": None}
model = minihf.GPT2LMHeadModel(minihf.GPT2Config(**sizes)).eval()
model.generate(torch.tensor([[5, 7]]), max_new_tokens=40)
print("minihf.generation.taped" in sys.modules, "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_when_a_tape_is_made(monkeypatch):
    cpu, model = torch.device("cpu"), make("gpt2")
    assert taped(model, cpu, STEPS)
    assert not taped(model, cpu, STEPS - 1)
    assert not taped(model, torch.device("cuda"), STEPS)
    for name in ("llama", "mistral", "ctrl", "openai-gpt", "bert", "electra"):
        assert taped(make(name), cpu, STEPS)
    assert not taped(make("mixtral"), cpu, STEPS)
    sizes = {"vocab_size": V, "d_model": 32, "num_layers": 1}
    assert not taped(minihf.T5ForConditionalGeneration(minihf.T5Config(**sizes)).eval(), cpu, STEPS)
    roberta = minihf.RobertaConfig(vocab_size=V, hidden_size=24, num_hidden_layers=1, num_attention_heads=4)
    roberta.is_decoder = True
    assert not taped(minihf.RobertaForCausalLM(roberta).eval(), cpu, STEPS)
    with torch.autocast("cpu"):
        assert not taped(model, cpu, STEPS)
    hook = model.transformer.h[1].mlp.register_forward_hook(lambda *_: None)
    assert not taped(model, cpu, STEPS)
    hook.remove()
    model.transformer.drop.train()
    assert not taped(model, cpu, STEPS)
    model.eval().set_attn_implementation("eager")
    assert not taped(model, cpu, STEPS)
    model.set_attn_implementation("sdpa")
    with monkeypatch.context() as patched:  # somebody's experiment, which may count its calls
        patched.setattr(gpt2.GPT2MLP, "forward", lambda mlp, x: x)
        assert not taped(model, cpu, STEPS)
    assert taped(model, cpu, STEPS)
    adapted = minihf.get_peft_model(model, minihf.LoraConfig(target_modules=["c_attn"], init_lora_weights=False))
    assert not taped(adapted.eval().get_base_model(), cpu, STEPS)


def test_a_weight_without_memory_of_its_own_is_no_obstacle():
    """So it is with quantized ones: tensors of somebody's class, in which others lie."""

    class Wrapped(torch.Tensor):
        @staticmethod
        def __new__(cls, inside):
            return torch.Tensor._make_wrapper_subclass(cls, inside.shape, dtype=inside.dtype, device=inside.device)

        def __init__(self, inside):
            self.inside = inside

        @classmethod
        def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
            args = [x.inside if isinstance(x, Wrapped) else x for x in args]
            result = operator(*args, **(kwargs or {}))
            return Wrapped(result) if operator is torch.ops.aten.detach.default else result

    model = make("llama")
    expected = written(model)
    model.lm_head.weight = torch.nn.Parameter(Wrapped(model.lm_head.weight.detach()), requires_grad=False)
    assert torch.equal(written(model), expected)


def test_a_model_that_is_not_ours_is_read_as_ever():
    class Theirs(torch.nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.inside, self.config, self.generation_config = inside, inside.config, inside.generation_config
            self.device = torch.device("cpu")

        def forward(self, **kwargs):
            return self.inside(**kwargs)

    model = make("llama")
    assert torch.equal(generate(Theirs(model).eval(), **prompts(), **KNOBS), written(model))


@pytest.mark.parametrize(
    "settings, kind",
    [
        ({}, "TapedReader"),
        ({"do_sample": True, "num_return_sequences": 2}, "TapedReader"),
        ({"output_scores": True, "return_dict_in_generate": True}, "TapedReader"),
        ({"max_new_tokens": STEPS - 1}, "Reader"),
        ({"num_beams": 2}, "TapedReader"),
        ({"use_cache": False}, "Reader"),
        ({"cache_implementation": "dynamic"}, "Reader"),
        ({"disable_compile": True}, "Reader"),
        ({"penalty_alpha": 0.6, "top_k": 3}, "Reader"),
        ({"prompt_lookup_num_tokens": 2}, "Reader"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "Reader"),
        ({"cache_implementation": "static"}, "StaticReader"),
        ({"past_key_values": StaticCache(60)}, "StaticReader"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_which_calls_of_generate_make_one(settings, kind):
    made = task.prepare(make("gpt2"), **{**prompts(texts=1), **KNOBS, **settings})
    assert type(made.reader).__name__ == kind


def test_weights_that_change_between_two_texts_are_seen():
    model = make("llama")
    before = written(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    assert not torch.equal(same(model), before)


# The tape itself, without a model.


class Steady:
    """Tensors that stay, and a function over them."""

    def __init__(self, function):
        self.x, self.kept, self.function = torch.randn(3, 4), torch.zeros(3, 4), function
        self.tape = Tape(lambda: function(self.x, self.kept))

    def check(self, times=5):
        kept = self.kept.clone()
        for _ in range(times):
            self.x.copy_(torch.randn(3, 4))
            state = torch.get_rng_state()
            expected = self.function(self.x, kept)
            torch.set_rng_state(state)
            assert torch.equal(self.tape(), expected)
            assert torch.equal(self.kept, kept)
        return len(self.tape.calls)


def kept_sum(x, kept):
    return kept.add_(x).cumsum(1) + 1


def copied_by_reshape(x, kept):
    return x.t().reshape(2, 6) * 2


def written_constant(x, kept):
    return torch.zeros(3, 4).add_(x).exp() + x.new_full((1, 4), 0.5)


def several(x, kept):
    values, places = x.sort(1)
    a, b = values.split(2, 1)
    return torch.cat([a, b * places[:, 2:]], 1).contiguous()


def drawn(x, kept):
    return x + torch.rand(3, 4) + F.dropout(x, 0.5)


def of_a_view(x, kept):
    kept[1:, 2:].mul_(0.5).add_(x[1:, 2:])
    return F.linear(x, kept, kept[:, 0]).transpose(0, 1)


def turned(x, kept):
    return x.roll(1, -1) - x.t().roll(-2, 0).t() + x.roll(8, 1) + x.roll((1, 2), (0, 1))


@pytest.mark.parametrize(
    "function, left",
    [
        (kept_sum, 3), (copied_by_reshape, 2), (written_constant, 4), (several, 3), (drawn, 4), (of_a_view, 3),
        (turned, 10),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_called_again(function, left):
    with torch.inference_mode():
        assert Steady(function).check() == left


@pytest.mark.parametrize(
    "function",
    [lambda x, kept: x * x.sum().item(), lambda x, kept: x[x > 0], lambda x, kept: x if x[0, 0] > 0 else -x],
    ids=["a value", "a shape", "a branch"],
)
def test_who_asks_for_values_is_not_recorded(function):
    with torch.inference_mode():
        assert Steady(function).check() == 0


def test_keys_and_values_of_one_product_are_written_in_one_call(monkeypatch):
    product = torch.arange(72.0).view(2, 1, 36)
    _, k, v = split_parts(product, 3, 4)
    assert torch.equal(steady_cache.in_one(k, v), torch.stack([k, v]))
    other = k.clone(), v, v[:1], v.transpose(1, 3)
    for a, b in ((v, k), (k, k), *((k, x) for x in other if x is not v), (other[0], v)):
        assert steady_cache.in_one(a, b) is None

    writes = []
    again = tapes.again
    monkeypatch.setattr(tapes, "again", lambda calls: writes.append(str(calls).count("index_copy_")) or again(calls))
    for name, each in (("gpt2", 1), ("llama", 2)):
        writes.clear()
        same(make(name))
        assert set(writes) == {each * SIZES["num_hidden_layers"]}


# Would these tests notice? Faults planted in the tape and in its cache, each of which must show.

init, opened, again, in_one = SteadyCache.__init__, SteadyCache.open, tapes.again, steady_cache.in_one


def without(name):
    return lambda calls: [call for call in again(calls) if name not in str(call)]


def one_place_too_far(cache, rows=None):
    opened(cache, rows)
    cache.place.add_(1)


def blind_to_itself(cache, rows=None):
    opened(cache, rows)
    for view, *_ in cache.views:
        batch, heads, tokens, channels = view.shape
        view.set_(view.untyped_storage(), view.storage_offset(), (batch, heads, tokens - 1, channels), view.stride())


def as_when_it_was_recorded(cache, rows=None):
    position = cache.position_ids.clone()
    opened(cache, rows)
    if cache.length > 8:
        cache.position_ids.copy_(position)


def padding_seen(cache, prompt, mask, position, room):
    init(cache, prompt, None, position, room)


def padding_counted(cache, prompt, mask, position, room):
    init(cache, prompt, mask, torch.full_like(position, prompt.length), room)


def values_first(k, v):
    both = in_one(k, v)
    return both if both is None else both.flip(0)


def never_refilled(old, call):
    return call


@pytest.mark.parametrize(
    "where, name, fault",
    [
        (SteadyCache, "open", one_place_too_far),
        (SteadyCache, "open", blind_to_itself),
        (SteadyCache, "open", as_when_it_was_recorded),
        (SteadyCache, "__init__", padding_seen),
        (SteadyCache, "__init__", padding_counted),
        (tapes, "again", without("index_copy_")),
        (tapes, "again", without("mm")),
        (tapes, "refilled", never_refilled),
    ],
    ids=lambda value: getattr(value, "__qualname__", str(value)),
)
@pytest.mark.parametrize("model", ["gpt2", "mistral"])
def test_a_fault_shows(model, where, name, fault, monkeypatch):
    made = make(model)
    same(made)
    monkeypatch.setattr(where, name, fault)
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        same(made)


def test_a_fault_of_what_is_written_in_one_call_shows(monkeypatch):
    monkeypatch.setattr(steady_cache, "in_one", values_first)
    with pytest.raises(AssertionError):
        same(make("gpt2"))


beams_opened = SteadyBeams.open


def each_from_its_own(cache, rows=None):
    beams_opened(cache)


def following_a_step_late(cache, rows=None):
    before, cache.rows_before = getattr(cache, "rows_before", None), rows
    beams_opened(cache, before)


def in_one_place(cache, rows=None):
    beams_opened(cache, rows)
    cache.place.copy_(cache.place[:1].expand_as(cache.place))


@pytest.mark.parametrize(
    "where, name, fault",
    [
        (SteadyBeams, "open", each_from_its_own),
        (SteadyBeams, "open", following_a_step_late),
        (SteadyBeams, "open", in_one_place),
        (SteadyBeams, "attend", SteadyCache.attend),
        (SteadyCache, "positions", Cache.positions),
    ],
    ids=lambda value: getattr(value, "__qualname__", str(value)),
)
def test_a_fault_of_beams_shows(where, name, fault, monkeypatch):
    given = {"inputs": prompts(padded=False)["inputs"].clamp(max=38), "eos_token_id": None, **SEARCHES["beams"]}
    same(paired("marian", PAIRS["marian"]), **given)
    monkeypatch.setattr(where, name, fault)
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        same(paired("marian", PAIRS["marian"]), **given)
