"""The static cache: what is attended to is what the growing cache gives, and nothing of it ever moves."""

import pytest
import torch

from minihf.nn.attention import attend
from minihf.nn.cache import Cache
from minihf.nn.static_cache import ALIGNED, StaticCache

B, H, D, LAYERS, TOKENS = 3, 2, 5, 2, 21


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def made(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, of twice as many heads, keys and values of each layer, float64."""
    torch.manual_seed(seed)
    q, k, v = (torch.randn(LAYERS, B, heads, TOKENS, D, dtype=torch.float64) for heads in (2 * H, H, H))
    return q, k, v


def left_padded(lengths: list[int], tokens: int) -> torch.Tensor:
    return (torch.arange(tokens) >= tokens - torch.tensor(lengths)[:, None]).long()


def read(k, v, prompt: int, window: int | None) -> Cache:
    cache = Cache()
    for layer in range(LAYERS):
        cache.update(layer, k[layer, :, :, :prompt], v[layer, :, :, :prompt], window)
    return cache


def filled(k, v, prompt: int, window: int | None = None, mask=None, cache=None, room=None) -> StaticCache:
    cache = StaticCache() if cache is None else cache
    position = torch.full((1, 1), prompt) if mask is None else mask.sum(1, keepdim=True)
    cache.fill(read(k, v, prompt, window), mask, position, TOKENS - prompt if room is None else room)
    return cache


def step(cache: StaticCache, layer: int, q, k, v, t: int, window: int | None, impl: str = "sdpa"):
    new = slice(t, t + 1)
    keys, values = cache.update(layer, k[layer, :, :, new], v[layer, :, :, new], window)
    return attend(q[layer, :, :, new], keys, values, cache.mask, causal=True, impl=impl)[0]


@pytest.mark.parametrize("impl", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [None, [6, 4, 1]], ids=["full", "padded"])
@pytest.mark.parametrize("window", [None, 2, 3, 6, 7, 15, 40])
def test_attention_equals_that_over_the_growing_cache(window, lengths, impl):
    prompt = 6
    mask = None if lengths is None else left_padded(lengths, prompt)
    cache = None
    for seed in range(2):  # the second time, over what the first has left
        q, k, v = made(seed)
        cache, growing = filled(k, v, prompt, window, mask, cache), read(k, v, prompt, window)
        for t in range(prompt, TOKENS):
            cache.open()
            where = t if lengths is None else torch.tensor(lengths)[:, None] + t - prompt
            assert torch.equal(cache.position_ids, torch.as_tensor(where).expand(B, 1))
            for layer in range(LAYERS):
                new = slice(t, t + 1)
                got = step(cache, layer, q, k, v, t, window, impl)
                keys, values = growing.update(layer, k[layer, :, :, new], v[layer, :, :, new], window)
                seen = None
                if mask is not None:
                    seen = torch.cat([mask, mask.new_ones(B, t + 1 - prompt)], 1)[:, -keys.size(2) :]
                    seen = seen.bool()[:, None, None]
                want = attend(q[layer, :, :, new], keys, values, seen, impl=impl)[0]
                torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
            cache.count.add_(1)
        after, expected = cache.unrolled(), growing
        assert after.length == expected.length == TOKENS
        for layer in range(LAYERS):
            for name in ("keys", "values"):
                ours, theirs = (getattr(c.layers[layer], name)[:, :, : c.layers[layer].used] for c in (after, expected))
                kept = TOKENS if window is None else min(TOKENS, window - 1)
                assert torch.equal(ours[:, :, ours.size(2) - kept :], theirs[:, :, theirs.size(2) - kept :])


def test_an_unrolled_cache_goes_on_as_the_growing_one():
    _, k, v = made()
    for window in (None, 4, 30):
        cache, growing = filled(k, v, 6, window), read(k, v, 6, window)
        for t in range(6, 20):
            cache.open()
            for layer in range(LAYERS):
                cache.update(layer, k[layer, :, :, t : t + 1], v[layer, :, :, t : t + 1], window)
                growing.update(layer, k[layer, :, :, t : t + 1], v[layer, :, :, t : t + 1], window)
            cache.count.add_(1)
        cache = cache.unrolled()
        for layer in range(LAYERS):
            last = k[layer, :, :, 20:], v[layer, :, :, 20:], window
            for got, want in zip(cache.update(layer, *last), growing.update(layer, *last), strict=True):
                assert torch.equal(got, want)


def test_opening_and_reading_again_changes_nothing():
    q, k, v = made()
    cache = filled(k, v, 6, 7, left_padded([6, 4, 1], 6))
    for t in range(6, TOKENS):
        outs = []
        for _ in range(3):
            cache.open()
            outs.append(step(cache, 0, q, k, v, t, 7))
        state = [x.clone() for x in (*cache.buffers[0], cache.mask, cache.position_ids, cache.place)]
        cache.open()
        step(cache, 0, q, k, v, t, 7)
        assert all(torch.equal(outs[0], out) for out in outs)
        now = (*cache.buffers[0], cache.mask, cache.position_ids, cache.place)
        assert all(torch.equal(a, b) for a, b in zip(state, now, strict=True))
        cache.count.add_(1)


def addresses(cache: StaticCache) -> list[int]:
    own = cache.mask, cache.count, cache.place, cache.offset, cache.position_ids
    return [x.data_ptr() for x in (*(x for pair in cache.buffers for x in pair), *own)]


def test_memory_stays_where_it_is_while_it_suits():
    q, k, v = made()
    cache = filled(k, v, 6, room=10, cache=StaticCache(19))
    assert cache.length == 18
    cache.step, before = "over these buffers", addresses(cache)
    for prompt, room in ((6, 10), (9, 10), (1, 3)):
        filled(k, v, prompt, mask=left_padded([1, 1, 1], prompt), room=room, cache=cache)
        for t in range(prompt, prompt + room):
            cache.open()
            step(cache, 0, q, k, v, t, None)
            cache.count.add_(1)
        cache.reorder(torch.tensor([1, 0, 0]))
        assert addresses(cache) == before
    assert cache.step == "over these buffers"
    filled(k[:, :2], v[:, :2], 6, cache=cache, room=10)  # another number of texts
    assert cache.step is None


@pytest.mark.parametrize("limit", [None, 1000, 27])
def test_by_itself_it_has_as_many_places_as_are_needed_and_suit_the_kernels(limit):
    _, k, v = made()
    cache = StaticCache()
    cache.fill(read(k, v, 6, None), None, torch.tensor([[6]]), 20, limit)
    assert cache.mask.size(3) == (27 if limit == 27 else 32)
    assert 32 % ALIGNED == 0


@pytest.mark.parametrize("rows", [[2, 0, 1], [1, 1, 0]])
def test_reorder_moves_keys_padding_and_positions(rows):
    q, k, v = made()
    mask = left_padded([6, 4, 1], 6)
    moved, direct = filled(k, v, 6, None, mask), filled(k[:, rows], v[:, rows], 6, None, mask[rows])
    moved.reorder(torch.tensor(rows))
    for cache in (moved, direct):
        cache.open()
    assert torch.equal(moved.position_ids, direct.position_ids)
    assert torch.equal(*(step(cache, 1, q[:, rows], k[:, rows], v[:, rows], 6, None) for cache in (moved, direct)))


def test_what_it_cannot_do_it_refuses():
    _, k, v = made()
    with pytest.raises(ValueError, match="of 9 tokens is too small for 6 that were read and 4 to come: make one of 10"):
        filled(k, v, 6, room=4, cache=StaticCache(9))
    with pytest.raises(ValueError, match="too small"):  # a window of 8 takes 8 places
        filled(k, v, 6, 8, room=4, cache=StaticCache(7))
    cache = filled(k, v, 6, 8, room=40, cache=StaticCache(8))
    with pytest.raises(ValueError, match="one token at a time, not 2"):
        cache.update(0, k[0, :, :, :2], v[0, :, :, :2])
    with pytest.raises(ValueError, match="filled first"):
        StaticCache(5).update(0, k[0, :, :, :1], v[0, :, :, :1])
    with pytest.raises(ValueError, match="does not go back"):
        cache.crop(3)
    for tokens in (0, -3, 2.5, True):
        with pytest.raises(ValueError, match="expected how many it is to hold"):
            StaticCache(tokens)
    counting = read(k, v, 6, None)
    counting.counted = torch.ones(B, 1)
    with pytest.raises(ValueError, match="count tokens by their ids"):
        StaticCache().fill(counting, None, torch.tensor([[6]]), 3)
