//! The reference page in the repository is the one that the structs give.

use std::fs;
use std::path::Path;

#[test]
fn the_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide/configuration.md");
    let page = everywrite_config::reference();
    if std::env::var_os("EVERYWRITE_WRITE_REFERENCE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &page).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "docs/guide/configuration.md is out of date; write it anew with\n  \
         EVERYWRITE_WRITE_REFERENCE=1 cargo test -p everywrite-config"
    );
}
