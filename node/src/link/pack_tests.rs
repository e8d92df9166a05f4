use proptest::prelude::*;

use super::*;
use crate::link::frame::pieces;

const ALL: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

/// From rows that are alike to noise.
fn bytes(seed: u64, length: usize, noise: bool) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|i| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            if noise || i % 16 == 0 {
                (state >> 33) as u8
            } else {
                i as u8 % 16
            }
        })
        .collect()
}

fn packed(packer: &mut Packer, whole: &[u8]) -> Vec<Piece> {
    pieces(7, Bytes::copy_from_slice(whole))
        .map(|piece| packer.pack(piece))
        .collect()
}

#[test]
fn rows_shrink_and_noise_does_not_grow() {
    for compression in [Compression::Lz4, Compression::Zstd] {
        let mut packer = Packer::new(compression).unwrap();
        let mut unpacker = Unpacker::default();
        for round in 0..20 {
            for (length, noise) in [(700_000, false), (700_000, true), (300, false), (10, false)] {
                let plain = bytes(round, length, noise);
                let packed = packed(&mut packer, &plain);
                let sent: usize = packed.iter().map(|piece| piece.bytes.len()).sum();
                assert!(sent <= length);
                if !noise && length > 1000 {
                    assert!(sent < length / 2, "{compression:?} {sent}");
                }
                assert_eq!(unpacker.whole(packed).unwrap(), plain);
            }
        }
    }
}

#[test]
fn zstd_remembers_the_transactions_before() {
    let mut packer = Packer::new(Compression::Zstd).unwrap();
    let noise = bytes(5, 150, true);
    let first = packer.packed(&noise);
    assert_eq!(first, None, "noise is sent as it is");
    // Alike, and nothing in itself that repeats.
    let mut row = bytes(6, 150, true);
    row.extend_from_slice(&[0; 40]);
    let (method, first) = packer.packed(&row).unwrap();
    assert_eq!(method, ZSTD);
    let (method, second) = packer.packed(&row).unwrap();
    assert_eq!(method, ZSTD_NEXT);
    assert!(
        second.len() * 3 < first.len(),
        "{} {}",
        first.len(),
        second.len()
    );
}

#[test]
fn lies_are_told() {
    let rows = bytes(1, 2000, false);
    let piece = |compression| {
        let mut packer = Packer::new(compression).unwrap();
        packed(&mut packer, &rows).pop().unwrap()
    };
    let error = |piece: Piece| {
        let error = Unpacker::default().whole(vec![piece]).unwrap_err();
        error.to_string()
    };
    for compression in [Compression::Lz4, Compression::Zstd] {
        let honest = piece(compression);
        let lie = |plain_bytes| {
            let mut piece = honest.clone();
            piece.packing.as_mut().unwrap().plain_bytes = plain_bytes;
            error(piece)
        };
        for plain_bytes in [1, 1999, 2001, PIECE_BYTES as u32] {
            assert!(lie(plain_bytes).contains("unpack"), "{}", lie(plain_bytes));
        }
        assert!(lie(u32::MAX).contains("4294967295 bytes unpacked"));
        let mut torn = honest.clone();
        torn.bytes.truncate(honest.bytes.len() / 2);
        assert!(error(torn).contains("unpack"));
    }
    let mut unknown = piece(Compression::Lz4);
    unknown.packing.as_mut().unwrap().method = 9;
    assert!(error(unknown).contains("unknown compression 9"));
    let mut second = piece(Compression::Zstd);
    second.packing.as_mut().unwrap().method = ZSTD_NEXT;
    assert!(error(second).contains("continues what was not begun"));
}

proptest! {
    #[test]
    fn what_is_packed_comes_out_again(
        which in 0usize..3,
        chunks in proptest::collection::vec((any::<u64>(), 0usize..3000, any::<bool>()), 1..20),
    ) {
        let mut packer = Packer::new(ALL[which]).unwrap();
        let mut unpacker = Unpacker::default();
        for (seed, length, noise) in chunks {
            let plain = bytes(seed, length, noise);
            let packed = packed(&mut packer, &plain);
            prop_assert_eq!(unpacker.whole(packed).unwrap(), plain);
        }
    }

    /// Torn, changed, or made up: an error or bytes of the size that was said, never more.
    #[test]
    fn garbage_never_panics(
        method in 0u8..5,
        plain_bytes in 0u32..600_000,
        seed in any::<u64>(),
        honest in any::<bool>(),
        cut in 0usize..400,
        changes in proptest::collection::vec((0usize..400, any::<u8>()), 0..8),
    ) {
        let plain = bytes(seed, 5000, false);
        let with = if method == LZ4 { Compression::Lz4 } else { Compression::Zstd };
        let mut packer = Packer::new(with).unwrap();
        let mut garbage = if honest {
            packed(&mut packer, &plain).pop().unwrap().bytes.to_vec()
        } else {
            bytes(seed, cut, true)
        };
        for (at, byte) in changes {
            if let Some(place) = garbage.get_mut(at) {
                *place = byte;
            }
        }
        garbage.truncate(garbage.len().saturating_sub(cut / 4));
        let piece = Piece {
            number: 1,
            more: false,
            packing: Some(Packing { method, plain_bytes }),
            bytes: Bytes::from(garbage),
        };
        let mut unpacker = Unpacker::default();
        for _ in 0..2 {
            if let Ok(whole) = unpacker.whole(vec![piece.clone(), piece.clone()]) {
                prop_assert_eq!(whole.len(), 2 * plain_bytes as usize);
            }
        }
    }
}
