//! What is not a table's row: large objects, views with content, foreign tables, and other
//! replication in the same database.

use tokio_postgres::Client;

use super::{Error, Finding, USER_SCHEMA};

pub(super) async fn findings(client: &Client) -> Result<Vec<Finding>, Error> {
    let mut found = large_objects(client).await?;
    found.extend(relations(client).await?);
    found.extend(subscriptions(client).await?);
    Ok(found)
}

async fn large_objects(client: &Client) -> Result<Vec<Finding>, Error> {
    let row = client
        .query_one(
            &format!(
                "select (select count(*) from pg_largeobject_metadata),
                        (select string_agg(format('%I.%I.%I', n.nspname, c.relname, a.attname), ', '
                                           order by n.nspname, c.relname, a.attnum)
                           from pg_attribute a
                           join pg_class c on c.oid = a.attrelid
                           join pg_namespace n on n.oid = c.relnamespace
                           join pg_type t on t.oid = a.atttypid
                          where c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
                            and t.typname in ('oid', 'lo') and {USER_SCHEMA})"
            ),
            &[],
        )
        .await
        .map_err(Error::reading("the large objects"))?;
    let count: i64 = row.get(0);
    if count == 0 {
        return Ok(vec![Finding::ok("large objects", "none")]);
    }
    let columns: Option<String> = row.get(1);
    let columns = columns.map_or(String::new(), |names| {
        format!("; {names} may refer to them")
    });
    Ok(vec![
        Finding::warning("large objects", format!("there are {count}{columns}"))
            .why("logical decoding does not show them: they stay at the site that wrote them")
            .mend("-- keep the content in a column: alter table … add column content bytea;")
            .mend("-- update … set content = lo_get(…);"),
    ])
}

async fn relations(client: &Client) -> Result<Vec<Finding>, Error> {
    let rows = client
        .query(
            &format!(
                "select format('%I.%I', n.nspname, c.relname), c.relkind::text
                   from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where c.relkind in ('m', 'f') and {USER_SCHEMA} order by 1"
            ),
            &[],
        )
        .await
        .map_err(Error::reading("views and foreign tables"))?;
    Ok(rows
        .iter()
        .map(|row| {
            let name: String = row.get(0);
            if row.get::<_, &str>(1) == "m" {
                Finding::note(
                    format!("materialized view {name}"),
                    "is refreshed by each site",
                )
                .why(format!(
                    "its rows do not travel: run `refresh materialized view {name}` at every site"
                ))
            } else {
                Finding::note(
                    format!("foreign table {name}"),
                    "is read and written elsewhere",
                )
                .why("its rows are not in this database, and do not travel")
            }
        })
        .collect())
}

/// Rows that built-in subscriptions write have an origin, and are therefore not taken for
/// writes of this site.
async fn subscriptions(client: &Client) -> Result<Vec<Finding>, Error> {
    let rows = client
        .query(
            "select quote_ident(s.subname) from pg_subscription s
               join pg_database d on d.oid = s.subdbid
              where d.datname = current_database() order by 1",
            &[],
        )
        .await
        .map_err(Error::reading("the subscriptions"))?;
    Ok(rows
        .iter()
        .map(|row| {
            let name: String = row.get(0);
            Finding::warning(format!("subscription {name}"), "writes into this database")
                .why("what it writes counts as replicated already and is not sent to the other sites")
                .mend(format!("drop subscription {name};"))
        })
        .collect())
}
