//! A real PostgreSQL server for the tests of `check`: one folder, one unix socket, no TCP.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use everywrite_config::Postgres;
use tempfile::TempDir;
use tokio_postgres::Client;

use super::connect;

pub(super) struct TestServer {
    dir: TempDir,
    bin: PathBuf,
    libraries: PathBuf,
}

impl TestServer {
    /// None when this machine does not have that major.
    pub(super) fn start(major: u32, settings: &[&str]) -> Option<TestServer> {
        let bin = [
            "/usr/lib/postgresql/{}/bin",
            "/opt/pgbin/pg{}/package/native/bin",
        ]
        .into_iter()
        .map(|pattern| PathBuf::from(pattern.replace("{}", &major.to_string())))
        .find(|bin| bin.join("postgres").exists())?;
        // Socket paths must be short.
        let dir = tempfile::Builder::new()
            .prefix("ewcheck")
            .tempdir_in("/tmp")
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let libraries = dir.path().join("lib");
        link_libraries(&bin, &libraries);
        let server = TestServer {
            dir,
            bin,
            libraries,
        };
        server.command(
            "initdb",
            &[
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
        );
        let mut config = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\n",
            server.dir.path().display()
        );
        config.push_str(&settings.join("\n"));
        config.push('\n');
        fs::write(server.dir.path().join("extra.conf"), config).unwrap();
        let include = "include '../extra.conf'\n";
        let main = server.data().join("postgresql.conf");
        let text = fs::read_to_string(&main).unwrap();
        fs::write(&main, text + include).unwrap();
        server.pg_ctl_start();
        Some(server)
    }

    pub(super) fn restart(&self) {
        self.command("pg_ctl", &["stop", "-w", "-m", "fast"]);
        self.pg_ctl_start();
    }

    /// Replaces pg_hba.conf.
    pub(super) fn let_in(&self, lines: &str) {
        fs::write(self.data().join("pg_hba.conf"), lines).unwrap();
        self.command("pg_ctl", &["reload"]);
    }

    fn pg_ctl_start(&self) {
        let log = self.dir.path().join("log");
        self.command("pg_ctl", &["start", "-w", "-l", log.to_str().unwrap()]);
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str, args: &[&str]) {
        let data = self.data();
        let program = self.bin.join(program);
        let root = fs::metadata("/proc/self")
            .is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
        let mut command = Command::new(if root { Path::new("setpriv") } else { &program });
        if root {
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
            command.arg(&program);
        }
        let output = command
            .args(args)
            .arg("-D")
            .arg(&data)
            .env("LD_LIBRARY_PATH", &self.libraries)
            .current_dir("/tmp")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(output.success(), "{program:?} {args:?}");
    }

    pub(super) fn settings(&self, user: &str, database: &str) -> Postgres {
        Postgres {
            host: self.dir.path().to_str().unwrap().to_owned(),
            user: user.to_owned(),
            database: database.to_owned(),
            ..Postgres::default()
        }
    }

    pub(super) async fn client(&self, user: &str, database: &str) -> Client {
        connect(&self.settings(user, database)).await.unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.command("pg_ctl", &["stop", "-w", "-m", "immediate"]);
    }
}

/// The portable builds carry libraries under their long names only.
fn link_libraries(bin: &Path, into: &Path) {
    fs::create_dir(into).unwrap();
    fs::set_permissions(into, fs::Permissions::from_mode(0o755)).unwrap();
    let Ok(entries) = fs::read_dir(bin.join("../lib")) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().into_string().unwrap();
        if let Some(at) = name.find(".so.").filter(|_| name.starts_with("libicu")) {
            let major = name[at + 4..].split('.').next().unwrap();
            let short = format!("{}.so.{major}", &name[..at]);
            let _ = symlink(entry.path(), into.join(short));
        }
    }
}
