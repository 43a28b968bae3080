//! The types and calls of the WSDLs, as `data/soap.txt` has them: what is written follows them, and so does the WSDL.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A part of a type, or what a call takes.
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    /// Any number of them.
    pub(super) many: bool,
    /// There may be none.
    pub(super) optional: bool,
    /// It may be nil.
    pub(super) nillable: bool,
}

/// A call.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) takes: Vec<Element>,
    pub(super) gives: Option<Element>,
}

/// All of them, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Types {
    pub(super) types: BTreeMap<&'static str, Vec<Element>>,
    /// Those that are more than another, with that other.
    pub(super) bases: BTreeMap<&'static str, &'static str>,
    pub(super) calls: Vec<Operation>,
    pub(super) headers: Vec<(&'static str, Vec<Element>)>,
}

pub(super) static TYPES: LazyLock<Types> = LazyLock::new(|| Types::read(include_str!("../../data/soap.txt")));

/// Reads one element: its name, unless it is that of a result, its type, and its marks.
fn element(text: &'static str, name: Option<&'static str>) -> Element {
    let mut words = text.split_whitespace();
    let name = name.or_else(|| words.next()).unwrap_or_default();
    let kind = words.next().unwrap_or_default();
    let marks = words.next().unwrap_or_default();
    Element {
        name,
        kind,
        many: marks.contains(['*', '+']),
        optional: marks.contains(['*', '?']),
        nillable: marks.contains('~'),
    }
}

fn elements(text: &'static str) -> Vec<Element> {
    text.split(',').filter(|part| !part.trim().is_empty()).map(|part| element(part, None)).collect()
}

impl Types {
    fn read(text: &'static str) -> Self {
        let mut types = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((head, rest)) = line.split_once(':') else { continue };
            match head.split_once(' ') {
                Some(("type", name)) => {
                    let (name, base) = name.split_once(" < ").map_or((name, None), |(name, base)| (name, Some(base)));
                    types.bases.extend(base.map(|base| (name, base)));
                    types.types.insert(name, elements(rest));
                }
                Some(("header", name)) => types.headers.push((name, elements(rest))),
                Some(("call", name)) => {
                    let (takes, gives) = rest.split_once("->").unwrap_or((rest, ""));
                    let gives = Some(gives.trim()).filter(|gives| !gives.is_empty());
                    let gives = gives.map(|gives| element(gives, Some("result")));
                    types.calls.push(Operation { name, takes: elements(takes), gives });
                }
                _ => {}
            }
        }
        types
    }

    /// Finds a call.
    pub(super) fn call(&self, name: &str) -> Option<&Operation> {
        self.calls.iter().find(|call| call.name == name)
    }
}
