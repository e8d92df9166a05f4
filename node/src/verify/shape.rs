//! A table as the answering site has it, and the SQL made of it.
//!
//! The asking site sends names only; types, operators and quoting come from the own catalog, so a
//! question cannot say more than the role could read anyway, and sites may differ in what does not
//! matter (order of columns, widths of types).

use tokio_postgres::Client;

use super::error::Error;
use super::question::{Range, Spec};
use crate::pg::quote::identifier;

/// Every replicated table: name, key columns in the order of their index, replicated columns by
/// name, rows as the planner knows them, and what decides how the keys sort.
pub(super) const TABLES: &str = r#"
with published as (
  select c.oid, n.nspname::text as schema, c.relname::text as name, c.relreplident, c.reltuples, c.relpages
    from pg_get_publication_tables('everywrite') p
    join pg_class c on c.oid = p.relid
    join pg_namespace n on n.oid = c.relnamespace
   where n.nspname <> 'everywrite' and c.relkind = 'r')
select c.schema, c.name,
       coalesce((select array_agg(a.attname::text order by u.ord)
                   from pg_index i
                  cross join unnest(i.indkey::int2[]) with ordinality u(attnum, ord)
                   join pg_attribute a on a.attrelid = c.oid and a.attnum = u.attnum
                  where i.indrelid = c.oid and i.indisvalid and u.ord <= i.indnkeyatts
                    and case c.relreplident when 'i' then i.indisreplident when 'n' then false
                             else i.indisprimary end), '{}') as key,
       coalesce((select array_agg(a.attname::text order by a.attname::text collate "C")
                   from pg_attribute a
                  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''), '{}') as columns,
       coalesce((select array_agg(format_type(a.atttypid, a.atttypmod) order by a.attname::text collate "C")
                   from pg_attribute a
                  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''), '{}') as types,
       greatest(c.reltuples, 0)::bigint as rows,
       coalesce((select string_agg(case
                    when t.typtype = 'e' then (select string_agg(e.enumlabel, ',' order by e.enumsortorder)
                                                 from pg_enum e where e.enumtypid = t.oid)
                    when a.attcollation = 0 then ''
                    when a.attcollation = 100 then
                      (select concat_ws('/', to_jsonb(d)->>'datlocprovider', d.datcollate,
                                        to_jsonb(d)->>'daticulocale', to_jsonb(d)->>'datlocale',
                                        pg_database_collation_actual_version(d.oid))
                         from pg_database d where d.datname = current_database())
                    else (select concat_ws('/', l.collprovider::text, l.collcollate, to_jsonb(l)->>'colliculocale',
                                           to_jsonb(l)->>'colllocale', pg_collation_actual_version(l.oid))
                            from pg_collation l where l.oid = a.attcollation) end, ';' order by u.ord)
                   from pg_index i
                  cross join unnest(i.indkey::int2[]) with ordinality u(attnum, ord)
                   join pg_attribute a on a.attrelid = c.oid and a.attnum = u.attnum
                   join pg_type t on t.oid = a.atttypid
                  where i.indrelid = c.oid and i.indisvalid and u.ord <= i.indnkeyatts
                    and case c.relreplident when 'i' then i.indisreplident when 'n' then false
                             else i.indisprimary end), '') as sorted_by
  from published c
 order by 1, 2"#;

/// The columns of one published table.
const COLUMNS: &str = "
select a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid, t.typlen = -1, t.typsend <> 0, a.attidentity = 'a'
  from pg_get_publication_tables('everywrite') p
  join pg_class c on c.oid = p.relid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  join pg_type t on t.oid = a.atttypid
 where n.nspname = $1 and c.relname = $2 and n.nspname <> 'everywrite' and c.relkind = 'r'";

/// Schemas with the operators of the types of some columns, if they are not the server's own.
const OPERATOR_SCHEMAS: &str = "
select distinct n.nspname::text
  from unnest($1::oid[]) as k(typ)
  join pg_type t on t.oid = k.typ
  join pg_opclass o on o.opcintype = coalesce(nullif(t.typbasetype, 0), t.oid) and o.opcdefault
  join pg_am m on m.oid = o.opcmethod and m.amname = 'btree'
  join pg_amop x on x.amopfamily = o.opcfamily and x.amoplefttype = o.opcintype and x.amoprighttype = o.opcintype
  join pg_operator r on r.oid = x.amopopr
  join pg_namespace n on n.oid = r.oprnamespace
 where n.nspname <> 'pg_catalog'";

/// A column that is compared.
struct Column {
    quoted: String,
    /// For casts from text.
    type_name: String,
    type_oid: u32,
    /// Of variable length: may be stored out of line.
    varlena: bool,
    /// Has a binary form.
    binary: bool,
    identity_always: bool,
}

/// A table at this site, as far as a question is about it.
pub(super) struct Shape {
    quoted: String,
    key: Vec<Column>,
    columns: Vec<Column>,
    by_hash: bool,
    /// For the types' operators.
    pub(super) search_path: String,
}

impl Shape {
    /// What `spec` is here.
    ///
    /// # Errors
    /// One line for a person at the other site: the table or a column is not here.
    pub(super) async fn load(client: &Client, spec: &Spec) -> Result<Self, Error> {
        let name = format!("{}.{}", spec.schema, spec.table);
        let found = client.query(COLUMNS, &[&spec.schema, &spec.table]).await?;
        if found.is_empty() {
            return Err(Error::Refused(format!(
                "the table {name} is not published here"
            )));
        }
        let column = |wanted: &String| {
            let row = found.iter().find(|row| row.get::<_, &str>(0) == wanted);
            let row = row.ok_or_else(|| {
                Error::Refused(format!("the table {name} has no column {wanted} here"))
            })?;
            Ok::<_, Error>(Column {
                quoted: identifier(wanted),
                type_name: row.get(1),
                type_oid: row.get(2),
                varlena: row.get(3),
                binary: row.get(4),
                identity_always: row.get(5),
            })
        };
        let key: Vec<Column> = spec.key.iter().map(column).collect::<Result<_, _>>()?;
        let columns: Vec<Column> = spec.columns.iter().map(column).collect::<Result<_, _>>()?;
        if key.is_empty() || columns.is_empty() {
            return Err(Error::Refused(format!(
                "a question about {name} names no key"
            )));
        }
        let types: Vec<u32> = key.iter().map(|c| c.type_oid).collect();
        let mut path = vec!["pg_catalog".to_owned()];
        for row in client.query(OPERATOR_SCHEMAS, &[&types]).await? {
            path.push(identifier(row.get(0)));
        }
        path.push("pg_temp".to_owned());
        Ok(Shape {
            quoted: format!("{}.{}", identifier(&spec.schema), identifier(&spec.table)),
            key,
            columns,
            by_hash: spec.by_hash,
            search_path: path.join(", "),
        })
    }

    /// Types of the key's columns, if all of them have a binary form.
    pub(super) fn binary_key(&self) -> Option<Vec<u32>> {
        let all = self.key.iter().all(|c| c.binary);
        all.then(|| self.key.iter().map(|c| c.type_oid).collect())
    }

    /// Columns in a key.
    pub(super) fn key_columns(&self) -> usize {
        self.key.len()
    }

    /// Columns in a place between keys: ranges of a hash have one.
    pub(super) fn place_columns(&self) -> usize {
        self.order().len()
    }

    /// What ranges are of: (expression over the table, type).
    fn order(&self) -> Vec<(String, &str)> {
        if self.by_hash {
            // The hash only sorts; that it is another one on a machine with another byte order is
            // no worse than another collation.
            let columns: Vec<&str> = self.key.iter().map(|c| c.quoted.as_str()).collect();
            let hash = format!("hashtextextended(row({})::text, 7)", columns.join(", "));
            return vec![(hash, "bigint")];
        }
        self.key
            .iter()
            .map(|c| (c.quoted.clone(), c.type_name.as_str()))
            .collect()
    }

    /// ` where …` with a parameter for each value of `after` and `upto`, in this order.
    fn within(&self, range: &Range) -> String {
        let order = self.order();
        let left: Vec<&str> = order.iter().map(|(e, _)| e.as_str()).collect();
        let mut conditions = Vec::new();
        let mut n = 0;
        for (operator, place) in [(">", &range.after), ("<=", &range.upto)] {
            if place.is_none() {
                continue;
            }
            let right: Vec<String> = order
                .iter()
                .map(|(_, type_name)| {
                    n += 1;
                    format!("${n}::text::{type_name}")
                })
                .collect();
            conditions.push(format!(
                "({}) {operator} ({})",
                left.join(", "),
                right.join(", ")
            ));
        }
        if conditions.is_empty() {
            String::new()
        } else {
            format!(" where {}", conditions.join(" and "))
        }
    }

    /// The columns as one text: the same for the same row at every site.
    fn row(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|c| format!("t.{}", c.quoted))
            .collect();
        format!("row({})::text", columns.join(", "))
    }

    /// Each `step`-th place of a range, as texts.
    pub(super) fn boundaries(&self, range: &Range, step: u32, at_most: u32) -> String {
        let order = self.order();
        let names: Vec<String> = (0..order.len()).map(|n| format!("c{n}")).collect();
        let named: Vec<String> = order
            .iter()
            .zip(&names)
            .map(|((e, _), name)| format!("{e} as {name}"))
            .collect();
        let texts: Vec<String> = names.iter().map(|name| format!("{name}::text")).collect();
        let by: Vec<&str> = order.iter().map(|(e, _)| e.as_str()).collect();
        let by = by.join(", ");
        let rows = u64::from(step) * u64::from(at_most);
        format!(
            "select {} from (select {}, row_number() over (order by {by}) as place from only {} as t{} \
             order by {by} limit {rows}) as b where place % {step} = 0 order by place",
            texts.join(", "),
            named.join(", "),
            self.quoted,
            self.within(range),
        )
    }

    /// Number and digest of a range's rows; one more than `at_most` at most.
    pub(super) fn digest(&self, range: &Range, at_most: u32) -> String {
        format!(
            "select count(*), coalesce(bit_xor(h), 0) from (select hashtextextended({}, 0) as h \
             from only {} as t{} limit {}) as r",
            self.row(),
            self.quoted,
            self.within(range),
            u64::from(at_most) + 1,
        )
    }

    /// The key's columns as texts, then the row's hash.
    pub(super) fn hashes(&self, range: &Range, at_most: u32) -> String {
        let texts: Vec<String> = self
            .key
            .iter()
            .map(|c| format!("t.{}::text", c.quoted))
            .collect();
        format!(
            "select {}, hashtextextended({}, 0) from only {} as t{} limit {}",
            texts.join(", "),
            self.row(),
            self.quoted,
            self.within(range),
            u64::from(at_most) + 1,
        )
    }

    /// One row for each key, in order: xmin, SHA-256, beginning, commit time in µs since 2000 and
    /// origin; then the key's columns in binary, if they have such a form. Parameters: an array of
    /// texts for each column of the key, and how many characters are shown.
    pub(super) fn read(&self) -> String {
        let width = self.key.len();
        let arrays: Vec<String> = (1..=width).map(|n| format!("${n}::text[]")).collect();
        let names: Vec<String> = (0..width).map(|n| format!("c{n}")).collect();
        let cast = |n: usize, c: &Column| format!("w.c{n}::{}", c.type_name);
        let same: Vec<String> = self
            .key
            .iter()
            .enumerate()
            .map(|(n, c)| format!("t.{} = {}", c.quoted, cast(n, c)))
            .collect();
        let binary: String = match self.binary_key() {
            Some(_) => self
                .key
                .iter()
                .enumerate()
                .map(|(n, c)| format!(", {}", cast(n, c)))
                .collect(),
            None => String::new(),
        };
        // Row by row by way of the index, also where the server believes that the table has one row and that
        // comparing all with all is as cheap. And the row's text is made once: it may be large.
        format!(
            "select r.xmin, sha256(convert_to(r.whole, 'UTF8')), left(r.whole, ${shown}::int), \
             (extract(epoch from r.at) * 1000000)::bigint - 946684800000000, r.origin, r.ours{binary} \
             from unnest({arrays}) with ordinality as w({names}, n) \
             left join lateral ( \
               select t.xmin::text::bigint as xmin, {row} as whole, c.\"timestamp\" as at, \
                 (select o.roname from pg_replication_origin o where o.roident = c.roident)::text as origin, \
                 c.roident = 0 as ours \
               from only {table} as t \
               left join lateral pg_xact_commit_timestamp_origin(t.xmin) as c on true \
               where {same} offset 0) as r on true \
             order by w.n",
            shown = width + 1,
            row = self.row(),
            arrays = arrays.join(", "),
            names = names.join(", "),
            table = self.quoted,
            same = same.join(" and "),
        )
    }

    /// Keys in about so many entries of the conflict history, whole sets of them: of the key itself and of both rows. First
    /// the last batch, also where none of its entries has a key: then the rest is null. Parameters: schema, table, the
    /// batch behind which to begin.
    pub(super) fn history(&self, spec: &Spec, at_most: u32) -> String {
        let value = |n: usize, c: &Column| {
            let name = spec.key.get(n).map_or("", String::as_str);
            let name = name.replace('\'', "''");
            (format!("v.j->>'{name}'"), c.type_name.clone())
        };
        let values: Vec<(String, String)> = self
            .key
            .iter()
            .enumerate()
            .map(|(n, c)| value(n, c))
            .collect();
        let named: Vec<String> = (0..)
            .zip(&values)
            .map(|(n, (v, type_name))| format!("({v})::{type_name}::text as c{n}"))
            .collect();
        let whole: Vec<String> = values
            .iter()
            .map(|(v, _)| format!("({v}) is not null"))
            .collect();
        format!(
            "with b as (select max(n.batch) as last \
               from (select u.batch, sum(u.entries) over (order by u.batch) - u.entries as before from ( \
                 (select id as batch, 1 as entries from everywrite.conflict_history \
                   where schema_name = $1 and table_name = $2 and id > $3 order by id limit {at_most}) \
                 union all \
                 (select last_id, entries from everywrite.conflict_sets \
                   where schema_name = $1 and table_name = $2 and last_id > $3 order by last_id limit {at_most})) u) n \
               where n.before < {at_most}), \
             h as materialized (select e.key, e.local_row, e.incoming_row from everywrite.conflict_entries e \
               where e.schema_name = $1 and e.table_name = $2 and e.batch > $3 \
                 and e.batch <= (select b.last from b)), \
             k as (select distinct {} from h cross join lateral (values (h.key), (h.local_row), (h.incoming_row)) as v(j) \
               where jsonb_typeof(v.j) = 'object' and {}) \
             select b.last, k.* from b left join k on true",
            named.join(", "),
            whole.join(" and "),
        )
    }

    /// Writes a row anew as it is, or removes it. Parameters: the key's texts, then xmin as text.
    /// `None` if there is no column that may be written.
    pub(super) fn repair(&self, delete: bool) -> Option<String> {
        let width = self.key.len();
        let mut conditions: Vec<String> = self
            .key
            .iter()
            .enumerate()
            .map(|(n, c)| format!("t.{} = ${}::text::{}", c.quoted, n + 1, c.type_name))
            .collect();
        conditions.push(format!("t.xmin::text = ${}", width + 1));
        let conditions = conditions.join(" and ");
        if delete {
            return Some(format!(
                "delete from only {} as t where {conditions}",
                self.quoted
            ));
        }
        // The way over a text that is put together anew makes values that are stored out of line
        // travel whole: the stream leaves out those that an update does not touch.
        let mut set: Vec<String> = self
            .columns
            .iter()
            .filter(|c| c.varlena && !c.identity_always)
            .map(|c| format!("{0} = (t.{0}::text || '')::{1}", c.quoted, c.type_name))
            .collect();
        if set.is_empty() {
            let any = self.columns.iter().find(|c| !c.identity_always)?;
            set.push(format!("{0} = t.{0}", any.quoted));
        }
        Some(format!(
            "update only {} as t set {} where {conditions}",
            self.quoted,
            set.join(", ")
        ))
    }
}

/// The values of a range's places, in the order of [`Shape::within`]'s parameters.
pub(super) fn places(range: &Range) -> Vec<&String> {
    range
        .after
        .iter()
        .chain(&range.upto)
        .flat_map(|key| &key.values)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::answers::SESSION;
    use super::*;
    use crate::pg::test_server::TestServer;

    /// A portion of the history may have no key at all, of an entry written when the key had another name.
    #[tokio::test]
    async fn all_keys_of_the_history_are_found_portion_by_portion() {
        for server in TestServer::all() {
            let client = server.database().await.client().await.unwrap();
            crate::admin::schema::migrate(&client).await.unwrap();
            client
                .batch_execute(
                    "insert into everywrite.conflict_history (site, schema_name, table_name, key, kind, decision)
                     select 1, 'public', 'items', jsonb_build_object(case when n > 2 then 'id' else 'no' end, n),
                            'delete_missing', 'kept local' from generate_series(1, 3) n;
                     insert into everywrite.conflict_sets (last_id, entries, site, schema_name, table_name, kind, decision,
                            local_origin, local_position_origin, incoming_origin, ids, keys, local_rows, incoming_rows,
                            local_stamps, local_position_lsns, incoming_stamps, incoming_position_lsns, incoming_xids)
                     select 10 * b + 2, 2, 1, 'public', 'items', 'update_origin_differs', 'applied', 1, 1, 2,
                            array[10 * b, 10 * b + 2], array[jsonb_build_object('id', b), jsonb_build_object('id', b + 1)],
                            array[null, jsonb_build_object('id', b + 50)], array[null, null]::jsonb[], array[now(), now()],
                            array['0/1', '0/2']::pg_lsn[], array[now(), now()], array['0/1', '0/2']::pg_lsn[], array[1, 2]
                       from generate_series(1, 3) b",
                )
                .await
                .unwrap();
            let shape = Shape {
                quoted: "public.items".to_owned(),
                key: vec![column("id", "bigint", 20)],
                columns: vec![column("id", "bigint", 20)],
                by_hash: false,
                search_path: String::new(),
            };
            let spec = Spec {
                schema: "public".to_owned(),
                table: "items".to_owned(),
                key: vec!["id".to_owned()],
                columns: vec!["id".to_owned()],
                by_hash: false,
            };
            let sql = shape.history(&spec, 2);
            let mut portions = Vec::new();
            let mut after = 0i64;
            loop {
                let asked: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                    [&spec.schema, &spec.table, &after];
                let rows = client.query(&sql, &asked).await.unwrap();
                let last: Option<i64> = rows[0].get(0);
                let keys = rows
                    .iter()
                    .filter_map(|row| row.get::<_, Option<String>>(1));
                let mut keys: Vec<String> = keys.collect();
                keys.sort();
                let Some(last) = last else { break };
                portions.push((last, keys.join(" ")));
                after = last;
            }
            let expected = [(2, ""), (12, "1 2 3 51"), (22, "2 3 52"), (32, "3 4 53")];
            assert_eq!(
                portions,
                expected.map(|(last, keys)| (last, keys.to_owned()))
            );
        }
    }

    fn column(name: &str, type_name: &str, type_oid: u32) -> Column {
        Column {
            quoted: name.to_owned(),
            type_name: type_name.to_owned(),
            type_oid,
            varlena: false,
            binary: true,
            identity_always: false,
        }
    }

    /// A table that was analyzed while it had one row, and has many now.
    #[tokio::test]
    async fn rows_are_read_by_their_keys_whatever_the_statistics_say() {
        for server in TestServer::all() {
            let client = server.database().await.client().await.unwrap();
            client
                .batch_execute(
                    "create table items (id bigint primary key, n int) with (autovacuum_enabled = false);
                     insert into items select k, 0 from generate_series(1, 40000) k;
                     delete from items where id <> 20000;
                     analyze items;
                     insert into items select k, 0 from generate_series(1, 10) k",
                )
                .await
                .unwrap();
            client.batch_execute(SESSION).await.unwrap();
            let shape = Shape {
                quoted: "public.items".to_owned(),
                key: vec![column("id", "bigint", 20)],
                columns: vec![column("id", "bigint", 20), column("n", "integer", 23)],
                by_hash: false,
                search_path: String::new(),
            };
            let keys: Vec<String> = (1..=1000).map(|k| k.to_string()).collect();
            let sql = shape.read();
            let rows = client.query(&sql, &[&keys, &9]).await.unwrap();
            let found: Vec<Option<&str>> = rows.iter().map(|row| row.get(2)).collect();
            let mut expected = vec![None; 1000];
            let texts: Vec<String> = (1..=10).map(|k| format!("({k},0)")).collect();
            for (expected, text) in expected.iter_mut().zip(&texts) {
                *expected = Some(text.as_str());
            }
            assert_eq!(found, expected);
            let plan = format!("explain (costs off) {sql}");
            let plan = client.query(&plan, &[&keys, &9]).await.unwrap();
            let plan: Vec<&str> = plan.iter().map(|line| line.get(0)).collect();
            let has = |part| plan.iter().any(|line| line.contains(part));
            assert!(
                has("Index Cond: (id = ") && !has("Join Filter"),
                "{plan:#?}"
            );
        }
    }
}
