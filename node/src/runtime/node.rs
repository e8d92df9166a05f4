//! One node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use everywrite_config::{Settings, SslMode};
use everywrite_conflict::{Lsn, NodeId};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::commands::Commands;
use super::gather::Gather;
use super::retention;
use crate::admin::{http, schema};
use crate::capture::{self, Capture, Progress, chain};
use crate::journal::{self, Journals};
use crate::link::{self, Link};
use crate::pg::{Target, Tls, TlsMode};
use crate::replay::{self, Answers, Control, Limits, Rows, Stream};
use crate::settle::{Barriers, Beats, Keeping, Ledger, LookedAt, Stability, Steward, progress};
use crate::telemetry::PostgresStatus;
use crate::telemetry::metrics::Metrics;
use crate::verify;

/// How long between attempts to reach the local server at start.
const RETRY: Duration = Duration::from_millis(500);
/// How long sessions of an earlier process may take to end before that is an error to be told.
const OLD_SESSIONS: Duration = Duration::from_secs(10);

/// A running node.
pub struct Node {
    tasks: TaskTracker,
    http: http::Handle,
    link: link::Handle,
}

/// What the parts share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) me: NodeId,
    pub(super) names: Arc<HashMap<NodeId, String>>,
    pub(super) target: Target,
    pub(super) journals: Arc<Journals>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) beats: Arc<Beats>,
    pub(super) progress: Arc<Progress>,
    pub(super) controls: BTreeMap<NodeId, Arc<Control>>,
    pub(super) merging: Arc<replay::Merging>,
    pub(super) keeping: Arc<Keeping>,
    pub(super) postgres: Mutex<PostgresStatus>,
    /// What is missing until the node is ready.
    pub(super) waiting: Mutex<Option<String>>,
    pub(super) started: Instant,
}

impl Node {
    /// Starts everything that can start; the rest follows when the local server is there.
    ///
    /// # Errors
    /// What a retry cannot mend: unusable files, addresses, certificates.
    pub async fn start(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let me = NodeId(settings.node.id);
        let folder = settings.node.data_directory.clone();
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("make the data directory {}", folder.display()))?;
        let options = journal::Options {
            segment_bytes: settings.journal.segment_size.bytes(),
            quota_bytes: settings.journal.quota.map(everywrite_config::Size::bytes),
        };
        let journals = Arc::new(Journals::open(&folder.join("journal"), options)?);
        let own = journals.get_or_open(me)?;
        let (spilled, memory) = (folder.join("spilled"), settings.conflicts.index_memory);
        let ledger = Ledger::new(me)
            .spilling(&spilled, memory.bytes())
            .with_context(|| format!("make the folder {}", spilled.display()))?;
        let ledger = Arc::new(ledger);
        let beats = Arc::new(Beats::default());
        let mut names: HashMap<NodeId, String> = settings
            .peers
            .iter()
            .map(|p| (NodeId(p.id), p.name.clone()))
            .collect();
        names.insert(me, settings.node.name.clone());
        let controls = settings
            .peers
            .iter()
            .map(|p| (NodeId(p.id), Arc::new(Control::default())))
            .collect();
        let shared = Arc::new(Shared {
            me,
            names: Arc::new(names),
            target: target(&settings),
            journals: Arc::clone(&journals),
            ledger: Arc::clone(&ledger),
            beats: Arc::clone(&beats),
            progress: Arc::new(Progress::default()),
            controls,
            merging: Arc::default(),
            keeping: Arc::default(),
            postgres: Mutex::default(),
            waiting: Mutex::new(Some("the local server".to_owned())),
            started: Instant::now(),
            settings,
        });
        let rows = Rows::new(me, shared.target.clone(), ledger, own, Arc::clone(&beats));
        let answers = Arc::new(Answers(Arc::clone(&rows)));
        let link = Link::start(
            link_options(&shared.settings),
            journals,
            beats,
            answers,
            shutdown.clone(),
        )?;
        rows.use_links(link.clone());
        let gather = Arc::new(Gather::new(Arc::clone(&shared), link.clone()));
        let status = Arc::clone(&gather);
        let http = http::Options {
            address: shared.settings.listen.admin.to_string(),
            status: Arc::new(move || status.status()),
            metrics: Metrics::new(),
            shutdown: shutdown.clone(),
        };
        let http = http.start().await?;
        tracing::info!(
            node = %me, name = shared.settings.node.name, cluster = shared.settings.node.cluster,
            link = %link.listening(), admin = %http.address(), version = env!("CARGO_PKG_VERSION"), "everywrite starts"
        );
        let tasks = TaskTracker::new();
        shared.answer_questions(&link, &tasks, &shutdown)?;
        let bring_up = Arc::clone(&shared).bring_up(rows, gather, tasks.clone(), shutdown);
        tasks.spawn(bring_up);
        tasks.close();
        Ok(Node { tasks, http, link })
    }

    /// Waits until everything has ended after shutdown.
    pub async fn finished(self) {
        self.tasks.wait().await;
        self.http.finished().await;
        self.link.closed().await;
    }
}

/// What the streams of all origins share.
struct Streams {
    context: replay::Context,
    repairs: mpsc::UnboundedSender<capture::Repair>,
    outbox: Arc<Notify>,
}

impl Shared {
    /// From now on questions about the local rows are answered: peers' and, by the control socket,
    /// those of commands on this machine.
    fn answer_questions(
        self: &Arc<Self>,
        link: &link::Handle,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let shared = Arc::clone(self);
        let answers = verify::Answers::new(
            self.me,
            self.names.keys().copied().collect(),
            &self.target,
            Arc::clone(&self.ledger),
            self.journals.get_or_open(self.me)?,
            Arc::new(move || shared.waiting.lock().clone()),
        );
        link.answer_with(Arc::new(verify::Shared(Arc::clone(&answers))));
        let folder = &self.settings.node.data_directory;
        let listener = match verify::Control::listen(folder) {
            Ok(listener) => listener,
            // Replication does not depend on it.
            Err(error) => {
                let socket = verify::control::path(folder);
                tracing::warn!(socket = %socket.display(), %error, "no control socket: `everywrite verify` will not work beside this daemon");
                return Ok(());
            }
        };
        let control = verify::Control {
            me: self.me,
            names: self.names.iter().map(|(&n, s)| (n, s.clone())).collect(),
            answers,
            link: link.clone(),
        };
        tasks.spawn(control.run(listener, shutdown.clone()));
        Ok(())
    }

    /// Waits for the server, prepares it, and starts what works with it.
    async fn bring_up(
        self: Arc<Self>,
        rows: Arc<Rows>,
        gather: Arc<Gather>,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) {
        let mut told = String::new();
        let (stability, looks) = loop {
            let attempt = tokio::select! {
                () = shutdown.cancelled() => return,
                attempt = self.prepare() => attempt,
            };
            match attempt {
                Ok(prepared) => break prepared,
                Err(error) => {
                    let text = chain(error.as_ref());
                    if text != told {
                        tracing::warn!(error = %text, "the local server is not ready, trying again");
                        told.clone_from(&text);
                    }
                    let mut postgres = self.postgres.lock();
                    postgres.connected = false;
                    postgres.error = Some(text.clone());
                    drop(postgres);
                    *self.waiting.lock() = Some(format!("the local server: {text}"));
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        };
        let Some(own) = self.journals.get(self.me) else {
            return;
        };
        let hurry = Arc::new(capture::Hurry::default());
        let barriers = Barriers::start(
            self.target.clone(),
            Arc::clone(&self.ledger),
            Arc::clone(&hurry),
            shutdown.clone(),
        );
        rows.use_barriers(barriers.clone());
        let (signals, inbox) = mpsc::unbounded_channel();
        let (repairs, repair_queue) = mpsc::unbounded_channel();
        for look in looks {
            self.ledger.repair_begins();
            let _ = repairs.send(look);
        }
        let options = capture::Options {
            me: self.me,
            target: self.target.clone(),
            spool: self.settings.node.data_directory.join("spool"),
            hurry,
            longest_round: self.settings.journal.longest_round,
        };
        let repairs_of_streams = repairs.clone();
        let capture = Capture::new(
            options,
            own.clone(),
            Arc::clone(&self.ledger),
            signals,
            Arc::clone(&self.progress),
        );
        match capture.start(shutdown.clone()) {
            Ok(end) => drop(tasks.spawn(end)),
            Err(error) => {
                tracing::error!(%error, "capture cannot be started");
                *self.progress.state.lock() = ("stopped", Some(format!("start capture: {error}")));
            }
        }
        let commands = Commands {
            shared: Arc::clone(&self),
            repairs,
        };
        tasks.spawn(commands.run(inbox, shutdown.clone()));
        tasks.spawn(gather.publish(shutdown.clone()));
        let context = replay::Context {
            me: self.me,
            ledger: Arc::clone(&self.ledger),
            lifeline: Arc::default(),
            barriers: barriers.clone(),
            journal: own,
            toast: rows,
            merging: Arc::clone(&self.merging),
        };
        tasks.spawn(replay::run_merging(
            self.target.clone(),
            context.clone(),
            Arc::clone(&stability),
            shutdown.clone(),
        ));
        tasks.spawn(replay::run_repairs(
            self.target.clone(),
            context.clone(),
            repair_queue,
            shutdown.clone(),
        ));
        tasks.spawn(retention::run(
            self.target.clone(),
            self.settings.conflicts.clone(),
            Arc::clone(&self.names),
            Arc::clone(&self.ledger),
            shutdown.clone(),
        ));
        let outbox = Arc::new(Notify::new());
        tasks.spawn(replay::run_outbox(
            self.target.clone(),
            Arc::clone(&outbox),
            shutdown.clone(),
        ));
        let steward = Steward {
            me: self.me,
            ledger: Arc::clone(&self.ledger),
            journals: Arc::clone(&self.journals),
            beats: Arc::clone(&self.beats),
            barriers: barriers.clone(),
            stability: Arc::clone(&stability),
            looked: self.looked(),
            keeping: Arc::clone(&self.keeping),
        };
        tasks.spawn(steward.run(shutdown.clone()));
        *self.waiting.lock() =
            Some("capture has not passed yet what was in the local WAL at start".to_owned());
        // The index must know every local write that was committed before the first replayed one.
        let passed = tokio::select! {
            () = shutdown.cancelled() => return,
            passed = barriers.pass() => passed,
        };
        if !passed {
            return;
        }
        *self.waiting.lock() = None;
        let streams = Streams {
            context,
            repairs: repairs_of_streams,
            outbox,
        };
        self.start_streams(&streams, &tasks, &shutdown);
        tracing::info!("ready");
    }

    /// One stream of replay for each origin.
    fn start_streams(&self, streams: &Streams, tasks: &TaskTracker, shutdown: &CancellationToken) {
        for (&origin, control) in &self.controls {
            let options = replay::Options {
                origin,
                names: Arc::clone(&self.names),
                target: self.target.clone(),
                limits: Limits {
                    transactions: usize::try_from(self.settings.replication.group_transactions)
                        .unwrap_or(5000),
                    bytes: usize::try_from(self.settings.replication.group_bytes.bytes())
                        .unwrap_or(8 << 20),
                    max_clock_skew: self.settings.replication.max_clock_skew,
                },
                sessions: self.settings.replication.sessions,
                journals: Arc::clone(&self.journals),
                context: streams.context.clone(),
                repairs: streams.repairs.clone(),
                control: Arc::clone(control),
                outbox: Arc::clone(&streams.outbox),
            };
            match Stream::new(options) {
                Ok(stream) => {
                    tasks.spawn(stream.run(shutdown.clone()));
                }
                Err(error) => {
                    tracing::error!(%origin, error = %error.chain(), "the journal of an origin cannot be opened");
                }
            }
        }
    }

    fn looked(&self) -> LookedAt {
        LookedAt::new(&self.settings.node.data_directory)
    }

    /// The schema is there, the members are registered, the index is rebuilt.
    async fn prepare(&self) -> anyhow::Result<(Arc<Stability>, Vec<capture::Repair>)> {
        let client = self.target.named("everywrite start").client().await?;
        let version: String = client.query_one("show server_version", &[]).await?.get(0);
        let number: i32 = client
            .query_one("select current_setting('server_version_num')::int", &[])
            .await?
            .get(0);
        anyhow::ensure!(
            (150_000..190_000).contains(&number),
            "the server is PostgreSQL {version}; this release works with 15 to 18"
        );
        schema::migrate(&client).await?;
        let mut sites = vec![schema::Site {
            node: self.me,
            name: self.settings.node.name.clone(),
            address: String::new(),
        }];
        sites.extend(self.settings.peers.iter().map(|p| schema::Site {
            node: NodeId(p.id),
            name: p.name.clone(),
            address: p.address.to_string(),
        }));
        schema::register_nodes(&client, self.me, &sites).await?;
        self.read_decisions(&client).await?;
        end_old_sessions(&client).await?;
        let applied = progress(&client, &self.ledger).await?;
        let here: i64 = client
            .query_one(
                "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint",
                &[],
            )
            .await?
            .get(0);
        let members: Vec<NodeId> = self.names.keys().copied().collect();
        let stability = Arc::new(Stability::new(self.me, &members));
        let own = self.journals.get_or_open(self.me)?;
        let last = own.last_header();
        self.ledger.restore(
            last.as_ref()
                .map(|h| (h.position, h.stamp, &h.vector, &h.seen)),
            &applied,
        );
        let here = Lsn(here.unsigned_abs());
        self.ledger.restored_to(here);
        let mut now = applied.clone();
        now.set(self.me, own.end());
        for set in schema::policies(&client, self.me, own.end()).await? {
            let policy = set.policy;
            // Where a policy stands in its stream is not known any more: before all that is here.
            let since = (!set.begun).then(|| now.clone());
            match policy.setting(set.origin) {
                Some(setting) => self.ledger.set_policy(setting, since),
                None => anyhow::bail!(
                    "the table {}.{} has the policy {}, which this release does not know; a newer one has to run here",
                    policy.schema,
                    policy.table,
                    policy.policy
                ),
            }
        }
        let began = Instant::now();
        let (read, looks) = replay::rebuild(replay::Start {
            client: &client,
            me: self.me,
            journals: &self.journals,
            ledger: &self.ledger,
            stability: &stability,
            applied: &applied,
            local_lsn: here,
            looked_at: self.looked().read(),
        })
        .await?;
        let left_out = schema::left_out(&client, &self.names, &applied).await?;
        self.ledger.has_left_out(&left_out);
        tracing::info!(
            transactions = read,
            took_ms = began.elapsed().as_millis(),
            "conflict index rebuilt"
        );
        let mut postgres = self.postgres.lock();
        postgres.connected = true;
        postgres.version = version;
        postgres.error = None;
        drop(postgres);
        Ok((stability, looks))
    }

    /// What people have decided: who is paused, what is skipped.
    pub(super) async fn read_decisions(
        &self,
        client: &tokio_postgres::Client,
    ) -> anyhow::Result<()> {
        let paused = schema::paused(client).await?;
        let skipped = schema::skipped(client).await?;
        for (node, control) in &self.controls {
            control.paused.send_replace(paused.contains(node));
            *control.skipped.lock() = skipped
                .iter()
                .filter(|p| p.origin == *node)
                .map(|p| p.lsn)
                .collect();
            control.kick.notify_one();
        }
        Ok(())
    }
}

/// A process that was killed leaves sessions that may still commit what it had sent. They end before
/// anybody asks what is applied.
async fn end_old_sessions(client: &tokio_postgres::Client) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let left = client
            .query(
                "select pg_terminate_backend(pid) from pg_stat_activity \
                 where datname = current_database() and usename = current_user \
                   and (application_name like 'everywrite replay %' or application_name = 'everywrite repair')",
                &[],
            )
            .await?;
        if left.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(
            began.elapsed() < OLD_SESSIONS,
            "{} replay sessions of an earlier process do not end; is another daemon running beside this server?",
            left.len()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn target(settings: &Settings) -> Target {
    let p = &settings.postgres;
    let mut target = Target::new(p.host.clone(), p.user.clone(), p.database.clone());
    target.port = p.port;
    target.password.clone_from(&p.password);
    target.tls = Tls {
        mode: match p.sslmode {
            SslMode::Disable => TlsMode::Disable,
            SslMode::Prefer => TlsMode::Prefer,
            SslMode::Require => TlsMode::Require,
            SslMode::VerifyCa => TlsMode::VerifyCa,
            SslMode::VerifyFull => TlsMode::VerifyFull,
        },
        ca_file: p.ca_file.clone(),
        certificate_file: p.certificate.clone(),
        key_file: p.key.clone(),
    };
    target
}

fn link_options(settings: &Settings) -> link::Options {
    link::Options {
        me: NodeId(settings.node.id),
        name: settings.node.name.clone(),
        cluster: settings.node.cluster.clone(),
        listen: settings.listen.link.to_string(),
        peers: settings
            .peers
            .iter()
            .map(|p| link::Peer {
                node: NodeId(p.id),
                name: p.name.clone(),
                address: p.address.to_string(),
            })
            .collect(),
        ca: settings.tls.ca.clone(),
        certificate: settings.tls.certificate.clone(),
        key: settings.tls.key.clone(),
        timing: link::Timing::default(),
        // The setting's bounds keep it within 32 bits.
        window_bytes: settings.link.window.bytes() as u32,
        compression: match settings.link.compression {
            everywrite_config::Compression::None => link::Compression::None,
            everywrite_config::Compression::Lz4 => link::Compression::Lz4,
            everywrite_config::Compression::Zstd => link::Compression::Zstd,
        },
        clock: link::Clock::default(),
    }
}
