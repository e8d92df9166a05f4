//! Transactions as they lie in a journal and go over a link, with the vector of so many sites.

use bytes::{BufMut, BytesMut};
use everywrite_conflict::{Lsn, NodeId, Stamp, Vector};
use everywrite_node::journal::record::{self, Header};

/// A column of a binary tuple.
fn column(tuple: &mut BytesMut, value: &[u8]) {
    tuple.put_u8(b'b');
    tuple.put_u32(value.len() as u32);
    tuple.put_slice(value);
}

fn message(tag: u8, shape: u32, columns: &[&[u8]]) -> BytesMut {
    let mut message = BytesMut::new();
    message.put_u8(tag);
    message.put_u32(shape);
    message.put_u8(b'N');
    message.put_u16(columns.len() as u16);
    for value in columns {
        column(&mut message, value);
    }
    message
}

/// What an application writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One row: bigint key, timestamptz, 40 characters of text.
    Insert,
    /// pgbench's: three updates and an insert.
    TpcB,
}

impl Kind {
    /// Keys that it leaves in the conflict index.
    pub(crate) fn keys(self) -> usize {
        match self {
            Kind::Insert => 1,
            Kind::TpcB => 4,
        }
    }

    fn messages(self, number: i64) -> Vec<BytesMut> {
        let (long, time) = (number.to_be_bytes(), 800_000_000_000_000_i64.to_be_bytes());
        let int = |n: i64| (n as i32).to_be_bytes();
        match self {
            Kind::Insert => {
                let text = format!("payload-{number:x>32}");
                vec![message(b'I', 1, &[&long, &time, text.as_bytes()])]
            }
            Kind::TpcB => {
                let blank = [b' '; 88];
                let (one, balance) = (int(1), int(number));
                let (account, teller) = (int(number % 10_000), int(number % 10));
                vec![
                    message(b'U', 2, &[&account, &one, &balance, &blank[..84]]),
                    message(b'U', 3, &[&teller, &one, &balance, &blank[..84]]),
                    message(b'U', 4, &[&one, &balance, &blank]),
                    message(
                        b'I',
                        5,
                        &[&long, &teller, &one, &account, &one, &time, &blank[..22]],
                    ),
                ]
            }
        }
    }

    /// The changes' own bytes: what pgoutput sends of them.
    pub(crate) fn row_bytes(self) -> usize {
        self.messages(1).iter().map(BytesMut::len).sum()
    }

    /// Its frame, with a vector that names so many origins.
    pub(crate) fn frame(self, number: i64, origins: usize) -> BytesMut {
        let messages = self.messages(number);
        let mut changes = BytesMut::new();
        for message in &messages {
            record::push_change(&mut changes, message);
        }
        let header = Header {
            position: Lsn(0x1_0000_0000 + number as u64 * 0x80),
            previous: Lsn(0x1_0000_0000 + (number as u64 - 1) * 0x80),
            stamp: Stamp(800_000_000_000_000 + number),
            commit_time: Stamp(800_000_000_000_000 + number),
            xid: number as u32,
            vector: vector(origins, number as u64),
            seen: vector(origins, number as u64),
            changes: messages.len() as u32,
        };
        let mut out = BytesMut::new();
        record::encode_transaction(&mut out, &header, &changes);
        out
    }
}

/// A vector that names the first so many nodes.
pub(crate) fn vector(origins: usize, number: u64) -> Vector {
    let entry = |node: usize| (NodeId(node as u16 + 1), Lsn(0x1_0000_0000 + number * 0x80));
    (0..origins).map(entry).collect()
}
