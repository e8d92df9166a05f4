//! What /proc says about a process: CPU time, children, title, peak memory.

use std::fs;

/// Linux reports CPU times to user space in hundredths of a second on every architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Times {
    /// Its own, user and system.
    pub(crate) own: f64,
    /// Of its children that have ended and were waited for.
    pub(crate) reaped: f64,
}

/// CPU times of a process, or nothing when it has ended.
pub(crate) fn times(pid: u32) -> Option<Times> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in the second field may hold spaces and brackets; everything after the last `)` is numbers.
fn parse_stat(stat: &str) -> Option<Times> {
    let (_, numbers) = stat.rsplit_once(')')?;
    let ticks: Vec<f64> = numbers
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|n| n.parse().ok())
        .collect();
    let [user, system, child_user, child_system] = ticks.as_slice() else {
        return None;
    };
    Some(Times {
        own: (user + system) / TICKS_PER_SECOND,
        reaped: (child_user + child_system) / TICKS_PER_SECOND,
    })
}

/// CPU seconds of this program and of the children it has waited for (pgbench).
pub(crate) fn own_cpu() -> f64 {
    times(std::process::id()).map_or(0.0, |times| times.own + times.reaped)
}

/// The direct children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(list) => list
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect(),
        // Kernels without CONFIG_PROC_CHILDREN.
        Err(_) => all().filter(|&child| parent(child) == Some(pid)).collect(),
    }
}

fn all() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// The command line; PostgreSQL keeps what a process is doing there.
pub(crate) fn title(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim()
        .to_owned()
}

/// Peak resident memory in bytes since the start or the last [`reset_peak`].
pub(crate) fn peak_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Sets the peak back to what is resident now. Best effort: some containers forbid it, and then the
/// peak of the whole life is what [`peak_bytes`] gives.
pub(crate) fn reset_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_name_with_brackets() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 100 200 0 0 150 50 30 20 20 0 1 0 100 0 0";
        assert_eq!(
            parse_stat(stat),
            Some(Times {
                own: 2.0,
                reaped: 0.5
            })
        );
        assert_eq!(parse_stat("42 (x) S 1 2"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let me = std::process::id();
        assert!(times(me).is_some());
        assert!(peak_bytes(me).unwrap() > 100_000);
        assert!(!title(me).is_empty());
        assert_eq!(times(u32::MAX), None);
    }
}
