"""The critical-difference diagram of several studies, as a plain SVG."""

from __future__ import annotations

import html

from fairtune.evaluation.ranks import MeanRanks
from fairtune.report.figure import BASE, FONT, INK, MUTED, PICK

LEFT, RIGHT, WIDTH = 190.0, 530.0, 720
AXIS, STEP, BAR = 64.0, 24.0, 12.0


def svg(means: MeanRanks, title: str) -> str:
    """Return the diagram: mean ranks on a line, methods that cannot be told apart joined.

    After Demsar 2006. The best method stands on the left.

    Args:
        means: From `evaluation.ranks.compare_methods`.
        title: What is compared; also the alternative text.
    """
    names = list(means.ranks)
    half = (len(names) + 1) // 2
    below = AXIS + 18 + BAR * len(means.alike)
    height = round(below + STEP * half + 16)
    parts = [_axis(len(names)), _critical(means, len(names))]
    for i, name in enumerate(names):
        on_left = i < half
        y = below + STEP * (i if on_left else len(names) - 1 - i)
        parts.append(_method(name, means.ranks[name], _x(means, name), y, left=on_left))
    for i, alike in enumerate(means.alike):
        y = AXIS + 12 + BAR * i
        ends = _x(means, alike[0]) - 4, _x(means, alike[-1]) + 4
        parts.append(
            f'<line x1="{ends[0]:.1f}" y1="{y}" x2="{ends[1]:.1f}" y2="{y}" stroke="{BASE}" '
            'stroke-width="4" stroke-linecap="round"/>'
        )
    told = html.escape(f"{title}: mean ranks " + _told(means), quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{told}" font-family="{html.escape(FONT)}" font-size="13">'
        f'<rect width="{WIDTH}" height="{height}" fill="#FFFFFF"/>'
        f'<text x="16" y="20" fill="{INK}" font-weight="600">{html.escape(title)}</text>'
        + "".join(parts)
        + "</svg>\n"
    )


def _told(means: MeanRanks) -> str:
    ranks = ", ".join(f"{name} {rank:.2f}" for name, rank in means.ranks.items())
    return f"{ranks}; critical difference {means.critical:.2f}"


def _place(rank: float, count: int) -> float:
    return LEFT + (RIGHT - LEFT) * (rank - 1) / (count - 1)


def _x(means: MeanRanks, name: str) -> float:
    return _place(means.ranks[name], len(means.ranks))


def _axis(count: int) -> str:
    drawn = f'<line x1="{LEFT}" y1="{AXIS}" x2="{RIGHT}" y2="{AXIS}" stroke="{INK}"/>'
    for rank in range(1, count + 1):
        x = _place(rank, count)
        drawn += (
            f'<line x1="{x:.1f}" y1="{AXIS - 5}" x2="{x:.1f}" y2="{AXIS}" stroke="{INK}"/>'
            f'<text x="{x:.1f}" y="{AXIS - 9}" fill="{MUTED}" text-anchor="middle">{rank}</text>'
        )
    return drawn


def _critical(means: MeanRanks, count: int) -> str:
    end = min(_place(1 + means.critical, count), WIDTH - 16.0)
    y = AXIS - 30
    return (
        f'<line x1="{LEFT}" y1="{y}" x2="{end:.1f}" y2="{y}" stroke="{PICK}" stroke-width="2"/>'
        f'<text x="{LEFT - 8}" y="{y + 4}" fill="{PICK}" text-anchor="end">critical difference '
        f"{means.critical:.2f}</text>"
    )


def _method(name: str, rank: float, x: float, y: float, *, left: bool) -> str:
    side, anchor = (LEFT - 12, "end") if left else (RIGHT + 12, "start")
    text = side - 4 if left else side + 4
    return (
        f'<path d="M{x:.1f} {AXIS}V{y}H{side}" fill="none" stroke="{MUTED}"/>'
        f'<text x="{text}" y="{y + 4}" fill="{INK}" text-anchor="{anchor}">'
        f"{html.escape(name)} ({rank:.2f})</text>"
    )
