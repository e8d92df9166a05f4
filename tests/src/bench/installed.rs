//! Finds the PostgreSQL servers of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// One version of PostgreSQL on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Postgres {
    /// Major version.
    pub(crate) major: u32,
    /// Folder of `initdb`, `pg_ctl` and `postgres`.
    pub(crate) bin: PathBuf,
}

/// The server of one major version: `PG15_BIN` and so on, Debian's folder, or unpacked below `/opt/pgbin`.
pub(crate) fn find(major: u32) -> Option<Postgres> {
    let places = variable(&format!("PG{major}_BIN")).into_iter().chain([
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("/opt/pgbin/pg{major}/package/native/bin"),
    ]);
    let bin = places.map(PathBuf::from).find(|bin| works(bin))?;
    Some(Postgres { major, bin })
}

/// One pgbench for all servers: the one that comes with the first server that has one.
pub(crate) fn pgbench<'p>(servers: impl Iterator<Item = &'p Postgres>) -> Result<PathBuf> {
    let debian = find(15).map(|postgres| postgres.bin);
    let folders = servers.map(|postgres| postgres.bin.clone()).chain(debian);
    variable("PGBENCH")
        .map(PathBuf::from)
        .into_iter()
        .chain(folders.map(|bin| bin.join("pgbench")))
        .find(|program| program.exists())
        .context(
            "no pgbench found; it comes with Debian's postgresql-15, or set PGBENCH to its path",
        )
}

/// An environment variable; empty counts as not given, because make exports `RUNS=` like that.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether the programs are there and find their libraries; says so when only the latter fails.
fn works(bin: &Path) -> bool {
    let initdb = bin.join("initdb");
    if !initdb.exists() {
        return false;
    }
    let reason = match Command::new(&initdb).arg("--version").output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(err) => format!("{}: {err}", initdb.display()),
    };
    eprintln!("bench: this PostgreSQL does not run and is left out: {reason}");
    false
}
