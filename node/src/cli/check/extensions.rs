//! Extensions: which are fine, which keep tables of their own, which cannot be replicated.

use tokio_postgres::Client;

use super::{Error, Finding, Level};

/// What is known of extensions that need more than "the same version at every site".
const KNOWN: [(&str, Level, &str); 20] = [
    (
        "timescaledb",
        Level::Error,
        "its chunks are tables that it makes at each site by itself, under names of its own",
    ),
    (
        "citus",
        Level::Error,
        "its rows are spread over other servers, and do not pass through this one's WAL",
    ),
    (
        "pglogical",
        Level::Error,
        "it is another replication system: both would send each other's rows",
    ),
    (
        "spock",
        Level::Error,
        "it is another replication system: both would send each other's rows",
    ),
    (
        "bdr",
        Level::Error,
        "it is another replication system: both would send each other's rows",
    ),
    (
        "pg_cron",
        Level::Warning,
        "its jobs are rows of a table, and travel: every site would run every job",
    ),
    (
        "pg_partman",
        Level::Warning,
        "its settings travel, the partitions it makes do not: make partitions at every site before their rows come",
    ),
    (
        "pgmq",
        Level::Warning,
        "its queues are tables, and travel: every site would hand out every message",
    ),
    (
        "pgq",
        Level::Warning,
        "its queues are tables, and travel: every site would hand out every message",
    ),
    (
        "age",
        Level::Warning,
        "its graphs are tables made by functions: make each graph at every site",
    ),
    (
        "pg_repack",
        Level::Note,
        "it swaps tables: run it at one site at a time",
    ),
    (
        "pg_squeeze",
        Level::Note,
        "it swaps tables, and uses slots of its own: count them in max_replication_slots",
    ),
    (
        "postgis",
        Level::Note,
        "its types travel; rows that you add to spatial_ref_sys travel too",
    ),
    (
        "postgis_topology",
        Level::Warning,
        "its topologies are schemas made by functions: make each at every site",
    ),
    (
        "lo",
        Level::Note,
        "it manages large objects, which do not travel",
    ),
    (
        "dblink",
        Level::Note,
        "what it writes elsewhere does not travel",
    ),
    (
        "postgres_fdw",
        Level::Note,
        "what is written to foreign tables does not travel",
    ),
    (
        "file_fdw",
        Level::Note,
        "its tables are files of this machine",
    ),
    (
        "anon",
        Level::Note,
        "its masking is done at each site by itself",
    ),
    (
        "pgaudit",
        Level::Note,
        "it logs what applications do here, and what replay does",
    ),
];

/// Types, operators, functions and views without state: nothing to heed.
const HARMLESS: [&str; 39] = [
    "amcheck",
    "auto_explain",
    "autoinc",
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "hypopg",
    "insert_username",
    "intagg",
    "intarray",
    "isn",
    "ltree",
    "moddatetime",
    "pageinspect",
    "pg_buffercache",
    "pg_freespacemap",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_trgm",
    "pg_visibility",
    "pg_walinspect",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    "plpgsql",
    "seg",
    "sslinfo",
    "tablefunc",
    "tsm_system_rows",
    "unaccent",
    "uuid-ossp",
    "vector",
];

pub(super) async fn findings(client: &Client) -> Result<Vec<Finding>, Error> {
    let rows = client
        .query(
            "select e.extname::text, e.extversion,
                    (select string_agg(format('%I.%I', n.nspname, c.relname), ', ' order by 1)
                       from pg_depend d
                       join pg_class c on c.oid = d.objid
                       join pg_namespace n on n.oid = c.relnamespace
                      where d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
                        and d.classid = 'pg_class'::regclass and d.deptype = 'e'
                        and c.relkind in ('r', 'p') and c.relpersistence = 'p')
               from pg_extension e order by 1",
            &[],
        )
        .await
        .map_err(Error::reading("the extensions"))?;
    let mut found = Vec::new();
    let mut harmless = Vec::new();
    for row in &rows {
        let (name, version): (String, String) = (row.get(0), row.get(1));
        let tables: Option<String> = row.get(2);
        let object = format!("extension {name}");
        if let Some((_, level, why)) = KNOWN.into_iter().find(|(known, ..)| *known == name) {
            let what = match &tables {
                Some(tables) => format!("{version}, keeps {tables}"),
                None => version,
            };
            let mut finding = Finding::note(object, what).why(why);
            finding.level = level;
            found.push(finding);
        } else if HARMLESS.contains(&name.as_str()) {
            harmless.push(format!("{name} {version}"));
        } else if let Some(tables) = tables {
            found.push(
                Finding::warning(object, format!("{version}, keeps {tables}")).why(
                    "these tables are replicated like any other: every site has the rows of all",
                ),
            );
        } else {
            found.push(
                Finding::note(object, version)
                    .why("not known to this program; install the same version at every site"),
            );
        }
    }
    if !harmless.is_empty() {
        found.push(Finding::ok(
            "extensions",
            format!("{}: the same at every site", harmless.join(", ")),
        ));
    }
    Ok(found)
}
