//! What a person gets wrong is told in one clear line, with what to do; where trying again can help,
//! the daemon tries again.

use everywrite_tests::cluster::Plan;

const ROLE: &str = "create table items (id bigint primary key, n int, note text); \
    create role keeper superuser replication login password 'right'";
const HBA: &str = "local all postgres trust\nlocal all all scram-sha-256\n\
    local replication all scram-sha-256\n";

#[tokio::test]
async fn a_wrong_password_is_told_and_mended_without_a_restart() {
    let mut plan = Plan::with_schema(ROLE).sites(2);
    plan.server.hba = Some(HBA.to_owned());
    let mut cluster = plan.prepare().await.unwrap();
    cluster.expect_errors(&["password"]);
    for site in &mut cluster.sites {
        let set = |key: &str, value: &str| site.node.set_config("postgres", key, value);
        set("user", "\"keeper\"").unwrap();
        set("password", "\"wrong\"").unwrap();
        site.node.start().unwrap();
    }
    for site in &cluster.sites {
        let line = site.node.wait_for_log("password").await.unwrap();
        assert!(line.contains("keeper"), "{line}");
        assert!(!line.contains("wrong"), "a secret in the log: {line}");
        site.execute("alter role keeper password 'wrong'")
            .await
            .unwrap();
    }
    cluster.wait_ready().await.unwrap();
    cluster
        .site(0)
        .execute("insert into items values (1, 0, null)")
        .await
        .unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 1);
    cluster.finish().unwrap();
}

#[tokio::test]
async fn an_unknown_key_shows_line_caret_and_the_expected_ones() {
    let mut cluster = Plan::default().sites(1).prepare().await.unwrap();
    let node = &mut cluster.site_mut(0).node;
    node.set_config("postgres", "hots", "\"x\"").unwrap();
    node.start().unwrap();
    assert!(!node.ended().await.unwrap(), "it called that a success");
    let told = everywrite_tests::logs::lines(&node.log()).join("\n");
    for part in ["hots", "^", "host", "port", "everywrite.toml"] {
        assert!(told.contains(part), "no {part} in:\n{told}");
    }
}

#[tokio::test]
async fn a_server_without_logical_wal_is_told_what_to_set() {
    let plan = Plan::default().sites(1).set("wal_level", "replica");
    let mut cluster = plan.prepare().await.unwrap();
    let node = &mut cluster.site_mut(0).node;
    node.start().unwrap();
    let line = node.wait_for_log("wal_level").await.unwrap();
    assert!(line.contains("logical"), "{line}");
}

#[tokio::test]
async fn check_names_what_must_change() {
    let plan = Plan::with_schema("create table keyless (n int)").sites(1);
    let cluster = plan
        .set("track_commit_timestamp", "off")
        .prepare()
        .await
        .unwrap();
    let (good, told) = cluster.site(0).node.run(&["check"]).unwrap();
    assert!(!good, "{told}");
    for part in ["track_commit_timestamp", "keyless"] {
        assert!(told.contains(part), "no {part} in:\n{told}");
    }
}
