//! The suite that every endpoint that can be read and written runs.
//!
//! Give it an entity with the fields `key` (text, the key), `name` (text, of at most 80 characters where the system
//! knows lengths), `amount` (decimal(18,2)) and `at` (timestamp) under whatever names the system has, empty at the start. Each check panics with a sentence when the contract is broken.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Decimal128Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use futures::StreamExt as _;
use model::{ChangeBatch, Entity, Outcome, Type, text_of};

use crate::{Endpoint, Guarded, Read, Revision, Target};

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
    endpoint.finish(&target).await.expect("they are seen");
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
    endpoint.finish(&target).await.expect("they are seen");
    let found = read(endpoint, &entity, names, None).await;
    let whole = found.iter().flat_map(|batch| batch.records.column(1).as_string::<i32>().iter().flatten());
    let whole = whole.filter(|text| text.len() == long.len()).count();
    assert_eq!(whole, if limited { 0 } else { 2 }, "huge rows come back whole where they fit");

    // Deletes, of what is there and of what is not; then a reader that goes away.
    let gone =
        ChangeBatch::deletes(batch(names, &[("m-1", None, None, None), ("never", None, None, None)]).records, None);
    let outcomes = endpoint.write(&target, &gone).await.expect("deletes");
    assert!(matches!(outcomes[..], [Outcome::Applied { .. }, Outcome::Unchanged]), "{outcomes:?}");
    endpoint.finish(&target).await.expect("they are seen");
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
    if endpoint.capabilities().two_way {
        check_guarded(endpoint, &entity, names).await;
    }
}

/// Checks that a guarded write holds only where a record is as it was read.
async fn check_guarded(endpoint: &dyn Endpoint, entity: &Entity, names: Names) {
    // The system's own key may be another than the one that people know.
    let key = entity.key.first().expect("a key").clone();
    let target = Target { entity: entity.clone(), key: key.clone(), sync: "contract".to_owned() };
    let mut fields: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    fields.extend(
        [Some(key.clone()), entity.cursor.clone()].into_iter().flatten().filter(|name| !names.contains(&name.as_str())),
    );
    let fetch = async |known: &[&str]| {
        let known: Vec<String> = known.iter().map(|key| (*key).to_owned()).collect();
        endpoint.fetch(entity, &fields, names[0], &known).await.expect("a fetch").records
    };
    let revise = async |revision, row: Row<'_>, written: &[&str], expected: &RecordBatch| {
        let mut records = batch(names, &[row]).records;
        if key != names[0] {
            let ids = expected.column_by_name(&key).filter(|_| revision != Revision::Insert);
            let ids =
                ids.cloned().unwrap_or_else(|| arrow::array::new_null_array(&arrow::datatypes::DataType::Utf8, 1));
            let columns =
                records.schema_ref().fields().iter().map(|field| field.name().clone()).zip(records.columns().to_vec());
            let columns = std::iter::once((key.clone(), ids)).chain(columns).map(|(name, column)| (name, column, true));
            records =
                RecordBatch::try_from_iter_with_nullable(columns.collect::<Vec<_>>()).expect("columns of one length");
        }
        let columns = written.iter().map(|name| records.schema().index_of(name).expect("a column")).collect();
        let changes =
            Guarded { revisions: vec![revision], written: vec![columns], expected: expected.clone(), records };
        endpoint.revise(&target, &changes).await.expect("a guarded write").remove(0)
    };
    assert_eq!(fetch(&["g-1", "never"]).await.num_rows(), 0, "what is not there is not fetched");
    let none = fetch(&["k-000"]).await;
    let new = ("g-1", Some("new"), Some(150), None);
    let made = revise(Revision::Insert, new, &names, &none).await;
    assert!(matches!(made, Outcome::Applied { created: true, .. }), "{made:?}");
    assert_eq!(revise(Revision::Insert, new, &names, &none).await, Outcome::Moved, "what is there is not made again");
    let first = fetch(&["g-1", "never"]).await;
    assert_eq!(first.num_rows(), 1, "what is there is fetched, and nothing else");

    // Only what is written changes; who looked before that finds the record moved.
    let renamed = ("g-1", Some("renamed"), Some(999), None);
    let done = revise(Revision::Update, renamed, &names[1..2], &first).await;
    assert!(matches!(done, Outcome::Applied { created: false, .. }), "{done:?}");
    let second = fetch(&["g-1"]).await;
    let cell = |batch: &RecordBatch, at: usize| text_of(batch.column(at).as_ref(), 0).map(std::borrow::Cow::into_owned);
    assert_eq!(
        (cell(&second, 1).as_deref(), cell(&second, 2)),
        (Some("renamed"), cell(&first, 2)),
        "one field was written"
    );
    let late = ("g-1", Some("too late"), None, None);
    assert_eq!(revise(Revision::Update, late, &names[1..2], &first).await, Outcome::Moved, "it is not as it was read");
    assert_eq!(revise(Revision::Delete, late, &[], &first).await, Outcome::Moved, "it is not as it was read");
    assert_eq!(cell(&fetch(&["g-1"]).await, 1).as_deref(), Some("renamed"), "nothing was overwritten");
    let done = revise(Revision::Update, ("g-1", None, None, None), &names[2..3], &second).await;
    assert!(matches!(done, Outcome::Applied { .. }), "{done:?}");
    let third = fetch(&["g-1"]).await;
    assert_eq!(
        (cell(&third, 1).as_deref(), cell(&third, 2)),
        (Some("renamed"), None),
        "null is written where it is to be"
    );
    let gone = revise(Revision::Delete, late, &[], &third).await;
    assert!(matches!(gone, Outcome::Applied { .. }), "{gone:?}");
    assert_eq!(revise(Revision::Delete, late, &[], &third).await, Outcome::Unchanged, "it is gone already");
    assert_eq!(revise(Revision::Update, late, &names[1..2], &third).await, Outcome::Moved, "it is gone");
    assert_eq!(fetch(&["g-1"]).await.num_rows(), 0);
}
