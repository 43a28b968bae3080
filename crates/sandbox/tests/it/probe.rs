//! Statements and bodies out of pieces that make sense, in an order that does not: nothing panics and nothing is our
//! own fault. `fuzz/` does the same for as long as one likes.

use proptest::prelude::*;
use sandbox::probe::Probe;

const SOQL: [&str; 44] = [
    "SELECT ",
    "FROM ",
    "WHERE ",
    "Account ",
    "Contact ",
    "Id ",
    "Name ",
    "Owner.Name ",
    "Account.Name ",
    ", ",
    "( ",
    ") ",
    "= ",
    "!= ",
    "LIKE ",
    "IN ",
    "NOT ",
    "AND ",
    "OR ",
    "'x' ",
    "'001' ",
    "5 ",
    "-1.5 ",
    "null ",
    "true ",
    "TODAY ",
    "LAST_N_DAYS:3 ",
    "2026-05-05 ",
    "GROUP BY ",
    "ROLLUP",
    "HAVING ",
    "ORDER BY ",
    "DESC ",
    "NULLS LAST ",
    "LIMIT ",
    "OFFSET ",
    "COUNT",
    "SUM(AnnualRevenue) ",
    "FIELDS(STANDARD) ",
    "TYPEOF What WHEN Account THEN Name END ",
    "INCLUDES ",
    "DISTANCE(BillingAddress, GEOLOCATION(1,2), 'km') ",
    "FOR UPDATE ",
    "CALENDAR_YEAR(CreatedDate) ",
];
const SOSL: [&str; 20] = [
    "FIND ",
    "{",
    "}",
    "acme",
    "\"a b\" ",
    " AND ",
    " OR ",
    "AND NOT ",
    "(",
    ")",
    "* ",
    "? ",
    " IN ",
    "NAME FIELDS ",
    "RETURNING ",
    "Account",
    "(Id, Name) ",
    "WHERE Name = 'x' ",
    "LIMIT 5 ",
    "\\",
];
const JSON: [&str; 26] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"Name\"",
    "\"x\"",
    "null",
    "true",
    "-1e400",
    "5",
    "\"records\"",
    "\"attributes\"",
    "\"type\"",
    "\"Account\"",
    "\"allOrNone\"",
    "\"compositeRequest\"",
    "\"method\"",
    "\"url\"",
    "\"referenceId\"",
    "\"@{a.b[9].c}\"",
    "\"/services/data/v66.0/composite\"",
    "\"Contacts\"",
    "\"\\ud800\"",
    "\"001000000000000AAA\"",
];
const CSV: [&str; 16] = [
    "Name",
    "Site",
    "Owner.Username",
    "User:Owner.Username",
    "Nope",
    ",",
    "\n",
    "\r\n",
    "\"",
    "\"\"",
    "#N/A",
    "x",
    "\u{feff}",
    "\0",
    "a\nb",
    "5",
];

const SOAP: [&str; 24] = [
    "<create>",
    "</create>",
    "<merge>",
    "</merge>",
    "<upsert>",
    "</upsert>",
    "<query><queryString>SELECT Id FROM Account</queryString></query>",
    "<retrieve>",
    "</retrieve>",
    "<request>",
    "</request>",
    "<masterRecord>",
    "</masterRecord>",
    "<sObjects>",
    "</sObjects>",
    "<type>Account</type>",
    "<Id>001000000000000AAA</Id>",
    "<ids>001000000000000AAA</ids>",
    "<fieldsToNull>Name</fieldsToNull>",
    "<Owner><type>User</type></Owner>",
    "<externalIDFieldName>Id</externalIDFieldName>",
    "<describeSObjects/>",
    "&amp;",
    "<a xsi:nil=\"true\"/>",
];

fn from(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(pieces), 0..30).prop_map(|parts| parts.concat())
}

#[test]
fn nonsense_is_refused_or_answered() -> Result<(), Box<dyn std::error::Error>> {
    let org = Probe::open()?;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let each = (from(&SOQL), from(&SOSL), from(&JSON), from(&CSV), from(&SOAP), any::<Vec<u8>>());
    runner.run(&each, |(soql, sosl, json, csv, soap, bytes)| {
        for body in [
            soap.clone(),
            format!("<create><sObjects>{soap}</sObjects></create>"),
            format!("<merge><request>{soap}</request></merge>"),
        ] {
            prop_assert!(org.soap(&body) <= 500, "{}", body);
        }
        prop_assert!(org.soql(&soql) < 500, "{}", soql);
        prop_assert!(org.soql(&format!("SELECT {soql}")) < 500, "{}", soql);
        prop_assert!(org.soql(&format!("SELECT Id FROM Account WHERE {soql}")) < 500, "{}", soql);
        org.zip(&bytes);
        org.zip(soap.as_bytes());
        prop_assert!(org.sosl(&format!("FIND {{{sosl}")) < 500, "{}", sosl);
        prop_assert!(org.json(json.as_bytes()).iter().all(|status| *status < 500), "{}", json);
        prop_assert!(org.json(&bytes).iter().chain(&org.other(&bytes)).all(|status| *status < 500));
        for data in [csv.as_bytes(), &bytes] {
            prop_assert!(["JobComplete", "Failed"].contains(&org.csv(data).as_str()), "{}", csv);
        }
        Ok(())
    })?;
    Ok(())
}
