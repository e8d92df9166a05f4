//! `everywrite run`: the daemon.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use everywrite_config::{LogFormat, Settings};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::runtime::Node;
use crate::telemetry::logs;

/// Runs the node until it is told to stop (Ctrl-C or SIGTERM).
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  everywrite run --config /etc/everywrite/everywrite.toml")]
pub struct RunArgs {
    /// The node's settings
    #[arg(long, short, default_value = "everywrite.toml")]
    pub config: PathBuf,
}

/// Exit codes: 0 after a wanted end, 1 if the node cannot start, 2 for bad settings.
pub async fn run(args: RunArgs) -> ExitCode {
    // Before anything else: who asks a daemon to stop that has hardly begun gets exit code 0 as well.
    let asked_to_stop = stop_signal();
    let settings = match Settings::load(&args.config) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let format = match settings.log.format {
        LogFormat::Text => logs::Format::Text,
        LogFormat::Json => logs::Format::Json,
    };
    if let Err(error) = logs::init(format, &settings.log.filter) {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let shutdown = CancellationToken::new();
    let asked = shutdown.clone();
    tokio::spawn(async move {
        asked_to_stop.await;
        tracing::info!("asked to stop");
        asked.cancel();
    });
    match Node::start(settings, shutdown.clone()).await {
        Ok(node) => {
            node.finished().await;
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let text = crate::capture::chain(error.as_ref());
            tracing::error!(error = %text, "the node cannot start");
            ExitCode::FAILURE
        }
    }
}

/// Watches for Ctrl-C and SIGTERM from now on; the future ends with the first of them.
fn stop_signal() -> impl Future<Output = ()> {
    let terminate = signal(SignalKind::terminate());
    let interrupt = signal(SignalKind::interrupt());
    async move {
        let come = async |signal: io::Result<Signal>| match signal {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        };
        tokio::select! {
            () = come(terminate) => {}
            () = come(interrupt) => {}
        }
    }
}
