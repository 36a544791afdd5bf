"""Rotary positions: the rotation itself, and every kind's frequencies, bit for bit the reference's."""

import cmath
import copy
import math

import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from minihf.models.llama import LlamaConfig
from minihf.nn.rope import NEEDED, RotaryEmbedding, check_rope, rotate

D, LIMIT = 16, 40
SHORT, LONG = [1 + i / 8 for i in range(D // 2)], [2 + i**2 for i in range(D // 2)]
KINDS = {
    "default": {},
    "default, another theta": {"rope_theta": 5e5},
    "linear": {"factor": 8.0},
    "linear, odd": {"factor": 2.3},
    "dynamic": {"factor": 2.0},
    "dynamic, odd": {"factor": 2.3, "rope_theta": 777.7},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 10},
    "yarn, odd": {"factor": 3.3, "beta_fast": 2.5, "beta_slow": 0.3, "attention_factor": 0.7, "rope_theta": 100},
    "yarn, no factor": {"factor": None, "original_max_position_embeddings": 11},
    "yarn, not truncated": {"factor": 3.0, "truncate": False, "mscale": 0.7, "mscale_all_dim": 1.1},
    "yarn, a step": {"factor": 3.0, "beta_fast": 1e-9, "beta_slow": 1e-9},
    "yarn, longer by nothing": {"factor": 1.0},
    "longrope": {"short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 9},
    "longrope, factor": {"short_factor": SHORT, "long_factor": LONG, "factor": 3.5},
    "longrope, given": {"short_factor": SHORT, "long_factor": LONG, "factor": 3.5, "attention_factor": 1.5},
    "longrope, longer by nothing": {"short_factor": SHORT, "long_factor": LONG, "factor": 1.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    "llama3, 3.2": {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5,
                    "original_max_position_embeddings": 8192},
    "proportional": {"partial_rotary_factor": 0.4},
    "proportional, factor": {"partial_rotary_factor": 0.75, "factor": 3.0},
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", KINDS)


def configs(name, **changes):
    rope = {"rope_type": name.partition(",")[0], "rope_theta": 10000.0, **KINDS[name], **changes}
    fields = {"hidden_size": 3 * D, "num_attention_heads": 3, "max_position_embeddings": LIMIT}
    return [cls(**fields, rope_parameters=copy.deepcopy(rope)) for cls in (LlamaConfig, transformers.LlamaConfig)]


def pair(name, **changes):
    ours, theirs = configs(name, **changes)
    return RotaryEmbedding(ours.rope_parameters, ours.head_dim, LIMIT), LlamaRotaryEmbedding(theirs)


def unsigned(sin):
    """Ours has the sign of the rotation in its first half."""
    return torch.cat([-sin[..., : D // 2], sin[..., D // 2 :]], -1)


@EVERY
@pytest.mark.parametrize("length", [1, 9, 10, LIMIT, LIMIT + 1, 3 * LIMIT + 1])
def test_cos_and_sin_are_the_references_to_the_last_bit(name, length):
    """At, below and above the original lengths."""
    ours, theirs = pair(name)
    places = torch.arange(length)[None]
    x = torch.zeros(1)
    cos, sin = ours(x, places)
    there = theirs(x, places)
    assert cos.shape == sin.shape == (1, length, D)
    torch.testing.assert_close((cos, unsigned(sin)), there, rtol=0, atol=0)


def test_every_kind_is_tested_and_no_two_are_the_same():
    assert {name.partition(",")[0] for name in KINDS} == set(NEEDED)
    seen = {tuple(pair(name)[0](torch.zeros(1), torch.arange(100)[None])[0][0, -1].tolist()) for name in KINDS}
    assert len(seen) == len(KINDS) - 1  # yarn that is longer by nothing is the default


@EVERY
def test_any_positions_of_any_batch(name):
    ours, theirs = pair(name)
    places = torch.tensor([[0, 0, 3, 4], [90, 7, 7, 1]])
    x = torch.zeros(1)
    torch.testing.assert_close(ours(x, places)[0], theirs(x, places)[0], rtol=0, atol=0)
    assert torch.equal(ours(x, places.int())[0], ours(x, places)[0])


@EVERY
def test_float64_is_computed_in_float64_from_the_frequencies_of_float32(name):
    ours, _ = pair(name)
    places = torch.arange(3 * LIMIT)[None]
    cos, sin = ours(torch.zeros(1, dtype=torch.float64), places)
    angles = places[..., None].double() * ours.frequencies(places, torch.device("cpu")).double()
    torch.testing.assert_close(cos[..., : D // 2], angles.cos() * ours.scale, rtol=0, atol=1e-13)
    torch.testing.assert_close(sin[..., D // 2 :], angles.sin() * ours.scale, rtol=0, atol=1e-13)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rounds_the_result_alone(name, dtype):
    """Whatever the model is cast to, and from: angles of thousands of tokens need the digits."""
    ours, _ = pair(name)
    places = torch.arange(5000, 5010)[None]
    exact = ours(torch.zeros(1), places)
    for model in (ours, ours.to(dtype), ours.half().float(), copy.deepcopy(ours)):
        for rounded, x in zip(model(torch.zeros(1, dtype=dtype), places), exact, strict=True):
            assert rounded.dtype == dtype
            assert torch.equal(rounded, x.to(dtype))


@EVERY
def test_built_on_the_meta_device_it_knows_its_frequencies(name):
    with torch.device("meta"):
        ours, _ = pair(name)
    places = torch.arange(70)[None]
    shapes = ours(torch.zeros(1, device="meta"), places.to("meta"))
    assert shapes[0].shape == (1, 70, D)
    assert torch.equal(ours(torch.zeros(1), places)[0], pair(name)[0](torch.zeros(1), places)[0])


def test_nothing_of_it_is_saved_or_learned():
    ours, theirs = pair("llama3")
    assert not ours.state_dict()
    assert not theirs.state_dict()
    assert not list(ours.parameters())


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_no_call_remembers_another(name):
    """The reference's dynamic keeps the frequencies of a longer text for a shorter one that is still too long."""
    ours, theirs = pair(name)
    short, middle, long = (torch.arange(n)[None] for n in (5, LIMIT + 2, LIMIT + 50))
    x = torch.zeros(1)
    alone = [pair(name)[0](x, places)[0] for places in (short, middle, long)]
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 1)):
        for i in order:
            assert torch.equal(ours(x, (short, middle, long)[i])[0], alone[i])
    theirs(x, long)
    assert torch.equal(theirs(x, middle)[0], alone[1]) == (name == "longrope")


# The rotation


def test_a_rotation_is_the_references_and_keeps_lengths():
    ours, theirs = pair("default")
    places = torch.tensor([[0, 1, 2, 30], [7, 8, 9, 500]])
    q, k = torch.randn(2, 3, 4, D).double(), torch.randn(2, 1, 4, D).double()
    cos, sin = (part.unsqueeze(1) for part in ours(q, places))
    expected = apply_rotary_pos_emb(q, k, *(part.double() for part in theirs(q.float(), places)))
    torch.testing.assert_close((rotate(q, cos, sin), rotate(k, cos, sin)), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(rotate(q, cos, sin).norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(rotate(q, cos, sin)[0, :, 0], q[0, :, 0])  # position 0


def test_a_plane_is_a_channel_of_each_half():
    """Each plane turned by hand, as a complex number."""
    ours, _ = pair("default")
    x = torch.randn(1, 1, 5, D, dtype=torch.float64)
    cos, sin = (part.unsqueeze(1) for part in ours(x, torch.arange(5)[None]))
    y = rotate(x, cos, sin)
    for i in range(D // 2):
        frequency = torch.tensor(10000 ** (-2 * i / D), dtype=torch.float32).item()
        for p in range(5):
            before, after = (complex(z[0, 0, p, i], z[0, 0, p, i + D // 2]) for z in (x, y))
            assert abs(after - before * cmath.exp(1j * p * frequency)) < 1e-6


@pytest.mark.parametrize("name", ["default", "linear", "yarn", "llama3", "proportional"])
def test_products_know_distances_only(name):
    ours, _ = pair(name)
    q, k = torch.randn(2, 1, 1, 1, D, dtype=torch.float64)
    scores = []
    for p in (0, 13, 200):
        turned = [rotate(x, *ours(x, torch.tensor([[place]]))) for x, place in ((q, p + 6), (k, p))]
        scores.append((turned[0] * turned[1]).sum())
    torch.testing.assert_close(scores[0], scores[1])
    torch.testing.assert_close(scores[0], scores[2])


# Refusals

GOOD = {"rope_type": "llama3", "rope_theta": 1e4, **KINDS["llama3"]}
WRONG = [
    ({"rope_type": "su"}, "rope_type='su' is not implemented; known are 'default', 'linear'"),
    ({"rope_theta": 0}, "rope_theta=0"),
    ({"rope_theta": None}, "rope_theta=None"),
    ({"rope_theta": "1e4"}, "rope_theta='1e4'"),
    ({"factor": 0}, "factor=0"),
    ({"factor": None}, "factor=None"),
    ({"factor": True}, "factor=True"),
    ({"factor": math.nan}, "factor=nan"),
    ({"factor": math.inf}, "factor=inf"),
    ({"low_freq_factor": 4}, "high_freq_factor=4.0 .*more than low_freq_factor=4"),
    ({"original_max_position_embeddings": 1}, "original_max_position_embeddings=1"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not implemented for rope_type='llama3'"),
    ({"rope_type": "proportional", "partial_rotary_factor": 1.5}, "partial_rotary_factor=1.5"),
    ({"rope_type": "yarn", "beta_fast": -1}, "beta_fast=-1"),
    ({"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG[:-1]}, r"long_factor=\[.*expected 8 numbers"),
    ({"rope_type": "longrope", "short_factor": 2.0, "long_factor": LONG}, "short_factor=2.0"),
    ({"rope_type": "longrope", "short_factor": ["1"] * 8, "long_factor": LONG}, "short_factor="),
]


@pytest.mark.parametrize("change, message", WRONG, ids=str)
def test_a_wrong_value_is_refused_by_name(change, message):
    check_rope(GOOD, D)
    with pytest.raises(ValueError, match=message):
        check_rope({**GOOD, **change}, D)


@pytest.mark.parametrize("kind", NEEDED)
def test_each_needed_key_is_missed(kind):
    whole = {"rope_type": kind, "rope_theta": 1e4, **KINDS[kind], "original_max_position_embeddings": 9}
    check_rope(whole, D)
    for name in NEEDED[kind]:
        with pytest.raises(ValueError, match=f"rope_type='{kind}' needs {name}"):
            check_rope({key: value for key, value in whole.items() if key != name}, D)


def test_heads_that_cannot_be_halved_are_refused():
    for parameters, dim in ((GOOD, 7), ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2}, 2)):
        with pytest.raises(ValueError, match=f"head_dim={dim}"):
            check_rope(parameters, dim)
