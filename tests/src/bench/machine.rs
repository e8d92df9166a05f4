//! The machine as a whole: what it is, and how busy it was with anything.

use std::fs;

use serde::Serialize;

/// CPU seconds of all processors since boot.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Busy {
    /// Doing work: user, nice, system, interrupts.
    pub(crate) busy: f64,
    /// Waiting for a disk.
    pub(crate) iowait: f64,
    /// Taken by the hypervisor.
    pub(crate) steal: f64,
}

/// Reads the counters; zero where there are none.
pub(crate) fn busy() -> Busy {
    fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|stat| parse(&stat))
        .unwrap_or_default()
}

fn parse(stat: &str) -> Option<Busy> {
    let line = stat.lines().next()?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse::<f64>().ok())
        .map(|n| n / 100.0)
        .collect();
    let [user, nice, system, _idle, iowait, irq, softirq, steal, ..] = ticks.as_slice() else {
        return None;
    };
    Some(Busy {
        busy: user + nice + system + irq + softirq,
        iowait: *iowait,
        steal: *steal,
    })
}

/// What a reader of the figures must know about the machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Processors this program may use.
    pub(crate) processors: usize,
    /// Model name of the first one.
    pub(crate) model: String,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Kernel version.
    pub(crate) kernel: String,
}

impl Machine {
    /// This machine.
    pub(crate) fn read() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_once(':')
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let kilobytes = field("/proc/meminfo", "MemTotal")
            .split_whitespace()
            .next()
            .and_then(|n| n.parse::<u64>().ok());
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            model: field("/proc/cpuinfo", "model name"),
            memory_bytes: kilobytes.unwrap_or(0) * 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_in_seconds() {
        let busy = parse("cpu  100 0 200 5000 50 10 40 30 0 0\ncpu0 1 2 3").unwrap();
        assert_eq!((busy.busy, busy.iowait, busy.steal), (3.5, 0.5, 0.3));
        assert!(parse("").is_none());
    }
}
