//! The status document, put together from the parts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use everywrite_conflict::{Lsn, NodeId, Stamp};
use tokio_util::sync::CancellationToken;

use super::node::Shared;
use super::rates::Rates;
use crate::admin::schema;
use crate::journal::Journal;
use crate::link;
use crate::replay::{ConflictCounts, Control};
use crate::telemetry::{CaptureStatus, IndexStatus, OriginState, OriginStatus, PeerStatus, Status};

/// How often the status is written into the database, for the SQL views.
const PUBLISH: Duration = Duration::from_secs(1);

/// Gathers and publishes the status.
pub(super) struct Gather {
    shared: Arc<Shared>,
    link: link::Handle,
    rates: Rates,
}

impl Gather {
    pub(super) fn new(shared: Arc<Shared>, link: link::Handle) -> Self {
        Gather {
            shared,
            link,
            rates: Rates::default(),
        }
    }

    /// The status of this moment.
    pub(super) fn status(&self) -> Status {
        let s = &self.shared;
        let now = Instant::now();
        let mut peers = self.link.peers();
        for peer in &mut peers {
            peer.paused = s
                .controls
                .get(&peer.node)
                .is_some_and(|c| *c.paused.borrow());
        }
        let origins: Vec<OriginStatus> = s
            .controls
            .iter()
            .map(|(n, c)| self.origin(*n, c, now))
            .collect();
        let mut decided = ConflictCounts::default();
        for control in s.controls.values() {
            decided.merge(&control.conflicts.lock());
        }
        let conflict_counts = decided.list();
        let mut conflicts: BTreeMap<String, u64> = BTreeMap::new();
        for count in &conflict_counts {
            *conflicts.entry(count.kind.clone()).or_default() += count.conflicts;
        }
        let (entries, forgotten) = s.ledger.sizes();
        let outside = s.ledger.outside();
        let capture = self.capture(now);
        let waiting_for = self.waiting_for(&capture, &origins, &peers);
        let mut postgres = s.postgres.lock().clone();
        if capture.state == "connecting" && capture.error.is_some() {
            postgres.connected = false;
            postgres.error.clone_from(&capture.error);
        }
        Status {
            node: s.me,
            name: s.settings.node.name.clone(),
            cluster: s.settings.node.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            gathered_at_us: unix_us(),
            uptime_s: s.started.elapsed().as_secs_f64(),
            ready: waiting_for.is_empty(),
            waiting_for,
            postgres,
            capture,
            origins,
            peers,
            index: IndexStatus {
                entries,
                forgotten,
                spilled: outside.keys,
                files: outside.files,
                file_bytes: outside.bytes,
                file_lookups: outside.asked,
                file_hits: outside.found,
            },
            conflicts,
            conflict_counts,
            open_conflicts: s.merging.open(),
            journals_kept: s.keeping.for_long(now).map(|kept| kept.to_string()),
        }
    }

    fn waiting_for(
        &self,
        capture: &CaptureStatus,
        origins: &[OriginStatus],
        _peers: &[PeerStatus],
    ) -> Vec<String> {
        let mut waiting: Vec<String> = self.shared.waiting.lock().iter().cloned().collect();
        if waiting.is_empty() && capture.state != "streaming" {
            let why = capture.error.clone().unwrap_or_default();
            waiting.push(format!("capture does not stream: {why}"));
        }
        for journal in self.shared.journals.all() {
            if let Some(full) = journal.full() {
                let name = self
                    .shared
                    .names
                    .get(&journal.origin())
                    .cloned()
                    .unwrap_or_default();
                waiting.push(format!("the journal of {name}: {full}"));
            }
        }
        for origin in origins.iter().filter(|o| o.state == OriginState::Held) {
            waiting.push(format!(
                "{} is held: {}",
                origin.name,
                origin.reason.clone().unwrap_or_default()
            ));
        }
        waiting
    }

    fn capture(&self, now: Instant) -> CaptureStatus {
        let s = &self.shared;
        let (state, error) = s.progress.state.lock().clone();
        let own = s.journals.get(s.me);
        let captured_lsn = s.ledger.watch_captured().borrow().lsn;
        let transactions = s.progress.transactions.load(Ordering::Relaxed);
        CaptureStatus {
            state: if state.is_empty() {
                "stopped".to_owned()
            } else {
                state.to_owned()
            },
            error,
            captured_lsn,
            journal_end: own.as_ref().map_or(Lsn::ZERO, Journal::end),
            lag_bytes: s
                .progress
                .server_lsn
                .load(Ordering::Relaxed)
                .saturating_sub(captured_lsn.0),
            transactions,
            changes: s.progress.changes.load(Ordering::Relaxed),
            transactions_per_s: self.rates.of("capture", transactions, now),
            journal_bytes: own.map_or(0, |j| j.bytes()),
            processor_wait_s: s.progress.processor_wait_us.load(Ordering::Relaxed) as f64 / 1e6,
        }
    }

    fn origin(&self, node: NodeId, control: &Control, now: Instant) -> OriginStatus {
        let s = &self.shared;
        let journal = s.journals.get(node);
        let journal_end = journal.as_ref().map_or(Lsn::ZERO, Journal::end);
        let applied = s.ledger.applied().get(node);
        let origin_end = s
            .beats
            .get(node)
            .map_or(Lsn::ZERO, |b| b.holds.get(node))
            .max(journal_end);
        let (mut state, mut reason) = control.state.lock().clone();
        if state == OriginState::Replaying && *control.paused.borrow() {
            // Nothing waits, and nothing will be applied when it comes.
            state = OriginState::Paused;
            reason = Some("paused by everywrite.pause()".to_owned());
        }
        let transactions = control.transactions.load(Ordering::Relaxed);
        let oldest = *control.oldest_waiting.lock();
        let lag_s = match oldest {
            Some(Stamp(us)) if applied < origin_end => {
                (Stamp::from_unix_us(unix_us()).0.saturating_sub(us)).max(0) as f64 / 1e6
            }
            _ => 0.0,
        };
        OriginStatus {
            node,
            name: s.names.get(&node).cloned().unwrap_or_default(),
            state,
            reason,
            origin_end,
            journal_end,
            applied,
            lag_bytes: origin_end.0.saturating_sub(applied.0),
            lag_s,
            transactions,
            changes: control.changes.load(Ordering::Relaxed),
            transactions_per_s: self.rates.of(&format!("origin {node}"), transactions, now),
            fast_groups: control.fast_groups.load(Ordering::Relaxed),
            careful_groups: control.careful_groups.load(Ordering::Relaxed),
            conflicts: control.conflicts.lock().total(),
            journal_bytes: journal.map_or(0, |j| j.bytes()),
        }
    }

    /// Writes the status into the database, until shutdown.
    pub(super) async fn publish(self: Arc<Self>, shutdown: CancellationToken) {
        let mut client = None;
        loop {
            let write = async {
                let session = match client.take() {
                    Some(session) => session,
                    None => {
                        self.shared
                            .target
                            .named("everywrite status")
                            .client()
                            .await?
                    }
                };
                schema::publish_status(&session, &self.status()).await?;
                let ledger = &self.shared.ledger;
                let begun = ledger.take_begun();
                if !begun.is_empty()
                    && let Err(error) = schema::policies_begun(&session, &begun).await
                {
                    ledger.put_begun(begun);
                    return Err(error.into());
                }
                anyhow::Ok(session)
            };
            let written = tokio::select! {
                () = shutdown.cancelled() => return,
                written = write => written,
            };
            match written {
                Ok(session) => client = Some(session),
                Err(error) => tracing::debug!(error = %error, "the status could not be written"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PUBLISH) => {}
            }
        }
    }
}

fn unix_us() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
