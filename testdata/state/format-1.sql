-- A state file as format 1 left it.
CREATE TABLE run (id INTEGER PRIMARY KEY AUTOINCREMENT, sync TEXT NOT NULL, started TEXT NOT NULL, ended TEXT,
                  outcome TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE checkpoint (sync TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE link (mapping TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL, base BLOB NOT NULL,
                   seen INTEGER NOT NULL, UNIQUE (mapping, source));
CREATE TABLE dead_letter (id INTEGER PRIMARY KEY AUTOINCREMENT, sync TEXT NOT NULL, run INTEGER NOT NULL,
                          state TEXT NOT NULL, key TEXT NOT NULL, op TEXT NOT NULL, record TEXT NOT NULL,
                          code TEXT NOT NULL, message TEXT NOT NULL, at TEXT NOT NULL);
CREATE INDEX dead_letter_key ON dead_letter (sync, key);
CREATE TABLE work (sync TEXT NOT NULL, work TEXT NOT NULL, UNIQUE (sync, work));
INSERT INTO run VALUES (1, 'orders_in', '2026-11-20T10:00:00+00:00', '2026-11-20T10:00:05+00:00', 'green', '{}');
INSERT INTO checkpoint VALUES ('orders_in', '{"since":"2026-11-20T09:59:00.000Z","open":null}');
INSERT INTO link VALUES ('orders_in', 'O-00001', 'O-00001', x'0102030405060708', 1);
INSERT INTO dead_letter VALUES (1, 'orders_in', 1, 'dead', 'O-00002', 'upsert', '{"id":"O-00002"}', 'STRING_TOO_LONG',
                                'Model__c: 150 characters, 120 fit', '2026-11-20T10:00:04+00:00');
PRAGMA user_version = 1;
