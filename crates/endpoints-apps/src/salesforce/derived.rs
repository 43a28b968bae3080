//! Derived fields: formulas, roll-ups and fields of parents move no time of change of the record that shows them. What they are
//! made of does, and tells which records are to be read again.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::salesforce::Object;
use endpoint::{Read, Result, Stale, Window};
use futures::stream::{self, StreamExt as _};

use super::source::earliest;
use super::{Org, failed};

/// Most steps from a record to what it is derived from. Source: Salesforce Help, formula field limits: ten relationships in all,
/// of formulas inside each other perhaps more.
const DEEPEST: usize = 12;

/// What moves derived fields of an object.
#[derive(Debug, Default)]
struct Inputs {
    /// Ways to parents whose fields they read.
    parents: BTreeSet<String>,
    /// Objects that are summed up, with the field that refers to the record, and the way to that record where it is a parent.
    children: BTreeSet<(String, String, String)>,
    /// The fields that change as time goes on.
    timely: BTreeSet<String>,
    /// The fields that are derived.
    derived: BTreeSet<String>,
}

impl Org {
    /// Notes what a field at the end of a way depends on; `wanted` is the field that is read.
    async fn trace(
        &self,
        object: Arc<Object>,
        way: String,
        name: &str,
        wanted: &str,
        inputs: &mut Inputs,
    ) -> Result<()> {
        // A step at a time: the object, the way to it, and the path from there.
        let mut open = vec![(object, way, name.to_owned())];
        let mut seen = BTreeSet::new();
        while let Some((object, way, path)) = open.pop() {
            if way.matches('.').count() > DEEPEST || !seen.insert((way.clone(), path.to_ascii_lowercase())) {
                continue;
            }
            if let Some((step, rest)) = path.split_once('.') {
                let step = step.split(':').next().unwrap_or(step);
                let up = |field: &&::salesforce::Field| {
                    field.relationship_name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(step))
                };
                let Some(field) = object.fields.iter().find(up) else { continue };
                let relationship = field.relationship_name.clone().unwrap_or_default();
                inputs.parents.insert(format!("{way}{relationship}"));
                inputs.derived.insert(wanted.to_owned());
                for target in &field.reference_to {
                    // Of several objects that it may be, each that is seen.
                    if let Ok(parent) = self.object(target).await {
                        open.push((parent, format!("{way}{relationship}."), rest.to_owned()));
                    }
                }
                continue;
            }
            let Some(field) = object.field(&path).filter(|field| field.calculated) else { continue };
            inputs.derived.insert(wanted.to_owned());
            let Some(text) = &field.calculated_formula else {
                // What a roll-up sums up is not told: it is one of those that cannot be without the record.
                let below = object.child_relationships.iter().filter(|child| child.cascade_delete);
                let below = below.map(|child| (child.child.clone(), child.field.clone(), way.clone()));
                inputs.children.extend(below);
                continue;
            };
            // A formula that can't be read here is one of the org's that has more to say: nothing is known of it.
            let Ok(reads) = formula::reads(text) else { continue };
            if reads.timely {
                inputs.timely.insert(wanted.to_owned());
            }
            let paths = reads.fields.into_iter().filter(|path| !path.starts_with('$'));
            open.extend(paths.map(|path| (Arc::clone(&object), way.clone(), path)));
        }
        Ok(())
    }

    /// Returns which records of a read were not changed in its window, and show other values all the same.
    pub(super) async fn outdated(&self, read: &Read) -> Result<Stale> {
        let mut inputs = Inputs::default();
        let calculated =
            |name: &String| name.contains('.') || read.entity.field(name).is_some_and(|field| field.calculated);
        for name in read.fields.iter().filter(|name| calculated(name)) {
            let object = self.object(&read.entity.name).await?;
            self.trace(object, String::new(), name, name, &mut inputs).await?;
        }
        let queries = queries(read, &inputs);
        let (org, name) = (self.clone(), read.entity.name.clone());
        let keys = stream::iter(queries).then(move |(soql, deleted)| {
            let (org, name) = (org.clone(), name.clone());
            async move { org.outdated_ids(&soql, deleted, &name).await }
        });
        let keys = keys.flat_map(|ids: Result<Vec<String>>| match ids {
            Ok(ids) => {
                let pages: Vec<Result<Vec<String>>> = ids.chunks(PAGE).map(|page| Ok(page.to_vec())).collect();
                stream::iter(pages)
            }
            Err(error) => stream::iter(vec![Err(error)]),
        });
        Ok(Stale {
            derived: inputs.derived.into_iter().collect(),
            timely: inputs.timely.into_iter().collect(),
            keys: keys.boxed(),
        })
    }

    async fn outdated_ids(&self, soql: &str, deleted: bool, object: &str) -> Result<Vec<String>> {
        let what = || failed(format!("cannot find records of {object} whose derived fields changed"));
        let mut ids = Vec::new();
        let mut page = Some(self.client.query(soql, deleted).await.map_err(what())?);
        while let Some(current) = page {
            ids.extend(current.records.iter().filter_map(|record| Some(record.get("Id")?.as_str()?.to_owned())));
            page = self.client.next_page(&current).await.map_err(what())?;
        }
        Ok(ids)
    }
}

/// Ids that are told at a time.
const PAGE: usize = 2_000;

/// Returns the queries that find records by what their fields are derived from, each with whether it is asked of the recycle bin,
/// too.
fn queries(read: &Read, inputs: &Inputs) -> Vec<(String, bool)> {
    let (Some(Window { since: Some(since), until }), Some(cursor)) = (&read.window, &read.entity.cursor) else {
        return Vec::new();
    };
    let since = earliest(since);
    let filter = read.filter.iter().map(|filter| format!(" AND ({filter})")).collect::<String>();
    // What changed itself is read anyway.
    let head = format!("SELECT Id FROM {} WHERE {cursor} < {since}{filter}", read.entity.name);
    let moved = |way: &str| format!("({way}.SystemModstamp >= {since} AND {way}.SystemModstamp <= {until})");
    let mut queries = Vec::new();
    if !inputs.parents.is_empty() {
        let ways: Vec<String> = inputs.parents.iter().map(|way| moved(way)).collect();
        queries.push((format!("{head} AND ({})", ways.join(" OR ")), false));
    }
    for (child, field, way) in &inputs.children {
        let inner =
            format!("SELECT {field} FROM {child} WHERE SystemModstamp >= {since} AND SystemModstamp <= {until}");
        // What was deleted is no longer summed up.
        queries.push((format!("{head} AND IsDeleted = false AND {way}Id IN ({inner})"), true));
    }
    queries
}

#[cfg(test)]
mod tests {
    use endpoint::{Read, Window};
    use model::Entity;

    use super::{Inputs, queries};

    #[test]
    fn records_are_found_by_their_parents_and_by_what_hangs_on_them() {
        let window =
            Window { since: Some("2026-05-05T10:00:00Z".to_owned()), until: "2026-05-05T11:00:00Z".to_owned() };
        let read = Read {
            entity: Entity { cursor: Some("SystemModstamp".to_owned()), ..Entity::new("Invoice__c") },
            fields: Vec::new(),
            filter: Some("Open__c = true".to_owned()),
            window: Some(window),
            from: None,
            deleted: false,
            batch_rows: 1,
        };
        let inputs = Inputs {
            parents: ["Account__r".to_owned(), "Account__r.Owner".to_owned()].into(),
            children: [("Line__c".to_owned(), "Invoice__c".to_owned(), String::new())].into(),
            ..Inputs::default()
        };
        let (since, until) = ("2026-05-05T09:50:00.000Z", "2026-05-05T11:00:00Z");
        let head = format!("SELECT Id FROM Invoice__c WHERE SystemModstamp < {since} AND (Open__c = true)");
        let moved = |way: &str| format!("({way}.SystemModstamp >= {since} AND {way}.SystemModstamp <= {until})");
        let inner =
            format!("SELECT Invoice__c FROM Line__c WHERE SystemModstamp >= {since} AND SystemModstamp <= {until}");
        assert_eq!(
            queries(&read, &inputs),
            [
                (format!("{head} AND ({} OR {})", moved("Account__r"), moved("Account__r.Owner")), false),
                (format!("{head} AND IsDeleted = false AND Id IN ({inner})"), true),
            ]
        );
    }
}
