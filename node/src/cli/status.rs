//! `everywrite status`: asks a running daemon how it is.
//!
//! `fetch` gets the status document over HTTP, [`render()`] makes it readable. The exit code says
//! the rest to scripts: 0 ready, 1 running but not ready, 2 not reachable.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::admin::http::DEFAULT_ADDRESS;
use crate::telemetry::Status;

mod error;
mod fetch;
mod render;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use render::render;

/// The settings file that is read when neither --config nor --admin is given and it is here.
const SETTINGS: &str = "everywrite.toml";

/// Changes flow.
const READY: u8 = 0;
/// The daemon runs, but something must be seen to.
const NOT_READY: u8 = 1;
/// No daemon answers.
const UNREACHABLE: u8 = 2;

/// Shows how a running node is: positions, lag, rates, links, conflicts.
#[derive(Args, Clone, Debug, Default)]
pub struct StatusArgs {
    /// The node's settings file, for its admin address [default: everywrite.toml, if it is here]
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    pub config: Option<PathBuf>,
    /// The node's admin address, as `http://host:port` or `host:port`
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    /// Print the status document as it is, for programs
    #[arg(long)]
    pub json: bool,
    /// Show it again every so many seconds
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    pub watch: Option<u64>,
}

/// Runs the command. The exit code is 0 when the node is ready, 1 when it is not, 2 when it
/// cannot be reached.
pub async fn run(args: StatusArgs) -> ExitCode {
    let address = match address(&args) {
        Ok(address) => address,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(UNREACHABLE);
        }
    };
    let code = match args.watch {
        None => once(&address, args.json).await,
        Some(seconds) => watch(&address, args.json, Duration::from_secs(seconds)).await,
    };
    ExitCode::from(code)
}

async fn once(address: &str, json: bool) -> u8 {
    match show(address, json).await {
        Ok((text, code)) => {
            print(&text);
            code
        }
        Err(error) => {
            eprintln!("error: {error}");
            UNREACHABLE
        }
    }
}

/// Shows it until Ctrl-C; the code is that of the last answer.
async fn watch(address: &str, json: bool, every: Duration) -> u8 {
    let redraw = !json && std::io::stdout().is_terminal();
    let mut code = UNREACHABLE;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = tokio::signal::ctrl_c() => return code,
        }
        let text;
        (text, code) = match show(address, json).await {
            Ok(shown) => shown,
            // A node that restarts comes back: go on asking.
            Err(error) => (format!("error: {error}\n"), UNREACHABLE),
        };
        if redraw {
            print(&in_place(&text));
        } else {
            print(&text);
        }
    }
}

/// Draws over what was there, line by line, without a blank screen in between.
fn in_place(text: &str) -> String {
    let mut drawn = String::from("\x1b[H");
    for line in text.lines() {
        drawn.push_str(line);
        drawn.push_str("\x1b[K\n");
    }
    drawn.push_str("\x1b[J");
    drawn
}

async fn show(address: &str, json: bool) -> Result<(String, u8), Error> {
    let body = fetch::get(address, "/v1/status").await?;
    let not_a_status = |source| Error::NotStatus {
        address: address.to_owned(),
        source,
    };
    let status: Status = serde_json::from_slice(&body).map_err(not_a_status)?;
    let code = if status.ready { READY } else { NOT_READY };
    if !json {
        return Ok((render(&status), code));
    }
    // As a document of its own, so that fields this program does not know stay in it.
    let document: serde_json::Value = serde_json::from_slice(&body).map_err(not_a_status)?;
    Ok((format!("{document:#}\n"), code))
}

/// A closed pipe (`| head`) is no reason to complain.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// `host:port` of the admin address.
fn address(args: &StatusArgs) -> Result<String, Error> {
    if let Some(url) = &args.admin {
        return fetch::address_of(url);
    }
    match &args.config {
        Some(file) => admin_address(file),
        None if Path::new(SETTINGS).exists() => admin_address(Path::new(SETTINGS)),
        None => Ok(DEFAULT_ADDRESS.to_owned()),
    }
}

/// Reads `[listen] admin` and nothing else: a mistake elsewhere in the file, or a secret that this
/// user may not read, is no reason not to show how the node is.
fn admin_address(file: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::Settings {
        file: file.to_owned(),
        source,
    })?;
    let settings: toml::Table = text.parse().map_err(|source| Error::Toml {
        file: file.to_owned(),
        source: Box::new(source),
    })?;
    let admin = settings
        .get("listen")
        .and_then(|listen| listen.get("admin"))
        .and_then(toml::Value::as_str)
        .unwrap_or(DEFAULT_ADDRESS);
    Ok(fetch::dialable(admin))
}
