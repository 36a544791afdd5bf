"""AdamW against torch's, number for number, and the paper's formula; and who decays."""

import copy
import math
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from transformers.trainer import Trainer

import minihf
from minihf import AdamW
from minihf.training import adamw as module
from minihf.training.groups import decay_parameters, parameter_groups

SHAPES = [(131, 67), (64,), (3, 1, 5), (), (0, 4)]
SETTINGS = {
    "plain": {"lr": 0.01, "eps": 1e-8, "weight_decay": 0.0},
    "decay": {"lr": 0.01, "eps": 1e-8, "weight_decay": 0.1},
    "betas": {"lr": 0.03, "eps": 1e-3, "weight_decay": 0.01, "betas": (0.7, 0.95)},
    "amsgrad": {"lr": 0.02, "eps": 1e-6, "weight_decay": 0.1, "amsgrad": True},
    "maximize": {"lr": 0.02, "eps": 1e-6, "weight_decay": 0.1, "maximize": True, "amsgrad": True},
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """So that the tensors here are cut into blocks, the last of them odd."""
    monkeypatch.setattr(module, "BLOCK", 2500)


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(1)
    weights = [nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)) for shape in SHAPES]
    weights.append(nn.Parameter(torch.randn(40, 50, generator=draw, dtype=torch.float64).to(dtype).T))  # as it lies
    return weights


@cache
def gradients(step: int, dtype: torch.dtype) -> list[torch.Tensor | None]:
    """Of all sizes, with zeros in them; now and then a parameter has none. Each lies as its parameter does."""
    draw, grads = torch.Generator().manual_seed(100 + step), []
    for i, p in enumerate(parameters(dtype)):
        grad = torch.randn(p.shape, generator=draw, dtype=torch.float64) * 10.0 ** (i - 3) * (1 + step % 3)
        grad *= torch.rand(p.shape, generator=draw) > 0.1
        grads.append(None if (step + i) % 7 == 0 else torch.empty_like(p.detach()).copy_(grad))
    return grads


def train(optimizer, params: list[nn.Parameter], first: int = 0, steps: int = 50) -> None:
    for step in range(first, first + steps):
        for p, grad in zip(params, gradients(step, params[0].dtype), strict=True):
            p.grad = None if grad is None else grad.clone()
        optimizer.step()


def grouped(optimizer_class, params, **settings):
    """In two groups, whose rates and decays differ."""
    groups = [{"params": params[::2]}, {"params": params[1::2], "lr": 0.005, "weight_decay": 0.03}]
    return optimizer_class(groups, **settings)


def same_state(ours, theirs, **tolerance) -> None:
    ours, theirs = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert ours.keys() == theirs.keys()
    for key, state in theirs.items():
        assert ours[key].keys() == state.keys()
        torch.testing.assert_close(ours[key], state, check_stride=True, **tolerance)


def rounding(dtype: torch.dtype) -> float:
    """Of fifty steps, some lr large each, and each rounded otherwise by an ulp or two of its own size: 1.4 eps seen.

    An ulp of bfloat16 is as large as a step. One that is rounded otherwise moves the weight by an ulp: 7 eps seen.
    """
    return (16 if dtype == torch.bfloat16 else 4) * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_fifty_steps_are_torchs(name, dtype):
    """The moments to the last bit. Parameters differ by rounding: see the module's docstring."""
    ours, theirs = parameters(dtype), parameters(dtype)
    a = grouped(AdamW, ours, **SETTINGS[name])
    b = grouped(torch.optim.AdamW, theirs, **SETTINGS[name], foreach=False)
    train(a, ours)
    train(b, theirs)
    assert not torch.equal(ours[0], parameters(dtype)[0])
    torch.testing.assert_close(ours, theirs, rtol=rounding(dtype), atol=rounding(dtype))
    same_state(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("other", ["foreach", "fused"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SETTINGS)
def test_torchs_other_ways_differ_by_rounding(name, dtype, other):
    ours, theirs = parameters(dtype), parameters(dtype)
    train(grouped(AdamW, ours, **SETTINGS[name]), ours)
    train(grouped(torch.optim.AdamW, theirs, **SETTINGS[name], **{other: True}), theirs)
    # These ways round the moments otherwise, too.
    bound = 50 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_fused_is_torchs_kernel(name, dtype, monkeypatch):
    ours, theirs = parameters(dtype), parameters(dtype)
    a = grouped(AdamW, ours, **SETTINGS[name], fused=True)
    b = grouped(torch.optim.AdamW, theirs, **SETTINGS[name], fused=True)
    monkeypatch.setattr(module, "update", None)  # ours has no part in it
    train(a, ours)
    train(b, theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    same_state(a, b, rtol=0, atol=0)


def test_fused_is_ours_where_torch_has_no_kernel(monkeypatch):
    runs = []
    for fused in (True, False):
        params = parameters()
        train(AdamW(params, lr=0.01, correct_bias=False, fused=fused), params, steps=5)
        runs.append(params)
    monkeypatch.setattr(module, "FUSED", ("cuda",))
    params = parameters()
    train(AdamW(params, lr=0.01, fused=True), params, steps=5)
    plain = parameters()
    train(AdamW(plain, lr=0.01), plain, steps=5)
    torch.testing.assert_close([*runs[0], *params], [*runs[1], *plain], rtol=0, atol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_may_lie_otherwise_than_its_parameter(fused):
    """Torch's fused kernel for the CPU would take each number for another."""
    params, whole = parameters(), parameters()
    optimizer, plain = AdamW(params, lr=0.01, fused=fused), AdamW(whole, lr=0.01)
    train(plain, whole, steps=5)
    for step in range(5):
        for p, grad in zip(params, gradients(step, torch.float64), strict=True):
            p.grad = None if grad is None else grad.mT.contiguous().mT if grad.dim() == 2 else grad.clone()
        optimizer.step()
    torch.testing.assert_close(params, whole, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("correct_bias", [True, False])
def test_the_papers_formula_number_by_number(correct_bias, amsgrad):
    lr, (b1, b2), eps, decay = 0.02, (0.8, 0.97), 1e-3, 0.1
    p = nn.Parameter(torch.tensor([0.7, -1.3], dtype=torch.float64))
    optimizer = AdamW([p], lr, (b1, b2), eps, decay, correct_bias, amsgrad=amsgrad)
    theta, m, v, most = p.tolist(), [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    for t in range(1, 31):
        grads = [math.sin(t) / t, math.cos(3 * t)]
        p.grad = torch.tensor(grads, dtype=torch.float64)
        optimizer.step()
        c1, c2 = (1 - b1**t, 1 - b2**t) if correct_bias else (1, 1)
        for i, g in enumerate(grads):
            m[i] = b1 * m[i] + (1 - b1) * g
            v[i] = b2 * v[i] + (1 - b2) * g * g
            most[i] = max(most[i], v[i]) if amsgrad else v[i]
            theta[i] -= lr * decay * theta[i] + lr * (m[i] / c1) / (math.sqrt(most[i] / c2) + eps)
    assert p.tolist() == pytest.approx(theta, rel=1e-12)


def test_where_the_old_class_differed():
    """Its formula, with eps before the correction and the decay last: the same within eps and lr² · decay."""
    lr, (b1, b2), eps, decay = 1e-3, (0.9, 0.999), 1e-6, 0.01
    p = nn.Parameter(torch.linspace(-1, 1, 11, dtype=torch.float64))
    optimizer = AdamW([p], weight_decay=decay)
    theta, m, v = p.detach().clone(), torch.zeros(11), torch.zeros(11)
    for t in range(1, 51):
        g = torch.randn(11, dtype=torch.float64)
        p.grad = g
        optimizer.step()
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - lr * (1 - b2**t) ** 0.5 / (1 - b1**t) * m / (v.sqrt() + eps)
        theta = theta * (1 - lr * decay)
    far = (p - theta).abs().max().item()
    assert 1e-9 < far < 50 * lr * (lr * decay + 5e-4)


def test_defaults_are_the_old_class_and_not_torchs():
    (group,) = AdamW([nn.Parameter(torch.zeros(1))]).param_groups
    del group["params"]
    assert group == {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.0,
        "correct_bias": True,
        "amsgrad": False,
        "maximize": False,
        "fused": False,
    }
    AdamW([nn.Parameter(torch.zeros(1))], no_deprecation_warning=True)


# State


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["decay", "amsgrad"])
def test_a_state_is_taken_up_by_either(name, dtype, fused):
    settings = SETTINGS[name] | {"fused": fused}
    whole = parameters(dtype)
    train(grouped(AdamW, whole, **settings), whole)
    for first, second in ((AdamW, torch.optim.AdamW), (torch.optim.AdamW, AdamW), (AdamW, AdamW)):
        params = parameters(dtype)
        begun = grouped(first, params, **settings)
        train(begun, params, steps=20)
        resumed = grouped(second, params, lr=7.0)  # what is loaded says all
        resumed.load_state_dict(pickle.loads(pickle.dumps(begun.state_dict())))
        train(resumed, params, first=20, steps=30)
        bound = 0 if first is second or fused else rounding(dtype)
        torch.testing.assert_close(params, whole, rtol=bound, atol=bound)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_the_count_of_steps_is_torchs_tensor(default):
    torch.set_default_dtype(default)
    try:
        for fused in (False, True):
            steps = []
            for optimizer_class in (AdamW, torch.optim.AdamW):
                p = nn.Parameter(torch.zeros(2))
                p.grad = torch.ones(2)
                optimizer = optimizer_class([p], fused=fused)
                optimizer.step()
                steps.append(optimizer.state[p]["step"])
            torch.testing.assert_close(*steps, rtol=0, atol=0)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_state_of_the_old_class_counts_in_plain_numbers_and_lacks_names():
    params, whole = parameters(), parameters()
    begun = AdamW(params, lr=0.01)
    train(begun, params, steps=20)
    state = begun.state_dict()
    for one in state["state"].values():
        one["step"] = int(one["step"])
    for group in state["param_groups"]:
        for name in ("amsgrad", "maximize", "fused"):
            del group[name]
    resumed = AdamW(params)
    resumed.load_state_dict(state)
    train(resumed, params, first=20, steps=30)
    train(AdamW(whole, lr=0.01), whole)
    torch.testing.assert_close(params, whole, rtol=0, atol=0)


def test_it_is_copied_and_pickled():
    params = parameters()
    optimizer = AdamW(params, lr=0.01)
    train(optimizer, params, steps=3)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        train(other, other.param_groups[0]["params"], first=3, steps=3)
        again = other.param_groups[0]["params"]
        assert other.state[again[1]]["step"] == 6
    train(optimizer, params, first=3, steps=3)
    torch.testing.assert_close(again, params, rtol=0, atol=0)


# How it is called


def test_the_closure_is_called_once_with_gradients():
    p = nn.Parameter(torch.ones(3))
    optimizer, calls = AdamW([p], lr=0.5), []

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        calls.append(loss.item())
        return loss

    assert optimizer.step(closure).item() == 3
    assert calls == [3]
    assert p.tolist() == pytest.approx([0.5] * 3, abs=1e-5)
    assert optimizer.step() is None


def test_no_gradient_no_state_and_no_decay():
    still, moving, frozen = (nn.Parameter(torch.ones(3)) for _ in range(3))
    frozen.requires_grad_(False)
    optimizer = AdamW([still, moving, frozen], weight_decay=0.5)
    moving.grad = torch.zeros(3)
    optimizer.step()
    assert still.tolist() == frozen.tolist() == [1] * 3
    assert moving.tolist() == pytest.approx([1 - 0.5e-3] * 3)
    assert list(optimizer.state) == [moving]
    AdamW([nn.Parameter(torch.ones(1))], fused=True).step()


def test_the_rate_may_be_a_tensor_and_is_read_at_each_step():
    params, others = parameters(), parameters()
    train(AdamW(params, lr=torch.tensor(0.25)), params, steps=3)
    optimizer = AdamW(others, lr=9.0)
    optimizer.param_groups[0]["lr"] = 0.25
    train(optimizer, others, steps=3)
    torch.testing.assert_close(params, others, rtol=0, atol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_cover_everything_once(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(module, "BLOCK", 1000)
    x = torch.arange(4001.0)
    parts = list(module.blocks(x, x * 2))
    assert [len(a) for a, _ in parts] == [1000 * threads] * (4 // threads) + [1]
    assert torch.equal(torch.cat([a for a, _ in parts]), x)
    assert all(torch.equal(b, a * 2) for a, b in parts)
    parts[-1][0].zero_()
    assert x[-1] == 0  # they are the tensor itself
    table = torch.zeros(50, 60).T
    assert module.blocks(table, table) == [(table, table)]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lr": -1.0}, "lr is -1.0, expected a number that is not negative"),
        ({"lr": math.nan}, "lr is nan"),
        ({"eps": -1e-8}, "eps is -1e-08"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\), expected two numbers from 0"),
        ({"betas": (-0.1, 0.9)}, "betas is"),
        ({"betas": (0.9,)}, "betas is"),
    ],
)
def test_settings_out_of_range_are_refused_also_of_a_group(settings, message):
    p = nn.Parameter(torch.zeros(1))
    with pytest.raises(ValueError, match=message):
        AdamW([p], **settings)
    with pytest.raises(ValueError, match=message):
        AdamW([{"params": [p], **settings}])


@pytest.mark.parametrize("settings", [{"lr": "5e-5"}, {"eps": None}, {"weight_decay": [0.1]}])
def test_settings_that_are_no_numbers_are_refused(settings):
    (name,) = settings
    with pytest.raises(TypeError, match=rf"{name} is .*, expected a number"):
        AdamW([nn.Parameter(torch.zeros(1))], **settings)
    AdamW([nn.Parameter(torch.zeros(1))], **{name: np.float32(0.1)})
    with pytest.raises(ValueError, match=r"betas is 0\.9, expected two numbers"):
        AdamW([nn.Parameter(torch.zeros(1))], betas=0.9)


def test_parameters_need_not_lie_on_the_default_device():
    """Where a program's default is a GPU (here "meta", which every machine has), a part may be left on the CPU."""
    results = []
    for default in ("cpu", "meta"):
        p = nn.Parameter(torch.ones(3))
        p.grad = torch.arange(3.0)
        optimizer = AdamW([p])
        state = optimizer.state_dict() | {"state": {0: {"step": 2, "exp_avg": p.grad * 2, "exp_avg_sq": p.grad}}}
        with torch.device(default):
            optimizer.step()
            optimizer.load_state_dict(state)
            optimizer.step()
        results.append(p.detach())
    assert torch.equal(*results)


@pytest.mark.parametrize("fused", [False, True])
def test_sparse_and_complex_gradients_are_refused(fused):
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"dense gradients, got torch.float32 and torch.sparse_coo; .* SparseAdam"):
        AdamW(table.parameters(), fused=fused).step()
    p = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"real and dense gradients, got torch.complex64 and"):
        AdamW([p], fused=fused).step()


# Who decays


def tiny(name: str) -> nn.Module:
    sizes = {
        "Bert": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
        "GPT2": {"n_embd": 8, "n_layer": 1, "n_head": 2},
        "T5": {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2},
        "Bart": {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    }
    sizes["Llama"] = sizes["Albert"] = sizes["Bert"]
    heads = {"GPT2": "LMHeadModel", "Llama": "ForCausalLM", "T5": "ForConditionalGeneration"}
    config = getattr(minihf, f"{name}Config")(vocab_size=64, **sizes[name])
    return getattr(minihf, name + heads.get(name, "ForSequenceClassification"))(config)


def references_names(model: nn.Module) -> list[str]:
    return Trainer.get_decay_parameter_names(None, model)


class Named(nn.Module):
    """Whatever a name may look like, tied and nested."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Linear(2, 2)
        self.norms = nn.Linear(2, 2)
        self.input_norm = nn.ModuleList([nn.Linear(2, 2)])
        self.Final_RMSNorm = nn.Linear(2, 2)
        self.layer_normal = nn.Linear(2, 2)
        self.rel_Bias_table = nn.Linear(2, 2)
        self.wrapped = nn.Sequential(nn.LayerNorm(2), nn.BatchNorm1d(2), nn.GroupNorm(1, 2))
        self.own = nn.Parameter(torch.zeros(2))
        self.my_norm = nn.Parameter(torch.zeros(2))
        self.tied = self.norms
        self.again = nn.Linear(2, 2)
        self.again.weight = self.norm.weight


@pytest.mark.parametrize("name", ["Bert", "GPT2", "T5", "Bart", "Llama", "Albert"])
def test_the_same_parameters_decay_as_in_the_reference(name):
    model = tiny(name)
    ours = decay_parameters(model)
    assert sorted(ours) == sorted(references_names(model))
    weights = dict(model.named_parameters(remove_duplicate=False))
    assert all(weights[one].dim() > 1 for one in ours)
    assert any("norm" in one.lower() or "ln_" in one for one in set(weights) - set(ours))


def test_awkward_names_decay_as_in_the_reference():
    for model in (Named(), nn.Sequential(Named(), nn.ModuleDict({"norm": Named()})), nn.LayerNorm(2)):
        ours, theirs = set(decay_parameters(model)), set(references_names(model))
        assert theirs <= ours
        assert all("tied." in name for name in ours - theirs)  # a module's other names, which no optimizer asks for
    assert decay_parameters(Named()) == [
        *("own", "norms.weight", "layer_normal.weight", "wrapped.1.weight", "wrapped.2.weight"),
        *("tied.weight", "again.weight"),
    ]
    assert decay_parameters(nn.LayerNorm(2)) == ["weight"]


def test_groups_are_the_references_and_leave_out_what_is_frozen():
    model = tiny("GPT2")
    model.transformer.wte.requires_grad_(False)
    decaying, still = parameter_groups(model, 0.3)
    names = {id(p): name for name, p in model.named_parameters()}
    wanted = set(references_names(model))
    assert [names[id(p)] for p in decaying["params"]] == [
        name for name, p in model.named_parameters() if name in wanted and p.requires_grad
    ]
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.3, 0.0)
    assert all(p.dim() == 1 for p in still["params"])
    assert len(decaying["params"]) + len(still["params"]) == len(names) - 1
    optimizer = AdamW(parameter_groups(model.requires_grad_(False), 0.3))
    assert [group["params"] for group in optimizer.param_groups] == [[], []]
