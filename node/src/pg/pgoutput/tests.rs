//! The decoder on messages made by hand, on arbitrary bytes, and on every prefix.
//!
//! The comparison with another decoder, on what real servers send, is in `replication::tests`.

use everywrite_conflict::{Lsn, Stamp};
use proptest::prelude::*;

use super::*;

/// Writes a message field by field.
#[derive(Default, Clone)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn tag(tag: u8, streaming: bool) -> Self {
        let bytes = Bytes(vec![tag]);
        if streaming { bytes.u32(77) } else { bytes }
    }
    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    fn text(mut self, text: &str) -> Self {
        self.0.extend(text.as_bytes());
        self.u8(0)
    }
    fn cell(mut self, cell: Cell<'_>) -> Self {
        let (kind, value) = match cell {
            Cell::Null => return self.u8(b'n'),
            Cell::Unchanged => return self.u8(b'u'),
            Cell::Text(value) => (b't', value),
            Cell::Binary(value) => (b'b', value),
        };
        self = self.u8(kind).u32(u32::try_from(value.len()).unwrap());
        self.0.extend(value);
        self
    }
    fn tuple(self, kind: u8, cells: &[Cell<'_>]) -> Self {
        let start = self.u8(kind).u16(u16::try_from(cells.len()).unwrap());
        cells.iter().fold(start, |bytes, cell| bytes.cell(*cell))
    }
}

const ROW: &[Cell<'_>] = &[
    Cell::Binary(b"\0\0\0\x05"),
    Cell::Null,
    Cell::Unchanged,
    Cell::Text("grün".as_bytes()),
];
const KEY: &[Cell<'_>] = &[Cell::Text(b"5"), Cell::Null, Cell::Null, Cell::Text(b"")];

/// One of each message that can stand inside a stream block.
fn changes(streaming: bool) -> Vec<Bytes> {
    let tag = |tag| Bytes::tag(tag, streaming);
    vec![
        tag(b'R')
            .u32(9)
            .text("public")
            .text("t")
            .u8(b'd')
            .u16(2)
            .u8(1)
            .text("id")
            .u32(23)
            .u32(u32::MAX)
            .u8(0)
            .text("v")
            .u32(25)
            .u32(44),
        tag(b'Y').u32(16_500).text("public").text("mood"),
        tag(b'I').u32(9).tuple(b'N', ROW),
        tag(b'U').u32(9).tuple(b'N', ROW),
        tag(b'U').u32(9).tuple(b'K', KEY).tuple(b'N', ROW),
        tag(b'U').u32(9).tuple(b'O', ROW).tuple(b'N', ROW),
        tag(b'D').u32(9).tuple(b'K', KEY),
        tag(b'D').u32(9).tuple(b'O', ROW),
        tag(b'T').u32(2).u8(3).u32(9).u32(10),
        tag(b'M')
            .u8(1)
            .u64(0x16)
            .text("everywrite")
            .u32(3)
            .u8(1)
            .u8(2)
            .u8(3),
    ]
}

/// One of each other message.
fn frames() -> Vec<Bytes> {
    let tag = |tag| Bytes::tag(tag, false);
    vec![
        tag(b'B').u64(0x10).u64(5).u32(77),
        tag(b'C').u8(0).u64(0x10).u64(0x20).u64(5),
        tag(b'O').u64(0x99).text("everywrite_2"),
        tag(b'S').u32(77).u8(1),
        tag(b'E'),
        tag(b'c').u32(77).u8(0).u64(0x10).u64(0x20).u64(5),
        tag(b'A').u32(77).u32(78),
        tag(b'A').u32(77).u32(78).u64(0x30).u64(6),
    ]
}

fn cells(tuple: &Tuple<'_>) -> usize {
    assert_eq!(tuple.len(), tuple.iter().count());
    tuple.len()
}

/// Reads all there is in a message.
fn walk(message: &Message<'_>) -> usize {
    let _ = format!("{message:?}");
    match message {
        Message::Insert { new, .. } => cells(new),
        Message::Update { key, old, new, .. } => {
            cells(new) + key.iter().chain(old).map(cells).sum::<usize>()
        }
        Message::Delete { key, old, .. } => key.iter().chain(old).map(cells).sum(),
        Message::Truncate { relations, .. } => {
            assert_eq!(relations.len(), relations.iter().count());
            relations.len()
        }
        Message::Relation(relation) => {
            assert_eq!(relation.columns.len(), relation.columns.count());
            assert_eq!(Relation::decode(relation.as_bytes()).as_ref(), Ok(relation));
            relation.to_owned().columns.len()
        }
        _ => 0,
    }
}

#[test]
fn changes_are_read_inside_and_outside_stream_blocks() {
    for streaming in [false, true] {
        let messages = changes(streaming);
        let decoded: Vec<_> = messages
            .iter()
            .map(|m| decode(&m.0, streaming).unwrap())
            .collect();
        let xid = streaming.then_some(77);
        let Message::Relation(relation) = decoded[0] else {
            panic!()
        };
        let expected = OwnedRelation {
            id: 9,
            namespace: "public".into(),
            name: "t".into(),
            replica_identity: b'd',
            columns: vec![
                OwnedColumn {
                    key: true,
                    name: "id".into(),
                    type_oid: 23,
                    type_modifier: -1,
                },
                OwnedColumn {
                    key: false,
                    name: "v".into(),
                    type_oid: 25,
                    type_modifier: 44,
                },
            ],
        };
        assert_eq!(relation.to_owned(), expected);
        assert_eq!(
            relation.as_bytes()[..4],
            9_u32.to_be_bytes(),
            "without tag and xid"
        );
        assert_eq!(
            decoded[1],
            Message::Type {
                oid: 16_500,
                namespace: "public",
                name: "mood"
            }
        );
        let Message::Insert {
            xid: found,
            relation: 9,
            new,
        } = decoded[2]
        else {
            panic!()
        };
        assert_eq!(found, xid);
        assert_eq!(new.iter().collect::<Vec<_>>(), ROW);
        let Message::Update {
            key: None,
            old: None,
            ..
        } = decoded[3]
        else {
            panic!()
        };
        let Message::Update {
            key: Some(key),
            old: None,
            new,
            ..
        } = decoded[4]
        else {
            panic!()
        };
        assert_eq!(
            (key.iter().collect::<Vec<_>>(), new.len()),
            (KEY.to_vec(), 4)
        );
        let Message::Update {
            key: None,
            old: Some(old),
            ..
        } = decoded[5]
        else {
            panic!()
        };
        assert_eq!(old.iter().collect::<Vec<_>>(), ROW);
        let Message::Delete {
            key: Some(_),
            old: None,
            ..
        } = decoded[6]
        else {
            panic!()
        };
        let Message::Delete {
            key: None,
            old: Some(_),
            ..
        } = decoded[7]
        else {
            panic!()
        };
        let Message::Truncate {
            relations,
            cascade: true,
            restart_identity: true,
            ..
        } = decoded[8]
        else {
            panic!()
        };
        assert_eq!(relations.iter().collect::<Vec<_>>(), [9, 10]);
        let message = Message::Message {
            xid,
            transactional: true,
            lsn: Lsn(0x16),
            prefix: "everywrite",
            content: &[1, 2, 3],
        };
        assert_eq!(decoded[9], message);
    }
}

#[test]
fn transactions_are_read() {
    let messages = frames();
    let decoded: Vec<_> = messages
        .iter()
        .map(|m| decode(&m.0, false).unwrap())
        .collect();
    let (commit_lsn, end_lsn, commit_time) = (Lsn(0x10), Lsn(0x20), Stamp(5));
    let abort = |abort_lsn, abort_time| Message::StreamAbort {
        xid: 77,
        subxid: 78,
        abort_lsn,
        abort_time,
    };
    assert_eq!(
        decoded,
        [
            Message::Begin {
                final_lsn: Lsn(0x10),
                commit_time,
                xid: 77
            },
            Message::Commit {
                commit_lsn,
                end_lsn,
                commit_time
            },
            Message::Origin {
                lsn: Lsn(0x99),
                name: "everywrite_2"
            },
            Message::StreamStart {
                xid: 77,
                first: true
            },
            Message::StreamStop,
            Message::StreamCommit {
                xid: 77,
                commit_lsn,
                end_lsn,
                commit_time
            },
            abort(None, None),
            abort(Some(Lsn(0x30)), Some(Stamp(6))),
        ]
    );
}

#[test]
fn every_prefix_and_every_longer_message_is_an_error() {
    let all = [false, true]
        .into_iter()
        .flat_map(|streaming| changes(streaming).into_iter().map(move |m| (m, streaming)))
        .chain(frames().into_iter().map(|message| (message, false)));
    for (message, streaming) in all {
        let bytes = &message.0;
        for length in 0..bytes.len() {
            // An abort without position and time is a whole message, too.
            if bytes[0] == b'A' && length == 9 {
                continue;
            }
            let prefix = &bytes[..length];
            assert!(
                decode(prefix, streaming).is_err(),
                "{prefix:?} of {bytes:?}"
            );
        }
        let error = decode(&message.clone().u8(0).0, streaming).unwrap_err();
        let expected = match bytes[0] == b'A' && bytes.len() == 9 {
            true => Error::Truncated {
                message: 'A',
                field: "the abort position",
            },
            false => Error::Trailing {
                message: char::from(bytes[0]),
                bytes: 1,
            },
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn impossible_values_are_errors() {
    let impossible = |bytes: Bytes| {
        let error = decode(&bytes.0, false).unwrap_err();
        assert!(matches!(error, Error::Impossible { .. }), "{error}");
    };
    impossible(Bytes::tag(b'I', false).u32(9).tuple(b'K', ROW));
    impossible(Bytes::tag(b'I', false).u32(9).u8(b'N').u16(1).u8(b'x'));
    impossible(
        Bytes::tag(b'I', false)
            .u32(9)
            .u8(b'N')
            .u16(1)
            .u8(b't')
            .u32(u32::MAX),
    );
    impossible(Bytes::tag(b'D', false).u32(9).tuple(b'N', ROW));
    impossible(Bytes::tag(b'T', false).u32(u32::MAX).u8(0));
    let name = Bytes::tag(b'O', false).u64(1).u8(0xff).u8(0);
    assert!(matches!(decode(&name.0, false), Err(Error::NotUtf8 { .. })));
    assert_eq!(decode(b"", false), Err(Error::Empty));
    assert_eq!(decode(b"?", false), Err(Error::UnknownMessage('?')));
    // A count that would need more than there can be must not be believed.
    let huge = Bytes::tag(b'T', false).u32(0x7fff_ffff).u8(0).u32(1);
    assert!(matches!(
        decode(&huge.0, false),
        Err(Error::Truncated { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_bytes_make_it_panic(
        tag in prop::sample::select(b"BCORYIUDTMSEcAbPKrp?".to_vec()),
        body in prop::collection::vec(any::<u8>(), 0..200),
        streaming: bool,
    ) {
        let bytes = [&[tag][..], &body].concat();
        if let Ok(message) = decode(&bytes, streaming) {
            walk(&message);
        }
        let _ = decode(&body, streaming);
        let _ = Relation::decode(&body).map(|relation| relation.columns.count());
    }

    #[test]
    fn no_damage_to_a_message_makes_it_panic(
        which in 0_usize..18,
        streaming: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let messages: Vec<_> = changes(streaming).into_iter().chain(frames()).collect();
        let mut bytes = messages[which].0.clone();
        for (index, value) in damage {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(message) = decode(&bytes, streaming) {
            walk(&message);
        }
    }
}
