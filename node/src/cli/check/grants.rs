//! What the daemon's role may do, and the exact grants that lack.
//!
//! A role without superuser can do all the daemon does on every supported major, once it has
//! what `essential` lists; only the publication for all tables must be made by a superuser.

use tokio_postgres::Client;

use super::server::Server;
use super::{Error, Finding, USER_SCHEMA};

/// Replay sets the origin of each transaction, and reads back how far it is. By default only
/// superusers may call these.
const FUNCTIONS: [&str; 12] = [
    "pg_replication_origin_create(text)",
    "pg_replication_origin_drop(text)",
    "pg_replication_origin_oid(text)",
    "pg_replication_origin_session_setup(text)",
    "pg_replication_origin_session_reset()",
    "pg_replication_origin_session_is_setup()",
    "pg_replication_origin_session_progress(boolean)",
    "pg_replication_origin_xact_setup(pg_lsn, timestamptz)",
    "pg_replication_origin_xact_reset()",
    "pg_replication_origin_advance(text, pg_lsn)",
    "pg_replication_origin_progress(text, boolean)",
    "pg_show_replication_origin_status()",
];

/// Open to everybody unless somebody closed them.
const PUBLIC_FUNCTIONS: [&str; 8] = [
    "pg_create_logical_replication_slot(name, name, boolean, boolean)",
    "pg_current_wal_lsn()",
    "pg_current_wal_flush_lsn()",
    "pg_current_wal_insert_lsn()",
    "pg_logical_emit_message(boolean, text, bytea)", // 15 and 16
    "pg_logical_emit_message(boolean, text, bytea, boolean)", // since 17
    "pg_xact_commit_timestamp(xid)",
    "pg_xact_commit_timestamp_origin(xid)",
];

const TABLE_PRIVILEGES: &str = "select, insert, update, delete, truncate";

pub(super) async fn findings(client: &Client, server: &Server) -> Result<Vec<Finding>, Error> {
    let mut found = Vec::new();
    if server.superuser {
        let mut note = Finding::note(
            format!("role {}", server.role_ident),
            "is a superuser: it may do everything",
        )
        .why("a role of its own with the grants below is enough, and can break less");
        note.mend = essential(client, "everywrite", server).await?;
        found.push(note);
    } else {
        found.extend(attributes(client, server).await?);
        found.extend(functions(client, server).await?);
        found.extend(tables(client, server).await?);
    }
    found.extend(messages(client, server).await?);
    found.extend(schema(client, server).await?);
    found.extend(publication(client, server).await?);
    Ok(found)
}

/// Everything that a role without superuser needs, to be run by a superuser.
pub(super) async fn essential(
    client: &Client,
    role: &str,
    server: &Server,
) -> Result<Vec<String>, Error> {
    let mut lines = vec![
        format!(
            "create role {role} login replication;  -- and a password, or a line in pg_hba.conf"
        ),
        format!(
            "grant create on database {} to {role};",
            server.database_ident
        ),
        format!("grant set on parameter session_replication_role to {role};"),
        format!(
            "grant execute on function {} to {role};",
            FUNCTIONS.join(", ")
        ),
        format!("grant pg_read_all_stats to {role};"),
    ];
    for row in schemas(client).await? {
        lines.extend(schema_grants(&row.schema, &row.owners, role));
    }
    let protected = client
        .query_one(
            "select exists (select from pg_class where relrowsecurity)",
            &[],
        )
        .await
        .map_err(Error::reading("row security"))?;
    if protected.get(0) {
        lines.push(format!("alter role {role} bypassrls;"));
    }
    lines.push("create publication everywrite for all tables;".to_owned());
    Ok(lines)
}

/// A schema that holds tables, and who owns those.
struct Schema {
    schema: String,
    owners: Vec<String>,
}

async fn schemas(client: &Client) -> Result<Vec<Schema>, Error> {
    let rows = client
        .query(
            &format!(
                "select quote_ident(n.nspname),
                        array_agg(distinct quote_ident(pg_get_userbyid(c.relowner)))
                   from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where c.relkind in ('r', 'p') and {USER_SCHEMA}
                  group by 1 order by 1"
            ),
            &[],
        )
        .await
        .map_err(Error::reading("the schemas"))?;
    Ok(rows
        .iter()
        .map(|row| Schema {
            schema: row.get(0),
            owners: row.get(1),
        })
        .collect())
}

/// The grants for the tables of a schema: those that are there, and those its owners will make.
fn schema_grants(schema: &str, owners: &[String], role: &str) -> Vec<String> {
    let mut lines = vec![
        format!("grant usage on schema {schema} to {role};"),
        format!("grant {TABLE_PRIVILEGES} on all tables in schema {schema} to {role};"),
    ];
    for owner in owners {
        lines.push(format!(
            "alter default privileges for role {owner} in schema {schema} grant {TABLE_PRIVILEGES} on tables to {role};"
        ));
    }
    lines
}

async fn attributes(client: &Client, server: &Server) -> Result<Vec<Finding>, Error> {
    let role = &server.role_ident;
    let row = client
        .query_one(
            "select r.rolreplication, r.rolconnlimit,
                    has_parameter_privilege('session_replication_role', 'set'),
                    pg_has_role('pg_read_all_stats', 'usage')
               from pg_roles r where r.rolname = current_user",
            &[],
        )
        .await
        .map_err(Error::reading("the role's attributes"))?;
    let object = format!("role {role}");
    let mut found = Vec::new();
    let mut check = |allowed: bool, good: &str, bad: &str, why: &str, mend: String| {
        found.push(if allowed {
            Finding::ok(object.clone(), good)
        } else {
            Finding::error(object.clone(), bad).why(why).mend(mend)
        });
    };
    check(
        row.get(0),
        "has the attribute REPLICATION",
        "lacks the attribute REPLICATION",
        "the slot and the stream of changes need it",
        format!("alter role {role} replication;"),
    );
    check(
        row.get(2),
        "may set session_replication_role",
        "may not set session_replication_role",
        "triggers and foreign keys have done their work at the origin; replay must not fire them again",
        format!("grant set on parameter session_replication_role to {role};"),
    );
    check(
        row.get(3),
        "may see all sessions' transactions",
        "may not see other sessions' transactions",
        "everywrite.wait_for() waits until what it waited for is visible to everybody",
        format!("grant pg_read_all_stats to {role};"),
    );
    let limit: i32 = row.get(1);
    // The stream, a few sessions for each peer, the views' and the admin port's.
    if (0..20).contains(&limit) {
        found.push(
            Finding::warning(object, format!("may open {limit} connections only"))
                .why("replay uses several sessions for each peer")
                .mend(format!("alter role {role} connection limit -1;")),
        );
    }
    Ok(found)
}

async fn functions(client: &Client, server: &Server) -> Result<Vec<Finding>, Error> {
    let role = &server.role_ident;
    let names: Vec<&str> = FUNCTIONS.into_iter().chain(PUBLIC_FUNCTIONS).collect();
    let rows = client
        .query(
            "select name, has_function_privilege(p.oid, 'execute')
               from unnest($1::text[]) with ordinality as wanted(name, at)
               left join pg_proc p on p.oid = to_regprocedure(wanted.name)
              order by at",
            &[&names],
        )
        .await
        .map_err(Error::reading("the role's functions"))?;
    let mut lacking = Vec::new();
    for row in &rows {
        // Null: this major has the function with other arguments; the open ones change so.
        if row.get::<_, Option<bool>>(1) == Some(false) {
            lacking.push(row.get::<_, String>(0));
        }
    }
    if lacking.is_empty() {
        return Ok(vec![Finding::ok(
            format!("role {role}"),
            "may call the functions for origins, slots and positions",
        )]);
    }
    Ok(vec![
        Finding::error(
            format!("role {role}"),
            format!("may not call {} functions that replay needs", lacking.len()),
        )
        .why("each transaction of a peer is written together with its origin and position")
        .mend(format!(
            "grant execute on function {} to {role};",
            lacking.join(", ")
        )),
    ])
}

/// Whether every role may write messages that look like the daemon's own.
async fn messages(client: &Client, server: &Server) -> Result<Vec<Finding>, Error> {
    let rows = client
        .query(
            "select p.oid::regprocedure::text, p.proargtypes[2] = 'bytea'::regtype
               from pg_proc p
              where p.pronamespace = 'pg_catalog'::regnamespace
                and p.proname = 'pg_logical_emit_message'
                and has_function_privilege('public', p.oid, 'execute')
              order by 2, 1",
            &[],
        )
        .await
        .map_err(Error::reading("who may write WAL messages"))?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut finding = Finding::warning(
        "function pg_logical_emit_message",
        "may be called by every role",
    )
    .why("a role that may run SQL here can forge the daemon's messages, and with them delete rows at every site, also of tables that it may not write");
    for row in &rows {
        let function: String = row.get(0);
        finding = finding.mend(format!(
            "revoke execute on function {function} from public;"
        ));
        if row.get(1) && !server.superuser {
            finding = finding.mend(format!(
                "grant execute on function {function} to {};",
                server.role_ident
            ));
        }
    }
    Ok(vec![finding])
}

/// Tables the role cannot read and write, one finding for each schema.
async fn tables(client: &Client, server: &Server) -> Result<Vec<Finding>, Error> {
    let role = &server.role_ident;
    let rows = client
        .query(
            &format!(
                "select quote_ident(n.nspname),
                        count(*) filter (where not (
                            has_schema_privilege(n.oid, 'usage')
                            and has_table_privilege(c.oid, 'select')
                            and has_table_privilege(c.oid, 'insert')
                            and has_table_privilege(c.oid, 'update')
                            and has_table_privilege(c.oid, 'delete')
                            and has_table_privilege(c.oid, 'truncate'))),
                        count(*),
                        array_agg(distinct quote_ident(pg_get_userbyid(c.relowner)))
                   from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where c.relkind in ('r', 'p') and c.relpersistence = 'p' and {USER_SCHEMA}
                  group by 1 order by 1"
            ),
            &[],
        )
        .await
        .map_err(Error::reading("the role's privileges on tables"))?;
    let mut found = Vec::new();
    for row in &rows {
        let schema: String = row.get(0);
        let (lacking, all): (i64, i64) = (row.get(1), row.get(2));
        let object = format!("schema {schema}");
        found.push(if lacking == 0 {
            Finding::ok(object, format!("{role} may read and write its {all} tables"))
        } else {
            let what = format!("{role} may not read and write {lacking} of its {all} tables");
            let mut finding = Finding::error(object, what)
                .why("the peers' changes of these tables could not be written; the last statement covers tables that come later");
            let owners: Vec<String> = row.get(3);
            finding.mend = schema_grants(&schema, &owners, role);
            finding
        });
    }
    Ok(found)
}

/// The schema `everywrite`: there and ours, or to be made.
async fn schema(client: &Client, server: &Server) -> Result<Vec<Finding>, Error> {
    let role = &server.role_ident;
    let row = client
        .query_one(
            "select (select pg_has_role(nspowner, 'usage') from pg_namespace where nspname = 'everywrite'),
                    has_database_privilege(current_database(), 'create')",
            &[],
        )
        .await
        .map_err(Error::reading("the schema everywrite"))?;
    let owned: Option<bool> = row.get(0);
    let may_create: bool = row.get(1);
    let object = "schema everywrite";
    Ok(vec![match (owned, may_create) {
        (Some(true), _) => Finding::ok(object, "there"),
        (None, true) => Finding::ok(object, "not there yet: the daemon makes it"),
        (Some(false), _) => Finding::error(object, format!("does not belong to {role}"))
            .why("the daemon keeps its own tables there")
            .mend(format!("alter schema everywrite owner to {role};"))
            .mend("-- and its tables, if there are any: reassign owned by … to …;"),
        (None, false) => Finding::error(object, format!("cannot be made by {role}"))
            .why("the daemon keeps its own tables there")
            .mend(format!(
                "grant create on database {} to {role};",
                server.database_ident
            )),
    }])
}

/// The publication: only a superuser makes one for all tables.
async fn publication(client: &Client, server: &Server) -> Result<Vec<Finding>, Error> {
    let row = client
        .query_opt(
            "select puballtables, pubinsert and pubupdate and pubdelete and pubtruncate, pubviaroot
               from pg_publication where pubname = 'everywrite'",
            &[],
        )
        .await
        .map_err(Error::reading("the publication"))?;
    let object = "publication everywrite";
    let create = "create publication everywrite for all tables;";
    let Some(row) = row else {
        return Ok(vec![if server.superuser {
            Finding::ok(object, "not there yet: the daemon makes it")
        } else {
            Finding::error(object, "is not there")
                .why("only a superuser makes a publication for all tables; run this once as one")
                .mend(create)
        }]);
    };
    if !row.get::<_, bool>(0) {
        return Ok(vec![
            Finding::error(object, "is not for all tables")
                .why("changes of the tables it leaves out would not reach the other sites")
                .mend("drop publication everywrite;")
                .mend(create),
        ]);
    }
    let mut found = Vec::new();
    if !row.get::<_, bool>(1) {
        found.push(
            Finding::error(object, "leaves out some kinds of changes")
                .why("the sites would differ after the first of them")
                .mend("alter publication everywrite set (publish = 'insert, update, delete, truncate');"),
        );
    }
    if row.get::<_, bool>(2) {
        found.push(
            Finding::error(object, "names partitions by their root")
                .why("rows are compared partition by partition")
                .mend("alter publication everywrite set (publish_via_partition_root = false);"),
        );
    }
    if found.is_empty() {
        found.push(Finding::ok(object, "for all tables"));
    }
    Ok(found)
}
