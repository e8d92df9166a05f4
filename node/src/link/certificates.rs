//! Makes and reads the cluster's certificates: one small CA per cluster, one certificate per node.
//!
//! Everything is PEM text in and out; nothing here touches files. The CA's key is needed only
//! to issue, so it may live far from the nodes.

use std::time::{Duration, SystemTime};

use everywrite_conflict::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::error::Error;
use super::identity::{Identity, is_cluster_name};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A cluster's CA outlives its nodes: replacing it means touching every node.
const AUTHORITY_DAYS: u32 = 20 * 365;
/// Valid a day before it was made, so that a site whose clock is behind can use it at once.
const CLOCK_SLACK: Duration = DAY;

/// What a node's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The cluster's name.
    pub cluster: String,
    /// The node's number.
    pub node: NodeId,
    /// When it ends to be valid.
    pub not_after: SystemTime,
}

/// Makes a cluster's certificate authority: (certificate, key), PEM.
pub fn new_authority(cluster: &str) -> Result<(String, String), Error> {
    if !is_cluster_name(cluster) {
        return Err(Error::ClusterName(cluster.to_owned()));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(&format!("Everywrite cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SLACK).into();
    params.not_after = (now + DAY * AUTHORITY_DAYS).into();
    let key = KeyPair::generate().map_err(failed("make the CA's key"))?;
    let certificate = params
        .self_signed(&key)
        .map_err(failed("sign the CA's certificate"))?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Issues a node's certificate: (certificate, key), PEM. `hosts` are host names and addresses
/// under which the node is dialled; they are informative.
pub fn issue(
    ca_cert_pem: &str,
    ca_key_pem: &str,
    cluster: &str,
    node: NodeId,
    name: &str,
    hosts: &[String],
    valid_days: u32,
) -> Result<(String, String), Error> {
    let now = SystemTime::now();
    let valid = (now - CLOCK_SLACK, now + DAY * valid_days);
    issue_for(ca_cert_pem, ca_key_pem, cluster, node, name, hosts, valid)
}

pub(super) fn issue_for(
    ca_cert_pem: &str,
    ca_key_pem: &str,
    cluster: &str,
    node: NodeId,
    name: &str,
    hosts: &[String],
    valid: (SystemTime, SystemTime),
) -> Result<(String, String), Error> {
    if !is_cluster_name(cluster) {
        return Err(Error::ClusterName(cluster.to_owned()));
    }
    if node.0 == 0 {
        return Err(Error::NodeNumber);
    }
    let ca_key = KeyPair::from_pem(ca_key_pem).map_err(failed("read the CA's key"))?;
    let issuer = Issuer::from_ca_cert_pem(ca_cert_pem, ca_key)
        .map_err(failed("read the CA's certificate"))?;
    let mut params =
        CertificateParams::new(hosts.to_vec()).map_err(failed("use the node's host names"))?;
    let uri = Identity {
        cluster: cluster.to_owned(),
        node,
    }
    .to_string();
    params.subject_alt_names.push(SanType::URI(
        uri.try_into().map_err(failed("write the node's URI"))?,
    ));
    params.distinguished_name = distinguished_name(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Every node is client and server.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.not_before = valid.0.into();
    params.not_after = valid.1.into();
    let key = KeyPair::generate().map_err(failed("make the node's key"))?;
    let certificate = params
        .signed_by(&key, &issuer)
        .map_err(failed("sign the node's certificate"))?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Reads a node's certificate. Its signature is not checked.
pub fn inspect(cert_pem: &str) -> Result<Inspection, Error> {
    let der =
        CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|err| Error::Certificate {
            operation: "read the certificate",
            reason: err.to_string(),
        })?;
    let (identity, not_after) = Identity::of_certificate(&der)?;
    Ok(Inspection {
        cluster: identity.cluster,
        node: identity.node,
        not_after,
    })
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn failed(operation: &'static str) -> impl Fn(rcgen::Error) -> Error {
    move |err| Error::Certificate {
        operation,
        reason: err.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issued_certificate_says_whose_it_is() {
        let (ca, ca_key) = new_authority("shop").unwrap();
        let hosts = ["db1.example".to_owned(), "10.0.0.1".to_owned()];
        let (cert, key) = issue(&ca, &ca_key, "shop", NodeId(7), "paris", &hosts, 30).unwrap();
        assert!(key.contains("PRIVATE KEY"));
        let seen = inspect(&cert).unwrap();
        assert_eq!((seen.cluster.as_str(), seen.node), ("shop", NodeId(7)));
        let left = seen.not_after.duration_since(SystemTime::now()).unwrap();
        assert!(left > DAY * 29 && left <= DAY * 30);
    }

    #[test]
    fn what_cannot_be_issued_is_refused_plainly() {
        let (ca, ca_key) = new_authority("shop").unwrap();
        let refused = |cluster: &str, node, ca: &str| {
            issue(ca, &ca_key, cluster, NodeId(node), "x", &[], 1)
                .unwrap_err()
                .to_string()
        };
        assert!(refused("a/b", 1, &ca).contains("cannot be a cluster's name"));
        assert!(refused("shop", 0, &ca).contains("between 1 and 65535"));
        assert!(refused("shop", 1, "nonsense").contains("read the CA's certificate"));
        assert!(inspect(&ca).is_err(), "a CA names no node");
        assert!(inspect("nonsense").is_err());
    }
}
