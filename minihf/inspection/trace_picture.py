"""A trace of generation as a picture, all in inches: panels of candidates, or the tree of a beam search.

What is long goes on in the next line, as text does, so that letters keep their size. A tree is laid out so that no two
lines cross: its best text goes straight on, and what branches off hangs below everything that branches off later.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from minihf.inspection.trace_text import beginning, branches, lineage, share
from minihf.inspection.words import short, visible

if TYPE_CHECKING:
    from minihf.inspection.trace import Look, Trace

WIDTH, MARGIN = 16.0, 0.4  # of the picture, unless one step is wider
INK, FAINT, RULE, BEST, OTHER = "#212529", "#9aa1a9", "#d5dadf", "#d9480f", "#1864ab"
LONGEST = 16  # of a token, in characters
# For letters that matplotlib's own font lacks, those of these that are there.
FONTS = ["Noto Sans CJK JP", "Noto Sans CJK SC", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS"]
FONTS += ["Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji"]


class Canvas:
    """A figure of one size, with its origin at the top left, and the fonts."""

    def __init__(self):
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ModuleNotFoundError as missing:
            raise ModuleNotFoundError('pictures are drawn with matplotlib: pip install "minihf[train]"') from missing
        from matplotlib import font_manager as fonts
        from matplotlib.ft2font import FT2Font

        there = {font.name for font in fonts.fontManager.ttflist}
        self.families = ["DejaVu Sans", *(name for name in FONTS if name in there)]
        files = (fonts.findfont(fonts.FontProperties(family=name)) for name in self.families)
        self.letters = set().union(*(FT2Font(file).get_charmap() for file in files))
        self.figure = Figure(figsize=(1, 1), dpi=100)
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.properties = fonts.FontProperties
        self.cells: list[tuple[float, float, float, float]] = []
        self.colors: list[Any] = []

    def clean(self, text: str) -> str:
        """What no font has, by its number."""
        known = (c if ord(c) in self.letters else c.encode("unicode_escape").decode() for c in visible(text))
        return "".join(known).replace("␣", "␣" if ord("␣") in self.letters else "_")

    def plain(self, text: str) -> str:
        return self.clean(text).replace("␣", " ")

    def measure(self, text: str, size: float, weight: str = "normal") -> float:
        """The width of a line, in inches."""
        renderer = self.figure.canvas.get_renderer()
        font = self.properties(family=self.families, size=size, weight=weight)
        return renderer.get_text_width_height_descent(text, font, ismath=False)[0] / self.figure.dpi

    def text(self, x: float, y: float, text: str, size: float, color: str = INK, **options: Any) -> None:
        options = {"va": "center", "family": self.families, **options}
        self.axes.text(x, y, text, size=size, color=color, parse_math=False, **options)

    def box(self, x: float, y: float, width: float, height: float, **options: Any) -> None:
        from matplotlib.patches import FancyBboxPatch

        self.axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.05", **options))

    def cell(self, x: float, y: float, width: float, height: float, color: Any) -> None:
        self.cells.append((x, y, x + width, y + height))
        self.colors.append(color)

    def curve(self, x0: float, y0: float, x1: float, y1: float, x2: float, **options: Any) -> None:
        """Straight on to x1, then over to y1 at x2."""
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path as Line

        middle = (x1 + x2) / 2
        points = [(x0, y0), (x1, y0), (middle, y0), (middle, y1), (x2, y1)]
        codes = [Line.MOVETO, Line.LINETO, Line.CURVE4, Line.CURVE4, Line.CURVE4]
        self.axes.add_patch(PathPatch(Line(points, codes), fill=False, capstyle="butt", **options))

    def save(self, path: str | Path, width: float, height: float) -> None:
        from matplotlib.collections import PolyCollection

        corners = [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, y0, x1, y1 in self.cells]
        self.axes.add_collection(PolyCollection(corners, facecolors=self.colors, edgecolors="white", linewidths=1.2))
        self.figure.set_size_inches(width, height)
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(height, 0)
        # No picture has 2 ** 16 pixels on a side.
        self.figure.savefig(path, dpi=min(150, 65000 / max(width, height)), facecolor="white")


def draw(trace: "Trace", path: str | Path, text: int) -> None:
    canvas = Canvas()
    render = tree if trace.beams > 1 else panels
    width, height = render(canvas, trace, text)
    canvas.save(path, width, height)


def title(canvas: Canvas, text: str, width: float, y: float, *, color: str = INK, size: float = 13) -> float:
    """Lines of text; gives where they end."""
    em = canvas.measure("n" * 40, size) / 40
    for line in wrap(canvas.plain(text), max(int((width - 2 * MARGIN) / em * 0.98), 20)) or [""]:
        canvas.text(MARGIN, y + 0.14, line, size, color)
        y += 0.28
    return y


# Without beams: a panel a step

CELL, ROW = 0.56, 0.25


def panels(canvas: Canvas, trace: "Trace", row: int) -> tuple[float, float]:
    looks = [look for look in trace.looks if look.row == row]
    words = {token: short(canvas.clean(trace.word(token)), LONGEST) for look in looks for token in look.tokens}
    label = max([canvas.measure(word, 9, "bold") for word in words.values()], default=0.5) + 0.28
    slope = max(canvas.measure(name, 8) for name in trace.stages)  # names lean to the right
    head, overhang = 0.36 + 0.71 * slope, max(0.71 * canvas.measure(trace.stages[-1], 8) - CELL / 2 + 0.1, 0.0)
    wide = label + CELL * len(trace.stages) + overhang + 0.3
    columns = max(1, min(len(looks), int((WIDTH - 2 * MARGIN) / wide)))
    width = max(columns * wide + 2 * MARGIN, 6.0)
    y = title(canvas, beginning(trace, row), width, MARGIN - 0.1, color=FAINT)
    y = title(canvas, trace.line([look.chosen[0] for look in looks]), width, y) + 0.2
    for start in range(0, len(looks), columns):
        band = looks[start : start + columns]
        for i, look in enumerate(band):
            panel(canvas, trace, look, words, MARGIN + i * wide, y, label, head)
        y += head + max(len(look.tokens) for look in band) * ROW + 0.3
    return width, y + MARGIN - 0.2


def panel(
    canvas: Canvas, trace: "Trace", look: "Look", words: dict[int, str], x: float, y: float, label: float, head: float
) -> None:
    left, top, stages = x + label, y + head, len(trace.stages)
    canvas.text(left - 0.1, top - 0.16, f"{look.step}", 14, FAINT, weight="bold", ha="right")
    for s, name in enumerate(trace.stages):
        at = left + (s + 0.5) * CELL
        canvas.text(at, top - 0.05, canvas.clean(name), 8, "#495057", rotation=45, rotation_mode="anchor",
                    ha="left", va="bottom")  # fmt: skip
    for i, token in enumerate(look.tokens):
        middle, picked = top + (i + 0.5) * ROW, token in look.chosen
        weight, color = ("bold", BEST) if picked else ("normal", INK)
        canvas.text(left - 0.1, middle, words[token], 9, color, ha="right", weight=weight)
        for s in range(stages):
            p, score = look.probabilities[s, i].item(), look.scores[s, i].item()
            cell = left + s * CELL
            gone = score == -float("inf")
            canvas.cell(cell, top + i * ROW, CELL, ROW, "#f6f7f8" if gone else blue(p))
            if not gone:
                canvas.text(cell + CELL / 2, middle, share(p, score), 8, "white" if p > 0.35 else INK, ha="center")
        if picked:
            canvas.box(left, top + i * ROW, stages * CELL, ROW, fill=False, edgecolor=BEST, linewidth=1.8, zorder=3)


def blue(p: float) -> tuple[float, float, float]:
    """From nearly white to dark blue; its square root, so that small ones differ too."""
    light, dark = (0.93, 0.955, 0.985), (0.06, 0.33, 0.62)
    return tuple(a + (b - a) * p**0.5 for a, b in zip(light, dark, strict=True))


# Beams: a tree

PITCH, HIGH, GAP, ROOT = 0.5, 0.4, 0.42, 0.1  # between rows, of a box, between columns, of the dot at the beginning
KEY = "below a token: the log-probability so far  ·  ■ ended: its score, its rank  ·  grey: not returned"


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
    ranks, children = lineage(trace, text), branches(trace, text)
    shown = [i for nodes in children.values() for i in nodes]
    boxes = {i: box_of(canvas, trace, i, ranks) for i in shown}
    steps = max((trace.nodes[i].step for i in shown), default=0)
    widths = [ROOT] + [0.0] * steps  # of each column
    for i, box in boxes.items():
        said = max(canvas.measure(box.word, 9.5, "bold"), canvas.measure(box.below, 7.5)) + 0.18
        widths[trace.nodes[i].step] = max(widths[trace.nodes[i].step], said)

    bands, step = [], 1
    while step <= steps:  # each begins with what the last one ended with
        last, total = step, widths[step - 1] + GAP + widths[step]
        while last < steps and total + GAP + widths[last + 1] <= WIDTH - 2 * MARGIN:
            last += 1
            total += GAP + widths[last]
        bands.append((step, last, total))
        step = last + 1
    width = max([total + 2 * MARGIN for *_, total in bands], default=0.0)
    width = max(width, 7.0)
    y = title(canvas, beginning(trace, text * trace.copies), width, MARGIN - 0.1, color=FAINT)
    best = next((i for i in shown if trace.nodes[i].rank == 0), None)
    said, at = [], best
    while at is not None:
        said.append(trace.nodes[at].token)
        at = trace.nodes[at].parent
    y = title(canvas, trace.line(said[::-1]), width, y) + 0.25

    above: dict[int, int] = {}  # node -> its row in the last band
    for first, last, _ in bands:
        left, at = {}, MARGIN
        for step in range(first - 1, last + 1):
            left[step] = at
            at += widths[step] + GAP
        ends = sorted((i for i in above if trace.nodes[i].step == first - 1 and children.get(i)), key=above.__getitem__)
        begin = children[None] if first == 1 else ends

        def inside(i: int, last: int = last) -> list[int]:
            return children.get(i, []) if trace.nodes[i].step < last else []

        above = layout(begin, inside, lambda i: trace.nodes[i].step)
        for step in range(max(first, 1), last + 1):
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
        y = band + (max(above.values(), default=0) + 1) * PITCH + 0.35
    canvas.text(MARGIN, y, KEY, 8, FAINT)
    return width, y + MARGIN


def box_of(canvas: Canvas, trace: "Trace", i: int, ranks: dict[int, int]) -> Box:
    node = trace.nodes[i]
    word = short(canvas.clean(trace.word(node.token)), LONGEST)
    below = f"{node.score:.2f}"
    if node.final is not None:
        below = f"■ {node.final:#.4g}" + ("" if node.rank is None else f"  #{node.rank + 1}")
    below = below.replace("-", "−")
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
