//! Writes rows by their key, a transaction a batch.

use async_trait::async_trait;
use endpoint::{Error, Guarded, Result, Sink, Target};
use model::{ChangeBatch, Class, Entity, Field, Op, Outcome, RecordError};
use rusqlite::{Connection, ErrorCode, params_from_iter};

use super::{Sqlite, convert, create_table, failed, pairs};
use crate::sql;

#[async_trait]
impl Sink for Sqlite {
    async fn write(&self, target: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>> {
        let (target, changes) = (target.clone(), changes.clone());
        self.blocking(move |mut db| write(&mut db, &target, &changes)).await
    }

    async fn revise(&self, target: &Target, changes: &Guarded) -> Result<Vec<Outcome>> {
        let (target, changes) = (target.clone(), changes.clone());
        self.blocking(move |mut db| pairs::revise(&mut db, &target, &changes)).await
    }

    async fn new_keys(&self, entity: &Entity, key: &str, count: usize) -> Result<Vec<String>> {
        let (entity, key) = (entity.clone(), key.to_owned());
        self.blocking(move |mut db| pairs::new_keys(&mut db, &entity, &key, count)).await
    }

    async fn create(&self, entity: &Entity) -> Result<()> {
        let (sql, name) = (create_table(entity), entity.name.clone());
        self.blocking(move |db| db.execute_batch(&sql).map_err(failed(format!("cannot create {name}")))).await
    }

    async fn add_fields(&self, entity: &Entity, fields: &[Field]) -> Result<()> {
        let name = entity.name.clone();
        let column = |field: &Field| {
            let (table, column) = (sql::table(&entity.name), sql::name(&field.name));
            format!("ALTER TABLE {table} ADD COLUMN {column} {};", convert::native(field))
        };
        let sql: String = fields.iter().map(column).collect();
        self.blocking(move |db| db.execute_batch(&sql).map_err(failed(format!("cannot add columns to {name}")))).await
    }
}

fn write(db: &mut Connection, target: &Target, changes: &ChangeBatch) -> Result<Vec<Outcome>> {
    let what = || format!("cannot write to {}", target.entity.name);
    let table = sql::table(&target.entity.name);
    let names: Vec<String> = changes.records.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
    let place = names.iter().position(|name| *name == target.key);
    let place = place.ok_or_else(|| Error::new(Class::Internal, format!("the batch has no column {}", target.key)))?;
    let key = sql::name(&target.key);
    let others: Vec<String> = names.iter().filter(|name| **name != target.key).map(|name| sql::name(name)).collect();
    let set = others.iter().map(|name| format!("{name} = excluded.{name}")).collect::<Vec<_>>().join(", ");
    let differs =
        others.iter().map(|name| format!("{table}.{name} IS NOT excluded.{name}")).collect::<Vec<_>>().join(" OR ");
    let update = if others.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {set} WHERE {differs}") };
    let marks = vec!["?"; names.len()].join(", ");
    let upsert =
        format!("INSERT INTO {table} ({}) VALUES ({marks}) ON CONFLICT ({key}) DO {update}", sql::list(&names));
    let transaction = db.transaction().map_err(failed(what()))?;
    let mut outcomes = Vec::with_capacity(changes.len());
    {
        let mut exists =
            transaction.prepare(&format!("SELECT 1 FROM {table} WHERE {key} = ?")).map_err(failed(what()))?;
        let mut upsert = transaction.prepare(&upsert).map_err(failed(what()))?;
        let mut delete =
            transaction.prepare(&format!("DELETE FROM {table} WHERE {key} = ?")).map_err(failed(what()))?;
        for (row, op) in changes.ops.iter().enumerate() {
            let id = convert::value(changes.records.column(place).as_ref(), row);
            let (result, created) = match op {
                Op::Delete => (delete.execute([&id]), false),
                Op::Upsert => {
                    let known = exists.exists([&id]).map_err(failed(what()))?;
                    let values = changes.records.columns().iter().map(|column| convert::value(column.as_ref(), row));
                    (upsert.execute(params_from_iter(values)), !known)
                }
            };
            outcomes.push(match result {
                Ok(0) => Outcome::Unchanged,
                Ok(_) => Outcome::Applied { created, id: None },
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    Outcome::Refused(refusal(&error))
                }
                Err(error) => return Err(failed(what())(error)),
            });
        }
    }
    transaction.commit().map_err(failed(what()))?;
    Ok(outcomes)
}

pub(super) fn refusal(error: &rusqlite::Error) -> RecordError {
    let text = error.to_string();
    let code = if text.contains("FOREIGN KEY") { "MISSING_PARENT" } else { "CONSTRAINT" };
    RecordError::rejected(code, text)
}
