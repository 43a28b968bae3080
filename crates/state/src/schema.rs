//! The tables, and the steps from one format of the file to the next.

use rusqlite::{Connection, TransactionBehavior};

/// The steps; the format of a file is the number of steps that it has taken.
const STEPS: &[&str] = &[
    "
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
",
    "
    -- A link ties the two records of a mapping, whichever way they were written. Those of format 1 named a sync and
    -- the keys of its source and target, from which the record's id can't be told: every sync reads everything once.
    DROP TABLE link;
    DELETE FROM checkpoint;
    CREATE TABLE link (mapping TEXT NOT NULL, salesforce TEXT NOT NULL, external TEXT NOT NULL, side INTEGER NOT NULL,
                       base BLOB NOT NULL, seen_salesforce INTEGER NOT NULL DEFAULT 0,
                       seen_external INTEGER NOT NULL DEFAULT 0,
                       UNIQUE (mapping, salesforce), UNIQUE (mapping, external));
    CREATE TABLE catalog (sync TEXT NOT NULL, side INTEGER NOT NULL, body TEXT NOT NULL, UNIQUE (sync, side));
    CREATE INDEX dead_letter_state ON dead_letter (sync, state, id);
",
    "
    CREATE TABLE layout (id INTEGER PRIMARY KEY, mapping TEXT NOT NULL, fields TEXT NOT NULL, UNIQUE (mapping, fields));
    CREATE TABLE link_value (mapping TEXT NOT NULL, salesforce TEXT NOT NULL, body TEXT NOT NULL,
                             UNIQUE (mapping, salesforce));
    CREATE TABLE intent (mapping TEXT NOT NULL, salesforce TEXT NOT NULL, external TEXT NOT NULL, body BLOB NOT NULL,
                         UNIQUE (mapping, salesforce, external));
    CREATE TABLE conflict (id INTEGER PRIMARY KEY AUTOINCREMENT, sync TEXT NOT NULL, run INTEGER NOT NULL,
                           salesforce TEXT NOT NULL, external TEXT NOT NULL, field TEXT NOT NULL, base TEXT,
                           salesforce_value TEXT, external_value TEXT, winner TEXT, state TEXT NOT NULL, at TEXT NOT NULL);
    CREATE INDEX conflict_pair ON conflict (sync, salesforce, field);
    CREATE INDEX conflict_state ON conflict (sync, state, id);
    CREATE TABLE revisit (sync TEXT NOT NULL, side INTEGER NOT NULL, key TEXT NOT NULL, soon INTEGER NOT NULL,
                          UNIQUE (sync, side, key));
",
    "
    -- What this file is known by in other systems.
    CREATE TABLE about (id TEXT NOT NULL);
    INSERT INTO about VALUES (lower(hex(randomblob(4))));
    -- What records were before a run wrote to them.
    CREATE TABLE image (id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, side INTEGER NOT NULL,
                        salesforce TEXT NOT NULL, external TEXT NOT NULL, op TEXT NOT NULL, before TEXT NOT NULL,
                        after TEXT NOT NULL);
    CREATE INDEX image_pair ON image (run, external, id);
    -- External records whose Salesforce record was merged into that of another.
    CREATE TABLE merged (mapping TEXT NOT NULL, external TEXT NOT NULL, into_external TEXT NOT NULL,
                         UNIQUE (mapping, external));
",
    "
    -- What streams of changes do, for people to look at.
    CREATE TABLE stream (sync TEXT NOT NULL, side INTEGER NOT NULL, body TEXT NOT NULL, ended INTEGER NOT NULL,
                         at TEXT NOT NULL, UNIQUE (sync, side));
",
    "
    -- What came of comparing both sides of a sync.
    CREATE TABLE reconciliation (id INTEGER PRIMARY KEY AUTOINCREMENT, sync TEXT NOT NULL, at TEXT NOT NULL,
                                 agrees INTEGER NOT NULL, body TEXT NOT NULL);
    CREATE INDEX reconciliation_sync ON reconciliation (sync, id);
",
    "
    -- The audit chain. Entries stay as they are, and go only from its beginning, behind an entry that says so.
    CREATE TABLE audit (id INTEGER PRIMARY KEY, at TEXT NOT NULL, actor TEXT NOT NULL, what TEXT NOT NULL, sync TEXT,
                        run INTEGER, body TEXT NOT NULL, before BLOB NOT NULL, hash BLOB NOT NULL);
    CREATE INDEX audit_sync ON audit (sync, id) WHERE sync IS NOT NULL;
    CREATE INDEX audit_run ON audit (run, id) WHERE run IS NOT NULL;
    CREATE TABLE audit_head (last INTEGER NOT NULL, hash BLOB NOT NULL);
    CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'entries of the audit chain stay'); END;
    CREATE TRIGGER audit_goes BEFORE DELETE ON audit
    WHEN OLD.id > coalesce((SELECT json_extract(body, '$.through') FROM audit WHERE what = 'pruned' ORDER BY id DESC LIMIT 1), 0)
    BEGIN SELECT RAISE(ABORT, 'entries of the audit chain stay'); END;
    -- Syncs that are paused, with why.
    CREATE TABLE paused (sync TEXT PRIMARY KEY, at TEXT NOT NULL, why TEXT NOT NULL);
    -- Versions of the configuration that were put to work.
    CREATE TABLE version (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, author TEXT NOT NULL, reason TEXT NOT NULL,
                          digest TEXT NOT NULL, files TEXT NOT NULL);
    -- Which run a schedule asked for last, so that none is missed or doubled.
    CREATE TABLE planned (sync TEXT PRIMARY KEY, due TEXT NOT NULL);
    CREATE TABLE token (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, role TEXT NOT NULL, hash BLOB NOT NULL UNIQUE,
                        made TEXT NOT NULL, expires TEXT NOT NULL, revoked INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX run_sync ON run (sync, id);
",
    "
    -- When which version was put to work; the last is at work.
    CREATE TABLE deployment (id INTEGER PRIMARY KEY AUTOINCREMENT, version INTEGER NOT NULL, at TEXT NOT NULL,
                             author TEXT NOT NULL, reason TEXT NOT NULL);
    -- Alerts that hold, and whether people were told.
    CREATE TABLE alert (rule TEXT NOT NULL, sync TEXT NOT NULL, since TEXT NOT NULL, text TEXT NOT NULL, told INTEGER NOT NULL,
                        PRIMARY KEY (rule, sync));
    -- What a dead letter held as it was read, where a person mended it since.
    ALTER TABLE dead_letter ADD COLUMN source TEXT;
    -- Conflicts that wait for a person, among all that were met.
    CREATE INDEX conflict_held ON conflict (state, id, sync) WHERE state = 'held';
    CREATE INDEX image_record ON image (external, id);
    CREATE INDEX run_outcome ON run (sync, outcome, id);
",
    "
    -- Who is signed in to the console, by the hash of what their browser holds.
    CREATE TABLE session (hash BLOB PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, token INTEGER, began TEXT NOT NULL,
                          used TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX session_used ON session (used);
    -- The runs of a day, for what they spent of its calls.
    CREATE INDEX run_started ON run (started, sync);
    CREATE INDEX audit_what ON audit (what, id);
",
    "
    -- By whose word somebody is signed in who has no token; who was before is asked again.
    ALTER TABLE session ADD COLUMN voucher TEXT;
    -- Dead letters by their reason, for who looks for many of one kind.
    CREATE INDEX dead_letter_code ON dead_letter (code, sync, state, id);
",
];

/// The format that this version writes.
pub(crate) const FORMAT: i64 = STEPS.len() as i64;

/// Takes the steps that the file has not taken, each in a transaction, and returns its format. Another process may be
/// doing the same: the format is read again once the file is ours.
pub(crate) fn migrate(connection: &mut Connection) -> rusqlite::Result<i64> {
    let format_of = |db: &Connection| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    let mut format = format_of(connection)?;
    while format < FORMAT {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        format = format_of(&transaction)?;
        if let Some(step) = usize::try_from(format).ok().and_then(|at| STEPS.get(at)) {
            transaction.execute_batch(step)?;
            format += 1;
            transaction.pragma_update(None, "user_version", format)?;
        }
        transaction.commit()?;
    }
    Ok(format)
}
