//! What is measured: catching up over the wire, a steady rate over the wire, and the wire itself.
//!
//! The rate of a catch-up begins when the first 64 KiB of changes have been put onto the wire, and
//! ends when the last row is visible at B: how long a worker or a daemon takes to begin is left out,
//! for both systems alike, and stands beside it (`begin_s`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use everywrite_tests::postgres::{Server, value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::emulator::Traffic;
use super::netns::Network;
use super::pair::Pair;
use super::record::Figures;

/// A catch-up has begun when so much has gone over the wire.
const BEGUN_BYTES: u64 = 64 << 10;
/// A catch-up that is not done by then is given up: its progress until then is the figure.
const CATCH_UP_MAX: Duration = Duration::from_secs(45);
/// After a steady rate, what is under way may take so long.
const REST_MAX: Duration = Duration::from_secs(20);
/// Between two looks at B: far less than the shortest way there.
const PAUSE: Duration = Duration::from_micros(500);
/// Where the raw connection is measured.
pub(super) const RAW_PORT: u16 = 9000;

/// What B has, and since when: (when it was first seen, greatest id).
type Seen = Vec<(Instant, i64)>;

/// A thread that looks at B, so that the driver's own work delays nothing.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Seen>>,
}

impl Watch {
    fn start(server: &Server, table: &str) -> anyhow::Result<Watch> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, dir) = (Arc::clone(&stop), server.dir().to_owned());
        let sql = greatest(table);
        let look = move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().context("start a runtime")?;
            runtime.block_on(async {
                use everywrite_tests::postgres::{DATABASE, SUPERUSER, connect};
                let client = connect(&dir, SUPERUSER, DATABASE).await?;
                let statement = client.prepare(&sql).await.context("prepare the look")?;
                let mut seen = Seen::new();
                while !stopped.load(Ordering::Relaxed) {
                    let row = client
                        .query_one(&statement, &[])
                        .await
                        .context("look at B")?;
                    let id: i64 = row.try_get(0).context("read an id")?;
                    if seen.last().is_none_or(|&(_, last)| last < id) {
                        seen.push((Instant::now(), id));
                    }
                    std::thread::sleep(PAUSE);
                }
                Ok(seen)
            })
        };
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(look);
        let thread = thread.context("start a thread")?;
        Ok(Watch { stop, thread })
    }

    fn end(self) -> anyhow::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the watching thread failed"))?
    }
}

fn greatest(table: &str) -> String {
    format!("select coalesce(max(id), 0)::bigint from {table}")
}

async fn greatest_of(server: &Server, table: &str) -> anyhow::Result<i64> {
    server
        .value(&greatest(table))
        .await?
        .parse()
        .context("an id")
}

/// What is loaded while B is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backlog {
    pub(super) table: &'static str,
    pub(super) rows: u32,
    pub(super) rows_per_transaction: u32,
}

/// B is held, A writes, B is let go.
pub(super) async fn catch_up(
    network: &Network,
    pair: &mut Pair,
    backlog: Backlog,
) -> anyhow::Result<Figures> {
    let Backlog {
        table,
        rows,
        rows_per_transaction: per,
    } = backlog;
    pair.hold().await?;
    let base = greatest_of(&pair.a, table).await?;
    let load = format!("call load_{table}({base}, {rows}, {per})");
    pair.a.execute(&load).await?;
    pair.a.execute("checkpoint").await?;
    pair.settled_at_a().await?;

    let watch = Watch::start(&pair.b, table)?;
    let client = pair.b.connect().await?;
    let before = network.wire.traffic(pair.port);
    let [cpu_a, _] = pair.cpu_s();
    let released = Instant::now();
    pair.release(network).await?;
    let (goal, sql) = (base + i64::from(rows), greatest(table));
    let mut sent: Vec<(Instant, u64)> = Vec::new();
    let done = loop {
        for _ in 0..10 {
            let there = network.wire.traffic(pair.port).there - before.there;
            sent.push((Instant::now(), there.bytes));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if value(&client, &sql)
            .await?
            .parse::<i64>()
            .context("an id")?
            >= goal
        {
            break true;
        }
        if released.elapsed() > CATCH_UP_MAX {
            break false;
        }
    };
    // The watching thread sees the last row, too.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let traffic = network.wire.traffic(pair.port) - before;
    let seen = watch.end()?;
    let last = seen.last().context("B was never looked at")?;
    let begun = sent.iter().find(|(_, bytes)| *bytes >= BEGUN_BYTES);
    let begun = begun.context("nothing has gone over the wire")?.0;
    let applied = (last.1 - base).max(0) as f64;
    let seconds = (last.0 - begun).as_secs_f64();
    let mut figures = Figures::new();
    figures.insert("rows_per_s", applied / seconds);
    figures.insert("begin_s", (begun - released).as_secs_f64());
    figures.insert("total_s", (last.0 - released).as_secs_f64());
    figures.insert("done", f64::from(u8::from(done)));
    // B's daemon has just been started.
    let cpu = pair.cpu_s();
    figures.insert("cpu_a_s", cpu[0] - cpu_a);
    figures.insert("cpu_b_s", cpu[1]);
    figures.insert("wire_mb_per_s", wire_rate(&sent));
    traffic_figures(&mut figures, traffic, applied / f64::from(per));
    if !done {
        // The next measurement must not find this one's rest.
        wait_for(pair, table, goal).await?;
    }
    Ok(figures)
}

/// Megabytes a second between the first and the last tenth of what was sent.
fn wire_rate(sent: &[(Instant, u64)]) -> f64 {
    let all = sent.last().map_or(0, |(_, bytes)| *bytes);
    let reached = |part: u64| sent.iter().find(|(_, bytes)| *bytes >= all * part / 10);
    match (reached(1), reached(9)) {
        (Some(first), Some(last)) if last.0 > first.0 => {
            (last.1 - first.1) as f64 / 1e6 / (last.0 - first.0).as_secs_f64()
        }
        _ => 0.0,
    }
}

async fn wait_for(pair: &Pair, table: &str, goal: i64) -> anyhow::Result<()> {
    let begin = Instant::now();
    while greatest_of(&pair.b, table).await? < goal {
        if begin.elapsed() > Duration::from_secs(120) {
            bail!("{} does not catch up with {table}", pair.name);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// What is written at a steady rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    /// A function of a number that writes one transaction.
    pub(super) function: &'static str,
    pub(super) table: &'static str,
    pub(super) per_s: u32,
    pub(super) seconds: u32,
}

/// One session writes at a steady rate; how long each transaction takes to be visible at B.
pub(super) async fn steady(
    network: &Network,
    pair: &Pair,
    steady: Steady,
) -> anyhow::Result<Figures> {
    let Steady {
        function,
        table,
        per_s,
        seconds,
    } = steady;
    let base = greatest_of(&pair.a, table).await?;
    wait_for(pair, table, base).await?;
    let client = pair.a.connect().await?;
    let sql = format!("select {function}($1)");
    let statement = client.prepare(&sql).await.context("prepare the writes")?;
    let watch = Watch::start(&pair.b, table)?;
    let count = i64::from(per_s * seconds);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_s);
    let (before, cpu_before) = (network.wire.traffic(pair.port), pair.cpu_s());
    let begin = Instant::now();
    let mut committed = Vec::new();
    for number in base + 1..=base + count {
        ticks.tick().await;
        client
            .query_one(&statement, &[&number])
            .await
            .context("write")?;
        committed.push((number, Instant::now()));
    }
    let written = begin.elapsed();
    let behind = base + count - greatest_of(&pair.b, table).await?;
    let rest = Instant::now();
    while greatest_of(&pair.b, table).await? < base + count && rest.elapsed() < REST_MAX {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // What acknowledges the last ones belongs to them.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let traffic = network.wire.traffic(pair.port) - before;
    let seen = watch.end()?;
    let mut latencies: Vec<f64> = committed
        .iter()
        .filter_map(|&(number, at)| {
            // Nobody is seen before it is written: the first sight at or above it is its own.
            let (when, _) = *seen.get(seen.partition_point(|&(_, id)| id < number))?;
            Some(when.saturating_duration_since(at).as_secs_f64() * 1e3)
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    let share = |share: f64| {
        let at = (latencies.len() as f64 * share) as usize;
        latencies.get(at).copied().unwrap_or(f64::NAN)
    };
    let mut figures = Figures::new();
    let cpu = pair.cpu_s();
    figures.insert("cpu_a_s", cpu[0] - cpu_before[0]);
    figures.insert("cpu_b_s", cpu[1] - cpu_before[1]);
    figures.insert("p50_ms", share(0.5));
    figures.insert("p99_ms", share(0.99));
    figures.insert("seen", latencies.len() as f64);
    figures.insert("written_per_s", count as f64 / written.as_secs_f64());
    figures.insert("behind_at_end", behind as f64);
    traffic_figures(&mut figures, traffic, latencies.len() as f64);
    if latencies.len() < committed.len() {
        wait_for(pair, table, base + count).await?;
    }
    Ok(figures)
}

fn traffic_figures(figures: &mut Figures, traffic: Traffic, transactions: f64) {
    let per = |count: u64| count as f64 / transactions.max(1.0);
    figures.insert("transactions", transactions);
    figures.insert("there_bytes_per_tx", per(traffic.there.bytes));
    figures.insert("back_bytes_per_tx", per(traffic.back.bytes));
    figures.insert("there_payload_per_tx", per(traffic.there.payload));
    figures.insert("back_payload_per_tx", per(traffic.back.payload));
    figures.insert("there_packets_per_tx", per(traffic.there.packets));
    figures.insert("back_packets_per_tx", per(traffic.back.packets));
    figures.insert(
        "lost_packets",
        (traffic.there.lost + traffic.back.lost) as f64,
    );
}

/// What one plain TCP connection carries over the wire in some seconds.
pub(super) async fn raw(network: &Network, seconds: u64) -> anyhow::Result<Figures> {
    let before = (
        network.wire.traffic(RAW_PORT),
        network.a.interface_bytes(&network.device)?,
    );
    let listening = network.b.run(async || {
        let listener = std::net::TcpListener::bind((network.b.address, RAW_PORT));
        listener.context("listen for the raw connection")
    })?;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            network.b.run(async || {
                listening.set_nonblocking(true).context("listen")?;
                let listener = tokio::net::TcpListener::from_std(listening).context("listen")?;
                let (mut stream, _) = listener.accept().await.context("accept")?;
                let (mut buffer, mut got) = (vec![0; 1 << 20], Vec::new());
                loop {
                    let read = stream.read(&mut buffer).await.context("read")?;
                    if read == 0 {
                        return Ok(got);
                    }
                    let before = got.last().map_or(0, |&(_, bytes)| bytes);
                    got.push((Instant::now(), before + read as u64));
                }
            })
        });
        network.a.run(async || {
            let stream = tokio::net::TcpStream::connect((network.b.address, RAW_PORT)).await;
            let mut stream = stream.context("connect")?;
            let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
            let buffer = vec![7; 256 << 10];
            while let Ok(written) = tokio::time::timeout_at(end, stream.write_all(&buffer)).await {
                written.context("write")?;
            }
            Ok(())
        })?;
        let got = receiver
            .join()
            .map_err(|_| anyhow!("the receiver failed"))??;
        let after = (
            network.wire.traffic(RAW_PORT),
            network.a.interface_bytes(&network.device)?,
        );
        let (mut figures, total) = (Figures::new(), got.last().map_or(0, |&(_, bytes)| bytes));
        let span = match (got.first(), got.last()) {
            (Some(first), Some(last)) => (last.0 - first.0).as_secs_f64(),
            _ => f64::NAN,
        };
        // The wire's counting and the kernel's, for each other's check; the kernel's has everybody's.
        figures.insert("wire_bytes", (after.0 - before.0).there.bytes as f64);
        figures.insert("interface_bytes", (after.1.0 - before.1.0) as f64);
        figures.insert("mean_mb_per_s", total as f64 / 1e6 / span);
        // The second half: what remains once the connection has found its pace.
        let half = got.partition_point(|&(at, _)| (at - got[0].0).as_secs_f64() < span / 2.0);
        let middle = got.get(half).map_or(0, |&(_, bytes)| bytes);
        figures.insert(
            "second_half_mb_per_s",
            (total - middle) as f64 / 1e6 / (span / 2.0),
        );
        Ok(figures)
    })
}
