//! `postgres://` URLs, for the command line. libpq's form; what this crate has no setting for
//! is refused, not ignored.

use crate::{Error, Postgres, SslMode};

impl Postgres {
    /// The settings that a `postgres://user:password@host:port/database?…` URL stands for.
    ///
    /// Parameters: `host` (a folder for a unix socket), `port`, `user`, `password`, `dbname`,
    /// `sslmode`, `sslrootcert`, `sslcert`, `sslkey`. What it leaves out has the default of
    /// the file, the database that of libpq: the user's name.
    ///
    /// # Errors
    /// [`Error::Url`], which never shows the URL.
    pub fn from_url(url: &str) -> Result<Postgres, Error> {
        parse(url).map_err(Error::Url)
    }
}

fn parse(url: &str) -> Result<Postgres, String> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or("it does not start with postgres://")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (account, host) = authority.rsplit_once('@').unwrap_or(("", authority));

    let mut postgres = Postgres::default();
    let mut named = String::new();
    if !account.is_empty() {
        let (user, password) = match account.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (account, None),
        };
        if !user.is_empty() {
            postgres.user = decode(user)?;
        }
        if let Some(password) = password {
            postgres.password = Some(decode(password)?.into());
        }
    }
    set_host(&mut postgres, host)?;
    if !database.is_empty() {
        named = decode(database)?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("a parameter has no value")?;
        let value = decode(value)?;
        match name {
            "host" => postgres.host = value,
            "port" => postgres.port = port(&value)?,
            "user" => postgres.user = value,
            "password" => postgres.password = Some(value.into()),
            "dbname" => named = value,
            "sslmode" => {
                postgres.sslmode = SslMode::from_name(&value)
                    .ok_or("sslmode is not disable, prefer, require, verify-ca or verify-full")?;
            }
            "sslrootcert" => postgres.ca_file = Some(value.into()),
            "sslcert" => postgres.certificate = Some(value.into()),
            "sslkey" => postgres.key = Some(value.into()),
            other => return Err(format!("it has the unknown parameter `{other}`")),
        }
    }
    postgres.database = if named.is_empty() {
        postgres.user.clone()
    } else {
        named
    };
    Ok(postgres)
}

/// `host`, `host:port`, `[address]:port`, `%2Ffolder:port` or nothing.
fn set_host(postgres: &mut Postgres, text: &str) -> Result<(), String> {
    let (host, tail) = match text.strip_prefix('[') {
        Some(rest) => rest
            .split_once(']')
            .ok_or("a bracket around the address is missing")?,
        None => text
            .find(':')
            .map_or((text, ""), |colon| text.split_at(colon)),
    };
    if !host.is_empty() {
        postgres.host = decode(host)?;
    }
    match tail.strip_prefix(':') {
        Some("") | None if tail.len() <= 1 => Ok(()),
        Some(number) => {
            postgres.port = port(number)?;
            Ok(())
        }
        None => Err("there is something between the host and the port".to_owned()),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("the port is not a number from 1 to 65535".to_owned()),
        Ok(port) => Ok(port),
    }
}

/// Undoes percent encoding.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err("a % is not followed by two hexadecimal digits".to_owned());
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn all_forms() {
        let url =
            "postgres://ann:p%40ss@db.example:5433/shop?sslmode=verify-full&sslrootcert=ca.pem";
        let postgres = Postgres::from_url(url).unwrap();
        assert_eq!(postgres.host, "db.example");
        assert_eq!(postgres.port, 5433);
        assert_eq!(postgres.user, "ann");
        assert_eq!(postgres.database, "shop");
        assert_eq!(postgres.password.unwrap().expose_secret(), "p@ss");
        assert_eq!(postgres.sslmode, SslMode::VerifyFull);

        let socket = Postgres::from_url("postgresql:///shop?host=/tmp/x&port=7&user=bob").unwrap();
        assert_eq!(
            (&*socket.host, socket.port, &*socket.user, &*socket.database),
            ("/tmp/x", 7, "bob", "shop")
        );
        let encoded = Postgres::from_url("postgres://%2Ftmp%2Fx:9/shop").unwrap();
        assert_eq!((&*encoded.host, encoded.port), ("/tmp/x", 9));
        let six = Postgres::from_url("postgres://[::1]:5/shop").unwrap();
        assert_eq!((&*six.host, six.port), ("::1", 5));
        let bare = Postgres::from_url("postgres://ann@localhost").unwrap();
        assert_eq!((&*bare.database, bare.port), ("ann", 5432));
    }

    #[test]
    fn refusals_do_not_show_the_url() {
        for (url, reason) in [
            ("mysql://a:geheim@b/c", "postgres://"),
            ("postgres://a:geheim@b:0/c", "port"),
            ("postgres://a:geheim@b:x/c", "port"),
            ("postgres://a:geheim%@b/c", "hexadecimal"),
            ("postgres://a:geheim@[::1/c", "bracket"),
            ("postgres://a:geheim@b/c?fast=yes", "`fast`"),
            ("postgres://a:geheim@b/c?sslmode=allow", "sslmode"),
        ] {
            let error = Postgres::from_url(url).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}
