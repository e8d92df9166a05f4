//! Columns whose values do not travel well, and keys whose equality is not that of their bytes.

use tokio_postgres::Client;

use super::{Error, Finding, USER_SCHEMA};

/// Types whose binary form is the number of a catalog row, which each server chooses by itself.
const CATALOG_NUMBERS: [&str; 11] = [
    "regclass",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
];

/// For each column's type: itself and all it is made of (elements, fields, bounds, base types).
const PARTS: &str = "
    parts(root, part) as (
        select distinct a.atttypid, a.atttypid from columns a
        union
        select p.root, made_of.part
          from parts p join pg_type t on t.oid = p.part,
               lateral (
                   select t.typelem where t.typelem <> 0 and t.typlen = -1
                   union all select t.typbasetype where t.typtype = 'd'
                   union all select f.atttypid from pg_attribute f
                              where t.typtype = 'c' and f.attrelid = t.typrelid
                                and f.attnum > 0 and not f.attisdropped
                   union all select r.rngsubtype from pg_range r where r.rngtypid = t.oid
                   union all select r.rngtypid from pg_range r where r.rngmultitypid = t.oid
               ) as made_of(part)
    )";

pub(super) async fn findings(client: &Client) -> Result<Vec<Finding>, Error> {
    let mut found = travel(client).await?;
    found.extend(keys(client).await?);
    Ok(found)
}

async fn travel(client: &Client) -> Result<Vec<Finding>, Error> {
    let rows = client
        .query(
            &format!(
                "with recursive columns as (
                     select c.oid, a.attname, a.atttypid,
                            format('%I.%I', n.nspname, c.relname) as named
                       from pg_class c
                       join pg_namespace n on n.oid = c.relnamespace
                       join pg_attribute a on a.attrelid = c.oid
                      where c.relkind = 'r' and c.relpersistence = 'p' and {USER_SCHEMA}
                        and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                 ), {PARTS}
                 select a.named, quote_ident(a.attname), format_type(a.atttypid, null),
                        t.typsend <> 0, bool_or(p.typsend = 0 or p.typreceive = 0),
                        max(format_type(p.oid, null)) filter (where p.typsend = 0 or p.typreceive = 0),
                        bool_or(p.oid < 16384 and p.typname = any($1::text[]))
                   from columns a
                   join pg_type t on t.oid = a.atttypid
                   join parts on parts.root = a.atttypid
                   join pg_type p on p.oid = parts.part
                  group by a.named, a.attname, a.atttypid, t.typsend
                 having bool_or(p.typsend = 0 or p.typreceive = 0)
                     or bool_or(p.oid < 16384 and p.typname = any($1::text[]))
                  order by 1, 2"
            ),
            &[&CATALOG_NUMBERS.as_slice()],
        )
        .await
        .map_err(Error::reading("the columns' types"))?;
    let mut found = Vec::new();
    for row in &rows {
        let (table, column, kind): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let object = format!("column {table}.{column}");
        let as_text =
            format!("alter table {table} alter column {column} type text using {column}::text;");
        let (sends, lacks): (bool, bool) = (row.get(3), row.get(4));
        if lacks && !sends {
            found.push(
                Finding::warning(
                    object.clone(),
                    format!("the type {kind} has no binary form"),
                )
                .why("its values travel as text, and its table is replayed row by row: slower")
                .mend(as_text.clone()),
            );
        } else if lacks {
            let part: String = row.get(5);
            found.push(
                Finding::error(object.clone(), format!("{kind} contains {part}, which has no binary form"))
                    .why("PostgreSQL cannot send such a value: the first one would stop the stream of this site for good")
                    .mend(as_text.clone()),
            );
        }
        if row.get(6) {
            found.push(
                Finding::warning(
                    object,
                    format!("{kind} holds numbers of this server's catalogs"),
                )
                .why("the same number means another object, or none, at another site")
                .mend(as_text),
            );
        }
    }
    Ok(found)
}

/// Columns of unique indexes for which equal values may have different bytes.
async fn keys(client: &Client) -> Result<Vec<Finding>, Error> {
    let rows = client
        .query(
            &format!(
                "with recursive columns as (
                     select a.attrelid, a.attnum, a.atttypid, a.attcollation,
                            case when t.typtype = 'd' then t.typtypmod else a.atttypmod end as mod,
                            format('%I.%I', n.nspname, c.relname) as named, a.attname,
                            bool_or(x.indisprimary or x.indisreplident) as identity
                       from pg_class c
                       join pg_namespace n on n.oid = c.relnamespace
                       join pg_index x on x.indrelid = c.oid and x.indisunique
                       join pg_attribute a on a.attrelid = c.oid
                            and a.attnum = any (x.indkey[:x.indnkeyatts - 1])
                       join pg_type t on t.oid = a.atttypid
                      where c.relkind = 'r' and c.relpersistence = 'p' and {USER_SCHEMA}
                      group by 1, 2, 3, 4, 5, 6, 7
                 ), {PARTS}
                 select a.named, quote_ident(a.attname), format_type(a.atttypid, null), a.identity,
                        coalesce(bool_or(not l.collisdeterministic), false),
                        bool_or(p.typname in ('citext', 'jsonb', 'interval', 'timetz')
                                or p.typname = 'bpchar' and a.mod = -1),
                        bool_or(p.typname in ('float4', 'float8')
                                or p.typname = 'numeric' and a.mod = -1)
                   from columns a
                   join parts on parts.root = a.atttypid
                   join pg_type p on p.oid = parts.part
                   left join pg_collation l on l.oid = a.attcollation
                  group by a.named, a.attname, a.atttypid, a.identity
                  order by 1, 2"
            ),
            &[],
        )
        .await
        .map_err(Error::reading("the columns of keys"))?;
    let mut found = Vec::new();
    for row in &rows {
        let (table, column, kind): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let object = format!("column {table}.{column}");
        let key = if row.get(3) {
            "the key"
        } else {
            "a unique index"
        };
        let why = "between sites keys are compared by their bytes: two spellings of one value, written at two sites at once, are not seen as one key until PostgreSQL refuses the second";
        if row.get(4) {
            found.push(
                Finding::warning(
                    object,
                    format!("is in {key} with a nondeterministic collation"),
                )
                .why(why)
                .mend(format!(
                    "alter table {table} alter column {column} type text collate \"C\";"
                ))
                .mend(
                    "-- and a unique index on lower(…) where upper and lower case shall be equal",
                ),
            );
        } else if row.get(5) {
            found.push(
                Finding::warning(object, format!("is in {key} with type {kind}"))
                    .why(why)
                    .mend("-- write one spelling only, or choose a type whose equal values are the same bytes, such as text, uuid or bigint"),
            );
        } else if row.get(6) {
            found.push(
                Finding::note(object, format!("is in {key} with type {kind}")).why(
                    "1.0 and 1.00 (and -0 and 0) are equal and differ in their bytes: write one spelling only, or give numeric a scale",
                ),
            );
        }
    }
    Ok(found)
}
