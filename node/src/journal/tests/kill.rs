use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const DIR: &str = "EVERYWRITE_TEST_JOURNAL_DIR";

/// The child: appends for ever and prints what is durable. Does nothing unless it is told where.
#[tokio::test]
#[ignore = "the child process of another test"]
async fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let journal = open(Path::new(&dir), small());
    let mut maker = Maker {
        end: journal.end(),
        shapes: journal.shapes().len() as u32,
    };
    let mut end = journal.subscribe();
    let print = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        while runtime.block_on(end.changed()).is_ok() {
            let end = end.borrow_and_update().0;
            let mut out = std::io::stdout().lock();
            writeln!(out, "durable {end}")
                .and_then(|()| out.flush())
                .unwrap();
        }
    });
    for n in 0_usize.. {
        if n % 50 == 0 {
            journal.append(maker.shape()).await.unwrap();
        }
        if n % 20 == 3 {
            for frames in maker.large(5, 500) {
                journal.append(frames).await.unwrap();
            }
            if n % 40 == 3 {
                journal.append(maker.finish(5)).await.unwrap();
            }
        }
        journal.append(maker.transaction(n % 700)).await.unwrap();
        if n % 7 == 0 {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
    print.join().unwrap();
}

#[tokio::test]
async fn what_was_said_to_be_durable_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Lsn::ZERO;
    for round in 0_u64..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "journal::tests::kill::child",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = Lsn::ZERO;
        let mut seen = 0;
        // Kill it at a different moment each time, and take what it still had said.
        while let Some(Ok(line)) = lines.next() {
            if let Some(end) = line.strip_prefix("durable ").and_then(|n| n.parse().ok()) {
                told = Lsn(end);
                seen += 1;
                if seen == 20 + 13 * round {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(told > last);
        let journal = open(dir.path(), small());
        assert!(
            journal.end() >= told,
            "{} was durable, the end is {}",
            told,
            journal.end()
        );
        let history = read_to_end(&journal, Lsn::ZERO).await;
        for (header, changes) in &history.transactions {
            let own = format!("I{}#0", header.position);
            assert!(
                changes
                    .first()
                    .is_some_and(|c| c.starts_with(own.as_bytes()))
            );
        }
        assert_eq!(history.shapes.len(), journal.shapes().len());
        last = journal.end();
    }
}
