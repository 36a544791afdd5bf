"""What a trace is drawn on: a figure in inches, with letters of many scripts, and lines that go on in the next one."""

from pathlib import Path
from textwrap import wrap
from typing import Any

from minihf.inspection.words import short, visible

MARGIN = 0.4
INK, FAINT = "#212529", "#9aa1a9"
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


def title(canvas: Canvas, text: str, width: float, y: float, *, color: str = INK, size: float = 13) -> float:
    """Lines of text; gives where they end."""
    em = canvas.measure("n" * 40, size) / 40
    for line in wrap(canvas.plain(text), max(int((width - 2 * MARGIN) / em * 0.98), 20)) or [""]:
        canvas.text(MARGIN, y + size * 0.011, line, size, color)
        y += size * 0.0215
    return y


def fitting(canvas: Canvas, text: str, size: float, width: float) -> str:
    """As much of a line as there is room for."""
    most = len(text)
    while most > 1 and canvas.measure(short(text, most), size) > width:
        most -= 1
    return short(text, most)
