//! A sync as it is wanted, and the order in which several of them run.

use mapping::{Definition, Direction, Mistake};

use crate::two_way::TwoWayRules;

/// What becomes of records whose counterpart is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deletes {
    /// They stay.
    #[default]
    Ignore,
    /// They are deleted, too.
    Propagate,
}

/// What becomes of a run where an entity is another than at the last good run of its sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Drift {
    /// It goes on, and says what is different. A field that the mapping needs and that is gone stops it in any case.
    #[default]
    Ignore,
    /// It stops before it reads anything, until somebody has looked and lets it go on by force.
    Stop,
    /// It goes on, and columns that the mapping names and the target lacks are added to it: syncs to external systems.
    AddColumns,
}

/// What is kept of each write to a record of a sync that goes one way. Two-way syncs keep values, to be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum History {
    /// Nothing.
    #[default]
    None,
    /// A fingerprint of each field: which of them changed, and no value.
    Fingerprints,
    /// The values.
    Values,
}

/// A sync, ready to run.
#[derive(Debug, Clone)]
pub struct Sync {
    /// Its name.
    pub name: String,
    /// Its mapping.
    pub definition: Definition,
    /// Its direction.
    pub direction: Direction,
    /// What becomes of deleted records.
    pub deletes: Deletes,
    /// Largest share of the linked records that one run may delete, 0 to 1.
    pub brake: f64,
    /// What becomes of a run where an entity is another than before.
    pub drift: Drift,
    /// What is kept of each write to a record.
    pub history: History,
    /// The version of the configuration that it is of, where it is a deployed one.
    pub version: Option<i64>,
    /// How it decides, if it goes both ways; `direction` means nothing then.
    pub two_way: Option<TwoWayRules>,
    /// Mappings that its mapping looks up and that look it up in turn, as [`circle_of`] returns them. A record is written
    /// without such a parent while that is not there, and given it later.
    pub circle: Vec<String>,
}

/// Returns the mappings that `mapping` looks up, directly or through others, and that look it up in turn: itself too, where
/// records refer to records of their own kind.
pub fn circle_of(mapping: &str, two_way: &[&Definition]) -> Vec<String> {
    let reached = |from: &str| {
        let (mut reached, mut at) = (Vec::<&str>::new(), 0);
        let parents = |of: &str| {
            let of = of.to_owned();
            let lookups = two_way.iter().filter(move |one| one.mapping == of).flat_map(|one| &one.fields);
            lookups.filter_map(|pair| Some(pair.lookup.as_ref()?.value.as_str()))
        };
        reached.extend(parents(from));
        while let Some(next) = reached.get(at).copied() {
            at += 1;
            let new: Vec<&str> = parents(next).filter(|parent| !reached.contains(parent)).collect();
            reached.extend(new);
        }
        reached
    };
    let mut circle: Vec<String> =
        reached(mapping).into_iter().filter(|parent| reached(parent).contains(&mapping)).map(str::to_owned).collect();
    circle.sort();
    circle.dedup();
    circle
}

impl Sync {
    /// True when records of this sync look up records of `other`, which therefore comes first.
    fn follows(&self, other: &Self) -> bool {
        self.direction == other.direction
            && !self.circle.contains(&other.definition.mapping)
            && self.definition.parents().any(|parent| parent.value == other.definition.mapping)
    }
}

/// Puts syncs into an order in which parents come before their children, else as they were.
///
/// # Errors
///
/// The name of the mapping where a circle of lookups can be seen, and the place of the lookup in its file.
pub fn in_order(syncs: Vec<Sync>) -> Result<Vec<Sync>, (String, Mistake)> {
    let mut waiting = syncs;
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let free = (0..waiting.len()).find(|at| !waiting.iter().any(|other| waiting[*at].follows(other)));
        match free {
            Some(at) => ordered.push(waiting.remove(at)),
            None => return Err(circle(&waiting)),
        }
    }
    Ok(ordered)
}

/// Every one of these follows another of them: walking from parent to parent ends in a circle.
fn circle(syncs: &[Sync]) -> (String, Mistake) {
    let mut walked: Vec<&Sync> = Vec::new();
    let mut current = &syncs[0];
    while !walked.iter().any(|sync| sync.name == current.name) {
        walked.push(current);
        current = syncs.iter().find(|other| current.follows(other)).unwrap_or(current);
    }
    let start = walked.iter().position(|sync| sync.name == current.name).unwrap_or_default();
    let names: Vec<&str> = walked[start..].iter().map(|sync| sync.definition.mapping.as_str()).collect();
    let message = format!(
        "lookups go round in a circle ({} -> {}), so no mapping can come first; take one of them out, and fill it by a \
         second mapping of the same object that runs last",
        names.join(" -> "),
        names[0]
    );
    let next = names.get(1).unwrap_or(&names[0]);
    let place = current.definition.parents().find(|parent| parent.value == *next);
    let mistake = place.map_or(Mistake { line: 1, column: 1, message: message.clone() }, |at| Mistake::at(at, message));
    (current.definition.mapping.clone(), mistake)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(name: &str, parents: &[&str]) -> Sync {
        let fields: String =
            parents.iter().map(|parent| format!("  - {{salesforce: A, external: a, lookup: {parent}}}\n")).collect();
        let fields = if fields.is_empty() { "  []".to_owned() } else { fields };
        let text = format!(
            "mapping: {name}\nversion: 1\nsalesforce: {{connection: c, object: O, key: K}}\n\
             external: {{connection: e, entity: t, key: k}}\nfields:\n{fields}\n"
        );
        Sync {
            name: format!("{name}_in"),
            definition: Definition::parse(&text).expect("a mapping"),
            direction: Direction::ToSalesforce,
            deletes: Deletes::Ignore,
            brake: 0.1,
            drift: Drift::Ignore,
            history: History::None,
            version: None,
            two_way: None,
            circle: Vec::new(),
        }
    }

    #[test]
    fn two_way_syncs_in_a_circle_run_one_after_the_other() {
        let mut syncs = vec![
            sync("x", &["a"]),
            sync("a", &["b"]),
            sync("b", &["c", "own"]),
            sync("c", &["a"]),
            sync("own", &["own"]),
        ];
        let definitions: Vec<Definition> = syncs.iter().map(|sync| sync.definition.clone()).collect();
        let definitions: Vec<&Definition> = definitions.iter().collect();
        let circles: Vec<Vec<String>> = definitions.iter().map(|one| circle_of(&one.mapping, &definitions)).collect();
        assert_eq!(circles, [vec![], vec!["a", "b", "c"], vec!["a", "b", "c"], vec!["a", "b", "c"], vec!["own"]]);
        for (sync, circle) in syncs.iter_mut().zip(circles) {
            sync.circle = circle;
        }
        let names: Vec<String> = in_order(syncs).expect("an order").into_iter().map(|sync| sync.name).collect();
        assert_eq!(names, ["a_in", "x_in", "c_in", "own_in", "b_in"]);
    }

    #[test]
    fn parents_come_first_and_the_rest_stays_in_place() {
        let syncs = vec![sync("orders", &["customers"]), sync("stock", &[]), sync("customers", &["customers"])];
        let names: Vec<String> = in_order(syncs).expect("an order").into_iter().map(|sync| sync.name).collect();
        assert_eq!(names, ["stock_in", "customers_in", "orders_in"]);
    }

    #[test]
    fn a_circle_is_told_with_its_place() {
        let syncs = vec![sync("x", &["a"]), sync("a", &["b"]), sync("b", &["c"]), sync("c", &["a"])];
        let (mapping, mistake) = in_order(syncs).expect_err("a circle");
        assert_eq!((mapping.as_str(), mistake.line), ("a", 6));
        assert!(mistake.message.contains("a -> b -> c -> a"), "{mistake}");
    }
}
