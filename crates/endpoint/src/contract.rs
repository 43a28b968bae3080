//! The suite that every endpoint that can be read and written runs.
//!
//! Give it an entity with the fields `key` (text, the key), `name` (text, of at most 80 characters where the system
//! knows lengths), `amount` (decimal(18,2)) and `at` (timestamp) under whatever names the system has, empty at the start. Each check panics with a sentence when the contract is broken.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Decimal128Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use futures::StreamExt as _;
use model::{ChangeBatch, Entity, Outcome, Type, text_of};

use crate::{Endpoint, Read, Target};

/// Names of the four fields, in the order of the module's text.
pub type Names = [&'static str; 4];

type Row<'r> = (&'r str, Option<&'r str>, Option<i128>, Option<i64>);

fn batch(names: Names, rows: &[Row<'_>]) -> ChangeBatch {
    let kinds = [Type::Text, Type::Text, Type::Decimal { precision: 18, scale: 2 }, Type::Timestamp];
    let fields: Vec<Field> =
        names.iter().zip(kinds).map(|(name, kind)| Field::new(*name, kind.arrow(), true)).collect();
    let amounts: Decimal128Array = rows.iter().map(|row| row.2).collect();
    let times: TimestampMicrosecondArray = rows.iter().map(|row| row.3).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>()),
        Arc::new(amounts.with_data_type(kinds[2].arrow())),
        Arc::new(times.with_data_type(Type::Timestamp.arrow())),
    ];
    let records = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("four columns of one length");
    ChangeBatch::upserts(records, None)
}

async fn read(
    endpoint: &dyn Endpoint,
    entity: &Entity,
    names: Names,
    from: Option<model::Position>,
) -> Vec<ChangeBatch> {
    let read = Read {
        entity: entity.clone(),
        fields: names.iter().map(|name| (*name).to_owned()).collect(),
        filter: None,
        window: None,
        from,
        deleted: false,
        batch_rows: 7,
    };
    let whole = read.from.is_none().then_some(endpoint.count(&read).await.expect("a count"));
    let batches = endpoint.read(read).await.expect("a read").map(|batch| batch.expect("a batch"));
    let batches: Vec<_> = batches.filter(|batch| futures::future::ready(!batch.is_empty())).collect().await;
    let rows = batches.iter().map(|batch| batch.len() as u64).sum::<u64>();
    assert!(whole.is_none_or(|whole| whole == rows), "{rows} rows read, {whole:?} counted");
    batches
}

fn keys(batches: &[ChangeBatch]) -> Vec<String> {
    let mut keys: Vec<String> = batches
        .iter()
        .flat_map(|batch| batch.records.column(0).as_string::<i32>().iter().flatten().map(str::to_owned))
        .collect();
    keys.sort();
    keys
}

/// Runs every check against an endpoint.
///
/// # Panics
///
/// When the endpoint breaks the contract.
pub async fn check(endpoint: &dyn Endpoint, entity: &str, names: Names) {
    assert!(
        endpoint.entities().await.expect("a catalog").iter().any(|name| name == entity),
        "the catalog has {entity}"
    );
    let missing = endpoint.describe("no_such_entity").await.expect_err("there is no such entity");
    assert_eq!(missing.class(), model::Class::Mapping, "an unknown entity is the mapping's fault");
    let entity = endpoint.describe(entity).await.expect("a description");
    check_described(endpoint, entity, names).await;
}

/// Runs every check that needs no catalog, against an entity whose description is known: that of a file, say, whose
/// fields show only once it has rows.
///
/// # Panics
///
/// When the endpoint breaks the contract.
pub async fn check_described(endpoint: &dyn Endpoint, entity: Entity, names: Names) {
    for name in names {
        assert!(entity.field(name).is_some(), "{} has {name}", entity.name);
    }
    let target = Target { entity: entity.clone(), key: names[0].to_owned(), sync: "contract".to_owned() };
    assert!(read(endpoint, &entity, names, None).await.is_empty(), "an empty entity has no batches");

    // Written twice, there once; every value comes back as it was.
    let moment = Some(1_769_860_800_000_000);
    let keys_written: Vec<String> = (0..40).map(|number| format!("k-{number:03}")).collect();
    let mut rows: Vec<Row<'_>> =
        keys_written.iter().map(|key| (key.as_str(), Some("plain"), Some(150), moment)).collect();
    rows[1] = ("k-001", Some("\u{1f6b2} K\u{f6}ln \"q\" 'a' \\ , ;\ttab"), Some(-1), Some(-1_000_000));
    rows[2] = ("k-002", Some("x"), None, None);
    rows[3] = ("k-003", Some("two\nlines"), Some(99_999_999_999_999), moment);
    let first = batch(names, &rows);
    let outcomes = endpoint.write(&target, &first).await.expect("a write");
    assert!(outcomes.iter().all(|outcome| outcome.error().is_none()), "{outcomes:?}");
    assert_eq!(outcomes.len(), rows.len(), "one outcome a row");
    endpoint.write(&target, &first).await.expect("the same write again");
    let batches = read(endpoint, &entity, names, None).await;
    assert_eq!(keys(&batches), keys_written, "writing twice leaves what writing once leaves");
    for found in &batches {
        for row in 0..found.len() {
            let cells = |batch: &RecordBatch, row: usize| -> Vec<Option<String>> {
                batch.columns().iter().map(|c| text_of(c.as_ref(), row).map(std::borrow::Cow::into_owned)).collect()
            };
            let got = cells(&found.records, row);
            let at = keys_written.iter().position(|key| Some(key) == got[0].as_ref()).expect("a key we wrote");
            assert_eq!(got, cells(&first.records, at), "a row comes back as it was written");
        }
    }

    // A read goes on behind any of its positions.
    // One that reads in larger steps may have no place to go on from in so few rows.
    if let Some(at) = batches.iter().position(|batch| batch.position.is_some()) {
        let rest = read(endpoint, &entity, names, batches[at].position.clone()).await;
        assert_eq!(keys(&rest), keys(&batches[at + 1..]), "a resumed read has exactly the rest");
    }

    // A huge row comes back whole, or is refused; either way it does not take the others with it.
    let long = "x".repeat(1 << 20);
    let mixed = batch(
        names,
        &[
            ("m-1", Some("good"), None, None),
            ("m-2", Some(&long), None, None),
            ("m-3", Some(&long), None, None),
            ("m-4", Some("good"), None, None),
        ],
    );
    let limited = entity.field(names[1]).is_some_and(|field| field.length.is_some());
    let outcomes = endpoint.write(&target, &mixed).await.expect("a write with huge rows");
    let refused: Vec<bool> = outcomes.iter().map(|outcome| outcome.error().is_some()).collect();
    assert_eq!(refused, [false, limited, limited, false], "{outcomes:?}");
    let found = read(endpoint, &entity, names, None).await;
    let whole = found.iter().flat_map(|batch| batch.records.column(1).as_string::<i32>().iter().flatten());
    let whole = whole.filter(|text| text.len() == long.len()).count();
    assert_eq!(whole, if limited { 0 } else { 2 }, "huge rows come back whole where they fit");

    // Deletes, of what is there and of what is not; then a reader that goes away.
    let gone =
        ChangeBatch::deletes(batch(names, &[("m-1", None, None, None), ("never", None, None, None)]).records, None);
    let outcomes = endpoint.write(&target, &gone).await.expect("deletes");
    assert!(matches!(outcomes[..], [Outcome::Applied { .. }, Outcome::Unchanged]), "{outcomes:?}");
    let everything = Read {
        entity: entity.clone(),
        fields: vec![names[0].to_owned()],
        filter: None,
        window: None,
        from: None,
        deleted: false,
        batch_rows: 1,
    };
    let mut stream = endpoint.read(everything).await.expect("a read");
    assert!(stream.next().await.is_some(), "a first batch");
    drop(stream);
    let left = if limited { 41 } else { 43 };
    assert_eq!(keys(&read(endpoint, &entity, names, None).await).len(), left, "and the endpoint still works");
}
