//! What is written on A, and how to see that B has the same afterwards.

use anyhow::Result;

use super::server::{PgbenchReport, Server};

/// The load is produced as fast as A can: its own flushes are not what is measured.
const NO_FLUSH: &str = "-c synchronous_commit=off";

/// A steady load for `seconds`: transactions of one row each, `rate` a second from four clients.
pub(crate) async fn steady(server: &Server, rate: u32, seconds: u64) -> Result<PgbenchReport> {
    let script = Script::new(
        "insert into lat(ts, pad) values (clock_timestamp(), 'payload-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx');\n",
    )?;
    let (rate, seconds) = (rate.to_string(), seconds.to_string());
    let clients = ["-n", "-M", "prepared", "-c", "4", "-j", "1"];
    let load = ["-f", script.path(), "-R", &rate, "-T", &seconds];
    server.pgbench(&[&clients[..], &load].concat(), "").await
}

/// Rows of `t` with keys `base + 1` to `base + rows`, on both servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) base: i64,
    pub(crate) rows: i64,
}

/// One backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Inserts in transactions of 1,000 rows.
    Insert(Range),
    /// Transactions of one row each.
    SingleInserts(i64),
    /// pgbench's TPC-B.
    TpcB(i64),
    /// Updates by key in transactions of 10; the count, and where.
    Update(i64, Range),
    /// Deletes by key in transactions of 10; the count, and where.
    Delete(i64, Range),
}

impl Load {
    /// Rows or transactions.
    pub(crate) fn units(&self) -> i64 {
        match *self {
            Self::Insert(range) => range.rows,
            // Eight clients share them evenly.
            Self::SingleInserts(count) | Self::TpcB(count) => count / 8 * 8,
            Self::Update(count, _) | Self::Delete(count, _) => count,
        }
    }

    /// Writes it all.
    pub(crate) async fn run(&self, server: &Server) -> Result<()> {
        match *self {
            Self::Insert(Range { base, rows }) => {
                server
                    .execute(&format!("call load_t({base}, {rows}, 1000)"))
                    .await
            }
            Self::Update(count, Range { base, rows }) => {
                server
                    .execute(&format!("call upd_t({base}, {count}, 10, {rows})"))
                    .await
            }
            Self::Delete(count, Range { base, rows }) => {
                server
                    .execute(&format!("call del_t({base}, {count}, 10, {rows})"))
                    .await
            }
            Self::SingleInserts(count) => {
                let script = Script::new(
                    "insert into s1(a, b, ts) values (1, 'payload-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', clock_timestamp());\n",
                )?;
                pgbench(server, count, &["-f", script.path()]).await
            }
            Self::TpcB(count) => pgbench(server, count, &[]).await,
        }
    }

    /// A query that gives the same on both servers once B has everything.
    pub(crate) fn check(&self) -> String {
        let rows = |Range { base, rows }: Range| {
            format!(
                "select concat(count(*), '/', sum(a)) from t where id between {} and {}",
                base + 1,
                base + rows
            )
        };
        match *self {
            Self::Insert(range) | Self::Update(_, range) | Self::Delete(_, range) => rows(range),
            Self::SingleInserts(_) => "select concat(count(*), '/', sum(id)) from s1".into(),
            Self::TpcB(_) => "select concat((select sum(abalance) from pgbench_accounts), '/', (select sum(tbalance) from \
                              pgbench_tellers), '/', (select sum(bbalance) from pgbench_branches), '/', \
                              (select count(*) from pgbench_history))"
                .into(),
        }
    }
}

async fn pgbench(server: &Server, count: i64, script: &[&str]) -> Result<()> {
    let each = (count / 8).to_string();
    let mut arguments = vec!["-n", "-M", "prepared", "-c", "8", "-j", "2", "-t", &each];
    arguments.extend(script);
    server.pgbench(&arguments, NO_FLUSH).await.map(drop)
}

/// A pgbench script in a temporary file.
#[derive(Debug)]
pub(crate) struct Script(tempfile::NamedTempFile);

impl Script {
    pub(crate) fn new(sql: &str) -> Result<Self> {
        let file = tempfile::Builder::new()
            .prefix("everywrite-bench")
            .suffix(".sql")
            .tempfile()?;
        std::fs::write(file.path(), sql)?;
        Ok(Self(file))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.path().to_str().unwrap_or_default()
    }
}
