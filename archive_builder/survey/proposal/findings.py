"""A proposal for a recipe from the files of a folder: images, bands, tiles, zero point, planes, catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from archive_builder.errors import RequestError, one_line
from archive_builder.survey.proposal.catalogs import CatalogProposal, find_catalog
from archive_builder.survey.proposal.headers import FileFacts, HduFacts, file_facts
from archive_builder.survey.proposal.known import known_surveys
from archive_builder.survey.proposal.names import BAND, Family, TileNames, families, pattern_of, tile_in, tile_names
from archive_builder.survey.proposal.walk import DEEPEST, MOST_FILES, Listing, list_files
from archive_builder.survey.proposal.zero_points import ZeroPointProposal, zero_point_of

SAMPLES = 3
"""Files of a kind and band whose headers are read."""

MOST_SAMPLES = 400
"""Maximum number of files whose headers are read."""

PLANE_WORDS = {
    **dict.fromkeys(("ivar", "invvar", "invar"), ("weight", "inverse variance")),
    **dict.fromkeys(("var", "variance"), ("weight", "variance")),
    **dict.fromkeys(("rms", "unc", "sigma", "err", "noise", "std"), ("weight", "rms")),
    **dict.fromkeys(("wt", "wei", "weight", "weights", "wht", "wgt"), ("weight", "weight")),
    **dict.fromkeys(("msk", "mask", "maskbits", "mk", "flag", "flags", "dq"), ("mask", "")),
}
"""Plane, and kind of the weights, by a word in a file name or the name of an HDU."""

OTHER_WORDS = {
    *("cov", "nexp", "exp", "expwt", "num", "model", "chi2", "depth", "galdepth", "psfsize", "psf", "bkg", "bgmod"),
    *("background", "nobkg", "blobmodel", "resid", "seg", "segmentation", "checkimage"),
}
"""Words in the names of further images that are no survey images."""

IMAGE_NAMES = ("SCI", "IMAGE", "DATA", "PRIMARY", "")
"""Names of the HDU with the image, the likeliest first."""


@dataclass(frozen=True)
class PlaneProposal:
    """Weights or a mask that may be stored."""

    name: str
    """``weight`` or ``mask``."""
    kind: str
    """Kind of the weights; empty for a mask."""
    image: str
    """Glob pattern; empty for the file of the image."""
    hdu: str | int | None


@dataclass(frozen=True)
class Findings:
    """What the files of a folder tell."""

    folder: Path
    known: tuple[tuple[str, str], ...]
    """Recipes that ship and fit, each with the reason."""
    image: TileNames | None
    bands: tuple[str, ...]
    image_hdu: str | int | None
    facts: tuple[FileFacts, ...]
    """Headers of sample files of the images."""
    zero_point: ZeroPointProposal
    planes: tuple[PlaneProposal, ...]
    catalog: CatalogProposal | None
    color: str
    """Pattern of colour pictures; empty without one."""
    obstacles: tuple[str, ...]
    """Reasons why the images cannot be used as they are, in words."""
    notes: tuple[str, ...]
    """Further findings in words."""


def find(folder: Path) -> Findings:
    """Look at the files below a folder.

    Raises
    ------
    RequestError
        The folder cannot be read, or holds no FITS file.
    """
    try:
        listing = list_files(folder)
    except OSError as error:
        raise RequestError(f"{folder}: cannot be read ({one_line(error)}): give a folder of FITS files") from None
    if not listing.fits:
        more = "" if listing.is_complete else f" among its first {MOST_FILES} files, to a depth of {DEEPEST} folders"
        raise RequestError(f"{folder}: holds no FITS file{more}: give the folder of a survey's files")
    return _findings(folder, listing)


@dataclass(frozen=True)
class _Kind:
    """One kind of file with the headers of some."""

    family: Family
    facts: tuple[FileFacts, ...]

    @property
    def first(self) -> FileFacts | None:
        return next((facts for facts in self.facts if not facts.error), None)

    @property
    def plane(self) -> tuple[str, str] | None:
        """Plane and kind of weights by the words in the name; None for an image."""
        return next((PLANE_WORDS[word] for word in sorted(self.family.words) if word in PLANE_WORDS), None)

    @property
    def is_survey_image(self) -> bool:
        first = self.first
        has_sky = first is not None and any(hdu.has_sky for hdu in first.images)
        return has_sky and self.plane is None and not self.family.words & OTHER_WORDS


def _findings(folder: Path, listing: Listing) -> Findings:
    kinds = _kinds(folder, listing)
    images = [kind for kind in kinds if kind.is_survey_image]
    main = max(images, key=lambda kind: (len(kind.family.files), len(kind.family.bands)), default=None)
    tiles = tile_names(main.family) if main else None
    tables = [
        name
        for kind in kinds
        if kind.first and not kind.first.images and any(hdu.is_table for hdu in kind.first.hdus)
        for name in kind.family.files
    ]
    catalog, table_notes = find_catalog(folder, [*tables, *listing.tables], tiles)
    hdu, hdu_bands = _image_hdu(main)
    bands = _bands(main, hdu_bands)
    return Findings(
        folder=folder,
        known=tuple(known_surveys([*listing.fits, *listing.tables])),
        image=tiles,
        bands=bands,
        image_hdu=hdu,
        facts=main.facts if main else (),
        zero_point=zero_point_of(main.facts if main else (), main.family.files if main else {}, bands),
        planes=tuple(_planes(main, tiles, kinds)) if main and tiles else (),
        catalog=catalog,
        color=_color(listing, tiles),
        obstacles=tuple(_obstacles(main, tiles)),
        notes=(*_notes(listing, kinds, main, tiles), *table_notes),
    )


def _kinds(folder: Path, listing: Listing) -> list[_Kind]:
    """Return the kinds of FITS files, each with the headers of a few files of every band."""
    kinds, left = [], MOST_SAMPLES
    for family in families(listing.fits):
        chosen: list[str] = []
        for band in ("", *family.bands):
            chosen += sorted(name for name, of in family.files.items() if of == band)[:SAMPLES]
        chosen = chosen[: max(left, 0)]
        left -= len(chosen)
        kinds.append(_Kind(family, tuple(file_facts(folder, name) for name in chosen)))
    return kinds


def _image_hdu(main: _Kind | None) -> tuple[str | int | None, tuple[str, ...]]:
    """Return the HDU of the image, None for the only one, and the bands if each is an HDU of the same file."""
    first = main.first if main else None
    if first is None or main is None or len(first.images) < 2:
        return None, ()
    named = [hdu for hdu in first.images if BAND.fullmatch(hdu.name)]
    if not main.family.bands and len(named) > 1:
        return "{band}", tuple(hdu.name for hdu in named)
    images = [hdu for hdu in first.images if _plane_of(hdu) is None]
    best = min(images or first.images, key=_likelihood)
    names = [hdu.name.upper() for hdu in first.hdus]
    return (best.name if best.name and names.count(best.name.upper()) == 1 else best.number), ()


def _likelihood(hdu: HduFacts) -> tuple[int, int]:
    known = IMAGE_NAMES.index(hdu.name.upper()) if hdu.name.upper() in IMAGE_NAMES else len(IMAGE_NAMES)
    return known, hdu.number


def _plane_of(hdu: HduFacts) -> tuple[str, str] | None:
    words = re.split(r"[^a-z0-9]+", hdu.name.lower())
    return next((PLANE_WORDS[word] for word in words if word in PLANE_WORDS), None)


def _bands(main: _Kind | None, in_hdus: tuple[str, ...]) -> tuple[str, ...]:
    if main is None:
        return ()
    if in_hdus or main.family.bands:
        return in_hdus or main.family.bands
    cards = [str(facts.cards[card]) for facts in main.facts for card in ("FILTER", "BAND") if card in facts.cards]
    named = {text.split()[0] for text in cards if re.fullmatch(r"[A-Za-z0-9_.+-]{1,20}", text.split()[0])}
    return tuple(named) if len(named) == 1 else ()


def _planes(main: _Kind, tiles: TileNames, kinds: Sequence[_Kind]) -> list[PlaneProposal]:
    """Return candidates for weights and masks: HDUs of the image's file, else files of their own."""
    found: dict[str, PlaneProposal] = {}
    first = main.first
    for hdu in first.images if first else ():
        plane = _plane_of(hdu)
        if plane and plane[0] not in found:
            found[plane[0]] = PlaneProposal(plane[0], plane[1], "", hdu.name or hdu.number)
    for kind in kinds:
        if kind.plane and kind.plane[0] not in found and kind.first and kind.first.images:
            pattern = _pattern_of_plane(kind.family, tiles)
            several = len(kind.first.images) > 1
            if pattern:
                hdu_number = kind.first.images[0].number if several else None
                found[kind.plane[0]] = PlaneProposal(kind.plane[0], kind.plane[1], pattern, hdu_number)
    return [found[name] for name in ("weight", "mask") if name in found]


def _pattern_of_plane(family: Family, tiles: TileNames) -> str:
    known = frozenset(tiles.tiles)
    by_file = {name: (tile, band) for name, band in family.files.items() if (tile := tile_in(name, known))}
    return pattern_of(by_file) if by_file else ""


def _color(listing: Listing, tiles: TileNames | None) -> str:
    if tiles is None:
        return ""
    known = frozenset(tiles.tiles)
    for family in families(listing.pictures):
        by_file = {name: (tile, "") for name in family.files if (tile := tile_in(name, known))}
        if len(by_file) == len(tiles.tiles):
            return pattern_of(by_file)
    return ""


def _notes(listing: Listing, kinds: Sequence[_Kind], main: _Kind | None, tiles: TileNames | None) -> list[str]:
    notes = []
    if not listing.is_complete:
        notes.append(f"only the first {MOST_FILES} files to a depth of {DEEPEST} folders were looked at")
    for name in listing.left_out[:20]:
        notes.append(f"left out, a pattern cannot hold its name: {name.encode('unicode_escape').decode()}")
    for kind in kinds:
        for facts in kind.facts:
            if facts.error:
                notes.append(f"cannot be read: {facts.name}: {facts.error}")
    for kind in kinds:
        if kind.first:
            notes.append(_kind_note(kind, kind is main))
    if main and tiles:
        lacking = _lacking(main.family, tiles)
        if lacking:
            notes.append(f"tiles without some band: {', '.join(lacking[:5])}: see survey.missing_bands")
    return notes


def _kind_note(kind: _Kind, is_main: bool) -> str:
    assert kind.first is not None
    count = len(kind.family.files)
    bands = f", bands {', '.join(kind.family.bands)}" if kind.family.bands else ""
    role = "the images" if is_main else {"weight": "weights?", "mask": "mask?"}.get((kind.plane or ("", ""))[0], "")
    hdus = "; ".join(str(hdu) for hdu in kind.first.hdus[:8])
    return f"{count} file{'s' if count > 1 else ''} like {kind.first.name}{bands}{f' ({role})' if role else ''}: {hdus}"


def _obstacles(main: _Kind | None, tiles: TileNames | None) -> Iterator[str]:
    """Yield reasons why an archive of the images cannot be built as they are."""
    if main is None:
        yield "no image with sky coordinates was found: see the findings above"
        return
    if tiles is None:
        yield (
            f"no part of names like {min(main.family.files)} can be the name of a tile: "
            "list the tiles in a table with a column tile, name it by survey.tiles, and use its columns in image"
        )
        return
    sizes: dict[str, dict[str, str]] = {}
    for facts in main.facts:
        if facts.images:
            size = " x ".join(str(n) for n in reversed(facts.images[0].shape))
            sizes.setdefault(tiles.tile_of[facts.name], {})[main.family.files[facts.name]] = size
    for tile, by_band in sizes.items():
        if len(set(by_band.values())) > 1:
            found = ", ".join(f"{band} {size}" for band, size in by_band.items())
            yield f"the bands of tile {tile} differ in size ({found}): resample them to common pixels, or keep one band"
            return


def _lacking(family: Family, tiles: TileNames) -> list[str]:
    have: dict[str, set[str]] = {}
    for name, tile in tiles.tile_of.items():
        have.setdefault(tile, set()).add(family.files[name])
    every = set(family.bands)
    return [f"{tile} ({', '.join(sorted(every - bands))})" for tile, bands in sorted(have.items()) if every - bands]
