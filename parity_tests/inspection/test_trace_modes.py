"""Traces of groups, constraints, contrastive search and guesses: every number beside one computed anew."""

import collections
import copy

import matplotlib.image
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers

import minihf
from minihf import cli
from minihf.generation.beam_search import NEVER
from minihf.generation.guessers import Draft
from minihf.inspection.trace import trace_generation
from minihf.inspection.trace_text import branches
from parity_tests.inspection.test_trace import ENDS, IDS, MASK, V, generated, prefix, raw, traced

WORDS = "<pad> the cat dog sat on mat a ran and slept in sun while it rained , . then who knows why under red house big"
WORDS = f"{WORDS} old tree sang to moon was not very far from there".split()
ONE = {"input_ids": torch.tensor([[5, 9, 11, 4, 5, 9, 11]]), "attention_mask": None}
GROUPS = [
    {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.7, "num_return_sequences": 6},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.9, "early_stopping": True, "length_penalty": 1.6},
    {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 0.4, "early_stopping": "never",
     "length_penalty": -0.6, "repetition_penalty": 1.3, "num_return_sequences": 2},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.4, "suppress_tokens": [*range(3, V)]},
    {"num_beams": 6, "num_beam_groups": 2, "diversity_penalty": 0.6, "num_return_sequences": 5, "early_stopping": True,
     "length_penalty": 2.5, "eos_token_id": [*range(2, V, 3)], "max_new_tokens": 12},
]  # fmt: skip
CONSTRAINED = [
    {"num_beams": 4, "force_words_ids": [[13], [17]], "num_return_sequences": 3},
    {"num_beams": 5, "force_words_ids": [[13, 21], [[17], [23, 12]]], "early_stopping": True, "length_penalty": 1.4},
    {"num_beams": 3, "force_words_ids": [[13, 21, 22, 24, 25], [26, 27]], "repetition_penalty": 1.2},
    {"num_beams": 2, "force_words_ids": [[3]], "num_return_sequences": 2, "early_stopping": True,
     "length_penalty": 2.5, "eos_token_id": [*range(20, V)], "max_new_tokens": 12},
    {"num_beams": 4, "constraints": [minihf.PhrasalConstraint([1])], "suppress_tokens": [*range(3, V)]},
]  # fmt: skip
CONTRASTIVE = [
    {"penalty_alpha": 0.55, "top_k": 4},
    {"penalty_alpha": 0.3, "top_k": 5, "repetition_penalty": 1.4, "bad_words_ids": [[4], [7, 8]]},
    {"penalty_alpha": 0.4, "top_k": 3, "eos_token_id": [25]},
]
GUESSED = [
    {**ONE, "prompt_lookup_num_tokens": 3},
    {**ONE, "prompt_lookup_num_tokens": 4, "do_sample": True, "temperature": 0.7, "top_k": 9},
    {**ONE, "assistant_model": "near", "repetition_penalty": 1.1},
    {**ONE, "assistant_model": "near", "do_sample": True, "top_k": 12},
]


@pytest.fixture(scope="module")
def near(gpt):
    """One that mostly says what `gpt` says."""
    model, noise = copy.deepcopy(gpt), torch.Generator().manual_seed(6)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.04 * torch.randn(p.shape, generator=noise)
    return model


@pytest.fixture(scope="module")
def tokenizer():
    engine = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    return minihf.PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="<pad>")


@pytest.mark.parametrize("family", ["gpt", "t5"])
@pytest.mark.parametrize("way", GROUPS + CONSTRAINED + CONTRASTIVE + GUESSED)
def test_the_result_and_the_draws_are_those_of_generate(family, way, near, request):
    model = request.getfixturevalue(family)
    if "assistant_model" in way:
        way = {**way, "assistant_model": near if family == "gpt" else model}
    full = {**way, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    plain = generated(model, **full)
    drawn = torch.get_rng_state()
    trace = traced(model, **full)
    assert torch.equal(drawn, torch.get_rng_state())
    assert torch.equal(traced(model, **way).result, plain.sequences)
    for name in ("sequences", "sequences_scores", "beam_indices"):
        assert (name in plain) == (name in trace.result)
        assert name not in plain or torch.equal(trace.result[name], plain[name])
    for name in ("scores", "logits"):
        assert all(torch.equal(a, b) for a, b in zip(trace.result[name], plain[name], strict=True))
    assert len(plain.scores) == max(look.step for look in trace.looks)
    for look in trace.looks:
        logits, scores = plain.logits[look.step - 1][look.row], plain.scores[look.step - 1][look.row]
        first = logits.log_softmax(-1) if trace.beams > 1 else logits
        torch.testing.assert_close(look.scores[0], first[look.tokens])
        torch.testing.assert_close(look.scores[-1], scores[look.tokens])
        torch.testing.assert_close(look.probabilities[-1], scores.softmax(-1)[look.tokens])
        assert {*look.chosen} <= {*look.tokens}
        assert scores.argmax() in torch.tensor(look.tokens)
    if trace.beams == 1:
        for row, ids in enumerate(plain.sequences.tolist()):
            chosen = [look.chosen[0] for look in trace.looks if look.row == row]
            new = ids[trace.prompts.size(1) :]
            assert new == chosen + [0] * (len(new) - len(chosen))
            ends = {*way.get("eos_token_id", ENDS)}
            assert len(chosen) == len(new) or chosen[-1] in ends
            assert not {*chosen[:-1]} & ends
    assert str(trace)


def check_tree(trace, plain, way):
    """What holds of any tree: sums, links, and the texts that are its best leaves."""
    size, wanted = trace.beams // trace.groups, trace.returned
    penalty, ends = way.get("length_penalty", 1.0), way.get("eos_token_id", ENDS)
    for i, node in enumerate(trace.nodes):
        above = None if node.parent is None else trace.nodes[node.parent]
        assert (above is None) == (node.step == 1)
        if above is not None:
            assert node.parent < i
            assert (above.text, above.group, above.step, above.row) == (
                node.text, node.group, node.step - 1, node.parent_row,
            )  # fmt: skip
        assert divmod(node.parent_row, size) == (node.text * trace.groups + node.group, node.parent_row % size)
        if node.score > NEVER / 2:
            scores = plain.scores[node.step - 1][node.parent_row]
            total = (0.0 if above is None else above.score) + scores[node.token].item()
            assert node.score == pytest.approx(total, abs=1e-4)
            assert node.final is None or node.final == pytest.approx(node.score / node.step**penalty)
        assert node.rank is None or node.final is not None
    for text in range(len(IDS)):
        own = [i for i, node in enumerate(trace.nodes) if node.text == text and node.rank is not None]
        own.sort(key=lambda i: trace.nodes[i].rank)
        assert [trace.nodes[i].rank for i in own] == [*range(len(own))]
        finals = [trace.nodes[i].final for i in own]
        assert finals == sorted(finals, reverse=True)
        for n, i in enumerate(own[:wanted]):
            at, new = text * wanted + n, prefix(trace, i)
            if new[-1] in ends:
                new[-1] = ends[0]  # whichever it was, it is shown as the first
            ids = plain.sequences[at, IDS.size(1) :].tolist()
            assert ids == new + [0] * (len(ids) - len(new))
            assert trace.nodes[i].final == pytest.approx(plain.sequences_scores[at].item(), rel=1e-5)
            rows = plain.beam_indices[at].tolist()
            assert rows[: len(new)] == [trace.nodes[j].parent_row for j in lineage_of(trace, i)]
    for node in trace.nodes:  # the others that ended were worse, and there was no place left
        if node.final is not None and node.rank is None and node.score > NEVER / 2:
            kept = [n.final for n in trace.nodes if (n.text, n.group) == (node.text, node.group) and n.rank is not None]
            assert len(kept) == size
            assert node.final <= min(kept)
    for look in trace.looks:  # what it chose are the children of its row
        here = [n for n in trace.nodes if (n.step, n.parent_row) == (look.step, look.row)]
        assert sorted(n.token for n in here) == sorted(look.chosen)
        for n in here:
            assert look.total == pytest.approx(0.0 if n.parent is None else trace.nodes[n.parent].score)


def lineage_of(trace, node):
    found = []
    while node is not None:
        found.append(node)
        node = trace.nodes[node].parent
    return found[::-1]


@pytest.mark.parametrize("way", GROUPS)
def test_groups_by_hand(gpt, way):
    full = {**way, "return_dict_in_generate": True, "output_scores": True}
    trace, plain = traced(gpt, **way), generated(gpt, **full)
    check_tree(trace, plain, way)
    groups, size = way["num_beam_groups"], way["num_beams"] // way["num_beam_groups"]
    assert trace.stages[1] == "Diversity"
    assert {node.group for node in trace.nodes} == {*range(groups)}
    lasts = [max(n.step for n in trace.nodes if (n.text, n.group) == (0, group)) for group in range(groups)]
    assert "max_new_tokens" not in way or lasts == [12, 8]  # one is over, and another goes on
    went = {(node.step, node.row): node.token for node in trace.nodes if node.row is not None}
    punished = 0
    for look in trace.looks:
        text, beam = divmod(look.row, way["num_beams"])
        node = next((i for i, n in enumerate(trace.nodes) if (n.step, n.row) == (look.step - 1, look.row)), None)
        ids = IDS[text].tolist() + prefix(trace, node)
        expected = raw(gpt, ids, MASK[text].tolist()).log_softmax(-1)
        torch.testing.assert_close(look.scores[0], expected[look.tokens], atol=1e-4, rtol=1e-4)
        earlier = range(text * way["num_beams"], text * way["num_beams"] + beam // size * size)
        chosen = collections.Counter(went.get((look.step, row), 0) for row in earlier)  # a group that is over pads
        lost = [way["diversity_penalty"] * chosen[token] for token in look.tokens]
        torch.testing.assert_close(look.scores[0] - look.scores[1], torch.tensor(lost), atol=1e-5, rtol=1e-5)
        punished += any(lost)
    assert punished > 3
    if way.get("num_return_sequences") == way["num_beams"]:  # the best of each group is among the texts
        for text in range(len(IDS)):
            for group in range(groups):
                best = min(
                    (i for i, n in enumerate(trace.nodes) if (n.text, n.group) == (text, group) and n.rank is not None),
                    key=lambda i: trace.nodes[i].rank,
                )
                rows = plain.beam_indices[text * 6 : text * 6 + 6]
                first = next(k for k, row in enumerate(rows.tolist()) if row[0] // size == text * groups + group)
                new = prefix(trace, best)
                shown = plain.sequences[text * 6 + first, IDS.size(1) :][: len(new)].tolist()
                assert shown[:-1] == new[:-1]
                assert shown[-1] == (ENDS[0] if new[-1] in ENDS else new[-1])
                children = branches(trace, text, group)
                straight, at = [], None
                while at in children:  # which goes straight down
                    at = children[at][0]
                    straight.append(at)
                assert straight == lineage_of(trace, best)


def test_two_texts_that_are_shown_alike(gpt):
    """Two end tokens after one beam: both are shown as the first, and each has a node of its own."""
    ends = raw(gpt, IDS[0].tolist(), [1] * 4).topk(2).indices.tolist()
    way = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.1, "num_return_sequences": 4,
           "eos_token_id": ends}  # fmt: skip
    plain = generated(gpt, **way, return_dict_in_generate=True, output_scores=True)
    assert plain.sequences[0, 4:6].tolist() == plain.sequences[1, 4:6].tolist() == [ends[0], 0]
    trace = traced(gpt, **way)
    check_tree(trace, plain, way)
    own = [node for node in trace.nodes if (node.text, node.step, node.group) == (0, 1, 0) and node.rank is not None]
    assert [node.token for node in own] == ends


@pytest.mark.parametrize("way", CONSTRAINED)
def test_constraints_by_hand(gpt, way):
    full = {**way, "return_dict_in_generate": True, "output_scores": True}
    trace, plain = traced(gpt, **way), generated(gpt, **full)
    check_tree(trace, plain, way)
    assert len({node.progress.fulfilled for node in trace.nodes}) > 1
    lasts = [max(n.step for n in trace.nodes if n.text == text) for text in range(3)]
    assert "max_new_tokens" not in way or len({*lasts}) == 3  # two are over before the last step
    pushed = 0
    for i, node in enumerate(trace.nodes):
        ids = IDS[node.text].tolist() + prefix(trace, i)
        words = way.get("force_words_ids", [[1]])
        if way is CONSTRAINED[0]:  # single tokens: what is there counts
            assert node.progress.fulfilled == len({13, 17} & {*ids})
            assert node.progress.current is None
        if node.progress.completed:
            for word in words:
                either = word if isinstance(word[0], list) else [word]
                assert any(w == ids[n : n + len(w)] for w in either for n in range(len(ids)))
        if node.progress.current is not None:
            assert any(ids[-1] in (w[:-1] if isinstance(w[0], int) else w[-1]) for w in words)
        assert node.final is None or node.progress.completed or node.rank is not None
        scores = plain.scores[node.step - 1][node.parent_row]
        pushed += (scores > scores[node.token]).sum() >= 2 * way["num_beams"]  # no plain search would take it
    assert pushed > 3 or way in CONSTRAINED[3:]  # where the prompt holds it, or three tokens are all there are


@pytest.mark.parametrize("way", CONTRASTIVE)
def test_contrastive_search_by_hand(gpt, way):
    k, alpha = way["top_k"], way["penalty_alpha"]
    trace = traced(gpt, **way, top=V)
    written = {row: IDS[row][MASK[row].bool()].tolist() for row in range(3)}
    for look in trace.looks:
        ids = written[look.row]
        with torch.no_grad():
            logits = gpt(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(look.scores[0], logits[look.tokens], atol=1e-4, rtol=1e-4)
        if len(trace.stages) == 1:
            torch.testing.assert_close(look.probabilities[0], logits.softmax(-1)[look.tokens], atol=1e-4, rtol=1e-4)
        likeness, values = look.compared
        compared = (~likeness.isnan()).nonzero().flatten().tolist()
        assert {*compared} == {*look.probabilities[-1].topk(k).indices.tolist()} == {*range(k)}
        assert values[k:].isnan().all()
        assert values[:k].tolist() == sorted(values[:k].tolist(), reverse=True)
        for i in compared:
            with torch.no_grad():
                read = gpt(torch.tensor([[*ids, look.tokens[i]]]), output_hidden_states=True).hidden_states[-1][0]
            cosine = F.cosine_similarity(read[-1:], read[:-1]).max()
            torch.testing.assert_close(likeness[i], cosine, atol=1e-4, rtol=1e-4)
            value = (1 - alpha) * look.probabilities[-1][i] - alpha * cosine
            torch.testing.assert_close(values[i], value, atol=1e-4, rtol=1e-4)
        assert look.chosen == look.tokens[:1]
        written[look.row] = ids + look.chosen
    if "eos_token_id" in way:  # a row that is over, beside others
        assert [max(look.step for look in trace.looks if look.row == row) for row in range(3)] == [7, 7, 1]
    few = traced(gpt, penalty_alpha=0.5, top_k=4, prefix_allowed_tokens_fn=lambda text, ids: [11, 12])
    first = few.looks[0]
    assert sorted(first.tokens[:2]) == [11, 12]
    assert few.looks[0].compared[1].tolist().count(-torch.inf) >= 1  # compared, and never chosen


def rounds_of(trace):
    """Looks, cut after each token that is the model's own: a round of guesses each."""
    found = [[]]
    for look in trace.looks:
        found[-1].append(look)
        if not look.guessed:
            found.append([])
    return [looks for looks in found if looks]


def guesses_of(looks):
    return [look.chosen[0] for look in looks if look.guessed] + looks[-1].refused


@pytest.mark.parametrize("way", GUESSED)
def test_guesses_by_hand(gpt, near, way, monkeypatch):
    if "assistant_model" in way:
        way = {**way, "assistant_model": near}
    made, guess = [], Draft.guess

    def heard(self, ids, most):
        guesses, drafts = guess(self, ids, most)
        made.append(guesses.tolist())
        return guesses, drafts

    monkeypatch.setattr(Draft, "guess", heard)
    kept = refused = 0
    for seed in range(4):
        made.clear()
        trace = traced(gpt, seed, **way, max_new_tokens=16, eos_token_id=None)
        ids = ONE["input_ids"][0].tolist()
        for n, looks in enumerate(rounds_of(trace)):
            expected = made[n] if made else lookup(ids, way["prompt_lookup_num_tokens"])
            guesses = guesses_of(looks)
            assert guesses == expected[: len(guesses)]
            assert len(guesses) == len(expected) or len(ids) + len(looks) == 7 + 16  # no room for all
            for look in looks:
                logits = raw(gpt, ids, [1] * len(ids))
                torch.testing.assert_close(look.scores[0], logits[look.tokens], atol=1e-4, rtol=1e-4)
                if "do_sample" not in way:
                    assert look.chosen == [look.tokens[0]]
                if look.refused:
                    assert look.refused[0] in look.tokens
                    assert look.refused[:1] != look.chosen or "do_sample" in way
                assert not (look.guessed and look.refused)
                ids = ids + look.chosen
            kept += sum(look.guessed for look in looks)
            refused += len(looks[-1].refused)
        assert ids == trace.result[0].tolist()
    assert kept > 3
    assert refused > 3


def lookup(ids, number):
    """What follows the first place where the last two tokens stand, or the last one."""
    for size in (2, 1):
        for end in range(size, len(ids)):
            if ids[end - size : end] == ids[-size:]:
                return ids[end : end + number]
    return []


def test_it_stops_among_the_guesses(gpt, tokenizer):
    """Tokens after the last are in no look, and a guess that ends the text was guessed."""
    same = {**ONE, "assistant_model": gpt, "max_new_tokens": 12}
    whole = traced(gpt, **same, eos_token_id=None)
    assert sum(look.guessed for look in whole.looks) > 8
    stopped = traced(gpt, **same, eos_token_id=None, stopping_criteria=[lambda ids, scores: ids.size(1) >= 7 + 2])
    assert [look.chosen for look in stopped.looks] == [look.chosen for look in whole.looks[:2]]
    assert torch.equal(stopped.result[0], whole.result[0, :9])
    end = whole.looks[1].chosen[0]
    ended = traced(gpt, **same, eos_token_id=[end])
    assert ended.looks[-1].chosen == [end]
    assert ended.looks[-1].guessed
    assert ended.result[0].tolist() == ONE["input_ids"][0].tolist() + [look.chosen[0] for look in ended.looks]


def test_the_words_of_groups_and_constraints(gpt, tokenizer):
    trace = traced(gpt, **GROUPS[0], tokenizer=tokenizer)
    lines = trace.tree(1).splitlines()
    assert [line for line in lines if line.startswith("group")] == ["group 0", "group 1", "group 2"]
    assert sum("best text" in line for line in lines) == sum(n.text == 1 and n.rank is not None for n in trace.nodes)
    shown = [(int(line.split()[0]), float(line.split()[1])) for line in lines[2:] if not line.startswith("group")]
    own = [n for n in trace.nodes if n.text == 1 and (n.score > NEVER / 2 or n.rank is not None)]
    assert sorted(shown) == sorted((n.step, float(f"{n.score:.2f}")) for n in own)
    cut = [n for n, line in enumerate(lines) if line.startswith("group")]
    parts = [len(lines[a + 1 : b]) for a, b in zip(cut, [*cut[1:], len(lines)], strict=True)]
    assert parts == [sum(n.group == group for n in own) for group in range(3)]
    assert "step 2, text 1, group 2, beam 1 (" in trace.table()

    trace = traced(gpt, **CONSTRAINED[2], tokenizer=tokenizer)
    head, _, *lines = trace.tree(0).splitlines()
    assert head.split() == ["step", "score", "holds"]
    shown = collections.Counter((int(line[:4]), *line.split()[2:5]) for line in lines)
    own = [n for n in trace.nodes if n.text == 0 and (n.score > NEVER / 2 or n.rank is not None)]
    ending = {True: "+", False: ""}
    assert shown == collections.Counter(
        (n.step, str(n.progress.fulfilled), "of", "2" + ending[n.progress.current is not None]) for n in own
    )
    assert len({line[1:] for line in shown}) > 2
    assert all(line[21:23] == "  " and line[23] != " " for line in lines)  # the trees of all begin in one column


def test_the_words_of_what_was_compared_and_guessed(gpt, near, tokenizer):
    trace = traced(gpt, **CONTRASTIVE[1], tokenizer=tokenizer)
    blocks = trace.table(row=2).split("\n\n")
    for block, look in zip(blocks, [look for look in trace.looks if look.row == 2], strict=True):
        heading, names, *lines = block.splitlines()
        assert heading == f"step {look.step}, row 2"
        assert names.split() == ["model", "repetition", "bad_words", "likeness", "score"]
        for line, pair in zip(lines, look.compared.T.tolist(), strict=True):
            said = line.replace("▸", "").split()[4:]
            assert said == [f"{x:.3f}" for x in pair if x == x]
    trace = traced(gpt, **{**GUESSED[2], "assistant_model": near}, tokenizer=tokenizer, max_new_tokens=16)
    *blocks, last = trace.table().split("\n\n")
    for block, look in zip(blocks, trace.looks, strict=True):
        heading, _, *lines = block.splitlines()
        refused = " ".join(trace.word(token) for token in look.refused)
        own = f"the model's own{f'; refused: {refused}' if refused else ''}"
        assert heading == f"step {look.step}, {'guessed' if look.guessed else own}"
        crossed = [line.split()[1] for line in lines if line.split()[0] == "✗"]
        assert crossed == [trace.word(token) for token in look.refused[:1]]
    guessed, refused = sum(look.guessed for look in trace.looks), sum(len(look.refused) for look in trace.looks)
    assert last == f"guessed: {guessed} of 16 tokens; refused: {refused} guesses"
    assert min(guessed, refused) > 0


@pytest.mark.parametrize("way", [GROUPS[0], CONSTRAINED[0], CONTRASTIVE[1], GUESSED[0]])
@pytest.mark.parametrize("steps", [0, 1, 22])
def test_pictures(gpt, tokenizer, way, steps, tmp_path, recwarn):
    trace = traced(gpt, **way, max_new_tokens=steps, tokenizer=tokenizer, eos_token_id=None)
    trace.draw(tmp_path / "trace.png", text=0)
    pixels = matplotlib.image.imread(tmp_path / "trace.png")[..., :3]
    border = torch.tensor((pixels < 0.98).any(-1))
    assert not border[:8].any() | border[-8:].any() | border[:, :8].any() | border[:, -8:].any()  # nothing is cut off
    orange = (abs(pixels - [0xD9 / 255, 0x48 / 255, 0x0F / 255]) < 0.02).all(-1)
    assert orange.sum() > 500 * steps**0.5 or not steps
    assert str(trace) or not steps
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_the_command(gpt, near, tokenizer, tmp_path, capsys):
    for model, name in ((gpt, "gpt"), (near, "near")):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    text = "the cat sat on the mat and the cat"
    command = ["trace", str(tmp_path / "gpt"), text, "--max-new-tokens", "5"]
    for options, settings in (
        ("--num-beams 4 --num-beam-groups 2 --diversity-penalty 0.9 --num-return-sequences 2",
         {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.9, "num_return_sequences": 2}),
        ("--num-beams 3 --force-word moon --force-word sun", {"num_beams": 3, "force_words_ids": [[30], [12]]}),
        ("--penalty-alpha 0.6 --top-k 4", {"penalty_alpha": 0.6, "top_k": 4}),
        ("--prompt-lookup-num-tokens 3", {"prompt_lookup_num_tokens": 3}),
        (f"--assistant-model {tmp_path / 'near'}", {"assistant_model": near}),
    ):  # fmt: skip
        assert cli.main([*command, *options.split()]) == 0
        torch.manual_seed(0)
        same = trace_generation(gpt, text, tokenizer, max_new_tokens=5, **settings)
        assert capsys.readouterr().out == f"{same}\n"
    assert cli.main([*command, "--num-beams", "4", "--num-beam-groups", "2"]) == 2
    assert "diversity_penalty" in capsys.readouterr().err


def test_an_encoder_writes_nothing(tmp_path, capsys):
    sizes = {"vocab_size": V, "hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 1}
    minihf.BertForMaskedLM(minihf.BertConfig(**sizes, intermediate_size=16)).save_pretrained(tmp_path / "bert")
    small = minihf.DistilBertConfig(vocab_size=V, dim=12, n_heads=3, n_layers=1, hidden_dim=16)
    minihf.DistilBertModel(small).save_pretrained(tmp_path / "distilbert")
    for name in ("bert", "distilbert"):
        assert cli.main(["trace", str(tmp_path / name), "a text"]) == 2
        said = capsys.readouterr().err
        assert f"{name} is an encoder ({name})" in said
        assert "such as gpt2" in said
        assert "newly initialised" not in said
