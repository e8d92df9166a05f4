//! Sequences: every site counts for itself, so two sites hand out the same number.

use tokio_postgres::Client;

use super::{Error, Finding, Site, USER_SCHEMA};

pub(super) async fn findings(client: &Client, site: &Site) -> Result<Vec<Finding>, Error> {
    let rows = client
        .query(
            &format!(
                "select format('%I.%I', n.nspname, c.relname), s.seqincrement,
                        format_type(s.seqtypid, null),
                        (select string_agg(distinct format('%s.%I', d.refobjid::regclass, a.attname), ', ')
                           from pg_depend d join pg_attribute a
                             on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
                          where d.classid = 'pg_class'::regclass and d.objid = c.oid
                            and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')),
                        (select string_agg(distinct format('%s.%I', f.adrelid::regclass, a.attname), ', ')
                           from pg_depend d join pg_attrdef f on f.oid = d.objid
                           join pg_attribute a on a.attrelid = f.adrelid and a.attnum = f.adnum
                          where d.classid = 'pg_attrdef'::regclass
                            and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid)
                   from pg_sequence s
                   join pg_class c on c.oid = s.seqrelid
                   join pg_namespace n on n.oid = c.relnamespace
                  where c.relpersistence <> 't' and {USER_SCHEMA}
                  order by 1"
            ),
            &[],
        )
        .await
        .map_err(Error::reading("the sequences"))?;
    let step = step(site);
    let sites = i64::try_from(site.peers.len() + 1)
        .unwrap_or(i64::MAX)
        .max(2);
    let mut found = Vec::new();
    for row in &rows {
        let (sequence, increment, kind): (String, i64, String) =
            (row.get(0), row.get(1), row.get(2));
        let owner: Option<String> = row.get(3);
        let used: Option<String> = row.get(4);
        let object = format!("sequence {sequence}");
        let Some(column) = owner.or(used) else {
            found.push(
                Finding::note(object, "is no column's default")
                    .why("each site counts for itself: fine unless its numbers must be unique in the cluster"),
            );
            continue;
        };
        if increment.unsigned_abs() >= sites.unsigned_abs() {
            found.push(
                Finding::ok(
                    object,
                    format!("counts in steps of {increment} for {column}"),
                )
                .why("no collisions, if each site started at another number"),
            );
            continue;
        }
        let own = site
            .node
            .map_or_else(|| "NODE_ID".to_owned(), |id| id.to_string());
        let mut finding = Finding::warning(object, format!("numbers {column} at every site"))
            .why(format!(
                "two sites hand out the same number, and of two rows with one key only the later one stays. In steps of {step} each site has numbers of its own{}; a uuid needs none",
                room(&kind, step)
            ));
        if site.node.is_none() {
            finding = finding.mend("-- NODE_ID: the `id` of this node");
        }
        found.push(
            finding
                .mend(format!("alter sequence {sequence} increment by {step};"))
                .mend(format!(
                    "select setval('{}', (select last_value from {sequence}) / {step} * {step} + {step} + {own}, false);",
                    sequence.replace('\'', "''")
                )),
        );
    }
    Ok(found)
}

/// A power of ten above every id, so that `id` is the last digits of a site's numbers, and there
/// is room for sites that join later.
fn step(site: &Site) -> i64 {
    let largest = site.peers.iter().chain(&site.node).max().copied();
    let largest = i64::from(largest.unwrap_or(1));
    let mut step = 10;
    while step <= largest {
        step *= 10;
    }
    step
}

/// How many numbers are left to each site where that may matter.
fn room(kind: &str, step: i64) -> String {
    let all = match kind {
        "smallint" => i64::from(i16::MAX),
        "integer" => i64::from(i32::MAX),
        _ => return String::new(),
    };
    format!(" (of type {kind}: {} each)", all / step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_above_every_id() {
        let of = |node, peers: &[u16]| {
            step(&Site {
                node,
                peers: peers.to_vec(),
                sessions: 2,
            })
        };
        assert_eq!(of(None, &[]), 10);
        assert_eq!(of(Some(1), &[2, 3]), 10);
        assert_eq!(of(Some(1), &[10]), 100);
        assert_eq!(of(Some(65_535), &[]), 100_000);
    }
}
