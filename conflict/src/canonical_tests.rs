use proptest::prelude::*;

use super::*;

fn binary(sign: u16, weight: i16, scale: u16, digits: &[u16]) -> Vec<u8> {
    let count = u16::try_from(digits.len()).unwrap();
    let mut words = vec![count, weight.cast_unsigned(), sign, scale];
    words.extend_from_slice(digits);
    words.iter().flat_map(|w| w.to_be_bytes()).collect()
}

fn numeric(text: &str) -> Vec<u8> {
    canonical(NUMERIC, text.as_bytes(), false).into_owned()
}

#[test]
fn numeric_ignores_how_it_is_written() {
    for same in [
        vec!["1", "1.0", "1.000", "+1", "01", "0001.0", "10e-1", "0.1e1"],
        vec!["0", "-0", "0.00", "000", "0e5"],
        vec!["123456.78", "123456.7800", "0123456.78", "1234.5678e2"],
        vec!["-0.00012", "-0.000120", "-1.2e-4"],
        vec!["100000000", "1e8"],
        vec!["NaN", "nan"],
        vec!["Infinity", "inf", "+Infinity"],
    ] {
        let first = numeric(same[0]);
        for other in &same {
            assert_eq!(first, numeric(other), "{} and {other}", same[0]);
        }
    }
}

#[test]
fn numeric_keeps_different_values_apart() {
    let all = [
        "0",
        "1",
        "-1",
        "10",
        "100",
        "1000",
        "10000",
        "0.1",
        "0.01",
        "0.001",
        "0.0001",
        "0.00001",
        "NaN",
        "Infinity",
        "-Infinity",
        "1.1",
        "11",
        "10001",
        "1.0001",
    ];
    for (i, a) in all.iter().enumerate() {
        for b in all.iter().skip(i + 1) {
            assert_ne!(numeric(a), numeric(b), "{a} and {b}");
        }
    }
}

#[test]
fn numeric_is_the_same_in_both_formats() {
    for (text, bytes) in [
        ("1", binary(0, 0, 0, &[1])),
        ("1.00", binary(0, 0, 2, &[1])),
        ("1", binary(0, 0, 4, &[1, 0])),
        ("123456.78", binary(0, 1, 2, &[12, 3456, 7800])),
        ("-0.0001", binary(0x4000, -1, 4, &[1])),
        ("0", binary(0, 0, 5, &[])),
        ("0.00000001", binary(0, -2, 8, &[1])),
        ("NaN", binary(0xC000, 0, 0, &[])),
        ("-Infinity", binary(0xF000, 0, 0x20, &[])),
    ] {
        assert_eq!(
            numeric(text),
            canonical(NUMERIC, &bytes, true).into_owned(),
            "{text}"
        );
    }
}

#[test]
fn floats_bpchar_and_intervals() {
    assert_eq!(
        canonical(FLOAT8, &(-0.0f64).to_be_bytes(), true),
        canonical(FLOAT8, b"0", false)
    );
    let odd_nan = f64::from_bits(f64::NAN.to_bits() | 1 | 1 << 63);
    assert_eq!(
        canonical(FLOAT8, &odd_nan.to_be_bytes(), true),
        canonical(FLOAT8, b"NaN", false)
    );
    assert_eq!(
        canonical(FLOAT4, &1.5f32.to_be_bytes(), true),
        canonical(FLOAT4, b"1.5", false)
    );
    assert_eq!(
        canonical(FLOAT4, &(-0.0f32).to_be_bytes(), true),
        canonical(FLOAT4, b"-0", false)
    );
    assert_eq!(&*canonical(BPCHAR, b"ab   ", true), b"ab");
    assert_eq!(&*canonical(BPCHAR, b"   ", false), b"");
    assert_eq!(&*canonical(25, b"ab  ", true), b"ab  ");
    let interval = |us: i64, days: i32, months: i32| {
        let mut b = us.to_be_bytes().to_vec();
        b.extend(days.to_be_bytes());
        b.extend(months.to_be_bytes());
        canonical(INTERVAL, &b, true).into_owned()
    };
    assert_eq!(interval(86_400_000_000, 0, 0), interval(0, 1, 0));
    assert_eq!(interval(0, 30, 0), interval(0, 0, 1));
    assert_ne!(interval(0, 31, 0), interval(0, 0, 1));
}

proptest! {
    #[test]
    fn any_bytes_are_accepted(oid in prop::sample::select(vec![700u32, 701, 1042, 1186, 1700, 25]), bytes: Vec<u8>, binary: bool) {
        let once = canonical(oid, &bytes, binary).into_owned();
        prop_assert_eq!(once, canonical(oid, &bytes, binary).into_owned());
    }

    #[test]
    fn integers_as_numeric(n: i64, zeros in 0usize..6) {
        let digits = {
            let mut left = n.unsigned_abs();
            let mut digits = vec![];
            while left > 0 {
                digits.insert(0, (left % 10_000) as u16);
                left /= 10_000;
            }
            digits
        };
        let weight = i16::try_from(digits.len()).unwrap() - 1;
        let sign = if n < 0 { 0x4000 } else { 0 };
        let text = if zeros == 0 { n.to_string() } else { format!("{n}.{}", "0".repeat(zeros)) };
        let bytes = binary(sign, weight, zeros as u16, &digits);
        prop_assert_eq!(numeric(&text), canonical(NUMERIC, &bytes, true).into_owned());
    }
}
