"""Contents of an archive: length, membership, IDs, repr and a notebook's table."""

import gc
import os
import pickle
import shutil
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from archive_builder import Archive, ArchiveError, RequestError
from archive_builder.store.index import Index

STATUS = {"stored": 0, "noise": 1, "blank": 2, "outside": 3}


@pytest.fixture
def archive(demo_archive: Path) -> Iterator[Archive]:
    with Archive(demo_archive) as opened:
        yield opened


def ask(archive: Path, question: str) -> list[tuple]:
    with closing(sqlite3.connect(archive / "index.sqlite")) as db:
        return db.execute(question).fetchall()


def change(archive: Path, statement: str) -> None:
    with closing(sqlite3.connect(archive / "index.sqlite")) as db, db:
        db.execute(statement)


@pytest.fixture
def own_archive(demo_archive: Path, tmp_path: Path) -> Path:
    """Folder of a copy of the archive that the test may change."""
    return Path(shutil.copytree(demo_archive, tmp_path / "archive"))


# ---- len, in, ids


def test_length_is_the_number_of_objects_with_a_cutout(archive: Archive) -> None:
    assert len(archive) == ask(archive.path, "SELECT count(*) FROM objects WHERE status = 0")[0][0] > 0


def test_an_object_is_in_the_archive_if_it_has_a_cutout(archive: Archive) -> None:
    rows = ask(archive.path, "SELECT object_id, status FROM objects")
    assert {status for _, status in rows} >= {0, 1, 2}
    for object_id, status in rows:
        for same in (object_id, np.int64(object_id), np.uint32(object_id)):
            assert (same in archive) == (status == 0)


@pytest.mark.parametrize(
    "thing", [17, -1, "abc", "353000001", 1.5, 353000001.0, None, [353000001], 2**63, 2**70, -(2**63) - 1, np.nan, ()]
)
def test_anything_but_a_known_id_is_not_in_the_archive(archive: Archive, thing: object) -> None:
    assert thing not in archive


@pytest.mark.parametrize("status", ["stored", "noise", "blank", "outside", "any"])
def test_ids_of_a_status_equal_those_in_the_index(archive: Archive, status: str) -> None:
    condition = "" if status == "any" else f"WHERE status = {STATUS[status]}"
    expected = [n for (n,) in ask(archive.path, f"SELECT object_id FROM objects {condition} ORDER BY object_id")]
    ids = archive.ids(status)
    assert ids.dtype == np.int64
    assert ids.tolist() == expected


def test_ids_of_objects_with_a_cutout_are_the_default(archive: Archive) -> None:
    np.testing.assert_array_equal(archive.ids(), archive.ids("stored"))
    assert len(archive.ids()) == len(archive) < len(archive.ids("any"))
    assert archive.get_many(archive.ids(), size=3).shape == (len(archive), 5, 3, 3)


@pytest.mark.parametrize("status", ["", "STORED", "skipped", None, 0, ["stored"]])
def test_unknown_status_is_refused_with_the_known_ones(archive: Archive, status: object) -> None:
    with pytest.raises(RequestError, match=r"give one of stored, noise, blank, outside, position, any$") as caught:
        archive.ids(status)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", ["stored", "any"])
def test_index_with_missing_objects_is_reported_as_damaged(own_archive: Path, status: str) -> None:
    change(own_archive, "DELETE FROM objects WHERE object_id = (SELECT min(object_id) FROM objects WHERE status = 0)")
    with (
        Archive(own_archive) as archive,
        pytest.raises(ArchiveError, match=r"its tiles count \d+: reindex the archive"),
    ):
        archive.ids(status)


def test_ids_read_during_a_commit_are_not_reported_as_damage(
    own_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, gone = Index.ids, ask(own_archive, "SELECT min(object_id) FROM objects WHERE status = 0")[0][0]

    def ids(index: Index, status: object) -> np.ndarray:
        change(own_archive, f"DELETE FROM objects WHERE object_id = {gone}")
        change(own_archive, "UPDATE tiles SET stored = stored - 1, generation = generation + 1 WHERE tile_id = 1")
        return plain(index, status)  # type: ignore[arg-type]

    with Archive(own_archive) as archive:
        before = archive.ids()
        monkeypatch.setattr(Index, "ids", ids)
        assert archive.ids().tolist() == [n for n in before.tolist() if n != gone]


# ---- forms of bands


@pytest.mark.parametrize("bands", ["gri", "g,r,i", " g, r ,i", ["g", "r", "i"], ("g", "r", "i"), np.array(list("gri"))])
def test_bands_may_be_a_text_a_sequence_or_an_array(archive: Archive, bands: object) -> None:
    ids = archive.ids()[:5]
    whole = archive.get_many(ids, size=8)[:, [0, 1, 2]]
    cutout = archive.get(ids[0], 8, bands)  # type: ignore[arg-type]
    assert cutout.bands == ("g", "r", "i")
    np.testing.assert_array_equal(cutout.data, whole[0])
    np.testing.assert_array_equal(archive.get_many(ids, 8, bands), whole)  # type: ignore[arg-type]
    at = archive.at((cutout.ra, cutout.dec), 8, bands)  # type: ignore[arg-type]
    assert at.bands == ("g", "r", "i")
    batch = next(iter(archive.batches(8, bands, batch_size=4, shuffle_seed=None)))  # type: ignore[arg-type]
    assert batch.data.shape == (4, 3, 8, 8)


def test_an_empty_tuple_of_bands_reads_no_pixels(archive: Archive) -> None:
    cutout = archive.get(archive.ids()[0], 8, ())
    assert (cutout.data.shape, cutout.bands) == ((0, 8, 8), ())
    assert cutout.color.shape == (8, 8, 3)
    assert archive.get_many(archive.ids()[:2], 8, ()).shape == (2, 0, 8, 8)


# ---- repr


def test_repr_of_an_archive_is_one_line_with_its_contents(archive: Archive) -> None:
    cutouts = ask(archive.path, "SELECT count(*) FROM objects WHERE status = 0")[0][0]
    assert repr(archive) == (f"<Archive '{archive.path}': Demo, 2 tiles, {cutouts} cutouts of 228 px in g, r, i, z, Y>")


def test_repr_of_an_unreadable_archive_raises_no_error(own_archive: Path) -> None:
    archive = Archive(own_archive)
    (own_archive / "index.sqlite").unlink()
    assert "not a cutout archive: its index.sqlite was removed" in repr(archive)
    assert "not a cutout archive: its index.sqlite was removed" in archive._repr_html_()
    archive.close()
    assert repr(archive) == f"<Archive '{own_archive}': closed>"
    assert "closed" in archive._repr_html_()
    assert (archive.path, archive.size, archive.bands) == (own_archive, 228, ("g", "r", "i", "z", "Y"))


def test_repr_of_a_location_and_of_a_batch_is_one_line(archive: Archive) -> None:
    object_id = int(archive.ids()[0])
    where = archive.locate(object_id)
    assert repr(where) == f"<Location of object {object_id}: tile {where.tile}, row {where.row}, stored>"
    assert repr(next(archive.batches(9, batch_size=16))) == "<Batch of 16 cutouts: 5 x 9 x 9>"


class Cells(HTMLParser):
    """Collects the texts and the tags of an HTML table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_notebook_shows_a_table_of_escaped_texts(demo_archive: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(demo_archive, tmp_path / "<b>bold & </td>"))
    with Archive(place) as archive:
        cells = Cells(archive._repr_html_())
        expected = {"archive": str(place), "survey": "Demo", "tiles": "2", "cutouts": str(len(archive))}
        expected |= {"bands": "g, r, i, z, Y", "size": "228 px", "layout": "mosaic"}
    assert cells.tags == {"table", "tr", "th", "td"}
    assert dict(zip(cells.texts[::2], cells.texts[1::2], strict=True)) == expected


# ---- the reader: paths, pickles, forks, closing


def test_path_may_be_a_text(demo_archive: Path) -> None:
    with Archive(str(demo_archive)) as archive:
        assert archive.path == demo_archive
        assert pickle.loads(pickle.dumps(archive)).path == demo_archive


def test_unclosed_archive_is_freed_with_its_last_reference(demo_archive: Path) -> None:
    archive = Archive(demo_archive)
    cutout = archive.get(archive.ids()[0], size=5)
    gone = weakref.ref(archive.reader)
    gc.disable()  # by reference counting alone: open files do not wait for the next collection
    try:
        del archive
        assert gone() is None
    finally:
        gc.enable()
    assert cutout.color.shape == (5, 5, 3)


def test_closed_archive_raises_an_error_and_may_be_closed_twice(demo_archive: Path) -> None:
    archive = Archive(demo_archive)
    archive.close()
    archive.close()
    for lookup in (lambda: archive.get(1), lambda: len(archive), lambda: 1 in archive, lambda: archive.ids()):
        with pytest.raises(RequestError, match="is closed: open it again"):
            lookup()


def test_forked_child_of_a_removed_archive_raises_an_error(own_archive: Path) -> None:
    archive = Archive(own_archive)
    shutil.rmtree(own_archive)
    child = os.fork()
    if child == 0:
        try:
            archive.get(1)
        except ArchiveError as error:
            os._exit(0 if "not a cutout archive" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    archive.close()
