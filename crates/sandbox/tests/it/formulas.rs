//! Formula fields, validation rules and default values of a project, as a client meets them.

use std::path::Path;

use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

use crate::{Client, Failed};

fn meta(kind: &str, inner: &str) -> String {
    format!("<?xml version=\"1.0\"?><{kind} xmlns=\"http://soap.sforce.com/2006/04/metadata\">{inner}</{kind}>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// A project with invoices: `rules` are names, formulas, messages and fields.
fn invoices(folder: &Path, rules: &[(&str, &str, &str, &str)]) -> Result<(), Failed> {
    std::fs::write(
        folder.join("sfdx-project.json"),
        json!({"packageDirectories": [{"path": "app", "default": true}]}).to_string(),
    )?;
    let object = folder.join("app/main/objects/Invoice__c");
    std::fs::create_dir_all(object.join("fields"))?;
    std::fs::create_dir_all(object.join("validationRules"))?;
    std::fs::write(
        object.join("Invoice__c.object-meta.xml"),
        meta("CustomObject", "<label>Invoice</label><pluralLabel>Invoices</pluralLabel>"),
    )?;
    let values = |names: &[&str]| {
        let values: String = names
            .iter()
            .map(|name| {
                format!("<value><fullName>{name}</fullName><default>false</default><label>{name}</label></value>")
            })
            .collect();
        format!("<valueSet><valueSetDefinition>{values}</valueSetDefinition></valueSet>")
    };
    let number = |scale: u32| format!("<precision>18</precision><scale>{scale}</scale>");
    let formula = |text: &str| format!("<formula>{}</formula>", escaped(text));
    let zero = "<formulaTreatBlanksAs>BlankAsZero</formulaTreatBlanksAs>";
    let blank = "<formulaTreatBlanksAs>BlankAsBlank</formulaTreatBlanksAs>";
    let fields = [
        ("Amount", "Currency", number(2)),
        ("Rate", "Percent", number(2)),
        ("Status", "Picklist", values(&["Open", "Paid"])),
        ("Due", "Date", "<defaultValue>TODAY() + 14</defaultValue>".to_owned()),
        ("Code", "Text", "<length>20</length><defaultValue>\"I-\" &amp; TEXT(YEAR(TODAY()))</defaultValue>".to_owned()),
        (
            "Account",
            "Lookup",
            "<referenceTo>Account</referenceTo><relationshipName>Invoices</relationshipName>".to_owned(),
        ),
        ("Place", "Location", "<scale>5</scale>".to_owned()),
        ("Tax", "Currency", number(2) + &formula("Amount__c * Rate__c") + blank),
        ("Gross", "Currency", number(2) + &formula("Amount__c + Tax__c") + zero),
        ("Overdue", "Checkbox", formula("AND(NOT(ISPICKVAL(Status__c, \"Paid\")), Due__c < TODAY())") + blank),
        ("Place_Of", "Text", formula("Account__r.BillingCity & \" / \" & Account__r.Owner.LastName") + blank),
        ("Share", "Percent", number(1) + &formula("Amount__c / 1000") + blank),
        ("Days", "Number", number(0) + &formula("Due__c - TODAY()") + blank),
        ("Mine", "Checkbox", formula("CreatedById = $User.Id") + blank),
        ("Near", "Checkbox", formula("DISTANCE(Place__c, GEOLOCATION(52.5, 13.4), \"km\") < 10") + blank),
        ("Broken", "Text", formula("VLOOKUP(1)") + blank),
    ];
    for (name, kind, inner) in fields {
        let body = format!("<fullName>{name}__c</fullName><label>{name}</label><type>{kind}</type>{inner}");
        std::fs::write(object.join(format!("fields/{name}__c.field-meta.xml")), meta("CustomField", &body))?;
    }
    // What hangs on an invoice, and what the invoice tells of it.
    let line = folder.join("app/main/objects/Line__c");
    std::fs::create_dir_all(line.join("fields"))?;
    std::fs::write(
        line.join("Line__c.object-meta.xml"),
        meta("CustomObject", "<label>Line</label><pluralLabel>Lines</pluralLabel>"),
    )?;
    let roll_up = |operation: &str, field: &str, filter: &str| {
        let field = if field.is_empty() {
            String::new()
        } else {
            format!("<summarizedField>Line__c.{field}</summarizedField>")
        };
        format!(
            "<summaryForeignKey>Line__c.Invoice__c</summaryForeignKey><summaryOperation>{operation}</summaryOperation>{field}{filter}"
        )
    };
    let item = "<summaryFilterItems><field>Line__c.Kind__c</field><operation>equals</operation><value>Part, Work</value>\
                </summaryFilterItems>";
    for (folder, name, kind, inner) in [
        (&line, "Price", "Currency", number(2)),
        (&line, "Count", "Number", number(0)),
        (&line, "Kind", "Text", "<length>20</length>".to_owned()),
        (&line, "Total", "Currency", number(2) + &formula("Price__c * Count__c") + blank),
        (
            &line,
            "Invoice",
            "MasterDetail",
            "<referenceTo>Invoice__c</referenceTo><relationshipName>Lines</relationshipName>".to_owned(),
        ),
        (&object, "Lines", "Summary", roll_up("count", "", "")),
        (&object, "Sum", "Summary", roll_up("sum", "Total__c", "")),
        (&object, "Most", "Summary", roll_up("max", "Price__c", item)),
        (&object, "Open_Sum", "Currency", number(2) + &formula("Sum__c - BLANKVALUE(Amount__c, 0)") + blank),
    ] {
        let body = format!("<fullName>{name}__c</fullName><label>{name}</label><type>{kind}</type>{inner}");
        std::fs::write(folder.join(format!("fields/{name}__c.field-meta.xml")), meta("CustomField", &body))?;
    }
    for (name, formula, message, field) in rules {
        let field =
            if field.is_empty() { String::new() } else { format!("<errorDisplayField>{field}</errorDisplayField>") };
        let body = format!(
            "<fullName>{name}</fullName><active>true</active><errorConditionFormula>{}</errorConditionFormula>\
             <errorMessage>{message}</errorMessage>{field}",
            escaped(formula)
        );
        let path = object.join(format!("validationRules/{name}.validationRule-meta.xml"));
        std::fs::write(path, meta("ValidationRule", &body))?;
    }
    Ok(())
}

async fn org(rules: &[(&str, &str, &str, &str)]) -> Result<(Sandbox, Client, tempfile::TempDir), Failed> {
    crate::provider();
    let folder = tempfile::tempdir()?;
    invoices(folder.path(), rules)?;
    let sandbox = Sandbox::start(Config { projects: vec![folder.path().to_owned()], ..Config::default() }).await?;
    let client = Client::sign_in(&sandbox).await?;
    Ok((sandbox, client, folder))
}

#[tokio::test]
async fn formula_fields_have_values_wherever_a_record_is_read() -> Result<(), Failed> {
    let (sandbox, client, _folder) = org(&[]).await?;
    assert_eq!(sandbox.notes(), ["Invoice__c.Broken__c: VLOOKUP is not supported here; the field reads as null"]);
    let account = client.create("Account", json!({"Name": "Acme", "BillingCity": "K\u{f6}ln"})).await?;
    let first = client
        .create(
            "Invoice__c",
            json!({"Amount__c": 100.10, "Rate__c": 19, "Status__c": "Open", "Due__c": "2020-01-01", "Account__c": account,
                   "Place__Latitude__s": 52.52, "Place__Longitude__s": 13.405}),
        )
        .await?;
    client.create("Invoice__c", json!({"Rate__c": 19, "Status__c": "Paid", "Due__c": "2020-01-01"})).await?;
    let query =
        "SELECT Tax__c, Gross__c, Overdue__c, Place_Of__c, Share__c, Mine__c, Near__c, Broken__c, Account__r.Name
                 FROM Invoice__c ORDER BY Gross__c DESC";
    let found = client.query(query).await?;
    let expected = json!({"Tax__c": 19.02, "Gross__c": 119.12, "Overdue__c": true, "Place_Of__c": "K\u{f6}ln / Admin",
        "Share__c": 10.0, "Mine__c": true, "Near__c": true, "Broken__c": null});
    for (name, value) in expected.as_object().into_iter().flatten() {
        assert_eq!(found["records"][0][name], *value, "{name}: {found}");
    }
    // Blank, and zero where blanks are zero.
    let second = &found["records"][1];
    assert_eq!(
        [&second["Tax__c"], &second["Gross__c"], &second["Overdue__c"]],
        [&Value::Null, &json!(0.0), &json!(false)]
    );
    // In conditions, aggregates and groups, and through a relationship.
    for (condition, count) in [
        ("Overdue__c = true", 1),
        ("Gross__c > 119.11", 1),
        ("Gross__c = 0", 1),
        ("Tax__c = null", 1),
        ("Place_Of__c LIKE 'k\u{f6}ln%'", 1),
        ("Days__c < -1000 AND Mine__c = true", 2),
    ] {
        let found = client.query(&format!("SELECT COUNT() FROM Invoice__c WHERE {condition}")).await?;
        assert_eq!(found["totalSize"], count, "{condition}");
    }
    let sums = client
        .query("SELECT Overdue__c, SUM(Gross__c) total FROM Invoice__c GROUP BY Overdue__c ORDER BY Overdue__c")
        .await?;
    assert_eq!(sums["records"][1]["total"], 119.12, "{sums}");
    let children = client.query("SELECT (SELECT Gross__c FROM Invoices__r) FROM Account").await?;
    assert_eq!(children["records"][0]["Invoices__r"]["records"][0]["Gross__c"], 119.12, "{children}");
    let (_, row) = client.call("GET", &format!("/sobjects/Invoice__c/{first}"), None).await?;
    assert_eq!([&row["Gross__c"], &row["Place_Of__c"]], [&json!(119.12), &json!("K\u{f6}ln / Admin")]);

    // What a formula reads changes elsewhere: its value with it, and no time of change.
    let stamp = row["SystemModstamp"].clone();
    client.call("PATCH", &format!("/sobjects/Account/{account}"), Some(&json!({"BillingCity": "Bonn"}))).await?;
    sandbox.move_clock(86_400);
    let client = Client::sign_in(&sandbox).await?;
    let (_, row) = client.call("GET", &format!("/sobjects/Invoice__c/{first}"), None).await?;
    assert_eq!([&row["Place_Of__c"], &row["SystemModstamp"]], [&json!("Bonn / Admin"), &stamp]);
    let (status, answer) =
        client.call("PATCH", &format!("/sobjects/Invoice__c/{first}"), Some(&json!({"Gross__c": 1}))).await?;
    assert_eq!((status, &answer[0]["errorCode"]), (400, &json!("INVALID_FIELD_FOR_INSERT_UPDATE")), "{answer}");
    let (_, described) = client.call("GET", "/sobjects/Invoice__c/describe", None).await?;
    let field = described["fields"].as_array().into_iter().flatten().find(|field| field["name"] == "Gross__c");
    let field = field.ok_or("the field")?;
    assert_eq!(
        [
            &field["calculated"],
            &field["calculatedFormula"],
            &field["formulaTreatNullNumberAsZero"],
            &field["createable"]
        ],
        [&json!(true), &json!("Amount__c + Tax__c"), &json!(true), &json!(false)]
    );
    Ok(())
}

#[tokio::test]
async fn default_values_are_formulas() -> Result<(), Failed> {
    let (sandbox, client, _folder) = org(&[]).await?;
    sandbox.move_clock(0);
    let made = client.create("Invoice__c", json!({})).await?;
    let row = client.query(&format!("SELECT Code__c, Days__c FROM Invoice__c WHERE Id = '{made}'")).await?;
    let year = chrono::Utc::now().format("I-%Y").to_string();
    assert_eq!([&row["records"][0]["Code__c"], &row["records"][0]["Days__c"]], [&json!(year), &json!(14.0)]);
    Ok(())
}

#[tokio::test]
async fn validation_rules_refuse_what_they_are_true_for() -> Result<(), Failed> {
    let rules = [
        ("Positive", "Amount__c < 0", "An amount is not negative.", "Amount__c"),
        ("Account_wanted", "AND(ISNEW(), ISBLANK(Account__c), ISPICKVAL(Status__c, \"Paid\"))", "Who paid?", ""),
        (
            "No_way_back",
            "AND(ISCHANGED(Status__c), ISPICKVAL(PRIORVALUE(Status__c), \"Paid\"))",
            "Paid is paid.",
            "Status__c",
        ),
        ("Code_form", "NOT(REGEX(Code__c, \"I-\\\\d{4}\"))", "Code: I and a year.", "Code__c"),
        ("City", "Account__r.BillingCity = \"Nowhere\"", "Nobody lives there.", ""),
        ("Ratio", "IF(Rate__c > 0, 1 / (Rate__c - 0.5) > 1000, FALSE)", "Too much.", ""),
        ("Unknown", "FOO(1)", "Never.", ""),
    ];
    let (sandbox, client, _folder) = org(&rules).await?;
    assert!(
        sandbox
            .notes()
            .iter()
            .any(|note| note
                == "Invoice__c: validation rule Unknown: Unknown function FOO. Check spelling.; it is left out"),
        "{:?}",
        sandbox.notes()
    );
    let nowhere = client.create("Account", json!({"Name": "N", "BillingCity": "Nowhere"})).await?;
    let code = "FIELD_CUSTOM_VALIDATION_EXCEPTION";
    for (record, message, fields) in [
        (json!({"Amount__c": -1}), "An amount is not negative.", json!(["Amount__c"])),
        (json!({"Status__c": "Paid"}), "Who paid?", Value::Null),
        (json!({"Code__c": "I-20"}), "Code: I and a year.", json!(["Code__c"])),
        (json!({"Account__c": nowhere}), "Nobody lives there.", Value::Null),
        (
            json!({"Rate__c": 50}),
            "The formula in the \"Ratio\" validation rule is invalid: a number is divided by zero",
            Value::Null,
        ),
    ] {
        let (status, answer) = client.call("POST", "/sobjects/Invoice__c", Some(&record)).await?;
        assert_eq!((status, &answer[0]["errorCode"]), (400, &json!(code)), "{record}: {answer}");
        assert_eq!([&answer[0]["message"], &answer[0]["fields"]], [&json!(message), &fields], "{record}");
    }
    assert_eq!(client.query("SELECT COUNT() FROM Invoice__c").await?["totalSize"], 0, "nothing of it stays");
    // Unknown is not true; what was before counts; only what changes is a change.
    let made = client.create("Invoice__c", json!({"Status__c": "Open", "Rate__c": 19})).await?;
    let patch =
        async |fields: Value| client.call("PATCH", &format!("/sobjects/Invoice__c/{made}"), Some(&fields)).await;
    assert_eq!(patch(json!({"Status__c": "Paid"})).await?.0, 204);
    assert_eq!(patch(json!({"Status__c": "Paid", "Amount__c": 5})).await?.0, 204);
    let (status, answer) = patch(json!({"Status__c": "Open"})).await?;
    assert_eq!((status, &answer[0]["message"]), (400, &json!("Paid is paid.")));
    // In a collection the others go through.
    let records: Vec<Value> =
        [-1, 1, 2].iter().map(|amount| json!({"attributes": {"type": "Invoice__c"}, "Amount__c": amount})).collect();
    let (_, answer) = client.call("POST", "/composite/sobjects", Some(&json!({"records": records}))).await?;
    let outcomes: Vec<&Value> = answer.as_array().into_iter().flatten().map(|one| &one["success"]).collect();
    assert_eq!(outcomes, [&json!(false), &json!(true), &json!(true)]);
    assert_eq!(answer[0]["errors"][0]["statusCode"], code);
    Ok(())
}

#[tokio::test]
async fn roll_ups_sum_up_what_hangs_on_a_record() -> Result<(), Failed> {
    let (_sandbox, client, _folder) = org(&[]).await?;
    let [full, empty] = [
        client.create("Invoice__c", json!({"Amount__c": 10})).await?,
        client.create("Invoice__c", json!({"Amount__c": 20})).await?,
    ];
    for (price, count, kind) in [(2.5, 4, "Part"), (100.0, 1, "Gift"), (7.0, 2, "Work")] {
        let line = json!({"Price__c": price, "Count__c": count, "Kind__c": kind, "Invoice__c": full});
        client.create("Line__c", line).await?;
    }
    let told = async |condition: &str| {
        let soql = format!("SELECT Id, Lines__c, Sum__c, Most__c, Open_Sum__c FROM Invoice__c {condition}");
        let found = client.query(&soql).await?;
        let row = &found["records"][0];
        Ok::<_, Failed>(json!([row["Lines__c"], row["Sum__c"], row["Most__c"], row["Open_Sum__c"]]))
    };
    assert_eq!(told(&format!("WHERE Id = '{full}'")).await?, json!([3.0, 124.0, 7.0, 114.0]));
    assert_eq!(told(&format!("WHERE Id = '{empty}'")).await?, json!([0.0, 0.0, null, -20.0]));
    assert_eq!(told("WHERE Sum__c > 100 ORDER BY Most__c").await?, json!([3.0, 124.0, 7.0, 114.0]));
    let line = client.query("SELECT Id FROM Line__c WHERE Kind__c = 'Gift'").await?["records"][0]["Id"].clone();
    client.call("DELETE", &format!("/sobjects/Line__c/{}", line.as_str().unwrap_or_default()), None).await?;
    assert_eq!(told(&format!("WHERE Id = '{full}'")).await?, json!([2.0, 24.0, 7.0, 14.0]));
    // Through a parent, from a line.
    let found = client.query("SELECT Invoice__r.Sum__c FROM Line__c LIMIT 1").await?;
    assert_eq!(found["records"][0]["Invoice__r"]["Sum__c"], 24.0, "{found}");
    Ok(())
}
