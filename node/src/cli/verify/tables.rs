//! Which tables are compared, and how: what the sites say of theirs, put side by side.

use std::collections::{BTreeMap, BTreeSet};

use everywrite_conflict::NodeId;

use super::error::Error;
use super::sites::Sites;
use crate::verify::question::{Asked, Said, Spec, Table, TableList, Tables};

/// One table, by its name at every site.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// `schema.table`, as people write it.
    pub(super) name: String,
    /// What is compared; `None` if nothing can be.
    pub(super) spec: Option<Spec>,
    /// The site that has most rows.
    pub(super) leader: NodeId,
    /// How many, by its own belief.
    pub(super) estimated_rows: u64,
    /// In what the tables themselves differ.
    pub(super) differences: Vec<String>,
    /// What else the reader should know.
    pub(super) notes: Vec<String>,
}

/// Asks all sites for their tables.
pub(super) async fn ask(sites: &Sites) -> Result<BTreeMap<NodeId, Vec<Table>>, Error> {
    let mut all = BTreeMap::new();
    for node in sites.nodes() {
        let Said::Tables(TableList { tables }) = sites.ask(node, Asked::Tables(Tables {})).await?
        else {
            return Err(Error::Confused(sites.name(node)));
        };
        all.insert(node, tables);
    }
    Ok(all)
}

/// Puts the tables side by side; only those that are `wanted`, all when it is empty.
pub(super) fn side_by_side(
    all: &BTreeMap<NodeId, Vec<Table>>,
    wanted: &[String],
    name_of: impl Fn(NodeId) -> String,
) -> Result<Vec<Subject>, Error> {
    let mut by_name: BTreeMap<(&str, &str), BTreeMap<NodeId, &Table>> = BTreeMap::new();
    for (&node, tables) in all {
        for table in tables {
            let name = (table.schema.as_str(), table.name.as_str());
            by_name.entry(name).or_default().insert(node, table);
        }
    }
    let matches = |(schema, table): (&str, &str), wanted: &str| {
        wanted == table || wanted == format!("{schema}.{table}")
    };
    let unknown = wanted
        .iter()
        .find(|w| !by_name.keys().any(|&name| matches(name, w)));
    if let Some(unknown) = unknown {
        return Err(Error::NoSuchTable {
            table: unknown.clone(),
        });
    }
    Ok(by_name
        .into_iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| matches(*name, w)))
        .map(|(_, tables)| subject(&tables, all.keys().copied(), &name_of))
        .collect())
}

fn subject(
    tables: &BTreeMap<NodeId, &Table>,
    sites: impl Iterator<Item = NodeId>,
    name_of: &impl Fn(NodeId) -> String,
) -> Subject {
    let names = |nodes: &mut dyn Iterator<Item = NodeId>| {
        let names: Vec<String> = nodes.map(name_of).collect();
        names.join(", ")
    };
    let largest = tables.iter().max_by_key(|(_, t)| t.estimated_rows);
    let (leader, first) = match largest {
        Some((&node, table)) => (node, *table),
        None => (NodeId(0), &Table::default()),
    };
    let mut subject = Subject {
        name: format!("{}.{}", first.schema, first.name),
        spec: None,
        leader,
        estimated_rows: first.estimated_rows,
        differences: Vec::new(),
        notes: Vec::new(),
    };
    let missing: Vec<NodeId> = sites.filter(|node| !tables.contains_key(node)).collect();
    if !missing.is_empty() {
        subject.differences.push(format!(
            "is at {} only, not at {}",
            names(&mut tables.keys().copied()),
            names(&mut missing.into_iter()),
        ));
        return subject;
    }
    let columns: BTreeSet<&str> = tables
        .values()
        .flat_map(|t| t.columns.iter().map(|c| c.name.as_str()))
        .collect();
    let mut common = Vec::new();
    for column in columns {
        let with = |t: &Table| t.columns.iter().any(|c| c.name == column);
        let (have, lack): (Vec<NodeId>, Vec<NodeId>) = tables
            .keys()
            .partition(|node| tables.get(node).is_some_and(|t| with(t)));
        if lack.is_empty() {
            common.push(column.to_owned());
            let types: BTreeSet<&str> = tables
                .values()
                .flat_map(|t| t.columns.iter().filter(|c| c.name == column))
                .map(|c| c.type_name.as_str())
                .collect();
            if types.len() > 1 {
                let types: Vec<&str> = types.into_iter().collect();
                subject.differences.push(format!(
                    "column {column} is of different types: {}",
                    types.join(", ")
                ));
            }
        } else {
            subject.differences.push(format!(
                "column {column} is at {} only, not at {}; the others are compared without it",
                names(&mut have.into_iter()),
                names(&mut lack.into_iter()),
            ));
        }
    }
    let keys: BTreeSet<&Vec<String>> = tables.values().map(|t| &t.key).collect();
    if keys.len() > 1 {
        subject
            .differences
            .push("has different keys at the sites, so its rows cannot be compared".to_owned());
        return subject;
    }
    if first.key.is_empty() {
        subject
            .notes
            .push("not compared: without a primary key its rows cannot be told apart".to_owned());
        return subject;
    }
    let sorted: BTreeSet<&str> = tables.values().map(|t| t.sorted_by.as_str()).collect();
    let by_hash = sorted.len() > 1;
    if by_hash {
        subject.notes.push(
            "the sites sort its keys differently (collations), so it is compared by hash buckets, which reads it whole for each of them"
                .to_owned(),
        );
    }
    subject.spec = Some(Spec {
        schema: first.schema.clone(),
        table: first.name.clone(),
        key: first.key.clone(),
        columns: common,
        by_hash,
    });
    subject
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::question::Column;

    fn table(name: &str, key: &[&str], columns: &[(&str, &str)], rows: u64) -> Table {
        Table {
            schema: "public".to_owned(),
            name: name.to_owned(),
            key: key.iter().map(|&k| k.to_owned()).collect(),
            columns: columns
                .iter()
                .map(|&(name, type_name)| Column {
                    name: name.to_owned(),
                    type_name: type_name.to_owned(),
                })
                .collect(),
            estimated_rows: rows,
            sorted_by: "c".to_owned(),
        }
    }

    fn compare(a: Vec<Table>, b: Vec<Table>, wanted: &[&str]) -> Result<Vec<Subject>, Error> {
        let all = [(NodeId(1), a), (NodeId(2), b)].into();
        let wanted: Vec<String> = wanted.iter().map(|&w| w.to_owned()).collect();
        side_by_side(&all, &wanted, |node| format!("s{node}"))
    }

    const COLUMNS: &[(&str, &str)] = &[("id", "bigint"), ("note", "text")];

    #[test]
    fn the_site_with_most_rows_leads() {
        let found = compare(
            vec![table("t", &["id"], COLUMNS, 5)],
            vec![table("t", &["id"], COLUMNS, 9)],
            &[],
        )
        .unwrap();
        let [subject] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!((subject.leader, subject.estimated_rows), (NodeId(2), 9));
        let spec = subject.spec.as_ref().unwrap();
        assert_eq!(spec.columns, ["id", "note"]);
        assert!(!spec.by_hash && subject.differences.is_empty() && subject.notes.is_empty());
    }

    #[test]
    fn what_differs_in_the_tables_is_said() {
        let mut collated = table("c", &["id"], COLUMNS, 1);
        collated.sorted_by = "de".to_owned();
        let a = vec![
            table("c", &["id"], COLUMNS, 1),
            table(
                "columns",
                &["id"],
                &[("id", "bigint"), ("a", "int"), ("n", "int")],
                1,
            ),
            table("keyless", &[], COLUMNS, 1),
            table("keys", &["id"], COLUMNS, 1),
            table("one", &["id"], COLUMNS, 1),
        ];
        let b = vec![
            collated,
            table(
                "columns",
                &["id"],
                &[("id", "bigint"), ("b", "int"), ("n", "bigint")],
                1,
            ),
            table("keyless", &[], COLUMNS, 1),
            table("keys", &["note"], COLUMNS, 1),
        ];
        let found = compare(a, b, &[]).unwrap();
        let said = |name: &str| {
            let subject = found
                .iter()
                .find(|s| s.name == format!("public.{name}"))
                .unwrap();
            (
                subject.differences.join("; "),
                subject.notes.join("; "),
                subject.spec.clone(),
            )
        };
        let (differences, _, spec) = said("columns");
        assert!(
            differences.contains("column a is at s1 only, not at s2"),
            "{differences}"
        );
        assert!(
            differences.contains("column n is of different types: bigint, int"),
            "{differences}"
        );
        assert_eq!(spec.unwrap().columns, ["id", "n"]);
        assert!(said("c").1.contains("sort its keys differently") && said("c").2.unwrap().by_hash);
        assert!(said("keyless").1.contains("without a primary key") && said("keyless").2.is_none());
        assert!(said("keys").0.contains("different keys") && said("keys").2.is_none());
        assert!(said("one").0.contains("is at s1 only, not at s2"));
    }

    #[test]
    fn tables_by_name() {
        let tables = || {
            vec![
                table("t", &["id"], COLUMNS, 1),
                table("u", &["id"], COLUMNS, 1),
            ]
        };
        for wanted in ["t", "public.t"] {
            let found = compare(tables(), tables(), &[wanted]).unwrap();
            assert!(matches!(&found[..], [s] if s.name == "public.t"));
        }
        let error = compare(tables(), tables(), &["x"]).unwrap_err();
        assert!(
            error.is_usage() && error.to_string().contains("\"x\""),
            "{error}"
        );
    }
}
