//! A real PostgreSQL server for one test: own folder, unix socket only, stopped when dropped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio_postgres::{Client, Config, NoTls};

static NEXT: AtomicU32 = AtomicU32::new(0);
/// Servers that running tests have in common, by major version; the last test stops it.
static SHARED: Mutex<BTreeMap<u32, Weak<Server>>> = Mutex::new(BTreeMap::new());

pub(super) struct Server {
    folder: PathBuf,
    bin: PathBuf,
}

impl Server {
    /// One that others use at the same time: tests that keep to a database of their own.
    pub(super) fn shared(major: u32) -> Option<Arc<Server>> {
        let mut shared = SHARED
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(server) = shared.get(&major).and_then(Weak::upgrade) {
            return Some(server);
        }
        let server = Arc::new(Server::start(major)?);
        shared.insert(major, Arc::downgrade(&server));
        Some(server)
    }

    /// Starts one of this major version; `None` if it is not installed here.
    pub(super) fn start(major: u32) -> Option<Server> {
        let bin = [
            format!("/usr/lib/postgresql/{major}/bin"),
            format!("/opt/pgbin/pg{major}/package/native/bin"),
        ]
        .map(PathBuf::from)
        .into_iter()
        .find(|bin| bin.join("postgres").exists())?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(format!("/tmp/ewadm-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("create folder");
        let server = Server { folder, bin };
        server.link_libraries();
        if root() {
            let status = Command::new("chown")
                .args(["-R", "postgres"])
                .arg(&server.folder)
                .status();
            assert!(status.expect("run chown").success());
        }
        let data = server.data();
        server.run(
            "initdb",
            &[
                "-D",
                &data,
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--no-sync",
            ],
        );
        let socket = server.folder.display();
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{socket}'\nfsync = off\n\
             wal_level = logical\ntrack_commit_timestamp = on\nmax_connections = 20\n\
             shared_buffers = '16MB'\n"
        );
        let file = format!("{data}/postgresql.auto.conf");
        std::fs::write(&file, settings).expect("write settings");
        let log = format!("{data}/log");
        server.run(
            "pg_ctl",
            &["-D", &data, "-l", &log, "-w", "-t", "60", "start"],
        );
        Some(server)
    }

    fn data(&self) -> String {
        format!("{}/data", self.folder.display())
    }

    /// Some binary packages come without the short names of their libraries.
    fn link_libraries(&self) {
        let Ok(files) = std::fs::read_dir(self.libraries()) else {
            return;
        };
        for file in files.flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if let Some((stem, rest)) = name.split_once(".so.")
                && let Some((major, _)) = rest.split_once('.')
            {
                let link = self.folder.join(format!("{stem}.so.{major}"));
                let _ = std::os::unix::fs::symlink(file.path(), link);
            }
        }
    }

    fn libraries(&self) -> PathBuf {
        self.bin.join("../lib")
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = if root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]);
            command
        } else {
            Command::new("env")
        };
        if root() {
            command.arg("env");
        }
        let paths = format!("{}:{}", self.folder.display(), self.libraries().display());
        let output = command
            .current_dir(&self.folder)
            .arg(format!("LD_LIBRARY_PATH={paths}"))
            .arg(self.bin.join(program))
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        assert!(output.expect("run").success(), "{program} {arguments:?}");
    }

    /// A session of `user` in `database`.
    pub(super) async fn connect(&self, user: &str, database: &str) -> Client {
        let (client, connection) = Config::new()
            .host_path(&self.folder)
            .user(user)
            .dbname(database)
            .connect(NoTls)
            .await
            .expect("connect");
        tokio::spawn(connection);
        client
    }

    /// A session of the superuser in a database of its own.
    pub(super) async fn database(&self, name: &str) -> Client {
        let client = self.connect("postgres", "postgres").await;
        client
            .batch_execute(&format!("create database {name}"))
            .await
            .expect("create database");
        self.connect("postgres", name).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data();
        self.run("pg_ctl", &["-D", &data, "-m", "immediate", "stop"]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}
