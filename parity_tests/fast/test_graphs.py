"""One token as a graph: the same ids and logits as the plain loop, and nothing recorded that a later step would change.

There is no GPU here. In its place stands a recording of PyTorch's operators, which is what a CUDA graph is one floor
below: replayed, each reads and writes the tensors that it did, with the same numbers; what Python would do next time is
not in it; and who asks for a tensor's value while it is made breaks it.
"""

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import minihf
from minihf.fast import graphs
from minihf.generation import static
from minihf.inspection.batches import randomise
from minihf.nn.cache import Cache
from minihf.nn.static_cache import StaticCache

V = 61
SIZES = {"vocab_size": V, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 6}
SIZES |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": None}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 40}
ROPE = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
MODELS = {
    "gpt2": ("GPT2LMHeadModel", {}),
    "llama": ("LlamaForCausalLM", GROUPED),
    "llama, dynamic rope": ("LlamaForCausalLM", {**GROUPED, "rope_parameters": ROPE, "max_position_embeddings": 10}),
    "mistral": ("MistralForCausalLM", {**GROUPED, "sliding_window": 7}),
    "mixtral": ("MixtralForCausalLM", {**GROUPED, "sliding_window": 5, "num_local_experts": 3}),
    "openai-gpt": ("OpenAIGPTLMHeadModel", {}),
    "ctrl": ("CTRLLMHeadModel", {"dff": 30}),
    "bert": ("BertLMHeadModel", {"is_decoder": True, "intermediate_size": 30}),
    "electra": ("ElectraForCausalLM", {"is_decoder": True, "intermediate_size": 30, "embedding_size": 24}),
}
KNOBS = {"max_new_tokens": 13, "pad_token_id": 0}


def make(name: str = "gpt2", **changes):
    cls = getattr(minihf, MODELS[name][0])
    torch.manual_seed(0)
    model = cls(cls.config_class(**{**SIZES, **MODELS[name][1], **changes})).double().eval()
    randomise(model)
    return model


def prompts(texts: int = 3, tokens: int = 6, padded: bool = True, seed: int = 1):
    ids = torch.randint(2, V, (texts, tokens), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    for row in range(1, texts if padded else 0):
        mask[row, : 2 * row] = 0
    return {"inputs": ids, "attention_mask": mask}


class HostAskedError(AssertionError):
    pass


class Recording(TorchDispatchMode):
    """What a CUDA graph does: `replay` runs the same operators on the same tensors; results go where they went."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise HostAskedError(f"{operator} is called while a graph is recorded")
        out = operator(*args, **(kwargs or {}))
        self.calls.append((operator, args, kwargs or {}, out))
        return out

    def replay(self):
        for operator, args, kwargs, out in self.calls:
            for old, new in zip(tree_leaves(out), tree_leaves(operator(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor):
                    old.copy_(new)


def record(once):
    """In place of `graphs.capture`."""
    record.times += 1
    for _ in range(2):
        once()
    with Recording() as recording:
        result = once()

    def replay():
        recording.replay()
        return result

    return replay


@pytest.fixture
def recorded(monkeypatch):
    """Graphs are made here too, as `record` does; it counts them."""
    record.times = 0
    monkeypatch.setattr(graphs, "capture", record)
    chosen = graphs.capture_for
    monkeypatch.setattr(static, "capture_for", lambda model, device: chosen(model, torch.device("cuda")))
    return record


def written(model, seed: int = 3, **settings):
    torch.manual_seed(seed)
    return model.generate(**{**prompts(), **KNOBS, **settings})


def same(model, **settings):
    """Texts and logits of the plain loop and of the static cache."""
    ask = {"return_dict_in_generate": True, "output_logits": True, "output_scores": True}
    plain = written(model, **ask, **settings)
    static = written(model, **ask, cache_implementation="static", **settings)
    assert torch.equal(static.sequences, plain.sequences)
    for name in ("logits", "scores"):
        assert len(static[name]) == len(plain[name])
        for a, b in zip(static[name], plain[name], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # logits are float32, processed
    return plain.sequences


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_every_decoder_writes_the_same(name, padded, recorded):
    model = make(name)
    settings = prompts(padded=padded)
    assert len(same(model, **settings)[0].unique()) > 3
    assert recorded.times == (0 if name == "mixtral" else 1)
    same(model, **settings, disable_compile=True)
    assert recorded.times <= 1


def test_mixtral_is_rightly_left_alone(recorded, monkeypatch):
    """How many tokens each expert had when it was recorded says nothing of the next."""
    monkeypatch.setattr(minihf.MixtralForCausalLM, "capturable", True)
    with pytest.raises(AssertionError):
        same(make("mixtral"))


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_both_kinds_of_attention(name, impl, recorded):
    model = make(name)
    model.set_attn_implementation(impl)
    same(model)


def test_knobs_are_outside_of_the_graph(recorded):
    """What looks at the ids, draws, or ends a text."""
    model = make("llama")
    free = same(model, max_new_tokens=20)
    same(model, repetition_penalty=1.7, no_repeat_ngram_size=2, min_new_tokens=4, bad_words_ids=[[5], [7, 8]])
    drawn = [same(model, do_sample=True, temperature=1.5, top_p=0.9, seed=seed) for seed in range(3)]
    assert not torch.equal(drawn[0], drawn[1])
    same(model, do_sample=True, num_return_sequences=3)
    ended = same(model, max_new_tokens=20, eos_token_id=[free[0, 8].item(), V - 1])
    assert (ended[0, 9:] == KNOBS["pad_token_id"]).all()
    assert torch.equal(ended[1, :12], free[1, :12])
    stopped = same(model, max_new_tokens=20, stopping_criteria=[lambda ids, scores: ids.size(1) >= 12])
    assert stopped.size(1) == 12
    for tokens in (1, 2):
        same(model, max_new_tokens=tokens)
    same(model, guidance_scale=1.4)
    assert recorded.times > 0


def test_prompts_of_other_kinds(recorded):
    model = make("gpt2")
    given = prompts()
    embeds = torch.randn(3, 6, 24, dtype=torch.float64)
    same(model, inputs=None, inputs_embeds=embeds)
    same(model, inputs=None, inputs_embeds=embeds, attention_mask=None)
    same(model, token_type_ids=torch.randint(2, V, (3, 6)))
    expected = written(model)
    with torch.inference_mode():
        cache = model(given["inputs"][:, :4], attention_mask=given["attention_mask"][:, :4]).past_key_values
        assert torch.equal(written(model, past_key_values=cache, cache_implementation="static"), expected)
    streamed = list(minihf.generation.generate.stream(model, **given, **KNOBS, cache_implementation="static"))
    assert torch.equal(torch.stack(streamed, 1), expected[:, 6:])


def test_the_cache_that_comes_back_is_an_ordinary_one(recorded):
    for name in ("llama", "mistral"):
        model = make(name)
        ask = {"return_dict_in_generate": True}
        plain, static = written(model, **ask), written(model, **ask, cache_implementation="static")
        assert type(static.past_key_values) is Cache
        assert static.past_key_values.length == plain.past_key_values.length
        ids = plain.sequences
        mask = torch.cat([prompts()["attention_mask"], ids.new_ones(3, ids.size(1) - 6)], 1)
        with torch.inference_mode():
            a, b = (model(ids[:, -1:], mask, past_key_values=o.past_key_values).logits for o in (plain, static))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_cache_of_ones_own_is_recorded_once(recorded):
    model, cache = make("llama"), StaticCache(40)
    for i, (padded, tokens, more) in enumerate([(True, 6, {}), (False, 9, {"do_sample": True}), (True, 4, {})]):
        settings = {**prompts(tokens=tokens, padded=padded, seed=i), **more}
        assert torch.equal(written(model, **settings, past_key_values=cache), written(model, **settings))
    assert recorded.times == 1
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)  # in place: the graph reads it
    assert torch.equal(written(model, past_key_values=cache), written(model))
    assert recorded.times == 1
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 2 - 1)
    assert torch.equal(written(model, past_key_values=cache), written(model))
    assert recorded.times == 2
    model.set_attn_implementation("eager")
    written(model, past_key_values=cache)
    assert recorded.times == 3
    other = make("llama", hidden_act="gelu")
    assert torch.equal(written(other, past_key_values=cache), written(other))
    assert recorded.times == 4
    assert torch.equal(written(other, **prompts(texts=2), past_key_values=cache), written(other, **prompts(texts=2)))
    assert recorded.times == 5
    with pytest.raises(ValueError, match="of 40 tokens is too small for 6 that were read and 49 to come"):
        written(model, past_key_values=cache, max_new_tokens=50)


def test_an_adapter_is_never_taken_for_the_model_without(recorded):
    model, cache = make("llama"), StaticCache(40)
    adapted = minihf.get_peft_model(model, minihf.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapted.double().eval()
    given = {**prompts(), **KNOBS}
    on = adapted.generate(**given, past_key_values=cache)
    assert torch.equal(on, adapted.generate(**given))
    with adapted.disable_adapter():
        off = adapted.generate(**given, past_key_values=cache)
        assert torch.equal(off, adapted.generate(**given))
    assert not torch.equal(on, off)


def test_who_listens_hears_every_token(recorded):
    model, heard = make("gpt2"), []
    hook = model.transformer.h[1].mlp.register_forward_hook(lambda *_: heard.append(1))
    assert torch.equal(written(model, past_key_values=StaticCache(40)), written(model, use_cache=True))
    assert len(heard) == 2 * KNOBS["max_new_tokens"]
    hook.remove()
    assert recorded.times == 0


def test_when_it_is_captured(recorded, monkeypatch):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    model = make("gpt2")
    assert graphs.capture_for(model, cuda) is graphs.capture
    assert graphs.capture_for(model, cpu) is None
    assert graphs.capture_for(make("mixtral"), cuda) is None
    with monkeypatch.context() as patch:
        patch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        assert graphs.capture_for(model, cuda) is None
    model.transformer.drop.train()
    assert graphs.capture_for(model, cuda) is None


def test_what_a_call_held_is_given_back_at_its_end(recorded, monkeypatch):
    held = []
    make_step = static.Step

    def noted(*args, **kwargs):
        step = make_step(*args, **kwargs)
        held.extend(weakref.ref(x) for x in (step, args[1], args[1].mask))
        return step

    model = make("gpt2")
    written(model, cache_implementation="static")  # PyTorch loads its compiler for the first, and holds frames
    monkeypatch.setattr(static, "Step", noted)
    gc.collect()
    gc.disable()
    try:
        written(model, cache_implementation="static")
        assert len(held) == 3
        assert all(x() is None for x in held)
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_it_compiles_whole_and_once(name):
    """No value is asked for, and nothing is guarded that another token would change."""
    graphs_made = []

    def backend(graph, inputs):
        graphs_made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = make(name)
    config = {"backend": backend, "fullgraph": True}
    for _ in range(2):
        static = written(model, cache_implementation="static", compile_config=config)
    assert torch.equal(static, written(model))
    assert len(graphs_made) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"num_beams": 2}, "set num_beams=1"),
        ({"use_cache": False}, "leave use_cache out"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "set penalty_alpha=None"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "no hidden states and no attentions"),
        ({"prompt_lookup_num_tokens": 3}, "which a static cache cannot"),
        ({"assistant_model": make("gpt2")}, "which a static cache cannot"),
        ({"max_cache_len": 11}, "of 11 tokens is too small for 6 that were read and 12 to come"),
        ({"max_cache_len": 30, "past_key_values": StaticCache(31)}, "pass one of them"),
        ({"compile_config": {"mode": "reduce-overhead"}}, "makes CUDA graphs of its own"),
        ({"cache_implementation": "sliding"}, "cache_implementation='sliding' is not implemented"),
        ({"cache_implementation": None, "max_cache_len": 30}, "max_cache_len takes cache_implementation='static'"),
        ({"cache_implementation": None, "compile_config": {}}, "compile_config takes cache_implementation='static'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_what_it_cannot_do_is_refused(settings, told):
    model = make("gpt2")
    with pytest.raises(ValueError, match=told):
        written(model, **{**prompts(texts=1), "cache_implementation": "static", **settings})


def test_models_that_reckon_with_their_caches_length_are_refused():
    sizes = {"vocab_size": V, "d_model": 24, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64}
    sizes |= {f"{side}_{part}": 4 for side in ("encoder", "decoder") for part in ("attention_heads", "ffn_dim")}
    for cls in (minihf.BartForConditionalGeneration, minihf.BartForCausalLM):
        model = cls(cls.config_class(**sizes, decoder_start_token_id=2)).eval()
        with pytest.raises(ValueError, match=f"whose forward has position_ids, and {cls.__name__} is none"):
            written(model, cache_implementation="static")
    roberta = minihf.RobertaForCausalLM(minihf.RobertaConfig(**{**SIZES, "pad_token_id": 1}, is_decoder=True)).eval()
    with pytest.raises(ValueError, match="count tokens by their ids"):
        written(roberta, cache_implementation="static")


# Would these tests notice? Faults planted in the cache and in the step, each of which must show.

fill, opened = StaticCache.fill, StaticCache.open


def one_place_too_far(cache):
    opened(cache)
    cache.place.add_(1).remainder_(cache.mask.size(3))


def blind_to_itself(cache):
    opened(cache)
    cache.mask.index_fill_(3, cache.place, torch.finfo(cache.mask.dtype).min)


def as_when_it_was_recorded(cache):
    """The position, as a number of Python."""
    opened(cache)
    cache.position_ids.fill_(Cache.length.fget(cache) + 6)


def padding_seen(cache, prompt, mask, *rest):
    fill(cache, prompt, None, *rest)


def padding_counted(cache, prompt, mask, position, *rest):
    fill(cache, prompt, mask, torch.full_like(position, prompt.length), *rest)


@pytest.mark.parametrize(
    "where, fault",
    [
        ("open", one_place_too_far),
        ("open", blind_to_itself),
        ("open", as_when_it_was_recorded),
        ("fill", padding_seen),
        ("fill", padding_counted),
    ],
)
@pytest.mark.parametrize("name", ["gpt2", "mistral"])
def test_a_fault_shows(name, where, fault, recorded, monkeypatch):
    model = make(name)
    same(model)
    monkeypatch.setattr(StaticCache, where, fault)
    with pytest.raises(AssertionError):
        same(model)
