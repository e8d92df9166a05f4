//! `everywrite`: parse, run, exit.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use everywrite_node::cli::{check, init, run, status, verify};

/// Active-active replication for stock PostgreSQL: write at every site, every site converges.
#[derive(Parser)]
#[command(name = "everywrite", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a node's settings, the cluster's authority and the node's certificate
    Init(Box<init::InitArgs>),
    /// Say what a server needs before it can take part
    Check(check::CheckArgs),
    /// Run the node
    Run(run::RunArgs),
    /// Show how a node is doing
    Status(status::StatusArgs),
    /// Compare tables between the sites, and repair them
    Verify(verify::VerifyArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Init(args) => init::run(*args),
        Command::Check(args) => check::run(args).await,
        Command::Run(args) => run::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Verify(args) => verify::run(args).await,
    }
}
