//! Login and TLS against real servers.

use crate::pg::pipeline::Session;
use crate::pg::sqlstate::Class;
use crate::pg::test_server::TestServer;
use crate::pg::wire::Connection;
use crate::pg::{Error, Target, TlsMode};

async fn ask(target: &Target, sql: &str) -> Result<String, Error> {
    let mut connection = Connection::connect(target, &[]).await?;
    let rows = connection.simple_query(sql).await?;
    let cell = rows[0][0].clone().unwrap();
    Ok(String::from_utf8(cell.to_vec()).unwrap())
}

fn with_tls(mut target: Target, mode: TlsMode, ca: Option<std::path::PathBuf>) -> Target {
    target.tls.mode = mode;
    target.tls.ca_file = ca;
    target
}

const IS_TLS: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

#[tokio::test]
async fn every_password_method_lets_the_right_password_in_and_no_other() {
    for server in TestServer::all() {
        for user in ["scram", "md5", "clear"] {
            for mode in [TlsMode::Disable, TlsMode::Require] {
                let right = with_tls(server.tcp(user, Some("secret")), mode, None);
                assert_eq!(ask(&right, "select current_user").await.unwrap(), user);

                let wrong = with_tls(server.tcp(user, Some("wrong")), mode, None);
                let error = ask(&wrong, "select 1").await.unwrap_err();
                assert_eq!(error.code(), Some("28P01"), "{user}: {error}");
                assert_eq!(error.class(), Class::Halt);
                assert!(!format!("{error:?}").contains("wrong\""));

                let none = with_tls(server.tcp(user, None), mode, None);
                let error = ask(&none, "select 1").await.unwrap_err();
                assert!(matches!(error, Error::Authentication(_)), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn tls_is_used_as_the_mode_says() {
    for server in TestServer::all() {
        let mode = |user, mode| with_tls(server.tcp(user, None), mode, None);
        let tls = |target| async move { ask(&target, IS_TLS).await };
        assert_eq!(tls(mode("postgres", TlsMode::Disable)).await.unwrap(), "f");
        assert_eq!(tls(mode("postgres", TlsMode::Prefer)).await.unwrap(), "t");
        assert_eq!(tls(mode("tls", TlsMode::Require)).await.unwrap(), "t");
        let refused = tls(mode("tls", TlsMode::Disable)).await.unwrap_err();
        assert_eq!(refused.code(), Some("28000"), "{refused}");
        assert_eq!(ask(&server.unix("postgres"), IS_TLS).await.unwrap(), "f");
    }
}

#[tokio::test]
async fn certificates_are_verified_as_the_mode_says() {
    for server in TestServer::all() {
        let (ca, other) = (Some(server.file("ca.crt")), Some(server.file("other.crt")));
        let target = |host: &str, mode, ca: &Option<_>| {
            let mut target = with_tls(server.tcp("tls", None), mode, ca.clone());
            target.host = host.to_owned();
            target
        };
        for mode in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
            assert_eq!(
                ask(&target("localhost", mode, &ca), IS_TLS).await.unwrap(),
                "t"
            );
            let error = ask(&target("localhost", mode, &other), IS_TLS)
                .await
                .unwrap_err();
            assert!(
                matches!(error, Error::TlsHandshake { .. }),
                "{mode:?}: {error}"
            );
        }
        // The certificate names localhost, not its address.
        ask(&target("127.0.0.1", TlsMode::VerifyCa, &ca), IS_TLS)
            .await
            .unwrap();
        let error = ask(&target("127.0.0.1", TlsMode::VerifyFull, &ca), IS_TLS)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::TlsHandshake { .. }), "{error}");
        // The server's own certificate may stand for an authority.
        let own = Some(server.file("server.crt"));
        ask(&target("localhost", TlsMode::VerifyFull, &own), IS_TLS)
            .await
            .unwrap();
        // Without a CA file there is nothing to verify against.
        let error = ask(&target("localhost", TlsMode::VerifyCa, &None), IS_TLS)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::TlsSettings { .. }), "{error}");
    }
}

/// The server would refuse a wrong hash, and a login without one where it offered the binding: so
/// the logins over TLS above were bound, if only there is a hash.
#[tokio::test]
async fn the_channel_can_be_bound_to_the_servers_certificate() {
    use rustls_pki_types::pem::PemObject;

    let Some(server) = TestServer::all().next() else {
        return;
    };
    let certificate =
        rustls_pki_types::CertificateDer::from_pem_file(server.file("server.crt")).unwrap();
    let hash = crate::pg::tls::server_end_point(&certificate).unwrap();
    assert_eq!(hash.len(), 32, "it is signed by ECDSA with SHA-256");
}

#[tokio::test]
async fn a_client_certificate_logs_in() {
    for server in TestServer::all() {
        let mut target = with_tls(server.tcp("cert", None), TlsMode::Require, None);
        assert_eq!(
            ask(&target, "select 1").await.unwrap_err().code(),
            Some("28000")
        );
        target.tls.certificate_file = Some(server.file("client.crt"));
        target.tls.key_file = Some(server.file("client.key"));
        assert_eq!(ask(&target, "select current_user").await.unwrap(), "cert");
        // tokio-postgres makes the same choice.
        let client = target.client().await.unwrap();
        let row = client
            .query_one("select current_user::text", &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, String>(0), "cert");
    }
}

#[tokio::test]
async fn catalog_clients_connect_everywhere() {
    for server in TestServer::all() {
        let targets = [
            server.unix("postgres"),
            with_tls(server.unix("postgres"), TlsMode::Require, None),
            with_tls(server.tcp("scram", Some("secret")), TlsMode::Disable, None),
            with_tls(server.tcp("scram", Some("secret")), TlsMode::Require, None),
        ];
        for target in targets {
            let client = target.named("catalog").client().await.unwrap();
            let row = client
                .query_one("show application_name", &[])
                .await
                .unwrap();
            assert_eq!(row.get::<_, String>(0), "catalog");
        }
    }
}

#[tokio::test]
async fn startup_settings_and_server_facts() {
    for server in TestServer::all() {
        let extra = [("session_replication_role", "replica"), ("timezone", "UTC")];
        let mut session = Session::connect(&server.unix("postgres"), &extra)
            .await
            .unwrap();
        let outcomes = session
            .query_simple("show session_replication_role; show DateStyle")
            .await;
        let outcomes = outcomes.unwrap();
        assert_eq!(outcomes[0].rows[0][0].as_deref(), Some(&b"replica"[..]));
        assert_eq!(outcomes[1].rows[0][0].as_deref(), Some(&b"ISO, MDY"[..]));
        assert_eq!(session.server_version(), server.version);
        assert!(session.process_id().unwrap() > 0);
        assert_eq!(session.parameter("TimeZone"), Some("UTC"));
    }
}

#[tokio::test]
async fn what_cannot_be_reached_says_where_and_is_retried() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut target = Target::new("127.0.0.1", "nobody", "nothing");
    target.port = port;
    let error = Connection::connect(&target, &[]).await.err().unwrap();
    assert!(
        error.to_string().contains(&format!("127.0.0.1:{port}")),
        "{error}"
    );
    assert_eq!(error.class(), Class::Retry);

    target.host = "/tmp/there is no such place".to_owned();
    let error = Connection::connect(&target, &[]).await.err().unwrap();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_is_silent_or_no_server_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut target = Target::new("127.0.0.1", "nobody", "nothing");
    target.port = listener.local_addr().unwrap().port();
    target.tls.mode = TlsMode::Disable;
    target.connect_timeout = std::time::Duration::from_millis(200);
    let error = Connection::connect(&target, &[]).await.err().unwrap();
    assert!(matches!(error, Error::ConnectTimeout { .. }), "{error}");

    let web = std::thread::spawn(move || {
        let mut sockets = Vec::new();
        for _ in 0..2 {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = std::io::Write::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n");
            sockets.push(socket);
        }
        sockets
    });
    let error = Connection::connect(&target, &[]).await.err().unwrap();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
    drop(web.join());
}

#[tokio::test]
async fn a_missing_database_is_told_with_all_fields() {
    for server in TestServer::all() {
        let error = Connection::connect(&server.unix("no_such_db"), &[])
            .await
            .err()
            .unwrap();
        let said = error.server().unwrap();
        assert_eq!(
            (said.severity.as_str(), said.code.as_str()),
            ("FATAL", "3D000")
        );
        assert!(said.message.contains("no_such_db"));
        assert!(said.file.is_some() && said.line.is_some() && said.routine.is_some());
        assert!(said.is_fatal());
        assert_eq!(error.class(), Class::Halt);
    }
}
