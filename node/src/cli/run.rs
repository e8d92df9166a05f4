//! `everywrite run`: the daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use everywrite_config::{LogFormat, Settings};
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
        stop_signal().await;
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

async fn stop_signal() {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
}
