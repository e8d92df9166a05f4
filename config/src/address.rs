//! `host:port`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};

/// A host (name, IPv4 address, or IPv6 address in brackets) and a port.
///
/// Names are not looked up here; `Display` gives what `tokio::net` takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The host without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 means any free one, where one listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host stands for every interface of the machine.
    #[must_use]
    pub fn unspecified(&self) -> bool {
        matches!(self.host.as_str(), "0.0.0.0" | "::")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `:port` at the end.
    #[error("the port is missing")]
    NoPort,
    /// The port is no number up to 65535.
    #[error("the port is not a number from 0 to 65535")]
    Port,
    /// Nothing before the port.
    #[error("the host is missing")]
    NoHost,
    /// The host has characters that no host has.
    #[error("the host is not a name or an address (an IPv6 address stands in brackets)")]
    Host,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => {
                inner.parse::<Ipv6Addr>().map_err(|_| AddressError::Host)?;
                inner
            }
            None => host,
        };
        if host.is_empty() {
            return Err(AddressError::NoHost);
        }
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        if bracketed.is_none() && !host.chars().all(plain) {
            return Err(AddressError::Host);
        }
        let port = port.parse().map_err(|_| AddressError::Port)?;
        Ok(Address {
            host: host.to_owned(),
            port,
        })
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        for text in ["0.0.0.0:7400", "[::1]:7400", "berlin.example:1", "db_1:0"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("[::]:1".parse::<Address>().unwrap().host(), "::");
    }

    #[test]
    fn refuses_the_rest() {
        for (text, error) in [
            ("berlin", AddressError::NoPort),
            (":7400", AddressError::NoHost),
            ("berlin:", AddressError::Port),
            ("berlin:70000", AddressError::Port),
            ("::1:7400", AddressError::Host),
            ("[berlin]:7400", AddressError::Host),
            ("http://berlin:7400", AddressError::Host),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }
}
