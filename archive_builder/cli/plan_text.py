"""Forecast of an archive as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from archive_builder import units
from archive_builder.errors import printable, reason_words
from archive_builder.forecast.estimate import PERCENTILES, Estimate
from archive_builder.forecast.forecast import Criterion, Forecast, StorageForecast

NAMED = 5
"""Maximum number of incomplete tiles that are named."""


def plan_text(forecast: Forecast) -> str:
    """Return the output of `archive-builder plan`."""
    return "\n".join(printable(line) for line in _lines(forecast))


def _lines(forecast: Forecast) -> Iterator[str]:
    yield from _head(forecast)
    yield ""
    yield from _own_way(forecast)
    yield ""
    yield from _table("workers | wall time | reads | writes | memory", _wall_rows(forecast))
    yield ""
    yield from _storages(forecast)
    yield ""
    yield from _noise(forecast)
    yield from _thresholds(forecast)


def _head(forecast: Forecast) -> Iterator[str]:
    """Describe the sample."""
    source = "counted in the catalogues" if forecast.counted else "estimated from the sample"
    yield f"{forecast.survey}: {forecast.tiles:,} tiles, {_about(forecast.objects)} objects ({source})"
    if forecast.incomplete:
        yield f"{len(forecast.incomplete):,} more tiles are incomplete and left out:"
        for tile, reason in list(forecast.incomplete.items())[:NAMED]:
            yield f"  tile {tile}: {reason}"
        if len(forecast.incomplete) > NAMED:
            yield f"  and {len(forecast.incomplete) - NAMED:,} more: list them with archive-builder build --dry-run"
    yield f"{len(forecast.sampled)} tiles sampled: {', '.join(tile.tile for tile in forecast.sampled)}"
    if len(forecast.sampled) == 1 < forecast.tiles:
        yield "one sampled tile gives no standard error: use a larger --sample"
    elif len(forecast.sampled) < forecast.tiles:
        yield "+- is the standard error, from the scatter of the sampled tiles"


def _own_way(forecast: Forecast) -> Iterator[str]:
    """Describe the archive as the recipe defines it."""
    own, total = forecast.storages[0], forecast.objects.value
    bands = ", ".join(band.band for band in forecast.bands)
    yield f"by the recipe: cutouts of {forecast.size} px in {bands}; {own.layout}, {_quantization(own)}"
    yield f"  stored      {_about(forecast.stored)} objects ({units.share(forecast.stored.value, total)})"
    for reason, skipped in forecast.skipped.items():
        if skipped.value:
            yield f"  skipped     {_about(skipped)} {reason_words(reason)} ({units.share(skipped.value, total)})"
    yield f"  archive     {_about_size(own.bytes)}, including {units.size(forecast.index_bytes.value)} for the index"
    yield f"  core hours  {_hours(own.core_hours)}, {forecast.cpu_share:.0%} of them CPU time"
    yield f"  reads       {_about_size(forecast.read)} of the survey"
    yield f"  writes      {_about_size(forecast.written)}"
    yield f"  memory      {units.size(forecast.peak_memory)} per worker"


def _wall_rows(forecast: Forecast) -> Iterator[tuple[str, ...]]:
    for wall in forecast.wall:
        rates = (f"{units.size(rate)}/s" for rate in (wall.read_per_second, wall.written_per_second))
        yield str(wall.workers), units.duration(wall.seconds), *rates, units.size(wall.memory)


def _storages(forecast: Forecast) -> Iterator[str]:
    """Compare the recipe's layout and quantization with the alternatives."""
    yield f"layouts and quantizations, each built for tile {forecast.reference}"
    yield from _table("layout | quantization | archive | per object | core hours | ", _storage_rows(forecast))
    for storage, reason in forecast.left_out.items():
        yield f"  {storage} left out: {reason}"


def _storage_rows(forecast: Forecast) -> Iterator[tuple[str, ...]]:
    stored = forecast.stored.value
    for number, way in enumerate(forecast.storages):
        each = units.size(way.bytes.value / stored) if stored else "-"
        mark = "the recipe" if number == 0 else ""
        yield way.layout, _quantization(way), _about_size(way.bytes), each, _hours(way.core_hours), mark


def _noise(forecast: Forecast) -> Iterator[str]:
    """Describe the distribution of the noise."""
    names = [band.band for band in forecast.bands]
    for title, digits, distributions in (
        ("background RMS at the objects (image units)", 4, [band.rms for band in forecast.bands]),
        ("depth at the objects (AB mag, 5 sigma in 1.95 arcsec)", 0, [band.depth for band in forecast.bands]),
    ):
        rows = []
        for percentile in PERCENTILES:
            values = [of.percentiles.get(percentile) for of in distributions]
            rows.append((f"{percentile} %", *(_number(value, digits) for value in values)))
        if any(of.unmeasured for of in distributions):
            rows.append(("unmeasured", *(units.count(of.unmeasured) for of in distributions)))
        yield title
        yield from _table(" | ".join(["percentile", *names]), rows)
        yield ""


def _thresholds(forecast: Forecast) -> Iterator[str]:
    """List the objects that each threshold selects by itself."""
    unmeasured = sum(number.value for reason, number in forecast.skipped.items() if reason not in ("noise", "blank"))
    on_tile = max(0.0, forecast.objects.value - unmeasured)
    criteria = [c for band in forecast.bands for c in (band.max_background_rms, band.min_depth)] + [forecast.blank]
    for criterion in criteria:
        if criterion.limit is not None and criterion.kept_by_limit is not None:
            yield f"{_name(criterion)} alone keeps {_kept(criterion.kept_by_limit, on_tile)}"
    for title, chosen, digits in (
        ("max_background_rms in one band alone", [band.max_background_rms for band in forecast.bands], 4),
        ("min_depth in one band alone", [band.min_depth for band in forecast.bands], 0),
    ):
        yield title
        head = " | ".join(["keeps", "skips", *(criterion.band or "" for criterion in chosen)])
        yield from _table(head, _ladder_rows(chosen, digits, on_tile))
    yield "max_blank_fraction alone"
    blank = ((_kept(k.share, on_tile), _skipped(k.share, on_tile), f"{k.threshold:g}") for k in forecast.blank.ladder)
    yield from _table("keeps | skips | threshold", blank)


def _ladder_rows(criteria: Sequence[Criterion], digits: int, on_tile: float) -> Iterator[tuple[str, ...]]:
    """Return a row per round share, with the threshold of each band that selects this share."""
    ladders = [{kept.share: kept.threshold for kept in criterion.ladder} for criterion in criteria]
    for share in sorted({share for ladder in ladders for share in ladder}):
        values = [ladder.get(share) for ladder in ladders]
        yield _kept(share, on_tile), _skipped(share, on_tile), *(_number(value, digits) for value in values)


def _number(value: float | None, digits: int) -> str:
    """Return a number with `digits` significant digits; with two decimals if `digits` is 0; ``-`` for None."""
    if value is None:
        return "-"
    return f"{value:#.{digits}g}" if digits else f"{value:.2f}"


def _name(criterion: Criterion) -> str:
    band = f" {criterion.band}" if criterion.band else ""
    return f"{criterion.key}{band} = {criterion.limit:g}"


def _kept(share: float, of: float) -> str:
    return f"{units.count(share * of)} ({share:.1%})"


def _skipped(share: float, of: float) -> str:
    return units.count((1 - share) * of)


def _quantization(way: StorageForecast) -> str:
    return way.quantization if isinstance(way.quantization, str) else f"q = {way.quantization:g}"


def _about(estimate: Estimate) -> str:
    """Return a count with its standard error."""
    return units.count(estimate.value) + (f" +- {units.count(estimate.error)}" if estimate.error else "")


def _about_size(estimate: Estimate) -> str:
    """Return a number of bytes with its standard error."""
    return units.size(estimate.value) + (f" +- {units.share(estimate.error, estimate.value)}" if estimate.error else "")


def _hours(estimate: Estimate) -> str:
    """Return a number of hours with its standard error."""
    digits = 1 if estimate.value >= 9.95 else 2 if estimate.value >= 0.095 else 4
    error = f" +- {units.share(estimate.error, estimate.value)}" if estimate.error else ""
    return f"{estimate.value:,.{digits}f}{error}"


def _table(head: str, rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Return the lines of a table, with the first column aligned to the left and the others to the right."""
    lines = [tuple(head.split(" | ")), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [
            cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()
