//! Which columns an update of a merged row changed: those whose bytes are others before and after. Of
//! columns that are sets: which elements.

use everywrite_conflict::ColumnChange;
use everywrite_conflict::policy::columns::{Column, Merge};

use super::{Elements, Identity};
use crate::journal::columns::Merges;
use crate::pg::oid;
use crate::pg::pgoutput::{Cell, OwnedRelation, Tuple};

/// One column that an update changed, or one element of a column that is a set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed<'a> {
    /// Its place in the tuple.
    pub cell: usize,
    /// Which, and how it is merged; its height is what the value alone says.
    pub change: ColumnChange,
    /// The element. A column that is to be a set and has none was, or is now, no set.
    pub element: Option<&'a [u8]>,
}

/// What an update changed besides the key. Without `old`, which a table has only with REPLICA IDENTITY
/// FULL, it may be any column.
pub(crate) fn changed<'a>(
    relation: &OwnedRelation,
    identity: &Identity,
    merges: &Merges,
    old: Option<&Tuple<'a>>,
    new: &Tuple<'a>,
) -> Vec<Changed<'a>> {
    let mut before = old.map(Tuple::iter);
    let mut changes = Vec::new();
    for (cell, (column, now)) in relation.columns.iter().zip(new.iter()).enumerate() {
        let was = before.as_mut().and_then(Iterator::next);
        let same = now == Cell::Unchanged || was == Some(now);
        if same || identity.columns.iter().any(|(i, _)| *i == cell) {
            continue;
        }
        let merge = merges.of(&column.name);
        let change = ColumnChange {
            column: Column::named(&column.name),
            merge,
            height: height(merge, column.type_oid, now),
        };
        if merge == Merge::Union
            && let Some(was) = was.and_then(|was| Elements::of(column.type_oid, was))
            && let Some(now) = Elements::of(column.type_oid, now)
        {
            changes.extend(was.differences(&now).into_iter().map(|element| Changed {
                cell,
                change: ColumnChange {
                    column: change.column.element(element),
                    ..change
                },
                element: Some(element),
            }));
            continue;
        }
        changes.push(Changed {
            cell,
            change,
            element: None,
        });
    }
    changes
}

/// How high a value stands by itself. NULL stands lowest, so that any value replaces it.
fn height(merge: Merge, type_oid: u32, value: Cell<'_>) -> i64 {
    if !matches!(merge, Merge::Greatest | Merge::Least) {
        return 0;
    }
    number(type_oid, value).map_or(i64::MIN, |n| merge.height(n))
}

/// The value of a type whose order is that of a whole number.
fn number(type_oid: u32, value: Cell<'_>) -> Option<i64> {
    let Cell::Binary(bytes) = value else {
        return None;
    };
    match type_oid {
        oid::INT2 => bytes.try_into().ok().map(i16::from_be_bytes).map(i64::from),
        oid::INT4 | oid::DATE => bytes.try_into().ok().map(i32::from_be_bytes).map(i64::from),
        oid::INT8 | oid::TIMESTAMP | oid::TIMESTAMPTZ | oid::MONEY => {
            bytes.try_into().ok().map(i64::from_be_bytes)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use everywrite_conflict::RelationHash;
    use everywrite_conflict::policy::Epoch;

    use super::*;
    use crate::pg::pgoutput::OwnedColumn;

    fn bytes(cells: &[Cell<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        for cell in cells {
            match cell {
                Cell::Null => out.push(b'n'),
                Cell::Unchanged => out.push(b'u'),
                Cell::Binary(value) | Cell::Text(value) => {
                    out.push(b'b');
                    out.extend((value.len() as u32).to_be_bytes());
                    out.extend(*value);
                }
            }
        }
        out
    }

    #[test]
    fn what_has_other_bytes_has_changed_and_a_value_that_is_left_out_has_not() {
        let column = |name: &str, type_oid| OwnedColumn {
            key: false,
            name: name.to_owned(),
            type_oid,
            type_modifier: -1,
        };
        let relation = OwnedRelation {
            id: 1,
            namespace: "public".to_owned(),
            name: "t".to_owned(),
            replica_identity: b'f',
            columns: vec![
                column("id", 23),
                column("note", 25),
                column("seen", 20),
                column("large", 25),
                column("low", 21),
            ],
        };
        let identity = Identity {
            relation: RelationHash(1),
            columns: vec![(0, 23)],
        };
        let columns = [
            ("seen".to_owned(), Merge::Greatest),
            ("low".to_owned(), Merge::Least),
        ];
        let merges = Merges {
            epoch: Epoch::default(),
            columns: columns.into(),
        };
        let old = bytes(&[
            Cell::Binary(&[0, 0, 0, 1]),
            Cell::Binary(b"a"),
            Cell::Null,
            Cell::Binary(b"long"),
            Cell::Binary(&[0, 9]),
        ]);
        let new = bytes(&[
            Cell::Binary(&[0, 0, 0, 1]),
            Cell::Binary(b"a"),
            Cell::Binary(&[0, 0, 0, 0, 0, 0, 0, 7]),
            Cell::Unchanged,
            Cell::Null,
        ]);
        let (old, new) = (Tuple::from_parts(5, &old), Tuple::from_parts(5, &new));
        let found = changed(&relation, &identity, &merges, Some(&old), &new);
        let found: Vec<_> = found.iter().map(|c| (c.cell, c.change.height)).collect();
        assert_eq!(found, [(2, 7), (4, i64::MIN)]);
        let all = changed(&relation, &identity, &merges, None, &new);
        assert_eq!(all.iter().map(|c| c.cell).collect::<Vec<_>>(), [1, 2, 4]);
    }

    #[test]
    fn of_a_set_its_elements_change() {
        let column = |name: &str, key, type_oid| OwnedColumn {
            key,
            name: name.to_owned(),
            type_oid,
            type_modifier: -1,
        };
        let relation = OwnedRelation {
            id: 1,
            namespace: "public".to_owned(),
            name: "t".to_owned(),
            replica_identity: b'f',
            columns: vec![column("id", true, 23), column("attrs", false, oid::JSONB)],
        };
        let identity = Identity {
            relation: RelationHash(1),
            columns: vec![(0, 23)],
        };
        let merges = Merges {
            epoch: Epoch::default(),
            columns: [("attrs".to_owned(), Merge::Union)].into(),
        };
        let row =
            |attrs: &'static str| bytes(&[Cell::Binary(&[0; 4]), Cell::Binary(attrs.as_bytes())]);
        let found = |old: &'static str, new: &'static str| {
            let (old, new) = (row(old), row(new));
            let (old, new) = (Tuple::from_parts(2, &old), Tuple::from_parts(2, &new));
            let found = changed(&relation, &identity, &merges, Some(&old), &new);
            let element = |e: &[u8]| String::from_utf8(e.to_vec()).unwrap();
            let mut found: Vec<_> = found
                .iter()
                .map(|c| (c.element.map(element), c.change.column))
                .collect();
            found.sort();
            found
        };
        let attrs = Column::named("attrs");
        let (a, b) = ("\"a\"".to_owned(), "\"b\"".to_owned());
        let (ra, rb) = (attrs.element(a.as_bytes()), attrs.element(b.as_bytes()));
        let both = [(Some(a.clone()), ra), (Some(b), rb)];
        assert_eq!(found("\x01{\"a\": 1}", "\x01{\"b\": 1}"), both);
        let one = [(Some(a), ra)];
        assert_eq!(
            found("\x01{\"a\": 1, \"b\": 1}", "\x01{\"a\": 2, \"b\": 1}"),
            one
        );
        // No set: the column as a whole.
        assert_eq!(found("\x01{\"a\": 1}", "\x01[1]"), [(None, attrs)]);
    }
}
