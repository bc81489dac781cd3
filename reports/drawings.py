"""Small inline SVG drawings of the page: bars of trigger sizes and strips of scores.

Only numbers made here enter them; colours come from the style sheet through class names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from moth_eval.records import TriggerRecord

from .rows import Row
from .wording import number

BARS_WIDTH, BARS_HEIGHT = 132, 34
STRIP_WIDTH, LANE_HEIGHT = 720, 34
CROWD = 150
"""More dots than this in one lane are drawn smaller."""

_LABEL, _RIGHT = 92, 14
_LANES = (("clean", 0), ("backdoored", 1), ("other", None))


def size_bars(triggers: Sequence[TriggerRecord], suspected: int | None) -> Markup:
    """Bars of the smallest trigger per class, the suspected one marked, invalid ones hollow."""
    best = _smallest_per_class(triggers)
    if not best:
        return Markup("")
    top = max(t.size for t in best.values()) or 1.0
    step = BARS_WIDTH / len(best)
    paths = {"bar": "", "bar-suspected": "", "bar-invalid": ""}
    for place, (target, trigger) in enumerate(sorted(best.items())):
        kind = "bar-suspected" if target == suspected else "bar"
        height = max(2.5 if target == suspected else 1.0, (BARS_HEIGHT - 1) * trigger.size / top)
        wide = max(step - (2 if step > 5 else 0.5 if step > 2 else 0), 0.5)
        bar = f"M{step * place:.2f} {BARS_HEIGHT}v-{height:.2f}h{wide:.2f}v{height:.2f}z"
        paths[kind if trigger.valid else "bar-invalid"] += bar
    drawn = "".join(f'<path class="{k}" d="{d}"/>' for k, d in paths.items() if d)
    text = _bars_text(best, suspected)
    return Markup(  # noqa: S704 - every part is a number or a literal of this module
        f'<svg class="bars" role="img" viewBox="0 0 {BARS_WIDTH} {BARS_HEIGHT}" '
        f'width="{BARS_WIDTH}" height="{BARS_HEIGHT}"><title>{text}</title>{drawn}</svg>'
    )


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Scores to horizontal positions in a strip."""

    low: float
    high: float

    def x(self, score: float) -> float:
        width = STRIP_WIDTH - _LABEL - _RIGHT
        return _LABEL + width * (score - self.low) / ((self.high - self.low) or 1.0)


def score_strip(rows: Sequence[Row], threshold: float | None) -> Markup:
    """One dot per scored model on a line of scores, in lanes by truth, the cut marked."""
    lanes = _by_truth(rows)
    scores = [s for _, lane in lanes for s in lane]
    if not scores:
        return Markup("")
    marks = [*scores, 0.0, *([] if threshold is None else [threshold])]
    scale = _Scale(low=min(marks), high=max(marks))
    height = LANE_HEIGHT * len(lanes)
    parts = [_lane(name, lane, i, scale) for i, (name, lane) in enumerate(lanes)]
    parts.append(_axis(scale, height))
    if threshold is not None:
        parts.append(_cut_line(scale.x(threshold), height, threshold))
    what = ", ".join(f"{len(lane)} {name}" for name, lane in lanes)
    return Markup(  # noqa: S704 - every part is a number or a literal of this module
        f'<svg class="strip" role="img" viewBox="0 -20 {STRIP_WIDTH} {height + 46}">'
        f"<title>Scores of {len(scores)} models ({what}), from {number(min(scores))} to "
        f"{number(max(scores))}</title>{''.join(parts)}</svg>"
    )


def _by_truth(rows: Sequence[Row]) -> list[tuple[str, list[float]]]:
    scored = [(r.score, r.label) for r in rows if r.score is not None]
    lanes = ((name, sorted(s for s, label in scored if label == key)) for name, key in _LANES)
    return [(name, lane) for name, lane in lanes if lane]


def _smallest_per_class(triggers: Sequence[TriggerRecord]) -> dict[int, TriggerRecord]:
    best: dict[int, TriggerRecord] = {}
    for trigger in sorted(triggers, key=lambda t: (not t.valid, t.size)):
        best.setdefault(trigger.target, trigger)
    return best


def _bars_text(best: dict[int, TriggerRecord], suspected: int | None) -> str:
    valid = [t for t in best.values() if t.valid]
    text = f"Trigger size per class, {len(best)} classes, {len(valid)} valid"
    if valid:
        smallest = min(valid, key=lambda t: t.size)
        text += f"; smallest: class {smallest.target} with {number(smallest.size)} px"
    return text + ("" if suspected is None else f"; suspected: class {suspected}")


def _lane(name: str, scores: Sequence[float], index: int, scale: _Scale) -> str:
    middle = LANE_HEIGHT * index + LANE_HEIGHT / 2
    radius = 4 if len(scores) <= CROWD else 2.5
    # A fixed to-and-fro keeps equal scores apart without any randomness.
    dots = "".join(
        f'<circle cx="{scale.x(s):.1f}" cy="{middle + (i * 5 % 7 - 3) * 2.6:.1f}" r="{radius}"/>'
        for i, s in enumerate(scores)
    )
    return (
        f'<text class="lane" x="0" y="{middle + 4}">{name}</text>'
        f'<line class="rail" x1="{_LABEL}" x2="{STRIP_WIDTH - _RIGHT}" y1="{middle}" '
        f'y2="{middle}"/><g class="dots {name}">{dots}</g>'
    )


def _axis(scale: _Scale, height: int) -> str:
    ticks = MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]).tick_values(scale.low, scale.high)
    shown = [t for t in ticks if scale.low <= t <= scale.high]
    return "".join(
        f'<text class="tick" x="{scale.x(t):.1f}" y="{height + 18}">{number(t)}</text>'
        for t in shown
    )


def _cut_line(x: float, height: int, threshold: float) -> str:
    return (
        f'<line class="cut" x1="{x:.1f}" x2="{x:.1f}" y1="-4" y2="{height}"/>'
        f'<text class="cut-text" x="{x:.1f}" y="-9">cut {number(threshold)}</text>'
    )
