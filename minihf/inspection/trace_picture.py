"""A trace of generation as a picture, all in inches: panels of candidates, or the tree of a beam search.

What is long goes on in the next line, as text does, so that letters keep their size. A tree is laid out so that no two
lines cross: its best text goes straight on, and what branches off hangs below everything that branches off later.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minihf.inspection.canvas import FAINT, INK, MARGIN, Canvas, fitting, title
from minihf.inspection.trace_text import beginning, branches, columns, decimal, held, lineage, origin, share, tally
from minihf.inspection.words import short

if TYPE_CHECKING:
    from minihf.inspection.trace_record import Look, Trace

WIDTH = 16.0  # of the picture, unless one step is wider
RULE, BEST, OTHER = "#d5dadf", "#d9480f", "#1864ab"
LONGEST = 16  # of a token, in characters


def draw(trace: "Trace", path: str | Path, text: int) -> None:
    canvas = Canvas()
    render = tree if trace.beams > 1 else panels
    width, height = render(canvas, trace, text)
    canvas.save(path, width, height)


# Without beams: a panel a step

CELL, ROW = 0.56, 0.25
CROSS = "✗ "  # before a guess that was refused


def panels(canvas: Canvas, trace: "Trace", row: int) -> tuple[float, float]:
    looks = [look for look in trace.looks if look.row == row]
    words = {token: short(canvas.clean(trace.word(token)), LONGEST) for look in looks for token in look.tokens}
    label = max([canvas.measure(word, 9, "bold") for word in words.values()], default=0.5) + 0.28
    label += canvas.measure(CROSS, 9) * any(look.refused for look in looks)
    names = columns(trace)
    slope = max(canvas.measure(name, 8) for name in names)  # names lean to the right
    head, overhang = 0.36 + 0.71 * slope, max(0.71 * canvas.measure(names[-1], 8) - CELL / 2 + 0.1, 0.0)
    wide = label + CELL * len(names) + overhang + 0.3
    across = max(1, min(len(looks), int((WIDTH - 2 * MARGIN) / wide)))
    width = max(across * wide + 2 * MARGIN, 6.0)
    y = title(canvas, beginning(trace, row), width, MARGIN - 0.1, color=FAINT)
    y = title(canvas, trace.line([look.chosen[0] for look in looks]), width, y) + 0.2
    for start in range(0, len(looks), across):
        band = looks[start : start + across]
        for i, look in enumerate(band):
            x = MARGIN + i * wide
            panel(canvas, trace, look, words, x, y, label, head)
            if look.guessed is not None:
                below = y + head + len(look.tokens) * ROW + 0.16
                for line, note in enumerate(origin(trace, look).split("; ", 1)):
                    note = fitting(canvas, " ".join(map(canvas.clean, note.split())), 8, wide - 0.2)
                    canvas.text(x, below + 0.17 * line, note, 8, OTHER if look.guessed else FAINT)
        y += head + max(len(look.tokens) for look in band) * ROW
        y += 0.3 if band[0].guessed is None else 0.65
    if said := tally(looks):
        canvas.text(MARGIN, y, said, 8, FAINT)
        y += 0.2
    return width, y + MARGIN - 0.2


def panel(
    canvas: Canvas, trace: "Trace", look: "Look", words: dict[int, str], x: float, y: float, label: float, head: float
) -> None:
    left, top, names = x + label, y + head, columns(trace)
    canvas.text(left - 0.1, top - 0.16, f"{look.step}", 14, FAINT, weight="bold", ha="right")
    for s, name in enumerate(names):
        at = left + (s + 0.5) * CELL
        canvas.text(at, top - 0.05, canvas.clean(name), 8, "#495057", rotation=45, rotation_mode="anchor",
                    ha="left", va="bottom")  # fmt: skip
    for i, token in enumerate(look.tokens):
        middle, picked = top + (i + 0.5) * ROW, token in look.chosen
        weight, color = ("bold", BEST) if picked else ("normal", INK)
        word = words[token] if token not in look.refused[:1] else CROSS + words[token]
        canvas.text(left - 0.1, middle, word, 9, color, ha="right", weight=weight)
        for s in range(len(trace.stages)):
            p, score = look.probabilities[s, i].item(), look.scores[s, i].item()
            cell = left + s * CELL
            gone = score == -float("inf")
            canvas.cell(cell, top + i * ROW, CELL, ROW, "#f6f7f8" if gone else blue(p))
            if not gone:
                canvas.text(cell + CELL / 2, middle, share(p, score), 8, "white" if p > 0.35 else INK, ha="center")
        for s, value in enumerate([] if look.compared is None else look.compared[:, i].tolist(), len(trace.stages)):
            cell = left + s * CELL
            canvas.cell(cell, top + i * ROW, CELL, ROW, "#f6f7f8")
            canvas.text(cell + CELL / 2, middle, decimal(value).replace("-", "−"), 8, ha="center")
        if picked:
            canvas.box(left, top + i * ROW, len(names) * CELL, ROW, fill=False, edgecolor=BEST, linewidth=1.8, zorder=3)


def blue(p: float) -> tuple[float, float, float]:
    """From nearly white to dark blue; its square root, so that small ones differ too."""
    light, dark = (0.93, 0.955, 0.985), (0.06, 0.33, 0.62)
    return tuple(a + (b - a) * p**0.5 for a, b in zip(light, dark, strict=True))


# Beams: a tree

PITCH, HIGH, GAP, ROOT = 0.5, 0.4, 0.42, 0.1  # between rows, of a box, between columns, of the dot at the beginning
KEY = "below a token: the log-probability so far  ·  ■ ended: its score, its rank  ·  grey: not returned"
HELD = "  ·  1 of 2: constraints that are fulfilled, + the next is begun"


@dataclass
class Box:
    """How a node is drawn."""

    word: str
    below: str
    color: str
    weight: str
    fill: str
    line: float


def tree(canvas: Canvas, trace: "Trace", text: int) -> tuple[float, float]:
    ranks, groups = lineage(trace, text), [branches(trace, text, group) for group in range(trace.groups)]
    boxes = {i: box_of(canvas, trace, i, ranks) for children in groups for nodes in children.values() for i in nodes}
    widths = [ROOT] + [0.0] * max((trace.nodes[i].step for i in boxes), default=0)  # of each column
    for i, box in boxes.items():
        said = max(canvas.measure(box.word, 9.5, "bold"), canvas.measure(box.below, 7.5)) + 0.18
        widths[trace.nodes[i].step] = max(widths[trace.nodes[i].step], said)

    bands, step = [], 1
    while step < len(widths):  # each begins with what the last one ended with
        last, total = step, widths[step - 1] + GAP + widths[step]
        while last + 1 < len(widths) and total + GAP + widths[last + 1] <= WIDTH - 2 * MARGIN:
            last += 1
            total += GAP + widths[last]
        bands.append((step, last, total))
        step = last + 1
    width = max([total + 2 * MARGIN for *_, total in bands], default=0.0)
    width = max(width, 7.0)
    y = title(canvas, beginning(trace, text * trace.copies), width, MARGIN - 0.1, color=FAINT)
    at = next((i for i in boxes if trace.nodes[i].rank == 0), None)
    said = []
    while at is not None:
        said.append(trace.nodes[at].token)
        at = trace.nodes[at].parent
    y = title(canvas, trace.line(said[::-1]), width, y) + 0.25
    for group, children in enumerate(groups):
        if trace.groups > 1:
            canvas.text(MARGIN, y, f"group {group}", 11, weight="bold")
            y += 0.3
        y = hang(canvas, trace, children, boxes, ranks, widths, [(first, last) for first, last, _ in bands], y)
    constrained = any(node.progress is not None for node in trace.nodes[:1])
    y = title(canvas, KEY + HELD * constrained, width, y - 0.1, color=FAINT, size=8)
    return width, y + MARGIN - 0.1


def hang(
    canvas: Canvas, trace: "Trace", children: dict[int | None, list[int]], boxes: dict[int, Box], ranks: dict[int, int],
    widths: list[float], bands: list[tuple[int, int]], y: float,
) -> float:  # fmt: skip
    """One tree, in bands from a step to a step; gives where it ends."""
    above: dict[int, int] = {}  # node -> its row in the last band
    for first, last in bands:
        left, at = {}, MARGIN
        for step in range(first - 1, last + 1):
            left[step] = at
            at += widths[step] + GAP
        ends = sorted((i for i in above if trace.nodes[i].step == first - 1 and children.get(i)), key=above.__getitem__)
        begin = children[None] if first == 1 else ends

        def inside(i: int, last: int = last) -> list[int]:
            return children.get(i, []) if trace.nodes[i].step < last else []

        above = layout(begin, inside, lambda i: trace.nodes[i].step)
        if not above:  # it ended sooner than others
            break
        for step in range(first, max(trace.nodes[i].step for i in above) + 1):
            canvas.text(left[step] + widths[step] / 2, y, str(step), 9, FAINT, ha="center", weight="bold")
        band = y + 0.2
        if first == 1:
            canvas.box(left[0], band + (HIGH - ROOT) / 2, ROOT, ROOT, facecolor=BEST, edgecolor="none", zorder=3)
        for i, row in above.items():
            node, again = trace.nodes[i], trace.nodes[i].step < first
            x, top = left[node.step], band + row * PITCH
            put(canvas, boxes[i], x, top, widths[node.step], again)
            if not again:
                start = left[node.step - 1] + widths[node.step - 1]
                style = {"color": boxes[i].color if i in ranks else RULE, "linewidth": boxes[i].line}
                y0 = band + above.get(node.parent, 0) * PITCH + HIGH / 2  # the first begin at the dot
                canvas.curve(start, y0, start, top + HIGH / 2, x, zorder=2 if i in ranks else 1, **style)
        y = band + (max(above.values()) + 1) * PITCH + 0.35
    return y


def box_of(canvas: Canvas, trace: "Trace", i: int, ranks: dict[int, int]) -> Box:
    node = trace.nodes[i]
    word = short(canvas.clean(trace.word(node.token)), LONGEST)
    below = f"{node.score:.2f}"
    if node.final is not None:
        below = f"■ {node.final:#.4g}" + ("" if node.rank is None else f"  #{node.rank + 1}")
    below = below.replace("-", "−") + (f" · {held(node.progress)}" if node.progress is not None else "")
    if ranks.get(i) == 0:
        return Box(word, below, BEST, "bold", "#fff4e6", 2.4)
    if i in ranks:
        return Box(word, below, OTHER, "normal", "#edf5fc", 1.8)
    return Box(word, below, FAINT, "normal", "white", 1.2)


def put(canvas: Canvas, box: Box, x: float, y: float, width: float, again: bool) -> None:
    edge = RULE if box.color == FAINT else box.color
    style = {"linestyle": (0, (2, 2))} if again else {}
    canvas.box(x, y, width, HIGH, facecolor=box.fill, edgecolor=edge, linewidth=1.0, zorder=3, **style)
    canvas.text(x + width / 2, y + 0.135, box.word, 9.5, INK if box.color != FAINT else "#868e96", ha="center",
                weight=box.weight, zorder=4)  # fmt: skip
    canvas.text(x + width / 2, y + 0.295, box.below, 7.5, box.color, ha="center", zorder=4)


def layout(roots: list[int], children: Callable[[int], list[int]], step: Callable[[int], int]) -> dict[int, int]:
    """A row for each node. First children stand beside their parent; the others below all that came before them."""
    offsets: dict[int, int] = {}  # from the parent's row
    depths: dict[int, dict[int, int]] = {}  # node -> step -> the lowest row of its subtree there, from its own

    def stacked(nodes: list[int]) -> dict[int, int]:
        low: dict[int, int] = {}
        for i in nodes:
            own = depths[i]
            offsets[i] = max((low[s] + 1 for s in own if s in low), default=0)
            low.update({s: offsets[i] + row for s, row in own.items()})
        return low

    order, stack = [], [*roots]
    while stack:
        order.append(i := stack.pop())
        stack += children(i)
    for i in reversed(order):  # children first
        depths[i] = {step(i): 0, **stacked(children(i))}
    stacked(roots)
    rows: dict[int, int] = {}
    for i in order:
        rows[i] = rows.get(i, offsets[i])
        for child in children(i):
            rows[child] = rows[i] + offsets[child]
    return rows
