//! Barriers: a message of our own in the local WAL. Once capture has met it, the index knows
//! every local transaction that was committed before it, and everything before it is flushed.
//!
//! A barrier costs one small flushed commit. Whoever waits at the same time shares one.
//!
//! Trap: capture also meets barriers that an earlier run of the daemon left in the WAL, and any role may write
//! such a message. Neither says anything of what stands before ours, so tokens begin at a number that nobody
//! else knows: not at the clock, which may have been ahead in the run before.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use everywrite_conflict::{Lsn, Vector};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::SimpleQueryMessage;
use tokio_util::sync::CancellationToken;

use super::{Captured, Ledger, origins};
use crate::admin::message::WalMessage;
use crate::capture::Hurry;
use crate::pg::Target;

/// Asks for barriers; cheap to clone.
#[derive(Clone, Debug)]
pub struct Barriers {
    asks: mpsc::Sender<oneshot::Sender<()>>,
    horizon: Arc<AtomicU32>,
    place: Arc<AtomicU64>,
}

/// A barrier that was not met for so long is followed by another.
const AGAIN: Duration = Duration::from_secs(1);
/// A run sets fewer barriers than that; others' are so near to ours once in four billion times.
const LATER: u64 = 1 << 32;
/// Requests that may wait: each is a session or the steward, so they are few.
const QUEUE: usize = 256;

impl Barriers {
    /// Starts the task that sets barriers, with a session of its own. `hurry` is rung for each:
    /// capture should not let it wait.
    pub fn start(
        target: Target,
        ledger: Arc<Ledger>,
        hurry: Arc<Hurry>,
        shutdown: CancellationToken,
    ) -> Self {
        let (asks, queue) = mpsc::channel(QUEUE);
        let horizon = Arc::new(AtomicU32::new(0));
        let place = Arc::new(AtomicU64::new(0));
        let setter = Setter {
            target,
            ledger,
            hurry,
            horizon: Arc::clone(&horizon),
            place: Arc::clone(&place),
            // Its keys are random.
            last: RandomState::new().build_hasher().finish(),
        };
        tokio::spawn(setter.run(queue, shutdown));
        Barriers {
            asks,
            horizon,
            place,
        }
    }

    /// Returns once capture has announced everything that was committed before this call, and all
    /// of it is flushed. Waits as long as that takes; false only at shutdown.
    pub async fn pass(&self) -> bool {
        let (done, passed) = oneshot::channel();
        self.asks.send(done).await.is_ok() && passed.await.is_ok()
    }

    /// Every transaction id before this one is captured, aborted or replay's own. 0: not known yet.
    pub fn horizon(&self) -> u32 {
        self.horizon.load(Ordering::Acquire)
    }

    /// Where in the local WAL the [`horizon`](Self::horizon) was taken: what was committed before
    /// is most likely before the horizon, what was committed behind it never is.
    pub fn horizon_place(&self) -> Lsn {
        Lsn(self.place.load(Ordering::Acquire))
    }
}

struct Setter {
    target: Target,
    ledger: Arc<Ledger>,
    hurry: Arc<Hurry>,
    horizon: Arc<AtomicU32>,
    place: Arc<AtomicU64>,
    last: u64,
}

impl Setter {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<oneshot::Sender<()>>,
        shutdown: CancellationToken,
    ) {
        let mut waiting = Vec::new();
        let mut client = None;
        loop {
            if waiting.is_empty() {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    ask = queue.recv() => match ask {
                        Some(ask) => waiting.push(ask),
                        None => return,
                    },
                }
            }
            while let Ok(ask) = queue.try_recv() {
                waiting.push(ask);
            }
            let attempt = async {
                let client = match client.take() {
                    Some(client) => client,
                    None => self.connect().await?,
                };
                self.set(&client).await?;
                Ok::<_, crate::pg::Error>(client)
            };
            let result = tokio::select! {
                () = shutdown.cancelled() => return,
                result = attempt => result,
            };
            match result {
                Ok(usable) => {
                    client = Some(usable);
                    waiting.drain(..).for_each(|ask| {
                        let _ = ask.send(());
                    });
                }
                Err(error) => {
                    tracing::debug!(error = %error, "no barrier could be set, trying again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }

    async fn connect(&self) -> Result<tokio_postgres::Client, crate::pg::Error> {
        let client = self.target.named("everywrite barrier").client().await?;
        // The flush of the barrier's own commit is its purpose; a standby is not.
        client
            .batch_execute("set synchronous_commit = local; set statement_timeout = 0")
            .await?;
        Ok(client)
    }

    async fn set(&mut self, client: &tokio_postgres::Client) -> Result<(), crate::pg::Error> {
        self.last = self.last.wrapping_add(1);
        let token = self.last;
        let mut captured = self.ledger.watch_captured();
        let mut first = None;
        loop {
            let asked = self.ledger.asks();
            let barrier = Written::read(&client.simple_query(&statements(self.last)).await?)?;
            // An answer that is too old: the streams, which begin anew, ask for themselves.
            let _ = self.ledger.reconcile(&asked, &barrier.progress);
            // Groups announced from now on commit behind it, however far back capture is.
            self.ledger.reaches(barrier.here);
            self.hurry.ring();
            // Whichever of them capture meets, it has passed what was there before the first.
            let first = first.get_or_insert(barrier);
            // One that was written before the slot was made never comes; any later one will do.
            if meets(&mut captured, token).await {
                self.horizon.store(first.oldest, Ordering::Release);
                self.place.store(first.here.0, Ordering::Release);
                self.ledger.flushed_is(&first.progress, first.here);
                tracing::debug!(place = %first.here, "a barrier is passed");
                return Ok(());
            }
            self.last = self.last.wrapping_add(1);
        }
    }
}

/// Waits until capture has met this barrier or a later one; false if that takes long.
///
/// What it gives back holds nothing. With what the channel gives, its value is locked: whoever takes the ledger's lock then waits for
/// somebody who has that and wants to read the value, and does not get it while capture waits to change it.
pub(super) async fn meets(captured: &mut watch::Receiver<Captured>, token: u64) -> bool {
    let met = captured.wait_for(|c| is_met(token, c.barrier));
    tokio::time::timeout(AGAIN, met).await.is_ok()
}

/// Whether a barrier that capture has met is the one with this token, or a later one of this run.
const fn is_met(token: u64, met: u64) -> bool {
    met.wrapping_sub(token) < LATER
}

/// What the server says of a barrier.
#[derive(Debug, PartialEq)]
struct Written {
    /// How far every origin is applied, flushed, before it.
    progress: Vector,
    /// Every transaction id before this one is committed before it, aborted or replay's own: the
    /// low half of a 64-bit id, which is the xid that rows carry.
    oldest: u32,
    /// Its place in the WAL.
    here: Lsn,
}

/// Asks for progress and snapshot, then writes the barrier; one message and one transaction for all.
fn statements(token: u64) -> String {
    let content = WalMessage::Barrier(token).encode().unwrap_or_default();
    let hex: String = content.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "select roname, pg_replication_origin_progress(roname, true)
           from pg_replication_origin where roname like 'everywrite!_%' escape '!';
         select pg_snapshot_xmin(pg_current_snapshot());
         select pg_logical_emit_message(true, 'everywrite', decode('{hex}', 'hex'))"
    )
}

impl Written {
    fn read(answer: &[SimpleQueryMessage]) -> Result<Self, crate::pg::Error> {
        let rows: Vec<Vec<Option<&str>>> = answer
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|column| row.get(column)).collect())
                }
                _ => None,
            })
            .collect();
        Self::from_rows(&rows).ok_or_else(|| {
            crate::pg::Error::Protocol("an unexpected answer to a barrier's statements".to_owned())
        })
    }

    /// A row for each origin, then the snapshot, then the place.
    fn from_rows(rows: &[Vec<Option<&str>>]) -> Option<Self> {
        let (last, rows) = rows.split_last()?;
        let (snapshot, origins) = rows.split_last()?;
        let oldest: u64 = (*snapshot.first()?)?.parse().ok()?;
        let mut progress = Vector::new();
        for row in origins {
            let [Some(name), Some(lsn)] = row[..] else {
                continue;
            };
            if origins::node_of(name).is_some() {
                origins::raise(&mut progress, name, lsn.parse().ok()?);
            }
        }
        Some(Written {
            progress,
            oldest: (oldest & 0xffff_ffff) as u32,
            here: (*last.first()?)?.parse().ok()?,
        })
    }
}

/// Asks the server how far every origin is applied, flushed, and tells the ledger: it notices then
/// if the server has forgotten something in a crash.
pub(crate) async fn progress(
    client: &tokio_postgres::Client,
    ledger: &Ledger,
) -> Result<Vector, crate::pg::Error> {
    loop {
        let asked = ledger.asks();
        let rows = client
            .query(
                "select o.roname::text, (pg_replication_origin_progress(o.roname, true) - '0/0'::pg_lsn)::bigint
                   from pg_replication_origin o where o.roname like 'everywrite\\_%'",
                &[],
            )
            .await?;
        let mut progress = Vector::new();
        for row in rows {
            let (name, lsn): (String, Option<i64>) = (row.get(0), row.get(1));
            if let Some(lsn) = lsn {
                origins::raise(&mut progress, &name, Lsn(lsn.unsigned_abs()));
            }
        }
        if ledger.reconcile(&asked, &progress) {
            return Ok(progress);
        }
    }
}

#[cfg(test)]
mod tests {
    use everywrite_conflict::NodeId;

    use super::*;

    #[test]
    fn only_a_barrier_of_this_run_is_met() {
        for token in [0, 7, 1_795_889_204_961_604, u64::MAX] {
            assert!(is_met(token, token) && is_met(token, token.wrapping_add(1)));
            assert!(!is_met(token, token.wrapping_sub(1)));
            // Of another run, or nobody's.
            for other in [LATER, u64::MAX / 2, u64::MAX - LATER] {
                assert!(!is_met(token, token.wrapping_add(other)));
            }
        }
    }

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let rows = [
            vec![Some("everywrite_2"), Some("0/16B3748")],
            vec![Some("everywrite_2_2"), Some("0/16B3749")],
            vec![Some("everywrite_3"), None],
            vec![Some("everywrite_x"), Some("0/1")],
            vec![Some("4294967999")],
            vec![Some("1/A0")],
        ];
        let progress = [(NodeId(2), Lsn(0x16_B3749))].into_iter().collect();
        let read = Written::from_rows(&rows).unwrap();
        let here = Lsn(0x1_0000_00A0);
        let expected = Written {
            progress,
            oldest: 703,
            here,
        };
        assert_eq!(read, expected);
        assert_eq!(Written::from_rows(&rows[..5]), None);
        assert_eq!(Written::from_rows(&[]), None);
    }
}
