//! `everywrite init`: a commented settings file, the cluster's authority, the node's certificate.
//!
//! The authority is made once, by the first node, and its key stays where it was made: every
//! other node's certificate is issued from it with `--ca-dir`. An existing authority is never
//! overwritten, not even with `--force`: that would lock all other nodes out.
//!
//! Everything is checked before anything is written, so a refused `init` leaves nothing behind.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use everywrite_config::{Address, Peer, Postgres, Settings, SslMode, Template};
use everywrite_conflict::NodeId;
use secrecy::ExposeSecret as _;

use crate::link::certificates;

mod files;
#[cfg(test)]
mod tests;

use files::Planned;

/// How long a node's certificate is valid: `init --force` renews it at any time.
const CERTIFICATE_DAYS: u32 = 5 * 365;

const SETTINGS: &str = "everywrite.toml";
const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CERTIFICATE: &str = "node.crt";
const KEY: &str = "node.key";
const PASSWORD: &str = "postgres.password";

/// Writes a node's settings file and certificates.
#[derive(Args, Clone, Debug)]
pub struct InitArgs {
    /// The node's number, 1 to 65535: unique in the cluster and never given to another node
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..))]
    pub node_id: u16,
    /// The node's name for people, such as the site's
    #[arg(long)]
    pub name: String,
    /// The cluster's name, the same at all nodes
    #[arg(long)]
    pub cluster: String,
    /// The folder to write into; made if it is not there
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// The local server, as `postgres://user:password@host:port/database` (a password goes into a file of its own)
    #[arg(long, value_name = "URL", value_parser = parse_postgres)]
    pub postgres: Postgres,
    /// Where peers connect
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:7400")]
    pub listen: Address,
    /// Where status and metrics are served
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7401")]
    pub admin: Address,
    /// Another node, as `id=2,name=berlin,address=host:port`; may be given many times
    #[arg(long = "peer", value_name = "PEER", value_parser = parse_peer)]
    pub peers: Vec<Peer>,
    /// The folder of the cluster's authority (ca.crt, ca.key), as the first node made it; an authority is made there when it has none
    #[arg(long, value_name = "DIR")]
    pub ca_dir: Option<PathBuf>,
    /// A host name or address that the node's certificate is made for; may be given many times
    #[arg(long = "hosts", value_name = "HOST", value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// Replace the settings and the node's certificate that are there (never the authority)
    #[arg(long)]
    pub force: bool,
}

/// Runs the command: prints what was written and what to do next, or why nothing was.
pub fn run(args: InitArgs) -> ExitCode {
    match init(&args) {
        Ok(report) => {
            // A closed pipe must not turn a success into a failure.
            let _ = io::stdout().write_all(report.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The chosen values contradict each other; the text names lines of the file that was not written.
    #[error("these values cannot be used together; nothing was written\n{0}")]
    Settings(#[from] everywrite_config::Error),
    /// Files are in the way.
    #[error("{} there already; nothing was written\n  = help: choose another --dir, or replace them with --force", Listed(.0))]
    Exists(Vec<PathBuf>),
    /// One half of an authority.
    #[error(
        "{} holds {there} and not {lacking}; nothing was written\n  = help: {help}", dir.display()
    )]
    HalfAuthority {
        /// The folder.
        dir: PathBuf,
        /// The file that is there.
        there: &'static str,
        /// The file that is not.
        lacking: &'static str,
        /// What to do.
        help: &'static str,
    },
    /// A certificate could not be made.
    #[error("cannot {operation}: {reason}\n  = help: {help}")]
    Certificate {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        reason: String,
        /// What to do.
        help: &'static str,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// `a, b: they are` or `a: it is`.
struct Listed<'a>(&'a [PathBuf]);

impl std::fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.0.iter().map(|p| p.display().to_string()).collect();
        let verb = if names.len() == 1 { "is" } else { "are" };
        write!(f, "{} {verb}", names.join(", "))
    }
}

/// Writes everything; returns what to tell the user.
fn init(args: &InitArgs) -> Result<String, Error> {
    let settings_path = args.dir.join(SETTINGS);
    let text = settings_text(args);
    Settings::parse(&text, &settings_path)?;

    let ca_dir = args.ca_dir.as_deref().unwrap_or(&args.dir);
    let authority = Authority::find_or_make(ca_dir, &args.cluster)?;
    let (certificate, key) = certificates::issue(
        &authority.certificate,
        &authority.key,
        &args.cluster,
        NodeId(args.node_id),
        &args.name,
        &hosts(args),
        CERTIFICATE_DAYS,
    )
    .map_err(|error| Error::Certificate {
        operation: "issue the node's certificate",
        reason: error.to_string(),
        help: "look at ca.crt and ca.key, and at the names given with --hosts",
    })?;

    let mut planned = vec![
        Planned::public(settings_path, text),
        Planned::public(args.dir.join(CERTIFICATE), certificate),
        Planned::private(args.dir.join(KEY), key),
    ];
    if let Some(password) = &args.postgres.password {
        let line = format!("{}\n", password.expose_secret());
        planned.push(Planned::private(args.dir.join(PASSWORD), line));
    }
    if !args.force {
        files::refuse_existing(&planned)?;
    }
    let ca_copy = args.dir.join(CA_CERTIFICATE);
    if !files::same(ca_dir, &args.dir) {
        if !args.force && differs(&ca_copy, &authority.certificate) {
            return Err(Error::Exists(vec![ca_copy]));
        }
        planned.push(Planned::public(ca_copy, authority.certificate.clone()));
    }
    if authority.new {
        let certificate = authority.certificate.clone();
        planned.push(Planned::public(ca_dir.join(CA_CERTIFICATE), certificate));
        planned.push(Planned::private(ca_dir.join(CA_KEY), authority.key.clone()));
    }
    // The settings come last: a file that is there says that all it names is there.
    planned.rotate_left(1);
    files::make_dir(&args.dir)?;
    files::make_dir(ca_dir)?;
    for file in &planned {
        file.write()?;
    }
    Ok(report(args, ca_dir, authority.new, &planned))
}

fn differs(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|there| there != text)
}

/// The cluster's authority, found or made.
struct Authority {
    certificate: String,
    key: String,
    new: bool,
}

impl Authority {
    fn find_or_make(dir: &Path, cluster: &str) -> Result<Authority, Error> {
        let certificate = files::read_if_there(&dir.join(CA_CERTIFICATE))?;
        let key = files::read_if_there(&dir.join(CA_KEY))?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Authority {
                certificate,
                key,
                new: false,
            }),
            (None, None) => {
                let (certificate, key) =
                    certificates::new_authority(cluster).map_err(|error| Error::Certificate {
                        operation: "make the cluster's authority",
                        reason: error.to_string(),
                        help: "choose another --cluster",
                    })?;
                Ok(Authority {
                    certificate,
                    key,
                    new: true,
                })
            }
            (Some(_), None) => Err(Error::HalfAuthority {
                dir: dir.to_owned(),
                there: CA_CERTIFICATE,
                lacking: CA_KEY,
                help: "name the folder where the first node made both with --ca-dir",
            }),
            (None, Some(_)) => Err(Error::HalfAuthority {
                dir: dir.to_owned(),
                there: CA_KEY,
                lacking: CA_CERTIFICATE,
                help: "copy ca.crt from any node of the cluster to there",
            }),
        }
    }
}

/// The names of the certificate: the given ones, or those that are known anyway. Peers identify
/// a node by its number; the names are for people and other tools.
fn hosts(args: &InitArgs) -> Vec<String> {
    if !args.hosts.is_empty() {
        return args.hosts.clone();
    }
    let mut hosts = vec!["localhost".to_owned()];
    if !args.listen.unspecified() && args.listen.host() != "localhost" {
        hosts.push(args.listen.host().to_owned());
    }
    hosts
}

fn settings_text(args: &InitArgs) -> String {
    let postgres = &args.postgres;
    let mut template = Template::default()
        .set("node", "id", i64::from(args.node_id))
        .set("node", "name", args.name.as_str())
        .set("node", "cluster", args.cluster.as_str())
        .set("node", "data-directory", "data")
        .set("postgres", "host", postgres.host.as_str())
        .set("postgres", "port", i64::from(postgres.port))
        .set("postgres", "user", postgres.user.as_str())
        .set("postgres", "database", postgres.database.as_str())
        .set("listen", "link", args.listen.to_string())
        .set("listen", "admin", args.admin.to_string())
        .set("tls", "ca", CA_CERTIFICATE)
        .set("tls", "certificate", CERTIFICATE)
        .set("tls", "key", KEY);
    if postgres.password.is_some() {
        template = template.set("postgres", "password-file", PASSWORD);
    }
    if postgres.sslmode != SslMode::Prefer {
        template = template.set("postgres", "sslmode", postgres.sslmode.to_string());
    }
    let files = [
        ("ca-file", &postgres.ca_file),
        ("certificate", &postgres.certificate),
        ("key", &postgres.key),
    ];
    for (key, path) in files {
        if let Some(path) = path {
            // Given relative to where `init` runs; in the file it would be relative to the file.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            template = template.set("postgres", key, path.display().to_string());
        }
    }
    for peer in &args.peers {
        template = template.peer(peer.clone());
    }
    template.render()
}

fn report(args: &InitArgs, ca_dir: &Path, new_authority: bool, written: &[Planned]) -> String {
    let mut text = String::from("wrote\n");
    for file in written {
        let what = match file.path.file_name().and_then(|name| name.to_str()) {
            Some(SETTINGS) => "settings, with comments",
            Some(CA_CERTIFICATE) => "the cluster's authority: the same at all nodes",
            Some(CA_KEY) => "its key: keep it safe, no running node needs it",
            Some(CERTIFICATE) => "this node's certificate, valid for 5 years",
            Some(KEY) => "this node's key",
            Some(PASSWORD) => "the password of the role in PostgreSQL",
            _ => "",
        };
        text.push_str(&format!("  {}  ({what})\n", file.path.display()));
    }
    let config = args.dir.join(SETTINGS);
    let config = config.display();
    let ca_dir = ca_dir.display();
    if new_authority {
        text.push_str(&format!(
            "made a new authority for the cluster {}; the other nodes' certificates come from it\n",
            args.cluster
        ));
    }
    text.push_str(&format!(
        "next\n  1. everywrite check --config {config}    what the server still needs, with the SQL\n  \
         2. everywrite init --ca-dir {ca_dir} --dir DIR --node-id ID …    once for each other node, here; then copy DIR to its machine\n  \
         3. everywrite run --config {config}\n"
    ));
    text
}

fn parse_postgres(url: &str) -> Result<Postgres, String> {
    Postgres::from_url(url).map_err(|error| error.to_string())
}

/// `id=2,name=berlin,address=host:port`, in any order.
fn parse_peer(text: &str) -> Result<Peer, String> {
    const FORM: &str = "write it as id=2,name=berlin,address=host:port";
    let (mut id, mut name, mut address) = (None, None, None);
    for part in text.split(',') {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` has no value; {FORM}"))?;
        match key.trim() {
            "id" => match value.parse::<u16>() {
                Ok(number) if number > 0 => id = Some(number),
                _ => return Err(format!("`{value}` is not a number from 1 to 65535")),
            },
            "name" => name = Some(value.to_owned()),
            "address" => {
                let parsed = Address::from_str(value).map_err(|error| error.to_string())?;
                address = Some(parsed);
            }
            other => return Err(format!("there is no `{other}`; {FORM}")),
        }
    }
    match (id, name, address) {
        (Some(id), Some(name), Some(address)) => Ok(Peer { id, name, address }),
        _ => Err(format!("id, name or address is missing; {FORM}")),
    }
}
