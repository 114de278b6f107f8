-- The tables `objects` and `elsewhere` of an archive whose object IDs are text, in place of those of index.sql.

DROP TABLE objects;

CREATE TABLE objects (
    object_id TEXT PRIMARY KEY NOT NULL,  -- in the order of the bytes in UTF-8
    tile_id   INTEGER NOT NULL,           -- the rest as in index.sql
    row       INTEGER NOT NULL,
    status    INTEGER NOT NULL
) WITHOUT ROWID;

DROP TABLE elsewhere;

CREATE TABLE elsewhere (
    tile_id   INTEGER NOT NULL,
    object_id TEXT    NOT NULL,
    PRIMARY KEY (tile_id, object_id)
) WITHOUT ROWID;

CREATE INDEX elsewhere_object ON elsewhere (object_id);
