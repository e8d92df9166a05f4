//! Notes when each row of `lat` is first seen on B.
//!
//! A thread of its own with a blocking sleep: the timers of the asynchronous runtime count whole
//! milliseconds, and other work of the driver must not delay a poll.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};

use super::server::{APPLICATION, DATABASE, Server};

/// Together with the query, one poll takes well below 1 ms.
const PAUSE: Duration = Duration::from_micros(400);

/// The rows since the last poll come from the index, also while the table is new and has not been analyzed: reading all of it
/// each time takes half of a processor from those who are measured.
const OPTIONS: &str =
    "-c enable_seqscan=off -c enable_bitmapscan=off -c plan_cache_mode=force_generic_plan";

/// What the poller saw.
#[derive(Debug)]
pub(crate) struct Polled {
    /// Row id to microseconds since 1970.
    pub(crate) seen: HashMap<i64, i64>,
    /// Time between two polls, which limits how exact the others are.
    pub(crate) periods_ms: Vec<f64>,
}

/// A polling thread.
pub(crate) struct Poller {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Polled>>,
}

impl Poller {
    /// Polls for rows after `last` until stopped.
    pub(crate) fn start(server: &Server, last: i64) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&server.socket_dir)
            .port(server.port)
            .user("postgres")
            .dbname(DATABASE)
            .application_name(APPLICATION)
            .options(OPTIONS);
        let thread = std::thread::Builder::new()
            .name("latency".into())
            .spawn(move || poll(&config, last, &stopped));
        Ok(Self {
            stop,
            thread: thread.context("start the polling thread")?,
        })
    }

    /// Ends the thread and gives what it saw.
    pub(crate) async fn stop(self) -> Result<Polled> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = tokio::task::spawn_blocking(|| self.thread.join())
            .await
            .context("wait for the polling thread")?;
        joined.map_err(|_| anyhow!("the polling thread failed"))?
    }
}

fn poll(config: &tokio_postgres::Config, last: i64, stop: &AtomicBool) -> Result<Polled> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the poller's runtime")?;
    let (client, connection) = runtime
        .block_on(config.connect(tokio_postgres::NoTls))
        .context("connect the poller to B")?;
    runtime.spawn(connection);
    let statement = runtime
        .block_on(client.prepare("select id from lat where id > $1"))
        .context("prepare the poll")?;
    let mut polled = Polled {
        seen: HashMap::new(),
        periods_ms: Vec::new(),
    };
    // Commits are not in the order of ids: ask again from the lowest id that is still missing.
    let (mut low, mut ahead) = (last, HashSet::new());
    let mut previous: Option<Instant> = None;
    while !stop.load(Ordering::Relaxed) {
        let rows = runtime
            .block_on(client.query(&statement, &[&low]))
            .context("poll B")?;
        let now = Instant::now();
        let micros = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("read the clock")?
            .as_micros();
        if let Some(previous) = previous.replace(now) {
            polled
                .periods_ms
                .push((now - previous).as_secs_f64() * 1000.0);
        }
        for row in &rows {
            let id: i64 = row.try_get(0).context("read an id")?;
            if ahead.insert(id) {
                polled
                    .seen
                    .insert(id, i64::try_from(micros).context("read the clock")?);
            }
        }
        while ahead.remove(&(low + 1)) {
            low += 1;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(polled)
}
