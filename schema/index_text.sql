-- The table `objects` of an archive whose object IDs are text, in place of the one of index.sql.

DROP TABLE objects;

CREATE TABLE objects (
    object_id TEXT PRIMARY KEY NOT NULL,  -- in the order of the bytes in UTF-8
    tile_id   INTEGER NOT NULL,           -- as in index.sql
    row       INTEGER NOT NULL,
    status    INTEGER NOT NULL
) WITHOUT ROWID;
