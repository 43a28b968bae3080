//! The words that every room of Bridgehead shares: entities and their fields, batches of changes,
//! positions in a source, outcomes of writes, and the classes that errors fall into.
//!
//! Nothing here does I/O, and nothing here knows a vendor.
//!
//! ```
//! use model::{Entity, Field, Type};
//!
//! let customers = Entity::new("public.customers")
//!     .with_key(["id"])
//!     .with_fields([Field::new("id", Type::Integer).required(), Field::new("name", Type::Text)]);
//! assert_eq!(customers.field("NAME").map(|field| field.name.as_str()), Some("name"));
//! ```

mod change;
mod class;
mod entity;
mod fingerprint;
mod outcome;
mod text;
mod types;

pub use change::{ChangeBatch, Op, Position, Side, Unreadable};
pub use class::Class;
pub use entity::{Entity, Field, Picklist};
pub use fingerprint::{Fingerprint, digest, quick_digest, row_text};
pub use outcome::{Outcome, RecordError};
pub use text::{Column, text_of};
pub use types::{Conversion, Type};
