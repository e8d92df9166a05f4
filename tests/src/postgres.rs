//! A real PostgreSQL server: its own data directory, a unix socket in a folder of its own, no TCP.
//!
//! `initdb` runs once for each major; every server starts from a copy of that template. fsync stays
//! on, so that a kill -9 costs what it would cost in earnest.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::place::{self, Owner};
use crate::process::{self, Process};
use crate::{logs, wait};

/// The superuser of every test server.
pub const SUPERUSER: &str = "postgres";
/// The database that exists in every test server.
pub const DATABASE: &str = "app";
/// Names the socket file only: each server has a folder of its own.
const PORT: u16 = 5432;

/// What makes a server different from the usual one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The major; the machine's own choice when not set.
    pub major: Option<u32>,
    /// Settings that follow, and so override, the usual ones.
    pub settings: Vec<(String, String)>,
    /// The whole `pg_hba.conf`; everybody is trusted when not set.
    pub hba: Option<String>,
}

impl Options {
    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A server, running or not.
#[derive(Debug)]
pub struct Server {
    dir: PathBuf,
    bin: PathBuf,
    owner: Option<Owner>,
    process: Option<Process>,
    environment: Vec<(&'static str, PathBuf)>,
    /// Started by this value, at least once.
    started: bool,
}

impl Drop for Server {
    /// A server that was killed leaves a System V segment behind, of which a machine has only so many.
    fn drop(&mut self) {
        self.process = None; // ends it
        let lock = self.data().join("postmaster.pid");
        let text = std::fs::read_to_string(lock).unwrap_or_default();
        let segment = text
            .lines()
            .nth(6)
            .and_then(|l| l.split_whitespace().nth(1));
        if let (true, Some(segment)) = (self.started, segment) {
            let mut remove = Command::new("ipcrm");
            remove.args(["-m", segment]).stderr(Stdio::null());
            remove.status().ok();
        }
    }
}

impl Server {
    /// Makes the server in `dir` (a short path that the servers' user can reach) and starts it.
    pub async fn create(dir: &Path, options: &Options) -> anyhow::Result<Server> {
        let mut server = Server::prepare(dir, options)?;
        server.start().await?;
        Ok(server)
    }

    /// Makes the server in `dir` without starting it.
    pub fn prepare(dir: &Path, options: &Options) -> anyhow::Result<Server> {
        let bin = place::postgres_bin(options.major)?;
        let owner = Owner::find()?;
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let server = Server {
            dir: dir.to_owned(),
            bin,
            owner,
            process: None,
            environment: Vec::new(),
            started: false,
        };
        let template = template(&server.bin)?;
        run(
            Command::new("cp")
                .args(["-a", "--reflink=auto"])
                .arg(&template)
                .arg(server.data()),
            "copy the template data directory",
        )?;
        server.write_settings(options)?;
        if let Some(owner) = &server.owner {
            owner.own(dir)?;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))
                .context("open the server's folder")?;
        }
        Ok(server)
    }

    /// A server that was made before, in this or another process, and is not started by this one.
    pub fn existing(dir: &Path, major: Option<u32>) -> anyhow::Result<Server> {
        Ok(Server {
            dir: dir.to_owned(),
            bin: place::postgres_bin(major)?,
            owner: Owner::find()?,
            process: None,
            environment: Vec::new(),
            started: false,
        })
    }

    fn write_settings(&self, options: &Options) -> anyhow::Result<()> {
        let mut text = format!(
            "\n# what the harness sets\n\
             listen_addresses = ''\n\
             unix_socket_directories = '{}'\n\
             port = {PORT}\n\
             wal_level = logical\n\
             track_commit_timestamp = on\n\
             max_replication_slots = 10\n\
             max_wal_senders = 10\n\
             max_connections = 60\n\
             shared_buffers = 32MB\n\
             log_line_prefix = '%m [%p] %a '\n",
            self.dir.display()
        );
        for (name, value) in &options.settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        let path = self.data().join("postgresql.conf");
        let mut conf = std::fs::read_to_string(&path).context("read postgresql.conf")?;
        conf.push_str(&text);
        std::fs::write(&path, conf).context("write postgresql.conf")?;
        if let Some(hba) = &options.hba {
            self.write_hba(hba)?;
        }
        Ok(())
    }

    /// Replaces `pg_hba.conf`; a running server sees it after [`Server::reload`].
    pub fn write_hba(&self, hba: &str) -> anyhow::Result<()> {
        std::fs::write(self.data().join("pg_hba.conf"), hba).context("write pg_hba.conf")
    }

    /// Makes a running server read its configuration again.
    pub fn reload(&self) {
        if let Some(process) = &self.process {
            process.signal(Signal::HUP);
        }
    }

    /// What the process gets to know at its next start.
    pub fn set_environment(&mut self, environment: Vec<(&'static str, PathBuf)>) {
        self.environment = environment;
    }

    /// Starts it and waits until it lets somebody in.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        if self.process.is_some() {
            bail!("the server in {} is started already", self.dir.display());
        }
        let mut command = self.command();
        self.started = true;
        self.process = Some(Process::start("postgres", &mut command, &self.log())?);
        wait::until("the server to start", wait::LIMIT, async || {
            if let Some(process) = &mut self.process
                && let Ok(Some(status)) = process.ended()
            {
                return Ok(Err(status));
            }
            let answer = self.connect().await.map(|_| Ok(()));
            answer.map_err(|err| format!("{err:#}"))
        })
        .await?
        .map_err(|status| {
            let log = logs::tail(&self.log(), 10);
            anyhow::anyhow!("the server ended ({status}) instead of starting:\n{log}")
        })
    }

    /// Starts it so that it outlives this process; its process id.
    pub async fn start_detached(&self) -> anyhow::Result<u32> {
        let mut command = self.command();
        if let Some(owner) = &self.owner {
            // setsid(1) must be run by the owner, too, or the server would be root's.
            let mut other = Command::new("setpriv");
            other
                .arg(format!("--reuid={}", owner.uid))
                .arg(format!("--regid={}", owner.gid))
                .arg("--clear-groups")
                .arg(command.get_program())
                .args(command.get_args())
                .current_dir("/");
            command = other;
        }
        self.remove_lock_of_the_dead();
        let id = process::start_detached("postgres", &mut command, &self.log())?;
        wait::until("the server to start", wait::LIMIT, async || {
            match self.connect().await {
                Ok(_) => Ok(Ok(id)),
                Err(_) if !process::is_running(id) => Ok(Err(())),
                Err(err) => Err(format!("{err:#}")),
            }
        })
        .await?
        .map_err(|()| {
            let log = logs::tail(&self.log(), 10);
            anyhow::anyhow!("the server ended instead of starting:\n{log}")
        })
    }

    /// A server that was killed, and that nobody has reaped (containers often have no init that
    /// does), still counts as running for its successor. Its locks may go once nothing works in the data
    /// directory any more.
    fn remove_lock_of_the_dead(&self) {
        let lock = self.data().join("postmaster.pid");
        let text = std::fs::read_to_string(&lock).unwrap_or_default();
        let holder = text.lines().next().and_then(|id| id.parse().ok());
        if holder.is_some_and(|id| !process::is_running(id))
            && !process::somebody_works_in(&self.data())
        {
            std::fs::remove_file(&lock).ok();
            let socket_lock = format!(".s.PGSQL.{PORT}.lock");
            std::fs::remove_file(self.dir.join(socket_lock)).ok();
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.bin.join("postgres"));
        command.arg("-D").arg(self.data()).current_dir("/");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(owner) = &self.owner {
            owner.runs(&mut command);
        }
        command
    }

    /// Fast shutdown: sessions are ended, a checkpoint is written.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.stop_by(Signal::INT)
    }

    /// Fast shutdown; kill -9 if it does not end within some seconds, because a client that takes nothing
    /// more of the WAL holds it up.
    pub fn stop_or_crash(&mut self) {
        if let Some(mut process) = self.process.take()
            && process.stop(Signal::INT, Duration::from_secs(5)).is_err()
        {
            process.kill_family();
        }
    }

    /// Immediate shutdown: ends at once, recovers at the next start.
    pub fn stop_immediately(&mut self) -> anyhow::Result<()> {
        self.stop_by(Signal::QUIT)
    }

    fn stop_by(&mut self, signal: Signal) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(signal, wait::LIMIT)?;
        }
        Ok(())
    }

    /// kill -9 of the postmaster and all its children at once.
    pub fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_family();
        }
    }

    /// Notices a server that has ended by itself: then it can be started again.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        let Some(process) = &mut self.process else {
            return Ok(false);
        };
        let ended = process.ended()?.is_some();
        if ended {
            self.process = None;
        }
        Ok(ended)
    }

    /// Fast shutdown and start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        self.start().await
    }

    /// Whether this process has it running.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }

    /// The postmaster's process id, while running.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The server's folder: its socket, its log and `data`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What the server says.
    pub fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// How a client names this server's database, for the daemon's configuration.
    pub fn url(&self, user: &str, database: &str) -> String {
        let socket = self.dir.display();
        format!("postgres://{user}@/{database}?host={socket}&port={PORT}")
    }

    /// The psql command that leads here.
    pub fn psql(&self) -> String {
        format!(
            "psql -h {} -p {PORT} -U {SUPERUSER} {DATABASE}",
            self.dir.display()
        )
    }

    /// A session of the superuser in the usual database.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        self.connect_as(SUPERUSER, DATABASE).await
    }

    /// A session of `user` in `database`.
    pub async fn connect_as(&self, user: &str, database: &str) -> anyhow::Result<Client> {
        connect(&self.dir, user, database).await
    }

    /// A session of the superuser that hears notifications of `channel`.
    pub async fn listen(&self, channel: &str) -> anyhow::Result<Listener> {
        let (client, mut connection) = config(&self.dir, SUPERUSER, DATABASE)
            .connect(NoTls)
            .await
            .with_context(|| format!("connect to the server in {}", self.dir.display()))?;
        let (heard, inbox) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let next = std::future::poll_fn(|cx| connection.poll_message(cx)).await;
                let Some(Ok(message)) = next else { return };
                if let AsyncMessage::Notification(n) = message {
                    let _ = heard.send(n.payload().to_owned());
                }
            }
        });
        client.batch_execute(&format!("listen {channel}")).await?;
        Ok(Listener { client, inbox })
    }

    /// Runs statements in a session of their own.
    pub async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        let client = self.connect().await?;
        client
            .batch_execute(sql)
            .await
            .with_context(|| format!("run {sql}"))
    }

    /// The first column of the first row, as text; empty for null.
    pub async fn value(&self, sql: &str) -> anyhow::Result<String> {
        let client = self.connect().await?;
        value(&client, sql).await
    }

    /// Bytes held in `pg_wal`.
    pub async fn wal_bytes(&self) -> anyhow::Result<u64> {
        let sum = self.value("select sum(size) from pg_ls_waldir()").await?;
        sum.parse().context("size of pg_wal")
    }
}

/// A session of `user` in `database` of the server whose socket is in `dir`.
pub async fn connect(dir: &Path, user: &str, database: &str) -> anyhow::Result<Client> {
    let (client, connection) = config(dir, user, database)
        .connect(NoTls)
        .await
        .with_context(|| format!("connect to the server in {}", dir.display()))?;
    tokio::spawn(connection);
    Ok(client)
}

fn config(dir: &Path, user: &str, database: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(dir)
        .port(PORT)
        .user(user)
        .dbname(database)
        .application_name("test")
        .connect_timeout(Duration::from_secs(10));
    config
}

/// A session that hears notifications.
#[derive(Debug)]
pub struct Listener {
    client: Client,
    inbox: mpsc::UnboundedReceiver<String>,
}

impl Listener {
    /// The payloads of all that was committed until now, in order.
    pub async fn heard(&mut self, channel: &str) -> anyhow::Result<Vec<String>> {
        const END: &str = "all that was before";
        let end = format!("select pg_notify('{channel}', '{END}')");
        self.client.batch_execute(&end).await?;
        let mut heard = Vec::new();
        loop {
            let next = tokio::time::timeout(wait::LIMIT, self.inbox.recv()).await;
            match next.context("the notification that was just sent does not come")? {
                Some(payload) if payload == END => return Ok(heard),
                Some(payload) => heard.push(payload),
                None => bail!("the session is gone"),
            }
        }
    }
}

/// The rows of a query, each column as text.
pub async fn rows(client: &Client, sql: &str) -> anyhow::Result<Vec<Vec<Option<String>>>> {
    let messages = client
        .simple_query(sql)
        .await
        .with_context(|| format!("run {sql}"))?;
    let text = |row: tokio_postgres::SimpleQueryRow| {
        (0..row.len())
            .map(|column| row.get(column).map(str::to_owned))
            .collect()
    };
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(text(row)),
            _ => None,
        })
        .collect())
}

/// The first column of the first row, as text; empty for null.
pub async fn value(client: &Client, sql: &str) -> anyhow::Result<String> {
    let rows = rows(client, sql).await?;
    let row = rows.into_iter().next();
    let row = row.with_context(|| format!("no row from {sql}"))?;
    Ok(row.into_iter().next().flatten().unwrap_or_default())
}

/// The data directory that servers of these programs are copied from, made at first use.
fn template(bin: &Path) -> anyhow::Result<PathBuf> {
    let version = output(
        Command::new(bin.join("postgres")).arg("--version"),
        "ask for the version",
    )?;
    let name: String = version
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '.')
        .collect();
    let home = place::target_dir()?.join("templates");
    std::fs::create_dir_all(&home).context("make the templates' folder")?;
    let lock = File::create(home.join("lock")).context("open the templates' lock")?;
    lock.lock().context("lock the templates")?;
    let ready = home.join(&name);
    if ready.exists() {
        return Ok(ready);
    }
    let scratch = place::scratch("ew-template-")?;
    let data = scratch.path().join("data");
    std::fs::create_dir(&data).context("make the template's folder")?;
    let owner = Owner::find()?;
    if let Some(owner) = &owner {
        owner.own(&data)?;
    }
    let as_owner = |mut command: Command| {
        command.current_dir("/").stdin(Stdio::null());
        if let Some(owner) = &owner {
            owner.runs(&mut command);
        }
        command
    };
    let mut initdb = Command::new(bin.join("initdb"));
    initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8"]);
    initdb.args(["--locale=C", "--username", SUPERUSER]);
    initdb.arg("-D").arg(&data);
    run(&mut as_owner(initdb), "initdb")?;
    let statement = scratch.path().join("create.sql");
    std::fs::write(&statement, format!("create database {DATABASE};\n"))
        .context("write the template's first statement")?;
    let mut single = Command::new(bin.join("postgres"));
    single.args(["--single", "-c", "fsync=off", "-D"]);
    single.arg(&data).arg("postgres");
    let mut single = as_owner(single);
    single.stdin(File::open(&statement).context("open the template's first statement")?);
    run(&mut single, "create the database")?;
    let half = home.join(format!("{name}.half"));
    std::fs::remove_dir_all(&half).ok();
    run(
        Command::new("cp").arg("-a").arg(&data).arg(&half),
        "keep the template",
    )?;
    std::fs::rename(&half, &ready).context("name the template")?;
    Ok(ready)
}

fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    output(command, what).map(drop)
}

fn output(command: &mut Command, what: &str) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("{what}: {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{what}: {command:?} ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
