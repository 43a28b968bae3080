//! Formulas of a Salesforce org: of formula fields, validation rules and default values.
//!
//! [`Formula::new`] reads a formula and checks it against the fields that there are; [`Formula::evaluate`] gives its value
//! for the values of those fields. Nothing here reads a record: what a formula needs stands in [`Formula::references`].
//! What SQL can say exactly, [`Formula::to_sql`] says in SQL.
//!
//! Blanks follow the platform: a text without a value is an empty one, a checkbox is false, and a comparison with any other
//! blank is unknown, which counts as false. Numbers that are blank are zero where [`Blanks::Zero`] says so.
//!
//! Source of the functions' meaning: "Formula Operators and Functions" of Salesforce Help, and the results that Salesforce's
//! own open formula engine is held to.

mod compile;
mod evaluate;
mod functions;
mod lex;
mod parse;
mod sql;
mod value;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

pub use value::{Kind, Value};

use compile::{Code, Compiler};

/// Longest formula, in characters. Source: Salesforce Help, "Formula Field Limits and Restrictions".
pub const LONGEST: usize = 3_900;

/// What is wrong with a formula, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Byte offset of what is wrong.
    pub offset: usize,
    /// What is wrong, as the platform says it.
    pub message: String,
}

impl Error {
    pub(crate) fn new(offset: usize, message: impl Into<String>) -> Self {
        Self { offset, message: message.into() }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The fields that a formula may name.
pub trait Fields {
    /// Returns what the field of a path is, such as `Name`, `Account.Owner.Name` or `$User.Id`; `None` where there is none.
    fn kind(&self, path: &str) -> Option<Kind>;
}

/// A field that a formula reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its path, as written.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// True for the value before the change at hand.
    pub prior: bool,
}

/// What numbers without a value are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blanks {
    /// Zero.
    Zero,
    /// Blank, and so is what is computed with them.
    #[default]
    Blank,
}

/// What a formula is evaluated in.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Now.
    pub now: DateTime<Utc>,
    /// Where the user is, for whom it is today.
    pub zone: Tz,
    /// True while a record is made.
    pub is_new: bool,
    /// True while it is made as the copy of another.
    pub is_clone: bool,
}

/// What a formula reads, as far as its text tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reads {
    /// Fields, in the order in which they are written, each once.
    pub fields: Vec<String>,
    /// True where its value changes as time goes on.
    pub timely: bool,
}

/// Returns what a formula reads, without a look at the fields that there are.
///
/// # Errors
///
/// What is wrong with its grammar.
pub fn reads(text: &str) -> Result<Reads, Error> {
    let mut reads = Reads::default();
    parse::parse(text)?.note_reads(&mut reads);
    Ok(reads)
}

/// A formula that is right.
#[derive(Debug, Clone)]
pub struct Formula {
    code: Code,
    kind: Kind,
    references: Vec<Reference>,
    blanks: Blanks,
    timely: bool,
}

/// Why a formula has no value for a record: a division by zero, a text that is no number. A field shows it as `#Error!`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoValue(pub String);

impl std::fmt::Display for NoValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoValue {}

impl Formula {
    /// Reads a formula and checks it.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in the platform's words, with its place.
    pub fn new(text: &str, fields: &dyn Fields, blanks: Blanks) -> Result<Self, Error> {
        let length = text.chars().count();
        if length > LONGEST {
            return Err(Error::new(
                0,
                format!("Formula is too long ({length} characters). Maximum length is {LONGEST} characters."),
            ));
        }
        let parsed = parse::parse(text)?;
        let mut compiler = Compiler { fields, references: Vec::new() };
        let (code, kind) = compiler.compile(&parsed)?;
        let timely = code.is_timely();
        Ok(Self { code, kind, references: compiler.references, blanks, timely })
    }

    /// Returns what comes of it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the fields that it reads, in the order in which [`Formula::evaluate`] takes their values.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// True where its value changes by itself, as time goes on.
    pub fn is_timely(&self) -> bool {
        self.timely
    }

    /// Returns its value, for one value for each reference.
    ///
    /// # Errors
    ///
    /// Why it has none.
    pub fn evaluate(&self, values: &[Value], moment: &Moment) -> Result<Value, NoValue> {
        evaluate::Evaluator { values, moment, references: &self.references, blanks: self.blanks }.value(&self.code)
    }
}
