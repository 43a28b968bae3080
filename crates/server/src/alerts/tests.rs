use super::*;

fn rules(yaml: &[(&str, Value)]) -> Result<Alerts, String> {
    let rules: Vec<Value> = yaml
        .iter()
        .map(|(when, more)| {
            let mut rule = json!({"when": when, "to": ["ops"]});
            for (name, value) in more.as_object().into_iter().flatten() {
                rule[name] = value.clone();
            }
            rule
        })
        .collect();
    let config = json!({"to": {"ops": {"kind": "webhook", "url": "http://127.0.0.1:9/"}}, "rules": rules});
    let config: AlertsConfig = serde_json::from_value(config).map_err(|error| error.to_string())?;
    config.read(&["orders".to_owned()], &|text| Err(format!("{text} is not set")))
}

fn now() -> DateTime<Utc> {
    "2026-11-26T12:00:00Z".parse().unwrap_or_default()
}

fn known<'k>(planned: &'k Planned, outcome: &str, report: Value) -> Known<'k> {
    Known { planned, run: Some((7, outcome.to_owned(), report)), good: Some(now()), dead: 0, held: 0, differs: false }
}

/// Says which of the rules hold.
fn hold(alerts: &Alerts, known: &Known<'_>, now: DateTime<Utc>) -> Vec<&'static str> {
    alerts.rules.iter().filter(|rule| rule.holds(known, now).is_some()).map(|rule| rule.when.word()).collect()
}

#[test]
fn each_rule_holds_for_what_it_is_about_and_for_nothing_else() {
    let alerts = rules(&[
        ("failure", json!({})),
        ("lag", json!({"over": "15m"})),
        ("missed", json!({"over": "1m"})),
        ("dead_letters", json!({"over": 2})),
        ("conflicts", json!({})),
        ("budget", json!({"below": 1000})),
        ("drift", json!({})),
        ("difference", json!({})),
    ])
    .expect("the rules");
    let planned = Planned { next: Some(now()), ..Planned::default() };
    let good = known(&planned, "green", json!({"calls_left": 1000, "drift": []}));
    assert_eq!(hold(&alerts, &good, now()), [""; 0], "all is well");
    assert_eq!(hold(&alerts, &known(&planned, "red", json!({})), now()), ["failure"]);
    assert_eq!(hold(&alerts, &known(&planned, "stopped", json!({})), now()), [""; 0], "somebody stopped it");
    assert_eq!(hold(&alerts, &good, now() + TimeDelta::minutes(16)), ["lag", "missed"]);
    let running = Planned { running_since: Some(now()), ..planned.clone() };
    assert_eq!(hold(&alerts, &known(&running, "green", json!({})), now() + TimeDelta::minutes(2)), [""; 0]);
    assert_eq!(hold(&alerts, &Known { dead: 2, held: 1, ..known(&planned, "green", json!({})) }, now()), ["conflicts"]);
    assert_eq!(hold(&alerts, &Known { dead: 3, ..known(&planned, "green", json!({})) }, now()), ["dead_letters"]);
    assert_eq!(hold(&alerts, &known(&planned, "green", json!({"calls_left": 999})), now()), ["budget"]);
    assert_eq!(hold(&alerts, &known(&planned, "green", json!({"drift": ["Account.X is gone"]})), now()), ["drift"]);
    assert_eq!(hold(&alerts, &Known { differs: true, ..known(&planned, "green", json!({})) }, now()), ["difference"]);
    let failed = Planned { failed: Some("no answer\nbecause: cut".to_owned()), ..planned.clone() };
    let said = alerts.rules[0].holds(&known(&failed, "green", json!({})), now());
    assert_eq!(said.as_deref(), Some("the last run could not go on: no answer"));
}

#[test]
fn a_rule_that_cannot_work_is_told() {
    let cases = [
        (("lag", json!({})), "`alerts`, rule 1 (lag): it needs `over`, such as 15m"),
        (("lag", json!({"over": "soon"})), "`alerts`, rule 1 (lag): `over: \"soon\"` is no interval"),
        (("failure", json!({"over": 3})), "`alerts`, rule 1 (failure): it has neither `over` nor `below`"),
        (("budget", json!({})), "`alerts`, rule 1 (budget): it needs `below`, a number of API calls"),
        (("failure", json!({"syncs": ["none"]})), "`alerts`, rule 1 (failure): there is no sync \"none\""),
        (("failure", json!({"to": ["nobody"]})), "`alerts`, rule 1 (failure): `to` names \"nobody\""),
    ];
    for (rule, expected) in cases {
        let said = rules(&[rule]).expect_err("a mistake");
        assert!(said.starts_with(expected), "{said}");
    }
}

fn channel(config: Value) -> Result<Alerts, String> {
    let config: AlertsConfig =
        serde_json::from_value(json!({"to": {"ops": config}})).map_err(|error| error.to_string())?;
    config.read(&[], &|text| Err(format!("{text} is not set")))
}

#[test]
fn a_channel_takes_no_secret_that_stands_in_the_file() {
    let cases = [
        (json!({"kind": "slack", "url": "https://hooks.example/T0/secret"}), "is a secret; give it as ${env:NAME}"),
        (json!({"kind": "slack", "url": "${env:HOOK}"}), "${env:HOOK} is not set"),
        (json!({"kind": "webhook", "url": "ftp://x"}), "no address"),
        (json!({"kind": "smtp", "server": "mail", "from": "a@b.example", "to": ["c@d.example"]}), "no mail server"),
        (json!({"kind": "smtp", "server": "smtps://mail", "from": "a@b.example", "to": []}), "names nobody"),
        (json!({"kind": "smtp", "server": "smtps://mail", "from": "a", "to": ["c@d.example"]}), "no mail address"),
        (
            json!({"kind": "smtp", "server": "plain://mail:25", "from": "a@b.example", "to": ["c@d.example"], "user": "u", "password": "${env:P}"}),
            "not sent unencrypted",
        ),
    ];
    for (config, expected) in cases {
        let said = channel(config).expect_err("a mistake");
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains("T0/secret"), "{said}");
    }
}
