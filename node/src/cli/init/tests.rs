//! `init` into folders of its own, through the real argument parser.

use std::os::unix::fs::PermissionsExt as _;

use clap::{Command, FromArgMatches as _};

use super::*;

fn args(dir: &Path, more: &[&str]) -> Result<InitArgs, String> {
    let dir = dir.to_str().unwrap();
    let usual = ["init", "--dir", dir, "--cluster", "shop"];
    let command = InitArgs::augment_args(Command::new("init"));
    let matches = command
        .try_get_matches_from(usual.iter().chain(more))
        .map_err(|error| error.to_string())?;
    InitArgs::from_arg_matches(&matches).map_err(|error| error.to_string())
}

const FIRST: [&str; 6] = [
    "--node-id",
    "1",
    "--name",
    "amsterdam",
    "--postgres",
    "postgres://ew:geheim@/shop?host=/tmp/pg&port=5433",
];

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_first_node_makes_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("a");
    let more = [&FIRST[..], &["--peer", "id=2,name=berlin,address=b:7400"]].concat();
    let report = init(&args(&here, &more).unwrap()).unwrap();

    let settings = Settings::load(&here.join(SETTINGS)).unwrap();
    assert_eq!(settings.node.id, 1);
    assert_eq!(settings.node.cluster, "shop");
    assert_eq!(settings.postgres.host, "/tmp/pg");
    assert_eq!(settings.postgres.port, 5433);
    assert_eq!(
        settings.postgres.password.unwrap().expose_secret(),
        "geheim"
    );
    assert_eq!(settings.peers.len(), 1);
    assert_eq!(settings.tls.certificate, here.join(CERTIFICATE));

    let text = fs::read_to_string(here.join(SETTINGS)).unwrap();
    assert!(!text.contains("geheim"));
    assert!(!report.contains("geheim"));
    for private in [CA_KEY, KEY, PASSWORD] {
        assert_eq!(mode(&here.join(private)), 0o600, "{private}");
        assert!(report.contains(private));
    }
    assert!(report.contains("everywrite check --config"));
}

#[test]
fn the_second_node_takes_the_authority_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    init(&args(&a, &FIRST).unwrap()).unwrap();
    let ca_dir = ["--ca-dir", a.to_str().unwrap()];
    let second = [
        "--node-id",
        "2",
        "--name",
        "berlin",
        "--postgres",
        "postgres://ew@/shop",
    ];
    init(&args(&b, &[&second[..], &ca_dir].concat()).unwrap()).unwrap();
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    assert_eq!(read(a.join(CA_CERTIFICATE)), read(b.join(CA_CERTIFICATE)));
    assert!(!b.join(CA_KEY).exists());
    assert!(!b.join(PASSWORD).exists());
    assert_ne!(read(a.join(CERTIFICATE)), read(b.join(CERTIFICATE)));

    // The copy of the certificate alone issues nothing.
    let ca_dir = ["--ca-dir", b.to_str().unwrap()];
    let third = args(&dir.path().join("c"), &[&second[..], &ca_dir].concat()).unwrap();
    let error = init(&third).unwrap_err().to_string();
    assert!(error.contains("ca.crt and not ca.key"), "{error}");
    assert!(error.contains("--ca-dir"), "{error}");
    assert!(!dir.path().join("c").exists());
}

#[test]
fn nodes_may_share_a_folder_for_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let ca_dir = ["--ca-dir", ca.to_str().unwrap()];
    let report = init(&args(&dir.path().join("a"), &[&FIRST[..], &ca_dir].concat()).unwrap());
    assert!(report.unwrap().contains("made a new authority"));
    let report = init(&args(&dir.path().join("b"), &[&FIRST[..], &ca_dir].concat()).unwrap());
    assert!(!report.unwrap().contains("made a new authority"));
    assert!(dir.path().join("b").join(CA_CERTIFICATE).exists());
    assert!(!dir.path().join("b").join(CA_KEY).exists());
}

#[test]
fn nothing_is_overwritten_without_force() {
    let dir = tempfile::tempdir().unwrap();
    init(&args(dir.path(), &FIRST).unwrap()).unwrap();
    let before = fs::read_to_string(dir.path().join(KEY)).unwrap();
    let authority = fs::read_to_string(dir.path().join(CA_KEY)).unwrap();

    let error = init(&args(dir.path(), &FIRST).unwrap())
        .unwrap_err()
        .to_string();
    assert!(error.contains("everywrite.toml"), "{error}");
    assert!(error.contains("node.key"), "{error}");
    assert!(error.contains("--force"), "{error}");
    assert_eq!(fs::read_to_string(dir.path().join(KEY)).unwrap(), before);

    init(&args(dir.path(), &[&FIRST[..], &["--force"]].concat()).unwrap()).unwrap();
    assert_ne!(fs::read_to_string(dir.path().join(KEY)).unwrap(), before);
    let kept = fs::read_to_string(dir.path().join(CA_KEY)).unwrap();
    assert_eq!(kept, authority, "the authority is never replaced");
}

#[test]
fn wrong_values_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("a");
    let twice = ["--peer", "id=1,name=berlin,address=b:7400"];
    let error = init(&args(&here, &[&FIRST[..], &twice].concat()).unwrap()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("own id 1"), "{error}");
    assert!(!here.exists());

    for (peer, reason) in [
        ("id=2,name=b", "address is missing"),
        ("id=0,name=b,address=b:1", "1 to 65535"),
        ("id=2,name=b,address=b", "the port is missing"),
        ("id=2,nam=b,address=b:1", "`nam`"),
        ("berlin", "no value"),
    ] {
        let error = args(&here, &[&FIRST[..], &["--peer", peer]].concat()).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    let error = args(&here, &["--node-id", "0"]).unwrap_err();
    assert!(error.contains("0 is not in 1..=65535"), "{error}");
}
