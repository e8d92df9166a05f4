//! Rules between fields, and relative paths made absolute. All complaints at once.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::diagnostic::{Diagnostic, Page};
use crate::section::Section;
use crate::shape::place;
use crate::{Journal, Listen, Peer, Postgres, Settings, SslMode};

/// Complaints about settings that contradict each other.
pub(crate) fn check(page: &Page<'_>, root: &DeTable<'_>, settings: &Settings) -> Vec<Diagnostic> {
    let mut rules = Rules {
        page,
        root,
        found: Vec::new(),
    };
    rules.peers(settings);
    rules.listen(settings);
    rules.postgres(&settings.postgres);
    rules.journal(&settings.journal);
    rules
        .found
        .sort_by_key(|diagnostic| (diagnostic.line(), diagnostic.column()));
    rules.found
}

struct Rules<'a> {
    page: &'a Page<'a>,
    root: &'a DeTable<'a>,
    found: Vec<Diagnostic>,
}

impl Rules<'_> {
    fn place(&self, section: &Section, nth: usize, key: &str) -> Range<usize> {
        place(self.root, section, nth, key)
    }

    fn complain(&mut self, span: Range<usize>, message: String, help: &str) {
        self.found.push(self.page.at(span, message).help(help));
    }

    fn peers(&mut self, settings: &Settings) {
        let node = &settings.node;
        for (nth, peer) in settings.peers.iter().enumerate() {
            if peer.id == node.id {
                self.complain(
                    self.place(&Peer::SECTION, nth, "id"),
                    format!(
                        "the peer `{}` has this node's own id {}",
                        peer.name, peer.id
                    ),
                    "list only the other nodes as [[peer]], each with the id of its own [node]",
                );
            }
            if peer.name == node.name {
                self.complain(
                    self.place(&Peer::SECTION, nth, "name"),
                    format!("a peer has this node's own name `{}`", peer.name),
                    "give every node of the cluster a name of its own",
                );
            }
            if peer.address == settings.listen.link && !peer.address.unspecified() {
                self.complain(
                    self.place(&Peer::SECTION, nth, "address"),
                    format!("the peer `{}` has the address this node listens at", peer.name),
                    "write the address of the other machine; here stands `link` of this node's [listen]",
                );
            } else if peer.address.unspecified() {
                self.complain(
                    self.place(&Peer::SECTION, nth, "address"),
                    format!("{} is no address to connect to", peer.address.host()),
                    "write the name or the address of the peer's machine",
                );
            }
            for earlier in settings.peers.iter().take(nth) {
                if earlier.id == peer.id {
                    self.complain(
                        self.place(&Peer::SECTION, nth, "id"),
                        format!(
                            "the peers `{}` and `{}` have the same id {}",
                            earlier.name, peer.name, peer.id
                        ),
                        "every node has an id of its own; look at the [node] of each",
                    );
                }
                if earlier.name == peer.name {
                    self.complain(
                        self.place(&Peer::SECTION, nth, "name"),
                        format!("two peers have the name `{}`", peer.name),
                        "give every node of the cluster a name of its own",
                    );
                }
                if earlier.address == peer.address {
                    self.complain(
                        self.place(&Peer::SECTION, nth, "address"),
                        format!(
                            "the peers `{}` and `{}` have the same address {}",
                            earlier.name, peer.name, peer.address
                        ),
                        "write to each peer the address of its own `link`",
                    );
                }
            }
        }
    }

    fn listen(&mut self, settings: &Settings) {
        let Listen { link, admin } = &settings.listen;
        let overlap = link.host() == admin.host() || link.unspecified() || admin.unspecified();
        if link.port() == admin.port() && link.port() != 0 && overlap {
            self.complain(
                self.place(&Listen::SECTION, 0, "admin"),
                format!("`link` ({link}) and `admin` ({admin}) take the same port"),
                "give one of them another port, such as 7400 for `link` and 7401 for `admin`",
            );
        }
    }

    fn postgres(&mut self, postgres: &Postgres) {
        let at = |rules: &Self, key: &str| rules.place(&Postgres::SECTION, 0, key);
        if postgres.password.is_some() && postgres.password_file.is_some() {
            self.complain(
                at(self, "password-file"),
                "both `password` and `password-file` are set".to_owned(),
                "keep one of them; a file with mode 0600 is the safer one",
            );
        }
        let verified = matches!(postgres.sslmode, SslMode::VerifyCa | SslMode::VerifyFull);
        if verified && postgres.ca_file.is_none() {
            self.complain(
                at(self, "sslmode"),
                format!("`sslmode` {} needs `ca-file`", postgres.sslmode),
                "name the PEM file of the authority that signed the server's certificate",
            );
        }
        if postgres.unix_socket() && (verified || postgres.sslmode == SslMode::Require) {
            self.complain(
                at(self, "sslmode"),
                format!(
                    "`sslmode` {} is not possible over a unix socket",
                    postgres.sslmode
                ),
                "leave `sslmode` out, or write a host name as `host`",
            );
        }
        if postgres.certificate.is_some() != postgres.key.is_some() {
            let (there, lacking) = if postgres.key.is_some() {
                ("key", "certificate")
            } else {
                ("certificate", "key")
            };
            self.complain(
                at(self, there),
                format!("`{there}` is set and `{lacking}` is not"),
                "a client certificate needs both `certificate` and `key`",
            );
        }
    }

    fn journal(&mut self, journal: &Journal) {
        if let Some(quota) = journal.quota
            && quota.bytes() / 4 < journal.segment_size.bytes()
        {
            self.complain(
                self.place(&Journal::SECTION, 0, "quota"),
                format!(
                    "`quota` ({quota}) is less than four times `segment-size` ({})",
                    journal.segment_size
                ),
                "space is given back in whole segments: raise `quota`, or make `segment-size` smaller",
            );
        }
    }
}

/// Takes relative paths from the folder of the file, so that the working directory of the
/// daemon does not matter.
pub(crate) fn resolve(settings: &mut Settings, folder: &Path) {
    let postgres = &mut settings.postgres;
    let paths: [Option<&mut PathBuf>; 8] = [
        Some(&mut settings.node.data_directory),
        Some(&mut settings.tls.ca),
        Some(&mut settings.tls.certificate),
        Some(&mut settings.tls.key),
        postgres.password_file.as_mut(),
        postgres.ca_file.as_mut(),
        postgres.certificate.as_mut(),
        postgres.key.as_mut(),
    ];
    for path in paths.into_iter().flatten() {
        // `join` keeps an absolute path as it is.
        *path = folder.join(&*path);
    }
}
