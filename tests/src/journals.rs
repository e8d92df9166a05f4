//! What the nodes' journals say of each transaction: its version, its vector.
//!
//! The version that decides is not the commit timestamp but the stamp that capture gave, and a clock
//! that runs ahead pushes stamps far from timestamps. So the checker takes versions from the source: every
//! journal of every node. A node drops segments that are at rest; [`Archive`] gives them a second name
//! before, which costs no space while they are there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Buf, Bytes};
use everywrite_conflict::{Lsn, NodeId, Version};
use everywrite_node::journal::columns::{self, Columns};
use everywrite_node::journal::ranks::{self, Ranks};
use everywrite_node::journal::record::{Changes, Frame, Header, decode};

use crate::cluster::Site;

/// Starts every segment.
const MAGIC: &[u8] = b"EWRITE\r\n";

/// Second names of all segments seen so far.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
}

impl Archive {
    /// Keeps segments in `dir`, which is on the same disk as the nodes' folders.
    pub fn new(dir: PathBuf) -> Archive {
        Archive { dir }
    }

    /// Gives every segment that is there now a second name. A data folder on a disk of its own is left
    /// out: other nodes have the same transactions.
    pub fn keep(&self, sites: &[Site]) -> anyhow::Result<()> {
        for site in sites {
            let journals = site.node.dir().join("data/journal");
            let kept = self.dir.join(site.node.name());
            for segment in segments(&journals)? {
                let name = segment.strip_prefix(&journals).context("a segment")?;
                let target = kept.join(name);
                let folder = target.parent().context("a segment without folder")?;
                fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
                if !same_disk(&segment, folder) || target.exists() {
                    continue;
                }
                // A segment may go at any moment.
                match fs::hard_link(&segment, &target) {
                    Err(err) if segment.exists() => {
                        return Err(err).with_context(|| format!("keep {}", segment.display()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Reads everything kept.
    pub fn read(&self) -> anyhow::Result<Journals> {
        let mut journals = Journals::default();
        for node in folders(&self.dir)? {
            for segment in segments(&node)? {
                let origin = segment.parent().and_then(Path::file_name);
                let origin = origin.and_then(|name| name.to_str()?.parse().ok());
                let origin = NodeId(origin.context("a journal's folder is named by its origin")?);
                let read = journals.read(origin, &segment);
                read.with_context(|| format!("read {}", segment.display()))?;
            }
        }
        Ok(journals)
    }
}

/// What capture adds to the changes of a transaction, where tables have policies.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// What comes before the stamp in the versions of its writes.
    pub ranks: Arc<Ranks>,
    /// How its updates are merged.
    pub columns: Arc<Columns>,
}

/// All transactions found in journals.
#[derive(Debug, Default)]
pub struct Journals {
    headers: BTreeMap<(NodeId, Lsn), Header>,
    /// Of those that wrote to tables which have had a policy. Large transactions are left out: no workload
    /// with policies makes one.
    extras: BTreeMap<(NodeId, Lsn), Extras>,
    /// What is wrong with them.
    pub violations: Vec<String>,
}

impl Journals {
    /// Transactions of `origin` by their id there.
    pub fn of(&self, origin: NodeId) -> BTreeMap<u32, &Header> {
        self.headers
            .range((origin, Lsn::ZERO)..=(origin, Lsn(u64::MAX)))
            .map(|(_, header)| (header.xid, header))
            .collect()
    }

    /// What stands before the changes of a transaction.
    pub fn extras(&self, origin: NodeId, position: Lsn) -> Extras {
        let found = self.extras.get(&(origin, position)).cloned();
        found.unwrap_or_default()
    }

    /// How far a stamp is above its commit timestamp at most.
    pub fn raised_max(&self) -> Duration {
        let raised = self.headers.values().map(|h| h.stamp.0 - h.commit_time.0);
        Duration::from_micros(raised.max().map_or(0, |us| us.max(0).unsigned_abs()))
    }

    /// What must be true of the journals alone: stamps ascend with the positions, and are at least the
    /// commit timestamps.
    pub fn check(&self) -> Vec<String> {
        let mut wrong = self.violations.clone();
        let mut before: Option<(NodeId, &Header)> = None;
        for (&(origin, position), header) in &self.headers {
            if header.stamp < header.commit_time {
                wrong.push(format!(
                    "{origin} {position}: the stamp is below the commit timestamp: {header:?}"
                ));
            }
            if let Some((_, last)) = before.filter(|(of, _)| *of == origin)
                && header.stamp <= last.stamp
            {
                wrong.push(format!(
                    "{origin} {position}: the stamp is not above the one before: {last:?} {header:?}"
                ));
            }
            before = Some((origin, header));
        }
        wrong
    }

    fn read(&mut self, origin: NodeId, segment: &Path) -> anyhow::Result<()> {
        let mut bytes = Bytes::from(fs::read(segment).context("read the file")?);
        if bytes.len() < MAGIC.len() + 6 || !bytes.starts_with(MAGIC) {
            bail!("this is no segment");
        }
        let length = (&bytes[MAGIC.len() + 2..]).get_u32();
        bytes.advance(usize::try_from(length).context("a preamble's length")?);
        let mut large: Option<Header> = None;
        // What is torn, or still being written, ends it.
        while let Ok(Some(frame)) = decode(&mut bytes) {
            match frame {
                Frame::Transaction { header, changes } => {
                    self.add_extras(origin, header.position, changes)?;
                    self.add(origin, header);
                }
                Frame::LargeBegin { header } => large = Some(header),
                Frame::LargeEnd { position, .. } => {
                    if let Some(header) = large.take_if(|h| h.position == position) {
                        self.add(origin, header);
                    }
                }
                Frame::Shape { .. } | Frame::LargePart { .. } => {}
            }
        }
        Ok(())
    }

    fn add_extras(&mut self, origin: NodeId, position: Lsn, changes: Bytes) -> anyhow::Result<()> {
        for change in Changes::new(changes) {
            let change = change.context("a change")?;
            let of = (origin, position);
            match change.first() {
                Some(&ranks::TAG) => {
                    let extras = self.extras.entry(of).or_default();
                    let ranks = Arc::make_mut(&mut extras.ranks);
                    ranks.take(&change).context("ranks")?;
                }
                Some(&columns::TAG) => {
                    let extras = self.extras.entry(of).or_default();
                    let columns = Columns::decode(&change).context("merged columns")?;
                    extras.columns = Arc::new(columns);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every node's copy of a transaction is the same (I2: stamps and vectors are not made twice).
    fn add(&mut self, origin: NodeId, header: Header) {
        let known = self
            .headers
            .entry((origin, header.position))
            .or_insert_with(|| header.clone());
        if *known != header {
            let told = format!("two versions of one transaction of {origin}: {known:?} {header:?}");
            self.violations.push(told);
        }
    }
}

/// The version of a transaction of `origin`.
pub fn version(origin: NodeId, header: &Header) -> Version {
    Version::new(header.stamp, origin)
}

fn same_disk(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    device(one) == device(other)
}

/// All segments below a node's `journal`.
fn segments(journals: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in folders(journals)? {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry.context("list a journal")?.path();
            if path.extension().is_some_and(|ext| ext == "seg") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The folders in a folder; none if it is not there.
fn folders(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(Vec::new());
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    Ok(found)
}
