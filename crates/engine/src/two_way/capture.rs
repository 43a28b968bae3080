//! How the changes of a sync are noted outside.

use endpoint::{CHANGES, Captured, Endpoint, LOG};
use mapping::Capture;
use model::{Entity, Side};
use state::{Checkpoint, Store};

use super::checkpoint_name;
use crate::report::Error;
use crate::sync::Sync;

/// Returns the name of a sync's place in the log of a database: letters, digits and `_`, at most 63.
fn slot(store: &Store, sync: &str) -> Result<String, Error> {
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' };
    let name: String = sync.chars().take(24).map(plain).collect();
    Ok(format!("{LOG}{}_{name}_{:08x}", store.id()?, model::digest(sync.as_bytes()) as u32))
}

/// Returns what an entity that a sync captures has for a cursor; `None` where nothing captures.
pub(crate) fn cursor(sync: &Sync, store: &Store) -> Result<Option<String>, Error> {
    Ok(match sync.definition.external.capture.as_ref().map(|capture| capture.value) {
        Some(Capture::Triggers) => Some(CHANGES.to_owned()),
        Some(Capture::Log) => Some(slot(store, &sync.name)?),
        None => None,
    })
}

/// Sees to it that changes of an entity are captured, and says what is wrong with that.
pub(crate) async fn begin(sync: &Sync, external: &dyn Endpoint, entity: &Entity, key: &str) -> Result<(), Error> {
    external.capture(entity, key).await?;
    if let Some(trouble) = external.captured(entity).await?.and_then(|captured| captured.trouble) {
        tracing::warn!(sync = sync.name, "{trouble}");
    }
    Ok(())
}

/// Says how the capture of a sync is doing, and ends it where `release` says so; `None` where nothing captures.
///
/// # Errors
///
/// When the mapping or an endpoint can't do that.
pub async fn capture_of(
    sync: &Sync,
    external: &dyn Endpoint,
    store: &Store,
    release: bool,
) -> Result<Option<Captured>, Error> {
    let mut entity = external.describe(&sync.definition.external.entity.value).await?;
    let Some(cursor) = cursor(sync, store)? else { return Ok(None) };
    entity.cursor = Some(cursor);
    let captured = external.captured(&entity).await?;
    if release && captured.is_some() {
        let _lock = store.lock(&sync.name)?;
        external.release(&entity).await?;
        // What changes from now on is not noted.
        let name = match sync.two_way {
            Some(_) => checkpoint_name(sync, Side::External),
            None => sync.name.clone(),
        };
        store.set_checkpoint(&name, &Checkpoint::default())?;
    }
    Ok(captured)
}
