//! Makes the cluster's certificates: one small authority for each cluster, one certificate for
//! each node. PEM text in and out; nothing here touches files.

use std::time::{Duration, SystemTime};

use everywrite_conflict::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// An authority outlives its nodes: replacing it means touching every node.
const AUTHORITY_DAYS: u32 = 20 * 365;

/// A certificate or key that could not be made or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the certificate: {0}")]
pub struct Error(#[from] rcgen::Error);

/// Makes a cluster's certificate authority: (certificate, key), PEM.
///
/// # Errors
/// When the key cannot be made.
pub fn new_authority(cluster: &str) -> Result<(String, String), Error> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("Everywrite cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, AUTHORITY_DAYS);
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Issues a node's certificate: (certificate, key), PEM.
///
/// # Errors
/// When the authority cannot be read or the names cannot stand in a certificate.
pub fn issue(
    ca_cert_pem: &str,
    ca_key_pem: &str,
    cluster: &str,
    node: NodeId,
    name: &str,
    hosts: &[String],
    valid_days: u32,
) -> Result<(String, String), Error> {
    let issuer = Issuer::from_ca_cert_pem(ca_cert_pem, KeyPair::from_pem(ca_key_pem)?)?;
    let mut params = CertificateParams::new(hosts.to_vec())?;
    let uri = format!("everywrite://{cluster}/{}", node.0);
    params.subject_alt_names.push(SanType::URI(uri.try_into()?));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    validity(&mut params, valid_days);
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

/// Valid a day before it was made: a site whose clock is behind can use it at once.
fn validity(params: &mut CertificateParams, days: u32) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
}
