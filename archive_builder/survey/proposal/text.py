"""The text of a proposed recipe: TOML with the findings as comments, and marked lines for a person to finish."""

from __future__ import annotations

import json

from archive_builder.errors import printable
from archive_builder.survey.proposal.findings import Findings, PlaneProposal

FINISH = "# FINISH: "
"""Start of a line that a person must complete."""


def recipe_of(found: Findings) -> str:
    """Return the recipe that findings propose."""
    lines = [
        *_head(found),
        "",
        "[survey]",
        f"name = {_quoted(found.folder.resolve().name or 'survey')}",
        'root = "."',
        *_images(found),
        *_zero_point(found),
        *([f"# color = {_quoted(found.color)}   # colour pictures of the same pixels"] if found.color else []),
        "",
        *_catalog(found),
        "",
        "[cutout]",
        *_size(found),
        *(line for plane in found.planes for line in _plane(plane)),
    ]
    return "\n".join(lines) + "\n"


def unfinished(text: str) -> list[str]:
    """Return the lines that a person must complete, without the mark."""
    return [line.removeprefix(FINISH) for line in text.splitlines() if line.startswith(FINISH)]


def _head(found: Findings) -> list[str]:
    lines = ["# A recipe proposed from the files of this folder. Check each line, then build one tile:"]
    lines.append("#   archive-builder build survey.toml trial --tile NAME")
    lines.append(f"# Complete the lines that begin with {FINISH.strip()}")
    for name, reason in found.known:
        lines += ["#", f"# Known survey: {reason}.", "# Start from the recipe that ships for it:"]
        lines.append(f"#   archive-builder recipes {name}")
    lines += ["#", "# Findings:"]
    return lines + [_comment(note) for note in found.notes]


def _images(found: Findings) -> list[str]:
    obstacles = [FINISH + printable(reason) for reason in found.obstacles]
    if found.image is None:
        return [
            *obstacles,
            f'{FINISH}bands = ["g", "r"]',
            f'{FINISH}image = "{{tile}}/{{tile}}_{{band}}.fits"   # glob pattern of the images',
        ]
    tiles = found.image.tiles
    shown = ", ".join(tiles[:4]) + (", ..." if len(tiles) > 4 else "")
    lines = [*obstacles, _comment(f"{len(tiles)} tile{'s' if len(tiles) > 1 else ''}: {shown}")]
    bands = ", ".join(_quoted(band) for band in found.bands)
    lines.append(f"bands = [{bands}]" if found.bands else f'{FINISH}bands = ["r"]   # no file name or card tells it')
    lines.append(f"image = {_quoted(found.image.pattern)}")
    if found.image_hdu is not None:
        hdu = found.image_hdu
        lines.append(f"image_hdu = {_quoted(hdu) if isinstance(hdu, str) else hdu}")
    first = next((facts for facts in found.facts if facts.frame), None)
    if first:
        lines.append(_comment(f"frame {first.frame}; pixel scale {first.pixel_scale:.4g} arcsec"))
    lines.append("# blank_value = 0.0   # if pixels without data hold 0: coadds made by SWarp do")
    return lines


def _zero_point(found: Findings) -> list[str]:
    notes = [_comment(note) for note in found.zero_point.notes]
    rule = found.zero_point.rule
    if rule == '"MAGZP"':
        return [*notes, f'{FINISH}zero_point = {{ card = "MAGZP", add = 0.0 }}   # in Vega magnitudes, add AB - Vega']
    if rule:
        return [*notes, f"zero_point = {rule}   # in AB magnitudes? correct it if not"]
    return [*notes, f"{FINISH}zero_point = 30.0   # AB magnitude of one image unit; no card or unit tells it"]


def _catalog(found: Findings) -> list[str]:
    catalog = found.catalog
    if catalog is None:
        return [
            f"{FINISH}[catalog]   # no table with columns of RA and Dec was found",
            *(f'# {key} = "..."' for key in ("path", "object_id", "ra", "dec")),
        ]
    lines = ["[catalog]", *(_comment(note) for note in catalog.notes), f"path = {_quoted(catalog.path)}"]
    if catalog.object_id:
        lines.append(f"object_id = {_quoted(catalog.object_id)}")
    else:
        lines.append(f'{FINISH}object_id = "ID"   # integer or text column, unique in the survey')
    lines += [f"ra = {_quoted(catalog.ra)}   # deg", f"dec = {_quoted(catalog.dec)}"]
    if catalog.tile:
        lines.append(f"tile = {_quoted(catalog.tile)}")
    elif "{tile}" not in catalog.path:
        lines.append("# One catalogue for all tiles: each row goes to the tile on which it lies deepest inside.")
    return lines


def _size(found: Findings) -> list[str]:
    scale = next((facts.pixel_scale for facts in found.facts if facts.pixel_scale), 0.0)
    if scale == 0.0:
        return ['size = "1 arcmin"']
    # A side of 50 to 300 px serves most galaxies.
    angle = next((a for a in (60.0, 30.0, 10.0, 120.0, 300.0, 5.0) if 50 <= a / scale <= 300), round(128 * scale, 3))
    text = f"{angle / 60:g} arcmin" if angle >= 60 else f"{angle:g} arcsec"
    return [f'size = "{text}"   # {round(angle / scale)} px']


def _plane(plane: PlaneProposal) -> list[str]:
    what = "Weights" if plane.name == "weight" else "A mask"
    lines = [
        "",
        f"# {what} to store too, if the guess is right: remove the # of these lines.",
        f"# [planes.{plane.name}]",
    ]
    if plane.image:
        lines.append(f"# image = {_quoted(plane.image)}")
    if plane.hdu is not None:
        lines.append(f"# hdu = {_quoted(plane.hdu) if isinstance(plane.hdu, str) else plane.hdu}")
    if plane.kind:
        lines.append(f"# kind = {_quoted(plane.kind)}   # or inverse variance, variance, rms, weight")
    return lines


def _quoted(text: str) -> str:
    """Return a text as a basic string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(note: str) -> str:
    return "# " + printable(note)
