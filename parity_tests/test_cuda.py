"""The same comparisons on a GPU. Without one, these tests say so and stop there."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from minihf.inspection.batches import cast, make_batch
from minihf.inspection.families import ENCODERS, FAMILIES
from minihf.inspection.half import half_precision_errors
from minihf.inspection.pairs import assert_parity, heads_of, make_pair
from minihf.nn.static_cache import StaticCache
from parity_tests.fast.test_graphs import make, prompts, written

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none")
HEADS = [(model_type, name) for model_type in FAMILIES for name in heads_of(model_type)]
MATH = "aten::_scaled_dot_product_attention_math"


@pytest.fixture(autouse=True)
def _full_float32(monkeypatch):
    """TF32 keeps 10 bits of 23: its errors would hide ours."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("model_type, class_name", HEADS)
def test_a_head_equals_the_reference_on_the_gpu(model_type, class_name, dtype):
    assert_parity(make_pair(model_type, class_name), dtype, device="cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("impl", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type, class_name", HEADS)
def test_half_precision_errs_at_most_three_times_as_much_on_the_gpu(model_type, class_name, impl, dtype):
    pair = make_pair(model_type, class_name).use(impl)
    for name, (ours, theirs) in half_precision_errors(pair, dtype, "cuda").items():
        assert ours <= 3 * theirs, f"{name}: {ours:.1e} against the reference's {theirs:.1e}"


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("model_type, class_name", [("bert", "BertModel"), ("gpt2", "GPT2LMHeadModel")])
def test_half_precision_without_a_mask_runs_the_fused_attention_kernels(model_type, class_name, dtype, train):
    from minihf.models.architectures import class_for

    # Heads of 64 channels, as published models have: the fused kernels want a multiple of 8.
    config = class_for(model_type, "Config")(hidden_size=128, num_attention_heads=2, num_hidden_layers=2)
    task = heads_of(model_type)[class_name]
    model = class_for(model_type, task)(config).to("cuda", dtype).train(train)
    batch = cast(make_batch(model, "Model", "full"), dtype, "cuda")
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        model(**batch)[0].float().sum().backward()
    ran = {event.key for event in profiler.key_averages()}
    assert any(name.startswith("aten::_scaled_dot_product") and name != MATH for name in ran), ran
    assert MATH not in ran


def test_greedy_generation_on_the_gpu_equals_the_cpu():
    ours = make_pair("gpt2", "GPT2LMHeadModel").ours.double()
    ids = make_batch(ours, "Model", "full")["input_ids"]
    cpu = ours.generate(ids, max_new_tokens=9)
    assert torch.equal(cpu, ours.cuda().generate(ids.cuda(), max_new_tokens=9).cpu())


@pytest.mark.parametrize("compile_config", [None, {}], ids=["as it is", "compiled"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral"])
def test_a_captured_step_equals_the_plain_loop(name, compile_config):
    """And the graph is used again, by texts of other lengths, with other padding, drawn or not."""
    model, cache = make(name).cuda(), StaticCache(40)
    for i, more in enumerate([{}, {"do_sample": True}, {"repetition_penalty": 1.5}, {"eos_token_id": [*range(9)]}]):
        given = {k: x.cuda() for k, x in prompts(tokens=6 + i, padded=i != 1, seed=i).items()} | more
        plain = written(model, **given)
        assert torch.equal(written(model, **given, past_key_values=cache, compile_config=compile_config), plain)
        if i == 0:
            step = cache.step[1]
            assert "replay" in step.run.__qualname__
        assert cache.step[1] is step
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    given = {k: x.cuda() for k, x in prompts().items()}
    assert torch.equal(written(model, **given, past_key_values=cache), written(model, **given))
    assert torch.equal(
        written(model, **given, cache_implementation="static"),
        written(model, **given, cache_implementation="static", disable_compile=True),
    )


def test_a_captured_step_in_bfloat16_writes_finite_logits_near_the_plain_ones():
    model = make("llama").cuda().bfloat16()
    given = {k: x.cuda() for k, x in prompts().items()}
    ask = {"max_new_tokens": 5, "output_logits": True, "return_dict_in_generate": True}
    plain = written(model, **given, **ask)
    graph = written(model, **given, **ask, cache_implementation="static")
    for a, b in zip(graph.logits[:2], plain.logits[:2], strict=True):  # of tokens that follow the same ones
        torch.testing.assert_close(a, b, rtol=0, atol=0.1 * plain.logits[0].std().item())


@pytest.mark.parametrize("model_type", ENCODERS)
def test_a_packed_encoder_gives_real_tokens_the_same(model_type):
    (name,) = (name for name, task in heads_of(model_type).items() if task == "Model")
    model = make_pair(model_type, name).ours.double().cuda()
    batch = cast(make_batch(model, "Model", "right"), torch.float64, "cuda")
    real = batch["attention_mask"].bool()
    padded, packed = (run_with(model, impl, batch) for impl in ("sdpa", "packed"))
    torch.testing.assert_close(packed[0][real], padded[0][real], rtol=0, atol=1e-10)
    assert not packed[0][~real].any()
    for a, b in zip(packed[1], padded[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def run_with(model, impl, batch):
    """The last hidden state, and the gradients of its real tokens."""
    model.set_attn_implementation(impl)
    model.zero_grad()
    x = model(**batch).last_hidden_state
    weights = torch.linspace(-1, 1, x.numel(), device=x.device, dtype=x.dtype).view(x.shape)
    (x * weights * batch["attention_mask"][..., None]).sum().backward()
    return x.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_packed_texts_go_through_one_fused_kernel():
    from minihf import BertConfig, BertModel

    model = BertModel(BertConfig(hidden_size=128, num_attention_heads=2, num_hidden_layers=2)).cuda().bfloat16().eval()
    model.set_attn_implementation("packed")
    batch = cast(make_batch(model, "Model", "right"), torch.bfloat16, "cuda")
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        model(**batch)
    calls = {event.key: event.count for event in profiler.key_averages() if "_attention_forward" in event.key}
    assert calls, "no fused kernel ran"
    assert set(calls.values()) == {2}, calls  # one a layer, not one a text
