//! `make counts`: the instructions that each hot path takes, against the table in `counts.txt`.
//!
//! Each path runs twice in a process of its own under valgrind's callgrind, prepared alike, once
//! with twice as many rounds: the difference is what the rounds cost, and nothing else is in it.
//! Counts do not depend on what else the machine does, so they are the same to a part of a
//! thousand each time. They do depend on the compiler, a little on the processor (which `memcpy`
//! is taken), and wholly on the architecture.

mod table;
mod valgrind;

use std::process::ExitCode;

use everywrite_micro::paths;
use table::{Count, Table};

/// Rounds of the shorter run. Maps that have grown there grow once more in the longer one.
const ROUNDS: usize = 4;

fn main() -> anyhow::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["run", path, rounds, of] => run(path, rounds.parse()?, of.parse()?),
        ["--list"] => {
            paths().iter().for_each(|p| println!("{}", p.name));
            Ok(ExitCode::SUCCESS)
        }
        [] => compare(false),
        ["--accept"] => compare(true),
        _ => anyhow::bail!("usage: counts [--accept | --list | run PATH ROUNDS OF]"),
    }
}

/// What valgrind looks at: so many rounds of one path, prepared for more.
fn run(name: &str, rounds: usize, of: usize) -> anyhow::Result<ExitCode> {
    let path = paths().into_iter().find(|p| p.name == name);
    let path = path.ok_or_else(|| anyhow::anyhow!("there is no path {name}"))?;
    let mut work = (path.start)(of);
    (0..rounds).for_each(&mut work);
    Ok(ExitCode::SUCCESS)
}

fn compare(accept: bool) -> anyhow::Result<ExitCode> {
    if let Err(reason) = valgrind::usable() {
        let line = "!".repeat(80);
        eprintln!("{line}\ncounts: SKIPPED, instructions are not counted here: {reason:#}\n{line}");
        return Ok(ExitCode::SUCCESS);
    }
    let paths = paths();
    let counted = valgrind::count(&paths, ROUNDS)?;
    let now = Table {
        compiler: table::compiler()?,
        counts: paths
            .iter()
            .zip(counted)
            .map(|(path, instructions)| Count {
                path: path.name.to_owned(),
                each: instructions as f64 / (path.units * ROUNDS as u64) as f64,
                unit: path.unit.to_owned(),
            })
            .collect(),
    };
    let old = Table::read()?;
    let verdict = old.against(&now);
    print!("{}", verdict.lines);
    if accept {
        now.write()?;
        println!("accepted: {}", table::FILE);
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if verdict.fails {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
