"""A trace of generation in plain text: a table for each step, and the tree of a beam search in box characters."""

from collections.abc import Iterator
from typing import TYPE_CHECKING
from unicodedata import category, east_asian_width

from minihf.generation.beam_search import NEVER
from minihf.generation.constraints import Progress
from minihf.inspection.words import short

if TYPE_CHECKING:
    from minihf.inspection.trace_record import Look, Node, Trace

LONGEST = 24  # of a token, in characters
PROMPT = 240  # of a prompt, of which the end is shown
COMPARED = ["likeness", "score"]  # of contrastive search, what decides beside the probability


def table(trace: "Trace", row: int | None) -> str:
    looks = [look for look in trace.looks if row is None or look.row == row]
    blocks = ["\n".join([heading(trace, look), *block(trace, look)]) for look in looks]
    if said := tally(looks):
        blocks.append(said)
    return "\n\n".join(blocks)


def heading(trace: "Trace", look: "Look") -> str:
    where = f"step {look.step}"
    if trace.beams > 1:
        text, rank = divmod(look.row, trace.beams)
        group, rank = divmod(rank, trace.beams // trace.groups)
        where += f", text {text}{f', group {group}' if trace.groups > 1 else ''}, beam {rank} ({look.total:.2f})"
    elif len(trace.prompts) > 1:
        where += f", row {look.row}"
    return where if look.guessed is None else f"{where}, {origin(trace, look)}"


def origin(trace: "Trace", look: "Look") -> str:
    """Of a token, where some are guessed ahead."""
    refused = " ".join(short(trace.word(token), LONGEST) for token in look.refused)
    return "guessed" if look.guessed else f"the model's own{f'; refused: {refused}' if refused else ''}"


def tally(looks: list["Look"]) -> str:
    """Where tokens are guessed ahead, how many were right."""
    if not looks or looks[0].guessed is None:
        return ""
    guessed, refused = sum(look.guessed for look in looks), sum(len(look.refused) for look in looks)
    return f"guessed: {guessed} of {len(looks)} tokens; refused: {refused} guesses"


def block(trace: "Trace", look: "Look") -> list[str]:
    """A line a candidate, a column a stage."""
    words = [short(trace.word(token), LONGEST) for token in look.tokens]
    names = max(width(word) for word in words)
    lines = [" " * (names + 4) + "".join(f"  {name:>7}" for name in columns(trace))]
    for i, (token, word) in enumerate(zip(look.tokens, words, strict=True)):
        mark = "▸" if token in look.chosen else "✗" if token in look.refused[:1] else " "
        stages = zip(trace.stages, look.probabilities[:, i].tolist(), look.scores[:, i].tolist(), strict=True)
        cells = "".join(f"  {share(p, score):>{max(len(name), 7)}}" for name, p, score in stages)
        if look.compared is not None:
            named = zip(COMPARED, look.compared[:, i].tolist(), strict=True)
            cells += "".join(f"  {decimal(value):>{max(len(name), 7)}}" for name, value in named)
        lines.append(f"  {mark} {word}{' ' * (names - width(word))}{cells}".rstrip())
    return lines


def columns(trace: "Trace") -> list[str]:
    return trace.stages + (COMPARED if any(look.compared is not None for look in trace.looks[:1]) else [])


def decimal(value: float) -> str:
    """A cosine or a score; nothing where there is none, · where the token is impossible."""
    return "" if value != value else "·" if value == -float("inf") else f"{value:.3f}"


def held(progress: Progress) -> str:
    """How many constraints are fulfilled; + where one is begun."""
    begun = progress.current is not None
    return f"{progress.fulfilled} of {progress.fulfilled + len(progress.pending) + begun}{'+' * begun}"


def share(probability: float, score: float) -> str:
    """A probability as a percentage; · where the token is impossible."""
    if score == -float("inf"):
        return "·"
    percent = 100 * probability
    return "<0.1%" if percent < 0.1 else f"{percent:.1f}%" if percent < 99.95 else "100%"


def width(text: str) -> int:
    """How many columns of a terminal."""
    return sum(0 if category(c) in ("Mn", "Me") else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def beginning(trace: "Trace", row: int) -> str:
    """The prompt of a row, or its end."""
    text = trace.line(trace.prompts[row].tolist())
    return text if len(text) <= PROMPT else "…" + text[-PROMPT:]


def branches(trace: "Trace", text: int, group: int = 0) -> dict[int | None, list[int]]:
    """Of a text (and a group), node -> its children: first the one that leads to the best text (where none does, that
    lives longest), then the others, the shortest-lived first, so that they stay close to where they branch off.

    Copies of the first beam, which a search starts with so that there are as many as it wants, are not hypotheses.
    """
    ranks, lives, children = lineage(trace, text), {}, {None: []}
    own = [i for i, node in enumerate(trace.nodes) if (node.text, node.group) == (text, group)]
    own = [i for i in own if trace.nodes[i].score > NEVER / 2 or i in ranks]
    for i in reversed(own):  # parents come first
        node = trace.nodes[i]
        lives[i] = max(lives.get(i, 0), node.step)
        children.setdefault(node.parent, []).append(i)
        if node.parent is not None:
            lives[node.parent] = max(lives.get(node.parent, 0), lives[i])
    last = len(trace.nodes)
    for nodes in children.values():
        main = min(nodes, key=lambda i: (ranks.get(i, last), -lives[i], -trace.nodes[i].score), default=None)
        nodes.sort(key=lambda i: (i != main, lives[i], -trace.nodes[i].score))
    return children


def lineage(trace: "Trace", text: int) -> dict[int, int]:
    """Nodes that lead to texts that are returned -> the rank of the best of these."""
    ranks: dict[int, int] = {}
    for i, node in enumerate(trace.nodes):
        if node.text == text and node.rank is not None and node.rank < trace.returned:
            at: int | None = i
            while at is not None:
                ranks[at] = min(node.rank, ranks.get(at, node.rank))
                at = trace.nodes[at].parent
    return ranks


def tree(trace: "Trace", text: int) -> str:
    ranks, constrained = lineage(trace, text), any(node.progress is not None for node in trace.nodes[:1])
    head = f"step   score{'  holds  ' if constrained else ''}"
    lines = [head.rstrip(), f"{' ' * len(head)}  {beginning(trace, text * trace.copies)}"]
    for group in range(trace.groups):
        children = branches(trace, text, group)
        if trace.groups > 1:
            lines.append(f"group {group}")
        for i, lead in walk(children):
            node = trace.nodes[i]
            note = fate(node, i in ranks, bool(children.get(i)))
            far = f"  {held(node.progress):<7}" if constrained else ""
            lines.append(f"{node.step:4}  {node.score:6.2f}{far}  {lead}{short(trace.word(node.token), LONGEST)}{note}")
    return "\n".join(lines)


def walk(children: dict[int | None, list[int]]) -> Iterator[tuple[int, str]]:
    """Nodes, and what stands before them. The first child goes on below its parent; what branches off comes between."""
    stack: list[tuple[list[int], str, tuple[int, str] | None]] = [(children[None], "", None)]
    while stack:
        nodes, rest, branch = stack.pop()
        if branch is not None:
            yield branch
        if not nodes:
            continue
        main, *others = nodes
        stack.append((children.get(main, []), rest, (main, rest)))
        for i in reversed(others):
            stack.append((children.get(i, []), rest + "│  ", (i, rest + "├─ ")))


def fate(node: "Node", returned: bool, goes_on: bool) -> str:
    if node.final is not None:
        what = "not among the best" if node.rank is None else f"best text {node.rank + 1}"
        return f"  ■ ended, {node.final:#.4g}, {what}{', returned' if returned and node.rank is not None else ''}"
    return "" if goes_on else "  ×"
