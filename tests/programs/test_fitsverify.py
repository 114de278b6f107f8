"""FITS files checked with fitsverify, the FITS Support Office's own program: no error and no warning."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.cli.main import main
from archive_builder.survey.demo import make_survey

SIZES = (None, "1", "2", "33", "64", "0.4arcmin")
"""Cutout sizes, in pixels or as an angle: odd and even, the smallest, and None for the archived size."""

SIP = [
    ("CTYPE1", "RA---TAN-SIP"),
    ("CTYPE2", "DEC--TAN-SIP"),
    ("A_ORDER", 2),
    ("B_ORDER", 2),
    ("A_2_0", 2e-6),
    ("A_0_2", -1e-6),
    ("B_1_1", 3e-6),
    ("A_DMAX", 0.25),
]
TPV = [
    ("CTYPE1", "RA---TPV"),
    ("CTYPE2", "DEC--TPV"),
    ("PV1_0", 1e-5),
    ("PV1_1", 1.0002),
    ("PV1_4", 3e-3),
    ("PV2_1", 0.9997),
    ("PV2_5", -2e-3),
]
ALTERNATE = [
    ("CTYPE1A", "LINEAR"),
    ("CTYPE2A", "LINEAR"),
    ("CUNIT1A", "PIXEL"),
    ("CUNIT2A", "PIXEL"),
    ("CRPIX1A", 1.0),
    ("CRPIX2A", 1.0),
    ("CRVAL1A", 4000.0),
    ("CRVAL2A", 8000.0),
]
AWKWARD = [
    ("OBJECT", "O'Neill's field"),
    ("TILE", "not ours"),
    ("BAND", "long name of a filter"),
    ("LONGSTRN", "OGIP 1.0"),
    ("INPUTS", "exposure, " * 30),
    ("HIERARCH ESO TEL AMBI FWHM START", 0.93),
    ("HIERARCH ESO OBS NAME", "a name, not short, of an observing block of the survey at hand"),
    ("TINY", 1.0e-300),
    ("LARGE", 2**53 + 1),
    ("YES", True),
    ("DATAMAX", 1e5),
]
LEFTOVERS = [
    ("ZIMAGE", True),
    ("ZCMPTYPE", "RICE_1"),
    ("ZBITPIX", -32),
    ("ZNAXIS", 2),
    ("ZNAXIS1", 300),
    ("ZTILE1", 300),
    ("ZTILE2", 1),
    ("ZNAME1", "BLOCKSIZE"),
    ("ZVAL1", 32),
    ("ZQUANTIZ", "SUBTRACTIVE_DITHER_1"),
    ("ZDITHER0", 7),
    ("ZHECKSUM", "abcdefghijklmnop"),
    ("ZDATASUM", "123456789"),
    ("FZALGOR", "RICE_1"),
    ("FZQVALUE", 16),
]
REMARKS = ["swarp -c des.swarp", "", "x" * 72, "y" * 200]
"""Texts of HISTORY and COMMENT cards; one is longer than a card."""


def recipe_of(survey: Path, planes: Sequence[str]) -> Path:
    """Change a survey's recipe to keep further planes of all objects; return its path."""
    recipe = survey / "survey.toml"
    text = re.sub(r"(?m)^(max_background_rms|min_depth|max_blank_fraction) .*\n", "", recipe.read_text())
    recipe.write_text(f"{text}planes = {list(planes)}\n")
    return recipe


def unpack(survey: Path, cards: Sequence[tuple[str, object]]) -> None:
    """Rewrite a survey's images as plain FITS with checksums and further cards."""
    paths = list(survey.glob("*/*.fits.fz"))
    assert len(paths) == 5
    for path in paths:
        with fits.open(path) as packed:
            images = [fits.ImageHDU(hdu.data, hdu.header) for hdu in packed[1:]]
        for image in images:
            image.header.update(cards)
            for text in REMARKS:
                image.header.add_history(text)
                image.header.add_comment(text)
                image.header.add_blank(text[:70])
        path.unlink()
        fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path.with_suffix(""), checksum=True)


KINDS = {
    "fpacked": (None, []),
    "fpacked with planes": (None, ["WGT", "MSK"]),
    "plain SIP with planes": ([*SIP, *ALTERNATE, *AWKWARD, *LEFTOVERS], ["MSK", "WGT"]),
    "plain TPV": ([*TPV, *ALTERNATE, *AWKWARD, *LEFTOVERS], []),
}


@pytest.fixture(scope="module", params=KINDS)
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """An archive of one tile, for each kind of FITS file."""
    cards, planes = KINDS[request.param]
    folder = tmp_path_factory.mktemp("fitsverify")
    make_survey(folder / "survey", tiles=1, tile_size=300, objects=40, seed=4)
    if cards is not None:
        unpack(folder / "survey", cards)
    report = build(recipe_of(folder / "survey", planes), folder / "archive")
    assert (report.stored, report.failures) == (40, {})
    with Archive(folder / "archive") as opened:
        yield opened


def objects(archive: Archive) -> list[int]:
    """Return the object nearest to each side of the tile, and one in the middle."""
    table = archive.cone_search((54.0, -28.0), "1 deg")
    chosen = [0, *(pick(table[axis]) for axis in ("ra", "dec") for pick in (np.argmin, np.argmax))]
    return [int(table["object_id"][row]) for row in chosen]


def assert_approved(files: Sequence[Path], run: Callable[..., str]) -> None:
    for flags in (["-q"], ["-q", "-H"]):
        answers = run("fitsverify", *flags, *files).splitlines()
        assert [line for line in answers if not line.startswith("verification OK")] == []
        assert len(answers) == len(files) > 0
    full = run("fitsverify", files[0])
    assert "**** Verification found 0 warning(s) and 0 error(s). ****" in full


def test_fits_files_of_the_command_line_pass_without_a_warning(archive, run, tmp_path) -> None:
    files = []
    for object_id, size in zip(objects(archive) * 2, SIZES, strict=False):
        files.append(tmp_path / f"{object_id}_{size}.fits")
        words = ["get", str(archive.path), str(object_id), *(["--size", size] if size else []), "-o", str(files[-1])]
        done = CliRunner().invoke(main, words)
        assert (done.exit_code, done.stderr) == (0, "")
    assert len(set(files)) == len(SIZES)
    assert_approved(files, run)


def test_fits_files_of_one_band_each_pass_without_a_warning(archive, run, tmp_path) -> None:
    files = []
    for object_id in objects(archive):
        cutout = archive.get(object_id, size=(31, 48))
        for band in cutout.bands:
            files.append(tmp_path / f"{object_id}_{band}.fits")
            files[-1].write_bytes(cutout.to_bytes((band,)))
    assert len(set(files)) == 25
    assert_approved(files, run)


def test_fits_file_at_a_position_passes_without_a_warning(archive, run, tmp_path) -> None:
    archive.at((54.0, -28.0), size=51).write(tmp_path / "at.fits")
    assert_approved([tmp_path / "at.fits"], run)


def test_fitsverify_rejects_a_fits_file_with_a_missing_byte(archive, run, tmp_path) -> None:
    whole = archive.get(objects(archive)[0], size=9).to_bytes()
    (tmp_path / "short.fits").write_bytes(whole[:-1])
    with pytest.raises(AssertionError, match="ended with"):
        run("fitsverify", "-q", tmp_path / "short.fits")
