//! The machine that a process believes to run on: its clock, its disk.
//!
//! A small library (`machine.c`, compiled at first use with the compiler that Rust links with) is
//! preloaded into servers and daemons. It reads the time of day, syncs and writes as a file says that is
//! mapped into the process, so all of it can change at any moment, for one process alone, without
//! privileges:
//!
//! | what | how |
//! |---|---|
//! | a clock that is ahead or behind, jumps, steps back, stands | `clock_gettime`, `gettimeofday`, `time`; clocks that only measure durations are left alone |
//! | a slow disk | `fsync` and `fdatasync` sleep first |
//! | a disk that fails | they answer EIO |
//! | a full disk | `write` and its kin answer ENOSPC behind the end of a file, after a short write |
//!
//! libfaketime does the first of these too. It opens and reads a file for each look at a clock that may
//! jump, which is slow and, in PostgreSQL's signal handlers, not safe.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

const SOURCE: &str = include_str!("machine.c");

/// The fields of `struct machine`, by their place.
#[derive(Clone, Copy)]
enum Field {
    ClockOffset,
    ClockStandsAt,
    SyncTakes,
    SyncFails,
    Room,
}

/// EIO, as every system has it.
const EIO: i64 = 5;

/// The machine of one process.
#[derive(Debug)]
pub struct Machine {
    library: PathBuf,
    file: PathBuf,
    control: File,
    damaged: AtomicBool,
}

impl Machine {
    /// A healthy one. Its files are in `dir`, which the process must be able to pass through.
    pub fn new(dir: &Path, name: &str) -> anyhow::Result<Machine> {
        let library = library(dir)?;
        let file = dir.join(format!("{name}.machine"));
        let control = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&file)
            .with_context(|| format!("make {}", file.display()))?;
        // Servers run as another user.
        control
            .set_permissions(std::fs::Permissions::from_mode(0o666))
            .context("open the machine's file to the servers' user")?;
        let machine = Machine {
            library,
            file,
            control,
            damaged: AtomicBool::new(false),
        };
        machine.heal()?;
        machine.set_clock_offset(0)?;
        Ok(machine)
    }

    /// What the process must be started with.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", self.library.clone()),
            ("EVERYWRITE_TEST_MACHINE", self.file.clone()),
        ]
    }

    /// Lets the clock run, so many microseconds ahead of the true time (behind it if negative).
    pub fn set_clock_offset(&self, us: i64) -> anyhow::Result<()> {
        self.set(Field::ClockOffset, us)?;
        self.set(Field::ClockStandsAt, 0)
    }

    /// Whether the disk has failed or was full since [`Machine::begins`], so that the process may end of
    /// it, perhaps some time later.
    pub fn was_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// The process begins anew.
    pub fn begins(&self) {
        self.damaged.store(false, Ordering::Relaxed);
    }

    /// Lets the clock stand at a Unix time in microseconds.
    pub fn stop_clock(&self, at_us: i64) -> anyhow::Result<()> {
        self.set(Field::ClockStandsAt, at_us)
    }

    /// Makes every sync take so much longer.
    pub fn slow_syncs(&self, by: Duration) -> anyhow::Result<()> {
        let us = i64::try_from(by.as_micros()).context("so long is no sync")?;
        self.set(Field::SyncTakes, us)
    }

    /// Makes every sync fail with EIO.
    pub fn fail_syncs(&self) -> anyhow::Result<()> {
        self.damaged.store(true, Ordering::Relaxed);
        self.set(Field::SyncFails, EIO)
    }

    /// Leaves so many bytes of room on the disk.
    pub fn leave_room(&self, bytes: u32) -> anyhow::Result<()> {
        self.damaged.store(true, Ordering::Relaxed);
        self.set(Field::Room, i64::from(bytes))
    }

    /// A healthy disk; the clock is left as it is.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.set(Field::SyncTakes, 0)?;
        self.set(Field::SyncFails, 0)?;
        self.set(Field::Room, -1)
    }

    fn set(&self, field: Field, value: i64) -> anyhow::Result<()> {
        self.control
            .write_all_at(&value.to_ne_bytes(), field as u64 * 8)
            .context("write the machine's file")
    }
}

/// The true time, Unix microseconds.
pub fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_micros()).unwrap_or(0))
}

/// Compiles the library into `dir`, once.
fn library(dir: &Path) -> anyhow::Result<PathBuf> {
    let library = dir.join("machine.so");
    if library.exists() {
        return Ok(library);
    }
    let source = dir.join("machine.c");
    std::fs::write(&source, SOURCE).context("write machine.c")?;
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
        .arg(&library)
        .arg(&source)
        .output()
        .context("run cc, which Rust needs too")?;
    if !output.status.success() {
        bail!(
            "cc refuses machine.c:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(library)
}
