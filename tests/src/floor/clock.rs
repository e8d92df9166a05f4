//! Processor time, finer than the hundredths of a second that most of /proc counts in.

use std::fs;

use crate::bench::process;

/// Processor seconds of a process with one thread, as PostgreSQL's are; 0 when it has ended.
pub(crate) fn of_process(pid: u32) -> f64 {
    scheduled(&format!("/proc/{pid}/schedstat"))
        .or_else(|| process::times(pid).map(|times| times.own))
        .unwrap_or(0.0)
}

/// Processor seconds of the thread that asks.
pub(crate) fn of_thread() -> f64 {
    scheduled("/proc/thread-self/schedstat").unwrap_or(0.0)
}

/// Processor seconds of all processes of a server that run now.
pub(crate) fn of_server(postmaster: u32) -> f64 {
    let children = process::children(postmaster);
    children.into_iter().map(of_process).sum::<f64>() + of_process(postmaster)
}

/// The first field is the time on a processor in nanoseconds. Kernels without CONFIG_SCHED_INFO have no such
/// file.
fn scheduled(file: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<f64> {
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_become_seconds() {
        assert_eq!(parse("2500000000 17 3\n"), Some(2.5));
        assert_eq!(parse(""), None);
        assert!(of_process(std::process::id()) > 0.0);
    }
}
