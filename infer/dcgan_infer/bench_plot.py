"""The figures of dcgan-bench as a picture."""

from __future__ import annotations

import statistics
from pathlib import Path

from .bench import Report, shortened
from .extras import new_figure

# Okabe and Ito's colours, which people who see few colours can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"


def draw(path: Path, report: Report) -> None:
    """Draw images/s by batch size: a line a row through the medians, with bars from the slowest round to the fastest.

    Args:
        path: to write to; its suffix chooses the format.
        report: to draw.
    Raises:
        RuntimeMissingError: matplotlib is not installed.
    """
    figure = new_figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    batches = sorted({result.batch for result in report.results})
    names = list(dict.fromkeys(result.row.name for result in report.results))
    for number, name in enumerate(names):
        results = sorted((result for result in report.results if result.row.name == name), key=lambda one: one.batch)
        medians = [statistics.median(result.rates) for result in results]
        below = [median - min(result.rates) for median, result in zip(medians, results, strict=True)]
        above = [max(result.rates) - median for median, result in zip(medians, results, strict=True)]
        # A little to the side of each other, or the bars of one batch size would cover each other.
        aside = 1.035 ** (number - (len(names) - 1) / 2)
        axes.errorbar(
            [batch * aside for batch in batches],
            medians,
            yerr=(below, above),
            label=shortened(name, 46),
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=1.6,
            elinewidth=1,
            capsize=2,
        )
    needed = report.results[0].row.multiply_adds
    if needed is not None:
        limit = report.sgemm_best / (2 * needed)
        axes.axhline(limit, color="#555555", linestyle="--", linewidth=1.2, label="float32 limit: the speed of sgemm")
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.margins(x=0.05)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    threads = f"{report.threads} thread{'s' * (report.threads > 1)}"
    axes.set(
        title=f"{report.processor.name}, {threads}",
        xlabel="images a call (batch size)",
        ylabel="images/s, median and range of the rounds",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=min(2, len(names) + 1), frameon=False)
    figure.savefig(path, dpi=150)
