"""The paper's figure 3 from our collectives model: communication volume of feed-forward layouts by batch.

Run from the repository's root: ``python -m bench.fig3 [--figure OUT.svg]``.

The volumes are not the paper's formulas: `autoshard.cost.paper.model_volume_bytes` takes the tensors of the
layer through each layout and adds up what the reshard model moves. They are then set against the formulas'
values and against the points read out of the figure (`data/fig3_comm_volume_GB.csv`; arXiv:2211.05102,
fig. 3; E=16384, F=65536, X=Y=Z=4, bfloat16), and the crossovers against the paper's. The paper divides
volumes by one bandwidth for all axes; the last column gives the crossover in *time* on a v4 torus, where a
collective has only the links of the axes on which it runs.
"""

import argparse
import csv
import math
from collections.abc import Callable
from pathlib import Path

from autoshard.cost.paper import (
    FeedForward,
    closed_form_crossovers,
    crossover_tokens,
    model_collectives,
    model_volume_bytes,
)
from autoshard.cost.slices import parse_slice
from autoshard.cost.torus import native_mesh

D_MODEL, D_FF = 16384, 65536
SLICE = parse_slice("v4:4x4x4")
DATA = Path(__file__).parent / "data" / "fig3_comm_volume_GB.csv"
COLUMNS = {
    "ws": FeedForward.WS_2D,
    "x_wg": FeedForward.WG_X,
    "xy_wg": FeedForward.WG_XY,
    "xyz_wg": FeedForward.WG_XYZ,
}
COLOURS = {"ws": "#1f77b4", "x_wg": "#ff7f0e", "xy_wg": "#2ca02c", "xyz_wg": "#d62728"}


def main() -> None:
    """Print the table and the crossovers; write the figure if asked."""
    parser = argparse.ArgumentParser(description="communication volume of the paper's feed-forward layouts")
    parser.add_argument("--figure", type=Path, help="write the figure to this SVG file")
    figure = parser.parse_args().figure
    rows = read_points()
    print_table(rows)
    print_crossovers()
    if figure is not None:
        figure.write_text(svg(rows))
        print(f"\nfigure: {figure}")


def read_points() -> list[dict[str, float]]:
    """The published points, one row per number of tokens, volumes in GB."""
    with DATA.open() as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def volume_gb(layout: FeedForward, tokens: float) -> float:
    """Model volume of the layer per chip, in GB (1e9 bytes)."""
    return model_volume_bytes(layout, tokens, D_MODEL, D_FF, SLICE) / 1e9


def ici_seconds(layout: FeedForward, tokens: float) -> float:
    """Model time of the layer's collectives on the slice."""
    found = model_collectives(layout, tokens, D_MODEL, D_FF, native_mesh(SLICE))
    return sum(collective.seconds for collective in found)


def print_table(rows: list[dict[str, float]]) -> None:
    """Model volumes beside the largest relative differences to formula and figure."""
    print(f"volume per chip in GB, one feed-forward layer, E={D_MODEL} F={D_FF} bfloat16 on {SLICE.name}")
    header = "".join(f"{layout:>10}" for layout in COLUMNS.values())
    print(f"{'tokens':>9}{header}{'vs formula':>13}{'vs figure':>11}")
    for row in rows:
        model = {name: volume_gb(layout, row["tokens"]) for name, layout in COLUMNS.items()}
        volumes = "".join(f"{value:>10.4f}" for value in model.values())
        formula, figure = difference(model, row, "formula"), difference(model, row, "plot")
        print(f"{row['tokens']:>9.0f}{volumes}{formula:>13.4%}{figure:>11.4%}")


def difference(model: dict[str, float], row: dict[str, float], which: str) -> float:
    """Largest relative difference of a row's model volumes to its formula or plot columns."""
    return max(abs(model[name] / row[f"{name}_{which}"] - 1) for name in model)


def print_crossovers() -> None:
    """Crossovers of neighbouring layouts, with the relative error to the paper's."""
    print(f"\n{'crossover':<18}{'paper':>10}{'model':>10}{'error':>9}{'GB':>9}{'in time':>12}")
    layouts = list(COLUMNS.values())
    published = closed_form_crossovers(D_MODEL, D_FF, (4, 4, 4))
    for first, second, paper in zip(layouts, layouts[1:], published, strict=False):
        tokens = crossover(volume_gb, first, second)
        in_time = crossover(ici_seconds, first, second)
        print(
            f"{first + ' -> ' + second:<18}{paper:>10.0f}{tokens:>10.0f}{abs(tokens / paper - 1):>9.3%}"
            f"{volume_gb(first, tokens):>9.4f}{in_time:>12.0f}"
        )


def crossover(cost: Callable[[FeedForward, float], float], first: FeedForward, second: FeedForward) -> float:
    """Tokens at which two layouts cost the same."""
    return crossover_tokens(lambda t: cost(first, t), lambda t: cost(second, t), 1.0, 2.0**30)


def svg(rows: list[dict[str, float]]) -> str:
    """The figure: lines are the model, dots the published points; both axes logarithmic."""
    tokens = [row["tokens"] for row in rows]
    marks = [
        f'<polyline fill="none" stroke="{COLOURS[name]}" points="'
        + " ".join(_point(t, volume_gb(layout, t)) for t in tokens)
        + '"/>'
        + "".join(_dot(row["tokens"], row[f"{name}_plot"], COLOURS[name]) for row in rows)
        + _text(*_xy(tokens[-1], volume_gb(layout, tokens[-1])), layout, COLOURS[name])
        for name, layout in COLUMNS.items()
    ]
    ticks = [_text(_xy(t, 1.0)[0] - 20, 385, f"{t:.0f}", "black") for t in tokens[::4]]
    ticks += [_text(2, _xy(1.0, gb)[1], f"{gb:g} GB", "black") for gb in (0.1, 1.0, 10.0, 100.0)]
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="400" font-size="11">'
    return "\n".join([head, *marks, *ticks, "</svg>\n"])


def _xy(tokens: float, gb: float) -> tuple[float, float]:
    """Pixels of a point: 2**11..2**24 tokens along x, 0.05..1000 GB along y."""
    return 60 + (math.log2(tokens) - 11) * 38, 370 - (math.log10(gb) + 1.3) * 80


def _point(tokens: float, gb: float) -> str:
    x, y = _xy(tokens, gb)
    return f"{x:.1f},{y:.1f}"


def _dot(tokens: float, gb: float, colour: str) -> str:
    x, y = _xy(tokens, gb)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'


def _text(x: float, y: float, text: str, colour: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{text}</text>'


if __name__ == "__main__":
    main()
