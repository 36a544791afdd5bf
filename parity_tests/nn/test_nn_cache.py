"""The cache: whatever the chunks, the same keys and values as at once; little copied, gradients intact."""

import random

import pytest
import torch

from minihf.inspection.pairs import make_pair
from minihf.nn.attention import attend
from minihf.nn.cache import Cache

B, H, D, LAYERS = 2, 3, 5, 3


def chunks(total: int, rng: random.Random) -> list[int]:
    sizes = []
    while total:
        sizes.append(rng.choice([1, 1, 2, rng.randint(1, total)]))
        sizes[-1] = min(sizes[-1], total)
        total -= sizes[-1]
    return sizes


@pytest.mark.parametrize("seed", range(12))
def test_chunked_updates_equal_one(seed):
    rng = random.Random(seed)
    total = rng.randint(1, 40)
    k, v = torch.randn(2, LAYERS, B, H, total, D)
    cache, at = Cache(), 0
    assert cache.length == 0
    for size in chunks(total, rng):
        for layer in range(LAYERS):
            got = cache.update(layer, k[layer, :, :, at : at + size], v[layer, :, :, at : at + size])
            assert torch.equal(got[0], k[layer, :, :, : at + size])
            assert torch.equal(got[1], v[layer, :, :, : at + size])
        at += size
        assert cache.length == at


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("window", [1, 2, 4, 9, None])
@pytest.mark.parametrize("seed", range(6))
def test_the_cache_gives_what_the_window_sees(seed, window, grad):
    rng = random.Random(seed)
    k, v = torch.randn(2, B, H, 50, D)
    cache, at = Cache(), 0
    with torch.set_grad_enabled(grad):
        while at < 50:
            new = min(rng.choice([1, 1, 1, 2, 3, 4, 8, 9, 20]), 50 - at)
            first = 0 if window is None else max(0, at - window + 1)
            seen = cache.update(0, k[:, :, at : at + new], v[:, :, at : at + new], window)
            at += new
            assert torch.equal(seen[0], k[:, :, first:at])
            assert torch.equal(seen[1], v[:, :, first:at])
            assert cache.length == at


@torch.no_grad()
def test_a_window_moves_through_its_buffer():
    """At most twice the window is held, and at a move no more than the window is copied."""
    total, window, cache, moves, place = 2000, 50, Cache(), 0, None
    for _ in range(total):
        k, _ = cache.update(0, torch.randn(1, 1, 1, 4), torch.randn(1, 1, 1, 4), window)
        assert cache.layers[0].keys.shape[2] <= 2 * window
        store = k.untyped_storage().data_ptr()
        moves, place = moves + (place != store), store
    assert cache.length == total
    assert k.shape[2] == window
    assert moves <= total / (window - 1) + 7


@torch.no_grad()
@pytest.mark.parametrize("rows", [[1, 0], [0, 0], [1], [1, 1, 0]])
def test_reorder_moves_what_a_window_sees(rows):
    k, v = torch.randn(2, B, H, 30, D)
    for split in (2, 7, 8, 25):
        cache = Cache()
        for part in (slice(0, split - 1), slice(split - 1, split)):
            cache.update(0, k[:, :, part], v[:, :, part], 7)
        cache.reorder(torch.tensor(rows))
        for t in range(split, 30):
            got = cache.update(0, k[rows, :, t : t + 1], v[rows, :, t : t + 1], 7)
            assert torch.equal(got[0], k[rows, :, max(0, t - 6) : t + 1])
            assert torch.equal(got[1], v[rows, :, max(0, t - 6) : t + 1])


@torch.no_grad()
def test_token_by_token_copies_each_about_once():
    """Counted by the moves of the buffer: at a move, what it held is copied."""
    total, cache, moves, copied, place = 2000, Cache(), 0, 0, None
    for t in range(total):
        k, _ = cache.update(0, torch.randn(1, 1, 1, 4), torch.randn(1, 1, 1, 4))
        if place is not None and k.data_ptr() != place:
            moves, copied = moves + 1, copied + t
        place = k.data_ptr()
    assert copied <= 2 * total
    assert 0 < moves <= 13  # 2 ** 11 > 2000


def test_a_returned_view_keeps_its_values():
    cache, seen = Cache(), []
    with torch.no_grad():
        for step in range(30):
            got = cache.update(0, torch.randn(B, H, 1 + step % 3, D), torch.randn(B, H, 1 + step % 3, D))
            seen.append([(x, x.clone()) for x in got])
            if step % 10 == 9:
                cache.reorder(torch.tensor([1, 0]))
    assert all(torch.equal(x, then) for pair in seen for x, then in pair)


def test_the_callers_tensors_are_never_written_to():
    cache = Cache()
    given = [torch.randn(B, H, n, D) for n in (4, 1, 1, 3, 1)]
    before = [x.clone() for x in given]
    for x in given:
        cache.update(0, x, -x)
    cache.reorder(torch.tensor([0, 0]))
    cache.update(0, torch.zeros(B, H, 9, D), torch.zeros(B, H, 9, D))
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("rows", [[1, 0], [0, 0], [1], [1, 1, 0, 0, 1]])
def test_reorder_keeps_copies_and_drops_rows(rows):
    cache = Cache()
    k, v = torch.randn(2, LAYERS, B, H, 7, D)
    for layer in range(LAYERS):
        for part in (slice(0, 4), slice(4, 5), slice(5, 7)):
            cache.update(layer, k[layer, :, :, part], v[layer, :, :, part])
    cache.cross[1] = k[0], v[0]
    cache.reorder(torch.tensor(rows))
    assert torch.equal(cache.cross[1][0], k[0][rows])
    assert torch.equal(cache.cross[1][1], v[0][rows])
    new = torch.randn(len(rows), H, 2, D)
    for layer in range(LAYERS):
        got_k, got_v = cache.update(layer, new, -new)
        assert torch.equal(got_k, torch.cat([k[layer][rows], new], 2))
        assert torch.equal(got_v, torch.cat([v[layer][rows], -new], 2))
    Cache().reorder(torch.tensor([0]))  # an empty cache has nothing to reorder


@pytest.mark.parametrize("trained", ["q", "k", "v", "qkv"])
@pytest.mark.parametrize("sizes", [[3, 4], [1, 1, 1, 1, 3], [2, 1, 1, 1, 1, 1], [5, 1, 1]])
def test_gradients_through_the_cache_equal_those_without(sizes, trained):
    """Also where only one of the three is trained, as adapters do: what autograd keeps must not be written over."""
    T = sum(sizes)
    q, k, v = (torch.randn(B, H, T, D, dtype=torch.float64, requires_grad=name in trained) for name in "qkv")
    whole, _ = attend(q, k, v, causal=True)
    towards = torch.randn_like(whole)
    wanted = [x for x in (q, k, v) if x.requires_grad]
    expected = torch.autograd.grad(whole, wanted, towards)
    cache, outs, at = Cache(), [], 0
    for size in sizes:
        part = slice(at, at := at + size)
        keys, values = cache.update(0, k[:, :, part], v[:, :, part])
        outs.append(attend(q[:, :, part], keys, values, causal=True)[0])
    out = torch.cat(outs, 2)
    torch.testing.assert_close(out, whole, rtol=0, atol=1e-10)
    for got, want in zip(torch.autograd.grad(out, wanted, towards), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_with_and_without_gradients_in_turn():
    """A prompt read without gradients, a chunk with, a chunk without."""
    k, v = torch.randn(2, B, H, 9, D)
    cache = Cache()
    with torch.no_grad():
        for part in (slice(0, 3), slice(3, 4)):
            cache.update(0, k[:, :, part], v[:, :, part])
    trained = k[:, :, 4:6].clone().requires_grad_()
    keys, values = cache.update(0, trained, v[:, :, 4:6])
    (keys.sum() + values.sum()).backward()
    assert torch.equal(trained.grad, torch.ones_like(trained))
    with torch.no_grad():
        for part in (slice(6, 7), slice(7, 9)):
            keys, values = cache.update(0, k[:, :, part], v[:, :, part])
    assert torch.equal(keys, k)
    assert torch.equal(values, v)


def test_another_batch_is_refused_and_the_cache_stays_as_it_was():
    cache = Cache()
    k = torch.randn(3, H, 4, D)
    cache.update(0, k, k)
    with pytest.raises(ValueError, match=r"holds 3 texts, and 2 came"):
        cache.update(0, torch.randn(2, H, 1, D), torch.randn(2, H, 1, D))
    assert cache.length == 4
    assert torch.equal(cache.update(0, k[:, :, :1], k[:, :, :1])[0], torch.cat([k, k[:, :, :1]], 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtype_is_kept(dtype):
    cache = Cache()
    for _ in range(5):
        k, v = cache.update(0, torch.ones(1, 1, 1, 2, dtype=dtype), torch.ones(1, 1, 1, 2, dtype=dtype))
    assert k.dtype == v.dtype == dtype


def test_what_inference_mode_cached_can_be_continued_outside_it():
    model = make_pair("gpt2", "GPT2LMHeadModel").ours
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        cache = model(ids[:, :2]).past_key_values
        model(ids[:, 2:3], past_key_values=cache)
    with torch.no_grad():
        outside = model(ids[:, 3:4], past_key_values=cache).logits
        model(ids[:, 4:], past_key_values=cache)
        torch.testing.assert_close(outside, model(ids).logits[:, 3:4])
