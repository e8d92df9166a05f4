//! What may refuse or change a row at replay: exclusion constraints, deferrable ones, foreign
//! keys, triggers and rules that fire on replicas.

use tokio_postgres::Client;

use super::{Error, Finding, USER_SCHEMA};

pub(super) async fn findings(client: &Client) -> Result<Vec<Finding>, Error> {
    let mut found = indexes(client).await?;
    found.extend(foreign_keys(client).await?);
    found.extend(firing(client).await?);
    Ok(found)
}

/// Unique and exclusion indexes that are more than a list of columns.
async fn indexes(client: &Client) -> Result<Vec<Finding>, Error> {
    let rows = client
        .query(
            &format!(
                "select format('%I.%I', n.nspname, c.relname), quote_ident(i.relname),
                        x.indisexclusion, not x.indimmediate,
                        x.indpred is not null, x.indexprs is not null,
                        quote_ident(k.conname), pg_get_constraintdef(k.oid)
                   from pg_index x
                   join pg_class c on c.oid = x.indrelid
                   join pg_class i on i.oid = x.indexrelid
                   join pg_namespace n on n.oid = c.relnamespace
                   left join pg_constraint k on k.conindid = x.indexrelid and k.conrelid = c.oid
                        and k.contype in ('p', 'u', 'x')
                  where c.relkind = 'r' and c.relpersistence = 'p' and {USER_SCHEMA}
                    and (x.indisexclusion
                         or x.indisunique and not x.indisprimary
                            and (not x.indimmediate or x.indpred is not null
                                 or x.indexprs is not null))
                  order by 1, 2"
            ),
            &[],
        )
        .await
        .map_err(Error::reading("the constraints"))?;
    let mut found = Vec::new();
    for row in &rows {
        let (table, index): (String, String) = (row.get(0), row.get(1));
        let (exclusion, deferrable): (bool, bool) = (row.get(2), row.get(3));
        let constraint: Option<String> = row.get(6);
        let definition: Option<String> = row.get(7);
        let name = constraint.clone().unwrap_or_else(|| index.clone());
        let object = format!("constraint {name} on {table}");
        if exclusion {
            found.push(
                Finding::warning(object, "excludes by more than equality")
                    .why("two sites can each commit a row that excludes the other's; the second to arrive then stops its origin's stream until a person decides")
                    .mend("-- write such rows at one site only"),
            );
        } else if deferrable {
            let definition = definition.unwrap_or_default();
            let kept = definition.split(" DEFERRABLE").next().unwrap_or("");
            found.push(
                Finding::warning(object, "is deferrable")
                    .why("a collision between two sites is seen only at the end of a transaction, and costs a retry of all of it")
                    .mend(format!(
                        "alter table {table} drop constraint {name}, add constraint {name} {kept};"
                    )),
            );
        } else {
            let what = if row.get(4) {
                "is unique for a part of the rows"
            } else {
                "is unique by an expression"
            };
            found.push(
                Finding::note(format!("index {index} on {table}"), what)
                    .why("collisions between sites are found when PostgreSQL refuses a row, and cost a retry"),
            );
        }
    }
    Ok(found)
}

async fn foreign_keys(client: &Client) -> Result<Vec<Finding>, Error> {
    let row = client
        .query_one(
            &format!(
                "select count(*) from pg_constraint k
                   join pg_namespace n on n.oid = k.connamespace
                  where k.contype = 'f' and k.conparentid = 0 and {USER_SCHEMA}"
            ),
            &[],
        )
        .await
        .map_err(Error::reading("the foreign keys"))?;
    let count: i64 = row.get(0);
    if count == 0 {
        return Ok(Vec::new());
    }
    Ok(vec![
        Finding::note("foreign keys", format!("there are {count}"))
            .why("each site checks its own writes, replay checks none: one site can delete a parent while another adds a child. Cascades travel as the rows they changed"),
    ])
}

/// Triggers and rules that run in a replay session.
async fn firing(client: &Client) -> Result<Vec<Finding>, Error> {
    let rows = client
        .query(
            &format!(
                "select 'trigger', format('%I.%I', n.nspname, c.relname), quote_ident(g.tgname),
                        g.tgenabled::text
                   from pg_trigger g join pg_class c on c.oid = g.tgrelid
                   join pg_namespace n on n.oid = c.relnamespace
                  where not g.tgisinternal and g.tgenabled in ('R', 'A')
                    and c.relkind in ('r', 'p') and {USER_SCHEMA}
                 union all
                 select 'rule', format('%I.%I', n.nspname, c.relname), quote_ident(r.rulename),
                        r.ev_enabled::text
                   from pg_rewrite r join pg_class c on c.oid = r.ev_class
                   join pg_namespace n on n.oid = c.relnamespace
                  where r.ev_enabled in ('R', 'A') and c.relkind in ('r', 'p') and {USER_SCHEMA}
                  order by 2, 3"
            ),
            &[],
        )
        .await
        .map_err(Error::reading("triggers and rules"))?;
    Ok(rows
        .iter()
        .map(|row| {
            let (kind, table, name): (String, String, String) =
                (row.get(0), row.get(1), row.get(2));
            let when = if row.get::<_, &str>(3) == "A" {
                "fires at replay too (enable always)"
            } else {
                "fires at replay only (enable replica)"
            };
            Finding::warning(format!("{kind} {name} on {table}"), when)
                .why("what it writes has been written at the origin already and arrives by itself; here it would be written twice, and what it changes stays at this site. It also keeps the table out of set-based replay")
                .mend(format!("alter table {table} enable {kind} {name};"))
        })
        .collect())
}
