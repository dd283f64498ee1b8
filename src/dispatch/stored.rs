//! Keeps a tenant to the bytes of payloads that it may store. What it has stored is counted by the database now and
//! then, and beside that by what this node lets in ([`StoredBytes`]).
//!
//! A tenant that was never counted and takes long to count is let in meanwhile: the limit keeps a disk from filling up,
//! for which some seconds are nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_domain::stored_bytes::Verdict;
use tracing::warn;

use super::Parts;
use super::ingest_error::{IngestError, RETRY_AFTER};
use super::tenants::TenantState;

/// How long an event waits for a count.
const PATIENCE: Duration = Duration::from_millis(500);

/// An event that was let in, until it is dropped. Where nobody says otherwise it may be stored.
#[derive(Debug)]
pub(super) struct LetIn {
    state: Arc<TenantState>,
    bytes: u64,
    stored: bool,
}

impl LetIn {
    /// It is not stored.
    pub(super) const fn refused(&mut self) {
        self.stored = false;
    }
}

impl Drop for LetIn {
    fn drop(&mut self) {
        self.state.stored().answered(self.bytes, self.stored);
    }
}

/// Lets an event of so many bytes in, where the tenant may store it; nothing is kept of it where the tenant has no
/// such limit.
pub(super) async fn let_in(
    parts: &Arc<Parts>,
    state: &Arc<TenantState>,
    bytes: usize,
) -> Result<Option<LetIn>, IngestError> {
    let Some(max) = state.stored_bytes_max() else { return Ok(None) };
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let let_in = || Some(LetIn { state: Arc::clone(state), bytes, stored: true });
    let full = |until: Instant| {
        let retry_after = until.saturating_duration_since(Instant::now());
        IngestError::StorageFull { retry_after }
    };
    // Before it is asked, so that no news are missed.
    let mut counted = std::pin::pin!(state.counted().notified());
    counted.as_mut().enable();
    let verdict = state.stored().hand_in(bytes, max, Instant::now());
    match verdict {
        Verdict::LetIn => {
            if state.stored().is_old(Instant::now()) {
                begin_count(parts, state);
            }
            return Ok(let_in());
        }
        Verdict::Full(until) => return Err(full(until)),
        Verdict::Count => begin_count(parts, state),
    }
    // Late or not, what is known now decides.
    let _ = tokio::time::timeout(PATIENCE, counted).await;
    let mut stored = state.stored();
    match stored.hand_in(bytes, max, Instant::now()) {
        Verdict::LetIn => {}
        Verdict::Full(until) => return Err(full(until)),
        Verdict::Count if stored.is_known() => return Err(full(Instant::now() + RETRY_AFTER)),
        Verdict::Count => stored.let_in(bytes),
    }
    drop(stored);
    Ok(let_in())
}

/// Counts what a tenant has stored, unless somebody does.
fn begin_count(parts: &Arc<Parts>, state: &Arc<TenantState>) {
    if !state.stored().count_begins(Instant::now()) {
        return;
    }
    let (parts, state) = (Arc::clone(parts), Arc::clone(state));
    tokio::spawn(async move {
        // Never closed, so there is always a turn to wait for.
        let _turn = parts.counts.acquire().await;
        let counted = parts.store.stored_bytes(state.name()).await;
        if let Err(error) = &counted {
            warn!(%error, tenant = %state.name(), "what a tenant has stored could not be counted");
        }
        state.stored().count_ends(counted.ok(), Instant::now());
        state.counted().notify_waiters();
    });
}
