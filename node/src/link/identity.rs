//! Who a certificate speaks for.
//!
//! A node's certificate names it in a subject alternative name of the kind URI:
//! `everywrite://<cluster>/<node id>`. Host names and addresses in it are for people and proxies;
//! only this URI decides whom a node is talking to.

use std::fmt;
use std::time::{Duration, SystemTime};

use everywrite_conflict::NodeId;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::Error;

const SCHEME: &str = "everywrite://";

/// The node that a certificate was issued for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The cluster's name.
    pub(super) cluster: String,
    /// The node's number in it.
    pub(super) node: NodeId,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.cluster, self.node)
    }
}

impl Identity {
    /// Reads the URI; `None` if it is not one of ours.
    pub(super) fn parse(uri: &str) -> Option<Identity> {
        let (cluster, node) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        let number: u16 = node.parse().ok()?;
        // One spelling only: "+7" and "07" are not 7.
        (is_cluster_name(cluster) && number > 0 && number.to_string() == node).then(|| Identity {
            cluster: cluster.to_owned(),
            node: NodeId(number),
        })
    }

    /// Reads a certificate as TLS delivers it. The signature is not checked here.
    pub(super) fn of_certificate(
        der: &CertificateDer<'_>,
    ) -> Result<(Identity, SystemTime), Error> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|err| Error::CertificateUnreadable(err.to_string()))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|err| Error::CertificateUnreadable(err.to_string()))?
            .map(|extension| &extension.value.general_names);
        let identity = names
            .into_iter()
            .flatten()
            .find_map(|name| match name {
                GeneralName::URI(uri) => Identity::parse(uri),
                _ => None,
            })
            .ok_or(Error::CertificateAnonymous)?;
        let not_after_s = certificate.validity().not_after.timestamp();
        let not_after =
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(not_after_s).unwrap_or(0));
        Ok((identity, not_after))
    }
}

/// Names that need no escaping in a URI, so that there is one spelling of each.
pub(super) fn is_cluster_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_round_trips_and_has_one_spelling() {
        let identity = Identity {
            cluster: "shop-eu".to_owned(),
            node: NodeId(7),
        };
        assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
        for wrong in [
            "everywrite://shop/0",
            "everywrite://shop/+7",
            "everywrite://shop/07",
            "everywrite://shop/65536",
            "everywrite:///7",
            "everywrite://a b/7",
            "everywrite://shop/7/x",
            "https://shop/7",
        ] {
            assert_eq!(Identity::parse(wrong), None, "{wrong}");
        }
    }
}
