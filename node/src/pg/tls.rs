//! The TLS side of a connection: which certificates are trusted, and channel binding.
//!
//! Traps:
//! - Many servers run with a self-signed certificate that is also marked as an authority
//!   (`openssl req -x509` does that). The usual verifier refuses such a certificate for a server;
//!   libpq does not. If the server presents the very certificate that is in the CA file, it is
//!   trusted here too.
//! - In `prefer` and in `require` without a CA file nothing is verified, as in libpq: it protects
//!   from listeners, not from impostors.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::target::TlsMode;
use super::{Error, Target};

/// How TLS is to be done for this target; `None` if there is to be none.
pub(super) fn client_config(target: &Target) -> Result<Option<ClientConfig>, Error> {
    if target.is_unix() || target.tls.mode == TlsMode::Disable {
        return Ok(None);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(target, Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(settings("no protocol version is available"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match (&target.tls.certificate_file, &target.tls.key_file) {
        (Some(certificate), Some(key)) => builder
            .with_client_auth_cert(
                certificates("the certificate", certificate)?,
                private_key(key)?,
            )
            .map_err(settings("the certificate and its key do not fit together"))?,
        (None, None) => builder.with_no_client_auth(),
        _ => {
            return Err(Error::TlsSettings {
                problem: "a client certificate needs both its file and its key file".to_owned(),
                source: None,
            });
        }
    };
    Ok(Some(config))
}

/// The `tls-server-end-point` binding: a hash of the server's certificate, by the certificate's own
/// signature hash (RFC 5929). `None` if that hash is not known: login then goes without binding.
pub(super) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    use ring::digest;
    use x509_parser::oid_registry as oid;

    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let signature = &parsed.signature_algorithm.algorithm;
    let is_any = |oids: &[&oid::Oid<'_>]| oids.contains(&signature);
    let algorithm = if is_any(&[
        &oid::OID_PKCS1_SHA256WITHRSA,
        &oid::OID_SIG_ECDSA_WITH_SHA256,
        // MD5 and SHA-1 are replaced by SHA-256.
        &oid::OID_PKCS1_MD5WITHRSAENC,
        &oid::OID_PKCS1_SHA1WITHRSA,
    ]) {
        &digest::SHA256
    } else if is_any(&[
        &oid::OID_PKCS1_SHA384WITHRSA,
        &oid::OID_SIG_ECDSA_WITH_SHA384,
    ]) {
        &digest::SHA384
    } else if is_any(&[
        &oid::OID_PKCS1_SHA512WITHRSA,
        &oid::OID_SIG_ECDSA_WITH_SHA512,
    ]) {
        &digest::SHA512
    } else {
        return None;
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |source| Error::TlsFile {
        what,
        path: path.to_owned(),
        source,
    };
    let found = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if found.is_empty() {
        return Err(failed(rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| Error::TlsFile {
        what: "the private key",
        path: path.to_owned(),
        source,
    })
}

fn settings(problem: &'static str) -> impl FnOnce(rustls::Error) -> Error {
    move |source| Error::TlsSettings {
        problem: problem.to_owned(),
        source: Some(source),
    }
}

/// Verifies as much of the server's certificate as the mode demands.
#[derive(Debug)]
struct Verifier {
    /// Nothing is verified without it.
    trusted: Option<Trusted>,
    name: bool,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Trusted {
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(target: &Target, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let mode = target.tls.mode;
        let verifying = matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyFull);
        let trusted = match &target.tls.ca_file {
            Some(path) if verifying || mode == TlsMode::Require => Some(Trusted::load(path)?),
            None if verifying => {
                return Err(Error::TlsSettings {
                    problem: "a verifying mode needs the CA file that the server's certificate \
                              is signed with"
                        .to_owned(),
                    source: None,
                });
            }
            _ => None,
        };
        Ok(Verifier {
            trusted,
            name: mode == TlsMode::VerifyFull,
            provider,
        })
    }
}

impl Trusted {
    fn load(path: &Path) -> Result<Self, Error> {
        let certificates = certificates("the certificate authority", path)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots
                .add(certificate.clone())
                .map_err(settings("a certificate in the CA file is not usable"))?;
        }
        Ok(Trusted {
            roots,
            certificates,
        })
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        provider: &CryptoProvider,
    ) -> Result<(), rustls::Error> {
        if self.certificates.contains(certificate) {
            return in_force(certificate, now);
        }
        verify_server_cert_signed_by_trust_anchor(
            parsed,
            &self.roots,
            intermediates,
            now,
            provider.signature_verification_algorithms.all,
        )
    }
}

fn in_force(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trusted) = &self.trusted {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            trusted.verify(end_entity, &parsed, intermediates, now, &self.provider)?;
            if self.name {
                verify_server_name(&parsed, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
