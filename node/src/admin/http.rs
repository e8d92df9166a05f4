//! The admin address: what a person, a load balancer and Prometheus ask a node.
//!
//! | path         | answer |
//! |--------------|--------|
//! | `/v1/status` | the status document, JSON |
//! | `/health`    | 200 while the process lives |
//! | `/ready`     | 200 when changes flow, otherwise 503; the body says what it waits for |
//! | `/metrics`   | Prometheus text format |
//!
//! Read only, no password: nothing here changes anything or shows a row. It still tells names,
//! addresses and load, so the default is the loopback address; whoever opens it to a network puts
//! a proxy or a firewall before it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::telemetry::Status;
use crate::telemetry::metrics::Metrics;

#[cfg(test)]
mod tests;

/// Where a node listens unless the configuration says otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:7401";

/// How long a request that is being answered may hold up the end of the daemon.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Gives the status of this moment; must not block.
pub type StatusProvider = Arc<dyn Fn() -> Status + Send + Sync>;

/// What the server needs.
#[derive(Clone)]
pub struct Options {
    /// `address:port`; port 0 takes a free one.
    pub address: String,
    /// Where the status comes from.
    pub status: StatusProvider,
    /// Where the numbers are.
    pub metrics: Metrics,
    /// Ends the server.
    pub shutdown: CancellationToken,
}

/// The running server.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Handle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for its end, which follows the shutdown token.
    pub async fn finished(self) {
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the admin server ended badly");
        }
    }
}

#[derive(Clone)]
struct Shared {
    status: StatusProvider,
    metrics: Metrics,
}

impl Options {
    /// Starts to listen; answers until the shutdown token says otherwise.
    ///
    /// # Errors
    /// The address is taken, or not one of this machine.
    pub async fn start(self) -> Result<Handle, Error> {
        let listen = |source| Error::Listen {
            address: self.address.clone(),
            source,
        };
        let listener = TcpListener::bind(&self.address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        if !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                "the admin address is open to the network and asks for no password"
            );
        }
        let router = router(Shared {
            status: self.status,
            metrics: self.metrics,
        });
        let task = tokio::spawn(serve(listener, router, self.shutdown));
        tracing::info!(%address, "admin address open");
        Ok(Handle { address, task })
    }
}

async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    let too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        outcome = served => if let Err(error) = outcome {
            tracing::warn!(%error, "the admin server stopped");
        },
        () = too_long => tracing::debug!("admin requests cut off at shutdown"),
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .with_state(shared)
}

async fn status(State(shared): State<Shared>) -> Json<Status> {
    Json((shared.status)())
}

async fn health() -> &'static str {
    "alive\n"
}

async fn ready(State(shared): State<Shared>) -> Response {
    let status = (shared.status)();
    let code = if status.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({ "ready": status.ready, "waiting_for": status.waiting_for });
    (code, Json(body)).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let text = shared.metrics.render(&(shared.status)());
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

async fn unknown() -> Response {
    let body = "not found; there are /v1/status, /health, /ready, /metrics\n";
    (StatusCode::NOT_FOUND, body).into_response()
}
