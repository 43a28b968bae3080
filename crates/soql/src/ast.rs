//! The syntax tree.

/// A dotted path, such as `Account.Owner.Name`, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The path, dots included.
    pub text: String,
    /// Byte offset in the query; 0 for a name that was not parsed.
    pub offset: usize,
}

impl Name {
    /// Returns a name that stands in no text.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), offset: 0 }
    }

    /// Returns the steps of the path.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.text.split('.')
    }

    /// Returns the last step of the path.
    pub fn last(&self) -> &str {
        self.text.rsplit('.').next().unwrap_or(&self.text)
    }
}

/// A whole `SELECT` statement, at the top or inside another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// What is selected, in order.
    pub select: Vec<Item>,
    /// What it is selected from; for a subquery the child relationship.
    pub from: Source,
    /// Further `, path alias` pairs behind `FROM`.
    pub also: Vec<Source>,
    /// `USING SCOPE`.
    pub scope: Option<String>,
    /// `WHERE`.
    pub filter: Option<Condition>,
    /// `WITH`, as written.
    pub with: Option<String>,
    /// `GROUP BY`.
    pub group: Option<Grouping>,
    /// `HAVING`.
    pub having: Option<Condition>,
    /// `ORDER BY`.
    pub order: Vec<Order>,
    /// `LIMIT`.
    pub limit: Option<u64>,
    /// `OFFSET`.
    pub offset: Option<u64>,
    /// `ALL ROWS`.
    pub all_rows: bool,
    /// `FOR VIEW`, `FOR REFERENCE`, `FOR UPDATE`.
    pub purposes: Vec<String>,
    /// `UPDATE TRACKING`, `UPDATE VIEWSTAT`.
    pub updates: Vec<String>,
}

impl From<Source> for Query {
    /// Returns a query that selects nothing yet.
    fn from(from: Source) -> Self {
        Self {
            select: Vec::new(),
            from,
            also: Vec::new(),
            scope: None,
            filter: None,
            with: None,
            group: None,
            having: None,
            order: Vec::new(),
            limit: None,
            offset: None,
            all_rows: false,
            purposes: Vec::new(),
            updates: Vec::new(),
        }
    }
}

/// An object or path behind `FROM`, with its alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The object, relationship or path.
    pub object: Name,
    /// Its alias.
    pub alias: Option<String>,
}

/// One thing in a `SELECT` list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A field or a function of fields, and its alias.
    Expr {
        /// The field or function.
        expr: Expr,
        /// Its alias.
        alias: Option<String>,
    },
    /// A parent-to-child subquery.
    Children(Box<Query>),
    /// `TYPEOF ... END`.
    TypeOf(TypeOf),
    /// `FIELDS(ALL | STANDARD | CUSTOM)`.
    Fields {
        /// Which fields.
        reach: Reach,
        /// Byte offset.
        offset: usize,
    },
}

/// The word inside `FIELDS()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All fields.
    All,
    /// Standard fields.
    Standard,
    /// Custom fields.
    Custom,
}

/// `TYPEOF path WHEN Object THEN fields ... ELSE fields END`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeOf {
    /// The polymorphic relationship.
    pub path: Name,
    /// Object and the fields selected for it.
    pub when: Vec<(Name, Vec<Name>)>,
    /// Fields for every other object.
    pub otherwise: Vec<Name>,
}

/// A field or a function of fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// A field path.
    Field(Name),
    /// A function and its arguments; the name as written.
    Call {
        /// Function name.
        name: Name,
        /// Arguments, in order.
        args: Vec<Expr>,
    },
    /// A constant argument, such as a unit or a place.
    Constant(Value),
}

impl Expr {
    /// Returns the byte offset of the expression.
    pub fn offset(&self) -> usize {
        match self {
            Self::Field(name) | Self::Call { name, .. } => name.offset,
            Self::Constant(_) => 0,
        }
    }
}

/// `GROUP BY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grouping {
    /// Plain fields.
    By(Vec<Expr>),
    /// `ROLLUP(...)`.
    Rollup(Vec<Expr>),
    /// `CUBE(...)`.
    Cube(Vec<Expr>),
}

impl Grouping {
    /// Returns the grouped fields.
    pub fn fields(&self) -> &[Expr] {
        match self {
            Self::By(fields) | Self::Rollup(fields) | Self::Cube(fields) => fields,
        }
    }
}

/// One `ORDER BY` term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// By what.
    pub expr: Expr,
    /// Upwards or downwards; upwards if not written.
    pub direction: Option<Direction>,
    /// Where nulls go; first if not written.
    pub nulls: Option<Nulls>,
}

/// Sorting direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Upwards.
    Asc,
    /// Downwards.
    Desc,
}

/// Where nulls are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nulls {
    /// Before every value.
    First,
    /// After every value.
    Last,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// All hold.
    And(Vec<Condition>),
    /// At least one holds.
    Or(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// A comparison with one value.
    Compare {
        /// Left side.
        left: Expr,
        /// Comparison.
        op: Op,
        /// Right side.
        right: Value,
    },
    /// `[NOT] IN (values)`.
    In {
        /// Left side.
        left: Expr,
        /// True for `NOT IN`.
        negated: bool,
        /// The values.
        values: Vec<Value>,
    },
    /// `[NOT] IN (SELECT ...)`.
    InQuery {
        /// Left side.
        left: Expr,
        /// True for `NOT IN`.
        negated: bool,
        /// The inner query.
        query: Box<Query>,
    },
    /// `INCLUDES (values)` or `EXCLUDES (values)`.
    Includes {
        /// Left side.
        left: Expr,
        /// True for `EXCLUDES`.
        negated: bool,
        /// The values, each perhaps several joined by `;`.
        values: Vec<Value>,
    },
}

/// A comparison operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `=`
    Equal,
    /// `!=`, `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `LIKE`
    Like,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `NULL`
    Null,
    /// `TRUE`, `FALSE`
    Boolean(bool),
    /// A number, as written.
    Number(String),
    /// A text, unescaped; in `LIKE` patterns `\_` and `\%` keep their backslash.
    Text(String),
    /// `2026-05-05`, as written.
    Date(String),
    /// `2026-05-05T10:00:00Z`, as written.
    DateTime(String),
    /// `15:04:05.000Z`, as written.
    Time(String),
    /// `LAST_N_DAYS:3` and its kin.
    Literal(DateLiteral),
    /// `USD5000.50`
    Currency {
        /// ISO code.
        iso: String,
        /// Amount, as written.
        amount: String,
    },
    /// `:name`, which belongs to Apex.
    Bind(Name),
}

/// A date literal: a range of time relative to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateLiteral {
    /// `YESTERDAY`
    Yesterday,
    /// `TODAY`
    Today,
    /// `TOMORROW`
    Tomorrow,
    /// `LAST_90_DAYS`
    Last90Days,
    /// `NEXT_90_DAYS`
    Next90Days,
    /// `LAST_WEEK` and the like.
    Last(DateUnit),
    /// `THIS_WEEK` and the like.
    This(DateUnit),
    /// `NEXT_WEEK` and the like.
    Next(DateUnit),
    /// `LAST_N_WEEKS:n` and the like.
    LastN(DateUnit, u32),
    /// `NEXT_N_WEEKS:n` and the like.
    NextN(DateUnit, u32),
    /// `N_WEEKS_AGO:n` and the like.
    Ago(DateUnit, u32),
}

/// The unit of a date literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateUnit {
    /// Days.
    Day,
    /// Weeks.
    Week,
    /// Months.
    Month,
    /// Quarters.
    Quarter,
    /// Years.
    Year,
    /// Fiscal quarters.
    FiscalQuarter,
    /// Fiscal years.
    FiscalYear,
}

impl DateUnit {
    /// Every unit with its word in the singular.
    pub(crate) const WORDS: [(Self, &'static str); 7] = [
        (Self::Day, "DAY"),
        (Self::Week, "WEEK"),
        (Self::Month, "MONTH"),
        (Self::Quarter, "QUARTER"),
        (Self::Year, "YEAR"),
        (Self::FiscalQuarter, "FISCAL_QUARTER"),
        (Self::FiscalYear, "FISCAL_YEAR"),
    ];

    /// Returns the unit's word in the singular.
    pub(crate) fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(unit, _)| *unit == self).map_or("", |(_, word)| word)
    }
}
