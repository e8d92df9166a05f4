//! How far in the own stream no row is still to be looked at again: kept in a small file, so that a
//! restart takes up the looks that were under way.
//!
//! One line of text, `everywrite looked-at 1 <lsn>`. Without the file, or with one that cannot be
//! read, everything in the own journal counts as recent.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use everywrite_conflict::Lsn;

const NAME: &str = "looked-at";
const HEAD: &str = "everywrite looked-at 1 ";

/// The file.
#[derive(Clone, Debug)]
pub struct LookedAt {
    path: PathBuf,
}

impl LookedAt {
    /// The file in the node's data directory.
    pub fn new(data_directory: &Path) -> Self {
        LookedAt {
            path: data_directory.join(NAME),
        }
    }

    /// What the file says.
    pub fn read(&self) -> Lsn {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let lsn = text.trim_end().strip_prefix(HEAD);
        lsn.and_then(|t| t.parse().ok()).unwrap_or(Lsn::ZERO)
    }

    /// Replaces the file. What a crash leaves is the old one or the new one; the old one only means
    /// more looks.
    pub fn write(&self, lsn: Lsn) -> std::io::Result<()> {
        let next = self.path.with_extension("next");
        let mut file = std::fs::File::create(&next)?;
        writeln!(file, "{HEAD}{lsn}")?;
        drop(file);
        std::fs::rename(&next, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_written_and_nothing_of_what_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        let looked = LookedAt::new(folder.path());
        assert_eq!(looked.read(), Lsn::ZERO);
        looked.write(Lsn(0x1_0000_00ab)).unwrap();
        assert_eq!(looked.read(), Lsn(0x1_0000_00ab));
        std::fs::write(folder.path().join(NAME), "everywrite look").unwrap();
        assert_eq!(looked.read(), Lsn::ZERO);
    }
}
