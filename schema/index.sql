-- The index of a cutout archive: one SQLite file, index.sqlite, beside the folder of shards.
-- It holds nothing that the shards do not hold too, but for the tiles that could not be built and the history of builds.

CREATE TABLE IF NOT EXISTS settings (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL                 -- JSON
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS tiles (
    tile_id            INTEGER PRIMARY KEY,
    name               TEXT    NOT NULL UNIQUE,
    state              TEXT    NOT NULL CHECK (state IN ('built', 'failed')),  -- of the last attempt
    error              TEXT,            -- why the last attempt failed
    shard              TEXT    UNIQUE,  -- path below the archive; NULL while nothing of the tile is kept
    generation         INTEGER NOT NULL DEFAULT 0,  -- counts the shards this tile has had
    stored             INTEGER NOT NULL DEFAULT 0,  -- objects with a cutout
    skipped            INTEGER NOT NULL DEFAULT 0,  -- objects without
    skipped_for        TEXT,            -- JSON: those by reason, {"noise": 3, "blank": 0, "outside": 1}
    depth              TEXT,            -- JSON: per band, AB mag: the median at its objects; null where not measured
    input_fingerprint  TEXT,            -- of the files the shard was made from: paths, sizes, times
    input_hash         TEXT,            -- of their contents, if those were ever compared
    recipe_fingerprint TEXT,            -- of the settings it was made with
    footprint          TEXT,            -- JSON, four [ra, dec] in deg, ICRS: the corners
    bytes              INTEGER,         -- of the shard
    checksum           TEXT,            -- of the shard: crc32:xxxxxxxx
    seconds            REAL,            -- the build took
    peak_memory        INTEGER,         -- bytes, of the process that built it
    built_at           TEXT,            -- UTC, ISO 8601
    build_id           INTEGER          -- builds.build_id: of the last attempt
);

-- The builds there have been, for whoever wants to know how far one is.
CREATE TABLE IF NOT EXISTS builds (
    build_id INTEGER PRIMARY KEY,       -- they rise
    started  TEXT    NOT NULL,          -- UTC, ISO 8601
    finished TEXT,                      -- NULL while it is at work, and if it died
    planned  INTEGER NOT NULL           -- tiles it set out to build
);

-- 400 million rows: IDs and where they lead, nothing else. Positions are in the shards.
CREATE TABLE IF NOT EXISTS objects (
    object_id INTEGER PRIMARY KEY,
    tile_id   INTEGER NOT NULL,         -- tiles.tile_id
    row       INTEGER NOT NULL,         -- in the shard's /cutouts, or in its /skipped if status is not 0
    status    INTEGER NOT NULL          -- 0 stored, 1 noise, 2 blank, 3 outside
);
