"""Traces of generation: every number beside one computed by hand from raw logits, without a cache or a processor."""

import itertools

import matplotlib.image
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import minihf
from minihf import cli
from minihf.generation.beam_search import NEVER
from minihf.inspection.trace import Trace, trace_generation
from minihf.inspection.trace_picture import layout
from minihf.inspection.trace_text import branches, lineage
from minihf.inspection.words import word
from parity_tests.inspection.conftest import V

SMALL = {"vocab_size": V, "max_length": 40, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}


@pytest.fixture(scope="module")
def tokenizer():
    """A token a byte, and two long ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:33]
    vocab = {token: i for i, token in enumerate([*alphabet, "Ġthe", "æĿ±", "å¤", "$internationalisation_of^things$"])}
    engine = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    return minihf.PreTrainedTokenizerFast(tokenizer_object=engine, pad_token=alphabet[0])


IDS = torch.tensor([[5, 9, 11, 4], [0, 0, 7, 8], [3, 3, 2, 6]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
PROMPTS = {"input_ids": IDS, "attention_mask": MASK, "pad_token_id": 0}
ENDS = [2, 8, 14, 19, 30]
WAYS = [
    {},
    {"do_sample": True, "temperature": 0.7, "top_k": 9, "top_p": 0.9, "num_return_sequences": 2},
    {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "bad_words_ids": [[4], [7, 8]], "min_new_tokens": 3,
     "sequence_bias": {(5,): 2.0}, "forced_eos_token_id": 2, "suppress_tokens": [20, 21]},
    {"guidance_scale": 1.5},
    {"num_beams": 3},
    {"num_beams": 4, "num_return_sequences": 3, "early_stopping": True, "length_penalty": 1.3},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": -0.6, "repetition_penalty": 1.3},
    {"num_beams": 3, "do_sample": True, "top_k": 7, "temperature": 1.5, "renormalize_logits": True},
    {"num_beams": 2, "eos_token_id": None, "no_repeat_ngram_size": 1},
]  # fmt: skip


def traced(model, seed: int = 3, **settings) -> Trace:
    torch.manual_seed(seed)
    return trace_generation(model, **{"max_new_tokens": 7, "eos_token_id": ENDS, **PROMPTS, **settings})


def generated(model, seed: int = 3, **settings):
    torch.manual_seed(seed)
    return model.generate(**{"max_new_tokens": 7, "eos_token_id": ENDS, **PROMPTS, **settings})


def prefix(trace: Trace, node: int | None) -> list[int]:
    """The new tokens up to a node."""
    tokens = []
    while node is not None:
        tokens.append(trace.nodes[node].token)
        node = trace.nodes[node].parent
    return tokens[::-1]


def raw(model, ids: list[int], mask: list[int]) -> torch.Tensor:
    """What the model says comes next, of one text alone, its padding taken off."""
    with torch.no_grad():
        return model(torch.tensor([ids[mask.count(0) :]])).logits[0, -1]


@pytest.mark.parametrize("family", ["gpt", "t5"])
@pytest.mark.parametrize("way", WAYS)
def test_the_result_is_that_of_generate(family, way, request):
    model = request.getfixturevalue(family)
    if "guidance_scale" in way and family == "t5":
        way = {"encoder_repetition_penalty": 1.5, "encoder_no_repeat_ngram_size": 2}
    full = {**way, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    trace, plain = traced(model, **full), generated(model, **full)
    assert torch.equal(trace.result.sequences, plain.sequences)
    assert torch.equal(traced(model, **way).result, plain.sequences)
    assert len(trace.result.scores) == len(plain.scores) == max(look.step for look in trace.looks)
    for look in trace.looks:  # the first stage is what the model gave, the last what was chosen from
        logits, scores = plain.logits[look.step - 1][look.row], plain.scores[look.step - 1][look.row]
        first = logits.log_softmax(-1) if trace.beams > 1 else logits
        torch.testing.assert_close(look.scores[0], first[look.tokens])
        torch.testing.assert_close(look.scores[-1], scores[look.tokens])
        torch.testing.assert_close(look.probabilities[-1], scores.softmax(-1)[look.tokens])
        assert scores.argmax() in torch.tensor(look.tokens)
        assert logits.argmax() in torch.tensor(look.tokens)
        assert {*look.chosen} <= {*look.tokens}
    if trace.beams == 1:
        for row, ids in enumerate(plain.sequences.tolist()):
            chosen = [look.chosen[0] for look in trace.looks if look.row == row]
            new = ids[trace.prompts.size(1) :]
            assert new[: len(chosen)] == chosen  # then padding
            assert {*new[len(chosen) :]} <= {0}
            assert len(chosen) == len(new) or chosen[-1] in ENDS
            assert not {*chosen[:-1]} & {*ENDS}
    else:
        assert trace.result.beam_indices.equal(plain.beam_indices)


def test_stages_by_hand(gpt):
    """Each processor's arithmetic, from logits of the text so far, read anew."""
    trace = traced(gpt, do_sample=True, repetition_penalty=1.7, temperature=0.6, top_k=6, top_p=0.8, top=4)
    assert trace.stages == ["model", "repetition", "temperature", "top_k", "top_p"]
    written = {row: IDS[row].tolist() for row in range(3)}
    for look in trace.looks:
        ids = written[look.row]
        logits = raw(gpt, ids, MASK[look.row].tolist())
        seen = torch.tensor(sorted({*ids[MASK[look.row].tolist().count(0) :]}))
        stages = [logits, logits.clone()]
        stages[1][seen] = torch.where(logits[seen] < 0, logits[seen] * 1.7, logits[seen] / 1.7)
        stages.append(stages[1] / 0.6)
        sixth = stages[2].sort(descending=True).values[5]
        stages.append(stages[2].masked_fill(stages[2] < sixth, -torch.inf))
        p, order = stages[3].softmax(-1).sort(descending=True)
        nucleus = order[: int((p.cumsum(-1) < 0.8).sum()) + 1]
        stages.append(torch.full_like(logits, -torch.inf).index_copy(0, nucleus, stages[3][nucleus]))
        for stage, scores, shares in zip(stages, look.scores, look.probabilities, strict=True):
            torch.testing.assert_close(scores, stage[look.tokens], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(shares, stage.softmax(-1)[look.tokens], atol=1e-4, rtol=1e-4)
        best = [stage.topk(4) for stage in stages]
        possible = {int(i) for b in best for v, i in zip(b.values, b.indices, strict=True) if v > -torch.inf}
        assert {*look.tokens} == possible | {*look.chosen}
        last = look.scores[-1].tolist()
        assert last == sorted(last, reverse=True)
        written[look.row] = ids + look.chosen
    assert [*written.values()] == [
        row[: len(w)].tolist() for row, w in zip(trace.result, written.values(), strict=True)
    ]


@pytest.mark.parametrize("way", [way for way in WAYS if "num_beams" in way])
def test_the_tree_by_hand(gpt, way):
    trace = traced(gpt, **way)
    plain = generated(gpt, **way, return_dict_in_generate=True, output_scores=True)
    beams, wanted = way["num_beams"], way.get("num_return_sequences", 1)
    penalty = way.get("length_penalty", 1.0)
    for i, node in enumerate(trace.nodes):
        assert node.parent is None if node.step == 1 else node.parent < i
        parent = 0.0
        if node.parent is not None:
            above = trace.nodes[node.parent]
            assert (above.text, above.step, above.row) == (node.text, node.step - 1, node.parent_row)
            parent = above.score
        # The sum, from scores of the row that it was chosen from.
        scores = plain.scores[node.step - 1][node.parent_row]
        if node.score > NEVER / 2:
            assert node.score == pytest.approx(parent + scores[node.token].item(), abs=1e-4)
        assert node.final is None or node.final == pytest.approx(node.score / node.step**penalty)
        assert node.rank is None or node.final is not None
    if not {"do_sample", "repetition_penalty", "no_repeat_ngram_size"} & {*way}:  # log-probabilities, nothing else
        for i, node in enumerate(trace.nodes):
            if node.score > NEVER / 2:
                ids, total = IDS[node.text].tolist(), 0.0
                for token in prefix(trace, i):
                    total += raw(gpt, ids, MASK[node.text].tolist()).log_softmax(-1)[token].item()
                    ids.append(token)
                assert node.score == pytest.approx(total, abs=1e-3)
    for text in range(3):
        own = [i for i, node in enumerate(trace.nodes) if node.text == text]
        best = sorted((i for i in own if trace.nodes[i].rank is not None), key=lambda i: trace.nodes[i].rank)
        assert [trace.nodes[i].rank for i in best] == [*range(len(best))]
        assert wanted <= len(best) <= beams
        finals = [trace.nodes[i].final for i in best]
        assert finals == sorted(finals, reverse=True)
        for i, sequence, score in zip(
            best[:wanted],
            plain.sequences[text * wanted :],
            plain.sequences_scores[text * wanted :].tolist(),
            strict=False,
        ):
            new = prefix(trace, i)
            assert sequence[4 : 4 + len(new)].tolist() == new
            assert trace.nodes[i].final == pytest.approx(score, rel=1e-5)
        for step in {trace.nodes[i].step for i in own}:  # as many beams as there are, each once
            rows = [trace.nodes[i].row for i in own if trace.nodes[i].step == step and trace.nodes[i].row is not None]
            assert sorted(rows) in ([], [*range(text * beams, (text + 1) * beams)])
        assert all(trace.nodes[i].row is None for i in own if trace.nodes[i].step == 7)  # nothing goes on
        steps = max(trace.nodes[i].step for i in own)
        for step in range(1, steps + 1) if "do_sample" not in way else ():  # of all candidates, the best may end
            looks = [look for look in trace.looks if (look.step, look.row // beams) == (step, text)]
            totals = torch.cat([look.total + plain.scores[step - 1][look.row] for look in looks])
            least = totals.sort(descending=True).values[beams - 1].item()
            here = [trace.nodes[i] for i in own if trace.nodes[i].step == step]
            assert all(n.score > least - 1e-5 for n in here if n.final is not None and n.score > NEVER / 2)
    # What a look chose are the children of its row; its total is that row's.
    for look in trace.looks:
        here = [n for n in trace.nodes if (n.text, n.step, n.parent_row) == (look.row // beams, look.step, look.row)]
        assert sorted(n.token for n in here) == sorted(look.chosen)
        for n in here:
            assert look.total == pytest.approx(0.0 if n.parent is None else trace.nodes[n.parent].score)


def test_a_text_that_is_over_grows_no_further(gpt):
    trace = traced(gpt, num_beams=2, early_stopping=True, eos_token_id=[*range(2, V, 3)], max_new_tokens=15)
    lasts = [max(n.step for n in trace.nodes if n.text == text) for text in range(3)]
    assert len({*lasts}) > 1
    for text, last in enumerate(lasts):
        ends = [n.step for n in trace.nodes if n.text == text and n.final is not None]
        assert sum(step < last for step in ends) < 2 <= len(ends)
        assert max(look.step for look in trace.looks if look.row // 2 == text) == last


def test_nothing_crosses_and_nothing_overlaps(gpt):
    trace = traced(gpt, num_beams=6, max_new_tokens=20, length_penalty=2.0, num_return_sequences=2)
    for text in range(3):
        children, ranks = branches(trace, text), lineage(trace, text)
        rows = layout(children[None], lambda i, c=children: c.get(i, []), lambda i: trace.nodes[i].step)
        assert {*rows} == {i for nodes in children.values() for i in nodes}
        assert len({(trace.nodes[i].step, row) for i, row in rows.items()}) == len(rows)
        for a, b in itertools.combinations(rows, 2):  # two lines between the same columns
            x, y = trace.nodes[a], trace.nodes[b]
            if x.step == y.step and x.parent != y.parent:
                assert (rows[a] < rows[b]) == (rows[x.parent] < rows[y.parent])
        assert {rows[i] for i, rank in ranks.items() if rank == 0} == {0}  # the best goes straight on


def test_own_processors_and_their_names(gpt):
    class Favourite:
        def __call__(self, ids, scores):
            scores[:, 17] += 3.0  # in place: it may
            return scores

    def plain(ids, scores):
        return scores * 2

    own = [Favourite(), plain, minihf.LogitsProcessorList([plain])]
    trace = traced(gpt, logits_processor=own, bad_words_ids=[[5]], exponential_decay_length_penalty=(2, 1.5))
    assert trace.stages == ["model", "bad_words", "exponential_decay", "Favourite", "plain", "LogitsProcessorList"]
    look = trace.looks[0]
    i = look.tokens.index(17)
    assert look.scores[3, i] == look.scores[2, i] + 3
    assert torch.equal(look.scores[4], look.scores[3] * 2)
    look = traced(gpt, logits_processor=own[:1]).looks[0]
    assert look.scores[1, look.tokens.index(17)] == look.scores[0, look.tokens.index(17)] + 3
    assert torch.equal(trace.result, generated(gpt, logits_processor=own, bad_words_ids=[[5]],
                                               exponential_decay_length_penalty=(2, 1.5)))  # fmt: skip


def test_texts_embeddings_and_a_single_row(gpt, t5, tokenizer):
    texts = ["!$'", "\"#$%&'()"]
    batch = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    same = {"max_new_tokens": 4, "pad_token_id": 0}
    trace = trace_generation(gpt, texts, tokenizer, **same)
    assert torch.equal(trace.result, gpt.generate(**batch, **same))
    assert trace.looks[1].chosen == [int(trace.result[1, -4])]
    right = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    assert torch.equal(trace_generation(t5, texts, tokenizer, **same).result, t5.generate(**right, **same))
    alone = trace_generation(gpt, texts[0], tokenizer, top=100, **same)
    assert torch.equal(alone.result[0, -4:], trace.result[0, -4:])
    assert sorted(alone.looks[0].tokens) == [*range(V)]
    embeds = gpt.get_input_embeddings()(IDS)
    for beams in (1, 3):
        trace = traced(gpt, input_ids=None, inputs_embeds=embeds, num_beams=beams)
        assert torch.equal(trace.result, generated(gpt, input_ids=None, inputs_embeds=embeds, num_beams=beams))
        assert str(trace)
    assert traced(gpt, max_new_tokens=0).looks == traced(gpt, max_new_tokens=0, num_beams=2).nodes == []


def test_words(tokenizer):
    assert [word(tokenizer, token) for token in (0, 33, 34, 35, 99)] == ["!", "␣the", "東", "⟨E5-A4⟩", "#99"]
    assert word(None, 7) == "#7"


def test_the_table_says_the_numbers(gpt, tokenizer):
    trace = traced(gpt, **PROMPTS, tokenizer=tokenizer, do_sample=True, top_k=3, temperature=0.5)
    blocks = trace.table(row=2).split("\n\n")
    looks = [look for look in trace.looks if look.row == 2]
    for block, look in zip(blocks, looks, strict=True):
        heading, names, *lines = block.splitlines()
        assert heading == f"step {look.step}, row 2"
        assert names.split() == ["model", "temperature", "top_k"]
        for line, token, shares, scores in zip(lines, look.tokens, look.probabilities.T, look.scores.T, strict=True):
            *name, a, b, c = line.split()
            assert (name[0] == "▸") == (token in look.chosen)
            assert name[-1] == trace.word(token)[:23] + "…" * (len(trace.word(token)) > 24)
            for cell, p, score in zip((a, b, c), shares.tolist(), scores.tolist(), strict=True):
                said = {"·": 0.0, "<0.1%": 0.0005}.get(cell) or float(cell.strip("<%·") or 0) / 100
                assert said == pytest.approx(p, abs=6e-4)
                assert (cell == "·") == (score == -torch.inf)
    assert str(trace) == trace.table()


def test_the_tree_says_every_hypothesis(gpt):
    trace = traced(gpt, num_beams=4, num_return_sequences=2)
    for text in range(3):
        _, _, *lines = trace.tree(text).splitlines()
        shown = [(int(line.split()[0]), float(line.split()[1])) for line in lines]
        own = [n for n in trace.nodes if n.text == text and (n.score > NEVER / 2 or n.rank is not None)]
        assert sorted(shown) == sorted((n.step, float(f"{n.score:.2f}")) for n in own)
        assert sum("returned" in line for line in lines) == 2
        straight = [line.split()[2] for line in lines if "─" not in line and "│" not in line]
        best = next(i for i, n in enumerate(trace.nodes) if n.text == text and n.rank == 0)
        assert straight == [f"#{token}" for token in prefix(trace, best)]
    assert str(trace).count("step   score") == 3


@pytest.mark.parametrize("way", [{"do_sample": True, "top_k": 3}, {"num_beams": 8, "num_return_sequences": 2}, {}])
@pytest.mark.parametrize("steps", [0, 1, 12])
def test_pictures(gpt, tokenizer, way, steps, tmp_path, recwarn):
    trace = traced(gpt, max_new_tokens=steps, tokenizer=tokenizer, eos_token_id=None, **way)
    trace.draw(tmp_path / "trace.png", text=2)
    pixels = matplotlib.image.imread(tmp_path / "trace.png")[..., :3]
    ink = (pixels < 0.98).any(-1)
    border = torch.tensor(ink)
    assert not border[:8].any() | border[-8:].any() | border[:, :8].any() | border[:, -8:].any()  # nothing is cut off
    orange = (abs(pixels - [0xD9 / 255, 0x48 / 255, 0x0F / 255]) < 0.02).all(-1)
    if steps:
        assert ink.mean() > 0.02
        assert orange.sum() > 500 * steps**0.5  # what was chosen
    assert not [w for w in recwarn if "Glyph" in str(w.message)]  # every letter was in a font


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"top": 0}, "1 or more, not 0"),
        ({"top": 2.5}, "1 or more, not 2.5"),
        ({"top": True}, "1 or more, not True"),
        ({"streamer": print}, "generate alone takes 'streamer'"),
        ({"input_ids": None, "inputs": [5, 7]}, "ids as a tensor, or text"),
        ({"num_baems": 3}, "num_beams"),
        ({"input_ids": None, "inputs": "a text"}, "pass the tokenizer"),
    ],
)
def test_refusals(gpt, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        traced(gpt, **settings)


def test_more_refusals(gpt, tmp_path, monkeypatch):
    trace = traced(gpt)
    with pytest.raises(ValueError, match="set num_beams"):
        trace.tree()
    with pytest.raises(ValueError, match="no row 3: the rows are 0 to 2"):
        trace.draw(tmp_path / "x.png", text=3)
    with pytest.raises(ValueError, match="no text 3: the texts are 0 to 2"):
        traced(gpt, num_beams=2).tree(3)
    with pytest.raises(TypeError, match="AutoModelForCausalLM"):
        trace_generation(gpt.transformer, IDS)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ModuleNotFoundError, match=r"minihf\[train\]"):
        trace.draw(tmp_path / "x.png")


def test_the_command(gpt, tokenizer, tmp_path, capsys):
    gpt.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    command = ["trace", str(tmp_path), "!$'", "--max-new-tokens", "5"]
    assert cli.main([*command, "--num-beams", "3", "--png", str(tmp_path / "tree.png")]) == 0
    assert (tmp_path / "tree.png").stat().st_size > 5000
    same = trace_generation(gpt, "!$'", tokenizer, max_new_tokens=5, num_beams=3)
    assert capsys.readouterr().out == f"{same}\n"
    assert cli.main([*command, "--do-sample", "--top-k", "4", "--temperature", "0.8", "--seed", "9"]) == 0
    torch.manual_seed(9)
    same = trace_generation(gpt, "!$'", tokenizer, max_new_tokens=5, do_sample=True, top_k=4, temperature=0.8)
    assert capsys.readouterr().out == f"{same}\n"
    assert cli.main([*command, "--num-beams", "0"]) == 2
    assert "num_beams" in capsys.readouterr().err
