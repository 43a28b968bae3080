//! The three-way merge of two records that are one: a pure function over fingerprints, without I/O.
//!
//! Of each field five things are known: what both sides last agreed on (the base, as either side wrote it), what each
//! side holds now, and what each side's value would be on the other. Nothing else decides.

use model::Side;

/// Fingerprint of a value; 0 is null.
pub(crate) type Print = u64;

/// Which way a field may be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Both,
    /// Only to this side; the other is never written.
    To(Side),
}

/// How two different values of one field are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The record that was changed last wins.
    Latest,
    /// Salesforce wins.
    #[default]
    Salesforce,
    /// The system outside wins.
    External,
    /// Nobody wins until a person decides.
    Manual,
}

/// What becomes of a record that one side deleted and the other changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Contested {
    /// It is deleted on both sides.
    DeleteWins,
    /// It is made again where it was deleted.
    #[default]
    EditWins,
    /// Nothing happens until a person decides.
    Ask,
}

/// What the merge goes by.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// For each field which way it goes, and who wins where both changed it.
    pub(crate) fields: Vec<(Way, Option<Side>)>,
    pub(crate) policy: Policy,
    pub(crate) contested: Contested,
    /// False where a record that is gone from one side stays on the other.
    pub(crate) deletes: bool,
    /// The side that a person chose, between a deletion and an edit of this record.
    pub(crate) asked: Option<Side>,
}

/// A record as one side holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Half<'h> {
    /// Its values.
    pub(crate) own: &'h [Print],
    /// Its values as the other side would hold them.
    pub(crate) across: &'h [Print],
    /// When it was last changed, where the side tells, in microseconds.
    pub(crate) changed: Option<i64>,
}

/// What both sides last agreed on, field by field, as each side holds it; `None` for a field that was never compared.
pub(crate) type Base = Vec<Option<[Print; 2]>>;

/// Both sides changed a field to different values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) field: usize,
    /// Whose value stays; `None` while a person decides.
    pub(crate) winner: Option<Side>,
}

/// What is to be done about a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// There is nothing on either side; forget the link.
    Forget,
    /// The record stays where it is, and the link with it.
    Leave,
    /// Make the record on this side; `contested` when it was deleted there and changed here.
    Create { side: Side, contested: bool },
    /// Delete the record from this side; `contested` when it was changed there.
    Delete { side: Side, contested: bool },
    /// One side deleted what the other changed, and a person decides; `gone` is the side that deleted.
    Ask { gone: Side },
    /// Both are there: write these fields.
    Fields(Fields),
}

/// What is written to each side of a pair that is there on both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fields {
    pub(crate) to_salesforce: Vec<usize>,
    pub(crate) to_external: Vec<usize>,
    pub(crate) conflicts: Vec<Conflict>,
    /// The base once both sides are written.
    pub(crate) base: Base,
}

/// Returns the place of a side in a pair of prints.
pub(crate) fn place(side: Side) -> usize {
    match side {
        Side::Salesforce => 0,
        Side::External => 1,
    }
}

/// Decides about a pair. `base` is `None` for records that were never paired; a half is `None` where the record is not.
pub(crate) fn merge(
    base: Option<&Base>,
    salesforce: Option<Half<'_>>,
    external: Option<Half<'_>>,
    rules: &Rules,
) -> Decision {
    match (salesforce, external, base) {
        (None, None, _) => Decision::Forget,
        (Some(_), None, None) => Decision::Create { side: Side::External, contested: false },
        (None, Some(_), None) => Decision::Create { side: Side::Salesforce, contested: false },
        (Some(left), None, Some(base)) => gone(base, Side::External, left, rules),
        (None, Some(left), Some(base)) => gone(base, Side::Salesforce, left, rules),
        (Some(salesforce), Some(external), base) => Decision::Fields(fields(base, salesforce, external, rules)),
    }
}

/// One side deleted the record: what becomes of what is `left` on the other?
fn gone(base: &Base, side: Side, left: Half<'_>, rules: &Rules) -> Decision {
    let other = side.other();
    if !rules.deletes {
        return Decision::Leave;
    }
    let changed = rules.fields.iter().enumerate().any(|(field, (way, _))| {
        // What is computed one way has no value of its own where it comes from: it is what comes of it.
        let now = if *way == Way::Both { left.own[field] } else { left.across[field] };
        // What was never agreed on counts as changed, too.
        *way != Way::To(other) && base[field].map_or(left.own[field] != 0, |base| base[place(other)] != now)
    });
    let contested = match rules.asked {
        Some(winner) if winner == side => Contested::DeleteWins,
        Some(_) => Contested::EditWins,
        None => rules.contested,
    };
    match (changed, contested) {
        (false, _) => Decision::Delete { side: other, contested: false },
        (true, Contested::DeleteWins) => Decision::Delete { side: other, contested: true },
        (true, Contested::EditWins) => Decision::Create { side, contested: true },
        (true, Contested::Ask) => Decision::Ask { gone: side },
    }
}

fn fields(base: Option<&Base>, salesforce: Half<'_>, external: Half<'_>, rules: &Rules) -> Fields {
    let mut merged = Fields::default();
    for (field, (way, owner)) in rules.fields.iter().enumerate() {
        let (to_e, to_s) = (salesforce.across[field], external.across[field]);
        // What is computed one way has no value of its own where it comes from: it is what comes of it.
        let (s, e) = match way {
            Way::Both => (salesforce.own[field], external.own[field]),
            Way::To(Side::External) => (to_e, external.own[field]),
            Way::To(Side::Salesforce) => (salesforce.own[field], to_s),
        };
        let known = base.and_then(|base| base[field]);
        let agree = match way {
            Way::Both => to_e == e || to_s == s,
            Way::To(Side::External) => to_e == e,
            Way::To(Side::Salesforce) => to_s == s,
        };
        // A value that was never compared counts as changed, unless there is none.
        let (s_changed, e_changed) = known.map_or((s != 0, e != 0), |known| (known[0] != s, known[1] != e));
        let copied = match (agree, s_changed, e_changed) {
            (true, ..) => None,
            // Nobody touched it: the two differ as they did when they last agreed.
            (false, false, false) if known.is_some() => {
                merged.base.push(known);
                continue;
            }
            (false, true, false) if *way != Way::To(Side::Salesforce) => Some(Side::External),
            (false, false, true) if *way != Way::To(Side::External) => Some(Side::Salesforce),
            _ => {
                let winner = match way {
                    Way::To(side) => Some(side.other()),
                    Way::Both => owner.or(match rules.policy {
                        Policy::Salesforce => Some(Side::Salesforce),
                        Policy::External => Some(Side::External),
                        Policy::Manual => None,
                        Policy::Latest if external.changed > salesforce.changed => Some(Side::External),
                        Policy::Latest => Some(Side::Salesforce),
                    }),
                };
                // An unwritable side that had nothing loses nothing.
                if winner.is_none()
                    || (s_changed && e_changed)
                    || matches!(way, Way::To(side) if [s, e][place(*side)] != 0)
                {
                    merged.conflicts.push(Conflict { field, winner });
                }
                // It stays a conflict for as long as the base does.
                let Some(winner) = winner else {
                    merged.base.push(known);
                    continue;
                };
                Some(winner.other())
            }
        };
        merged.base.push(Some(match copied {
            None => [s, e],
            Some(Side::External) => {
                merged.to_external.push(field);
                [s, to_e]
            }
            Some(Side::Salesforce) => {
                merged.to_salesforce.push(field);
                [to_s, e]
            }
        }));
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(policy: Policy) -> Rules {
        Rules { fields: vec![(Way::Both, None)], policy, contested: Contested::EditWins, deletes: true, asked: None }
    }

    fn half(value: &[Print]) -> Half<'_> {
        Half { own: value, across: value, changed: None }
    }

    /// Base, Salesforce, outside; what is written to Salesforce and outside, and who wins a conflict.
    type Case = (Option<Print>, Print, Print, bool, bool, Option<Option<Side>>);

    #[test]
    fn every_case_of_one_field() {
        let cases: [Case; 11] = [
            // Nobody, one, the other, both alike.
            (Some(1), 1, 1, false, false, None),
            (Some(1), 2, 1, false, true, None),
            (Some(1), 1, 2, true, false, None),
            (Some(1), 2, 2, false, false, None),
            // Both, differently: the policy decides, and it is recorded.
            (Some(1), 2, 3, false, true, Some(Some(Side::Salesforce))),
            // Nulls are values.
            (Some(1), 0, 1, false, true, None),
            (Some(1), 1, 0, true, false, None),
            (Some(0), 2, 0, false, true, None),
            (Some(1), 0, 3, false, true, Some(Some(Side::Salesforce))),
            // Never compared: a value fills a gap, two values are a conflict.
            (None, 2, 0, false, true, None),
            (None, 2, 3, false, true, Some(Some(Side::Salesforce))),
        ];
        for (base, s, e, to_s, to_e, conflict) in cases {
            let base = Some(vec![base.map(|base| [base, base])]);
            let merged = fields(base.as_ref(), half(&[s]), half(&[e]), &rules(Policy::Salesforce));
            assert_eq!(
                (!merged.to_salesforce.is_empty(), !merged.to_external.is_empty()),
                (to_s, to_e),
                "{base:?} {s} {e}"
            );
            assert_eq!(merged.conflicts.first().map(|conflict| conflict.winner), conflict, "{base:?} {s} {e}");
        }
    }

    /// Every case of one field, as a row of `docs/two-way.md`: base, Salesforce, outside, what happens.
    fn rows() -> Vec<String> {
        let names = |print: Option<Print>| match print {
            None => "none",
            Some(0) => "-",
            Some(1) => "A",
            Some(2) => "B",
            Some(_) => "C",
        };
        let mut rows = Vec::new();
        for base in [Some(1), Some(0), None] {
            for s in [None, Some(0), Some(1), Some(2)] {
                for e in [None, Some(0), Some(1), Some(2), Some(3)] {
                    // B and C stand for any two values; what only swaps names is left out.
                    if (base != Some(1) && [s, e].contains(&Some(1)))
                        || (e == Some(3) && s != Some(2))
                        || (s, e) == (None, None)
                    {
                        continue;
                    }
                    let known = base.map(|base| vec![Some([base, base])]);
                    let (left, right) = (s.map(|s| [s]), e.map(|e| [e]));
                    let (left, right) = (left.as_ref().map(|s| half(s)), right.as_ref().map(|e| half(e)));
                    let happens = match merge(known.as_ref(), left, right, &rules(Policy::Manual)) {
                        Decision::Create { side, contested: false } => format!("made in {}", name_of(side)),
                        Decision::Create { side, .. } => format!(
                            "deleted against edited: `contested` decides; by default made again in {}",
                            name_of(side)
                        ),
                        Decision::Delete { side, .. } => format!("deleted in {}", name_of(side)),
                        Decision::Fields(merged) if !merged.conflicts.is_empty() => "conflict".to_owned(),
                        Decision::Fields(merged) if !merged.to_external.is_empty() => "goes outside".to_owned(),
                        Decision::Fields(merged) if !merged.to_salesforce.is_empty() => "goes to Salesforce".to_owned(),
                        Decision::Fields(_) if s == base && e == base => "nothing to do".to_owned(),
                        Decision::Fields(_) => "agreed; nothing is written".to_owned(),
                        other => format!("{other:?}"),
                    };
                    let there = |print: Option<Print>| print.map_or("no record", |print| names(Some(print)));
                    rows.push(format!("| {} | {} | {} | {happens} |", names(base), there(s), there(e)));
                }
            }
        }
        rows
    }

    fn name_of(side: Side) -> &'static str {
        match side {
            Side::Salesforce => "Salesforce",
            Side::External => "the system outside",
        }
    }

    #[test]
    fn the_table_of_outcomes_stands_in_the_documentation() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/two-way.md");
        let text = std::fs::read_to_string(path).expect("docs/two-way.md");
        let (head, rest) = text.split_once("<!-- table -->\n").expect("a place for the table");
        let (table, tail) = rest.split_once("<!-- end -->").expect("its end");
        let head_row = "| base | Salesforce | outside | what happens |\n| --- | --- | --- | --- |\n";
        let made = format!("{head_row}{}\n", rows().join("\n"));
        if std::env::var_os("BRIDGEHEAD_WRITE_DOCS").is_some() {
            std::fs::write(path, format!("{head}<!-- table -->\n{made}<!-- end -->{tail}")).expect("docs/two-way.md");
        } else {
            assert_eq!(table, made, "run this test with BRIDGEHEAD_WRITE_DOCS=1 to write the table anew");
        }
    }

    #[test]
    fn policies_and_owners_decide_and_manual_holds() {
        let base = Some(vec![Some([1, 1])]);
        let winner = |rules: &Rules, s: i64, e: i64| {
            let (left, right) = (Half { changed: Some(s), ..half(&[2]) }, Half { changed: Some(e), ..half(&[3]) });
            fields(base.as_ref(), left, right, rules).conflicts[0].winner
        };
        assert_eq!(winner(&rules(Policy::External), 9, 1), Some(Side::External));
        assert_eq!(winner(&rules(Policy::Latest), 9, 1), Some(Side::Salesforce));
        assert_eq!(winner(&rules(Policy::Latest), 1, 9), Some(Side::External));
        assert_eq!(winner(&rules(Policy::Manual), 1, 9), None);
        let owned = Rules { fields: vec![(Way::Both, Some(Side::External))], ..rules(Policy::Salesforce) };
        assert_eq!(winner(&owned, 9, 1), Some(Side::External), "the owner of a field is above the policy");
        let held = fields(base.as_ref(), half(&[2]), half(&[3]), &rules(Policy::Manual));
        assert_eq!((held.to_salesforce, held.to_external, held.base), (vec![], vec![], vec![Some([1, 1])]));
    }

    #[test]
    fn expressions_that_are_no_inverse_of_each_other_do_not_echo() {
        // Salesforce holds 2, which is 20 outside; 20 would be 5 in Salesforce.
        let (s, e) =
            (Half { own: &[2], across: &[20], changed: None }, Half { own: &[20], across: &[5], changed: None });
        let merged = fields(Some(&vec![Some([2, 20])]), s, e, &rules(Policy::Salesforce));
        assert_eq!((merged.to_salesforce.len(), merged.to_external.len()), (0, 0));
        // Written before the base could be: both differ from the base, and agree with each other.
        let merged = fields(Some(&vec![Some([1, 10])]), s, e, &rules(Policy::Salesforce));
        assert_eq!((merged.to_salesforce.len(), merged.to_external.len(), merged.conflicts.len()), (0, 0, 0));
        assert_eq!(merged.base, [Some([2, 20])]);
    }

    #[test]
    fn a_computed_field_goes_one_way_and_what_it_overwrites_is_told() {
        let one_way = Rules { fields: vec![(Way::To(Side::External), None)], ..rules(Policy::External) };
        let (s, e) =
            (Half { own: &[2], across: &[20], changed: None }, Half { own: &[21], across: &[0], changed: None });
        let merged = fields(Some(&vec![Some([20, 20])]), s, e, &one_way);
        assert_eq!(merged.to_external, [0]);
        assert_eq!(merged.conflicts, [Conflict { field: 0, winner: Some(Side::Salesforce) }]);
    }

    #[test]
    fn deletes_against_edits() {
        let base = vec![Some([1, 1])];
        let with = |contested| Rules { contested, ..rules(Policy::Salesforce) };
        let gone = |value: Print, contested| merge(Some(&base), None, Some(half(&[value])), &with(contested));
        assert_eq!(gone(1, Contested::EditWins), Decision::Delete { side: Side::External, contested: false });
        assert_eq!(gone(2, Contested::DeleteWins), Decision::Delete { side: Side::External, contested: true });
        assert_eq!(gone(2, Contested::EditWins), Decision::Create { side: Side::Salesforce, contested: true });
        assert_eq!(gone(2, Contested::Ask), Decision::Ask { gone: Side::Salesforce });
        let kept = Rules { deletes: false, ..rules(Policy::Salesforce) };
        assert_eq!(merge(Some(&base), None, Some(half(&[1])), &kept), Decision::Leave);
        assert_eq!(merge(Some(&base), None, None, &kept), Decision::Forget);
        assert_eq!(
            merge(None, Some(half(&[1])), None, &kept),
            Decision::Create { side: Side::External, contested: false }
        );
        // What Salesforce computes for the other side was not changed as long as the same comes of it.
        let computed = Rules { fields: vec![(Way::To(Side::External), None)], ..rules(Policy::Salesforce) };
        let left = |across| {
            merge(Some(&vec![Some([20, 20])]), Some(Half { own: &[0], across, changed: None }), None, &computed)
        };
        assert_eq!(left(&[20]), Decision::Delete { side: Side::Salesforce, contested: false });
        assert_eq!(left(&[21]), Decision::Create { side: Side::External, contested: true });
    }
}
