//! Counting instructions.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail};
use everywrite_micro::Path;

/// Whether counting makes sense and is possible on this machine.
pub(crate) fn usable() -> anyhow::Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the table is for x86_64, this is {}",
            std::env::consts::ARCH
        );
    }
    // It knows fewer instructions than the newest processors have.
    instructions(&["--list"]).map(|_| ())
}

/// The instructions of so many rounds of each path.
pub(crate) fn count(paths: &[Path], rounds: usize) -> anyhow::Result<Vec<u64>> {
    let of = (2 * rounds).to_string();
    let one = |path: &Path, rounds: usize| {
        instructions(&["run", path.name, &rounds.to_string(), &of])
            .with_context(|| format!("count {}", path.name))
    };
    // Two processes a path, as many at a time as there are processors.
    let runs: Vec<(&Path, usize)> = paths
        .iter()
        .flat_map(|p| [(p, rounds), (p, 2 * rounds)])
        .collect();
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        while let Some((path, rounds)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((path.name, *rounds, one(path, *rounds)));
        }
        done
    };
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let done = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let joined = workers
            .into_iter()
            .flat_map(|w| w.join().unwrap_or_default());
        joined.collect::<Vec<_>>()
    });
    let mut counted = std::collections::HashMap::new();
    for (name, rounds, count) in done {
        counted.insert((name, rounds), count?);
    }
    let of = |path: &Path, rounds| counted.get(&(path.name, rounds)).copied();
    paths
        .iter()
        .map(|path| {
            let (short, long) = of(path, rounds)
                .zip(of(path, 2 * rounds))
                .context("a run is missing")?;
            Ok(long.saturating_sub(short))
        })
        .collect()
}

/// Runs this program under callgrind. Its environment is empty: what stands there moves the stack.
fn instructions(args: &[&str]) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--error-exitcode=9",
        ])
        .arg(std::env::current_exe()?)
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .context("run valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : ")?.1.split_whitespace().next());
    match collected {
        Some(count) if output.status.success() => Ok(count.parse()?),
        _ => {
            let end = said.lines().rev().take(12).collect::<Vec<_>>();
            let end: Vec<&str> = end.into_iter().rev().collect();
            bail!("valgrind: {}\n{}", output.status, end.join("\n"))
        }
    }
}
