//! Tokens of the admin API: who may call it, as what, until when. Of a token only its SHA-256 is kept.

use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension as _, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audit::{self, Happened};
use crate::{Error, Result, Store};

/// Returns a secret for a new token that nobody guesses.
///
/// # Errors
///
/// When the system has no random numbers.
pub fn new_secret() -> Result<String> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(format!("bh_{}", audit::hex(&bytes)))
}

/// What the holder of a token may do: each what those before it may, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Run, pause, decide, replay.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Returns its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    pub(crate) fn of(word: &str) -> Self {
        match word {
            "admin" => Self::Admin,
            "operator" => Self::Operator,
            _ => Self::Viewer,
        }
    }
}

/// A token, without what is secret about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its number.
    pub id: i64,
    /// Whose it is; the audit chain names its holder so.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// When it was made, in RFC 3339.
    pub made: String,
    /// When it ends, in RFC 3339.
    pub expires: String,
    /// True when it was taken back.
    pub revoked: bool,
}

fn token(row: &rusqlite::Row<'_>) -> rusqlite::Result<Token> {
    Ok(Token {
        id: row.get(0)?,
        name: row.get(1)?,
        role: Role::of(&row.get::<_, String>(2)?),
        made: row.get(3)?,
        expires: row.get(4)?,
        revoked: row.get(5)?,
    })
}

impl Store {
    /// Keeps a token that was just made: `secret` is what its holder sends. Returns its number.
    pub fn keep_token(&self, name: &str, role: Role, secret: &str, expires: DateTime<Utc>) -> Result<i64> {
        let hash = digest(&SHA256, secret.as_bytes());
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let sql = "INSERT INTO token (name, role, hash, made, expires) VALUES (?1, ?2, ?3, ?4, ?5)";
            let (made, expires) = (Utc::now().to_rfc3339(), expires.to_rfc3339());
            transaction.execute(sql, params![name, role.word(), hash.as_ref(), made, expires])?;
            let id = transaction.last_insert_rowid();
            let told = json!({"made_token": id, "name": name, "role": role.word(), "expires": expires});
            audit::append(&transaction, &self.actor, Happened::Access, None, None, &told)?;
            transaction.commit()?;
            Ok(id)
        })
    }

    /// Returns all tokens, oldest first.
    pub fn tokens(&self) -> Result<Vec<Token>> {
        self.with(|db| {
            let sql = "SELECT id, name, role, made, expires, revoked FROM token ORDER BY id";
            db.prepare_cached(sql)?.query_map([], token)?.collect()
        })
    }

    /// Returns the token with this secret, if it is good at this time.
    pub fn token_of(&self, secret: &str, now: DateTime<Utc>) -> Result<Option<Token>> {
        // Who does not know a secret does not know its hash: that it is looked up tells nothing.
        let hash = digest(&SHA256, secret.as_bytes());
        let found = self.with(|db| {
            let sql = "SELECT id, name, role, made, expires, revoked FROM token WHERE hash = ?1";
            db.prepare_cached(sql)?.query_row([hash.as_ref()], token).optional()
        })?;
        let ends = |token: &Token| DateTime::parse_from_rfc3339(&token.expires).ok();
        Ok(found.filter(|token| !token.revoked && ends(token).is_some_and(|ends| ends > now)))
    }

    /// Takes a token back; false if there is none of this number that was not taken back before.
    pub fn revoke_token(&self, id: i64) -> Result<bool> {
        self.with(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let gone = transaction.execute("UPDATE token SET revoked = 1 WHERE id = ?1 AND revoked = 0", [id])? > 0;
            if gone {
                audit::append(&transaction, &self.actor, Happened::Access, None, None, &json!({"revoked_token": id}))?;
            }
            transaction.commit()?;
            Ok(gone)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_until_it_ends_or_is_taken_back() {
        let store = Store::in_memory().unwrap().acting_as("ada");
        let now = Utc::now();
        let id = store.keep_token("ci", Role::Operator, "s3cret", now + chrono::TimeDelta::days(1)).unwrap();
        let found = store.token_of("s3cret", now).unwrap().unwrap();
        assert_eq!((found.id, found.role, found.name.as_str()), (id, Role::Operator, "ci"));
        assert!(store.token_of("s3cre", now).unwrap().is_none());
        assert!(store.token_of("s3cret", now + chrono::TimeDelta::days(2)).unwrap().is_none());
        assert!(store.revoke_token(id).unwrap() && !store.revoke_token(id).unwrap());
        assert!(store.token_of("s3cret", now).unwrap().is_none());
        let entries = store.audit_after(0).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.actor.as_str()).collect::<Vec<_>>(), ["ada", "ada"]);
        assert!(!format!("{entries:?}{:?}", store.tokens().unwrap()).contains("s3cret"));
    }
}
