"""A trace of generation in plain text: a table for each step, and the tree of a beam search in box characters."""

from collections.abc import Iterator
from typing import TYPE_CHECKING
from unicodedata import category, east_asian_width

from minihf.generation.beam_search import NEVER
from minihf.inspection.words import short

if TYPE_CHECKING:
    from minihf.inspection.trace import Look, Node, Trace

LONGEST = 24  # of a token, in characters
PROMPT = 240  # of a prompt, of which the end is shown


def table(trace: "Trace", row: int | None) -> str:
    looks = [look for look in trace.looks if row is None or look.row == row]
    several = trace.beams > 1 or len(trace.prompts) > 1
    lines = []
    for look in looks:
        lines += [heading(trace, look) if several else f"step {look.step}", *block(trace, look), ""]
    return "\n".join(lines[:-1])


def heading(trace: "Trace", look: "Look") -> str:
    if trace.beams == 1:
        return f"step {look.step}, row {look.row}"
    text, rank = divmod(look.row, trace.beams)
    return f"step {look.step}, text {text}, beam {rank} ({look.total:.2f})"


def block(trace: "Trace", look: "Look") -> list[str]:
    """A line a candidate, a column a stage; ▸ marks what was chosen, · what a processor took away."""
    words = [short(trace.word(token), LONGEST) for token in look.tokens]
    names = max(width(word) for word in words)
    lines = [" " * (names + 4) + "".join(f"  {name:>7}" for name in trace.stages)]
    for i, (token, word) in enumerate(zip(look.tokens, words, strict=True)):
        mark = "▸" if token in look.chosen else " "
        stages = zip(trace.stages, look.probabilities[:, i].tolist(), look.scores[:, i].tolist(), strict=True)
        cells = "".join(f"  {share(p, score):>{max(len(name), 7)}}" for name, p, score in stages)
        lines.append(f"  {mark} {word}{' ' * (names - width(word))}{cells}")
    return lines


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


def branches(trace: "Trace", text: int) -> dict[int | None, list[int]]:
    """Of the nodes of a text, parent -> its children: first the one that leads to the best text (where none does, that
    lives longest), then the others, the shortest-lived first, so that they stay close to where they branch off.

    Copies of the first beam, which a search starts with so that there are as many as it wants, are not hypotheses.
    """
    ranks, lives, children = lineage(trace, text), {}, {None: []}
    own = [i for i, node in enumerate(trace.nodes) if node.text == text and (node.score > NEVER / 2 or i in ranks)]
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
    ranks, children = lineage(trace, text), branches(trace, text)
    lines = ["step   score", f"             {beginning(trace, text * trace.copies)}"]

    def walk(nodes: list[int], rest: str) -> Iterator[tuple[int, str]]:
        """The first child goes on below its parent; what branches off comes between them."""
        stack = [(nodes, rest, None)]
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

    for i, lead in walk(children[None], ""):
        node = trace.nodes[i]
        note = fate(node, i in ranks, bool(children.get(i)))
        lines.append(f"{node.step:4}  {node.score:6.2f}  {lead}{short(trace.word(node.token), LONGEST)}{note}")
    return "\n".join(lines)


def fate(node: "Node", returned: bool, goes_on: bool) -> str:
    if node.final is not None:
        what = "not among the best" if node.rank is None else f"best text {node.rank + 1}"
        return f"  ■ ended, {node.final:#.4g}, {what}{', returned' if returned and node.rank is not None else ''}"
    return "" if goes_on else "  ×"
