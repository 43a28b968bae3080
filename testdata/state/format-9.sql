-- A state file as format 9 left it.
BEGIN TRANSACTION;
CREATE TABLE about (id TEXT NOT NULL);
INSERT INTO about VALUES('0a1b2c3d');
CREATE TABLE audit (id INTEGER PRIMARY KEY, at TEXT NOT NULL, actor TEXT NOT NULL, what TEXT NOT NULL, sync TEXT,
                        run INTEGER, body TEXT NOT NULL, before BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE audit_head (last INTEGER NOT NULL, hash BLOB NOT NULL);
CREATE TABLE catalog (sync TEXT NOT NULL, side INTEGER NOT NULL, body TEXT NOT NULL, UNIQUE (sync, side));
CREATE TABLE checkpoint (sync TEXT PRIMARY KEY, body TEXT NOT NULL);
INSERT INTO checkpoint VALUES('orders_in','{"since":"2026-11-20T09:59:00.000Z","open":null,"mapping":7,"refreshed":null}');
CREATE TABLE conflict (id INTEGER PRIMARY KEY AUTOINCREMENT, sync TEXT NOT NULL, run INTEGER NOT NULL,
                           salesforce TEXT NOT NULL, external TEXT NOT NULL, field TEXT NOT NULL, base TEXT,
                           salesforce_value TEXT, external_value TEXT, winner TEXT, state TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE dead_letter (id INTEGER PRIMARY KEY AUTOINCREMENT, sync TEXT NOT NULL, run INTEGER NOT NULL,
                              state TEXT NOT NULL, key TEXT NOT NULL, op TEXT NOT NULL, record TEXT NOT NULL,
                              code TEXT NOT NULL, message TEXT NOT NULL, at TEXT NOT NULL, source TEXT);
INSERT INTO dead_letter VALUES(1,'orders_in',1,'dead','O-00002','upsert','{"id":"O-00002"}','STRING_TOO_LONG','Model__c: 150 characters, 120 fit','2026-11-20T10:00:04+00:00',NULL);
CREATE TABLE image (id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, side INTEGER NOT NULL,
                        salesforce TEXT NOT NULL, external TEXT NOT NULL, op TEXT NOT NULL, before TEXT NOT NULL,
                        after TEXT NOT NULL);
INSERT INTO image VALUES(1,1,0,'a0xSb0000000001IAA','O-00001','update','{"Stage__c":"P"}','{"Stage__c":"S"}');
CREATE TABLE intent (mapping TEXT NOT NULL, salesforce TEXT NOT NULL, external TEXT NOT NULL, body BLOB NOT NULL,
                         UNIQUE (mapping, salesforce, external));
CREATE TABLE layout (id INTEGER PRIMARY KEY, mapping TEXT NOT NULL, fields TEXT NOT NULL, UNIQUE (mapping, fields));
CREATE TABLE link (mapping TEXT NOT NULL, salesforce TEXT NOT NULL, external TEXT NOT NULL, side INTEGER NOT NULL,
                       base BLOB NOT NULL, seen_salesforce INTEGER NOT NULL DEFAULT 0,
                       seen_external INTEGER NOT NULL DEFAULT 0,
                       UNIQUE (mapping, salesforce), UNIQUE (mapping, external));
INSERT INTO link VALUES('orders','a0xSb0000000001IAA','O-00001',0,X'0102030405060708',1,1);
CREATE TABLE link_value (mapping TEXT NOT NULL, salesforce TEXT NOT NULL, body TEXT NOT NULL,
                             UNIQUE (mapping, salesforce));
CREATE TABLE merged (mapping TEXT NOT NULL, external TEXT NOT NULL, into_external TEXT NOT NULL,
                         UNIQUE (mapping, external));
CREATE TABLE paused (sync TEXT PRIMARY KEY, at TEXT NOT NULL, why TEXT NOT NULL);
INSERT INTO paused VALUES('orders_in','2026-11-20T11:00:00+00:00','stocktaking');
CREATE TABLE planned (sync TEXT PRIMARY KEY, due TEXT NOT NULL);
INSERT INTO planned VALUES('orders_in','2026-11-20T12:00:00+00:00');
CREATE TABLE reconciliation (id INTEGER PRIMARY KEY AUTOINCREMENT, sync TEXT NOT NULL, at TEXT NOT NULL,
                                 agrees INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE revisit (sync TEXT NOT NULL, side INTEGER NOT NULL, key TEXT NOT NULL, soon INTEGER NOT NULL,
                          UNIQUE (sync, side, key));
CREATE TABLE run (id INTEGER PRIMARY KEY AUTOINCREMENT, sync TEXT NOT NULL, started TEXT NOT NULL, ended TEXT,
                      outcome TEXT NOT NULL, body TEXT NOT NULL);
INSERT INTO run VALUES(1,'orders_in','2026-11-20T10:00:00+00:00','2026-11-20T10:00:05+00:00','green','{"counts":{"read":2}}');
CREATE TABLE stream (sync TEXT NOT NULL, side INTEGER NOT NULL, body TEXT NOT NULL, ended INTEGER NOT NULL,
                         at TEXT NOT NULL, UNIQUE (sync, side));
CREATE TABLE token (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, role TEXT NOT NULL, hash BLOB NOT NULL UNIQUE,
                        made TEXT NOT NULL, expires TEXT NOT NULL, revoked INTEGER NOT NULL DEFAULT 0);
CREATE TABLE version (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, author TEXT NOT NULL, reason TEXT NOT NULL,
                          digest TEXT NOT NULL, files TEXT NOT NULL);
INSERT INTO version VALUES(1,'2026-11-20T08:00:00+00:00','ada','first','0f','{"bridgehead.yaml":"version: 1"}');
CREATE TABLE work (sync TEXT NOT NULL, work TEXT NOT NULL, UNIQUE (sync, work));
CREATE TABLE deployment (id INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL, at TEXT NOT NULL,
                             author TEXT NOT NULL, reason TEXT NOT NULL);
INSERT INTO deployment VALUES(1,1,'2026-11-20T08:00:00+00:00','ada','first');
CREATE TABLE alert (rule TEXT NOT NULL, sync TEXT NOT NULL, since TEXT NOT NULL, text TEXT NOT NULL, told INTEGER NOT NULL,
                        PRIMARY KEY (rule, sync));
INSERT INTO alert VALUES('failure','orders_in','2026-11-20T10:00:00+00:00','the last run failed',1);
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('dead_letter',1);
INSERT INTO sqlite_sequence VALUES('image',1);
INSERT INTO sqlite_sequence VALUES('run',1);
INSERT INTO sqlite_sequence VALUES('version',1);
INSERT INTO sqlite_sequence VALUES('deployment',1);
CREATE INDEX dead_letter_key ON dead_letter (sync, key);
CREATE INDEX dead_letter_state ON dead_letter (sync, state, id);
CREATE INDEX conflict_pair ON conflict (sync, salesforce, field);
CREATE INDEX conflict_state ON conflict (sync, state, id);
CREATE INDEX image_pair ON image (run, external, id);
CREATE INDEX reconciliation_sync ON reconciliation (sync, id);
CREATE INDEX audit_sync ON audit (sync, id) WHERE sync IS NOT NULL;
CREATE INDEX audit_run ON audit (run, id) WHERE run IS NOT NULL;
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'entries of the audit chain stay'); END;
CREATE TRIGGER audit_goes BEFORE DELETE ON audit
    WHEN OLD.id > coalesce((SELECT json_extract(body, '$.through') FROM audit WHERE what = 'pruned' ORDER BY id DESC LIMIT 1), 0)
    BEGIN SELECT RAISE(ABORT, 'entries of the audit chain stay'); END;
CREATE INDEX run_sync ON run (sync, id);
CREATE INDEX conflict_held ON conflict (state, id, sync) WHERE state = 'held';
CREATE INDEX image_record ON image (external, id);
CREATE INDEX run_outcome ON run (sync, outcome, id);
CREATE TABLE session (hash BLOB PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, token INTEGER, began TEXT NOT NULL,
                          used TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO session VALUES(X'2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b','ada','operator',3,'2026-11-20T10:00:00+00:00','2026-11-20T10:00:00+00:00');
INSERT INTO session VALUES(X'6cb63a0dc9a4b1ef26a2b4e5fcf0cb0d66eb5d5f5b2f39bd1db0a1a0e9e0c1f2','eve','admin',NULL,'2026-11-20T10:00:00+00:00','2026-11-20T10:00:00+00:00');
CREATE INDEX session_used ON session (used);
CREATE INDEX run_started ON run (started, sync);
CREATE INDEX audit_what ON audit (what, id);
COMMIT;
PRAGMA user_version = 9;
