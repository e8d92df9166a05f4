//! Every complaint of the loader, word for word: `errors.txt` holds the files and what is said
//! about them. `EVERYWRITE_WRITE_ERRORS=1 cargo test -p everywrite-config` writes the answers
//! anew; read the difference before you keep it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use everywrite_config::{Error, Settings};

#[test]
fn every_complaint() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors.txt");
    let committed = fs::read_to_string(&path).unwrap();
    let mut answered = String::new();
    for case in committed.split("=== ").skip(1) {
        let (name, rest) = case.split_once('\n').unwrap();
        let (input, _) = rest.split_once("---\n").unwrap();
        let answer = match Settings::parse(input, Path::new("ew.toml")) {
            Ok(_) => panic!("{name}: accepted"),
            Err(error) => error.to_string(),
        };
        assert!(
            !answer.contains("geheim"),
            "{name} shows a secret:\n{answer}"
        );
        assert!(
            !answer.contains("314159265"),
            "{name} shows a secret:\n{answer}"
        );
        let _ = write!(answered, "=== {name}\n{input}---\n{answer}\n\n");
    }
    if std::env::var_os("EVERYWRITE_WRITE_ERRORS").is_some() {
        fs::write(&path, &answered).unwrap();
    } else {
        let differs = committed
            .lines()
            .zip(answered.lines())
            .find(|(a, b)| a != b);
        assert!(
            committed == answered,
            "tests/errors.txt differs: {differs:?}"
        );
    }
}

/// A file with this text below `[postgres]`, loaded with its secrets.
fn load(postgres: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ew.toml");
    let text = format!(
        "[node]\nid = 1\nname = \"a\"\ncluster = \"c\"\ndata-directory = \"d\"\n\
         [postgres]\ndatabase = \"shop\"\n{postgres}\n"
    );
    fs::write(&path, text).unwrap();
    let error = Settings::load(&path).unwrap_err().to_string();
    let error = error.replace(folder.path().to_str().unwrap(), "/folder");
    (folder, error)
}

#[test]
fn a_variable_that_is_not_set() {
    let (_folder, error) = load("password = \"${EVERYWRITE_NO_SUCH_VARIABLE}\"");
    assert_eq!(
        error,
        "error: the environment variable EVERYWRITE_NO_SUCH_VARIABLE is not set\n \
         --> /folder/ew.toml:8:12\n  \
         |\n\
         8 | password = [REDACTED]\n  \
         |            ^^^^^^^^^^\n  \
         = help: set it for the daemon (systemd: EnvironmentFile=), or use `password-file`"
    );
}

#[test]
fn a_password_file_that_is_not_there() {
    let (_folder, error) = load("password-file = \"pw\"");
    assert_eq!(
        error,
        "error: cannot read /folder/pw: No such file or directory (os error 2)\n \
         --> /folder/ew.toml:8:17\n  \
         |\n\
         8 | password-file = \"pw\"\n  \
         |                 ^^^^\n  \
         = help: the file must be readable by the user the daemon runs as; relative paths \
         start at the folder of the settings"
    );
}

#[test]
fn a_file_that_is_not_there() {
    let error = Settings::load(Path::new("/nowhere/ew.toml")).unwrap_err();
    assert!(matches!(error, Error::Read { .. }));
    assert_eq!(
        error.to_string(),
        "cannot read the settings from /nowhere/ew.toml: No such file or directory (os error 2)\n  \
         = help: name the file with --config FILE, or make one with `everywrite init`"
    );
}
