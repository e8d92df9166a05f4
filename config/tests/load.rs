//! What a good file gives.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use everywrite_config::{LogFormat, Peer, Settings, Size, SslMode, Template};
use secrecy::ExposeSecret as _;

const PATH: &str = "/etc/everywrite/everywrite.toml";

const SMALLEST: &str = r#"
[node]
id = 1
name = "amsterdam"
cluster = "shop"
data-directory = "data"
[postgres]
database = "shop"
"#;

fn parse(text: &str) -> Settings {
    Settings::parse(text, Path::new(PATH)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn defaults() {
    let settings = parse(SMALLEST);
    assert_eq!(settings.node.id, 1);
    assert_eq!(settings.postgres.host, "/var/run/postgresql");
    assert!(settings.postgres.unix_socket());
    assert_eq!(settings.postgres.port, 5432);
    assert_eq!(settings.postgres.user, "everywrite");
    assert_eq!(settings.postgres.sslmode, SslMode::Prefer);
    assert!(settings.postgres.password.is_none());
    assert_eq!(settings.listen.link.to_string(), "0.0.0.0:7400");
    assert_eq!(settings.listen.admin.to_string(), "127.0.0.1:7401");
    assert!(settings.peers.is_empty());
    assert_eq!(settings.replication.max_clock_skew, Duration::from_secs(10));
    assert_eq!(settings.replication.group_transactions, 5000);
    assert_eq!(settings.replication.group_bytes.to_string(), "8MiB");
    assert_eq!(settings.journal.segment_size, Size::from_bytes(64 << 20));
    assert_eq!(settings.journal.longest_round, Duration::from_millis(25));
    assert_eq!(settings.journal.quota, None);
    assert_eq!(
        settings.conflicts.history_keep,
        Duration::from_secs(30 * 86_400)
    );
    assert_eq!(settings.log.format, LogFormat::Text);
    assert_eq!(settings.log.filter, "info");
}

#[test]
fn the_defaults_of_postgres_are_those_of_the_file() {
    let mut from_file = parse(SMALLEST).postgres;
    from_file.database = "postgres".to_owned();
    let built_in = everywrite_config::Postgres::default();
    assert_eq!(format!("{from_file:?}"), format!("{built_in:?}"));
}

#[test]
fn everything_set_and_relative_paths_from_the_files_folder() {
    let settings = parse(
        r#"
[node]
id = 3
name = "chicago"
cluster = "shop"
data-directory = "/srv/everywrite"
[postgres]
host = "db.example"
port = 5433
user = "ew"
database = "shop"
password-file = "pw"
sslmode = "verify-full"
ca-file = "pg-ca.crt"
certificate = "pg.crt"
key = "pg.key"
[listen]
link = "[::]:7500"
admin = "localhost:0"
[tls]
ca = "tls/ca.crt"
certificate = "tls/node.crt"
key = "/secret/node.key"
[[peer]]
id = 1
name = "amsterdam"
address = "amsterdam.example:7400"
[[peer]]
id = 2
name = "berlin"
address = "[fd00::2]:7400"
[replication]
max-clock-skew = "1500ms"
group-transactions = 1
group-bytes = "64KiB"
[journal]
segment-size = "16MiB"
quota = "10GiB"
[conflicts]
history-keep = "1h"
[log]
format = "json"
filter = "debug"
"#,
    );
    let in_folder = |path: &str| Path::new("/etc/everywrite").join(path);
    assert_eq!(
        settings.node.data_directory,
        PathBuf::from("/srv/everywrite")
    );
    assert_eq!(settings.postgres.password_file, Some(in_folder("pw")));
    assert_eq!(settings.postgres.ca_file, Some(in_folder("pg-ca.crt")));
    assert_eq!(settings.postgres.certificate, Some(in_folder("pg.crt")));
    assert_eq!(settings.postgres.key, Some(in_folder("pg.key")));
    assert_eq!(settings.tls.ca, in_folder("tls/ca.crt"));
    assert_eq!(settings.tls.certificate, in_folder("tls/node.crt"));
    assert_eq!(settings.tls.key, PathBuf::from("/secret/node.key"));
    assert_eq!(settings.peers.len(), 2);
    assert_eq!(settings.peers[1].address.to_string(), "[fd00::2]:7400");
    assert_eq!(
        settings.replication.max_clock_skew,
        Duration::from_millis(1500)
    );
    assert_eq!(settings.journal.quota, Some(Size::from_bytes(10 << 30)));
    assert_eq!(settings.log.format, LogFormat::Json);
}

fn template() -> Template {
    Template::default()
        .set("node", "id", 1)
        .set("node", "name", "amsterdam")
        .set("node", "cluster", "shop")
        .set("node", "data-directory", "data")
        .set("postgres", "database", "shop")
}

#[test]
fn the_written_file_parses_to_the_defaults() {
    let text = template().render();
    assert_eq!(
        format!("{:#?}", parse(&text)),
        format!("{:#?}", parse(SMALLEST))
    );
}

#[test]
fn the_commented_lines_of_the_written_file_are_the_defaults() {
    let text = template().render();
    let uncommented: String = text
        .lines()
        .filter(|line| !line.contains("peer]]"))
        .map(|line| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            let example_peer = line.starts_with("# id =")
                || line.starts_with("# name =")
                || line.starts_with("# address =");
            let key = bare.split(" = ").next().unwrap_or("");
            let is_key = key.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            if bare.contains(" = ") && is_key && !example_peer {
                format!("{bare}\n")
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    assert!(uncommented.contains("\nsegment-size = \"64MiB\"\n"));
    assert_eq!(
        format!("{:#?}", parse(&uncommented)),
        format!("{:#?}", parse(SMALLEST))
    );
}

#[test]
fn the_written_file_has_the_peers() {
    let peer = Peer {
        id: 2,
        name: "berlin".to_owned(),
        address: "berlin.example:7400".parse().unwrap(),
    };
    let settings = parse(&template().peer(peer).render());
    assert_eq!(settings.peers.len(), 1);
    assert_eq!(settings.peers[0].id, 2);
    assert_eq!(settings.peers[0].address.to_string(), "berlin.example:7400");
}

#[test]
fn secrets_from_a_file_and_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("everywrite.toml");
    fs::write(folder.path().join("pw"), "geheim\nmore\n").unwrap();
    fs::write(&path, format!("{SMALLEST}password-file = \"pw\"\n")).unwrap();
    let settings = Settings::load(&path).unwrap();
    let password = settings.postgres.password.as_ref().unwrap();
    assert_eq!(password.expose_secret(), "geheim");
    assert!(!format!("{settings:?}").contains("geheim"));

    // PATH is there in every environment; tests must not change the environment they share.
    fs::write(&path, format!("{SMALLEST}password = \"${{PATH}}\"\n")).unwrap();
    let settings = Settings::load(&path).unwrap();
    let password = settings.postgres.password.unwrap();
    assert_eq!(password.expose_secret(), std::env::var("PATH").unwrap());

    fs::write(&path, format!("{SMALLEST}password = \"a${{PATH}}\"\n")).unwrap();
    let settings = Settings::load(&path).unwrap();
    let password = settings.postgres.password.unwrap();
    assert_eq!(password.expose_secret(), "a${PATH}", "taken literally");
}
