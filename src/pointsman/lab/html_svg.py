"""Charts as SVG text: axes, lines, points and heat maps, drawn without any library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import msgspec

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 46
SHADES = 8
"""Steps of a heat map's scale."""
_CHARACTER = 7.5
_MARKS = ("circle", "square", "diamond", "up", "down", "cross")


class Axis(msgspec.Struct, frozen=True):
    """One direction of a chart: what it shows, from where to where."""

    label: str
    low: float
    high: float
    log: bool = False
    percent: bool = False
    rows: bool = False
    """It counts the rows of a heat map, each named at its middle."""

    def at(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high one; kept within."""
        if self.log:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))

    def ticks(self) -> list[float]:
        """Round values on the axis."""
        if self.rows:
            count = round(abs(self.low - self.high))
            return [row + 0.5 for row in range(0, count, 1 + (count - 1) // 16)]
        return _log_ticks(self.low, self.high) if self.log else _even_ticks(self.low, self.high)

    def text(self, value: float) -> str:
        """A tick's label."""
        if self.rows:
            return f"{value - 0.5:g}"
        if self.percent:
            return f"{100 * value:g} %"
        return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


class Series(msgspec.Struct, frozen=True):
    """Points of one policy, in order of x; ``style`` is the policy's number, or -1 for what no policy is."""

    name: str
    style: int
    points: Sequence[tuple[float, float]]
    marks: bool = False
    stairs: bool = False
    """Hold each value until the next point."""


def axis(label: str, values: Sequence[float], *, log: bool = False, percent: bool = False) -> Axis:
    """An axis on which all values fit: from 0 or the decade below, to a round value above."""
    good = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if percent:
        return Axis(label, 0.0, 1.0, percent=True)
    if log:
        low = 10 ** math.floor(math.log10(min(good, default=1.0)))
        high = 10 ** math.ceil(math.log10(max(good, default=10.0)))
        return Axis(label, low, max(high, 10 * low), log=True)
    high = max(good, default=1.0) or 1.0
    step = _step(high)
    return Axis(label, 0.0, step * math.ceil(high / step))


def chart(title: str, x: Axis, y: Axis, body: str, note: str = "") -> str:
    """A figure: title, axes and what is drawn between them."""
    caption = f"<figcaption>{escape(title)}{f'<small>{escape(note)}</small>' if note else ''}</figcaption>"
    return (
        f'<figure>{caption}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{_grid(x, y)}{body}</svg></figure>"
    )


def lines(x: Axis, y: Axis, series: Sequence[Series], *, thin: bool = False) -> str:
    """Each series as a line, with marks if it wants them."""
    drawn = []
    for one in series:
        points = [(_x(x, a), _y(y, b)) for a, b in one.points]
        if not points:
            continue
        path = _stairs(points) if one.stairs else "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        kind = f"{'thin ' if thin else ''}line {_classes(one.style)}"
        drawn.append(f'<path class="{kind}" d="{path}"><title>{escape(one.name)}</title></path>')
        if one.marks:
            drawn += [
                _mark(one.style, at, f"{one.name}: {_value(x, a)}, {_value(y, b)}")
                for at, (a, b) in zip(points, one.points, strict=True)
            ]
    return "".join(drawn)


def scatter(x: Axis, y: Axis, points: Sequence[Series]) -> str:
    """One labelled mark per series, at its first point."""
    drawn = []
    taken: list[tuple[float, float]] = []
    for one in points:
        a, b = one.points[0]
        at = _x(x, a), _y(y, b)
        drawn.append(_mark(one.style, at, f"{one.name}: {_value(x, a)}, {_value(y, b)}"))
        right = at[0] + _CHARACTER * len(one.name) + 10 > WIDTH - RIGHT
        height = at[1] + 4
        while any(abs(height - other) < 12 and abs(at[0] - beside) < 90 for beside, other in taken):
            height += 12
        taken.append((at[0], height))
        anchor, place = ("end", at[0] - 8) if right else ("start", at[0] + 8)
        drawn.append(
            f'<text class="name" x="{place:.1f}" y="{height:.1f}" text-anchor="{anchor}">{escape(one.name)}</text>'
        )
    return "".join(drawn)


def heat_map(rows: Sequence[Sequence[float]], highest: float) -> str:
    """Rows of equally long cells along the x axis, from the top; darker is more.

    Args:
        rows: values of each row.
        highest: the value of the darkest shade.
    """
    height = (HEIGHT - TOP - BOTTOM) / max(1, len(rows))
    width = (WIDTH - LEFT - RIGHT) / max(1, *(len(row) for row in rows))
    paths = [""] * (SHADES + 1)
    for number, row in enumerate(rows):
        top = TOP + number * height
        for column, value in enumerate(row):
            shade = min(SHADES, math.ceil(SHADES * value / highest)) if highest else 0
            if shade:
                left = LEFT + column * width
                paths[shade] += f"M{left:.1f} {top:.1f}h{width + 0.2:.1f}v{height - 1:.1f}h-{width + 0.2:.1f}z"
    return "".join(
        f'<path class="heat" fill-opacity="{shade / SHADES:g}" d="{path}"/>' for shade, path in enumerate(paths) if path
    )


def row_axis(label: str, rows: int) -> Axis:
    """The axis of a heat map's rows, the first at the top."""
    return Axis(label, float(rows), 0.0, rows=True)


def swatch(style: int) -> str:
    """A policy's line and mark, for the legend."""
    line = f'<path class="line {_classes(style)}" d="M1 7h30"/>'
    mark = _mark(style, (16, 7), "") if style >= 0 else ""
    return f'<svg class="swatch" viewBox="0 0 32 14" aria-hidden="true">{line}{mark}</svg>'


def _classes(style: int) -> str:
    if style < 0:
        return "best"
    return f"p{style % 8} d{style // 8 % 3}" + f" s{style}"


def _grid(x: Axis, y: Axis) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [f'<path class="frame" d="M{LEFT} {TOP}V{bottom}H{right}"/>']
    for tick in x.ticks():
        at = _x(x, tick)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{x.text(tick)}</text>')
    for tick in y.ticks():
        at = _y(y, tick)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y.text(tick)}</text>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text class="label" x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
                 f"{escape(x.label)}</text>")  # fmt: skip
    parts.append(f'<text class="label" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">'
                 f"{escape(y.label)}</text>")  # fmt: skip
    return "".join(parts)


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.at(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.at(value) * (HEIGHT - TOP - BOTTOM)


def _value(axis: Axis, value: float) -> str:
    return f"{100 * value:.1f} %" if axis.percent else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _stairs(points: Sequence[tuple[float, float]]) -> str:
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    return path + "".join(f"H{a:.1f}V{b:.1f}" for a, b in points[1:])


def _mark(style: int, at: tuple[float, float], title: str) -> str:
    """A shape of the policy's own, so that colour is not all that tells policies apart."""
    a, b = at
    r = 4.5
    shapes = {
        "circle": f"M{a - r:.1f} {b:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 -{2 * r} 0z",
        "square": f"M{a - 4:.1f} {b - 4:.1f}h8v8h-8z",
        "diamond": f"M{a:.1f} {b - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5-5.5z",
        "up": f"M{a:.1f} {b - 5:.1f}l5 9h-10z",
        "down": f"M{a:.1f} {b + 5:.1f}l5-9h-10z",
        "cross": f"M{a - 5:.1f} {b - 1.5:.1f}h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5z",
    }
    path = shapes[_MARKS[style % len(_MARKS)]]
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f'<path class="mark {_classes(style)}" d="{path}">{inside}</path>'


def _step(span: float, most: int = 5) -> float:
    """A round step that cuts a span in at most so many."""
    raw = span / most
    unit = 10.0 ** math.floor(math.log10(raw))
    return next((unit * factor for factor in (1, 2, 2.5, 5) if unit * factor >= raw * 0.999), 10 * unit)


def _even_ticks(low: float, high: float) -> list[float]:
    step = _step(abs(high - low))
    first, last = sorted((low, high))
    count = math.floor((last - first) / step + 1e-9)
    return [round(first + number * step, 10) for number in range(count + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(round(math.log10(low)), round(math.log10(high)) + 1)
    return [10.0**power for power in decades]
