//! SOQL and SOSL: text to syntax tree and back. Grammar only: what names mean is the reader's business.
//!
//! ```
//! let query = soql::parse("select Name, Owner.Name from Account where Type = 'Customer' limit 5")?;
//! assert_eq!(query.from.object.text, "Account");
//! assert_eq!(query.to_string(), "SELECT Name, Owner.Name FROM Account WHERE Type = 'Customer' LIMIT 5");
//! # Ok::<(), soql::Error>(())
//! ```

mod ast;
mod lex;
mod parse;
mod print;
mod sosl;

pub use ast::{
    Condition, DateLiteral, DateUnit, Direction, Expr, Grouping, Item, Name, Nulls, Op, Order, Query, Reach, Source,
    TypeOf, Value,
};
pub use parse::parse;
pub use print::quote;
pub use sosl::{Returning, Search, parse_search};

/// Why a text is no SOQL, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Byte offset of the token at fault.
    pub offset: usize,
    /// The platform's wording.
    pub message: String,
}

/// Returns the row and column of a byte offset, both from 1, the column in characters.
pub fn row_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let row = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (row, column)
}
