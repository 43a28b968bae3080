//! Who sees what: the schema as a profile and its permission sets leave it.

use std::collections::BTreeMap;

use crate::definition::{FieldAccess, Permissions, Right};
use crate::schema::{Field, Object, Schema};

/// Returns what a user with these permissions sees of the org; objects and fields without a right to read are absent.
pub(crate) fn visible(schema: &Schema, given: &[&Permissions]) -> Schema {
    if allows(given, "ModifyAllData") {
        return schema.clone();
    }
    let seen = schema.filtered(|object| {
        let rights = rights(given, &object.name);
        // What every user may look at, so that clients find their way.
        if object.setup {
            return Some(Object { createable: false, updateable: false, ..object.clone() });
        }
        if !rights.contains(&Right::Read) {
            return None;
        }
        let fields = object.fields.iter().filter_map(|field| narrowed(given, object, field, &rights)).collect();
        Some(Object {
            createable: object.createable && rights.contains(&Right::Create),
            updateable: object.updateable && rights.contains(&Right::Edit),
            deletable: object.deletable && rights.contains(&Right::Delete),
            fields,
            ..object.clone()
        })
    });
    // A reference to an object that can't be seen leads nowhere; its id stays.
    seen.filtered(|object| {
        let fields = object.fields.iter().map(|field| {
            let hidden = !field.targets.is_empty() && field.targets.iter().all(|target| seen.object(target).is_none());
            Field { relationship: field.relationship.clone().filter(|_| !hidden), ..field.clone() }
        });
        Some(Object { fields: fields.collect(), ..object.clone() })
    })
}

/// True if one of the permissions gives a user permission.
pub(crate) fn allows(given: &[&Permissions], permission: &str) -> bool {
    given.iter().any(|permissions| permissions.user_permissions.iter().any(|known| known == permission))
}

fn find<'p, T>(map: &'p BTreeMap<String, T>, name: &str) -> Option<&'p T> {
    map.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn rights(given: &[&Permissions], object: &str) -> Vec<Right> {
    given.iter().filter_map(|permissions| find(&permissions.objects, object)).flatten().copied().collect()
}

/// Returns a field as the permissions leave it, `None` if they hide it. What any of them gives is given.
fn narrowed(given: &[&Permissions], object: &Object, field: &Field, rights: &[Right]) -> Option<Field> {
    // What makes a record one can't be hidden.
    let always = !field.createable && !field.updateable && !field.calculated && !field.custom
        || field.required()
        || field.name_field
        || field.compound.is_some() && field.name.ends_with("Name");
    let name = format!("{}.{}", object.name, field.name);
    let named = given.iter().filter_map(|permissions| find(&permissions.fields, &name)).max();
    let unlisted = given.iter().filter_map(|permissions| permissions.unlisted_fields).max();
    let access = match (named, unlisted.filter(|_| field.custom)) {
        (Some(access), _) => *access,
        (None, Some(access)) => access,
        (None, None) => FieldAccess::Edit,
    };
    let access = if always { access.max(FieldAccess::Edit) } else { access };
    if access == FieldAccess::Hidden {
        return None;
    }
    let edits = access == FieldAccess::Edit;
    Some(Field {
        createable: field.createable && edits && rights.contains(&Right::Create),
        updateable: field.updateable && edits && rights.contains(&Right::Edit),
        ..field.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_read_is_absent() {
        let schema = Schema::standard();
        let profile: Permissions = serde_saphyr::from_str(
            "objects: {Account: [read, edit], Contact: [read]}\n\
             fields: {Account.AnnualRevenue: hidden, Account.Phone: read, Contact.Email: hidden}",
        )
        .expect("permissions");
        let set: Permissions = serde_saphyr::from_str("fields: {Contact.Email: read}").expect("permissions");
        let seen = visible(&schema, &[&profile, &set]);
        let account = seen.object("Account").expect("Account");
        assert!(account.field("AnnualRevenue").is_none());
        assert!(account.field("Phone").is_some_and(|field| !field.updateable && !field.createable));
        assert!(account.field("Fax").is_some_and(|field| field.updateable));
        assert!(!account.createable && account.updateable && !account.deletable);
        assert!(seen.object("Contact").is_some_and(|contact| contact.field("Email").is_some()), "the set gives it");
        assert!(seen.object("Lead").is_none());
        assert!(seen.object("User").is_some());
        let order = visible(&schema, &[&serde_saphyr::from_str("objects: {Order: [read]}").expect("permissions")]);
        assert!(order.object("Order").is_some_and(|order| order.parent("Account").is_none()));
    }
}
