//! Ordered SQL files, applied once each, all missing ones in one transaction.
//!
//! Two daemons (or a daemon and `everywrite check`) may start at once: an advisory lock lets one
//! work and the other find nothing to do. A file that was applied is never edited; its checksum
//! is kept to notice it.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::admin::Error;

/// One file of `schema/sql`.
struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

/// In order, numbered without gaps. Append only.
const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "tables",
        sql: include_str!("sql/0001_tables.sql"),
    },
    Migration {
        version: 2,
        name: "views",
        sql: include_str!("sql/0002_views.sql"),
    },
    Migration {
        version: 3,
        name: "functions",
        sql: include_str!("sql/0003_functions.sql"),
    },
    Migration {
        version: 4,
        name: "history",
        sql: include_str!("sql/0004_history.sql"),
    },
    Migration {
        version: 5,
        name: "policies",
        sql: include_str!("sql/0005_policies.sql"),
    },
    Migration {
        version: 6,
        name: "merging",
        sql: include_str!("sql/0006_merging.sql"),
    },
    Migration {
        version: 7,
        name: "merged",
        sql: include_str!("sql/0007_merged.sql"),
    },
    Migration {
        version: 8,
        name: "sets",
        sql: include_str!("sql/0008_sets.sql"),
    },
    Migration {
        version: 9,
        name: "left_out",
        sql: include_str!("sql/0009_left_out.sql"),
    },
    Migration {
        version: 10,
        name: "origins",
        sql: include_str!("sql/0010_origins.sql"),
    },
];

/// The advisory lock that one migrating session holds: "evrywrte" in ASCII.
const LOCK_KEY: i64 = 0x6576_7279_7772_7465;

/// Brings the schema to this program's version; does nothing when it is there already.
///
/// # Errors
/// Says what the role lacks, who holds a lock, or that the database belongs to another version;
/// the database is then as it was before.
pub async fn migrate(client: &Client) -> Result<(), Error> {
    // Migrations wait for locks at most 10 s: a queue of application statements forms behind
    // a waiting ALTER, and the daemon tries again anyway.
    client
        .batch_execute(
            "begin;
             set local lock_timeout = '10s';
             set local client_min_messages = 'warning';
             set local search_path = pg_catalog, pg_temp",
        )
        .await
        .map_err(Error::sql("begin setting up schema everywrite"))?;
    let outcome = migrate_in_transaction(client).await;
    let end = if outcome.is_ok() {
        "commit"
    } else {
        "rollback"
    };
    let ended = client
        .batch_execute(end)
        .await
        .map_err(Error::sql("end setting up schema everywrite"));
    // The first error is the one that explains.
    outcome.and(ended)
}

async fn migrate_in_transaction(client: &Client) -> Result<(), Error> {
    client
        .execute("select pg_advisory_xact_lock($1)", &[&LOCK_KEY])
        .await
        .map_err(locked_or("lock schema everywrite for setting it up"))?;
    ensure_schema(client).await?;
    client
        .batch_execute(
            "create table if not exists everywrite.migrations (
                 version     integer primary key,
                 name        text not null,
                 checksum    bigint not null,
                 applied_at  timestamptz not null default clock_timestamp()
             )",
        )
        .await
        .map_err(locked_or("create table everywrite.migrations"))?;
    let applied = client
        .query(
            "select version, checksum from everywrite.migrations order by version",
            &[],
        )
        .await
        .map_err(locked_or("read everywrite.migrations"))?;
    let applied = applied
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<Vec<(i32, i64)>, tokio_postgres::Error>>()
        .map_err(Error::sql("read everywrite.migrations"))?;
    for migration in missing(&applied)? {
        apply(client, migration).await?;
    }
    Ok(())
}

/// What is still to be applied, or why this program must not touch the schema.
fn missing(applied: &[(i32, i64)]) -> Result<&'static [Migration], Error> {
    for &(version, checksum) in applied {
        let known = MIGRATIONS.iter().find(|m| m.version == version);
        let Some(migration) = known else {
            return Err(Error::SchemaNewer {
                found: version,
                known: MIGRATIONS.last().map_or(0, |m| m.version),
            });
        };
        if checksum_of(migration) != checksum {
            return Err(Error::SchemaDiffers {
                version,
                name: migration.name,
            });
        }
    }
    let newest = applied.last().map_or(0, |&(version, _)| version);
    let first = MIGRATIONS.partition_point(|m| m.version <= newest);
    Ok(MIGRATIONS.get(first..).unwrap_or_default())
}

async fn apply(client: &Client, migration: &Migration) -> Result<(), Error> {
    client
        .batch_execute(migration.sql)
        .await
        .map_err(locked_or("apply a migration of schema everywrite"))?;
    client
        .execute(
            "insert into everywrite.migrations (version, name, checksum) values ($1, $2, $3)",
            &[&migration.version, &migration.name, &checksum_of(migration)],
        )
        .await
        .map_err(locked_or("record a migration of schema everywrite"))?;
    tracing::info!(
        version = migration.version,
        name = migration.name,
        "schema everywrite set up"
    );
    Ok(())
}

/// `create schema if not exists` needs the right to create even when there is nothing to do, so
/// look first.
async fn ensure_schema(client: &Client) -> Result<(), Error> {
    let row = client
        .query_one(
            "select quote_ident(current_user),
                    (select quote_ident(pg_get_userbyid(nspowner)) from pg_namespace
                      where nspname = 'everywrite'),
                    (select pg_has_role(nspowner, 'member') from pg_namespace
                      where nspname = 'everywrite')",
            &[],
        )
        .await
        .map_err(Error::sql("look for schema everywrite"))?;
    let read = Error::sql("look for schema everywrite");
    let (role, owner, may_own): (String, Option<String>, Option<bool>) =
        (|| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))().map_err(read)?;
    match (owner, may_own) {
        (Some(owner), Some(false)) => Err(Error::SchemaOfAnother { owner, role }),
        (Some(_), _) => Ok(()),
        (None, _) => client
            .batch_execute("create schema everywrite")
            .await
            .map_err(|source| Error::SchemaMissing { role, source }),
    }
}

fn checksum_of(migration: &Migration) -> i64 {
    i64::from(crc32c::crc32c(migration.sql.as_bytes()))
}

fn locked_or(operation: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
    move |source| {
        if source.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            Error::SchemaLocked(source)
        } else {
            Error::Sql { operation, source }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_gaps() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, index + 1, "{}", migration.name);
        }
    }

    #[test]
    fn refuses_what_another_build_made() {
        let all: Vec<_> = MIGRATIONS
            .iter()
            .map(|m| (m.version, checksum_of(m)))
            .collect();
        assert!(missing(&all).is_ok_and(<[Migration]>::is_empty));
        assert!(missing(&all[..1]).is_ok_and(|m| m.len() == MIGRATIONS.len() - 1));
        let newer = [all.clone(), vec![(99, 0)]].concat();
        assert!(matches!(
            missing(&newer),
            Err(Error::SchemaNewer { found: 99, .. })
        ));
        let differs = [(1, 5)];
        assert!(matches!(
            missing(&differs),
            Err(Error::SchemaDiffers { version: 1, .. })
        ));
    }
}
