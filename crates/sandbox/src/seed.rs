//! Believable records at any size: a few huge accounts and a long tail, gaps, names of many languages, duplicates
//! with typing errors. The same seed makes the same records.

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, params_from_iter};

use crate::error::{Answered, ApiError};
use crate::id;
use crate::org::Org;
use crate::schema::Object;
use crate::store::quoted;
use crate::value::stamp;

/// Rows between two commits.
const PART: u64 = 100_000;
/// From so many records on, indexes are made afterwards: entries in random order cost most of the time.
const MANY: u64 = 20_000;
/// Seconds in the time over which the records were made: three years.
const SPAN: f64 = 3.0 * 365.0 * 86_400.0;

const FIRST: [&str; 24] = [
    "Anna",
    "Jürgen",
    "Zoë",
    "Miguel",
    "Aiko",
    "Olu",
    "Siobhán",
    "Łukasz",
    "Chloé",
    "Ravi",
    "Fatima",
    "Sven",
    "Nuria",
    "Mehmet",
    "Ingrid",
    "Tomáš",
    "Mary-Jane",
    "Owen",
    "Yuki",
    "Dmitri",
    "Leïla",
    "José",
    "Kwame",
    "Grace",
];
const LAST: [&str; 24] = [
    "Müller",
    "O'Neil",
    "García",
    "Nakamura",
    "Okafor",
    "Kowalska",
    "Dubois",
    "Patel",
    "Haddad",
    "Lindqvist",
    "Ferrer",
    "Yılmaz",
    "Nilsen",
    "Novák",
    "Smith",
    "Brown",
    "佐藤",
    "Ivanov",
    "Benali",
    "da Silva",
    "Mensah",
    "van der Berg",
    "McAllister",
    "Ng",
];
const WORDS: [&str; 24] = [
    "Alpine",
    "Blue River",
    "Cedar",
    "Delta",
    "Ember",
    "Fjord",
    "Granite",
    "Harbour",
    "Iron Bridge",
    "Juniper",
    "Kestrel",
    "Lumen",
    "Meridian",
    "Northwind",
    "Orchard",
    "Polar",
    "Quartz",
    "Ridge",
    "Sólstafir",
    "Tidal",
    "Umbra",
    "Vélo",
    "Westerly",
    "Zenith",
];
const TRADES: [&str; 16] = [
    "Cycles",
    "Logistics",
    "Foods",
    "Systems",
    "Textiles",
    "Energy",
    "Media",
    "Tools",
    "Pharma",
    "Outdoor",
    "Partners",
    "Consulting",
    "Motors",
    "Optics",
    "Paper",
    "Works",
];
const FORMS: [&str; 8] = ["Ltd", "GmbH", "Inc.", "S.A.", "AB", "BV", "SpA", "KK"];
const PLACES: [(&str, &str, &str); 12] = [
    ("Köln", "Germany", "50667"),
    ("Lyon", "France", "69001"),
    ("Porto", "Portugal", "4000-008"),
    ("Kraków", "Poland", "30-001"),
    ("Malmö", "Sweden", "211 20"),
    ("Portland", "USA", "97201"),
    ("Austin", "USA", "73301"),
    ("São Paulo", "Brazil", "01000-000"),
    ("京都", "Japan", "600-8001"),
    ("Cork", "Ireland", "T12"),
    ("Accra", "Ghana", ""),
    ("Bengaluru", "India", "560001"),
];

/// Numbers that only look random. Source: SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    fn often(&mut self, share: f64) -> bool {
        self.share() < share
    }

    /// A number below `end`, small ones far more often: the first hundredth gets a fifth.
    fn skewed(&mut self, end: u64) -> u64 {
        ((self.share().powf(2.9) * end as f64) as u64).min(end.saturating_sub(1))
    }
}

fn text(value: impl Into<String>) -> Sql {
    Sql::Text(value.into())
}

/// Returns a text as somebody types it in a hurry.
fn mistyped(dice: &mut Dice, text: &str) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let at = dice.below(chars.len() as u64) as usize;
    match dice.below(4) {
        0 if at + 1 < chars.len() => chars.swap(at, at + 1),
        1 if chars.len() > 3 => drop(chars.remove(at)),
        2 => chars.insert(at, chars[at]),
        _ => return text.to_uppercase(),
    }
    chars.into_iter().collect()
}

/// What is known of an account that others hang on.
struct Parents {
    first: u64,
    count: u64,
}

impl Parents {
    fn pick(&self, dice: &mut Dice) -> u64 {
        self.first + dice.skewed(self.count)
    }
}

/// Fields of one record, besides those that every record has.
type Row = Vec<(&'static str, Sql)>;

fn account(dice: &mut Dice, before: &mut String) -> Row {
    let (city, country, zip) = dice.pick(&PLACES);
    // Nearly one in a hundred is there twice.
    let name = if dice.often(0.008) && !before.is_empty() {
        mistyped(dice, before)
    } else {
        let number = dice.below(9_000) + 100;
        format!("{} {} {number} {}", dice.pick(&WORDS), dice.pick(&TRADES), dice.pick(&FORMS))
    };
    before.clone_from(&name);
    let employees = (dice.share().powi(6) * 50_000.0) as i64 + 1;
    let mut row = vec![
        ("Name", text(name)),
        ("Type", text(dice.pick(&["Prospect", "Customer - Direct", "Customer - Channel", "Other"]))),
        ("BillingCity", text(city)),
        ("BillingCountry", text(country)),
        ("NumberOfEmployees", Sql::Integer(employees)),
        ("AccountNumber", text(format!("A-{:08}", dice.below(100_000_000)))),
    ];
    if !zip.is_empty() && dice.often(0.9) {
        row.push(("BillingPostalCode", text(zip)));
    }
    if dice.often(0.7) {
        row.push(("BillingStreet", text(format!("{} Street {}", dice.pick(&WORDS), dice.below(300) + 1))));
    }
    if dice.often(0.6) {
        row.push(("AnnualRevenue", Sql::Real((employees as f64 * (50_000.0 + dice.share() * 200_000.0)).round())));
    }
    if dice.often(0.8) {
        row.push(("Phone", text(format!("+{} {:09}", dice.below(90) + 10, dice.below(1_000_000_000)))));
    }
    if dice.often(0.5) {
        row.push((
            "Industry",
            text(dice.pick(&["Manufacturing", "Retail", "Energy", "Healthcare", "Media", "Transportation"])),
        ));
    }
    if dice.often(0.3) {
        row.push(("Rating", text(dice.pick(&["Hot", "Warm", "Cold"]))));
    }
    row
}

fn contact(dice: &mut Dice, account: Option<String>) -> Row {
    let (first, last) = (dice.pick(&FIRST), dice.pick(&LAST));
    let (city, country, _) = dice.pick(&PLACES);
    let mut row = vec![("LastName", text(last)), ("MailingCity", text(city)), ("MailingCountry", text(country))];
    let mut name = last.to_owned();
    if dice.often(0.95) {
        row.push(("FirstName", text(first)));
        name = format!("{first} {last}");
    }
    row.push(("Name", text(name)));
    if dice.often(0.85) {
        let plain: String =
            format!("{first}.{last}").chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
        let plain = plain.to_lowercase();
        let plain = plain.trim_matches('.');
        let plain = if plain.is_empty() { "mail" } else { plain };
        row.push(("Email", text(format!("{plain}{}@example.com", dice.below(1_000_000)))));
    }
    if dice.often(0.6) {
        row.push(("Phone", text(format!("+{} {:09}", dice.below(90) + 10, dice.below(1_000_000_000)))));
    }
    if dice.often(0.4) {
        row.push(("Title", text(dice.pick(&["Buyer", "Head of Purchasing", "CFO", "Engineer", "Owner", "Assistant"]))));
    }
    row.extend(account.map(|id| ("AccountId", text(id))));
    row
}

fn opportunity(dice: &mut Dice, account: Option<String>, day: &dyn Fn(f64) -> String) -> Row {
    let (stage, probability, closed, won) = dice.pick(&[
        ("Prospecting", 10.0, 0, 0),
        ("Qualification", 10.0, 0, 0),
        ("Proposal/Price Quote", 75.0, 0, 0),
        ("Negotiation/Review", 90.0, 0, 0),
        ("Closed Won", 100.0, 1, 1),
        ("Closed Won", 100.0, 1, 1),
        ("Closed Lost", 0.0, 1, 0),
    ]);
    let ahead = if closed == 1 { -dice.share() } else { dice.share() * 0.2 };
    let mut row = vec![
        ("Name", text(format!("{} order {}", dice.pick(&WORDS), dice.below(100_000)))),
        ("StageName", text(stage)),
        ("Probability", Sql::Real(probability)),
        ("IsClosed", Sql::Integer(closed)),
        ("IsWon", Sql::Integer(won)),
        ("CloseDate", text(day(ahead))),
    ];
    if dice.often(0.9) {
        row.push(("Amount", Sql::Real((dice.share().powi(4) * 2_000_000.0 * 100.0).round() / 100.0)));
    }
    row.extend(account.map(|id| ("AccountId", text(id))));
    row
}

fn case(dice: &mut Dice, account: Option<String>, number: u64) -> Row {
    let (status, closed) = dice.pick(&[("New", 0), ("Working", 0), ("Escalated", 0), ("Closed", 1), ("Closed", 1)]);
    let mut row = vec![
        ("CaseNumber", text(format!("{number:08}"))),
        ("Status", text(status)),
        ("IsClosed", Sql::Integer(closed)),
        ("Priority", text(dice.pick(&["High", "Medium", "Medium", "Low"]))),
        ("Origin", text(dice.pick(&["Phone", "Email", "Web"]))),
        (
            "Subject",
            text(format!("{} does not {}", dice.pick(&TRADES), dice.pick(&["arrive", "start", "fit", "shine"]))),
        ),
    ];
    row.extend(account.map(|id| ("AccountId", text(id))));
    row
}

impl Org {
    /// Makes about so many records, or exactly so many of one object; returns how many.
    ///
    /// # Errors
    ///
    /// When the object is none of those that can be made.
    pub(crate) fn plant_only(&self, records: u64, seed: u64, only: Option<&str>) -> Answered<u64> {
        let shares: Vec<(&str, u64)> = match only {
            Some(name) if ["Account", "Contact", "Opportunity", "Case"].contains(&name) => vec![(name, records)],
            Some(name) => {
                let message = format!("{name} cannot be made; Account, Contact, Opportunity and Case can");
                return Err(ApiError::new(400, "INVALID_INPUT", message));
            }
            None => {
                let accounts = (records / 5).max(1);
                let (opportunities, cases) = (records / 5, records / 10);
                let contacts = records.saturating_sub(accounts + opportunities + cases);
                vec![("Account", accounts), ("Contact", contacts), ("Opportunity", opportunities), ("Case", cases)]
            }
        };
        let (schema, user, now) = (self.schema(), self.system().user_id.clone(), self.now());
        let mut made = 0;
        for (name, count) in shares {
            let object = schema.object(name).ok_or_else(ApiError::not_found)?;
            let parents = self.accounts()?;
            made += self.with_writer(|connection| plant(connection, object, count, seed, &parents, &user, now))?;
        }
        Ok(made)
    }

    /// Makes about so many records of all sorts.
    pub(crate) fn plant(&self, records: u64, seed: u64) -> Answered<u64> {
        self.plant_only(records, seed, None)
    }

    fn accounts(&self) -> Answered<Parents> {
        self.read(|connection| {
            let sql = "SELECT COALESCE(MIN(_rid),0), COALESCE(MAX(_rid),0) FROM Account";
            let (first, last): (i64, i64) = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let count = if last == 0 { 0 } else { last - first + 1 };
            Ok(Parents { first: first.cast_unsigned(), count: count.cast_unsigned() })
        })
    }
}

fn plant(
    connection: &Connection,
    object: &Object,
    count: u64,
    seed: u64,
    parents: &Parents,
    user: &str,
    now: chrono::DateTime<chrono::Utc>,
) -> Answered<u64> {
    let salt: u64 = object.name.bytes().map(u64::from).sum();
    let mut dice = Dice(seed.wrapping_mul(31).wrapping_add(salt));
    let start: i64 =
        connection
            .query_row(&format!("SELECT COALESCE(MAX(_rid),0) FROM {}", quoted(&object.name)), [], |row| row.get(0))?;
    let mut indexes = Vec::new();
    if count >= MANY {
        let mut statement = connection
            .prepare("SELECT name, sql FROM sqlite_master WHERE type='index' AND tbl_name=? AND sql IS NOT NULL")?;
        let rows =
            statement.query_map([&object.name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        indexes = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    }
    for (name, _) in &indexes {
        connection.execute_batch(&format!("DROP INDEX {}", quoted(name)))?;
    }
    let planted = fill(connection, object, start.cast_unsigned(), count, &mut dice, parents, user, now);
    for (_, sql) in &indexes {
        connection.execute_batch(sql)?;
    }
    planted?;
    Ok(count)
}

#[expect(clippy::too_many_arguments, reason = "the inner loop of `plant`, which names them all")]
fn fill(
    connection: &Connection,
    object: &Object,
    start: u64,
    count: u64,
    dice: &mut Dice,
    parents: &Parents,
    user: &str,
    now: chrono::DateTime<chrono::Utc>,
) -> Answered<()> {
    let account_prefix = "001";
    let mut before = String::new();
    let day = |ahead: f64| (now + chrono::TimeDelta::seconds((ahead * SPAN) as i64)).format("%Y-%m-%d").to_string();
    let mut open = false;
    for at in 0..count {
        if at % PART == 0 {
            if open {
                connection.execute_batch("COMMIT")?;
            }
            connection.execute_batch("BEGIN IMMEDIATE")?;
            open = true;
        }
        let serial = start + at + 1;
        // One in fifty belongs to nobody.
        let mut parent = || {
            let lone = parents.count == 0 || dice.often(0.02);
            (!lone).then(|| id::make(account_prefix, parents.pick(dice)))
        };
        let mut row = match object.name.as_str() {
            "Account" => account(dice, &mut before),
            "Contact" => {
                let parent = parent();
                contact(dice, parent)
            }
            "Opportunity" => {
                let parent = parent();
                opportunity(dice, parent, &day)
            }
            _ => {
                let parent = parent();
                case(dice, parent, serial)
            }
        };
        let age = dice.share() * SPAN;
        let created = now - chrono::TimeDelta::seconds(age as i64);
        let changed = now - chrono::TimeDelta::seconds((age * dice.share()) as i64);
        row.extend([
            ("Id", text(id::make(&object.prefix, serial))),
            ("OwnerId", text(user)),
            ("CreatedById", text(user)),
            ("LastModifiedById", text(user)),
            ("CreatedDate", text(stamp(created))),
            ("LastModifiedDate", text(stamp(changed))),
            ("SystemModstamp", text(stamp(changed))),
        ]);
        // The same fields in the same order are the same statement.
        row.sort_by_key(|(name, _)| *name);
        let columns: Vec<String> = row.iter().map(|(name, _)| quoted(name)).collect();
        let marks = vec!["?"; row.len() + 1].join(",");
        let sql = format!("INSERT INTO {} (_rid,{}) VALUES ({marks})", quoted(&object.name), columns.join(","));
        let values = std::iter::once(Sql::Integer(serial.cast_signed())).chain(row.into_iter().map(|(_, value)| value));
        connection.prepare_cached(&sql)?.execute(params_from_iter(values))?;
    }
    if open {
        connection.execute_batch("COMMIT")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hundredth_gets_far_more_than_its_share() {
        let mut dice = Dice(1);
        let first = (0..100_000).filter(|_| dice.skewed(10_000) < 100).count();
        assert!((15_000..30_000).contains(&first), "{first}");
    }

    #[test]
    fn typing_errors_change_little() {
        let mut dice = Dice(3);
        for _ in 0..100 {
            let typed = mistyped(&mut dice, "Alpine Cycles");
            assert!(typed.chars().count().abs_diff(13) <= 1, "{typed}");
        }
    }
}
