"""Every head of every architecture beside the reference: outputs, loss and every gradient, in float32 and float64.

Twenty lines serve all architectures; what is compared is said in `minihf/inspection/families/`.
"""

import copy
from functools import lru_cache

import pytest
import torch

from minihf.inspection.batches import MASKS, make_batch, takes
from minihf.inspection.compare import TOLERANCES, KeepDouble, compare, run
from minihf.inspection.families import DECODERS, ENCODER_DECODERS, FAMILIES
from minihf.inspection.half import half_precision_errors
from minihf.inspection.pairs import Pair, assert_parity, batches, chunked, heads_of, make_pair, variants_of
from minihf.models.architectures import class_for
from minihf.nn.positions import positions_from_mask

HEADS = [(model_type, name) for model_type in FAMILIES for name in heads_of(model_type)]
VARIANTS = [(*head, v) for head in HEADS for v in variants_of(*head) if v != "plain"]
BASES = [(model_type, name) for model_type, name in HEADS if heads_of(model_type)[name] == "Model"]
CAUSAL = [
    (model_type, name)
    for model_type, name in HEADS
    if class_for(model_type, heads_of(model_type)[name]).can_generate
    or (model_type in DECODERS | ENCODER_DECODERS and (model_type, name) in BASES)
]
# The reference's encoder-decoders take no positions, and count padding on the left.
PADDED = [
    (*head, mask)
    for head in dict.fromkeys(BASES + CAUSAL)
    for mask in ("right", "left")
    if mask == "right" or head[0] not in ENCODER_DECODERS
]


made = lru_cache(maxsize=2)(make_pair)  # the tests of one head follow each other


def pair_of(model_type: str, class_name: str) -> Pair:
    return copy.deepcopy(made(model_type, class_name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("model_type, class_name", HEADS)
def test_a_head_equals_the_reference(model_type, class_name, mask, dtype):
    assert_parity(pair_of(model_type, class_name), dtype, masks=(mask,))


@pytest.mark.parametrize("model_type, class_name, variant", VARIANTS)
def test_an_option_that_changes_the_arithmetic_does_so_as_in_the_reference(model_type, class_name, variant):
    pair = make_pair(model_type, class_name, variants_of(model_type, class_name)[variant], seed=1)
    for dtype in pair.dtypes:
        assert_parity(pair, dtype, masks=("full", "holes"))


@pytest.mark.parametrize("model_type, class_name", HEADS)
def test_inference_by_either_library_equals_the_reference(model_type, class_name, processor):
    pair = pair_of(model_type, class_name).to(torch.float32)
    for name in ("AMD EPYC", "Intel Xeon"):
        processor(name)
        for kind in ("full", "left"):
            for _, batch, others in batches(pair, kind, torch.float32):
                with torch.no_grad():
                    found = compare(run(pair.ours, batch, gradients=False), run(pair.theirs, others, gradients=False))
                assert found.outputs <= TOLERANCES[torch.float32], (name, kind, found.worst)


@pytest.mark.parametrize("mask", ["full", "left"])
@pytest.mark.parametrize("sizes", [(11,), (1,) * 11, (4, 1, 6), (9, 2)])
@pytest.mark.parametrize("model_type, class_name", CAUSAL)
def test_a_text_read_in_pieces_through_the_cache_equals_the_reference_reading_it_at_once(
    model_type, class_name, sizes, mask
):
    pair = pair_of(model_type, class_name).to(torch.float64)
    batch = make_batch(pair.ours, "Model", mask)
    if "attention_mask" in batch and takes(pair.ours, "position_ids"):
        batch["position_ids"] = positions_from_mask(batch["attention_mask"])
    with KeepDouble():
        theirs = pair.theirs.eval()(**batch, use_cache=False)[0]
    ours = chunked(pair.ours.eval(), batch, sizes)
    side = "decoder_" if "decoder_input_ids" in batch else ""
    real = batch.get(side + "attention_mask", torch.ones_like(batch[side + "input_ids"])).bool()
    torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-10)


@pytest.mark.parametrize("model_type, class_name", CAUSAL)
def test_a_future_token_never_changes_the_past(model_type, class_name):
    ours = pair_of(model_type, class_name).ours.double()
    batch = make_batch(ours, "Model", "full")
    before = ours(**batch)[0]
    ids = batch["decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"]
    ids[:, 6] = (ids[:, 6] + 1) % ours.config.vocab_size
    after = ours(**batch)[0]
    # An expert is sent other tokens than before, and of another number of rows MKL may sum in another order: float64.
    torch.testing.assert_close(before[:, :6], after[:, :6], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type, class_name, mask", PADDED)
def test_a_padded_batch_equals_its_rows_one_by_one(model_type, class_name, mask, impl):
    ours = pair_of(model_type, class_name).ours.double()
    ours.set_attn_implementation(impl)
    batch = make_batch(ours, "Model", mask)
    batch["attention_mask"] = batch["attention_mask"].bool().long()
    if not FAMILIES[model_type].positions_from_mask and takes(ours, "position_ids"):  # it would count padding, too
        batch["position_ids"] = positions_from_mask(batch["attention_mask"])
    together = ours(**batch)[0]
    sides = {name: batch[name].bool() for name in batch if name.endswith("attention_mask")}
    for row in range(len(together)):
        reals = {name.removesuffix("attention_mask"): real[row] for name, real in sides.items()}
        alone = {
            name: x[row : row + 1, reals["decoder_" if name.startswith("decoder_") else ""]]
            for name, x in batch.items()
        }
        real = reals.get("decoder_", reals[""])
        torch.testing.assert_close(ours(**alone)[0][0], together[row, real], rtol=0, atol=1e-12)


def test_gpt2_counts_positions_over_the_mask_where_the_reference_counts_padding_too():
    pair = make_pair("gpt2", "GPT2LMHeadModel").to(torch.float64)
    batch = make_batch(pair.ours, "Model", "left")
    real = batch["attention_mask"].bool()
    ours, theirs = pair.ours(**batch).logits, pair.theirs(**batch).logits
    told = pair.theirs(**batch, position_ids=positions_from_mask(batch["attention_mask"])).logits
    assert (ours - theirs)[real].abs().max() > 0.1
    torch.testing.assert_close(ours[real], told[real], rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("impl", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type, class_name", HEADS)
def test_half_precision_errs_at_most_three_times_as_much_as_the_reference(model_type, class_name, impl, dtype):
    pair = pair_of(model_type, class_name).use(impl)
    for name, (ours, theirs) in half_precision_errors(pair, dtype).items():
        assert ours <= 3 * theirs, f"{name}: {ours:.1e} against the reference's {theirs:.1e}"
