//! Tables: how a row is recognised at another site, whether its changes are in the WAL, whether
//! the role sees all rows.

use tokio_postgres::{Client, Row};

use super::server::Server;
use super::{Error, Finding, USER_SCHEMA};

pub(super) async fn findings(client: &Client, server: &Server) -> Result<Vec<Finding>, Error> {
    let rows = client
        .query(
            &format!(
                "select format('%I.%I', n.nspname, c.relname),
                        c.relpersistence::text, c.relreplident::text, c.relkind::text,
                        pk.indexrelid is not null, coalesce(pk.indimmediate, true),
                        (select quote_ident(i.relname) from pg_index x
                           join pg_class i on i.oid = x.indexrelid
                          where x.indrelid = c.oid and x.indisreplident and not x.indisprimary),
                        (select quote_ident(i.relname) from pg_index x
                           join pg_class i on i.oid = x.indexrelid
                          where x.indrelid = c.oid and x.indisunique and x.indimmediate
                            and x.indisvalid and not x.indisprimary
                            and x.indpred is null and x.indexprs is null
                            and not exists (select from unnest(x.indkey[:x.indnkeyatts - 1]) k
                                              join pg_attribute a
                                                on a.attrelid = c.oid and a.attnum = k
                                             where not a.attnotnull)
                          order by x.indnkeyatts, i.relname limit 1),
                        (select quote_ident(conname) from pg_constraint
                          where conrelid = c.oid and contype = 'p'),
                        (select string_agg(quote_ident(attname), ', ' order by k.at)
                           from unnest(pk.indkey) with ordinality k(n, at)
                           join pg_attribute a on a.attrelid = c.oid and a.attnum = k.n
                          where k.at <= pk.indnkeyatts),
                        c.relrowsecurity and (c.relforcerowsecurity
                            or not pg_has_role(c.relowner, 'usage'))
                   from pg_class c
                   join pg_namespace n on n.oid = c.relnamespace
                   left join pg_index pk on pk.indrelid = c.oid and pk.indisprimary
                  where c.relkind in ('r', 'p') and c.relpersistence <> 't' and {USER_SCHEMA}
                  order by 1"
            ),
            &[],
        )
        .await
        .map_err(Error::reading("the tables"))?;
    let mut found = Vec::new();
    let (mut fit, mut all) = (0, 0);
    for row in &rows {
        // A partitioned table has no rows of its own: its partitions are in the list.
        if row.get::<_, &str>(3) == "r" {
            all += 1;
            match identity(row) {
                Some(finding) => found.push(finding),
                None => fit += 1,
            }
        }
        found.extend(row_security(row, server));
    }
    found.insert(
        0,
        Finding::ok("tables", format!("{fit} of {all} need no change")),
    );
    Ok(found)
}

fn identity(row: &Row) -> Option<Finding> {
    let table: String = row.get(0);
    let object = format!("table {table}");
    if row.get::<_, &str>(1) == "u" {
        return Some(
            Finding::warning(object, "is unlogged")
                .why("its changes are not in the WAL: each site keeps rows of its own")
                .mend(format!("alter table {table} set logged;")),
        );
    }
    let (primary, immediate): (bool, bool) = (row.get(4), row.get(5));
    let chosen: Option<String> = row.get(6);
    let candidate: Option<String> = row.get(7);
    let constraint: Option<String> = row.get(8);
    let columns: Option<String> = row.get(9);
    let by_default = format!("alter table {table} replica identity default;");
    let finding = match (row.get::<_, &str>(2), primary) {
        ("d", true) if immediate => return None,
        ("d", true) => {
            let constraint = constraint.unwrap_or_default();
            let columns = columns.unwrap_or_default();
            Finding::error(object, "has a deferrable primary key")
                .why("PostgreSQL recognises no row by it, and refuses UPDATE and DELETE once the table is published")
                .mend(format!("alter table {table} drop constraint {constraint}, add primary key ({columns});"))
        }
        ("i", _) => match chosen {
            Some(index) => Finding::note(
                object,
                format!("rows are recognised by {index}, not by a primary key"),
            )
            .why("fine, if it is so at all sites"),
            None => Finding::error(object, "its replica identity is an index that is gone")
                .why("PostgreSQL refuses UPDATE and DELETE of the table once it is published")
                .mend(by_default),
        },
        ("f", true) => Finding::error(object, "has replica identity full")
            .why("all columns count as the key then, so two sites' updates of one row are not recognised as a conflict")
            .mend(by_default),
        ("n", true) => Finding::error(object, "has replica identity nothing")
            .why("PostgreSQL refuses UPDATE and DELETE of the table once it is published")
            .mend(by_default),
        _ => {
            let finding = Finding::error(object, "has no primary key")
                .why("rows cannot be recognised at another site, and PostgreSQL refuses UPDATE and DELETE once the table is published");
            match candidate {
                Some(index) => finding.mend(format!(
                    "alter table {table} replica identity using index {index};"
                )),
                None => finding
                    .mend(format!("alter table {table} add primary key (…);"))
                    .mend("-- or, without a natural key, before other sites are copied from this one:")
                    .mend(format!("-- alter table {table} add column everywrite_id uuid primary key default gen_random_uuid();")),
            }
        }
    };
    Some(finding)
}

fn row_security(row: &Row, server: &Server) -> Option<Finding> {
    if server.bypasses_row_security || !row.get::<_, bool>(10) {
        return None;
    }
    let table: String = row.get(0);
    let role = &server.role_ident;
    Some(
        Finding::error(format!("table {table}"), format!("hides rows from {role}"))
            .why("row security would hide the rows of other sites, or refuse to write them")
            .mend(format!("alter role {role} bypassrls;")),
    )
}
