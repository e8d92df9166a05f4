//! One throw-away PostgreSQL server: life cycle, SQL, pgbench.

use std::io::{Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;
use tokio_postgres::{Client, NoTls, types::FromSql};

/// The database that is replicated.
pub(crate) const DATABASE: &str = "bench";

/// Names the driver's own sessions, so that their CPU time is not taken for the system's.
pub(crate) const APPLICATION: &str = "everywrite-bench";

/// The same for every system under test. The large `max_wal_size` keeps checkpoints out of the timed
/// parts; the driver runs them in between.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "512MB"),
    ("wal_level", "logical"),
    ("track_commit_timestamp", "on"),
    ("max_wal_size", "8GB"),
    ("synchronous_commit", "on"),
    ("fsync", "on"),
    ("autovacuum", "on"),
    ("max_connections", "100"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_worker_processes", "30"),
    ("listen_addresses", "'127.0.0.1'"),
    ("log_line_prefix", "'%m [%p] %b '"),
    ("log_min_messages", "warning"),
    ("timezone", "'UTC'"),
];

/// A server that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// `a` or `b`, or the next letters.
    pub(crate) label: char,
    /// TCP port; also names the socket.
    pub(crate) port: u16,
    /// Folder of the Unix socket.
    pub(crate) socket_dir: PathBuf,
    bin: PathBuf,
    data: PathBuf,
    log: PathBuf,
    pgbench: PathBuf,
    /// Root may not run PostgreSQL: the user and group that do it then.
    user: Option<(u32, u32)>,
    keep: bool,
    /// Settings of this server alone.
    settings: Vec<(&'static str, &'static str)>,
}

/// What one pgbench run printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PgbenchReport {
    pub(crate) transactions: f64,
    pub(crate) tps: f64,
}

impl Server {
    /// Prepares the names only; [`Server::init`] and [`Server::start`] do the work.
    pub(crate) fn new(
        system: &str,
        label: char,
        bin: &Path,
        pgbench: &Path,
        work: &Path,
        keep: bool,
    ) -> Result<Self> {
        Ok(Self {
            label,
            port: free_port()?,
            socket_dir: work.join("sock"),
            bin: bin.to_owned(),
            data: work.join(format!("data-{system}-{label}")),
            log: work.join(format!("log-{system}-{label}.log")),
            pgbench: pgbench.to_owned(),
            user: server_user()?,
            keep,
            settings: Vec::new(),
        })
    }

    /// Changes a setting; before [`Server::init`].
    pub(crate) fn set(&mut self, name: &'static str, value: &'static str) {
        self.settings.push((name, value));
    }

    // -- life cycle --

    /// A new, empty cluster; what an interrupted run left there is stopped and removed.
    pub(crate) async fn init(&self) -> Result<()> {
        std::fs::create_dir_all(&self.socket_dir)
            .with_context(|| format!("create {}", self.socket_dir.display()))?;
        if let Some((user, group)) = self.user {
            for dir in [self.socket_dir.as_path()]
                .into_iter()
                .chain(self.data.parent())
            {
                chown(dir, Some(user), Some(group))
                    .with_context(|| format!("hand {} to user postgres", dir.display()))?;
            }
        }
        if self.data.exists() {
            if self.data.join("postmaster.pid").exists() {
                let _ = self.pg_ctl(&["-m", "immediate", "-w", "stop"]).await;
            }
            std::fs::remove_dir_all(&self.data)
                .with_context(|| format!("remove {}", self.data.display()))?;
        }
        let _ = std::fs::remove_file(&self.log);
        let mut initdb = self.program("initdb");
        initdb.arg("-D").arg(&self.data).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        run_quietly(initdb).await.context("run initdb")?;
        // The last line about a setting counts.
        let mut conf: String = SETTINGS
            .iter()
            .chain(&self.settings)
            .map(|(name, value)| format!("{name} = {value}\n"))
            .collect();
        conf += &format!(
            "port = {}\nunix_socket_directories = '{}'\n",
            self.port,
            self.socket_dir.display()
        );
        let file = self.data.join("postgresql.conf");
        let old =
            std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        std::fs::write(&file, old + &conf).with_context(|| format!("write {}", file.display()))
    }

    pub(crate) async fn start(&self) -> Result<()> {
        let log = self.log.display().to_string();
        self.pg_ctl(&["-l", &log, "-w", "-t", "60", "start"])
            .await
            .with_context(|| format!("start the server; its log is {log}"))
    }

    pub(crate) async fn stop(&self) -> Result<()> {
        self.pg_ctl(&["-m", "fast", "-w", "-t", "110", "stop"])
            .await
            .context("stop the server")
    }

    async fn pg_ctl(&self, arguments: &[&str]) -> Result<()> {
        let mut pg_ctl = self.program("pg_ctl");
        pg_ctl.arg("-D").arg(&self.data).args(arguments);
        run_quietly(pg_ctl).await
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.current_dir("/");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// The postmaster's process id.
    pub(crate) fn postmaster(&self) -> Result<u32> {
        let file = self.data.join("postmaster.pid");
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let line = text.lines().next().unwrap_or_default();
        line.trim()
            .parse()
            .with_context(|| format!("{} does not start with a process id", file.display()))
    }

    // -- SQL --

    /// libpq's form, over TCP: what a subscription uses.
    pub(crate) fn conninfo(&self) -> String {
        format!(
            "host=127.0.0.1 port={} dbname={DATABASE} user=postgres",
            self.port
        )
    }

    /// A new session of the driver's, over the Unix socket.
    pub(crate) async fn connect(&self) -> Result<Client> {
        self.connect_to(DATABASE).await
    }

    async fn connect_to(&self, database: &str) -> Result<Client> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&self.socket_dir)
            .port(self.port)
            .user("postgres")
            .dbname(database)
            .application_name(APPLICATION)
            .connect(NoTls)
            .await
            .with_context(|| format!("connect to server {}", self.label))?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub(crate) async fn create_database(&self) -> Result<()> {
        let client = self.connect_to("postgres").await?;
        client
            .batch_execute(&format!("create database {DATABASE}"))
            .await
            .context("create the database")
    }

    /// The database with the tables of all loads; pgbench's have so many branches.
    pub(crate) async fn create_tables(&self, branches: u32) -> Result<()> {
        self.create_database().await?;
        self.execute(include_str!("schema.sql")).await?;
        self.pgbench(&["-i", "-s", &branches.to_string(), "-q"], "")
            .await?;
        self.execute("alter table pgbench_history add hid bigserial primary key")
            .await?;
        self.execute("vacuum analyze").await
    }

    /// Runs statements without a result, in a session of their own.
    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        let client = self.connect().await?;
        client
            .batch_execute(sql)
            .await
            .with_context(|| format!("on server {}: {sql}", self.label))
    }

    /// The first column of the only row.
    pub(crate) async fn value<T: for<'a> FromSql<'a>>(&self, sql: &str) -> Result<T> {
        let client = self.connect().await?;
        let row = client
            .query_one(sql, &[])
            .await
            .with_context(|| format!("on server {}: {sql}", self.label))?;
        row.try_get(0).with_context(|| format!("result of {sql}"))
    }

    /// Bytes of WAL written since the cluster was made.
    pub(crate) async fn wal_position(&self) -> Result<i64> {
        self.value("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8")
            .await
    }

    /// Size of `pg_wal`.
    pub(crate) async fn wal_dir_bytes(&self) -> Result<i64> {
        self.value("select sum(size)::int8 from pg_ls_waldir()")
            .await
    }

    /// WAL that the slot that is furthest behind keeps.
    pub(crate) async fn slot_held_bytes(&self) -> Result<i64> {
        self.value("select coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)), 0)::int8 from pg_replication_slots")
            .await
    }

    /// Polls a query for a boolean until it is true.
    pub(crate) async fn wait_until(&self, sql: &str, limit: Duration) -> Result<()> {
        let client = self.connect().await?;
        let end = Instant::now() + limit;
        loop {
            let row = client
                .query_one(sql, &[])
                .await
                .with_context(|| format!("on server {}: {sql}", self.label))?;
            if row.try_get::<_, Option<bool>>(0)?.unwrap_or(false) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!(
                    "on server {}, after {} s still not true: {sql}",
                    self.label,
                    limit.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs pgbench against this server.
    pub(crate) async fn pgbench(&self, arguments: &[&str], options: &str) -> Result<PgbenchReport> {
        let mut pgbench = Command::new(&self.pgbench);
        pgbench.arg("-h").arg(&self.socket_dir).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
        ]);
        pgbench
            .args(arguments)
            .arg(DATABASE)
            .env("PGOPTIONS", options)
            .kill_on_drop(true);
        let output = pgbench
            .output()
            .await
            .with_context(|| format!("run {}", self.pgbench.display()))?;
        if !output.status.success() {
            bail!(
                "pgbench failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(parse_pgbench(&String::from_utf8_lossy(&output.stdout)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            let mut stop = self.program("pg_ctl").into_std();
            stop.arg("-D")
                .arg(&self.data)
                .args(["-m", "immediate", "-w", "stop"]);
            let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.data);
        }
    }
}

/// A port that is free now.
pub(crate) fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

async fn run_quietly(mut command: Command) -> Result<()> {
    // A file, not a pipe: a server that pg_ctl starts inherits it and would keep a pipe open for ever.
    let mut errors = tempfile::tempfile().context("open a temporary file")?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors.try_clone().context("open a temporary file")?);
    let program = command.as_std().get_program().to_owned();
    let status = command
        .status()
        .await
        .with_context(|| format!("run {}", program.display()))?;
    if !status.success() {
        let mut text = String::new();
        let _ = errors
            .rewind()
            .and_then(|()| errors.read_to_string(&mut text));
        bail!("{} failed ({status}): {}", program.display(), text.trim());
    }
    Ok(())
}

/// User and group `postgres` when we are root.
fn server_user() -> Result<Option<(u32, u32)>> {
    let me = std::fs::metadata("/proc/self").context("read /proc/self")?;
    if me.uid() != 0 {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let fields = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&"postgres"));
    let Some([_, _, user, group, ..]) = fields.as_deref() else {
        bail!(
            "root cannot run PostgreSQL and there is no user postgres; run as another user, or install postgresql-15"
        );
    };
    Ok(Some((
        user.parse().context("user id of postgres")?,
        group.parse().context("group id of postgres")?,
    )))
}

fn parse_pgbench(output: &str) -> PgbenchReport {
    let after = |prefix: &str| {
        let rest = output.lines().find_map(|line| line.strip_prefix(prefix))?;
        let digits = rest
            .trim_start()
            .split(|c: char| !c.is_ascii_digit() && c != '.')
            .next()?;
        digits.parse::<f64>().ok()
    };
    PgbenchReport {
        transactions: after("number of transactions actually processed:").unwrap_or(0.0),
        tps: after("tps =").unwrap_or(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pgbench_output_is_understood() {
        let report = parse_pgbench(
            "number of clients: 8\nnumber of transactions actually processed: 80000/80000\nlatency average = 0.5 ms\n\
             tps = 15932.552315 (without initial connection time)\n",
        );
        assert_eq!((report.transactions, report.tps), (80000.0, 15932.552315));
    }
}
