"""Zero points that the headers of images tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archive_builder.survey.proposal.headers import ZERO_POINT_CARDS, FileFacts

UNITS = {
    "nanomaggy": 22.5,
    "nanomaggies": 22.5,
    "nmgy": 22.5,
    "njy": 31.4,
    "ujy": 23.9,
    "microjy": 23.9,
    "mjy": 16.4,
    "jy": 8.9,
    "jy/beam": 8.9,
}
"""AB magnitude of one unit of BUNIT, in lower case: 8.90 for a jansky, 22.5 for a nanomaggy."""


@dataclass(frozen=True)
class ZeroPointProposal:
    """The zero point of a survey, as far as the headers tell."""

    rule: str
    """Value of ``survey.zero_point`` in TOML; empty if nothing tells it."""
    notes: tuple[str, ...]
    """Findings in words."""


def zero_point_of(facts: Sequence[FileFacts], band_of: Mapping[str, str], bands: Sequence[str]) -> ZeroPointProposal:
    """Return the rule for the zero point, and the cards found.

    Parameters
    ----------
    facts : sequence of FileFacts
        Headers of sample files.
    band_of : mapping of str to str
        Band of each file.
    bands : sequence of str
    """
    good = [one for one in facts if not one.error]
    notes = [_note(card, good, band_of) for card in ZERO_POINT_CARDS if any(card in one.cards for one in good)]
    notes += [_note(card, good, band_of) for card in ("EXPTIME", "BUNIT") if any(card in one.cards for one in good)]
    if any("BSOFTEN" in one.cards for one in good):
        notes.append("BSOFTEN, BOFFSET: pixels on an asinh scale, which are made linear")
    for card in ZERO_POINT_CARDS:
        if good and card != "FPA.ZP" and all(_is_number(one.cards.get(card)) for one in good):
            if card == "FLUXMAG0":
                return ZeroPointProposal('{ card = "FLUXMAG0", as = "flux of magnitude 0" }', tuple(notes))
            return ZeroPointProposal(f'"{card}"', tuple(notes))
    units = {str(one.cards.get("BUNIT", "")).lower().replace(" ", "") for one in good}
    if len(units) == 1 and (unit := units.pop()) in UNITS:
        return ZeroPointProposal(str(UNITS[unit]), (*notes, f"{UNITS[unit]} is the AB magnitude of one {unit}"))
    return ZeroPointProposal("", tuple(notes))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _note(card: str, facts: Sequence[FileFacts], band_of: Mapping[str, str]) -> str:
    """Return the values of a card, by band where they differ."""
    values = {band_of.get(one.name, ""): one.cards[card] for one in facts if card in one.cards}
    if len(set(map(str, values.values()))) == 1:
        return f"card {card} = {next(iter(values.values()))}"
    return f"card {card} = " + ", ".join(f"{value} ({band or 'no band'})" for band, value in values.items())
