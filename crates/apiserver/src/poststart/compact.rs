//! Compaction of the store, and of what the caches keep for clients that resume.
//!
//! Every five minutes the revision of five minutes ago becomes the oldest one, as upstream does: a client
//! that lags further lists anew. Servers on one store agree by a key (`compact_rev_key`): who finds it as it
//! was at the last turn compacts, the others take over its value.

use std::sync::Arc;
use std::time::Duration;

use isopod_kv::{Compare, PutRequest, RangeRequest, TxnRequest};

use crate::registry::storage::get_kv;
use crate::server::ApiServer;

/// Time between compactions, and least age of what goes.
const INTERVAL: Duration = Duration::from_secs(300);
const KEY: &str = "compact_rev_key";

/// What the last turn saw.
#[derive(Default)]
struct Turn {
    /// Version of the key.
    version: i64,
    /// Revision of the store.
    revision: i64,
}

/// Compacts until the server stops.
pub(super) async fn run(server: Arc<ApiServer>) {
    let mut turn = Turn::default();
    loop {
        tokio::select! {
            () = server.shutdown().cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        for cache in server.registry().feed.caches() {
            cache.forget(turn.revision);
        }
        if let Err(error) = step(&server, &mut turn).await {
            tracing::warn!(%error, "the store could not be compacted");
        }
    }
}

async fn step(server: &ApiServer, turn: &mut Turn) -> Result<(), isopod_kv::Error> {
    let store = &*server.registry().store;
    let kv = get_kv(store, KEY.to_owned())
        .await
        .map_err(|e| isopod_kv::Error::other(isopod_kv::Code::Internal, e.message))?;
    let (version, expected) = kv.as_ref().map_or((0, 0), |kv| (kv.version, kv.mod_revision));
    let now = store.range(RangeRequest::key(KEY)).await?.header.map_or(0, |h| h.revision);
    if version == turn.version && turn.revision > 0 {
        let put = PutRequest::new(KEY, turn.revision.to_string().into_bytes());
        let txn =
            TxnRequest::new(vec![Compare::mod_revision_is(KEY, expected)], vec![put.into()], Vec::new());
        if store.txn(txn).await?.succeeded {
            match store.compact(turn.revision).await {
                Ok(()) | Err(isopod_kv::Error::Compacted) => {}
                Err(error) => return Err(error),
            }
            *turn = Turn { version: version + 1, revision: now };
            return Ok(());
        }
    }
    *turn = Turn { version, revision: now };
    Ok(())
}
