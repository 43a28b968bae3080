//! Values of formulas, and how they are written.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use rust_decimal::Decimal;

/// What a field, or a part of a formula, holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text, an id, or anything that is told as text.
    Text,
    /// One of a list, which only some functions take.
    Picklist,
    /// Several of a list, joined by `;`.
    Multipicklist,
    /// A number, an amount or a percentage (25% is 0.25).
    Number,
    /// True or false; never blank.
    Boolean,
    /// A day.
    Date,
    /// A moment.
    DateTime,
    /// A time of day.
    Time,
    /// A place on the globe.
    Location,
    /// Nothing but `NULL`.
    Null,
}

impl Kind {
    /// Returns the word for it that people know.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "Text",
            Self::Picklist => "Picklist",
            Self::Multipicklist => "Multi-Select Picklist",
            Self::Number => "Number",
            Self::Boolean => "Boolean",
            Self::Date => "Date",
            Self::DateTime => "Date/Time",
            Self::Time => "Time",
            Self::Location => "Geolocation",
            Self::Null => "Null",
        }
    }
}

/// A value.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// None.
    #[default]
    Blank,
    /// A text; an empty one is as good as none.
    Text(String),
    /// A number.
    Number(Decimal),
    /// True or false.
    Boolean(bool),
    /// A day.
    Date(NaiveDate),
    /// A moment.
    DateTime(DateTime<Utc>),
    /// A time of day, to the millisecond.
    Time(NaiveTime),
    /// Latitude and longitude in degrees.
    Location(f64, f64),
}

impl Value {
    /// True for what a field without a value has.
    pub fn is_blank(&self) -> bool {
        matches!(self, Self::Blank) || matches!(self, Self::Text(text) if text.is_empty())
    }

    /// Returns the text, which is empty where there is none.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            _ => "",
        }
    }

    pub(crate) fn number(&self) -> Option<Decimal> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// True where it is; what is unknown is not.
    pub(crate) fn holds(&self) -> bool {
        matches!(self, Self::Boolean(true))
    }

    pub(crate) fn of_text(text: impl Into<String>) -> Self {
        let text = text.into();
        if text.is_empty() { Self::Blank } else { Self::Text(text) }
    }
}

/// Writes a number in full, without zeros that say nothing.
pub(crate) fn plain(number: Decimal) -> String {
    let text = number.normalize().to_string();
    if text == "-0" { "0".to_owned() } else { text }
}
