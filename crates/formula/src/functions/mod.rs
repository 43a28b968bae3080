//! Functions: what each takes and gives, and what it does.

pub(crate) mod date;
pub(crate) mod number;
pub(crate) mod text;

use crate::value::Kind;

/// What an argument may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Text,
    Number,
    Boolean,
    Date,
    Time,
    Location,
    Multipicklist,
    /// A day or a moment.
    Day,
    /// A day, a moment or a time of day.
    Moment,
    /// A picklist, one or several.
    Choice,
    /// What can be shown as text.
    Shown,
    /// A text or a moment.
    TextOrMoment,
    /// A field, of any kind.
    Field,
    Any,
}

impl Takes {
    /// True when a value of this kind will do.
    pub(crate) fn accepts(self, kind: Kind) -> bool {
        use Kind::{Boolean, Date, DateTime, Location, Multipicklist, Null, Number, Picklist, Text, Time};
        match self {
            Self::Any | Self::Field => true,
            Self::Choice => matches!(kind, Picklist | Multipicklist),
            Self::Multipicklist => kind == Multipicklist,
            Self::Text => matches!(kind, Text | Null),
            Self::Number => matches!(kind, Number | Null),
            Self::Boolean => matches!(kind, Boolean | Null),
            Self::Date => matches!(kind, Date | Null),
            Self::Time => matches!(kind, Time | Null),
            Self::Location => matches!(kind, Location | Null),
            Self::Day => matches!(kind, Date | DateTime | Null),
            Self::Moment => matches!(kind, Date | DateTime | Time | Null),
            Self::Shown => matches!(kind, Number | Date | DateTime | Time | Picklist | Null),
            Self::TextOrMoment => matches!(kind, Text | DateTime | Date | Null),
        }
    }

    /// Says what is taken.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Text => "Text",
            Self::Number => "Number",
            Self::Boolean => "Boolean",
            Self::Date => "Date",
            Self::Time => "Time",
            Self::Location => "Geolocation",
            Self::Multipicklist => "Multi-Select Picklist",
            Self::Day => "Date, Date/Time",
            Self::Moment => "Date, Date/Time, Time",
            Self::Choice => "Picklist, Multi-Select Picklist",
            Self::Shown => "Number, Date, Date/Time, Time, Picklist",
            Self::TextOrMoment => "Text, Date/Time",
            Self::Field => "Field",
            Self::Any => "any value",
        }
    }
}

/// What a function gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gives {
    Kind(Kind),
    /// What the argument at this place is.
    Like(usize),
    /// What the arguments from this place on have in common, every so many of them.
    Common {
        from: usize,
        step: usize,
    },
}

/// A function.
#[derive(Debug)]
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    pub(crate) function: Function,
    /// What it takes; the last as often as it is written where `more`.
    pub(crate) takes: &'static [Takes],
    /// How many of these may be left out.
    pub(crate) optional: usize,
    pub(crate) more: bool,
    pub(crate) gives: Gives,
}

macro_rules! functions {
    ($($name:literal $function:ident ($($takes:ident),*) $(optional $optional:literal)? $(more $more:literal)? => $gives:expr;)*) => {
        /// What a formula calls.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Function { $($function,)* }

        static SIGNATURES: &[Signature] = &[$(Signature {
            name: $name,
            function: Function::$function,
            takes: &[$(Takes::$takes),*],
            optional: 0 $(+ $optional)?,
            more: false $(|| $more)?,
            gives: $gives,
        },)*];
    };
}

const TEXT: Gives = Gives::Kind(Kind::Text);
const NUMBER: Gives = Gives::Kind(Kind::Number);
const BOOLEAN: Gives = Gives::Kind(Kind::Boolean);
const DATE: Gives = Gives::Kind(Kind::Date);
const DATETIME: Gives = Gives::Kind(Kind::DateTime);
const TIME: Gives = Gives::Kind(Kind::Time);

functions! {
    "ABS" Abs (Number) => NUMBER;
    "ACOS" Acos (Number) => NUMBER;
    "ADDMONTHS" AddMonths (Day, Number) => Gives::Like(0);
    "AND" And (Boolean) more true => BOOLEAN;
    "ASCII" Ascii (Text) => NUMBER;
    "ASIN" Asin (Number) => NUMBER;
    "ATAN" Atan (Number) => NUMBER;
    "ATAN2" Atan2 (Number, Number) => NUMBER;
    "BEGINS" Begins (Text, Text) => BOOLEAN;
    "BLANKVALUE" BlankValue (Any, Any) => Gives::Common { from: 0, step: 1 };
    "BR" Br () => TEXT;
    "CASE" Case (Any, Any, Any, Any) more true => Gives::Common { from: 2, step: 2 };
    "CASESAFEID" CaseSafeId (Text) => TEXT;
    "CEILING" Ceiling (Number) => NUMBER;
    "CHR" Chr (Number) => TEXT;
    "CONTAINS" Contains (Text, Text) => BOOLEAN;
    "COS" Cos (Number) => NUMBER;
    "DATE" Date (Number, Number, Number) => DATE;
    "DATETIMEVALUE" DateTimeValue (TextOrMoment) => DATETIME;
    "DATEVALUE" DateValue (TextOrMoment) => DATE;
    "DAY" Day (Date) => NUMBER;
    "DAYOFYEAR" DayOfYear (Date) => NUMBER;
    "DISTANCE" Distance (Location, Location, Text) => NUMBER;
    "EXP" Exp (Number) => NUMBER;
    "FIND" Find (Text, Text, Number) optional 1 => NUMBER;
    "FLOOR" Floor (Number) => NUMBER;
    "FORMATDURATION" FormatDuration (Any, Any) optional 1 => TEXT;
    "FROMUNIXTIME" FromUnixTime (Number) => DATETIME;
    "GEOLOCATION" Geolocation (Number, Number) => Gives::Kind(Kind::Location);
    "HOUR" Hour (Time) => NUMBER;
    "HTMLENCODE" HtmlEncode (Text) => TEXT;
    "HYPERLINK" Hyperlink (Text, Text, Text) optional 1 => TEXT;
    "IF" If (Boolean, Any, Any) => Gives::Common { from: 1, step: 1 };
    "IMAGE" Image (Text, Text, Number, Number) optional 2 => TEXT;
    "INCLUDES" Includes (Multipicklist, Text) => BOOLEAN;
    "INITCAP" InitCap (Text) => TEXT;
    "ISBLANK" IsBlank (Any) => BOOLEAN;
    "ISCHANGED" IsChanged (Field) => BOOLEAN;
    "ISCLONE" IsClone () => BOOLEAN;
    "ISNEW" IsNew () => BOOLEAN;
    "ISNULL" IsNull (Any) => BOOLEAN;
    "ISNUMBER" IsNumber (Text) => BOOLEAN;
    "ISOWEEK" IsoWeek (Date) => NUMBER;
    "ISOYEAR" IsoYear (Date) => NUMBER;
    "ISPICKVAL" IsPickVal (Choice, Text) => BOOLEAN;
    "JSENCODE" JsEncode (Text) => TEXT;
    "JSINHTMLENCODE" JsInHtmlEncode (Text) => TEXT;
    "LEFT" Left (Text, Number) => TEXT;
    "LEN" Len (Text) => NUMBER;
    "LN" Ln (Number) => NUMBER;
    "LOG" Log (Number) => NUMBER;
    "LOWER" Lower (Text, Text) optional 1 => TEXT;
    "LPAD" Lpad (Text, Number, Text) optional 1 => TEXT;
    "MAX" Max (Number) more true => NUMBER;
    "MCEILING" MCeiling (Number) => NUMBER;
    "MFLOOR" MFloor (Number) => NUMBER;
    "MID" Mid (Text, Number, Number) => TEXT;
    "MILLISECOND" Millisecond (Time) => NUMBER;
    "MIN" Min (Number) more true => NUMBER;
    "MINUTE" Minute (Time) => NUMBER;
    "MOD" Mod (Number, Number) => NUMBER;
    "MONTH" Month (Date) => NUMBER;
    "NOT" Not (Boolean) => BOOLEAN;
    "NOW" Now () => DATETIME;
    "NULLVALUE" NullValue (Any, Any) => Gives::Common { from: 0, step: 1 };
    "OR" Or (Boolean) more true => BOOLEAN;
    "PI" Pi () => NUMBER;
    "PICKLISTCOUNT" PicklistCount (Multipicklist) => NUMBER;
    "PRIORVALUE" PriorValue (Field) => Gives::Like(0);
    "REGEX" Regex (Text, Text) => BOOLEAN;
    "REVERSE" Reverse (Text) => TEXT;
    "RIGHT" Right (Text, Number) => TEXT;
    "ROUND" Round (Number, Number) => NUMBER;
    "RPAD" Rpad (Text, Number, Text) optional 1 => TEXT;
    "SECOND" Second (Time) => NUMBER;
    "SIN" Sin (Number) => NUMBER;
    "SQRT" Sqrt (Number) => NUMBER;
    "SUBSTITUTE" Substitute (Text, Text, Text) => TEXT;
    "TAN" Tan (Number) => NUMBER;
    "TEXT" Text (Shown) => TEXT;
    "TIMENOW" TimeNow () => TIME;
    "TIMEVALUE" TimeValue (TextOrMoment) => TIME;
    "TODAY" Today () => DATE;
    "TRIM" Trim (Text) => TEXT;
    "TRUNC" Trunc (Number, Number) optional 1 => NUMBER;
    "UNIXTIMESTAMP" UnixTimestamp (Moment) => NUMBER;
    "UPPER" Upper (Text, Text) optional 1 => TEXT;
    "URLENCODE" UrlEncode (Text) => TEXT;
    "VALUE" Value (Text) => NUMBER;
    "WEEKDAY" Weekday (Date) => NUMBER;
    "YEAR" Year (Date) => NUMBER;
}

/// What an org knows besides, and this crate does not.
pub(crate) const ABSENT: [&str; 13] = [
    "CURRENCYRATE",
    "GETRECORDIDS",
    "GETSESSIONID",
    "IMAGEPROXYURL",
    "INCLUDE",
    "JUNCTIONIDLIST",
    "LINKTO",
    "PARENTGROUPVAL",
    "PREDICT",
    "PREVGROUPVAL",
    "REQUIRESCRIPT",
    "URLFOR",
    "VLOOKUP",
];

/// Finds a function by its name, in any case.
pub(crate) fn signature(name: &str) -> Option<&'static Signature> {
    SIGNATURES.iter().find(|signature| signature.name.eq_ignore_ascii_case(name))
}
