//! From a fresh socket to a server that is ready: startup message, proof of the password, settings.

use std::collections::HashMap;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::{
    md5_hash,
    sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256},
};
use postgres_protocol::message::frontend;
use secrecy::ExposeSecret;

use super::connection::CancelKey;
use super::frames::{Frame, Frames};
use super::outbox::Outbox;
use crate::pg::{Error, ServerError, Target};

/// What the server told during login.
pub(super) struct Welcome {
    pub(super) parameters: HashMap<String, String>,
    pub(super) cancel_key: Option<CancelKey>,
}

/// Channel binding data of the TLS connection.
pub(super) enum Binding {
    /// No TLS.
    Plain,
    /// TLS; the hash of the server's certificate, if its hash function is known.
    Tls(Option<Vec<u8>>),
}

pub(super) async fn log_in(
    frames: &mut Frames,
    outbox: &mut Outbox,
    target: &Target,
    extra: &[(&str, &str)],
    binding: Binding,
) -> Result<Welcome, Error> {
    send(outbox, startup(target, extra)?).await?;
    authenticate(frames, outbox, target, binding).await?;
    frames.logged_in();
    let mut welcome = Welcome {
        parameters: HashMap::new(),
        cancel_key: None,
    };
    loop {
        let mut frame = frames.next().await?;
        match frame.tag {
            b'S' => {
                if let Some((name, value)) = parameter_status(&frame.body) {
                    welcome.parameters.insert(name, value);
                }
            }
            b'K' if frame.body.len() >= 4 => {
                let process_id = frame.body.get_i32();
                welcome.cancel_key = Some(CancelKey {
                    process_id,
                    secret: frame.body,
                });
            }
            b'Z' => return Ok(welcome),
            other => refuse_or_ignore(other, &frame.body)?,
        }
    }
}

/// Name and value of a ParameterStatus.
pub(super) fn parameter_status(body: &[u8]) -> Option<(String, String)> {
    let mut parts = body.split(|byte| *byte == 0);
    let name = std::str::from_utf8(parts.next()?).ok()?;
    let value = std::str::from_utf8(parts.next()?).ok()?;
    Some((name.to_owned(), value.to_owned()))
}

fn startup(target: &Target, extra: &[(&str, &str)]) -> Result<BytesMut, Error> {
    // The first four make text output the same everywhere, whatever the server's settings are.
    let fixed = [
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("IntervalStyle", "postgres"),
        ("extra_float_digits", "3"),
        ("application_name", target.application_name.as_str()),
        ("user", target.user.as_str()),
        ("database", target.database.as_str()),
    ];
    let overridden = |name: &str| {
        extra
            .iter()
            .any(|(other, _)| other.eq_ignore_ascii_case(name))
    };
    let parameters = fixed
        .into_iter()
        .filter(|(name, _)| !overridden(name))
        .chain(extra.iter().copied());
    let mut out = BytesMut::new();
    frontend::startup_message(parameters, &mut out).map_err(|_| Error::ZeroByte {
        what: "a connection setting",
    })?;
    Ok(out)
}

async fn authenticate(
    frames: &mut Frames,
    outbox: &mut Outbox,
    target: &Target,
    binding: Binding,
) -> Result<(), Error> {
    loop {
        let mut frame = frames.next().await?;
        if frame.tag != b'R' {
            refuse_or_ignore(frame.tag, &frame.body)?;
            continue;
        }
        match authentication_kind(&mut frame)? {
            0 => return Ok(()),
            3 => {
                let password = password(target)?;
                send(outbox, password_message(password.as_bytes())?).await?;
            }
            5 => {
                let salt = frame
                    .body
                    .first_chunk::<4>()
                    .ok_or_else(|| Error::Protocol("MD5 login without salt".to_owned()))?;
                let password = password(target)?;
                let hash = md5_hash(target.user.as_bytes(), password.as_bytes(), *salt);
                send(outbox, password_message(hash.as_bytes())?).await?;
            }
            // It proves both sides; AuthenticationOk follows.
            10 => return scram(frames, outbox, target, binding, &frame.body).await,
            7 | 8 => return Err(unsupported("GSSAPI")),
            9 => return Err(unsupported("SSPI")),
            other => return Err(unsupported(&format!("number {other}"))),
        }
    }
}

async fn scram(
    frames: &mut Frames,
    outbox: &mut Outbox,
    target: &Target,
    binding: Binding,
    mechanisms: &[u8],
) -> Result<(), Error> {
    let offered = |name: &str| {
        mechanisms
            .split(|byte| *byte == 0)
            .any(|m| m == name.as_bytes())
    };
    let (mechanism, binding) = match binding {
        Binding::Tls(Some(hash)) if offered(SCRAM_SHA_256_PLUS) => (
            SCRAM_SHA_256_PLUS,
            ChannelBinding::tls_server_end_point(hash),
        ),
        _ if !offered(SCRAM_SHA_256) => return Err(unsupported("SASL without SCRAM-SHA-256")),
        // Says "I could have bound the channel": a server that offered it notices a man in between
        // who took the offer out.
        Binding::Tls(Some(_)) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        Binding::Tls(None) | Binding::Plain => (SCRAM_SHA_256, ChannelBinding::unsupported()),
    };
    let mut scram = ScramSha256::new(password(target)?.as_bytes(), binding);
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(mechanism, scram.message(), &mut out)
        .map_err(Error::io("logging in"))?;
    send(outbox, out).await?;

    let challenge = sasl_answer(frames, 11).await?;
    scram.update(&challenge).map_err(not_proven)?;
    let mut out = BytesMut::new();
    frontend::sasl_response(scram.message(), &mut out).map_err(Error::io("logging in"))?;
    send(outbox, out).await?;

    let proof = sasl_answer(frames, 12).await?;
    scram.finish(&proof).map_err(not_proven)?;
    sasl_answer(frames, 0).await.map(drop)
}

/// Waits for the next step of the exchange, and for no other.
async fn sasl_answer(frames: &mut Frames, expected: i32) -> Result<Bytes, Error> {
    loop {
        let mut frame = frames.next().await?;
        if frame.tag != b'R' {
            refuse_or_ignore(frame.tag, &frame.body)?;
            continue;
        }
        let kind = authentication_kind(&mut frame)?;
        if kind == expected {
            return Ok(frame.body);
        }
        return Err(Error::Protocol(format!(
            "login step {kind} where {expected} is due"
        )));
    }
}

fn authentication_kind(frame: &mut Frame) -> Result<i32, Error> {
    if frame.body.len() < 4 {
        return Err(Error::Protocol("an empty request to log in".to_owned()));
    }
    Ok(frame.body.get_i32())
}

fn password(target: &Target) -> Result<&str, Error> {
    target
        .password
        .as_ref()
        .map(ExposeSecret::expose_secret)
        .ok_or_else(|| {
            Error::Authentication(format!(
                "the server asks for the password of \"{}\" and none is configured",
                target.user
            ))
        })
}

fn password_message(password: &[u8]) -> Result<BytesMut, Error> {
    let mut out = BytesMut::new();
    frontend::password_message(password, &mut out).map_err(|_| Error::ZeroByte {
        what: "the password",
    })?;
    Ok(out)
}

fn unsupported(method: &str) -> Error {
    Error::Authentication(format!(
        "the server asks for the method {method}, which is not supported; let pg_hba.conf use \
         scram-sha-256, cert, peer or trust for this role"
    ))
}

fn not_proven(error: std::io::Error) -> Error {
    Error::Authentication(format!(
        "the server did not prove that it knows the password: {error}"
    ))
}

async fn send(outbox: &mut Outbox, bytes: BytesMut) -> Result<(), Error> {
    outbox.push(bytes);
    outbox.flush().await
}

/// An error ends the login; a notice does not; anything else does not belong here.
fn refuse_or_ignore(tag: u8, body: &[u8]) -> Result<(), Error> {
    match tag {
        b'E' => Err(ServerError::decode(body).into()),
        b'N' => {
            super::log_notice(body);
            Ok(())
        }
        // The server knows only an older minor version of the protocol than we asked for.
        b'v' => Ok(()),
        other => Err(Error::Protocol(format!(
            "message {:?} during login",
            char::from(other)
        ))),
    }
}
