//! Appends until they are durable.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use everywrite_conflict::{Lsn, NodeId};
use everywrite_node::journal::{Journal, Options};

use super::clock;
use super::figure::{Figure, Spent, Stage};
use crate::transaction::Kind;

/// What one append writes: a page of PostgreSQL's WAL.
const APPEND_BYTES: usize = 8192;
/// Behind this transaction the journal begins.
const BEGINNING: Lsn = Lsn(0x1_0000_0000);

/// fdatasync, and the daemon's journal.
pub(crate) async fn measure(scale: f64, work: &Path) -> Result<Vec<Figure>> {
    let count = ((2000.0 * scale) as usize).max(20);
    let dir = tempfile::tempdir_in(work).context("make a folder")?;
    Ok(vec![
        growing(dir.path(), count)?,
        laid_ahead(dir.path(), count)?,
        journal(dir.path(), count).await?,
    ])
}

/// The file becomes longer with each append, so its length is synced, too.
fn growing(dir: &Path, count: usize) -> Result<Figure> {
    let mut file = create(dir, "growing")?;
    let page = [7; APPEND_BYTES];
    let spent = timed(|| {
        for _ in 0..count {
            file.write_all(&page).context("append")?;
            file.sync_data().context("sync")?;
        }
        Ok(())
    })?;
    let what = "fdatasync of 8 kB behind the end of the file";
    Ok(spent.figure(Stage::Disk, what, "append", count as f64))
}

/// Zeros stand there already, as in PostgreSQL's WAL and the daemon's journals.
fn laid_ahead(dir: &Path, count: usize) -> Result<Figure> {
    let mut file = create(dir, "laid-ahead")?;
    let zeros = vec![0; count * APPEND_BYTES];
    file.write_all(&zeros).context("write zeros")?;
    file.sync_all().context("sync")?;
    let page = [7; APPEND_BYTES];
    let spent = timed(|| {
        for n in 0..count {
            let at = (n * APPEND_BYTES) as u64;
            file.write_all_at(&page, at).context("append")?;
            file.sync_data().context("sync")?;
        }
        Ok(())
    })?;
    let what = "fdatasync of 8 kB over zeros";
    Ok(spent.figure(Stage::Disk, what, "append", count as f64))
}

fn create(dir: &Path, name: &str) -> Result<File> {
    File::create_new(dir.join(name)).with_context(|| format!("create {name}"))
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Spent> {
    let (before, begun) = (clock::of_thread(), Instant::now());
    work()?;
    Ok(Spent {
        wall: begun.elapsed().as_secs_f64(),
        cpu: clock::of_thread() - before,
        other: 0.0,
    })
}

/// One transaction after the other: the next one when the one before is durable.
async fn journal(dir: &Path, count: usize) -> Result<Figure> {
    let journal = Journal::open(&dir.join("journal"), NodeId(1), Options::default());
    let journal = journal.context("open a journal")?;
    journal.begin(BEGINNING).await.context("begin a journal")?;
    let frames: Vec<_> = (1..=count as i64)
        .map(|number| Kind::Insert.frame(number, 1).freeze())
        .collect();
    let mut end = journal.subscribe();
    let begun = Instant::now();
    for frame in frames {
        let before = *end.borrow_and_update();
        let appended = journal.append(frame).await;
        appended.context("append to a journal")?;
        let durable = end.wait_for(|end| *end > before).await;
        durable.context("the journal has ended")?;
    }
    let wall = begun.elapsed().as_secs_f64();
    let spent = Spent {
        wall,
        ..Spent::default()
    };
    let what = "a transaction of one row to the journal, until it is durable";
    Ok(spent.figure(Stage::Disk, what, "append", count as f64))
}
