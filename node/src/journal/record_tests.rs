use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn header() -> impl Strategy<Value = Header> {
    (
        any::<(u64, u64, i64, i64, u32, u32)>(),
        vec(any::<(u16, u64)>(), 0..5),
    )
        .prop_map(
            |((position, previous, stamp, time, xid, changes), vector)| Header {
                position: Lsn(position),
                previous: Lsn(previous),
                stamp: Stamp(stamp),
                commit_time: Stamp(time),
                xid,
                vector: vector
                    .into_iter()
                    .map(|(n, l)| (NodeId(n), Lsn(l)))
                    .collect(),
                seen: Vector::new(),
                changes,
            },
        )
        .prop_map(|header| Header {
            seen: header.vector.clone(),
            ..header
        })
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (any::<u32>(), bytes()).prop_map(|(id, relation)| Frame::Shape { id, relation }),
        (header(), bytes()).prop_map(|(header, changes)| Frame::Transaction { header, changes }),
        header().prop_map(|header| Frame::LargeBegin { header }),
        (any::<u64>(), bytes()).prop_map(|(p, changes)| Frame::LargePart {
            position: Lsn(p),
            changes
        }),
        any::<(u64, u32)>().prop_map(|(p, changes)| Frame::LargeEnd {
            position: Lsn(p),
            changes
        }),
    ]
}

fn encode(out: &mut BytesMut, frame: &Frame) {
    match frame {
        Frame::Shape { id, relation } => encode_shape(out, *id, relation),
        Frame::Transaction { header, changes } => encode_transaction(out, header, changes),
        Frame::LargeBegin { header } => encode_large_begin(out, header),
        Frame::LargePart { position, changes } => encode_large_part(out, *position, changes),
        Frame::LargeEnd { position, changes } => encode_large_end(out, *position, *changes),
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(frames in vec(any_frame(), 0..8), cut in any::<prop::sample::Index>()) {
        let mut out = BytesMut::new();
        let mut ends = vec![0];
        for frame in &frames {
            encode(&mut out, frame);
            ends.push(out.len());
        }
        let all = out.freeze();
        let mut chunk = all.clone();
        for frame in &frames {
            prop_assert_eq!(decode(&mut chunk).unwrap(), Some(frame.clone()));
        }
        prop_assert_eq!(decode(&mut chunk).unwrap(), None);

        // Cut anywhere: the whole frames come out, the rest waits for more.
        let cut = cut.index(all.len() + 1);
        let mut chunk = all.slice(..cut);
        let whole = ends.iter().filter(|&&end| end <= cut).count() - 1;
        prop_assert_eq!(whole_frames(&chunk).unwrap(), ends[whole]);
        for frame in &frames[..whole] {
            prop_assert_eq!(decode(&mut chunk).unwrap(), Some(frame.clone()));
        }
        prop_assert_eq!(decode(&mut chunk).unwrap(), None);
        prop_assert_eq!(chunk.len(), cut - ends[whole], "nothing is taken of a part of a frame");
    }

    #[test]
    fn one_changed_bit_is_never_taken_for_a_frame(frame in any_frame(), at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let mut out = BytesMut::new();
        encode(&mut out, &frame);
        let at = at.index(out.len());
        out[at] ^= 1u8 << bit;
        prop_assert!(!matches!(decode(&mut out.freeze()), Ok(Some(_))));
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = decode(&mut bytes.clone());
        let _ = whole_frames(&bytes);
        let _ = decode_body(bytes.clone());
        for change in Changes::new(bytes) {
            let _ = change;
        }
    }

    #[test]
    fn changes_come_back(messages in vec(vec(any::<u8>(), 1..50), 0..10)) {
        let mut out = BytesMut::new();
        for message in &messages {
            push_change(&mut out, message);
        }
        let back: Vec<Bytes> = Changes::new(out.freeze()).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(back, messages);
    }
}

#[test]
fn the_bytes_stay_what_they_are() {
    let mut out = BytesMut::new();
    encode_large_end(&mut out, Lsn(0x0102), 3);
    let mut body = vec![5, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3];
    let crc = crc32c::crc32c(&body);
    let mut expected = vec![0, 0, 0, 13];
    expected.extend(crc.to_be_bytes());
    expected.append(&mut body);
    assert_eq!(out, expected);
}
