//! The TLS settings in use, read again when their files change: a renewed certificate needs no
//! restart, the next connection uses it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tracing::{info, warn};

use super::error::Error;
use super::identity::Identity;
use super::options::Options;
use super::tls::{self, Configs};

/// How often the files may be looked at: connections that fail quickly must not read them each time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Hands out the current settings.
pub(super) struct Credentials {
    options: Arc<Options>,
    current: Mutex<Current>,
}

struct Current {
    configs: Arc<Configs>,
    written: [Option<SystemTime>; 3],
    looked: Instant,
}

impl Credentials {
    /// Reads the files; an error here is the configuration's.
    pub(super) fn load(options: Arc<Options>) -> Result<Credentials, Error> {
        let written = written(&options);
        let configs = load_checked(&options)?;
        Ok(Credentials {
            options,
            current: Mutex::new(Current {
                configs: Arc::new(configs),
                written,
                looked: Instant::now(),
            }),
        })
    }

    /// The settings for the next connection. Files that changed and cannot be used leave the
    /// former settings in place, with a warning. Reads small local files at most once a second.
    pub(super) fn current(&self) -> Arc<Configs> {
        let mut current = self.current.lock();
        if current.looked.elapsed() >= LOOK_EVERY {
            current.looked = Instant::now();
            let written = written(&self.options);
            if written != current.written {
                current.written = written;
                match load_checked(&self.options) {
                    Ok(configs) => {
                        info!("new certificate is in use for new connections");
                        current.configs = Arc::new(configs);
                    }
                    Err(err) => warn!(error = %err, "changed certificate files cannot be used"),
                }
            }
        }
        Arc::clone(&current.configs)
    }
}

fn load_checked(options: &Options) -> Result<Configs, Error> {
    let configs = tls::load(&options.ca, &options.certificate, &options.key)?;
    let (found, not_after) = Identity::of_certificate(&configs.leaf)?;
    let expected = Identity {
        cluster: options.cluster.clone(),
        node: options.me,
    };
    if found != expected {
        return Err(Error::NotOurCertificate {
            path: options.certificate.display().to_string(),
            found: found.to_string(),
            expected: expected.to_string(),
        });
    }
    if not_after < SystemTime::now() {
        warn!(path = %options.certificate.display(), "this node's certificate has expired");
    }
    Ok(configs)
}

fn written(options: &Options) -> [Option<SystemTime>; 3] {
    let of = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    [of(&options.ca), of(&options.certificate), of(&options.key)]
}
