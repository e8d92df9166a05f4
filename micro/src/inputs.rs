//! What a walsender sends, byte for byte the same in every run.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use everywrite_conflict::{Lsn, NodeId};
use everywrite_node::capture::{Assembled, Assembler, Shapes, Spools};
use everywrite_node::settle::Ledger;

/// Rows of a round.
pub(crate) const ROWS: usize = 1000;
/// The node that captures.
pub(crate) const ME: NodeId = NodeId(1);

const INT4: u32 = 23;
const INT8: u32 = 20;
const TEXT: u32 = 25;
const TIMESTAMPTZ: u32 = 1184;
/// `character(84)`, the filler of pgbench's tables.
const BPCHAR: u32 = 1042;

/// What the transactions of a round do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// One transaction that inserts all rows, of about 60 bytes each.
    Insert,
    /// The same rows, a transaction each.
    InsertSingle,
    /// pgbench's: three updates, one insert without a key. Tellers and branches are hot.
    TpcB,
    /// A transaction for each row updated.
    Update,
    /// A transaction for each row deleted.
    Delete,
    /// Like `Insert`, but replay wrote it.
    Replayed,
    /// Like `Insert`, in pieces that came before the commit.
    Streamed,
}

/// One stream of CopyData messages for each of so many rounds.
pub(crate) fn streams(load: Load, rounds: usize) -> Vec<Bytes> {
    let mut server = Server::default();
    (0..rounds).map(|round| server.round(load, round)).collect()
}

/// The payload of the next message, cut out without copying, as the daemon's reader does.
pub(crate) fn next_payload(stream: &mut Bytes) -> Option<Bytes> {
    if stream.is_empty() {
        return None;
    }
    stream.advance(1);
    let length = stream.get_u32() as usize - 4;
    let mut payload = stream.split_to(length);
    payload.advance(25);
    Some(payload)
}

/// The journal frames that capture makes of each round's stream.
pub(crate) fn frames(load: Load, rounds: usize) -> Vec<Bytes> {
    let mut capture = Capture::new();
    let streams = streams(load, rounds);
    streams.into_iter().map(|s| capture.frames(s)).collect()
}

/// An assembler with what it needs.
pub(crate) struct Capture {
    assembler: Assembler,
    ledger: Ledger,
    _spools: tempfile::TempDir,
}

impl Capture {
    pub(crate) fn new() -> Self {
        let dir = folder();
        let spools = Spools::open(&dir.path().join("spool")).expect("a folder for spools");
        Capture {
            assembler: Assembler::new(ME, Shapes::default(), Lsn::ZERO, spools),
            ledger: Ledger::new(ME),
            _spools: dir,
        }
    }

    /// What the daemon does with each message, and the frames that come of it.
    pub(crate) fn frames(&mut self, mut stream: Bytes) -> Bytes {
        let Capture {
            assembler, ledger, ..
        } = self;
        let mut frames = Bytes::new();
        while let Some(payload) = next_payload(&mut stream) {
            Assembler::wants_primary_key(&payload, assembler.in_piece()).expect("decoded");
            let fed = assembler.feed(&payload, None, ledger, &mut |_| {});
            if let Assembled::Large(mut large) = fed.expect("assembled") {
                while !assembler
                    .step(&mut large, ledger, &mut |_| {})
                    .expect("stepped")
                {
                    frames = assembler.frames();
                    assembler.sent();
                }
            }
        }
        if assembler.pending() > 0 {
            frames = assembler.frames();
            assembler.sent();
        }
        frames
    }
}

/// A new folder, in memory where there is such a file system.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    folder.expect("a temporary folder")
}

/// A cell in binary form; `None` is NULL.
type Cell<'a> = Option<&'a [u8]>;

#[derive(Default)]
struct Server {
    lsn: u64,
    xid: u32,
    key: i64,
    out: BytesMut,
}

impl Server {
    fn round(&mut self, load: Load, round: usize) -> Bytes {
        if round == 0 {
            self.begins(load == Load::Streamed);
        }
        match load {
            Load::Insert | Load::Replayed => {
                self.begin(load == Load::Replayed);
                (0..ROWS).for_each(|_| self.insert(None));
                self.commit();
            }
            Load::Streamed => self.streamed(),
            Load::InsertSingle => (0..ROWS).for_each(|_| {
                self.begin(false);
                self.insert(None);
                self.commit();
            }),
            Load::TpcB => (0..ROWS / 4).for_each(|_| self.tpc_b()),
            Load::Update => (0..ROWS).for_each(|_| {
                self.begin(false);
                let key = self.some_key().to_be_bytes();
                let text = text(&key);
                self.message(|m| {
                    m.put_u8(b'U');
                    m.put_u32(ITEMS.oid);
                    tuple(m, b'N', &item(&key, &text));
                });
                self.commit();
            }),
            Load::Delete => (0..ROWS).for_each(|_| {
                self.begin(false);
                self.key += 1;
                let key = self.key.to_be_bytes();
                self.message(|m| {
                    m.put_u8(b'D');
                    m.put_u32(ITEMS.oid);
                    tuple(m, b'K', &[Some(&key), None, None, None]);
                });
                self.commit();
            }),
        }
        self.out.split().freeze()
    }

    /// What a walsender says of each table before its first row.
    fn begins(&mut self, streamed: bool) {
        // The descriptions stand inside a transaction that changes nothing else.
        if streamed {
            return;
        }
        self.begin(false);
        for table in [&ITEMS, &ACCOUNTS, &TELLERS, &BRANCHES, &HISTORY] {
            self.message(|m| describe(m, table, None));
        }
        self.commit();
    }

    fn streamed(&mut self) {
        self.xid += 1;
        let xid = self.xid;
        for piece in 0..10 {
            self.message(|m| {
                m.put_u8(b'S');
                m.put_u32(xid);
                m.put_u8(u8::from(piece == 0));
            });
            if piece == 0 {
                self.message(|m| describe(m, &ITEMS, Some(xid)));
            }
            (0..ROWS / 10).for_each(|_| self.insert(Some(xid)));
            self.message(|m| m.put_u8(b'E'));
        }
        let (start, end, time) = self.next_place();
        self.message(|m| {
            m.put_u8(b'c');
            m.put_u32(xid);
            m.put_u8(0);
            m.put_u64(start);
            m.put_u64(end);
            m.put_i64(time);
        });
    }

    fn begin(&mut self, replayed: bool) {
        self.xid += 1;
        let (xid, lsn) = (self.xid, self.lsn);
        self.message(|m| {
            m.put_u8(b'B');
            m.put_u64(lsn);
            m.put_i64(lsn as i64);
            m.put_u32(xid);
        });
        if replayed {
            self.message(|m| {
                m.put_u8(b'O');
                m.put_u64(lsn);
                m.put_slice(b"everywrite_2\0");
            });
        }
    }

    fn commit(&mut self) {
        let (start, end, time) = self.next_place();
        self.message(|m| {
            m.put_u8(b'C');
            m.put_u8(0);
            m.put_u64(start);
            m.put_u64(end);
            m.put_i64(time);
        });
    }

    fn next_place(&mut self) -> (u64, u64, i64) {
        let start = self.lsn;
        self.lsn += 256;
        (start, self.lsn, self.lsn as i64)
    }

    fn insert(&mut self, xid: Option<u32>) {
        self.key += 1;
        let key = self.key.to_be_bytes();
        let text = text(&key);
        self.message(|m| {
            m.put_u8(b'I');
            xid.into_iter().for_each(|xid| m.put_u32(xid));
            m.put_u32(ITEMS.oid);
            tuple(m, b'N', &item(&key, &text));
        });
    }

    fn tpc_b(&mut self) {
        let account = ((self.some_key() % 1_000_000) as i32).to_be_bytes();
        let teller = ((self.key % 100) as i32).to_be_bytes();
        let branch = ((self.key % 10) as i32).to_be_bytes();
        let balance = (self.key as i32).to_be_bytes();
        let time = (self.lsn as i64).to_be_bytes();
        let filler = [b' '; 84];
        self.begin(false);
        for (table, key, branch) in [
            (&ACCOUNTS, &account, Some(&branch)),
            (&TELLERS, &teller, Some(&branch)),
            (&BRANCHES, &branch, None),
        ] {
            let mut cells: Vec<Cell<'_>> = vec![Some(key)];
            cells.extend(branch.map(|b| Some(b.as_slice())));
            cells.extend([Some(balance.as_slice()), Some(filler.as_slice())]);
            self.message(|m| {
                m.put_u8(b'U');
                m.put_u32(table.oid);
                tuple(m, b'N', &cells);
            });
        }
        self.message(|m| {
            m.put_u8(b'I');
            m.put_u32(HISTORY.oid);
            let key = [&teller, &branch, &account, &balance].map(|c| Some(c.as_slice()));
            let [t, b, a, d] = key;
            tuple(m, b'N', &[t, b, a, d, Some(&time), None]);
        });
        self.commit();
    }

    /// Keys that come again sometimes, in no order.
    fn some_key(&mut self) -> i64 {
        self.key += 1;
        self.key * 7919 % 100_000
    }

    /// One CopyData message with pgoutput's `payload`.
    fn message(&mut self, payload: impl FnOnce(&mut BytesMut)) {
        let start = self.out.len();
        self.out.put_u8(b'd');
        self.out.put_u32(0);
        self.out.put_u8(b'w');
        self.out.put_u64(self.lsn);
        self.out.put_u64(self.lsn);
        self.out.put_u64(0);
        payload(&mut self.out);
        let length = (self.out.len() - start - 1) as u32;
        self.out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    }
}

struct TableShape {
    oid: u32,
    name: &'static str,
    /// The first is the key, if there is one.
    keyed: bool,
    columns: &'static [(&'static str, u32)],
}

const ITEMS: TableShape = TableShape {
    oid: 16385,
    name: "items",
    keyed: true,
    columns: &[("id", INT8), ("a", INT4), ("b", TEXT), ("ts", TIMESTAMPTZ)],
};
const ACCOUNTS: TableShape = TableShape {
    oid: 16390,
    name: "pgbench_accounts",
    keyed: true,
    columns: &[
        ("aid", INT4),
        ("bid", INT4),
        ("abalance", INT4),
        ("filler", BPCHAR),
    ],
};
const TELLERS: TableShape = TableShape {
    oid: 16395,
    name: "pgbench_tellers",
    keyed: true,
    columns: &[
        ("tid", INT4),
        ("bid", INT4),
        ("tbalance", INT4),
        ("filler", BPCHAR),
    ],
};
const BRANCHES: TableShape = TableShape {
    oid: 16400,
    name: "pgbench_branches",
    keyed: true,
    columns: &[("bid", INT4), ("bbalance", INT4), ("filler", BPCHAR)],
};
const HISTORY: TableShape = TableShape {
    oid: 16405,
    name: "pgbench_history",
    keyed: false,
    columns: &[
        ("tid", INT4),
        ("bid", INT4),
        ("aid", INT4),
        ("delta", INT4),
        ("mtime", TIMESTAMPTZ),
        ("filler", BPCHAR),
    ],
};

fn describe(m: &mut BytesMut, table: &TableShape, xid: Option<u32>) {
    m.put_u8(b'R');
    xid.into_iter().for_each(|xid| m.put_u32(xid));
    m.put_u32(table.oid);
    m.put_slice(b"public\0");
    m.put_slice(table.name.as_bytes());
    m.put_u8(0);
    m.put_u8(b'd');
    m.put_u16(table.columns.len() as u16);
    for (i, (name, type_oid)) in table.columns.iter().enumerate() {
        m.put_u8(u8::from(table.keyed && i == 0));
        m.put_slice(name.as_bytes());
        m.put_u8(0);
        m.put_u32(*type_oid);
        m.put_i32(-1);
    }
}

/// 60 bytes: the key, a number, a text of 40 bytes, a time.
fn item<'a>(key: &'a [u8; 8], text: &'a [u8; 40]) -> [Cell<'a>; 4] {
    [Some(key), Some(&key[4..]), Some(text), Some(key)]
}

fn text(key: &[u8; 8]) -> [u8; 40] {
    let mut text = *b"payload-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    for (at, digit) in text[32..].iter_mut().zip(key) {
        *at = b'a' + digit % 26;
    }
    text
}

fn tuple(m: &mut BytesMut, kind: u8, cells: &[Cell<'_>]) {
    m.put_u8(kind);
    m.put_u16(cells.len() as u16);
    for cell in cells {
        match cell {
            None => m.put_u8(b'n'),
            Some(bytes) => {
                m.put_u8(b'b');
                m.put_u32(bytes.len() as u32);
                m.put_slice(bytes);
            }
        }
    }
}
