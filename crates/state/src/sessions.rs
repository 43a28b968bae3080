//! Who is signed in to the console. Of what their browser holds only its SHA-256 is kept, so that sessions outlive a restart and a
//! copy of the file opens none of them.

use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{OptionalExtension as _, TransactionBehavior, params};
use serde::Serialize;
use serde_json::json;

use crate::audit::{self, Happened};
use crate::tokens::Role;
use crate::{Result, Store};

/// A session that nobody used for so long is over.
const IDLE: TimeDelta = TimeDelta::hours(8);
/// A session is over after so long, used or not: what somebody may do may have changed since.
const LONGEST: TimeDelta = TimeDelta::hours(24);
/// How exactly it is known when one was used last: looking at a page is no reason to write each time.
const NOTED: TimeDelta = TimeDelta::minutes(5);
/// Most sessions; the one unused for longest goes for a new one.
const MOST: u32 = 1_000;
/// Bytes of a hash that are enough to tell sessions apart.
const ID_BYTES: usize = 8;

/// Somebody who is signed in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Session {
    /// What tells it from others; nobody can use it to be somebody.
    pub id: String,
    /// Who.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The number of the token that they signed in with; `None` for those whom somebody else vouches for.
    pub token: Option<i64>,
    /// What tells who vouches for them, and what that gives them, from others.
    #[serde(skip)]
    pub voucher: Option<String>,
    /// When it began, in RFC 3339.
    pub began: String,
    /// When it was last used, give or take five minutes, in RFC 3339.
    pub used: String,
}

/// What stands behind a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vouched {
    /// The token with this number.
    Token(i64),
    /// Somebody else, told from others by this.
    By(String),
}

fn hash_of(secret: &str) -> Vec<u8> {
    digest(&SHA256, secret.as_bytes()).as_ref().to_vec()
}

/// Returns what the forms of a session carry, which nobody can tell who does not hold its secret.
pub fn form_proof(secret: &str) -> String {
    audit::hex(&hash_of(&format!("form {secret}")))
}

impl Store {
    /// Begins a session of somebody with a token, or for whom somebody vouches; `secret` is what the browser holds.
    pub fn begin_session(&self, name: &str, role: Role, by: &Vouched, secret: &str) -> Result<()> {
        let (token, voucher) = match by {
            Vouched::Token(id) => (Some(*id), None),
            Vouched::By(voucher) => (None, Some(voucher)),
        };
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let now = Utc::now().to_rfc3339();
            let sql = "DELETE FROM session WHERE hash NOT IN (SELECT hash FROM session ORDER BY used DESC LIMIT ?1)";
            transaction.execute(sql, [MOST - 1])?;
            let sql = "INSERT INTO session (hash, name, role, token, voucher, began, used) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)";
            transaction.execute(sql, params![hash_of(secret), name, role.word(), token, voucher, now])?;
            let told = json!({"signed_in": name, "role": role.word(), "token": token});
            audit::append(&transaction, name, Happened::Access, None, None, &told)?;
            transaction.commit()
        })
    }

    /// Returns the session with this secret, if it is still good at this time, and notes that it was used.
    pub fn session(&self, secret: &str, now: DateTime<Utc>) -> Result<Option<Session>> {
        let hash = hash_of(secret);
        self.with(|db| {
            let sql =
                "SELECT hash, name, role, token, voucher, began, used FROM session WHERE hash = ?1 AND used > ?2 AND began > ?3";
            let since = [IDLE, LONGEST].map(|span| (now - span).to_rfc3339());
            let found = db.prepare_cached(sql)?.query_row(params![hash, since[0], since[1]], session).optional()?;
            if found.as_ref().is_some_and(|session| session.used < (now - NOTED).to_rfc3339()) {
                db.execute("UPDATE session SET used = ?2 WHERE hash = ?1", params![hash, now.to_rfc3339()])?;
            }
            Ok(found)
        })
    }

    /// Ends a session.
    pub fn end_session(&self, secret: &str) -> Result<()> {
        self.with(|db| db.execute("DELETE FROM session WHERE hash = ?1", [hash_of(secret)])).map(drop)
    }

    /// Ends the session of somebody else; false where there is none that is called so.
    pub fn sign_out(&self, id: &str) -> Result<bool> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = "DELETE FROM session WHERE lower(hex(substr(hash, 1, ?2))) = ?1 RETURNING name";
            let name: Option<String> =
                transaction.query_row(sql, params![id, ID_BYTES as i64], |row| row.get(0)).optional()?;
            if let Some(name) = &name {
                let told = json!({"signed_out": name});
                audit::append(&transaction, &self.actor, Happened::Access, None, None, &told)?;
            }
            transaction.commit()?;
            Ok(name.is_some())
        })
    }

    /// Returns who is signed in, the last used first.
    pub fn sessions(&self, now: DateTime<Utc>) -> Result<Vec<Session>> {
        self.with(|db| {
            let sql =
                "SELECT hash, name, role, token, voucher, began, used FROM session WHERE used > ?1 AND began > ?2 ORDER BY used DESC";
            let since = [IDLE, LONGEST].map(|span| (now - span).to_rfc3339());
            db.prepare_cached(sql)?.query_map(since, session)?.collect()
        })
    }
}

fn session(row: &rusqlite::Row<'_>) -> rusqlite::Result<Session> {
    Ok(Session {
        id: audit::hex(row.get::<_, Vec<u8>>(0)?.get(..ID_BYTES).unwrap_or_default()),
        name: row.get(1)?,
        role: Role::of(&row.get::<_, String>(2)?),
        token: row.get(3)?,
        voucher: row.get(4)?,
        began: row.get(5)?,
        used: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_outlives_a_restart_and_ends_when_nobody_uses_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        Store::open(&path).unwrap().begin_session("ada", Role::Operator, &Vouched::Token(3), "s3cret").unwrap();
        let store = Store::open(&path).unwrap();
        let now = Utc::now();
        let found = store.session("s3cret", now).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.role, found.token), ("ada", Role::Operator, Some(3)));
        assert!(store.session("s3cre", now).unwrap().is_none());
        // Used after seven hours it goes on for eight more.
        let later = now + TimeDelta::hours(7);
        assert!(store.session("s3cret", later).unwrap().is_some());
        assert!(store.session("s3cret", later + TimeDelta::hours(7)).unwrap().is_some());
        assert!(store.session("s3cret", later + TimeDelta::hours(16)).unwrap().is_none());
        // A day is the most, however often it is used.
        assert!(store.session("s3cret", later + TimeDelta::hours(14)).unwrap().is_some());
        assert!(store.session("s3cret", later + TimeDelta::hours(18)).unwrap().is_none());
        assert_eq!(store.sessions(now).unwrap().len(), 1);
        store.begin_session("eve", Role::Viewer, &Vouched::By("p".to_owned()), "other").unwrap();
        let eve = store.session("other", now).unwrap().unwrap();
        assert_eq!((eve.voucher.as_deref(), eve.token), (Some("p"), None));
        let eve = eve.id;
        assert!(store.acting_as("ada").sign_out(&eve).unwrap() && !store.sign_out(&eve).unwrap());
        assert!(store.session("other", now).unwrap().is_none());
        store.end_session("s3cret").unwrap();
        assert!(store.session("s3cret", now).unwrap().is_none());
        assert!(!format!("{:?}", store.audit_after(0).unwrap()).contains("s3cret"));
    }

    #[test]
    fn the_session_unused_for_longest_goes_for_a_new_one() {
        let store = Store::in_memory().unwrap();
        for at in 0..=MOST {
            store.begin_session("ada", Role::Viewer, &Vouched::Token(1), &at.to_string()).unwrap();
        }
        let now = Utc::now();
        assert_eq!(store.sessions(now).unwrap().len(), MOST as usize);
        assert!(store.session("0", now).unwrap().is_none() && store.session("1", now).unwrap().is_some());
    }
}
