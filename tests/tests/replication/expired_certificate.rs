//! A node's certificate expires: both sides say so, and everything goes on once it is renewed.

use std::path::Path;

use everywrite_tests::cluster::Cluster;
use everywrite_tests::wait;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};

/// A certificate for node `id` of the cluster whose authority is in `ca`, valid in 2020 only, and
/// its key. Made without the daemon's own code, so that what both read is the documented form.
fn expired(ca: &Path, id: u16) -> (String, String) {
    let read = |name: &str| std::fs::read_to_string(ca.join(name)).unwrap();
    let authority = KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), authority).unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let uri = format!("everywrite://demo/{id}");
    let uri = SanType::URI(uri.try_into().unwrap());
    params.subject_alt_names.push(uri);
    params.distinguished_name.push(DnType::CommonName, "c");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2020, 12, 31);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn is_told_at_both_sides_and_mended_by_a_new_one() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.expect_errors(&["certificate"]);
    let (certificate, key) = expired(&cluster.dir().join("ca"), 3);
    let c = &mut cluster.site_mut(2).node;
    c.stop().unwrap();
    let files = [("node.crt", certificate), ("node.key", key)];
    let mut valid = Vec::new();
    for (name, text) in files {
        let path = c.dir().join(name);
        valid.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
        std::fs::write(path, text).unwrap();
    }
    c.start().unwrap();
    for (teller, of) in [(2, 0), (0, 2)] {
        let of = cluster.site(of).node.id();
        let teller = &cluster.site(teller).node;
        wait::until("the peer's error to name it", wait::LIMIT, async || {
            let status = teller.status().await.map_err(|err| format!("{err:#}"))?;
            let peer = status.peers.iter().find(|peer| peer.node == of);
            let told = peer.and_then(|peer| peer.error.clone()).unwrap_or_default();
            if told.contains("expired") {
                Ok(())
            } else {
                Err(format!("it says {told:?}"))
            }
        })
        .await
        .unwrap();
    }
    let insert = "insert into items values (1, 0, 'meanwhile')";
    cluster.site(0).execute(insert).await.unwrap();

    let c = &mut cluster.site_mut(2).node;
    c.stop().unwrap();
    for (path, text) in valid {
        std::fs::write(path, text).unwrap();
    }
    c.start().unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 1);
    cluster.finish().unwrap();
}
