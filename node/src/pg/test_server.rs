//! A real PostgreSQL server for the tests of this module, and of others that need no more than a database.
//!
//! One server of each version is shared by all tests; each test takes a database of its own. A server
//! that is not installed makes the test say so and pass.
//!
//! The server is the child of a small shell, which stops it and removes its files when our end of its
//! input closes: when the test process ends, however it ends.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Target;
use super::pipeline::Session;

pub(crate) struct TestServer {
    pub(super) version: u32,
    pub(super) port: u16,
    /// Data, sockets and certificates.
    pub(super) dir: PathBuf,
    /// Its open input keeps the server running.
    _shell: Child,
}

static SHARED: Mutex<Vec<Arc<TestServer>>> = Mutex::new(Vec::new());
static NEXT: AtomicU32 = AtomicU32::new(1);

/// What the tests that need one server run on.
pub(super) const OLDEST: u32 = 15;
pub(super) const NEWEST: u32 = 18;

impl TestServer {
    /// The server of a version; `None` if it is not installed.
    pub(super) fn shared(version: u32) -> Option<Arc<TestServer>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.iter().find(|server| server.version == version) {
            return Some(Arc::clone(server));
        }
        let Some(bin) = find(version) else {
            eprintln!("PostgreSQL {version} is not installed: skipped");
            return None;
        };
        let server = (0..5).find_map(|_| start(version, &bin)).unwrap();
        let server = Arc::new(server);
        shared.push(Arc::clone(&server));
        Some(server)
    }

    /// All versions that the tests cover.
    pub(crate) fn all() -> impl Iterator<Item = Arc<TestServer>> {
        [OLDEST, NEWEST].into_iter().filter_map(Self::shared)
    }

    /// A new database, reached as superuser over the unix socket.
    pub(crate) async fn database(&self) -> Target {
        let name = format!("db{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut session = Session::connect(&self.unix("postgres"), &[]).await.unwrap();
        session
            .query_simple(&format!("create database {name}"))
            .await
            .unwrap();
        self.unix(&name)
    }

    pub(super) fn unix(&self, database: &str) -> Target {
        let mut target = Target::new(self.dir.to_str().unwrap(), "postgres", database);
        target.port = self.port;
        target
    }

    pub(super) fn tcp(&self, user: &str, password: Option<&str>) -> Target {
        let mut target = Target::new("127.0.0.1", user, "postgres");
        target.port = self.port;
        target.password = password.map(Into::into);
        target
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn find(version: u32) -> Option<PathBuf> {
    let of_environment = std::env::var_os(format!("EVERYWRITE_PG{version}_BIN")).map(PathBuf::from);
    let usual = [
        format!("/usr/lib/postgresql/{version}/bin"),
        format!("/opt/pgbin/pg{version}/package/native/bin"),
    ];
    of_environment
        .into_iter()
        .chain(usual.map(PathBuf::from))
        .find(|bin| bin.join("initdb").exists())
}

/// Who may run a server: PostgreSQL refuses root.
fn command(program: &Path, libraries: &str) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
            "--",
        ]);
        command.arg(program);
        command
    } else {
        Command::new(program)
    };
    command
        .env("LD_LIBRARY_PATH", libraries)
        .current_dir("/tmp");
    command
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn start(version: u32, bin: &Path) -> Option<TestServer> {
    // Short: the path of a unix socket has at most 107 bytes.
    let name = format!(
        "ewpg{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let dir = Path::new("/tmp").join(name);
    let links = dir.with_extension("lib");
    link_libraries(&bin.with_file_name("lib"), &links);
    let libraries = format!(
        "{}:{}",
        links.display(),
        bin.with_file_name("lib").display()
    );

    let made = command(&bin.join("initdb"), &libraries)
        .args([
            "-N",
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "-D",
        ])
        .arg(&dir)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "initdb: {}",
        String::from_utf8_lossy(&made.stderr)
    );

    // The server's user is to remove it in the end.
    give(&links, &dir);

    let port = free_port();
    write(&dir, "pg_hba.conf", HBA);
    certificates(&dir);
    let mut settings = SETTINGS.to_owned();
    settings += &format!(
        "port = {port}\nunix_socket_directories = '{}'\n",
        dir.display()
    );
    write(&dir, "postgresql.auto.conf", &settings);

    // The shell outlives nothing: its input ends when this process does.
    let script = "\"$0\" -D \"$1\" >\"$1/log\" 2>&1 & pid=$!; cat >/dev/null; kill -INT $pid; wait $pid; \
                  rm -rf \"$1\" \"$2\"";
    let shell = command(Path::new("sh"), &libraries)
        .args(["-c", script])
        .args([&bin.join("postgres"), &dir, &links])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let server = TestServer {
        version,
        port,
        dir,
        _shell: shell,
    };
    server.wait().then_some(server)
}

/// A port that is free now, below those that the system gives to outgoing connections.
fn free_port() -> u16 {
    let start = std::process::id().wrapping_mul(37) + 101 * NEXT.fetch_add(1, Ordering::Relaxed);
    (start..)
        .map(|n| u16::try_from(20_000 + n % 12_000).unwrap())
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

impl TestServer {
    /// False if someone else took the port first.
    fn wait(&self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        let socket = self.dir.join(format!(".s.PGSQL.{}", self.port));
        let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        while !log().contains("ready to accept connections") || !socket.exists() {
            if log().contains("could not create any TCP/IP sockets") {
                return false;
            }
            assert!(
                Instant::now() < deadline,
                "the server did not start: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        // Roles have to be there before any test logs in.
        let target = self.unix("postgres");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let mut session = Session::connect(&target, &[]).await.unwrap();
                session.query_simple(ROLES).await.unwrap();
            });
        })
        .join()
        .unwrap();
        true
    }
}

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
fsync = off
wal_level = logical
max_wal_senders = 30
max_replication_slots = 30
max_connections = 100
track_commit_timestamp = on
logical_decoding_work_mem = '64kB'
wal_sender_timeout = '3s'
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'ca.crt'
";

const HBA: &str = "
local all all trust
host all scram 127.0.0.1/32 scram-sha-256
host all md5 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
hostssl all tls 127.0.0.1/32 trust
hostnossl all plain 127.0.0.1/32 trust
hostssl all cert 127.0.0.1/32 cert
host all postgres 127.0.0.1/32 trust
";

const ROLES: &str = "
set password_encryption = 'scram-sha-256';
create role scram login password 'secret';
create role clear login password 'secret';
create role tls login;
create role plain login;
create role cert login;
set password_encryption = 'md5';
create role md5 login password 'secret';
";

fn write(dir: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join(name);
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
        .unwrap();
    give(&path, dir);
}

/// Gives a file to the owner of another.
fn give(path: &Path, like: &Path) {
    let owner = std::fs::metadata(like).unwrap();
    std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// An authority, the server's certificate, a client's for the role `cert`, and another authority
/// that signed nothing.
fn certificates(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    let authority = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), Issuer::new(params, key))
    };
    let (ca, issuer) = authority("everywrite test authority");
    let (other, _) = authority("another authority");
    write(dir, "ca.crt", &ca);
    write(dir, "other.crt", &other);
    for (file, common_name) in [("server", "localhost"), ("client", "cert")] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        write(dir, &format!("{file}.crt"), &certificate.pem());
        write(dir, &format!("{file}.key"), &key.serialize_pem());
    }
}

/// Some binary distributions lack the short names of their libraries.
fn link_libraries(libraries: &Path, into: &Path) {
    std::fs::create_dir_all(into).unwrap();
    for entry in std::fs::read_dir(libraries).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        // libx.so.1.2 is wanted as libx.so.1
        let Some((stem, version)) = name.split_once(".so.") else {
            continue;
        };
        if let Some((major, _)) = version.split_once('.') {
            let short = into.join(format!("{stem}.so.{major}"));
            let _ = std::os::unix::fs::symlink(entry.path(), short);
        }
    }
}
