-- The index of a cutout archive: one SQLite file, index.sqlite, beside the folder of shards.
-- The index can be rebuilt from the shards, except for the tiles that failed and the history of builds.

CREATE TABLE IF NOT EXISTS settings (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL                 -- JSON
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS tiles (
    tile_id            INTEGER PRIMARY KEY,
    name               TEXT    NOT NULL UNIQUE,
    state              TEXT    NOT NULL CHECK (state IN ('built', 'failed')),  -- outcome of the last attempt
    error              TEXT,            -- reason of the last failure
    shard              TEXT    UNIQUE,  -- path of the shard below the archive; NULL if the tile has none
    generation         INTEGER NOT NULL DEFAULT 0,  -- number of shards the tile has had
    stored             INTEGER NOT NULL DEFAULT 0,  -- objects with a cutout
    skipped            INTEGER NOT NULL DEFAULT 0,  -- catalogue rows without a cutout
    skipped_for        TEXT,            -- JSON: skipped by reason, {"noise": 3, "blank": 0, "outside": 1, "position": 0,
                                        -- "elsewhere": 2, "id": 0}; the rows of the last two are not in objects
    depth              TEXT,            -- JSON: depth per band, AB mag, the median at the objects; null if not measured
    input_fingerprint  TEXT,            -- fingerprint of the source files: paths, sizes, times
    input_hash         TEXT,            -- hash of the contents of the source files, if they were ever compared
    recipe_fingerprint TEXT,            -- fingerprint of the settings
    footprint          TEXT,            -- JSON: corners of the tile, four [ra, dec], deg, ICRS
    bytes              INTEGER,         -- size of the shard, bytes
    checksum           TEXT,            -- checksum of the shard, crc32:xxxxxxxx
    seconds            REAL,            -- wall time of the build, s
    peak_memory        INTEGER,         -- peak memory of the worker, bytes
    built_at           TEXT,            -- time of the build, UTC, ISO 8601
    build_id           INTEGER          -- builds.build_id of the last attempt
);

-- The history of builds.
CREATE TABLE IF NOT EXISTS builds (
    build_id INTEGER PRIMARY KEY,       -- later builds have larger numbers
    started  TEXT    NOT NULL,          -- start, UTC, ISO 8601
    finished TEXT,                      -- end, UTC, ISO 8601; NULL while the build runs, and if it was killed
    planned  INTEGER NOT NULL           -- tiles to build
);

-- 400 million rows with the place of each object and nothing else. Positions are in the shards.
CREATE TABLE IF NOT EXISTS objects (
    object_id INTEGER PRIMARY KEY,
    tile_id   INTEGER NOT NULL,         -- tiles.tile_id
    row       INTEGER NOT NULL,         -- row of the shard's /cutouts if status is 0, else of its /skipped
    status    INTEGER NOT NULL          -- 0 stored, 1 noise, 2 blank, 3 outside, 4 position
);

-- IDs that a tile's catalogue lists and another tile owns, for the next build: if the owner changes, it decides again.
CREATE TABLE IF NOT EXISTS elsewhere (
    tile_id   INTEGER NOT NULL,         -- tiles.tile_id
    object_id INTEGER NOT NULL,
    PRIMARY KEY (tile_id, object_id)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS elsewhere_object ON elsewhere (object_id);
