//! Sharing: which records of an object a user sees and may change, by the object's default, the owner and the roles.

use serde::Deserialize;

use crate::caller::Caller;
use crate::schema::{Field, Object, Schema};
use crate::store::quoted;

/// What holds for the records of an object unless they are one's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// Only owners, and who stands above them in the hierarchy of roles, see and change a record.
    Private,
    /// All see a record; only owners, and who stands above them, change it.
    Read,
    /// All see and change a record.
    #[default]
    ReadWrite,
    /// As the record's parent.
    ControlledByParent,
}

impl Model {
    /// Reads the word of metadata; `None` for one that opens the object to all.
    pub(crate) fn of_metadata(word: &str) -> Self {
        match word {
            "Private" => Self::Private,
            "Read" => Self::Read,
            "ControlledByParent" => Self::ControlledByParent,
            _ => Self::ReadWrite,
        }
    }

    /// Returns the word of metadata.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Private => "Private",
            Self::Read => "Read",
            Self::ReadWrite => "ReadWrite",
            Self::ControlledByParent => "ControlledByParent",
        }
    }
}

/// What someone wants with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    See,
    Change,
}

/// Returns the field whose record decides where the parent does: the master, or the account that a standard object belongs to.
fn parent(object: &Object) -> Option<&Field> {
    object.fields.iter().find(|field| field.master).or_else(|| object.field("AccountId"))
}

/// Returns the condition, in SQL, under which a user has a wish granted; `None` where all records are open.
pub(crate) fn condition(schema: &Schema, object: &Object, user: &str, wish: Wish) -> Option<String> {
    let user = user.replace('\'', "''");
    let owned = object.field("OwnerId").map(|_| {
        // Oneself, the queues and groups one is in, and everybody below in the hierarchy of roles.
        format!(
            "\"OwnerId\" IN (WITH RECURSIVE below(id) AS (SELECT r.\"Id\" FROM \"UserRole\" r JOIN \"User\" u \
             ON r.\"ParentRoleId\"=u.\"UserRoleId\" WHERE u.\"Id\"='{user}' UNION SELECT r.\"Id\" FROM \"UserRole\" r \
             JOIN below b ON r.\"ParentRoleId\"=b.id) SELECT \"Id\" FROM \"User\" WHERE \"Id\"='{user}' OR \"UserRoleId\" IN below \
             UNION ALL SELECT \"GroupId\" FROM \"GroupMember\" WHERE \"UserOrGroupId\"='{user}')"
        )
    });
    match (object.sharing, wish) {
        (Model::ReadWrite, _) | (Model::Read, Wish::See) => None,
        (Model::Private, _) | (Model::Read, Wish::Change) => owned,
        (Model::ControlledByParent, _) => {
            let field = parent(object)?;
            let target = schema.object(field.targets.first()?)?;
            let above = condition(schema, target, &user, wish)?;
            let (column, table) = (quoted(&field.name), quoted(&target.name));
            // Without a parent it is its owner's.
            let alone = owned.map(|owned| format!("({column} IS NULL AND {owned})"));
            let alone = alone.unwrap_or_else(|| format!("{column} IS NULL"));
            Some(format!("({alone} OR {column} IN (SELECT \"Id\" FROM {table} WHERE {above}))"))
        }
    }
}

/// Returns the table of an object as a user sees it, in SQL.
pub(crate) fn table(schema: &Schema, object: &Object, caller: Option<&str>) -> String {
    let table = quoted(&object.name);
    match caller.and_then(|user| condition(schema, object, user, Wish::See)) {
        Some(condition) => format!("(SELECT * FROM {table} WHERE {condition})"),
        None => table,
    }
}

/// Whose sharing counts; none for who is not bound by it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bound<'c> {
    pub(crate) seeing: Option<&'c str>,
    pub(crate) changing: Option<&'c str>,
}

impl Caller {
    /// Returns by whose sharing the caller is bound.
    pub(crate) fn bound(&self) -> Bound<'_> {
        let changing = (!self.admin).then_some(self.user_id.as_str());
        Bound { seeing: changing.filter(|_| !self.views_all), changing }
    }
}
