use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = String> {
    "[^\0]{0,20}"
}

fn message() -> impl Strategy<Value = WalMessage> {
    prop_oneof![
        name().prop_map(|peer| WalMessage::Command(Command::Pause { peer })),
        name().prop_map(|peer| WalMessage::Command(Command::Resume { peer })),
        (name(), any::<u64>()).prop_map(|(origin, lsn)| {
            let lsn = Lsn(lsn);
            WalMessage::Command(Command::SkipTransaction { origin, lsn })
        }),
        Just(WalMessage::Mark),
        any::<u64>().prop_map(WalMessage::Barrier),
        (
            any::<i64>(),
            any::<u16>(),
            prop::option::of((1..u32::MAX, any::<u16>(), any::<i64>())),
            name(),
            name(),
            prop::collection::vec(
                (
                    name(),
                    any::<u32>(),
                    prop::collection::vec(any::<u8>(), 0..40)
                ),
                0..4,
            ),
        )
            .prop_map(|(stamp, origin, rank, schema, table, key)| {
                let plain = Version::new(Stamp(stamp), NodeId(origin));
                let version = rank.map_or(plain, |(number, origin, height)| {
                    let origin = NodeId(origin);
                    let epoch = Epoch { number, origin };
                    plain.ranked(Rank { epoch, height })
                });
                WalMessage::Delete(TravellingDelete {
                    version,
                    schema,
                    table,
                    key: key
                        .into_iter()
                        .map(|(name, type_oid, value)| KeyColumn {
                            name,
                            type_oid,
                            value: value.into(),
                        })
                        .collect(),
                })
            }),
        (
            name(),
            name(),
            any::<u32>(),
            prop::collection::vec(any::<u16>(), 0..4),
            name()
        )
            .prop_map(|(schema, table, number, sites, options)| {
                WalMessage::Policy(SetPolicy {
                    schema,
                    table,
                    number,
                    policy: "node_priority".to_owned(),
                    kind: "all".to_owned(),
                    sites,
                    options,
                })
            }),
    ]
}

proptest! {
    #[test]
    fn reads_what_it_writes(message in message()) {
        let content = message.encode().expect("encodes");
        prop_assert_eq!(WalMessage::decode(&content).expect("decodes"), message);
    }

    #[test]
    fn never_panics_on_any_bytes(content in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = WalMessage::decode(&content);
    }

    #[test]
    fn a_cut_or_longer_message_is_an_error(message in message(), cut in any::<prop::sample::Index>()) {
        let content = message.encode().expect("encodes");
        let cut = cut.index(content.len());
        prop_assert!(WalMessage::decode(&content[..cut]).is_err());
        let longer = [&content[..], b"x"].concat();
        prop_assert!(WalMessage::decode(&longer).is_err());
    }

    #[test]
    fn one_changed_byte_never_panics(message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut content = message.encode().expect("encodes").to_vec();
        let at = at.index(content.len());
        content[at] = byte;
        let _ = WalMessage::decode(&content);
    }
}

#[test]
fn the_bytes_are_the_documented_ones() {
    let bytes = |message: WalMessage| message.encode().expect("encodes").to_vec();
    assert_eq!(bytes(WalMessage::Mark), b"\x01m");
    assert_eq!(
        bytes(WalMessage::Barrier(258)),
        b"\x01b\0\0\0\0\0\0\x01\x02"
    );
    assert_eq!(
        bytes(WalMessage::Command(Command::SkipTransaction {
            origin: "b".into(),
            lsn: Lsn(0x1_0000_00ff),
        })),
        br#"?c{"command":"skip_transaction","origin":"b","lsn":"1/FF"}"#
            .iter()
            .enumerate()
            .map(|(i, &b)| if i == 0 { 1 } else { b })
            .collect::<Vec<_>>()
    );
    let delete = TravellingDelete {
        version: Version::new(Stamp(-2), NodeId(3)),
        schema: "public".into(),
        table: "t".into(),
        key: vec![KeyColumn {
            name: "id".into(),
            type_oid: 23,
            value: Bytes::from_static(&[0, 0, 0, 7]),
        }],
    };
    assert_eq!(
        bytes(WalMessage::Delete(delete)),
        b"\x01d\xff\xff\xff\xff\xff\xff\xff\xfe\0\x03public\0t\0\0\x01id\0\0\0\0\x17\0\0\0\x04\0\0\0\x07"
    );
}

#[test]
fn newer_is_told_from_broken() {
    assert!(matches!(
        WalMessage::decode(b"\x02m"),
        Err(DecodeError::Version(2))
    ));
    assert!(matches!(
        WalMessage::decode(b"\x01z"),
        Err(DecodeError::Kind(b'z'))
    ));
    assert!(matches!(
        WalMessage::decode(br#"{"#),
        Err(DecodeError::Version(b'{'))
    ));
    assert!(matches!(
        WalMessage::decode(b"\x01c{\"command\":\"dance\"}"),
        Err(DecodeError::Command(_))
    ));
}

#[test]
fn refuses_names_that_would_not_come_back() {
    let delete = WalMessage::Delete(TravellingDelete {
        version: Version::OLD,
        schema: "a\0b".into(),
        table: "t".into(),
        key: Vec::new(),
    });
    assert!(matches!(
        delete.encode(),
        Err(EncodeError::ZeroInName("schema"))
    ));
}

#[test]
fn a_policy_of_a_kind_that_is_not_known_is_none() {
    let policy = |policy: &str, kind: &str| SetPolicy {
        schema: "s".to_owned(),
        table: "t".to_owned(),
        number: 1,
        policy: policy.to_owned(),
        kind: kind.to_owned(),
        sites: Vec::new(),
        options: "{}".to_owned(),
    };
    for name in ["stop", "function", "park"] {
        for kind in ["all", "insert_exists"] {
            let setting = policy(name, kind).setting(NodeId(1));
            assert_eq!(setting.unwrap().policy.as_str(), name);
        }
        assert!(policy(name, "of_tomorrow").setting(NodeId(1)).is_none());
    }
    assert!(policy("of_tomorrow", "all").setting(NodeId(1)).is_none());
}
