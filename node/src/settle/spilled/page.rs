//! Pages of a file: records in the order of their keys, and a filter over those of some pages.

use std::io;

use everywrite_conflict::{Entry, KeyHash, Lsn, NodeId, Position, Stamp, Version};

/// Bytes of a page, whatever is in it.
pub(super) const PAGE: usize = 4096;
/// Bytes of a record.
const RECORD: usize = 48;
/// Records of a page.
pub(super) const RECORDS: usize = 85;
/// Pages of records behind one filter: about ten bits for each key.
pub(super) const PAGES: usize = 38;

// A page ends with the number of its records and a checksum over all before that.
const COUNT: usize = RECORDS * RECORD;
const CHECKSUM: usize = PAGE - 4;
const FILTER_BITS: u64 = 8 * COUNT as u64;

pub(super) type Page = [u8; PAGE];

/// Its checksum stands for its place too: a page that is read where another was written is refused.
pub(super) fn seal(page: &mut Page, number: u64) {
    let (content, checksum) = page.split_at_mut(CHECKSUM);
    checksum.copy_from_slice(&sum(content, number).to_le_bytes());
}

pub(super) fn check(page: &Page, number: u64) -> io::Result<()> {
    let (content, checksum) = page.split_at(CHECKSUM);
    if checksum == sum(content, number).to_le_bytes() {
        return Ok(());
    }
    let what = format!("the checksum of page {number} is wrong");
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

fn sum(content: &[u8], number: u64) -> u32 {
    crc32c::crc32c_append(number as u32, content)
}

/// A page of at most [`RECORDS`] records.
pub(super) fn records(entries: &[(KeyHash, Entry)]) -> Page {
    let mut page = [0; PAGE];
    for ((key, entry), place) in entries.iter().zip(page.chunks_exact_mut(RECORD)) {
        put(place, *key, entry);
    }
    let count = entries.len() as u16;
    page[COUNT..COUNT + 2].copy_from_slice(&count.to_le_bytes());
    page
}

/// The records of a page.
pub(super) fn entries(page: &Page) -> impl ExactSizeIterator<Item = (KeyHash, Entry)> + '_ {
    places(page).map(|place| (key(place), entry(place)))
}

fn places(page: &Page) -> impl ExactSizeIterator<Item = &[u8]> {
    let count = usize::from(u16::from_le_bytes(part(&page[COUNT..])));
    page.chunks_exact(RECORD).take(count.min(RECORDS))
}

/// What a page has of a key.
pub(super) fn find(page: &Page, asked: KeyHash) -> Option<Entry> {
    let (mut low, mut high) = (0, places(page).len());
    while low < high {
        let middle = usize::midpoint(low, high);
        let place = page.chunks_exact(RECORD).nth(middle)?;
        match key(place).cmp(&asked) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Some(entry(place)),
        }
    }
    None
}

// Key, stamp, source's and local LSN, origin, source's origin, deleted; the rest is zero.
fn put(place: &mut [u8], key: KeyHash, entry: &Entry) {
    let source = entry.source.unwrap_or(Position {
        origin: NodeId(0),
        lsn: Lsn::ZERO,
    });
    place[..16].copy_from_slice(&key.0.to_be_bytes());
    place[16..24].copy_from_slice(&entry.version.stamp.0.to_le_bytes());
    place[24..32].copy_from_slice(&source.lsn.0.to_le_bytes());
    place[32..40].copy_from_slice(&entry.local_lsn.0.to_le_bytes());
    place[40..42].copy_from_slice(&entry.version.origin.0.to_le_bytes());
    place[42..44].copy_from_slice(&source.origin.0.to_le_bytes());
    place[44] = u8::from(entry.deleted);
}

fn key(place: &[u8]) -> KeyHash {
    KeyHash(u128::from_be_bytes(part(place)))
}

fn entry(place: &[u8]) -> Entry {
    let origin = |at: usize| NodeId(u16::from_le_bytes(part(&place[at..])));
    let lsn = |at: usize| Lsn(u64::from_le_bytes(part(&place[at..])));
    let stamp = Stamp(i64::from_le_bytes(part(&place[16..])));
    let source = Position {
        origin: origin(42),
        lsn: lsn(24),
    };
    Entry {
        version: Version::new(stamp, origin(40)),
        source: (source.origin != NodeId(0)).then_some(source),
        deleted: place[44] != 0,
        local_lsn: lsn(32),
    }
}

fn part<const N: usize>(bytes: &[u8]) -> [u8; N] {
    // All are cut from places of known length.
    bytes.first_chunk().copied().unwrap_or([0; N])
}

/// A filter over keys: what it does not have is not there.
pub(super) fn filter<'a>(keys: impl Iterator<Item = &'a KeyHash>) -> Page {
    let mut page = [0; PAGE];
    for bit in keys.flat_map(|key| bits(*key)) {
        page[bit / 8] |= 1 << (bit % 8);
    }
    page
}

pub(super) fn may_have(page: &Page, key: KeyHash) -> bool {
    bits(key)
        .into_iter()
        .all(|bit| page[bit / 8] & (1 << (bit % 8)) != 0)
}

/// Four bits of a key, from its low half: the high one is nearly the same in all keys of a page.
fn bits(key: KeyHash) -> [usize; 4] {
    let low = key.0 as u64;
    [0, 16, 32, 48].map(|shift| {
        let number = (low >> shift) & 0xffff;
        ((number * FILTER_BITS) >> 16) as usize
    })
}
