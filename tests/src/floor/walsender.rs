//! A walsender and a reader that does nothing with what it gets.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use everywrite_conflict::Lsn;
use everywrite_node::pg::Target;
use everywrite_node::pg::pgoutput::{Message, decode};
use everywrite_node::pg::replication::{self, Event, Feedback, Stream};
use tokio::sync::oneshot;

use super::clock;
use super::figure::Spent;
use crate::bench::server::{DATABASE, Server};

/// The daemon's name for it.
const PUBLICATION: &str = "everywrite";
/// Marks the end of a load in the WAL.
const MARK: &str = "floor";
/// No walsender is silent for so long while it has something to send.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the reader waits for more.
///
/// A walsender hands every message to the socket by itself. A reader that sleeps there is woken by each of them, and that
/// is on the walsender's bill; one that has something else to do meanwhile is not. So the reader's runtime has one
/// thread: with more, another one would watch the socket during a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// At the socket.
    Eager,
    /// Away for [`PAUSE`] whenever it has read all there is.
    Pausing,
}

/// Short enough that the socket's buffer (some 270 small messages) does not fill meanwhile.
const PAUSE: Duration = Duration::from_micros(100);

impl Reader {
    /// Both.
    pub(crate) const ALL: [Reader; 2] = [Reader::Eager, Reader::Pausing];

    /// For the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reader::Eager => "a reader always at the socket",
            Reader::Pausing => "a reader that pauses 0.1 ms",
        }
    }
}

/// Where a server is, as the daemon sees it.
pub(crate) fn target(server: &Server) -> Target {
    let mut target = Target::new(
        server.socket_dir.display().to_string(),
        "postgres",
        DATABASE,
    );
    target.port = server.port;
    target
}

/// Publishes all tables, as the daemon does.
pub(crate) async fn publish(server: &Server) -> Result<()> {
    let sql = format!("create publication {PUBLICATION} for all tables");
    server.execute(&sql).await
}

/// What is written from now on can be read from this slot, again and again.
pub(crate) async fn slot(server: &Server, name: &str) -> Result<()> {
    let client = server.connect().await?;
    let created = replication::create_slot(&client, name).await;
    created.map(drop).context("create a slot")
}

/// Gives the slot up once its walsender has noticed that nobody reads.
pub(crate) async fn drop_slot(server: &Server, name: &str) -> Result<()> {
    wait_until_free(server, name).await?;
    let client = server.connect().await?;
    let dropped = replication::drop_slot(&client, name).await;
    dropped.context("drop a slot")
}

async fn wait_until_free(server: &Server, slot: &str) -> Result<()> {
    let free = format!("select not active from pg_replication_slots where slot_name = '{slot}'");
    server.wait_until(&free, PATIENCE).await
}

/// Ends what a slot is read for.
pub(crate) async fn mark(server: &Server, slot: &str) -> Result<()> {
    let sql = format!("select pg_logical_emit_message(false, '{MARK}', '{slot}')");
    server.execute(&sql).await
}

/// Reads a slot from its beginning to its mark, and hands every message out.
///
/// The clock runs from before the walsender's start: some milliseconds are those of a connection.
pub(crate) async fn read(
    server: &Server,
    slot: &str,
    reader: Reader,
    mut each: impl FnMut(Bytes) -> Result<()>,
) -> Result<Spent> {
    wait_until_free(server, slot).await?;
    let work = async {
        let begun = Instant::now();
        let (mut stream, feedback) = start(target(server), slot).await?;
        loop {
            let payload = next(&mut stream, &feedback, reader).await?;
            let marked = payload.first() == Some(&b'M') && is_mark(&payload, slot);
            if marked {
                break;
            }
            each(payload)?;
        }
        let wall = begun.elapsed().as_secs_f64();
        let cpu = clock::of_process(process(server, slot).await?);
        Ok(Spent {
            wall,
            cpu,
            other: 0.0,
        })
    };
    tokio::task::block_in_place(|| alone(work))
}

/// Runs on a runtime that has no thread but this one.
fn alone<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("start a runtime")?.block_on(work)
}

/// One transaction of so many rows while a reader waits: from COMMIT returned to its last byte at the
/// reader, and the walsender's processor time for all of it.
pub(crate) async fn lag(
    server: &Server,
    slot_name: &str,
    reader: Reader,
    base: i64,
    rows: i64,
) -> Result<Spent> {
    slot(server, slot_name).await?;
    let (ended, end) = oneshot::channel();
    let (release, released) = oneshot::channel::<()>();
    let (target, name) = (target(server), slot_name.to_owned());
    let read = async move {
        let (mut stream, feedback) = start(target, &name).await?;
        loop {
            let payload = next(&mut stream, &feedback, reader).await?;
            // Commit, Stream Commit.
            if matches!(payload.first(), Some(b'C' | b'c')) {
                break;
            }
        }
        let _ = ended.send(Instant::now());
        // The walsender lives until its time is read.
        let _ = released.await;
        Ok(())
    };
    let reading = tokio::task::spawn_blocking(move || alone(read));
    let active = format!("select active from pg_replication_slots where slot_name = '{slot_name}'");
    server.wait_until(&active, PATIENCE).await?;
    let walsender = process(server, slot_name).await?;
    let before = clock::of_process(walsender);
    let writer = server.connect().await?;
    let insert = format!(
        "insert into t select {base} + g, g, 'payload-' || lpad(g::text, 32, 'x'), clock_timestamp() from generate_series(1, {rows}) g"
    );
    for sql in ["begin", &insert, "commit"] {
        writer
            .batch_execute(sql)
            .await
            .context("write one large transaction")?;
    }
    let committed = Instant::now();
    // When the reader fails, its own error says more.
    let read = end.await.unwrap_or(committed);
    let cpu = clock::of_process(walsender) - before;
    drop(release);
    reading.await.context("read one large transaction")??;
    drop_slot(server, slot_name).await?;
    Ok(Spent {
        wall: read.saturating_duration_since(committed).as_secs_f64(),
        cpu,
        other: 0.0,
    })
}

async fn start(target: Target, slot: &str) -> Result<(Stream, Feedback)> {
    let options = replication::Options::new(PUBLICATION);
    let started = replication::start(&target, slot, Lsn::ZERO, &options).await;
    started.context("start a walsender")
}

/// The next message. Nothing is confirmed, so that the slot can be read again.
async fn next(stream: &mut Stream, feedback: &Feedback, reader: Reader) -> Result<Bytes> {
    loop {
        let event = match stream.buffered().context("read from the walsender")? {
            Some(event) => Some(event),
            None => {
                if reader == Reader::Pausing {
                    // Shorter than the runtime's timers can be.
                    std::thread::sleep(PAUSE);
                }
                let event = tokio::time::timeout(PATIENCE, stream.next()).await;
                event
                    .context("the walsender sends nothing")?
                    .context("read from the walsender")?
            }
        };
        match event {
            Some(Event::Data { payload, .. }) => return Ok(payload),
            Some(Event::Keepalive {
                reply_requested, ..
            }) => {
                if reply_requested {
                    let zero = Lsn::ZERO;
                    let sent = feedback.send(zero, zero, zero, false).await;
                    sent.context("answer the walsender")?;
                }
            }
            None => bail!("the walsender ended"),
        }
    }
}

fn is_mark(payload: &Bytes, slot: &str) -> bool {
    matches!(decode(payload, false), Ok(Message::Message { prefix, content, .. }) if prefix == MARK && content == slot.as_bytes())
}

async fn process(server: &Server, slot: &str) -> Result<u32> {
    let sql = format!("select active_pid from pg_replication_slots where slot_name = '{slot}'");
    let pid: Option<i32> = server.value(&sql).await?;
    let pid = pid.context("the walsender is gone")?;
    u32::try_from(pid).context("the walsender's process id")
}
