//! A short cut of `make bench`: every step of the driver on real servers and daemons, at a size that
//! measures nothing. The driver ends well only if each measurement succeeded and all tables were the
//! same on both sides at the end; no figure is judged here.

use std::path::Path;
use std::process::Command;

/// What each line of a verdict says, one or the other.
const VERDICTS: [&str; 2] = ["ok", "short"];

#[test]
fn a_short_cut_of_the_bench_ends_with_equal_tables() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let driver = Path::new(env!("CARGO_BIN_EXE_bench"));
    let done = Command::new(driver)
        .args(["--scale", "0.002", "--runs", "1", "--no-paused"])
        .args(["--scenarios", "a,c1,d,x", "--systems", "native,everywrite"])
        .arg("--out")
        .arg(&out)
        .arg("--everywrite")
        .arg(driver.with_file_name("everywrite"))
        // Sockets want short paths.
        .arg("--work")
        .arg(std::env::temp_dir().join(format!("ew-bench-{}", std::process::id())))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let complained = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}\n{complained}");
    for line in ["a", "c1", "du", "dd", "x10", "x100", "m"] {
        let verdict = said.lines().find(|l| {
            let mut words = l.split_whitespace();
            words.next() == Some(line) && words.last().is_some_and(|w| VERDICTS.contains(&w))
        });
        assert!(verdict.is_some(), "no verdict of {line}: {said}");
    }
    for file in ["results.jsonl", "summary.json", "summary.txt", "chart.svg"] {
        let length = std::fs::metadata(out.join(file)).unwrap().len();
        assert!(length > 0, "{file} is empty");
    }
}
