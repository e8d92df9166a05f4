//! A local table, as far as replay must know it.

use tokio_postgres::Client;

use super::Error;
use crate::pg::quote::identifier;

/// A local table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `"schema"."name"`, ready for SQL.
    pub quoted: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// The primary key's columns, by name, in the order of their names.
    pub primary_key: Vec<String>,
    /// Every unique index, with its columns or expressions.
    pub unique: Vec<UniqueIndex>,
    /// Whether a trigger fires for what replay writes: then changes are not folded over transactions.
    pub fires_triggers: bool,
    /// Whether it has exclusion constraints.
    pub excludes: bool,
}

/// A column of a local table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its name, quoted for SQL.
    pub quoted: String,
    /// Its type.
    pub type_oid: u32,
    /// The type of arrays of it; 0 if there is none.
    pub array_oid: u32,
    /// Arrays cannot be unnested without losing their shape, so their tables are written row by row.
    pub array: bool,
    /// The element type, for arrays: its oid is part of the binary form.
    pub element_oid: u32,
    /// A composite type: its fields' types are part of the binary form.
    pub composite: bool,
    /// `GENERATED ALWAYS AS (…)`: not written.
    pub generated: bool,
    /// `GENERATED ALWAYS AS IDENTITY`: written once, never updated.
    pub identity_always: bool,
}

/// A unique index.
#[derive(Clone, Debug)]
pub struct UniqueIndex {
    /// Its name.
    pub name: String,
    /// Its columns or expressions, as SQL over the table's columns.
    pub expressions: Vec<String>,
    /// Plain columns it is on, by name, if it has no expressions.
    pub columns: Option<Vec<String>>,
    /// Its predicate, if it is partial.
    pub predicate: Option<String>,
    /// `NULLS NOT DISTINCT`.
    pub nulls_equal: bool,
}

const COLUMNS: &str = "
select a.attname::text, a.atttypid, t.typarray, (t.typelem <> 0 and t.typlen = -1 and t.typsubscript <> 0::regproc
         and t.typcategory = 'A') as array, t.typelem, (t.typtype = 'c') as composite,
       a.attgenerated <> '' as generated, a.attidentity = 'a' as identity_always
  from pg_attribute a join pg_type t on t.oid = a.atttypid
 where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
 order by a.attnum";

const UNIQUE: &str = "
select i.indexrelid::regclass::text, i.indisprimary,
       array(select pg_get_indexdef(i.indexrelid, k, false) from generate_series(1, i.indnkeyatts) k),
       case when 0 = any(i.indkey) then null else
         array(select a.attname::text from unnest(i.indkey) with ordinality u(n, ord)
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.n
                where u.ord <= i.indnkeyatts order by u.ord) end,
       pg_get_expr(i.indpred, i.indrelid), coalesce((to_jsonb(i)->>'indnullsnotdistinct')::bool, false)
  from pg_index i
 where i.indrelid = $1 and i.indisunique and i.indisvalid
 order by i.indexrelid";

impl Table {
    /// Reads the table; `None` if it is not there.
    pub async fn load(client: &Client, schema: &str, name: &str) -> Result<Option<Self>, Error> {
        let quoted = format!("{}.{}", identifier(schema), identifier(name));
        let found = client
            .query_opt(
                "select c.oid, exists (select from pg_trigger g where g.tgrelid = c.oid and g.tgenabled in ('A', 'R')),
                        exists (select from pg_index x where x.indrelid = c.oid and x.indisexclusion)
                   from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')",
                &[&schema, &name],
            )
            .await?;
        let Some(found) = found else { return Ok(None) };
        let oid: u32 = found.get(0);
        let columns = client.query(COLUMNS, &[&oid]).await?;
        let columns = columns
            .iter()
            .map(|r| {
                let name: String = r.get(0);
                Column {
                    quoted: identifier(&name),
                    name,
                    type_oid: r.get(1),
                    array_oid: r.get(2),
                    array: r.get(3),
                    element_oid: r.get(4),
                    composite: r.get(5),
                    generated: r.get(6),
                    identity_always: r.get(7),
                }
            })
            .collect();
        let mut primary_key = Vec::new();
        let mut unique = Vec::new();
        for r in client.query(UNIQUE, &[&oid]).await? {
            let columns: Option<Vec<String>> = r.get(3);
            if r.get(1) {
                primary_key = columns.clone().unwrap_or_default();
                primary_key.sort_unstable();
            }
            let (name, expressions) = (r.get(0), r.get(2));
            unique.push(UniqueIndex {
                name,
                expressions,
                columns,
                predicate: r.get(4),
                nulls_equal: r.get(5),
            });
        }
        let (schema, name) = (schema.to_owned(), name.to_owned());
        Ok(Some(Table {
            schema,
            name,
            quoted,
            columns,
            primary_key,
            unique,
            fires_triggers: found.get(1),
            excludes: found.get(2),
        }))
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }
}
