"""Readers during rebuilds of their tiles: every cutout is wholly the old version or the new one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.survey.demo import make_survey

FULL = os.environ.get("ARCHIVE_BUILDER_FAULTS") == "full"
READERS, REBUILDS = (8, 50) if FULL else (2, 4)
BANDS = ("r", "i")
BRIGHTER = np.array([1000.0, 3000.0])
"""Increase of each band from one version to the next, image units: thousands of quantization steps."""

SIZE = 64
"""Side of the archived cutouts, px."""


@dataclass(frozen=True)
class Scene:
    """Files shared by readers and builder: the first version of the survey, and the builder's progress."""

    folder: Path

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    def say(self, begun: int, done: int, over: bool = False) -> None:
        """Publish the version that is being built and the version that is complete."""
        fresh = self.folder / "news.new"
        fresh.write_text(json.dumps([begun, done, over]))
        fresh.replace(self.folder / "news")

    def news(self) -> tuple[int, int, bool]:
        begun, done, over = json.loads((self.folder / "news").read_text())
        return begun, done, over

    def first_pixels(self) -> dict[str, NDArray[Any]]:
        """Return each tile's pixels (bands, ny, nx) in the first version."""
        with np.load(self.folder / "first.npz") as file:
            return dict(file)


# ---- a reader, in a process of its own


class Reader:
    """Sends random queries to an open archive and compares the answers with the source."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self._scene, self._first, self._chance = scene, scene.first_pixels(), random.Random(seed)
        self._archive = Archive(scene.archive)
        self._ids = [int(n) for batch in self._archive.batches() for n in batch.object_id]
        cutouts = {n: self._archive.get(n) for n in self._ids}
        self._tile = {n: cutout.tile for n, cutout in cutouts.items()}
        self._origin = {n: cutout.origin for n, cutout in cutouts.items()}
        self._step = np.array([max(c.step[band] for c in cutouts.values()) for band in BANDS])
        self._latest = dict.fromkeys(self._first, 0)
        self.lookups = {"get": 0, "get_many": 0, "locate": 0}
        self.versions: set[int] = set()
        self.changes = 0
        self.errors: list[str] = []

    def run(self) -> None:
        """Send queries until the builder is done, then one more."""
        print("ready", flush=True)
        over = False
        while not over:
            over = self._scene.news()[2]
            kind = self._chance.choice(list(self.lookups))
            try:
                getattr(self, f"_{kind}")()
            except Exception as error:  # every error is a failure of the claim
                self.errors.append(f"{kind}: {type(error).__name__}: {error}")
            self.lookups[kind] += 1

    def _get(self) -> None:
        object_id, oldest = self._chance.choice(self._ids), self._scene.news()[1]
        cutout = self._archive.get(object_id)
        self._check(object_id, cutout.data, oldest)
        if cutout.origin != self._origin[object_id] or cutout.object_id != object_id:
            self.errors.append(f"object {object_id} is elsewhere: {cutout.origin}")

    def _get_many(self) -> None:
        some, oldest = self._chance.choices(self._ids, k=self._chance.randint(1, 20)), self._scene.news()[1]
        cutouts = self._archive.get_many(some)
        versions = {(self._tile[n], self._check(n, data, oldest)) for n, data in zip(some, cutouts, strict=True)}
        if len(versions) != len({tile for tile, _ in versions}):
            self.errors.append(f"one answer has a tile in two versions: {versions}")

    def _locate(self) -> None:
        object_id, oldest = self._chance.choice(self._ids), self._scene.news()[1]
        where = self._archive.locate(object_id)
        generation = int(where.shard.name.split(".")[-2])
        if where.tile != self._tile[object_id] or not oldest + 1 <= generation <= self._scene.news()[0] + 1:
            self.errors.append(f"object {object_id} is at {where}")

    def _check(self, object_id: int, data: NDArray[Any], oldest: int) -> int:
        """Return the version of a cutout, after a check of all its pixels against that version of the source."""
        tile, (x0, y0) = self._tile[object_id], self._origin[object_id]
        whole = self._first[tile]
        padded = np.pad(whole, ((0, 0), (SIZE, SIZE), (SIZE, SIZE)), constant_values=np.nan)
        first = padded[:, y0 + SIZE : y0 + 2 * SIZE, x0 + SIZE : x0 + 2 * SIZE]
        version = round(float(np.nanmedian((data[0] - first[0]) / BRIGHTER[0])))
        off = np.abs(data - (first + version * BRIGHTER[:, None, None]))
        # The source is rounded to float32 after brightening; the cutout is off by up to half a step.
        bound = self._step[:, None, None] / 2 + np.spacing(np.float32(version * BRIGHTER.max() + 1e5))
        if not np.array_equal(np.isnan(data), np.isnan(first)) or (np.nan_to_num(off) > bound).any():
            self.errors.append(f"object {object_id} is of no version: {np.nanmax(off)} off {version}")
        youngest = self._scene.news()[0]
        if not max(oldest, self._latest[tile]) <= version <= youngest:
            self.errors.append(
                f"object {object_id} is of version {version}, not {oldest} to {youngest}, after {self._latest[tile]}"
            )
        self.changes += version != self._latest[tile]
        self._latest[tile] = version
        self.versions.add(version)
        return version


# ---- the builder


def brighten(survey: Path, first: dict[str, NDArray[Any]], version: int) -> None:
    """Write the images of every tile in a version."""
    for tile, pixels in first.items():
        for number, band in enumerate(BANDS):
            (path,) = (survey / tile).glob(f"*_{band}.fits*")
            header = fits.getheader(path, "SCI")
            image = fits.ImageHDU((pixels[number] + version * BRIGHTER[number]).astype(np.float32), header, name="SCI")
            fits.HDUList([fits.PrimaryHDU(), image]).writeto(path.with_suffix(".new"), overwrite=True)
            path.with_suffix(".new").replace(path)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A survey of two tiles and its archive."""
    survey = tmp_path / "survey"
    recipe = make_survey(survey, tiles=2, tile_size=300, objects=60, seed=5)
    text = recipe.read_text().replace('bands = ["g", "r", "i", "z", "Y"]', f"bands = {json.dumps(BANDS)}")
    recipe.write_text(text.replace('size = "1 arcmin"', f"size = {SIZE}"))
    first = {
        tile.name: np.array([fits.getdata(next(tile.glob(f"*_{band}.fits*")), "SCI") for band in BANDS], dtype=float)
        for tile in survey.iterdir()
        if tile.is_dir()
    }
    np.savez(tmp_path / "first.npz", **first)
    scene = Scene(tmp_path)
    assert build(recipe, scene.archive).failures == {}
    scene.say(0, 0)
    return scene


def test_readers_get_the_old_or_the_new_cutout_while_their_tiles_are_rebuilt(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, __file__, str(scene.folder)]
    readers = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True) for seed in range(READERS)]
    assert [reader.stdout and reader.stdout.readline() for reader in readers] == ["ready\n"] * READERS
    first, survey = scene.first_pixels(), scene.folder / "survey"
    try:
        for version in range(1, REBUILDS + 1):
            brighten(survey, first, version)
            scene.say(version, version - 1)
            report = build(survey / "survey.toml", scene.archive, force=True)
            assert (report.built, report.failures) == (len(first), {})
            scene.say(version, version)
    finally:
        scene.say(REBUILDS, REBUILDS, over=True)
        said = [json.loads(reader.communicate()[0]) for reader in readers]
    lookups = {kind: sum(one["lookups"][kind] for one in said) for kind in said[0]["lookups"]}
    with capsys.disabled():
        print(f"\n{REBUILDS} rebuilds, {READERS} readers: {lookups}, {[one['changes'] for one in said]} changes seen")
    assert [one["errors"] for one in said] == [[]] * READERS
    for one in said:
        assert min(one["lookups"].values()) > REBUILDS
        assert len(one["versions"]) > REBUILDS // 2


if __name__ == "__main__":
    reader = Reader(Scene(Path(sys.argv[1])), int(sys.argv[2]))
    reader.run()
    said = {name: getattr(reader, name) for name in ("lookups", "changes", "errors")}
    print(json.dumps(said | {"versions": sorted(reader.versions)}))
