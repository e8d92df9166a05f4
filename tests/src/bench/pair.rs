//! One system under test: servers A and B, and what replicates between them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio_postgres::{Client, Statement};

use super::everywrite::Everywrite;
use super::load::Range;
use super::meter::Meter;
use super::options::{Kind, Plan, SystemPlan};
use super::registry::{Registry, Role};
use super::server::Server;

/// The tables compared at the end of a run.
pub(crate) const TABLES: [&str; 9] = [
    "marker",
    "t",
    "s1",
    "lat",
    "w",
    "pgbench_accounts",
    "pgbench_branches",
    "pgbench_tellers",
    "pgbench_history",
];

/// Period at which markers are polled: half a percent of the shortest catch-up, and no load.
const MARKER_PERIOD: Duration = Duration::from_millis(5);

/// How long replication may take to begin.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Keys of `t` given to one measurement.
const RANGE: i64 = 10_000_000;

/// How B is kept from applying while A writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// B takes part in nothing: the subscription is disabled, or B's daemon is stopped.
    Cut,
    /// B receives but does not replay (`everywrite.pause`): the backlog is in its journal already.
    Paused,
}

/// Two servers that replicate, from A to B at least.
#[derive(Debug)]
pub(crate) struct Pair {
    /// `native15`, `everywrite15`, …
    pub(crate) name: String,
    /// What the server calls its version.
    pub(crate) version: String,
    pub(crate) a: Server,
    pub(crate) b: Server,
    /// None for native replication.
    pub(crate) everywrite: Option<Everywrite>,
    kind: Kind,
    /// The `streaming` option of a subscription.
    streaming: &'static str,
    registry: Registry,
    markers: i64,
    ranges: i64,
    /// Loaded and not used since.
    fresh: Vec<Range>,
    /// Used by updates, good enough for deletes.
    updated: Vec<Range>,
}

/// A session that waits for markers, connected before the clock starts.
pub(crate) struct Watcher {
    client: Client,
    statement: Statement,
}

impl Pair {
    /// Starts both servers with schema and TPC-B tables, not yet connected to each other.
    pub(crate) async fn set_up(
        plan: &Plan,
        system: &SystemPlan,
        registry: &Registry,
    ) -> Result<Self> {
        let name = system.name();
        let server = |label| {
            Server::new(
                &name,
                label,
                &system.postgres.bin,
                &plan.pgbench,
                &plan.work,
                plan.keep,
            )
        };
        let (a, b) = (server('a')?, server('b')?);
        for server in [&a, &b] {
            server.init().await?;
            server.start().await?;
            registry.set(&name, Role::Server(server.label), server.postmaster()?);
            server
                .create_tables(if plan.scale < 0.1 { 1 } else { 10 })
                .await?;
        }
        let version: String = a.value("show server_version").await?;
        let everywrite = match (system.kind, &plan.everywrite) {
            (Kind::Everywrite, Some(program)) => {
                Some(Everywrite::init(&name, program, [&a, &b], &plan.work, registry).await?)
            }
            _ => None,
        };
        Ok(Self {
            name,
            version,
            a,
            b,
            everywrite,
            kind: system.kind,
            // 18's own default, and the best there is in each version.
            streaming: if system.postgres.major >= 16 {
                "parallel"
            } else {
                "on"
            },
            registry: registry.clone(),
            markers: 0,
            ranges: 0,
            fresh: Vec::new(),
            updated: Vec::new(),
        })
    }

    /// Starts replication and waits until a change has gone from A to B.
    pub(crate) async fn connect(&mut self) -> Result<()> {
        match &mut self.everywrite {
            None => {
                self.a
                    .execute("create publication p for all tables")
                    .await?;
                let (streaming, conninfo) = (self.streaming, self.a.conninfo());
                let options = format!(
                    "binary = true, streaming = {streaming}, copy_data = false, slot_name = 'ab'"
                );
                self.b.execute(&format!("create subscription s_ab connection '{conninfo}' publication p with ({options})")).await?;
            }
            Some(everywrite) => {
                everywrite.a.start()?;
                everywrite.b.start()?;
            }
        }
        self.wait_connected().await?;
        if self.kind == Kind::Everywrite {
            self.measure_delays().await?;
        }
        Ok(())
    }

    /// Writes on A until something arrives on B: what is written before a slot exists never does. A table of
    /// its own, which is not compared at the end.
    async fn wait_connected(&mut self) -> Result<()> {
        let (a, b) = (self.a.connect().await?, self.b.connect().await?);
        let end = Instant::now() + START_LIMIT;
        for id in 0_i64.. {
            a.execute("insert into probe values ($1)", &[&id])
                .await
                .context("write on A")?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            if b.query_opt("select id from probe limit 1", &[])
                .await
                .context("read on B")?
                .is_some()
            {
                break;
            }
            if let Some(everywrite) = &mut self.everywrite {
                everywrite.check()?;
            }
            if Instant::now() > end {
                bail!(
                    "replication does not start: after {} s nothing has arrived on B",
                    START_LIMIT.as_secs()
                );
            }
        }
        self.wait_caught_up().await
    }

    /// How long Everywrite takes to begin when there is nothing to catch up; see `catch_up`.
    async fn measure_delays(&mut self) -> Result<()> {
        for hold in [Hold::Cut, Hold::Paused] {
            let mut delays = Vec::new();
            for _ in 0..3 {
                self.stop_apply(hold).await?;
                let marker = self.mark().await?;
                if hold == Hold::Paused {
                    self.wait_journal().await;
                }
                let watcher = self.watch().await?;
                let started = Instant::now();
                self.start_apply(hold).await?;
                delays.push(
                    self.wait_marker(&watcher, marker, Duration::from_secs(60))
                        .await?
                        - started,
                );
            }
            delays.sort_unstable();
            let median = delays.get(1).copied();
            if let Some(everywrite) = &mut self.everywrite {
                *(if hold == Hold::Cut {
                    &mut everywrite.start_delay
                } else {
                    &mut everywrite.resume_delay
                }) = median;
            }
        }
        Ok(())
    }

    /// Time to begin that is not part of a catch-up rate; none where each measurement shows its own.
    pub(crate) fn idle_delay(&self, hold: Hold) -> Option<Duration> {
        let everywrite = self.everywrite.as_ref()?;
        if hold == Hold::Cut {
            everywrite.start_delay
        } else {
            everywrite.resume_delay
        }
    }

    // -- apply off and on --

    pub(crate) async fn stop_apply(&mut self, hold: Hold) -> Result<()> {
        match (&mut self.everywrite, hold) {
            (None, _) => {
                self.b.execute("alter subscription s_ab disable").await?;
                let stopped =
                    "select not bool_or(active) from pg_replication_slots where slot_name = 'ab'";
                self.a.wait_until(stopped, Duration::from_secs(30)).await
            }
            (Some(everywrite), Hold::Cut) => everywrite.b.stop().await,
            (Some(_), Hold::Paused) => {
                self.b.execute("select everywrite.pause('a')").await?;
                self.wait_paused().await
            }
        }
    }

    pub(crate) async fn start_apply(&mut self, hold: Hold) -> Result<()> {
        match (&mut self.everywrite, hold) {
            (None, _) => self.b.execute("alter subscription s_ab enable").await,
            (Some(everywrite), Hold::Cut) => everywrite.b.start(),
            (Some(_), Hold::Paused) => self.b.execute("select everywrite.resume('a')").await,
        }
    }

    /// A pause reaches the daemon through the WAL; it has arrived when a new marker does not.
    async fn wait_paused(&mut self) -> Result<()> {
        for _ in 0..20 {
            let marker = self.mark().await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let watcher = self.watch().await?;
            if !watcher.sees(marker).await? {
                return Ok(());
            }
        }
        bail!("everywrite.pause('a') on B has no effect: changes still arrive")
    }

    /// Waits until B's daemon writes nothing more to its folder: its journal holds the backlog.
    pub(crate) async fn wait_journal(&mut self) {
        let Some(everywrite) = &self.everywrite else {
            return;
        };
        let (mut last, mut since) = (everywrite.b_bytes(), Instant::now());
        let limit = Instant::now() + Duration::from_secs(300);
        while since.elapsed() < Duration::from_secs(1) && Instant::now() < limit {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = everywrite.b_bytes();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    /// B goes away whole: daemon and server.
    pub(crate) async fn peer_away(&mut self) -> Result<()> {
        if let Some(everywrite) = &mut self.everywrite {
            everywrite.b.stop().await?;
        }
        self.registry.remove(&self.name, Role::Server('b'));
        self.b.stop().await
    }

    /// B comes back; returns when its server takes connections and its daemon has been started.
    pub(crate) async fn peer_back(&mut self) -> Result<Instant> {
        self.b.start().await?;
        self.registry
            .set(&self.name, Role::Server('b'), self.b.postmaster()?);
        let started = Instant::now();
        if let Some(everywrite) = &mut self.everywrite {
            everywrite.b.start()?;
        }
        Ok(started)
    }

    // -- markers --

    /// Writes a marker row on A.
    pub(crate) async fn mark(&mut self) -> Result<i64> {
        let marker = self.next_marker();
        self.a
            .execute(&format!("insert into marker(id) values ({marker})"))
            .await?;
        Ok(marker)
    }

    /// Writes a marker row on B.
    pub(crate) async fn mark_b(&mut self) -> Result<i64> {
        let marker = self.next_marker();
        self.b
            .execute(&format!("insert into marker(id) values ({marker})"))
            .await?;
        Ok(marker)
    }

    /// The id of a marker that the caller writes.
    pub(crate) fn next_marker(&mut self) -> i64 {
        self.markers += 1;
        self.markers
    }

    /// Waits for markers on B.
    pub(crate) async fn watch(&self) -> Result<Watcher> {
        Watcher::on(&self.b).await
    }

    /// Waits for markers of B's on A.
    pub(crate) async fn watch_a(&self) -> Result<Watcher> {
        Watcher::on(&self.a).await
    }

    /// The moment at which the marker is first seen on the other side.
    pub(crate) async fn wait_marker(
        &mut self,
        watcher: &Watcher,
        marker: i64,
        limit: Duration,
    ) -> Result<Instant> {
        let [seen] = self.wait_markers([(watcher, marker)], limit).await?;
        Ok(seen)
    }

    /// The moments at which the markers are first seen, each where its watcher looks.
    pub(crate) async fn wait_markers<const N: usize>(
        &mut self,
        wanted: [(&Watcher, i64); N],
        limit: Duration,
    ) -> Result<[Instant; N]> {
        let started = Instant::now();
        let mut checked = started;
        let mut seen = [None; N];
        loop {
            for ((watcher, marker), seen) in wanted.iter().zip(&mut seen) {
                if seen.is_none() && watcher.sees(*marker).await? {
                    *seen = Some(Instant::now());
                }
            }
            if seen.iter().all(Option::is_some) {
                return Ok(seen.map(|seen| seen.unwrap_or(started)));
            }
            if checked.elapsed() > Duration::from_secs(1) {
                checked = Instant::now();
                if let Some(everywrite) = &mut self.everywrite {
                    everywrite.check()?;
                }
            }
            if started.elapsed() > limit {
                bail!(
                    "a change is not visible on the other side after {} s",
                    limit.as_secs()
                );
            }
            tokio::time::sleep(MARKER_PERIOD).await;
        }
    }

    pub(crate) async fn wait_caught_up(&mut self) -> Result<()> {
        let marker = self.mark().await?;
        let watcher = self.watch().await?;
        self.wait_marker(&watcher, marker, Duration::from_secs(120))
            .await?;
        Ok(())
    }

    // -- between measurements --

    pub(crate) async fn checkpoint(&self) -> Result<()> {
        self.a.execute("checkpoint").await?;
        self.b.execute("checkpoint").await
    }

    /// Leaves nothing for autovacuum to do while another system is measured.
    pub(crate) async fn tidy(&self) -> Result<()> {
        for server in [&self.a, &self.b] {
            server.execute("vacuum analyze").await?;
            server.execute("checkpoint").await?;
        }
        Ok(())
    }

    pub(crate) async fn meter(&self) -> Result<Meter> {
        Meter::start(&self.registry, &self.name, &[&self.a, &self.b]).await
    }

    /// Starts to count memory peaks anew.
    pub(crate) fn reset_peaks(&mut self) {
        if let Some(everywrite) = &mut self.everywrite {
            everywrite.a.reset_peak();
            everywrite.b.reset_peak();
        }
    }

    /// Memory peaks of A's and B's daemon in bytes.
    pub(crate) fn peaks(&mut self) -> Option<[u64; 2]> {
        let everywrite = self.everywrite.as_mut()?;
        Some([everywrite.a.peak_bytes(), everywrite.b.peak_bytes()])
    }

    // -- ranges of t --

    /// Keys that no measurement has used.
    pub(crate) fn new_range(&mut self, rows: i64) -> Range {
        self.ranges += 1;
        Range {
            base: self.ranges * RANGE,
            rows,
        }
    }

    /// Says that the range is now filled on both servers.
    pub(crate) fn filled(&mut self, range: Range) {
        self.fresh.push(range);
    }

    /// A filled range of at least `rows` rows to update; it stays good for deletes.
    pub(crate) async fn range_to_update(&mut self, rows: i64) -> Result<Range> {
        let range = match take(&mut self.fresh, rows) {
            Some(range) => range,
            None => self.fill(rows).await?,
        };
        self.updated.push(range);
        Ok(range)
    }

    /// A filled range of at least `rows` rows to delete from.
    pub(crate) async fn range_to_delete(&mut self, rows: i64) -> Result<Range> {
        match take(&mut self.fresh, rows).or_else(|| take(&mut self.updated, rows)) {
            Some(range) => Ok(range),
            None => self.fill(rows).await,
        }
    }

    /// A filled range of at least `rows` rows that both sides will update; it stays good for deletes.
    pub(crate) async fn range_to_conflict(&mut self, rows: i64) -> Result<Range> {
        let range = match take(&mut self.fresh, rows).or_else(|| take(&mut self.updated, rows)) {
            Some(range) => range,
            None => self.fill(rows).await?,
        };
        self.updated.push(range);
        Ok(range)
    }

    async fn fill(&mut self, rows: i64) -> Result<Range> {
        let range = self.new_range(rows);
        self.a
            .execute(&format!("call load_t({}, {rows}, 1000)", range.base))
            .await?;
        self.wait_caught_up().await?;
        self.tidy().await?;
        Ok(range)
    }

    /// Ends the daemons in good order; the servers end when this is dropped.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if let Some(everywrite) = &mut self.everywrite {
            everywrite.a.stop().await?;
            everywrite.b.stop().await?;
        }
        self.registry.forget(&self.name);
        Ok(())
    }

    /// The tables whose rows differ between A and B.
    pub(crate) async fn differences(&self) -> Result<Vec<String>> {
        differences(&[&self.a, &self.b], &TABLES).await
    }
}

/// The tables whose rows are not the same on all servers, with count and hash of each.
pub(crate) async fn differences(servers: &[&Server], tables: &[&str]) -> Result<Vec<String>> {
    let mut different = Vec::new();
    for table in tables {
        let sql = format!(
            "select concat(count(*), '/', sum(hashtextextended(x::text, 0)::numeric)) from {table} x"
        );
        let mut found: Vec<String> = Vec::new();
        for server in servers {
            found.push(server.value(&sql).await?);
        }
        if found.windows(2).any(|two| two.first() != two.last()) {
            let each: Vec<String> = servers
                .iter()
                .zip(&found)
                .map(|(server, found)| format!("{found} on {}", server.label.to_ascii_uppercase()))
                .collect();
            different.push(format!("{table} (rows/hash {})", each.join(", ")));
        }
    }
    Ok(different)
}

fn take(ranges: &mut Vec<Range>, rows: i64) -> Option<Range> {
    let at = ranges.iter().position(|range| range.rows >= rows)?;
    Some(ranges.remove(at))
}

impl Watcher {
    async fn on(server: &Server) -> Result<Self> {
        let client = server.connect().await?;
        let statement = client
            .prepare("select 1 from marker where id = $1")
            .await
            .context("prepare the marker query")?;
        Ok(Self { client, statement })
    }

    async fn sees(&self, marker: i64) -> Result<bool> {
        let row = self
            .client
            .query_opt(&self.statement, &[&marker])
            .await
            .context("look for a marker")?;
        Ok(row.is_some())
    }
}
