//! One file: finds keys in it, or reads it from end to end.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use everywrite_conflict::{Bounds, Entry, KeyHash};

use super::Asked;
use super::page::{self, PAGE, PAGES, Page};

/// A file that is not written any more. It is removed from the disk when nobody has it any longer.
#[derive(Debug)]
pub(in crate::settle) struct File {
    path: PathBuf,
    file: fs::File,
    /// How many generations of files it is made of.
    level: u32,
    /// The high half of the first key of each page of records.
    firsts: Vec<u64>,
    bounds: Bounds,
    bytes: u64,
    asked: Arc<Asked>,
}

/// A page that was read last.
struct Read {
    number: u64,
    page: Page,
}

impl Default for Read {
    fn default() -> Self {
        Read {
            number: u64::MAX,
            page: [0; PAGE],
        }
    }
}

impl File {
    pub(super) fn new(
        path: PathBuf,
        file: fs::File,
        level: u32,
        firsts: Vec<u64>,
        bounds: Bounds,
        bytes: u64,
        asked: Arc<Asked>,
    ) -> Self {
        File {
            path,
            file,
            level,
            firsts,
            bounds,
            bytes,
            asked,
        }
    }

    /// What it can hold at most.
    pub(in crate::settle) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    pub(super) fn level(&self) -> u32 {
        self.level
    }

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds to `found` what it has of these keys, which are in order, and takes those out of them.
    pub(super) fn find(
        &self,
        keys: &mut Vec<KeyHash>,
        found: &mut Vec<(KeyHash, Entry)>,
    ) -> io::Result<()> {
        let (mut filter, mut records) = (Read::default(), Read::default());
        let (asked, before) = (keys.len(), found.len());
        let mut failed = None;
        keys.retain(|key| {
            if failed.is_some() {
                return true;
            }
            match self.find_one(*key, &mut filter, &mut records) {
                Ok(Some(entry)) => {
                    found.push((*key, entry));
                    false
                }
                Ok(None) => true,
                Err(err) => {
                    failed = Some(err);
                    true
                }
            }
        });
        let count = |n: usize| n as u64;
        self.asked.keys.fetch_add(count(asked), Ordering::Relaxed);
        let new = count(found.len() - before);
        self.asked.found.fetch_add(new, Ordering::Relaxed);
        failed.map_or(Ok(()), Err)
    }

    fn find_one(
        &self,
        key: KeyHash,
        filter: &mut Read,
        records: &mut Read,
    ) -> io::Result<Option<Entry>> {
        let high = (key.0 >> 64) as u64;
        let mut page = self.firsts.partition_point(|first| *first <= high);
        while let Some(at) = page.checked_sub(1) {
            self.read(filter_place(at), filter)?;
            if page::may_have(&filter.page, key) {
                self.read(place(at), records)?;
                if let Some(entry) = page::find(&records.page, key) {
                    return Ok(Some(entry));
                }
            }
            // Of keys with the same high half some may be in the page before.
            if self.firsts.get(at) != Some(&high) {
                break;
            }
            page = at;
        }
        Ok(None)
    }

    fn read(&self, number: u64, read: &mut Read) -> io::Result<()> {
        if read.number == number {
            return Ok(());
        }
        read.number = u64::MAX;
        self.file
            .read_exact_at(&mut read.page, number * PAGE as u64)?;
        page::check(&read.page, number)?;
        read.number = number;
        Ok(())
    }

    /// All entries, in the order of their keys.
    pub(in crate::settle) fn entries(&self) -> Entries<'_> {
        Entries {
            file: self,
            page: 0,
            read: Read::default(),
            left: Vec::new(),
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %err, "a file that is not needed any more could not be removed");
        }
    }
}

/// Reads a file page by page.
pub(in crate::settle) struct Entries<'a> {
    file: &'a File,
    page: usize,
    read: Read,
    /// The last entry first.
    left: Vec<(KeyHash, Entry)>,
}

impl Iterator for Entries<'_> {
    type Item = io::Result<(KeyHash, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() && self.page < self.file.firsts.len() {
            if let Err(err) = self.file.read(place(self.page), &mut self.read) {
                return Some(Err(err));
            }
            self.page += 1;
            self.left.extend(page::entries(&self.read.page));
            self.left.reverse();
        }
        self.left.pop().map(Ok)
    }
}

/// Where the filter over a page of records is: the head comes first, and each filter before its pages.
fn filter_place(page: usize) -> u64 {
    1 + (page / PAGES * (PAGES + 1)) as u64
}

fn place(page: usize) -> u64 {
    filter_place(page) + 1 + (page % PAGES) as u64
}
