//! A process that a test started: its output goes to a file, it is ended by its own id, and it
//! does not outlive the test.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts `command`, with nothing to read and everything it says appended to `log`.
    pub fn start(what: &str, command: &mut Command, log: &Path) -> anyhow::Result<Process> {
        let out = append(log)?;
        let err = out.try_clone().context("share the log file")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {what}: {command:?}"))?;
        Ok(Process {
            child,
            what: what.to_owned(),
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("look after {}", self.what))
    }

    /// Sends it a signal. One that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        signal_to(self.id(), signal);
    }

    /// Waits until it handles SIGTERM: one that has hardly begun is ended by it, as any program is. Up to ten seconds.
    pub fn wait_for_handler(&self) {
        let begin = Instant::now();
        while !catches_term(self.id()) && begin.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks it to end with `signal` and waits; an error after `limit`.
    pub fn stop(&mut self, signal: Signal, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(signal);
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if begin.elapsed() > limit {
                bail!("{} did not end within {limit:?} of {signal:?}", self.what);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// kill -9 of the process alone, as the machine's out-of-memory killer would.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// kill -9 of the process and its children, at one moment: it is stopped first, so that it
    /// can neither notice nor start others.
    pub fn kill_family(&mut self) {
        self.signal(Signal::STOP);
        let children = children_of(self.id());
        for &child in &children {
            signal_to(child, Signal::KILL);
        }
        self.kill();
        for child in children {
            let begin = Instant::now();
            while is_running(child) && begin.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_family();
        }
    }
}

/// Whether the process has a handler for SIGTERM, or is gone (proc(5), `SigCgt`).
fn catches_term(id: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) else {
        return true;
    };
    let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // One that has ended and is not waited for has a mask of zeros, too.
    status.contains("State:\tZ") || caught.is_none_or(|mask| mask & (1 << 14) != 0)
}

/// Starts `command` in a session of its own, so that it lives on when the terminal closes; its id.
pub fn start_detached(what: &str, command: &mut Command, log: &Path) -> anyhow::Result<u32> {
    let mut detached = Command::new("setsid");
    detached.arg(command.get_program()).args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        detached.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => detached.env(name, value),
            None => detached.env_remove(name),
        };
    }
    let out = append(log)?;
    let err = out.try_clone().context("share the log file")?;
    let child = detached
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .with_context(|| format!("start {what}: {command:?}"))?;
    Ok(child.id())
}

/// Makes `command` run as another user.
pub fn run_as(command: &mut Command, uid: u32, gid: u32) {
    command.uid(uid).gid(gid);
}

/// Sends a signal to a process id; one that is gone is no error.
pub fn signal_to(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        kill_process(pid, signal).ok();
    }
}

/// Whether a process exists and is not merely waiting to be reaped.
pub fn is_running(id: u32) -> bool {
    state_and_parent(id).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// CPU time that a process has used, user and system, in clock ticks (1/100 s).
pub fn cpu_ticks(id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// Whether any process has this folder as its working directory.
pub fn somebody_works_in(dir: &Path) -> bool {
    let here = |entry: std::fs::DirEntry| std::fs::read_link(entry.path().join("cwd")).ok();
    std::fs::read_dir("/proc").is_ok_and(|entries| {
        entries
            .flatten()
            .filter_map(here)
            .any(|working| working == dir)
    })
}

fn append(log: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open the log {}", log.display()))
}

fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&id| state_and_parent(id).is_some_and(|(_, p)| p == parent))
        .collect()
}

/// From `/proc/<id>/stat`; the name in it may contain anything, so read behind its last bracket.
fn state_and_parent(id: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}
