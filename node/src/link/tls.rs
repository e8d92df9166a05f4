//! Mutual TLS 1.3: both sides show a certificate of the cluster's CA.
//!
//! TLS decides that the other side holds a certificate of this CA that is valid now; who it is
//! comes from the certificate's URI and is checked in `hello`, after the handshake, because a
//! refusal can be said in words there. Host names are therefore not compared. Sessions are not
//! resumed: a resumed one would skip the check of an expired certificate.
//!
//! Trap: under TLS 1.3 the dialler's handshake ends before the acceptor has judged the dialler's
//! certificate. The refusal arrives as an alert on the first read.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::error::Error;

/// Both roles' settings, made from the same three files.
pub(super) struct Configs {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
    /// This node's own certificate.
    pub(super) leaf: CertificateDer<'static>,
}

/// Reads the three PEM files.
pub(super) fn load(ca: &Path, certificate: &Path, key: &Path) -> Result<Configs, Error> {
    let mut roots = RootCertStore::empty();
    for der in certificates(ca, "CA certificate")? {
        roots
            .add(der)
            .map_err(|err| bad_pem(ca, "CA certificate", &err))?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(certificate, "certificate")?;
    let leaf = chain
        .first()
        .cloned()
        .ok_or_else(|| bad_pem(certificate, "certificate", &"the file has none"))?;
    let key_pem = read(key)?;
    let private =
        PrivateKeyDer::from_pem_slice(&key_pem).map_err(|err| bad_pem(key, "private key", &err))?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::TlsSetup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyNameOfOurCa {
            roots: Arc::clone(&roots),
            provider: Arc::clone(&provider),
        }))
        .with_client_auth_cert(chain.clone(), private.clone_key())
        .map_err(Error::TlsSetup)?;
    client.resumption = Resumption::disabled();

    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|err| bad_pem(ca, "CA certificate", &err))?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(Error::TlsSetup)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, private)
        .map_err(Error::TlsSetup)?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(Configs {
        client: Arc::new(client),
        server: Arc::new(server),
        leaf,
    })
}

/// What to put into SNI: helps proxies, decides nothing.
pub(super) fn server_name(address: &str) -> ServerName<'static> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned())
        .or_else(|_| ServerName::try_from("everywrite"))
        .unwrap_or_else(|_| ServerName::from(std::net::Ipv4Addr::LOCALHOST))
}

/// Says in words what a failed handshake means.
pub(super) fn explain(address: &str, err: io::Error) -> Error {
    let address = address.to_owned();
    let tls = err
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidMessage(_)) => Error::ClearText(address),
        Some(rustls::Error::InvalidCertificate(reason)) => Error::PeerCertificate {
            reason: explain_certificate(reason),
            address,
        },
        Some(rustls::Error::NoCertificatesPresented) => Error::PeerCertificate {
            reason: "is missing: only Everywrite nodes may use this port",
            address,
        },
        Some(rustls::Error::AlertReceived(alert)) => match explain_alert(*alert) {
            Some(reason) => Error::OurCertificateRefused { address, reason },
            None => Error::Tls {
                address,
                source: err,
            },
        },
        _ => Error::Tls {
            address,
            source: err,
        },
    }
}

/// Whether the error is a TLS alert that came late (see the trap above).
pub(super) fn is_tls(err: &io::Error) -> bool {
    err.get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

const EXPIRED: &str = "has expired: issue a new one (or correct the clocks)";
const FOREIGN: &str = "was not issued by this cluster's CA: issue one with the cluster's CA";

fn explain_certificate(reason: &CertificateError) -> &'static str {
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => EXPIRED,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet: correct the clocks"
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => FOREIGN,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not for client and server use: issue one for an Everywrite node"
        }
        _ => "is not acceptable: issue one with the cluster's CA",
    }
}

fn explain_alert(alert: AlertDescription) -> Option<&'static str> {
    match alert {
        AlertDescription::CertificateExpired => Some(
            "has expired or is not valid yet by its clock: issue a new one (or correct the clocks)",
        ),
        AlertDescription::UnknownCA | AlertDescription::DecryptError => Some(FOREIGN),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::CertificateRequired => {
            Some("it does not accept: issue one with the cluster's CA")
        }
        _ => None,
    }
}

/// Checks the chain, the dates and the signatures, and no name.
#[derive(Debug)]
struct AnyNameOfOurCa {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyNameOfOurCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read(path)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|err| bad_pem(path, what, &err))?;
    if found.is_empty() {
        return Err(bad_pem(path, what, &"the file has none"));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::ReadFile {
        path: path.display().to_string(),
        source,
    })
}

fn bad_pem(path: &Path, what: &'static str, reason: &dyn std::fmt::Display) -> Error {
    Error::BadPem {
        path: path.display().to_string(),
        what,
        reason: reason.to_string(),
    }
}
