"""After any changes, builds and kills, an archive holds each tile of its last successful build."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.errors import NoArchiveError, ObjectNotFoundError, RecipeError
from archive_builder.maintain.reindex import reindex
from archive_builder.maintain.verify import verify

TILES = ("A", "B")
SIDE, SIZE = 256, 16
NUMBERS = frozenset(range(100, 120)) | frozenset(range(200, 205))
"""IDs of all objects that a test may create."""

FULL = os.environ.get("ARCHIVE_BUILDER_FAULTS") == "full"

RECIPE = f"""
[survey]
name = "Life"
bands = ["r"]
image = "{{tile}}.fits"
zero_point = 30.0
[catalog]
path = "{{tile}}.csv"
object_id = "id"
ra = "ra"
dec = "dec"
[cutout]
size = {SIZE}
[storage]
quantization = "lossless"
"""


@dataclass(frozen=True)
class Content:
    """Contents of a tile: the version of its pixels, and its objects with their pixel positions (x, y)."""

    version: int
    objects: dict[int, tuple[int, int]] = field(default_factory=dict)


@cache
def image(tile: str, version: int) -> np.ndarray:
    rng = np.random.default_rng([TILES.index(tile), version])
    return (1000 * version + rng.normal(size=(SIDE, SIDE))).astype(np.float32)


def sky() -> WCS:
    """Return the WCS of both tiles: they cover the same sky, so an object can move from one to the other."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [50, -30], [SIDE / 2] * 2
    wcs.wcs.cdelt = [-0.263 / 3600, 0.263 / 3600]
    return wcs


def first_contents() -> dict[str, Content]:
    places = np.random.default_rng(1).integers(SIZE, SIDE - SIZE, (20, 2)).tolist()
    numbered = {n: (x, y) for n, (x, y) in enumerate(places, start=100)}
    return {tile: Content(1, {n: place for n, place in numbered.items() if n % 2 == k}) for k, tile in enumerate(TILES)}


class Survey:
    """Files of the survey; every write gives a new modification time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, 1_700_000_000
        self.recipe = folder / "survey.toml"

    def write(self, path: Path, content: bytes) -> None:
        self.clock += 1
        path.write_bytes(content)
        os.utime(path, (self.clock, self.clock))

    def write_catalog(self, tile: str, content: Content) -> None:
        ra, dec = sky().all_pix2world(np.array(list(content.objects.values())), 0).T
        rows = [f"{n},{a:.12f},{d:.12f}" for n, a, d in zip(content.objects, ra, dec, strict=True)]
        self.write(self.folder / f"{tile}.csv", "\n".join(["id,ra,dec", *rows, ""]).encode())

    def write_image(self, tile: str, content: Content) -> None:
        path = self.folder / f"{tile}.fits"
        fits.PrimaryHDU(image(tile, content.version), sky().to_header()).writeto(path, overwrite=True)
        self.write(path, path.read_bytes())

    def write_all(self, tile: str, content: Content) -> None:
        self.write_catalog(tile, content)
        self.write_image(tile, content)

    def remove(self, tile: str) -> None:
        (self.folder / f"{tile}.csv").unlink()
        (self.folder / f"{tile}.fits").unlink()


@pytest.fixture(scope="module", autouse=True)
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the survey and the archive at the start of every run."""
    folder = tmp_path_factory.mktemp("life")
    survey = Survey(folder)
    survey.recipe.write_text(RECIPE)
    for tile, content in first_contents().items():
        survey.write_all(tile, content)
    assert build(survey.recipe, folder / "archive").built == 2
    Life.template = folder / "archive"
    return folder


class Life(RuleBasedStateMachine):
    """State machine of a survey and its archive; plain dictionaries hold the expected contents of both."""

    template: Path

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="life-"))
        (self.folder / "survey").mkdir()
        self.survey = Survey(self.folder / "survey")
        self.survey.recipe.write_text(RECIPE)
        self.archive = Path(shutil.copytree(self.template, self.folder / "archive"))
        self.source = first_contents()
        self.kept = first_contents()
        self.absent: set[str] = set()
        self.broken: set[str] = set()
        self.orphans = False
        for tile, content in self.source.items():
            self.survey.write_all(tile, content)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    # ---- changes of the survey

    def rewrite(self, tile: str, content: Content) -> None:
        """Change a tile's contents; absent or broken files receive them when they are restored."""
        old, self.source[tile] = self.source[tile], content
        if tile in self.absent:
            return
        if content.objects != old.objects:
            self.survey.write_catalog(tile, content)
        if content.version != old.version and tile not in self.broken:
            self.survey.write_image(tile, content)

    @rule(tile=st.sampled_from(TILES))
    def change_pixels(self, tile: str) -> None:
        self.rewrite(tile, replace(self.source[tile], version=self.source[tile].version + 1))

    @rule(tile=st.sampled_from(TILES), number=st.integers(200, 204), x=st.integers(SIZE, SIDE - SIZE))
    def change_catalog(self, tile: str, number: int, x: int) -> None:
        """Add, move or remove an object."""
        if any(number in self.source[other].objects for other in TILES if other != tile):
            return
        objects = dict(self.source[tile].objects)
        if objects.get(number, (None,))[0] is not None and x % 2:
            del objects[number]
        else:
            objects[number] = (x, SIDE // 2)
        self.rewrite(tile, replace(self.source[tile], objects=objects))

    @rule(old=st.sampled_from(TILES), choice=st.integers(0, 30), back=st.booleans())
    def move_objects(self, old: str, choice: int, back: bool) -> None:
        """Move an object to the other tile's catalogue, and with ``back`` one in the other direction."""
        new = TILES[1 - TILES.index(old)]
        for one, other in ((old, new), (new, old)) if back else ((old, new),):
            objects = dict(self.source[one].objects)
            if len(objects) < 2:
                continue
            number = sorted(objects)[choice % len(objects)]
            place = objects.pop(number)
            self.rewrite(one, replace(self.source[one], objects=objects))
            self.rewrite(other, replace(self.source[other], objects={**self.source[other].objects, number: place}))

    @rule(tile=st.sampled_from(TILES))
    def break_or_mend(self, tile: str) -> None:
        if tile in self.absent:
            return
        if tile in self.broken:
            self.broken.discard(tile)
            self.survey.write_image(tile, self.source[tile])
        else:
            self.broken.add(tile)
            path = self.survey.folder / f"{tile}.fits"
            self.survey.write(path, path.read_bytes()[:10_000])

    @rule(tile=st.sampled_from(TILES))
    def remove_or_bring_back(self, tile: str) -> None:
        if tile in self.absent:
            self.absent.discard(tile)
            self.survey.write_all(tile, self.source[tile])
        else:
            self.absent.add(tile)
            self.broken.discard(tile)
            self.survey.remove(tile)

    # ---- changes of the archive

    def outcome(self, prune: bool) -> dict[str, Content]:
        """Return the expected contents of the archive after a build."""
        able = {tile for tile in TILES if tile not in self.absent | self.broken}
        while blocked := {tile for tile in able if self.is_blocked(tile, able)}:
            able -= blocked
        kept = {**self.kept, **{tile: self.source[tile] for tile in able}}
        return {tile: content for tile, content in kept.items() if not (prune and tile in self.absent)}

    def is_blocked(self, tile: str, able: set[str]) -> bool:
        """Return True if the shard of another tile stays and holds an object of this tile."""
        return any(
            not self.source[tile].objects.keys().isdisjoint(content.objects)
            for other, content in self.kept.items()
            if other != tile and other not in able
        )

    @rule()
    def build_it(self) -> None:
        self.build_with(force=False, prune=False, contents=False)

    @rule(force=st.booleans(), prune=st.booleans(), contents=st.booleans())
    def build_with(self, force: bool, prune: bool, contents: bool) -> None:
        if self.absent == set(TILES):
            with pytest.raises(RecipeError, match="no tile found"):
                build(self.survey.recipe, self.archive)
            return
        after = self.outcome(prune)
        report = build(self.survey.recipe, self.archive, force=force, prune=prune, contents=contents)
        failed = {tile for tile in TILES if tile not in self.absent and after.get(tile) != self.source[tile]}
        assert failed <= set(report.failures) <= failed | self.broken
        self.kept, self.orphans = after, False

    @rule(seconds=st.floats(0.3, 1.5))
    def kill_a_build(self, seconds: float) -> None:
        if self.absent == set(TILES):
            return
        after = self.outcome(prune=False)
        command = [sys.executable, "-c", "from archive_builder.cli.main import main; main()", "build", "--force"]
        process = subprocess.Popen(
            [*command, str(self.survey.recipe), str(self.archive)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.orphans = True
        # Each tile was either committed or not.
        self.kept = {tile: content for tile in TILES if (content := self.found(tile, after)) is not None}

    def found(self, tile: str, after: dict[str, Content]) -> Content | None:
        """Return the new contents if the archive's tile has them, else the old; the invariants check the result."""
        old, new = self.kept.get(tile), after.get(tile)
        is_new = new is not None and self.objects_on(tile) == set(new.objects) and self.fault(tile, new) is None
        return new if is_new else old

    def objects_on(self, tile: str) -> set[int]:
        found = set()
        with Archive(self.archive) as opened:
            for number in NUMBERS:
                with suppress(ObjectNotFoundError):
                    found |= {number} if opened.locate(number).tile == tile else set()
        return found

    def fault(self, tile: str, content: Content) -> str | None:
        """Return the first difference between the archive's tile and ``content``; None if they agree."""
        with Archive(self.archive) as opened:
            for number, (x, y) in content.objects.items():
                try:
                    where = opened.locate(number)
                except ObjectNotFoundError:
                    return f"object {number} is not there"
                if (where.tile, where.status) != (tile, "stored"):
                    return f"object {number} is {where.status} on tile {where.tile}"
                half = SIZE // 2
                pixels = image(tile, content.version)[y - half : y + half, x - half : x + half]
                if not np.array_equal(opened.get(number).data[0], pixels):
                    return f"object {number} has not the pixels of version {content.version}"
        return None

    @precondition(lambda self: not self.orphans and self.kept)
    @rule(lose=st.booleans())
    def reindex_it(self, lose: bool) -> None:
        if lose:
            (self.archive / "index.sqlite").unlink()
        report = reindex(self.archive)
        assert (report.tiles, report.left_out) == (len(self.kept), {})
        assert report.objects == sum(len(content.objects) for content in self.kept.values())

    # ---- invariants

    @invariant()
    def archive_is_what_it_says(self) -> None:
        kinds = {finding.kind for finding in verify(self.archive, deep=True)}
        assert kinds <= ({"orphan"} if self.orphans else set())

    @invariant()
    def archive_holds_the_last_good_build_of_each_tile_and_nothing_else(self) -> None:
        for tile, content in self.kept.items():
            assert self.fault(tile, content) is None
        there = {number for content in self.kept.values() for number in content.objects}
        with Archive(self.archive) as opened:
            for number in NUMBERS - there:
                with pytest.raises(ObjectNotFoundError):
                    opened.locate(number)
            assert sorted(n for batch in opened.batches() for n in batch.object_id) == sorted(there)


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=100 if FULL else 8,
    stateful_step_count=30 if FULL else 10,
    deadline=None,
    # A kill depends on timing: a smaller example would not reproduce the failure.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_a_kill_during_the_first_build_leaves_no_archive_or_a_whole_one(tmp_path: Path) -> None:
    survey = Survey(tmp_path)
    survey.recipe.write_text(RECIPE)
    for tile, content in first_contents().items():
        survey.write_all(tile, content)
    archive = tmp_path / "archive"
    command = [sys.executable, "-c", "from archive_builder.cli.main import main; main()", "build"]
    process = subprocess.Popen([*command, str(survey.recipe), str(archive)], start_new_session=True)
    while not archive.exists() and process.poll() is None:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    try:
        assert {finding.kind for finding in verify(archive)} <= {"orphan"}
    except NoArchiveError as error:
        assert "\n" not in str(error)
    report = build(survey.recipe, archive)
    assert (report.built + report.unchanged, report.failures) == (2, {})
    assert list(verify(archive, deep=True)) == []
